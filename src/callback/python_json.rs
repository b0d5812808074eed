//! Python's superset of JSON: `NaN`, `Infinity`, halves of surrogate pairs, and integers of any size. Version 8.1 read JSON
//! with Python, so programs rely on it.
//!
//! JSON has no `NaN` and infinities, so they become null; half of a surrogate pair becomes `�`. Each change is noted.
//! Integers keep all their digits.

use serde_json::Value;

use super::RunLog;

/// Parses a text and logs which values were changed. `what` names the text in the log.
///
/// # Errors
/// When Python could not parse it either.
pub(super) fn read(text: &str, what: &str, log: &RunLog) -> Result<Value, serde_json::Error> {
    let (value, notes) = parse(text)?;
    for note in notes {
        log.line(&format!("{what}: {note}"));
    }
    Ok(value)
}

fn parse(text: &str) -> Result<(Value, Vec<String>), serde_json::Error> {
    let mut strict = Strict { text: String::with_capacity(text.len()), notes: Vec::new() };
    strict.copy(text);
    Ok((serde_json::from_str(&strict.text)?, strict.notes))
}

/// The text as strict JSON, while it is written.
struct Strict {
    text: String,
    notes: Vec<String>,
}

impl Strict {
    fn copy(&mut self, mut rest: &str) {
        while let Some(first) = rest.chars().next() {
            rest = match first {
                '"' => self.copy_string(rest),
                '-' | '0'..='9' => self.copy_number(rest),
                'A'..='Z' | 'a'..='z' => self.copy_word(rest),
                _ => {
                    self.text.push(first);
                    &rest[first.len_utf8()..]
                }
            };
        }
    }

    fn note(&mut self, note: String) {
        // A list with a million NaN does not need a million lines.
        if !self.notes.contains(&note) && self.notes.len() < 20 {
            self.notes.push(note);
        }
    }

    fn copy_word<'a>(&mut self, rest: &'a str) -> &'a str {
        let (word, after) = split(rest, |c| c.is_ascii_alphanumeric() || c == '_');
        match word {
            "NaN" | "Infinity" => self.absent(word),
            _ => self.text.push_str(word),
        }
        after
    }

    fn absent(&mut self, word: &str) {
        self.text.push_str("null");
        self.note(format!("{word} is stored as null"));
    }

    fn copy_number<'a>(&mut self, rest: &'a str) -> &'a str {
        if let Some(after) = rest.strip_prefix("-Infinity") {
            self.absent("-Infinity");
            return after;
        }
        let (number, after) = split(rest, |c| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E'));
        let is_whole = number.strip_prefix('-').unwrap_or(number).bytes().all(|byte| byte.is_ascii_digit());
        match (is_whole, number.parse::<f64>()) {
            (false, Ok(value)) if value.is_infinite() => self.absent(number),
            _ => self.text.push_str(number),
        }
        after
    }

    fn copy_string<'a>(&mut self, rest: &'a str) -> &'a str {
        let mut at = 1;
        self.text.push('"');
        loop {
            let inner = &rest[at..];
            let Some(stop) = inner.find(['"', '\\']) else {
                self.text.push_str(inner);
                return "";
            };
            self.text.push_str(&inner[..stop]);
            at += stop;
            let here = &rest[at..];
            if let Some(after) = here.strip_prefix('"') {
                self.text.push('"');
                return after;
            }
            let (written, length) = escape(here);
            if written == REPLACEMENT {
                self.note(format!("{} is an unpaired surrogate and is stored as \u{fffd}", &here[..length]));
            }
            self.text.push_str(written);
            at += length;
        }
    }
}

const REPLACEMENT: &str = "\u{fffd}";

/// The escape at the beginning of a text, as it is written, and its length. Half of a surrogate pair is replaced.
fn escape(text: &str) -> (&str, usize) {
    let unit = |text: &str| {
        let digits = text.strip_prefix("\\u")?.get(..4)?;
        u32::from_str_radix(digits, 16).ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    match unit(text) {
        Some(0xd800..=0xdbff) if text.get(6..).and_then(unit).is_some_and(|low| (0xdc00..=0xdfff).contains(&low)) => {
            (&text[..12], 12)
        }
        Some(0xd800..=0xdfff) => (REPLACEMENT, 6),
        Some(_) => (&text[..6], 6),
        None => {
            let length = 1 + text[1..].chars().next().map_or(0, char::len_utf8);
            (&text[..length], length)
        }
    }
}

fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_python_writes_is_read() {
        for (text, value, notes) in [
            (r#"{"n": 3, "snr": NaN}"#, json!({ "n": 3, "snr": null }), 1),
            ("[Infinity, -Infinity, NaN, NaN]", json!([null, null, null, null]), 3),
            ("NaN", json!(null), 1),
            (r#"{"NaN": "NaN -Infinity", "a\"NaN": [NaN]}"#, json!({ "NaN": "NaN -Infinity", "a\"NaN": [null] }), 1),
            (
                r#"["\ud800", "\udc00x", "\ud83d\ude00", "\ud800\ud800\udc00"]"#,
                json!(["\u{fffd}", "\u{fffd}x", "😀", "\u{fffd}\u{10000}"]),
                2,
            ),
            (r#"{"\ud800": 1}"#, json!({ "\u{fffd}": 1 }), 1),
            (r#""\\ud800 \\\ud800""#, json!("\\ud800 \\\u{fffd}"), 1),
            (
                "[123456789012345678901234567890, -9223372036854775809]",
                serde_json::from_str("[123456789012345678901234567890, -9223372036854775809]").unwrap(),
                0,
            ),
            ("[18446744073709551615, -9223372036854775808]", json!([u64::MAX, i64::MIN]), 0),
            (
                "[1e999, -1e999, 1E5, 1.5, -0.0, -0]",
                serde_json::from_str("[null, null, 1e5, 1.5, -0.0, -0]").unwrap(),
                2,
            ),
            ("[true, false, null]", json!([true, false, null]), 0),
            ("\"ü\\u00fc\"", json!("üü"), 0),
        ] {
            let (read, noted) = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(read.to_string(), value.to_string(), "{text}");
            assert_eq!(noted.len(), notes, "{text}: {noted:?}");
        }
        let many = format!("[{}]", vec!["NaN"; 100_000].join(","));
        assert_eq!(parse(&many).unwrap().1.len(), 1);
    }

    #[test]
    fn what_python_does_not_read_is_an_error() {
        for text in [
            "",
            "{",
            "nan",
            "NAN",
            "inf",
            "-NaN",
            "+Infinity",
            "NaNa",
            "1NaN",
            "01",
            "1_000",
            "{'a': 1}",
            "[1,]",
            "\"",
            "\"\\",
            "\"\\u12\"",
            "\"\\ud8",
            "None",
            "undefined",
            "0123456789012345678901234567890",
            "--5",
            "\"\n\"",
        ] {
            assert!(parse(text).is_err(), "{text:?}: {:?}", parse(text));
        }
    }
}
