//! Checks whether the database can be read and, after a failed write, whether it can be written again.

use std::time::Duration;

use chrono::{NaiveDateTime, TimeDelta};
use sea_orm::ActiveValue::Set;
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter};
use tokio::time::timeout;

use crate::entity::session::{ActiveModel, Column, Entity};

use super::failure::Failure;
use super::{Database, is_unwritable};

/// Time limit of a health check. Orchestrators wait for a few seconds.
const PATIENCE: Duration = Duration::from_secs(3);

/// The test writes as much as the log of a run may contain (1 MiB), so that space for one small row is not taken for
/// the end of the problem. Each row fits a text column of MariaDB and consists of characters that do not compress.
const ROWS: usize = 18;
const ROW_BYTES: usize = 60_000;

/// Prefix of the keys of the rows that the test writes into the table of sessions and deletes immediately.
const TEST: &str = "test-of-writing-";

/// Why a server cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unready {
    #[error("cannot be reached")]
    Unreachable,
    #[error("its file was replaced while the server was running; restart the server")]
    Replaced,
    #[error("the disk is full")]
    DiskFull,
    #[error("the disk cannot be written")]
    DiskFailed,
    #[error("is read-only")]
    ReadOnly,
    #[error("cannot be written")]
    Unwritable,
}

impl Unready {
    fn of(failure: Failure) -> Self {
        match failure {
            Failure::DiskFull => Self::DiskFull,
            Failure::DiskFailed => Self::DiskFailed,
            Failure::ReadOnly => Self::ReadOnly,
            _ => Self::Unwritable,
        }
    }
}

impl Database {
    /// Checks that the database answers, and accepts changes as far as is known. After a failed write, writing is
    /// tested, so that the problem ends when the disk has space again, without a restart and without waiting for a
    /// request that writes.
    ///
    /// # Errors
    /// The reason why this server cannot work.
    pub async fn ready(&self, now: NaiveDateTime) -> Result<(), Unready> {
        if self.watch.check_file().is_err() {
            return Err(Unready::Replaced);
        }
        let ping = timeout(PATIENCE, self.health.execute_unprepared("SELECT 1")).await;
        match ping {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "the database does not respond");
                self.watch.note(&error);
                return Err(Unready::Unreachable);
            }
            Err(_) => return Err(Unready::Unreachable),
        }
        let Some(problem) = self.watch.problem() else { return Ok(()) };
        // One test at a time; other callers report the known state.
        let Ok(_testing) = self.testing.try_lock() else { return Err(Unready::of(problem)) };
        match timeout(PATIENCE, self.test_writing(now)).await {
            Ok(Ok(())) => {
                self.watch.is_writable();
                Ok(())
            }
            Ok(Err(error)) if is_unwritable(&error) => {
                Err(Unready::of(Failure::of(&error).filter(|failure| failure.is_of_writing()).unwrap_or(problem)))
            }
            _ => Err(Unready::of(problem)),
        }
    }

    /// Writes as much as a large report and deletes it again.
    async fn test_writing(&self, now: NaiveDateTime) -> Result<(), DbErr> {
        let name: u64 = rand::random();
        let rows = (0..ROWS).map(|number| ActiveModel {
            id: Set(format!("{TEST}{name:016x}-{number}")),
            data: Set(noise()),
            expires_at: Set(now - TimeDelta::days(1)),
            user_id: Set(None),
            created: Set(None),
            last_seen: Set(None),
            address: Set(None),
            agent: Set(None),
            remembered: Set(false),
        });
        let transaction = self.begin_maintenance().await?;
        Entity::insert_many(rows).exec_without_returning(&*transaction).await?;
        transaction.commit().await?;
        let transaction = self.begin_maintenance().await?;
        Entity::delete_many().filter(Column::Id.starts_with(TEST)).exec(&*transaction).await?;
        transaction.commit().await
    }
}

fn noise() -> String {
    let mut text = String::with_capacity(ROW_BYTES + 16);
    while text.len() < ROW_BYTES {
        text.push_str(&format!("{:016x}", rand::random::<u64>()));
    }
    text
}
