//! Revisions on this machine. Each is in its own folder, which never changes:
//!
//! ```text
//! repository/lock               held by the process that fetches
//! repository/objects.git        the fetched objects
//! repository/revisions/COMMIT   the files of a revision
//! repository/COMMIT.lock        held, shared, by the processes that use it
//! repository/current            a link to the current revision
//! ```
//!
//! Servers and workers on one machine may share the folder.

use std::fs::{self, File, TryLockError};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Unused revisions that are kept besides the current one.
const KEPT: usize = 2;

/// The files of a commit. They stay on this machine while this value exists.
#[derive(Debug, Clone)]
pub struct Revision {
    /// The full hash.
    pub commit: String,
    /// The requested branch or tag; empty for a commit that another server named.
    pub reference: String,
    /// Commit time, with an offset from UTC (RFC 3339).
    pub committed_at: String,
    /// The study's folder in the checkout.
    pub folder: PathBuf,
    #[expect(dead_code, reason = "its lock keeps other processes from deleting the files")]
    pub(super) held: Arc<File>,
}

/// The folder `repository` of a project home.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    root: PathBuf,
}

impl Shelf {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn objects(&self) -> PathBuf {
        self.root.join("objects.git")
    }

    pub(super) fn revision(&self, commit: &str) -> PathBuf {
        self.root.join("revisions").join(commit)
    }

    /// Creates the folder if it is missing.
    pub(super) fn prepare(&self) -> Result<()> {
        fs::create_dir_all(self.root.join("revisions"))
    }

