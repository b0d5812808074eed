//! Reports the presence of a worker: over the broker, or to the database that an embedded worker uses anyway.

use std::time::Duration;

use chrono::NaiveDateTime;
use lapin::options::BasicPublishOptions;
use lapin::protocol::BasicProperties;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::debug;

use crate::engine::Engine;
use crate::queue::{Presence, declare_presence_queue, note_presence};

use super::broker::{BrokerIntake, Line};

/// Interval of presence messages.
const EVERY: Duration = Duration::from_secs(10);

/// The presence message of a worker.
#[must_use]
pub fn presence(name: &str, kind: &str, queues: &[String], concurrency: usize, started_at: NaiveDateTime) -> Presence {
    Presence {
        name: name.to_owned(),
        kind: kind.to_owned(),
        queues: queues.to_vec(),
        concurrency: u32::try_from(concurrency).unwrap_or(u32::MAX),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at,
        is_stopping: false,
    }
}

/// Records the presence in the database, until the worker has stopped.
pub async fn note(engine: Engine, mut presence: Presence, mut ended: watch::Receiver<bool>) {
    loop {
        presence.is_stopping = *ended.borrow();
        if let Err(error) = note_presence(engine.database(), &presence, engine.clock().now()).await {
            debug!(%error, "recording the worker failed");
        }
        if presence.is_stopping {
            return;
        }
        let _ = timeout(EVERY, ended.wait_for(|ended| *ended)).await;
    }
}

/// Publishes the presence over the connection of the job source, until the worker has stopped.
pub fn say(
    intake: &BrokerIntake,
    presence: Presence,
    ended: watch::Receiver<bool>,
) -> impl Future<Output = ()> + Send + use<> {
    tell(intake.line(), presence, ended)
}

async fn tell(line: Line, mut presence: Presence, mut ended: watch::Receiver<bool>) {
    let mut channel = None;
    loop {
        presence.is_stopping = *ended.borrow();
        let said = async {
            let open = match channel.take() {
                Some(channel) => channel,
                None => {
                    let channel = line.channel().await;
                    declare_presence_queue(&channel, &line.settings.names).await?;
                    channel
                }
            };
            let body = serde_json::to_vec(&presence).unwrap_or_default();
            let options = BasicPublishOptions::default();
            let queue = line.settings.names.workers();
            open.basic_publish("".into(), queue.into(), options, &body, BasicProperties::default()).await?;
            Ok::<_, lapin::Error>(open)
        };
        match timeout(EVERY, said).await {
            Ok(Ok(open)) => channel = Some(open),
            Ok(Err(error)) => debug!(%error, "announcing the worker failed"),
            Err(_) => debug!("announcing the worker failed: the broker does not respond"),
        }
        if presence.is_stopping {
            return;
        }
        let _ = timeout(EVERY, ended.wait_for(|ended| *ended)).await;
    }
}
