//! What is kept of the logs of callback executions: attempt by attempt, not longer than it may be (Q6).

use crate::entity::callback_execution;

/// A text that every database takes: PostgreSQL has no place for null characters.
pub(super) fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Bytes that are kept of a log (Q6).
const MOST_OF_LOG: usize = 1024 * 1024;

/// A log that is cut in the middle when it is too long: its beginning and its end say most (Q6).
pub(super) fn cut(log: &str) -> std::borrow::Cow<'_, str> {
    // What a worker of ours cut already is a little longer than that, with its note.
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

/// A log with one more line.
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

/// The log when one attempt is over and the next is to come.
pub(super) fn next_attempt_log(log: Option<&str>, line: &str, next: i32) -> String {
    format!("{}{}", appended(log, line), attempt_mark(next))
}

/// The log of earlier attempts, and `log` in place of what the current one said so far.
pub(super) fn merged_log(execution: &callback_execution::Model, log: &str) -> String {
    if execution.attempt <= 1 {
        return log.to_owned();
    }
    let mark = attempt_mark(execution.attempt);
    // The first one: a program may print such a line too, and what it prints comes after ours.
    match execution.run_log.as_deref().and_then(|kept| kept.find(&mark).map(|at| &kept[..at + mark.len()])) {
        Some(earlier) => format!("{earlier}{log}"),
        None => log.to_owned(),
    }
}