    /// Waits until no other process fetches into this folder. The lock ends when the returned file is dropped, or with the
    /// process.
    pub(super) async fn lock(&self, limit: Duration) -> Result<File> {
        let file = File::create(self.root.join("lock"))?;
        let began = tokio::time::Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if began.elapsed() > limit => {
                    return Err(Error::new(ErrorKind::TimedOut, "another process has been fetching for too long"));
                }
                Err(TryLockError::WouldBlock) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Protects a revision from deletion; `None` when it is not on this machine.
    pub(super) fn hold(&self, commit: &str) -> Result<Option<Arc<File>>> {
        let file = match File::create(self.root.join(format!("{commit}.lock"))) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // Waits for a process that is deleting it.
        file.lock_shared()?;
        Ok(self.revision(commit).is_dir().then(|| Arc::new(file)))
    }

    /// Removes lock files that a killed git left, which would block the next one. Requires the lock.
    pub(super) fn remove_locks_of_git(&self) {
        let objects = self.objects();
        let inner = ["HEAD.lock", "config.lock", "packed-refs.lock", "refs/project/head.lock", "gc.pid"];
        let paths = inner.map(|name| objects.join(name));
        for path in paths.iter().chain(&[self.root.join("index"), self.root.join("index.lock")]) {
            let _ = fs::remove_file(path);
        }
    }

    /// A new empty folder for a checkout. Requires the lock.
    pub(super) fn begin(&self, commit: &str) -> Result<PathBuf> {
        let folder = self.root.join("revisions").join(format!(".{commit}"));
        remove(&folder)?;
        fs::create_dir(&folder)?;
        Ok(folder)
    }

    /// Turns a complete checkout into a revision. Requires the lock.
    pub(super) fn finish(&self, checkout: &Path, commit: &str) -> Result<()> {
        // A power cut must not leave a revision with empty files.
        rustix::fs::syncfs(File::open(checkout)?)?;
        fs::rename(checkout, self.revision(commit))
    }

    /// The current commit, read from the link.
    pub(super) fn current(&self) -> Option<String> {
        let target = fs::read_link(self.root.join("current")).ok()?;
        target.file_name()?.to_str().map(str::to_owned)
    }

    /// Points the link to a revision atomically. Requires the lock.
    pub(super) fn use_revision(&self, commit: &str) -> Result<()> {
        if self.current().as_deref() == Some(commit) {
            return Ok(());
        }
        let next = self.root.join(".current");
        match fs::remove_file(&next) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        symlink(Path::new("revisions").join(commit), &next)?;
        fs::rename(&next, self.root.join("current"))
    }

    /// Deletes unused revisions except the newest ones. Requires the lock.
    pub(super) fn clean(&self) -> Result<()> {
        let current = self.current();
        let mut others: Vec<(SystemTime, String)> = Vec::new();
        for entry in self.root.join("revisions").read_dir()?.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with('.') {
                // Left by a process that was killed.
                remove(&entry.path())?;
            } else if current.as_deref() != Some(name.as_str()) {
                others.push((entry.metadata()?.modified()?, name));
            }
        }
        others.sort_unstable_by(|one, other| other.cmp(one));
        for (_, commit) in others.into_iter().skip(KEPT) {
            let file = File::create(self.root.join(format!("{commit}.lock")))?;
            if file.try_lock().is_ok() {
                // Renamed first: a killed process must not leave an incomplete folder under the revision's name.
                let away = self.root.join("revisions").join(format!(".{commit}"));
                fs::rename(self.revision(&commit), &away)?;
                remove(&away)?;
            }
        }
        Ok(())
    }
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The folder `relative` of a checkout; `None` when it is not a folder, or a link leads out of the checkout.
pub(super) fn inner_folder(checkout: &Path, relative: &Path) -> Option<PathBuf> {
    let root = checkout.canonicalize().ok()?;
    let folder = root.join(relative).canonicalize().ok()?;
    (folder.starts_with(&root) && folder.is_dir()).then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_used_is_not_deleted() {
        let home = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(&home.path().join("repository"));
        assert!(shelf.hold("a").unwrap().is_none());
        shelf.prepare().unwrap();
        let lock = shelf.lock(Duration::from_secs(1)).await.unwrap();
        assert_eq!(shelf.lock(Duration::from_millis(1)).await.unwrap_err().kind(), ErrorKind::TimedOut);
        let add = |commit: &str| {
            let folder = shelf.begin(commit).unwrap();
            fs::write(folder.join("file"), commit).unwrap();
            shelf.finish(&folder, commit).unwrap();
            let ago = SystemTime::now() - Duration::from_secs(u64::from(200 - commit.as_bytes()[0]));
            File::open(shelf.revision(commit)).unwrap().set_modified(ago).unwrap();
        };
        "abcdef".chars().for_each(|commit| add(&commit.to_string()));
        shelf.use_revision("a").unwrap();
        let held = shelf.hold("b").unwrap().unwrap();
        // As left by a process that was killed.
        shelf.begin("x").unwrap();
        shelf.clean().unwrap();
        let left = || {
            let entries = shelf.root.join("revisions").read_dir().unwrap().flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
            names.sort();
            names.concat()
        };
        assert_eq!(left(), "abef");
        assert_eq!(fs::read_to_string(shelf.root.join("current/file")).unwrap(), "a");
        drop(held);
        shelf.use_revision("f").unwrap();
        shelf.clean().unwrap();
        assert_eq!((left().as_str(), shelf.current().as_deref()), ("bef", Some("f")));
        drop(lock);
    }

    #[test]
    fn the_folder_of_the_study_is_inside_the_repository() {
        let home = tempfile::tempdir().unwrap();
        let checkout = home.path().join("checkout");
        fs::create_dir_all(checkout.join("a/b")).unwrap();
        fs::create_dir(home.path().join("outside")).unwrap();
        fs::write(checkout.join("file"), "").unwrap();
        symlink("a", checkout.join("inner")).unwrap();
        symlink("../outside", checkout.join("outer")).unwrap();
        let found = |relative: &str| inner_folder(&checkout, Path::new(relative)).is_some();
        assert!(found("") && found("a/b") && found("inner/b"));
        assert!(!found("outer") && !found("absent") && !found("file"));
    }
}
