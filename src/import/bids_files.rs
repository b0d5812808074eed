//! Optional files of a BIDS data set. A file that exists and cannot be read is an error, never treated as missing.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::SourceError;
use super::text_table::{self, Table};

/// The table at `path` within the data set; `None` if it does not exist.
///
/// # Errors
/// Why it cannot be read: a link without a target, a placeholder of git-annex, a file that is not text, two columns of one name.
pub(super) fn table(root: &Path, path: &str) -> Result<Option<Table>, String> {
    let Some(file) = existing(root, path)? else { return Ok(None) };
    let table = text_table::read(&file, Some(b'\t')).map_err(|SourceError(problem)| {
        // The caller adds the place to the problem.
        problem.strip_prefix(&format!("{}: ", file.display())).map_or(problem.clone(), str::to_owned)
    })?;
    match table.twice() {
        Some(column) => Err(format!("there are two columns '{column}'")),
        None => Ok(Some(table)),
    }
}

/// The JSON at `path` within the data set; `None` if it does not exist.
///
/// # Errors
/// Why it cannot be read.
pub(super) fn json(root: &Path, path: &str) -> Result<Option<Value>, String> {
    let Some(file) = existing(root, path)? else { return Ok(None) };
    let text = std::fs::read_to_string(file).map_err(|error| format!("cannot be read: {error}"))?;
    let value = serde_json::from_str(text.trim_start_matches('\u{feff}'));
    value.map(Some).map_err(|error| format!("is not valid JSON: {error}"))
}

/// The text at `path` within the data set; `None` if it does not exist.
///
/// # Errors
/// Why it cannot be read.
pub(super) fn text(root: &Path, path: &str) -> Result<Option<String>, String> {
    let Some(file) = existing(root, path)? else { return Ok(None) };
    std::fs::read_to_string(file).map(Some).map_err(|error| format!("cannot be read: {error}"))
}

/// The path of the file, if it exists in any form.
fn existing(root: &Path, path: &str) -> Result<Option<PathBuf>, String> {
    let file = root.join(path);
    match file.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot be read: {error}")),
        Ok(_) => {}
    }
    if let Some(problem) = dangling(&file) {
        return Err(problem);
    }
    if is_placeholder(&file) {
        return Err("its content is missing: it is a placeholder of git-annex or Git LFS; fetch it first".to_owned());
    }
    Ok(Some(file))
}

/// Why a link has no target; `None` for anything else.
pub(super) fn dangling(path: &Path) -> Option<String> {
    let target = path.read_link().ok()?;
    (!path.exists()).then(|| {
        format!("is a link to {}, which does not exist; fetch it first (git annex get, datalad get)", target.display())
    })
}

/// For an unlocked file whose content is missing, git-annex stores the name of the content instead, Git LFS a description.
fn is_placeholder(file: &Path) -> bool {
    use std::io::Read;
    let mut start = [0; 64];
    let length = std::fs::File::open(file).and_then(|mut file| file.read(&mut start)).unwrap_or_default();
    let signs: [&[u8]; 3] = [b"/annex/objects/", b".git/annex/objects/", b"version https://git-lfs.github.com/"];
    signs.iter().any(|sign| start[..length].starts_with(sign))
}
