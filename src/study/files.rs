//! The files in the study's data folder that users upload and download.
//!
//! A file gets its name only when it is complete. Until then it is stored in the same folder under a name that lists omit.

use std::path::{Component, Path, PathBuf};

use chrono::{DateTime, NaiveDateTime};
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;

/// Suffix of the names of incomplete uploads.
const PART: &str = ".part";

/// Bytes that most file systems allow in a name, less some room for a suffix.
const LONGEST: usize = 200;

/// Reason why an operation on a file failed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("'{0}' is not a valid file name.")]
    Name(String),
    #[error("file '{0}' already exists.")]
    Exists(String),
    #[error("there is no file or folder '{0}'")]
    Missing(String),
    #[error("the file is larger than {}.", size(*.0))]
    TooLarge(u64),
    #[error("cannot write file: {0}")]
    Disk(#[from] std::io::Error),
}

/// A size such as `12.5 MB`; 1 MB has 1024 kB.
#[must_use]
pub fn size(bytes: u64) -> String {
    let mut value = bytes;
    let mut rest = 0;
    let mut units = ["B", "kB", "MB", "GB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    while value >= 1024 {
        let Some(next) = units.next() else { break };
        rest = value % 1024 * 10 / 1024;
        value /= 1024;
        unit = next;
    }
    if unit == "B" || value >= 100 { format!("{value} {unit}") } else { format!("{value}.{rest} {unit}") }
}

/// A file or a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub is_folder: bool,
    pub bytes: u64,
    pub changed: Option<NaiveDateTime>,
}

/// The data folder of the study.
#[derive(Debug, Clone)]
pub struct DataFolder {
    root: PathBuf,
    /// Maximum size of a file in bytes.
    largest: u64,
}

impl DataFolder {
    #[must_use]
    pub fn new(root: &Path, largest: u64) -> Self {
        Self { root: root.to_owned(), largest }
    }

    /// Resolves a path from a user. The result is always inside the folder, whatever dots and symbolic links the path has.
    async fn resolve(&self, path: &str) -> Result<PathBuf, FileError> {
        let missing = || FileError::Missing(path.to_owned());
        let relative = Path::new(path);
        let is_plain = |part: Component<'_>| match part {
            Component::Normal(name) => name.to_str().is_some_and(|name| !name.starts_with('.')),
            _ => false,
        };
        if path.contains(['\0', '\\']) || !relative.components().all(is_plain) {
            return Err(missing());
        }
        let root = match fs::canonicalize(&self.root).await {
            Ok(root) => root,
            // Nothing has been uploaded yet.
            Err(_) if path.is_empty() => return Ok(self.root.clone()),
            Err(_) => return Err(missing()),
        };
        let found = fs::canonicalize(root.join(relative)).await.map_err(|_| missing())?;
        if found.starts_with(&root) { Ok(found) } else { Err(missing()) }
    }

    /// The entries of a folder, folders first, then by name. A folder that does not exist yet is empty.
    ///
    /// # Errors
    /// [`FileError::Missing`].
    pub async fn list(&self, folder: &str) -> Result<Vec<Entry>, FileError> {
        let path = self.resolve(folder).await?;
        let mut entries = match fs::read_dir(&path).await {
            Ok(entries) => entries,
            Err(_) if folder.is_empty() => return Ok(Vec::new()),
            Err(_) => return Err(FileError::Missing(folder.to_owned())),
        };
        let mut found = Vec::new();
        while let Some(entry) = entries.next_entry().await? {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let Ok(about) = entry.metadata().await else { continue };
            if name.starts_with('.') || !(about.is_file() || about.is_dir()) {
                continue;
            }
            let changed = about.modified().ok().map(|time| DateTime::<chrono::Utc>::from(time).naive_utc());
            found.push(Entry { name, is_folder: about.is_dir(), bytes: about.len(), changed });
        }
        found.sort_by(|a, b| b.is_folder.cmp(&a.is_folder).then_with(|| a.name.cmp(&b.name)));
        Ok(found)
    }

    /// The path of a file to read.
    ///
    /// # Errors
    /// [`FileError::Missing`].
    pub async fn file(&self, path: &str) -> Result<PathBuf, FileError> {
        let found = self.resolve(path).await?;
        match fs::metadata(&found).await {
            Ok(about) if about.is_file() => Ok(found),
            _ => Err(FileError::Missing(path.to_owned())),
        }
    }

    /// Deletes uploads that have been incomplete for a week: the program was killed during them.
    async fn sweep(folder: &Path) -> Result<(), FileError> {
        const LONG: std::time::Duration = std::time::Duration::from_hours(7 * 24);
        let mut entries = fs::read_dir(folder).await?;
        while let Some(entry) = entries.next_entry().await? {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !(name.starts_with('.') && name.ends_with(PART)) {
                continue;
            }
            let changed = entry.metadata().await.and_then(|about| about.modified());
            if changed.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > LONG)) {
                let _ = fs::remove_file(entry.path()).await;
            }
        }
        Ok(())
    }

    /// Begins an upload into an existing folder; the root folder, which has an empty name, is created. The file is invisible until
    /// [`Arriving::finish`].
    ///
    /// # Errors
    /// [`FileError::Name`]; [`FileError::Missing`] for the folder; [`FileError::Exists`] unless it `replaces`.
    pub async fn begin(&self, folder: &str, name: &str, replaces: bool) -> Result<Arriving, FileError> {
        let name = safe_name(name).ok_or_else(|| FileError::Name(name.to_owned()))?;
        fs::create_dir_all(&self.root).await?;
        let folder = match self.resolve(folder).await? {
            found if fs::metadata(&found).await?.is_dir() => found,
            _ => return Err(FileError::Missing(folder.to_owned())),
        };
        Self::sweep(&folder).await?;
        let path = folder.join(&name);
        // Checked before the bytes arrive; `finish` checks again.
        if !replaces && fs::try_exists(&path).await? {
            return Err(FileError::Exists(name));
        }
        let part = folder.join(format!(".{}{PART}", uuid::Uuid::new_v4().simple()));
        let file = File::create_new(&part).await?;
        Ok(Arriving { name, path, part: Part(part), file, bytes: 0, largest: self.largest, replaces })
    }
}

