//! Failpoints: named points at which a test stops the process, as a power cut would; reads that a test slows down or
//! holds; and queries that a test makes show too much. Only in debug builds: a release contains none of it.

/// Ends the process if `STUDYGOV_FAULT` is `name:n` and this is the n-th call with this name; stops it, as SIGSTOP
/// does, if it is `freeze-name:n`.
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("STUDYGOV_FAULT").ok()?;
        let (name, times) = text.split_once(':')?;
        Some((name.to_owned(), times.parse().ok()?))
    });
    if let Some((wanted, times)) = wanted
        && wanted.strip_prefix("freeze-").unwrap_or(wanted) == name
        && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *times
    {
        tracing::error!("stopped at {name}");
        if !wanted.starts_with("freeze-") {
            std::process::abort();
        }
        let own = std::process::id().to_string();
        // The signal takes effect before the command has ended.
        drop(std::process::Command::new("kill").args(["-STOP", own.as_str()]).status());
    }
}

/// Does nothing in a release.
#[cfg(not(debug_assertions))]
pub fn point(_: &str) {}

/// Waits before a statement reads, so that a test can change the data between two statements of an answer.
///
/// If `STUDYGOV_FAULT` is `slow-reads:MS`, each statement waits that many milliseconds. If it is `hold-reads:FOLDER`, a
/// statement whose text contains the name of a file in the folder renames the file to `NAME.held` and waits until the
/// test has removed that file, a minute at most.
#[cfg(debug_assertions)]
pub async fn before_read(statement: &str) {
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::time::Duration;

    enum Wanted {
        Nothing,
        Slow(Duration),
        Hold(PathBuf),
    }
    static WANTED: OnceLock<Wanted> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("STUDYGOV_FAULT").unwrap_or_default();
        match text.split_once(':') {
            Some(("slow-reads", time)) => Wanted::Slow(Duration::from_millis(time.parse().unwrap_or_default())),
            Some(("hold-reads", folder)) => Wanted::Hold(PathBuf::from(folder)),
            _ => Wanted::Nothing,
        }
    });
    match wanted {
        Wanted::Nothing => {}
        Wanted::Slow(time) => tokio::time::sleep(*time).await,
        Wanted::Hold(folder) => {
            let names = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
            let is_meant =
                |path: &PathBuf| path.file_name().is_some_and(|name| statement.contains(&*name.to_string_lossy()));
            let Some(path) = names.filter(|path| path.extension().is_none()).find(is_meant) else { return };
            let held = path.with_extension("held");
            // Of several concurrent statements, only one is held.
            if std::fs::rename(&path, &held).is_err() {
                return;
            }
            for _ in 0..6000 {
                if !held.exists() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// Does nothing in a release.
#[cfg(not(debug_assertions))]
#[expect(clippy::unused_async, reason = "as in debug builds")]
pub async fn before_read(_: &str) {}

/// Whether a test makes the query at this place of the source show the whole study, as if its author had forgotten the
/// context.
///
/// Only if `STUDYGOV_FAULT` is `open-query:FOLDER`: the places of all queries that are limited to some cohorts are
/// added to the file `passed` in the folder (such as `src/study/search.rs:133`), and the place that the file `open`
/// names is opened.
#[cfg(debug_assertions)]
pub fn opens(place: &std::panic::Location<'_>) -> bool {
    use std::io::Write;
    use std::path::PathBuf;
    use std::sync::OnceLock;

    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let text = std::env::var("STUDYGOV_FAULT").ok()?;
        text.strip_prefix("open-query:").map(PathBuf::from)
    });
    let Some(folder) = folder else { return false };
    let place = format!("{}:{}", place.file(), place.line());
    let passed = std::fs::OpenOptions::new().append(true).create(true).open(folder.join("passed"));
    // A test that misses a place fails.
    drop(passed.and_then(|mut file| file.write_all(format!("{place}\n").as_bytes())));
    std::fs::read_to_string(folder.join("open")).is_ok_and(|open| open.trim() == place)
}
