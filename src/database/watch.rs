//! What the program knows about its connections: from when on they are trusted, and whether the database can be written.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sea_orm::DbErr;
use tracing::{info, warn};

use super::failure::{Failure, is_unanswered};
use super::file::DatabaseFile;

/// Shared by all pools of a [`super::Database`]. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Connections that were opened before this moment are closed instead of being used again.
    trusted_from: Mutex<Option<Instant>>,
    /// Why nothing can be written, since the last attempt that failed.
    problem: Mutex<Option<Failure>>,
    /// Goes up with each commit of this process.
    changes: AtomicU64,
    /// Of an SQLite database on disk.
    file: OnceLock<DatabaseFile>,
}

impl Watch {
    /// Whether a connection of this age may be used.
    pub(super) fn trusts(&self, age: Duration) -> bool {
        let Some(from) = *self.0.trusted_from.lock().unwrap_or_else(PoisonError::into_inner) else { return true };
        // The connection was opened at `now - age`.
        from.elapsed() >= age
    }

    /// No connection that is open now is used again: one of them is broken, or its transaction may still be open, and the
    /// driver does not say which.
    pub(super) fn distrust(&self) {
        *self.0.trusted_from.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Notes an error of a statement or a commit.
    pub(super) fn note(&self, error: &DbErr) {
        let Some(failure) = Failure::of(error) else { return };
        if failure.ends_connection() || is_unanswered(error) {
            self.distrust();
        }
        if !failure.is_of_writing() {
            return;
        }
        let before = self.0.problem.lock().unwrap_or_else(PoisonError::into_inner).replace(failure);
        if before != Some(failure) {
            warn!(%error, "database not writable; reads and logins continue");
        }
    }

    /// From now on this file is looked at.
    pub(super) fn look_at(&self, file: DatabaseFile) {
        let _ = self.0.file.set(file);
    }

    /// # Errors
    /// When another file has taken the place of the database: see [`Failure::Replaced`].
    pub(super) fn check_file(&self) -> Result<(), DbErr> {
        self.0.file.get().map_or(Ok(()), DatabaseFile::check)
    }

    /// Why nothing can be written, as far as is known.
    pub(super) fn problem(&self) -> Option<Failure> {
        *self.0.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A commit has succeeded. That a small change found room says nothing about larger ones, so a disk that is full or fails stays
    /// noted until [`Self::is_writable`].
    pub(super) fn committed(&self) {
        self.0.changes.fetch_add(1, Ordering::Release);
        // SQLite may have changed the file with it. What is wrong with the file the next transaction says.
        let _ = self.check_file();
        let mut problem = self.0.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if *problem == Some(Failure::ReadOnly) {
            *problem = None;
            info!("database writable again");
        }
    }

    /// A test has shown that the database can be written.
    pub(super) fn is_writable(&self) {
        if self.0.problem.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            info!("database writable again");
        }
    }

    /// See [`super::Database::change`].
    pub(super) fn changes(&self) -> u64 {
        self.0.changes.load(Ordering::Acquire)
    }

    /// The outcome of a commit is not known: totals are counted again.
    pub(super) fn may_have_changed(&self) {
        self.0.changes.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e15_after_an_uncertain_commit_only_newer_connections_are_trusted() {
        let watch = Watch::default();
        assert!(watch.trusts(Duration::from_secs(100)));
        watch.distrust();
        assert!(!watch.trusts(Duration::from_secs(100)), "it was open already");
        std::thread::sleep(Duration::from_millis(2));
        assert!(watch.trusts(Duration::ZERO), "it was opened afterwards");
    }

    #[test]
    fn a_small_commit_does_not_end_a_full_disk() {
        let watch = Watch::default();
        watch.0.problem.lock().unwrap().replace(Failure::DiskFull);
        watch.committed();
        assert_eq!(watch.problem(), Some(Failure::DiskFull));
        watch.is_writable();
        assert_eq!(watch.problem(), None);
    }
}
