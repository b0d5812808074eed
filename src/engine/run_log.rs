//! Logs of callback executions: stored attempt by attempt, with limited length (Q6).

use crate::entity::callback_execution;

/// A text that every database accepts: PostgreSQL does not store null characters.
pub(super) fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Bytes of a log that are stored (Q6).
const MOST_OF_LOG: usize = 1024 * 1024;

/// Cuts the middle out of a log that is too long: its beginning and end matter most (Q6).
pub(super) fn cut(log: &str) -> std::borrow::Cow<'_, str> {
    // A log that our worker has already cut is a little longer than the limit, because of the note in it.
    if log.len() <= MOST_OF_LOG + 1024 {
        return log.into();
    }
    let mut head = MOST_OF_LOG / 2;
    while !log.is_char_boundary(head) {
        head -= 1;
    }
    let mut tail = log.len() - MOST_OF_LOG / 2;
    while !log.is_char_boundary(tail) {
        tail += 1;
    }
    format!("{}\n[… {} bytes omitted …]\n{}", &log[..head], tail - head, &log[tail..]).into()
}

/// The log with one more line.
pub(super) fn appended(log: Option<&str>, line: &str) -> String {
    match log {
        None | Some("") => format!("{line}\n"),
        Some(log) if log.ends_with('\n') => format!("{log}{line}\n"),
        Some(log) => format!("{log}\n{line}\n"),
    }
}

fn attempt_mark(attempt: i32) -> String {
    format!("=== attempt {attempt} ===\n")
}

/// The log after an attempt has ended, with the mark of the next one.
pub(super) fn next_attempt_log(log: Option<&str>, line: &str, next: i32) -> String {
    format!("{}{}", appended(log, line), attempt_mark(next))
}

/// The log of earlier attempts, followed by `log` in place of the current attempt's log.
pub(super) fn merged_log(execution: &callback_execution::Model, log: &str) -> String {
    if execution.attempt <= 1 {
        return log.to_owned();
    }
    let mark = attempt_mark(execution.attempt);
    // The first match: a program may print such a line too, but only after ours.
    match execution.run_log.as_deref().and_then(|kept| kept.find(&mark).map(|at| &kept[..at + mark.len()])) {
        Some(earlier) => format!("{earlier}{log}"),
        None => log.to_owned(),
    }
}
