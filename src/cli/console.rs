//! Writes data to stdout and messages to stderr.
//!
//! A closed pipe (`| head`) is not an error. If data cannot be written for another reason, such as a full disk, the
//! command ends with an error, see [`lost`]. Messages that cannot be written are dropped.

use std::io::{Error, ErrorKind, IsTerminal, Write};
use std::sync::OnceLock;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The first reason why data could not be written.
static LOST: OnceLock<String> = OnceLock::new();

/// Writes a line of data.
pub(super) fn out(line: &str) {
    note(writeln!(std::io::stdout().lock(), "{line}"));
}

fn note(written: Result<(), Error>) {
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
    {
        let _ = LOST.set(error.to_string());
    }
}

/// The reason why data of this command did not reach stdout. `None` if all data was written, or if the reader has
/// closed the pipe.
pub(super) fn lost() -> Option<&'static str> {
    note(std::io::stdout().lock().flush());
    LOST.get().map(String::as_str)
}

/// Writes a message.
pub(super) fn err(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// A progress bar for long work, on a terminal only.
pub(super) fn progress(count: usize, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(u64::try_from(count).unwrap_or(u64::MAX));
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} ({eta})") {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar
}
