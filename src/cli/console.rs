//! Data to the standard output and messages to the standard error.
//!
//! A reader that has ended (`| head`) is no reason to fail. Data that cannot be written for another reason, as on a full disk,
//! are lost: the command ends with an error, see [`lost`]. A message that cannot be written is lost and nothing else.

use std::io::{Error, ErrorKind, IsTerminal, Write};
use std::sync::OnceLock;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Why data were lost, the first time.
static LOST: OnceLock<String> = OnceLock::new();

/// A line of data.
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

/// Why data of this command did not reach the standard output; none when all of them did, or their reader has ended.
pub(super) fn lost() -> Option<&'static str> {
    note(std::io::stdout().lock().flush());
    LOST.get().map(String::as_str)
}

/// A message.
pub(super) fn err(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// A bar for long work, on a terminal only.
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
