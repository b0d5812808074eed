//! In-memory sessions for the time in which the database cannot be written (a full disk, a standby server), so that
//! users can still log in and read. They are written to the database as soon as that is possible. A session that is
//! ended in that time is rejected immediately and deleted later.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::NaiveDateTime;
use sea_orm::{ActiveModelTrait, ColumnTrait, DbErr, EntityTrait, IntoActiveModel, QueryFilter};
use tracing::{info, warn};

use crate::clock::Clock;
use crate::database::{Database, is_unwritable};
use crate::entity::session::{Column, Entity, Model};

/// Maximum number of sessions, and of ended ones. Further logins are rejected.
const MOST: usize = 10_000;

/// Pause between two attempts to write them.
const PAUSE: Duration = Duration::from_secs(2);

/// Sessions kept in memory. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct KeptSessions(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// By their key in the table.
    rows: HashMap<String, Kept>,
    /// Keys of ended sessions, with the time at which they expire anyway.
    ended: HashMap<String, NaiveDateTime>,
    is_writing: bool,
}

#[derive(Debug, Clone)]
struct Kept {
    row: Model,
    /// Whether the table has an older version of the session. If that row is deleted, for example by an administrator,
    /// the session ends.
    is_in_table: bool,
}

impl KeptSessions {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a new or changed session in memory.
    ///
    /// # Errors
    /// `refused` if there are too many.
    pub(super) fn keep(&self, row: Model, is_in_table: bool, refused: DbErr) -> Result<(), DbErr> {
        let mut inner = self.inner();
        if inner.rows.len() >= MOST && !inner.rows.contains_key(&row.id) {
            return Err(refused);
        }
        let is_in_table = is_in_table || inner.rows.get(&row.id).is_some_and(|kept| kept.is_in_table);
        inner.rows.insert(row.id.clone(), Kept { row, is_in_table });
        Ok(())
    }

    /// Records that a session was ended; the record is needed until `until`.
    ///
    /// # Errors
    /// `refused` if there are too many.
    pub(super) fn end(&self, key: String, until: NaiveDateTime, refused: DbErr) -> Result<(), DbErr> {
        let mut inner = self.inner();
        if inner.ended.len() >= MOST {
            return Err(refused);
        }
        inner.ended.insert(key, until);
        Ok(())
    }

    /// Removes a session from memory. Returns whether it was only in memory, never in the table.
    pub(super) fn remove(&self, key: &str) -> bool {
        self.inner().rows.remove(key).is_some_and(|kept| !kept.is_in_table)
    }

    pub(super) fn is_ended(&self, key: &str) -> bool {
        self.inner().ended.contains_key(key)
    }

    /// Returns the session with this key, and whether the table has it too.
    pub(super) fn find(&self, key: &str) -> Option<(Model, bool)> {
        self.inner().rows.get(key).map(|kept| (kept.row.clone(), kept.is_in_table))
    }

    /// Starts a task that tries to write the sessions until all are written.
    pub(super) fn write_later(&self, database: &Database, clock: &Clock) {
        if std::mem::replace(&mut self.inner().is_writing, true) {
            return;
        }
        warn!("database not writable; keeping sessions in memory");
        let (kept, database, clock) = (self.clone(), database.clone(), clock.clone());
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(PAUSE).await;
                match kept.write(&database, clock.now()).await {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(error) if is_unwritable(&error) => {}
                    Err(error) => warn!(%error, "writing the sessions kept in memory failed; will retry"),
                }
            }
            info!("sessions are stored in the database again");
        });
    }

    /// Writes the sessions. Returns whether all are written.
    async fn write(&self, database: &Database, now: NaiveDateTime) -> Result<bool, DbErr> {
        let (rows, ended) = {
            let mut inner = self.inner();
            inner.rows.retain(|_, kept| kept.row.expires_at > now);
            inner.ended.retain(|_, until| *until > now);
            (inner.rows.clone(), inner.ended.clone())
        };
        let transaction = database.begin().await?;
        for kept in rows.values() {
            let row = kept.row.clone().into_active_model();
            if kept.is_in_table {
                let own = Column::Id.eq(&kept.row.id);
                Entity::update_many().set(row.reset_all()).filter(own).exec(&*transaction).await?;
            } else {
                Entity::insert(row).exec_without_returning(&*transaction).await?;
            }
        }
        for key in ended.keys() {
            Entity::delete_by_id(key.as_str()).exec(&*transaction).await?;
        }
        transaction.commit().await?;
        let mut inner = self.inner();
        for (key, written) in rows {
            // A session that was changed meanwhile remains in memory, and now exists in the table.
            match inner.rows.get_mut(&key) {
                Some(kept) if kept.row == written.row => drop(inner.rows.remove(&key)),
                Some(kept) => kept.is_in_table = true,
                // Ended while it was being written.
                None => drop(inner.ended.insert(key, written.row.expires_at)),
            }
        }
        inner.ended.retain(|key, _| !ended.contains_key(key));
        let is_empty = inner.rows.is_empty() && inner.ended.is_empty();
        inner.is_writing = !is_empty;
        Ok(is_empty)
    }
}