/// An upload in progress; dropping it before its end deletes it.
#[derive(Debug)]
pub struct Arriving {
    /// The name of the complete file.
    pub name: String,
    path: PathBuf,
    part: Part,
    file: File,
    bytes: u64,
    largest: u64,
    replaces: bool,
}

#[derive(Debug)]
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        // After `finish` the file has another name, and this removes nothing.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Arriving {
    /// Appends the next bytes.
    ///
    /// # Errors
    /// [`FileError::TooLarge`], [`FileError::Disk`].
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.largest {
            return Err(FileError::TooLarge(self.largest));
        }
        Ok(self.file.write_all(bytes).await?)
    }

    /// Writes all bytes to the disk. Returns their number, and whether the file will replace another one.
    ///
    /// # Errors
    /// [`FileError::Disk`].
    pub async fn settle(&mut self) -> Result<(u64, bool), FileError> {
        self.file.flush().await?;
        self.file.sync_all().await?;
        Ok((self.bytes, self.replaces && fs::try_exists(&self.path).await?))
    }

    /// Gives the file its name, unless another file has got that name meanwhile.
    ///
    /// # Errors
    /// [`FileError::Exists`], [`FileError::Disk`].
    pub async fn finish(self) -> Result<(), FileError> {
        if self.replaces {
            return Ok(fs::rename(&self.part.0, &self.path).await?);
        }
        // A hard link fails if the name exists; renaming would overwrite.
        match fs::hard_link(&self.part.0, &self.path).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(FileError::Exists(self.name)),
            // The file system has no hard links, so the check in `begin` must do.
            Err(_) if !fs::try_exists(&self.path).await? => Ok(fs::rename(&self.part.0, &self.path).await?),
            Err(error) => Err(error.into()),
        }
    }
}

