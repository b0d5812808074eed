//! A disk that can be filled: a small file system, which only root can mount.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A file system of a few megabytes, unmounted when dropped.
pub struct SmallDisk {
    pub folder: PathBuf,
    _home: TempDir,
}

impl SmallDisk {
    /// `None` where mounting is not permitted.
    pub fn new(megabytes: u32) -> Option<Self> {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().to_owned();
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&folder).output();
        mounted.ok()?.status.success().then_some(Self { folder, _home: home })
    }

    /// Increases its size.
    pub fn grow(&self, megabytes: u32) {
        let size = format!("remount,size={megabytes}m");
        assert!(Command::new("mount").args(["-o", &size]).arg(&self.folder).status().unwrap().success());
    }

    /// Fills the disk until [`Self::free`].
    #[allow(dead_code, reason = "only the nights fill a disk")]
    pub fn fill(&self) {
        let mut filler = File::create(self.filler()).unwrap();
        for piece in [vec![0; 64 * 1024], vec![0; 512]] {
            while filler.write_all(&piece).is_ok() {}
        }
    }

    #[allow(dead_code, reason = "only the nights fill a disk")]
    pub fn free(&self) {
        std::fs::remove_file(self.filler()).ok();
    }

    #[allow(dead_code, reason = "only the nights fill a disk")]
    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }

    /// A folder on it for a tablespace of PostgreSQL.
    pub fn folder_of_postgres(&self) -> PathBuf {
        let folder = self.folder.join("tables");
        std::fs::create_dir(&folder).unwrap();
        for path in [&self.folder, &folder] {
            give_to_postgres(path);
        }
        folder
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is about to end may still have an open file.
        Command::new("umount").arg("-l").arg(&self.folder).status().ok();
    }
}

/// Changes the owner to the account of the database server, which refuses to run as root.
pub fn give_to_postgres(path: &Path) {
    assert!(Command::new("chown").arg("postgres").arg(path).status().unwrap().success());
}
