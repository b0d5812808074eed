//! The log of a run, collected while the run writes it (Q6).

use std::sync::{Arc, Mutex, PoisonError};

use super::redact::{redacted, without_beginning, without_end};

/// Stored bytes of a log; a longer one is cut in the middle, because its beginning and end matter most.
pub const MOST: usize = 1024 * 1024;

/// Limit of a text in bytes of JSON, in which a control character takes six bytes: a log full of them would be rejected as a
/// whole.
pub const MOST_SENT: usize = 2 * MOST;

/// The log of a run. Cheap to clone; clones write to the same log.
#[derive(Debug, Clone, Default)]
pub struct RunLog {
    kept: Arc<Mutex<Kept>>,
    secret: Arc<str>,
}

/// A growing text of which only the first and last half mebibyte are kept.
#[derive(Debug, Default)]
pub(super) struct Kept {
    head: Vec<u8>,
    tail: Vec<u8>,
    dropped: usize,
    /// Number of writes.
    changes: u64,
}

impl Kept {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.changes += 1;
        let room = (MOST / 2).saturating_sub(self.head.len());
        let (head, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(head);
        self.tail.extend_from_slice(rest);
        // Cut in steps, not after each write.
        if self.tail.len() > MOST {
            let surplus = self.tail.len() - MOST / 2;
            self.tail.drain(..surplus);
            self.dropped += surplus;
        }
    }

    /// The stored text, without `secret` and without characters that a database rejects.
    pub(super) fn text(&self, secret: &str) -> String {
        let surplus = self.tail.len().saturating_sub(MOST / 2);
        let dropped = self.dropped + surplus;
        if dropped > 0 {
            let head = without_beginning(&clean(&String::from_utf8_lossy(&self.head), secret), secret);
            let tail = without_end(&clean(&String::from_utf8_lossy(&self.tail[surplus..]), secret), secret);
            return joined(&head, dropped, &without_beginning(&tail, secret));
        }
        let mut all = self.head.clone();
        all.extend_from_slice(&self.tail);
        cut(without_beginning(&clean(&String::from_utf8_lossy(&all), secret), secret))
    }
}

/// Bytes of a character in JSON.
fn sent_size(character: char) -> usize {
    match character {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        other => other.len_utf8(),
    }
}

/// Cuts the middle out of a text that is too long as JSON.
pub(super) fn cut(text: String) -> String {
    // A character takes at most six bytes.
    if text.len() * 6 <= MOST_SENT || text.chars().map(sent_size).sum::<usize>() <= MOST_SENT {
        return text;
    }
    let middle = text.floor_char_boundary(text.len() / 2);
    let (head, tail) = text.split_at(middle);
    joined(head, 0, tail)
}

/// The beginning of `head` and the end of `tail`, with a note that counts the bytes omitted now and the `dropped` ones
/// between them.
fn joined(head: &str, dropped: usize, tail: &str) -> String {
    let fits = |sizes: &mut dyn Iterator<Item = char>| {
        let (mut kept, mut sent) = (0, 0);
        for character in sizes {
            sent += sent_size(character);
            if sent > MOST_SENT / 2 {
                break;
            }
            kept += character.len_utf8();
        }
        kept
    };
    let (first, last) = (fits(&mut head.chars()), fits(&mut tail.chars().rev()));
    let dropped = dropped + (head.len() - first) + (tail.len() - last);
    format!("{}\n[… {dropped} bytes omitted …]\n{}", &head[..first], &tail[tail.len() - last..])
}

impl RunLog {
    /// A log that shows stars instead of `secret`.
    #[must_use]
    pub fn hiding(secret: &str) -> Self {
        Self { kept: Arc::default(), secret: secret.into() }
    }

    /// Adds a line of our own.
    pub fn line(&self, text: &str) {
        self.push(format!("{text}\n").as_bytes());
    }

    /// Adds output of a program.
    pub fn push(&self, bytes: &[u8]) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }

    /// Number of writes so far, to detect new output.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).changes
    }

    /// Number of stored bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.head.len() + kept.tail.len()
    }

    /// Whether nothing has been written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The log so far. Null characters, which PostgreSQL rejects, are shown as �.
    #[must_use]
    pub fn text(&self) -> String {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).text(&self.secret)
    }
}

/// A text that every database accepts, without the secret.
fn clean(text: &str, secret: &str) -> String {
    redacted(&text.replace('\0', "\u{fffd}"), secret).into_owned()
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
        assert!(text.contains(&format!("[… {cut} bytes omitted …]")));
    }

    #[test]
    fn q2_the_secret_is_not_in_the_log() {
        let log = RunLog::hiding("s3cret");
        log.line("calling with s3cret");
        assert_eq!(log.text(), "calling with ***\n");
        // Parts of it are redacted too, where the log is cut within it or is still incomplete.
        let secret = "0123456789abcdefghijklmnopqrstuvwxyz-_ABCDE";
        for before in 0..secret.len() {
            let log = RunLog::hiding(secret);
            log.push(&vec![b'.'; MOST / 2 - before]);
            log.push(secret.as_bytes());
            log.push(&vec![b'.'; MOST]);
            let text = log.text();
            let parts = (0..=secret.len() - 8).map(|at| &secret[at..at + 8]);
            assert!(parts.into_iter().all(|part| !text.contains(part)), "cut after {before} characters");
        }
        let log = RunLog::hiding(secret);
        log.push(&secret.as_bytes()[..30]);
        assert_eq!(log.text(), "***");
        log.push(&secret.as_bytes()[30..]);
        assert_eq!(log.text(), "***");
    }

    #[test]
    fn q6_a_log_is_cut_by_the_bytes_that_are_sent() {
        let sent = |text: &str| serde_json::to_string(text).unwrap().len();
        for unit in ["\u{1}", "\u{1b}[0m\u{8}", "\"\\", "\0", "a\n", "ü\u{2}", "\u{fffd}"] {
            for size in [MOST / 2, MOST, MOST + 1, 3 * MOST] {
                let log = RunLog::default();
                log.line("first");
                unit.repeat(size / unit.len()).as_bytes().chunks(10_007).for_each(|part| log.push(part));
                log.line("last");
                let text = log.text();
                assert!(sent(&text) <= MOST_SENT + 100, "{unit:?}, {size}: {}", sent(&text));
                assert!(text.starts_with("first\n") && text.ends_with("last\n"));
                let whole = "first\n".len() + (size / unit.len()) * unit.len() + "last\n".len();
                assert!(text.contains("bytes omitted") || text.len() >= whole, "nothing is lost without a note");
            }
        }
        // Each byte that is not UTF-8 becomes a replacement character of three bytes.
        let log = RunLog::default();
        (0..64).for_each(|_| log.push(&[0xff; 16 * 1024]));
        assert!(sent(&log.text()) <= MOST_SENT + 100);
    }
}
