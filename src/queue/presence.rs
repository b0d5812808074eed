//! Presence of workers. A worker that uses the broker reports its presence over the broker: it has no other credentials, and
//! access to the broker is the permission to work. An embedded worker writes to the database.

use std::collections::HashSet;

use chrono::NaiveDateTime;
use lapin::Connection;
use lapin::options::BasicAckOptions;
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::sea_query::OnConflict;
use sea_orm::{DbErr, EntityTrait};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tracing::debug;

use crate::database::Database;
use crate::entity::worker::{ActiveModel, Column, Entity};

use super::rabbitmq::declare_presence_queue;
use super::renewal::Ailing;
use super::server::{ANSWER, Broken, Server, consume, open_channel};

/// Message that a worker sends about itself every few seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// `host:process:random`
    pub name: String,
    /// `embedded`, `database` or `broker`.
    pub kind: String,
    pub queues: Vec<String>,
    pub concurrency: u32,
    pub version: String,
    /// UTC.
    pub started_at: NaiveDateTime,
    /// The worker is about to stop.
    #[serde(default)]
    pub is_stopping: bool,
}

/// Records the presence of a worker.
pub async fn note(database: &Database, presence: &Presence, now: NaiveDateTime) -> Result<(), DbErr> {
    let cut = |text: &str, most: usize| text.chars().take(most).collect::<String>();
    let row = ActiveModel {
        id: NotSet,
        name: Set(cut(&presence.name, 128)),
        kind: Set(cut(&presence.kind, 16)),
        queues: Set(cut(&presence.queues.join(", "), 4000)),
        concurrency: Set(i32::try_from(presence.concurrency).unwrap_or(i32::MAX)),
        version: Set(cut(&presence.version, 32)),
        // The clock of the worker's machine may be ahead.
        started_at: Set(presence.started_at.min(now)),
        seen_at: Set(now),
        stopped_at: Set(presence.is_stopping.then_some(now)),
    };
    let changed = [Column::Kind, Column::Queues, Column::Concurrency, Column::SeenAt, Column::StoppedAt];
    let transaction = database.begin_maintenance().await?;
    let insert = Entity::insert(row).on_conflict(OnConflict::column(Column::Name).update_columns(changed).to_owned());
    insert.exec_without_returning(&*transaction).await?;
    transaction.commit().await
}

impl Server {
    /// Records the presence messages of workers.
    pub(super) async fn note_workers(&self, connection: &Connection) -> Result<(), Broken> {
        let channel = open_channel(connection).await?;
        let name = self.names.workers();
        let reading = async {
            declare_presence_queue(&channel, &self.names).await?;
            consume(&channel, &name, "study governor workers").await
        };
        let reading = timeout(ANSWER, reading).await;
        let mut messages = reading.map_err(|_| Broken("timeout subscribing to worker messages".to_owned()))??;
        let mut known = HashSet::new();
        while let Some(delivery) = messages.next().await {
            let delivery = delivery?;
            match serde_json::from_slice::<Presence>(&delivery.data) {
                Ok(presence) => {
                    // A worker consumes all of its queues, including those without messages, so each of them is checked.
                    for queue in presence.queues.iter().filter(|queue| known.insert((*queue).clone())) {
                        self.state.ward.doubt(Ailing::Work(queue.clone()));
                    }
                    if let Err(error) = note(&self.database, &presence, self.clock.now()).await {
                        debug!(%error, "recording a worker failed; it reports again shortly");
                    }
                }
                Err(error) => debug!(%error, "invalid message from a worker"),
            }
            delivery.ack(BasicAckOptions::default()).await?;
        }
        Ok(())
    }
}
