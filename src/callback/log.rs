//! What a run says, gathered while it says it (Q6).

use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that are kept of a log; beyond that it is cut in the middle, for the beginning and the end say most.
pub const MOST: usize = 1024 * 1024;

/// The log of a run. Cheap to clone; clones write to the same log.
#[derive(Debug, Clone, Default)]
pub struct RunLog {
    kept: Arc<Mutex<Kept>>,
    secret: Arc<str>,
}

/// A text that grows at its end and keeps its first and its last half mebibyte.
#[derive(Debug, Default)]
pub(super) struct Kept {
    head: Vec<u8>,
    tail: Vec<u8>,
    dropped: usize,
    /// How often something was added.
    changes: u64,
}

impl Kept {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.changes += 1;
        let room = (MOST / 2).saturating_sub(self.head.len());
        let (head, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(head);
        self.tail.extend_from_slice(rest);
        // Cut in steps, not at each push.
        if self.tail.len() > MOST {
            let surplus = self.tail.len() - MOST / 2;
            self.tail.drain(..surplus);
            self.dropped += surplus;
        }
    }

    pub(super) fn text(&self) -> String {
        let surplus = self.tail.len().saturating_sub(MOST / 2);
        let dropped = self.dropped + surplus;
        if dropped == 0 {
            let mut all = self.head.clone();
            all.extend_from_slice(&self.tail);
            return String::from_utf8_lossy(&all).into_owned();
        }
        let (head, tail) = (String::from_utf8_lossy(&self.head), String::from_utf8_lossy(&self.tail[surplus..]));
        format!("{head}\n[… {dropped} bytes left out …]\n{tail}")
    }
}

impl RunLog {
    /// A log that shows stars in the place of `secret`.
    #[must_use]
    pub fn hiding(secret: &str) -> Self {
        Self { kept: Arc::default(), secret: secret.into() }
    }

    /// Adds a line of our own.
    pub fn line(&self, text: &str) {
        self.push(format!("{text}\n").as_bytes());
    }

    /// Adds what a program wrote.
    pub fn push(&self, bytes: &[u8]) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }

    /// How often something was added, to see whether there is something new.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).changes
    }

    /// Bytes of it that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.head.len() + kept.tail.len()
    }

    /// Whether nothing was said so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The log so far. Null characters, which PostgreSQL does not take, are shown as �.
    #[must_use]
    pub fn text(&self) -> String {
        let text = self.kept.lock().unwrap_or_else(PoisonError::into_inner).text();
        clean(&text, &self.secret)
    }
}

/// A text that every database takes, without the secret.
pub(super) fn clean(text: &str, secret: &str) -> String {
    let text = text.replace('\0', "\u{fffd}");
    if secret.is_empty() { text } else { text.replace(secret, "***") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q6_a_long_log_is_cut_in_the_middle_with_a_note() {
        let log = RunLog::default();
        log.line("first");
        for _ in 0..4096 {
            log.push(&[b'x'; 1024]);
        }
        log.line("last");
        let text = log.text();
        assert!(text.len() < MOST + 100, "{}", text.len());
        assert!(text.starts_with("first\n") && text.ends_with("last\n"));
        let cut: usize = 6 + 4096 * 1024 + 5 - MOST;
        assert!(text.contains(&format!("[… {cut} bytes left out …]")));
    }

    #[test]
    fn q2_the_secret_is_not_in_the_log() {
        let log = RunLog::hiding("s3cret");
        log.line("calling with s3cret");
        assert_eq!(log.text(), "calling with ***\n");
    }
}