/// A name that is valid on every file system, without a path: letters and digits of any language and a few signs; other characters become
/// `_`. `None` if the name is empty or consists of dots.
#[must_use]
pub fn safe_name(given: &str) -> Option<String> {
    let last = given.rsplit(['/', '\\']).next().unwrap_or_default().trim();
    let is_plain = |c: char| c.is_alphanumeric() || " ._-+=@,()[]".contains(c);
    let mut name: String = last.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    while name.len() > LONGEST {
        // The extension is kept because it tells the type of the file.
        let middle = name.char_indices().nth(name.chars().count() / 2)?.0;
        name.remove(middle);
    }
    let name = name.trim_start_matches('.').trim().to_owned();
    (name.chars().any(char::is_alphanumeric)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_easy_to_read() {
        assert_eq!(size(12), "12 B");
        assert_eq!(size(1536), "1.5 kB");
        assert_eq!(size(500 << 20), "500 MB");
        assert_eq!(size(4 << 30), "4.0 GB");
        assert_eq!(size(5000 << 30), "5000 GB");
    }

    #[test]
    fn names_are_made_safe() {
        let name = |given: &str| safe_name(given).unwrap_or_default();
        assert_eq!(name("T1w.nii.gz"), "T1w.nii.gz");
        assert_eq!(name("../../etc/passwd"), "passwd");
        assert_eq!(name("C:\\data\\Über sicht.csv"), "Über sicht.csv");
        assert_eq!(name("a\"<b>\n;$(rm).txt"), "a__b____(rm).txt");
        assert_eq!(name(".bashrc"), "bashrc");
        for none in ["", "..", "/", ".", "a/", "__"] {
            assert_eq!(safe_name(none), None, "{none}");
        }
        let long = name(&format!("{}.nii.gz", "ü".repeat(300)));
        assert!(long.len() <= LONGEST && long.ends_with(".nii.gz"), "{long}");
    }

    #[tokio::test]
    async fn nothing_leads_out_and_nothing_is_lost() {
        let home = tempfile::tempdir().unwrap();
        let data = DataFolder::new(&home.path().join("data"), 10);
        assert!(data.list("").await.unwrap().is_empty());
        let mut one = data.begin("", "a.txt", false).await.unwrap();
        let mut other = data.begin("", "a.txt", false).await.unwrap();
        one.write(b"one").await.unwrap();
        other.write(b"other").await.unwrap();
        assert!(data.list("").await.unwrap().is_empty(), "not before it is whole");
        assert_eq!(one.settle().await.unwrap(), (3, false));
        one.finish().await.unwrap();
        assert!(matches!(other.finish().await, Err(FileError::Exists(_))), "of two the first");
        assert!(matches!(data.begin("", "a.txt", false).await, Err(FileError::Exists(_))));
        let mut again = data.begin("", "a.txt", true).await.unwrap();
        again.write(b"again").await.unwrap();
        assert_eq!(again.settle().await.unwrap(), (5, true));
        again.finish().await.unwrap();
        // The caller allows replacing, and no such file exists.
        assert_eq!(data.begin("", "new.txt", true).await.unwrap().settle().await.unwrap(), (0, false));
        assert_eq!(std::fs::read(data.file("a.txt").await.unwrap()).unwrap(), b"again");
        let mut large = data.begin("", "b.txt", false).await.unwrap();
        assert!(matches!(large.write(b"eleven byte").await, Err(FileError::TooLarge(10))));
        drop(large);
        assert_eq!(data.list("").await.unwrap().len(), 1);
        assert_eq!(std::fs::read_dir(home.path().join("data")).unwrap().count(), 1, "nothing is left over");
        let old = std::fs::File::create(home.path().join("data/.old.part")).unwrap();
        old.set_modified(std::time::SystemTime::now() - std::time::Duration::from_hours(200)).unwrap();
        std::fs::write(home.path().join("data/.new.part"), "x").unwrap();
        drop(data.begin("", "c.txt", false).await.unwrap());
        let left = |name: &str| home.path().join("data").join(name).exists();
        assert!(!left(".old.part") && left(".new.part"), "what was left behind goes, what comes stays");
        std::fs::write(home.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink(home.path().join("secret"), home.path().join("data/link")).unwrap();
        for path in ["../secret", "link", "/etc/passwd", "a.txt/../../secret", ".", "..", "", "no\0"] {
            assert!(data.file(path).await.is_err(), "{path}");
        }
        // Uploads go into existing folders only.
        std::fs::create_dir_all(home.path().join("data/visit 1/raw")).unwrap();
        std::os::unix::fs::symlink(home.path(), home.path().join("data/out")).unwrap();
        data.begin("visit 1/raw", "d.txt", false).await.unwrap().finish().await.unwrap();
        data.file("visit 1/raw/d.txt").await.unwrap();
        for folder in ["..", "out", "nowhere", "a.txt", "/tmp", "visit 1/../.."] {
            assert!(data.begin(folder, "e.txt", false).await.is_err(), "{folder}");
        }
    }
}
