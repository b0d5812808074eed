//! Talking on the terminal. A reader that went away (`| head`) is no reason to fail.

use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A line of data.
pub(super) fn out(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// A line of talk.
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
