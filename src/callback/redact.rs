//! Removes the secret of an attempt from the results of a run: from logs, and from result values and their names.
//!
//! The secret is found in several forms in which a program may print it, such as broken into lines or escaped as JSON.
//! Deliberate encodings are not found (reversed, encrypted, in pieces with other text between them).

use std::borrow::Cow;

use serde_json::{Map, Value};

/// Replacement for the secret.
const STARS: &str = "***";

/// Bytes of white space that may separate two characters of the secret.
const WIDEST_GAP: usize = 200;

/// Least number of characters at the edge of a text that count as the beginning or end of the secret.
const LEAST_PART: usize = 6;

/// Replaces every occurrence of the secret by stars.
pub(super) fn redacted<'a>(text: &'a str, secret: &str) -> Cow<'a, str> {
    if secret.is_empty() {
        return text.into();
    }
    let (bytes, secret) = (text.as_bytes(), secret.as_bytes());
    let mut result = String::new();
    let (mut copied, mut at) = (0, 0);
    while at < bytes.len() {
        let may_begin = bytes[at] == secret[0] || bytes[at] == b'\\';
        match if may_begin { end_of_secret(bytes, at, secret) } else { None } {
            Some(end) => {
                result.push_str(&text[copied..at]);
                result.push_str(STARS);
                (copied, at) = (end, end);
            }
            None => at += 1,
        }
    }
    if copied == 0 {
        return text.into();
    }
    result.push_str(&text[copied..]);
    result.into()
}

/// End of the secret that begins at `at`; `None` if it does not begin there.
fn end_of_secret(text: &[u8], at: usize, secret: &[u8]) -> Option<usize> {
    let mut at = at;
    for (index, wanted) in secret.iter().enumerate() {
        if index > 0 {
            at = after_gap(text, at);
        }
        at = after_character(text, at, *wanted)?;
    }
    Some(at)
}

/// End of the character `wanted`, plain or escaped, that begins at `at`.
fn after_character(text: &[u8], at: usize, wanted: u8) -> Option<usize> {
    if *text.get(at)? == wanted {
        return Some(at + 1);
    }
    let slashes = text[at..].iter().take_while(|byte| **byte == b'\\').count();
    let (digits, from) = match text.get(at + slashes).filter(|_| slashes > 0)? {
        b'u' => (4, at + slashes + 1),
        b'x' => (2, at + slashes + 1),
        _ => return None,
    };
    let code = std::str::from_utf8(text.get(from..from + digits)?).ok()?;
    (u32::from_str_radix(code, 16).ok()? == u32::from(wanted)).then_some(from + digits)
}

/// End of the white space that begins at `at`, plain or escaped (`\n`), including marks of broken lines.
fn after_gap(text: &[u8], at: usize) -> usize {
    let mut end = at;
    while end - at < WIDEST_GAP {
        let slashes = text[end..].iter().take_while(|byte| **byte == b'\\').count();
        end += match (text.get(end), text.get(end + slashes)) {
            (Some(b' ' | b'\t' | b'\r' | b'\n'), _) => 1,
            (_, Some(b'n' | b'r' | b't' | b'\n' | b'\r')) if slashes > 0 => slashes + 1,
            // As in quoted-printable.
            (Some(b'='), _) if matches!(text.get(end + 1), Some(b'\r' | b'\n')) => 1,
            _ => break,
        };
    }
    end
}

/// Also redacts a possible beginning of the secret at the end of a text that was cut there or is still being written.
pub(super) fn without_beginning(text: &str, secret: &str) -> String {
    let parts = (LEAST_PART..secret.len()).rev().filter_map(|length| secret.get(..length));
    let part = parts.into_iter().find(|part| text.ends_with(part));
    part.map_or_else(|| text.to_owned(), |part| format!("{}{STARS}", &text[..text.len() - part.len()]))
}

/// The same for the end of the secret, in a text that was cut at its beginning.
pub(super) fn without_end(text: &str, secret: &str) -> String {
    let parts = (1..secret.len().saturating_sub(LEAST_PART - 1)).filter_map(|from| secret.get(from..));
    let part = parts.into_iter().find(|part| text.starts_with(part));
    part.map_or_else(|| text.to_owned(), |part| format!("{STARS}{}", &text[part.len()..]))
}

/// Removes the secret from all texts of a value, and from the names in it.
pub(super) fn redact(value: &mut Value, secret: &str) {
    match value {
        Value::String(text) => {
            if let Cow::Owned(clean) = redacted(text, secret) {
                *text = clean;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| redact(item, secret)),
        Value::Object(entries) => redact_entries(entries, secret),
        _ => {}
    }
}

/// The same for the entries of an object.
pub(super) fn redact_entries(entries: &mut Map<String, Value>, secret: &str) {
    for (name, mut value) in std::mem::take(entries) {
        redact(&mut value, secret);
        let name = redacted(&name, secret).into_owned();
        entries.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SECRET: &str = "Zm9vYmFyLXNlY3JldC1vZi1hbi1hdHRlbXB0_-A";

    #[test]
    fn the_secret_is_found_broken_into_lines_and_escaped() {
        let broken = |gap: &str| {
            let (one, rest) = SECRET.split_at(7);
            let (two, three) = rest.split_at(20);
            format!("{one}{gap}{two}{gap}{three}")
        };
        let escaped: String = SECRET.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
        let twice = escaped.replace('\\', "\\\\");
        let hex = format!("{}\\x{:02X}{}", &SECRET[..5], SECRET.as_bytes()[5], &SECRET[6..]);
        let broken = ["\n", "\r\n", "\n    ", "\\n", "\\r\\n", "\\\\n", " ", "=\n", "\\\n"].map(broken);
        for shown in broken.iter().chain([&SECRET.to_owned(), &escaped, &twice, &hex]) {
            let text = format!("Z before {shown} between {shown}");
            assert_eq!(redacted(&text, SECRET), "Z before *** between ***", "{shown}");
        }
        let unlike = SECRET.replace('_', "+");
        assert!(matches!(redacted(&unlike, SECRET), Cow::Borrowed(_)));
        assert!(matches!(redacted("a \\u00", SECRET), Cow::Borrowed(_)));
        assert_eq!(redacted("ünï", ""), "ünï");
        assert_eq!(redacted(&format!("Zm9ü{SECRET}ü"), SECRET), "Zm9ü***ü");
    }

    #[test]
    fn names_are_redacted_as_values_are_and_keep_their_order() {
        let mut value = json!({ "a": 1, SECRET: { format!("x{SECRET}"): [SECRET, { SECRET: null }] }, "b": 2 });
        redact(&mut value, SECRET);
        assert_eq!(value.to_string(), r#"{"a":1,"***":{"x***":["***",{"***":null}]},"b":2}"#);
    }

    #[test]
    fn a_part_of_the_secret_at_an_edge_is_taken_away() {
        for length in [LEAST_PART, 20, SECRET.len() - 1] {
            let text = format!("log {}", &SECRET[..length]);
            assert_eq!(without_beginning(&text, SECRET), "log ***");
            let text = format!("{} log", &SECRET[SECRET.len() - length..]);
            assert_eq!(without_end(&text, SECRET), "*** log");
        }
        assert_eq!(without_beginning("log Zm9", SECRET), "log Zm9");
        assert_eq!(without_end("0_-A log", SECRET), "0_-A log");
        assert_eq!((without_beginning("x", ""), without_end("x", "")), ("x".to_owned(), "x".to_owned()));
    }
}
