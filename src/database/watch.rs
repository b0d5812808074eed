//! The shared state of the connections: from which moment they are trusted, and whether the database can be written.

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
    /// Why nothing can be written, since the last failed attempt.
    problem: Mutex<Option<Failure>>,
    /// Incremented with each commit of this process.
    changes: AtomicU64,
    /// The file of an SQLite database on disk.
    file: OnceLock<DatabaseFile>,
}

impl Watch {
    /// Whether a connection of this age may be used.
    pub(super) fn trusts(&self, age: Duration) -> bool {
        let Some(from) = *self.0.trusted_from.lock().unwrap_or_else(PoisonError::into_inner) else { return true };
        // The connection was opened at `now - age`.
        from.elapsed() >= age
    }

    /// Prevents all open connections from being used again: one of them is broken, or its transaction may still be
    /// open, and the driver does not report which.
    pub(super) fn distrust(&self) {
        *self.0.trusted_from.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Records an error of a statement or a commit.
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

    /// Sets the file that is checked from now on.
    pub(super) fn look_at(&self, file: DatabaseFile) {
        let _ = self.0.file.set(file);
    }

    /// # Errors
    /// If the file of the database was replaced: see [`Failure::Replaced`].
    pub(super) fn check_file(&self) -> Result<(), DbErr> {
        self.0.file.get().map_or(Ok(()), DatabaseFile::check)
    }

    /// Why nothing can be written, as far as is known.
    pub(super) fn problem(&self) -> Option<Failure> {
        *self.0.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a successful commit. A small change that succeeded says nothing about larger ones, so a full or failing
    /// disk remains recorded until [`Self::is_writable`].
    pub(super) fn committed(&self) {
        self.0.changes.fetch_add(1, Ordering::Release);
        // SQLite may have changed the file with the commit. The next transaction reports problems with the file.
        let _ = self.check_file();
        let mut problem = self.0.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if *problem == Some(Failure::ReadOnly) {
            *problem = None;
            info!("database writable again");
        }
    }

    /// Records that a test has successfully written to the database.
    pub(super) fn is_writable(&self) {
        if self.0.problem.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            info!("database writable again");
        }
    }

    /// See [`super::Database::change`].
    pub(super) fn changes(&self) -> u64 {
        self.0.changes.load(Ordering::Acquire)
    }

    /// Records that the outcome of a commit is unknown, so that totals are counted again.
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
