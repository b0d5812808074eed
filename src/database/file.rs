//! Detects that the file of an SQLite database was replaced.
//!
//! If a backup is copied or moved over the file of a running server, its connections use a mix of the old file, its log
//! and pages of both: writes succeed but are lost, and the database becomes malformed. SQLite does not detect this in
//! time, so each transaction that writes checks the file first. A replacement is remembered until the server is
//! restarted.

use std::fs::{File, Metadata};
use std::mem::ManuallyDrop;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sea_orm::DbErr;

/// Prefix of the error for a database whose file was replaced.
pub(super) const REPLACED: &str = "the database file was replaced or removed while the server was running";

/// The file of an SQLite database, as it was last seen.
#[derive(Debug)]
pub(super) struct DatabaseFile {
    path: PathBuf,
    /// Never closed: that would release all locks that SQLite holds on this file in this process.
    file: ManuallyDrop<File>,
    /// `None` if the file was replaced.
    seen: Mutex<Option<Seen>>,
}

/// The known state of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// Device and inode number of the file.
    identity: (u64, u64),
    length: u64,
    /// Time of the last change: seconds and nanoseconds.
    changed: (i64, i64),
    /// SQLite's change counter in the header of the file, which only increases. 0 for a file without a header.
    counter: u32,
}

impl Seen {
    fn new(metadata: &Metadata, counter: u32) -> Self {
        Self {
            identity: (metadata.dev(), metadata.ino()),
            length: metadata.len(),
            changed: (metadata.mtime(), metadata.mtime_nsec()),
            counter,
        }
    }

    /// Whether SQLite alone cannot have changed the file to `now`. Only `VACUUM` makes a file shorter, and it
    /// increments the counter.
    fn is_another(&self, now: &Self) -> bool {
        self.identity != now.identity
            || now.counter < self.counter
            || (now.length < self.length && now.counter == self.counter)
    }
}

impl DatabaseFile {
    /// For the file that the pool has opened. `None` if it cannot be read; then replacements are not detected.
    #[must_use]
    pub(super) fn new(path: &Path) -> Option<Self> {
        let file = ManuallyDrop::new(File::open(path).ok()?);
        let seen = Seen::new(&file.metadata().ok()?, counter(&file));
        Some(Self { path: path.to_owned(), file, seen: Mutex::new(Some(seen)) })
    }

    /// # Errors
    /// [`REPLACED`] if the file is not the one that was opened, and from then on for every call.
    pub(super) fn check(&self) -> Result<(), DbErr> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = *seen else { return Err(self.error()) };
        *seen = std::fs::metadata(&self.path).ok().and_then(|metadata| {
            let now = Seen::new(&metadata, before.counter);
            if now == before {
                return Some(before);
            }
            // SQLite changes the file itself only when it moves pages from its log into it.
            let now = Seen { counter: counter(&self.file), ..now };
            (!before.is_another(&now)).then_some(now)
        });
        if seen.is_none() { Err(self.error()) } else { Ok(()) }
    }

    fn error(&self) -> DbErr {
        DbErr::Custom(format!("{REPLACED} ({}): nothing is written; restart the server", self.path.display()))
    }
}

fn counter(file: &File) -> u32 {
    let mut bytes = [0; 4];
    match file.read_exact_at(&mut bytes, 24) {
        Ok(()) => u32::from_be_bytes(bytes),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a file with this counter and length.
    fn write(path: &Path, counter: u32, length: usize) {
        let mut bytes = vec![0; length];
        bytes[24..28].copy_from_slice(&counter.to_be_bytes());
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_file_that_sqlite_changed_is_the_same_and_another_one_is_not() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("study.db");
        let opened = |counter, length| {
            write(&path, counter, length);
            DatabaseFile::new(&path).unwrap()
        };
        let file = opened(7, 8192);
        file.check().unwrap();
        write(&path, 9, 12288);
        file.check().unwrap();
        // VACUUM.
        write(&path, 10, 4096);
        file.check().unwrap();
        // An older file, copied over it.
        write(&path, 9, 4096);
        assert!(file.check().unwrap_err().to_string().contains(REPLACED));
        write(&path, 12, 4096);
        file.check().unwrap_err();

        let file = opened(7, 8192);
        write(&path, 7, 4096);
        file.check().unwrap_err();
        let file = opened(7, 8192);
        write(&home.path().join("backup.db"), 7, 8192);
        std::fs::rename(home.path().join("backup.db"), &path).unwrap();
        file.check().unwrap_err();
        let file = opened(7, 8192);
        std::fs::remove_file(&path).unwrap();
        file.check().unwrap_err();
    }
}
