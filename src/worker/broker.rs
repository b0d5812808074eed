//! Jobs from the broker: messages of the queues that a worker consumes.
//!
//! A worker reserves only as many messages as it has free places, and requeues even those when it stays full for a while: a
//! worker that is busy for eight hours must not hold messages that another worker could run.

use std::sync::Arc;
use std::time::Duration;

use lapin::Acker;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, BasicRejectOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_stream::{StreamExt, StreamMap};
use tracing::{debug, info, warn};

use crate::queue::{self, QueueNames, Ticket};

use super::intake::{Intake, Letter, Offer};

/// How a worker uses the broker.
#[derive(Clone)]
pub struct BrokerSettings {
    /// `amqp://…`; contains a password, so it is not shown.
    pub address: String,
    pub names: QueueNames,
    /// Names of the queues, as in `callback_arguments.queue`.
    pub queues: Vec<String>,
    /// Messages of each queue that may be reserved for this worker.
    pub at_once: u16,
    /// Shown on the broker's own pages.
    pub name: String,
}

/// A connection that is re-established when it breaks. Cheap to clone.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) settings: Arc<BrokerSettings>,
    connection: Arc<Mutex<(Option<Arc<Connection>>, u32)>>,
}

impl Line {
    /// A channel on an open connection; retries with a growing pause until there is one.
    pub(super) async fn channel(&self) -> Channel {
        loop {
            match self.try_channel().await {
                Ok(channel) => return channel,
                Err((why, failures)) => {
                    let pause = queue::pause_after(failures);
                    warn!("broker unavailable ({why}); retrying in {pause:?}");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn try_channel(&self) -> Result<Channel, (String, u32)> {
        let mut held = self.connection.lock().await;
        let (connection, failures) = &mut *held;
        let up = match connection.take().filter(|connection| connection.status().connected()) {
            Some(up) => up,
            None => match queue::connect(&self.settings.address, &self.settings.name).await {
                Ok(made) => {
                    info!("connected to the broker");
                    Arc::new(made)
                }
                Err(why) => {
                    *failures += 1;
                    return Err((why, *failures));
                }
            },
        };
        match timeout(Duration::from_secs(10), up.create_channel()).await {
            Ok(Ok(channel)) => {
                *failures = 0;
                *connection = Some(up);
                Ok(channel)
            }
            Ok(Err(error)) => {
                *failures += 1;
                Err((error.to_string(), *failures))
            }
            Err(_) => {
                *failures += 1;
                Err(("no response".to_owned(), *failures))
            }
        }
    }
}

/// Jobs from the broker, on one session at a time.
pub struct BrokerIntake {
    line: Line,
    session: Option<Session>,
}

/// The consumers of one channel.
struct Session {
    channel: Channel,
    consumers: StreamMap<usize, Consumer>,
}

impl BrokerIntake {
    #[must_use]
    pub fn new(settings: BrokerSettings) -> Self {
        Self { line: Line { settings: Arc::new(settings), connection: Arc::default() }, session: None }
    }

    /// For other messages on the same connection.
    pub(super) fn line(&self) -> Line {
        self.line.clone()
    }

    async fn open(&self) -> Result<Session, String> {
        let channel = self.line.channel().await;
        let consumers = soon(async {
            let settings = &self.line.settings;
            channel.basic_qos(settings.at_once, BasicQosOptions::default()).await?;
            for queue in &settings.queues {
                queue::declare_queue(&channel, &settings.names, queue).await?;
            }
            self.consume(&channel).await
        })
        .await?;
        Ok(Session { channel, consumers })
    }

    async fn consume(&self, channel: &Channel) -> Result<StreamMap<usize, Consumer>, lapin::Error> {
        let settings = &self.line.settings;
        let mut consumers = StreamMap::new();
        for (number, queue) in settings.queues.iter().enumerate() {
            let tag = format!("{} {number}", settings.name);
            let options = BasicConsumeOptions::default();
            let name = settings.names.work(queue);
            let consumer = channel.basic_consume(name.into(), tag.into(), options, FieldTable::default()).await?;
            consumers.insert(number, consumer);
        }
        Ok(consumers)
    }

    /// The session with its consumers; a new one if necessary.
    async fn session(&mut self) -> Result<&mut Session, String> {
        let session = match self.session.take() {
            Some(session) if !session.consumers.is_empty() => session,
            Some(Session { channel, .. }) if channel.status().connected() => {
                let consumers = soon(self.consume(&channel)).await?;
                Session { channel, consumers }
            }
            _ => self.open().await?,
        };
        Ok(self.session.insert(session))
    }

    /// The next message; `None` when the session has ended.
    async fn delivery(&mut self) -> Option<Delivery> {
        let session = match self.session().await {
            Ok(session) => session,
            Err(why) => {
                warn!("queues unavailable ({why}); retrying");
                tokio::time::sleep(Duration::from_secs(2)).await;
                return None;
            }
        };
        match session.consumers.next().await {
            Some((_, Ok(delivery))) => Some(delivery),
            Some((_, Err(error))) => {
                warn!(%error, "connection to the broker lost");
                self.session = None;
                None
            }
            None => {
                warn!("the broker cancelled the consumers");
                self.session = None;
                None
            }
        }
    }
}

/// Limits the wait: a consumer of a broken queue may never get a response.
async fn soon<T>(asking: impl Future<Output = Result<T, lapin::Error>>) -> Result<T, String> {
    match timeout(Duration::from_secs(30), asking).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("no response".to_owned()),
    }
}

impl Intake for BrokerIntake {
    type Letter = Message;

    async fn next(&mut self) -> Option<Offer<Message>> {
        let delivery = self.delivery().await?;
        let letter = Message { acker: delivery.acker };
        match serde_json::from_slice::<Ticket>(&delivery.data) {
            Ok(ticket) => Some(Offer { ticket, letter }),
            Err(error) => {
                warn!(%error, "invalid message");
                letter.undeliverable().await;
                None
            }
        }
    }

    async fn full(&mut self) {
        let Some(Session { channel, mut consumers }) = self.session.take() else { return };
        let handed_back = async {
            for consumer in consumers.values() {
                channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
            }
            // Messages that were sent before the broker received the cancellation.
            while let Some((_, Ok(delivery))) = consumers.next().await {
                delivery.nack(BasicNackOptions { requeue: true, ..BasicNackOptions::default() }).await?;
            }
            Ok::<(), lapin::Error>(())
        };
        match timeout(Duration::from_secs(5), handed_back).await {
            Ok(Ok(())) => {
                debug!("at capacity: returned messages to the queue");
                // The channel stays open: messages that were taken from it are acknowledged on it.
                self.session = Some(Session { channel: channel.clone(), consumers: StreamMap::new() });
            }
            Ok(Err(error)) => debug!(%error, "the broker requeues unacknowledged messages"),
            Err(_) => debug!("the broker does not respond; it will requeue unacknowledged messages"),
        }
    }
}

/// A received message.
pub struct Message {
    acker: Acker,
}

impl Letter for Message {
    async fn decided(self) {
        if let Err(error) = self.acker.ack(BasicAckOptions::default()).await {
            // It is delivered again, and the claim for it is refused.
            debug!(%error, "acknowledging a message failed");
        }
    }

    async fn undeliverable(self) {
        if let Err(error) = self.acker.reject(BasicRejectOptions { requeue: false }).await {
            debug!(%error, "rejecting a message failed");
        }
    }
}
