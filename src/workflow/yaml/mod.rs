//! YAML as a tree that knows where each of its parts stands in the text. Read by the rules of PyYAML, which read and wrote these
//! texts in version 8.1 ([`scalar`]); written so that it reads back as the same everywhere ([`write`]).

mod compose;
mod scalar;
mod write;

use std::borrow::Cow;

use serde_json::Value;

/// A place in a text, both numbers from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: u32,
    pub column: u32,
}

impl Place {
    pub(super) const FIRST: Self = Self { line: 1, column: 1 };
}

/// A part of a YAML document with its place.
#[derive(Debug, Clone)]
pub struct Node {
    pub place: Place,
    pub content: Content,
    /// How a scalar that is no text (`0755`, `yes`, nothing at all) is written.
    spelling: Option<Box<str>>,
}

/// What a part is.
#[derive(Debug, Clone)]
pub enum Content {
    Scalar(Value),
    Sequence(Vec<Node>),
    Mapping(Vec<(Key, Node)>),
}

/// A key of a mapping. Keys that are no text (`1:`, `yes:`) are taken as the text they are written as.
#[derive(Debug, Clone)]
pub struct Key {
    pub place: Place,
    pub text: String,
}

/// Why a text is no YAML.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {}, column {}: {message}", place.line, place.column)]
pub struct YamlError {
    pub place: Place,
    pub message: String,
}

/// Reads one document. A byte order mark before it is no part of it.
///
/// # Errors
/// When the text is not YAML, has more than one document, or is so large or so folded into itself (aliases) that reading it
/// would not end soon.
pub fn parse(text: &str) -> Result<Node, YamlError> {
    compose::compose(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// The text of a file: UTF-8, or UTF-16 with a byte order mark, as PyYAML reads them.
///
/// # Errors
/// The place of the first byte that belongs to neither.
pub fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, YamlError> {
    let utf16 = |read: fn([u8; 2]) -> u16| {
        let units = bytes[2..].chunks_exact(2).map(|pair| read([pair[0], pair[1]]));
        let text: Option<String> = char::decode_utf16(units).collect::<Result<_, _>>().ok();
        text.filter(|_| bytes.len().is_multiple_of(2)).map(Cow::Owned).ok_or_else(|| YamlError {
            place: Place::FIRST,
            message: "the file starts like UTF-16 but is not valid UTF-16; save it as UTF-8".to_owned(),
        })
    };
    match bytes {
        [0xff, 0xfe, ..] => utf16(u16::from_le_bytes),
        [0xfe, 0xff, ..] => utf16(u16::from_be_bytes),
        _ => {
            let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
            std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|error| not_utf8(bytes, error.valid_up_to()))
        }
    }
}

fn not_utf8(bytes: &[u8], at: usize) -> YamlError {
    let before = String::from_utf8_lossy(&bytes[..at]);
    let place = Place {
        line: u32::try_from(before.matches('\n').count() + 1).unwrap_or(u32::MAX),
        column: u32::try_from(before.rsplit('\n').next().unwrap_or_default().chars().count() + 1).unwrap_or(u32::MAX),
    };
    YamlError { place, message: format!("the byte 0x{:02x} is not UTF-8; save the file as UTF-8", bytes[at]) }
}

/// Reads one document as JSON, for texts of which no places are asked.
///
/// # Errors
/// As [`parse`].
pub fn parse_value(text: &str) -> Result<Value, YamlError> {
    parse(text).map(|node| node.to_json())
}

/// Writes a value as YAML that reads back as the same value, here and with PyYAML.
#[must_use]
pub fn to_text(value: &Value) -> String {
    let text = write::document(value);
    // JSON is YAML too: for what a block cannot hold, and nothing is known to be.
    if parse_value(&text).is_ok_and(|back| back == *value) { text } else { value.to_string() }
}

impl Node {
    /// The value of `key`, when this is a mapping that has it. The last of several counts, as in PyYAML.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().rev().find(|(name, _)| name.text == key).map(|(_, value)| value)
    }

    /// The entries of a mapping; none for anything else.
    #[must_use]
    pub fn entries(&self) -> &[(Key, Node)] {
        if let Content::Mapping(entries) = &self.content { entries } else { &[] }
    }

    /// The items of a sequence; none for anything else.
    #[must_use]
    pub fn items(&self) -> &[Node] {
        if let Content::Sequence(items) = &self.content { items } else { &[] }
    }

    /// The text of a scalar that is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        if let Content::Scalar(Value::String(text)) = &self.content { Some(text) } else { None }
    }

    /// The text of a scalar as a person means it where a text is wanted: `2026` for a name is the text "2026".
    ///
    /// # Errors
    /// When PyYAML reads another value than is written (`0755` is the number 493, `1_000` is 1000): which of the two is
    /// meant cannot be known, and quotes say it.
    pub fn meant_text(&self) -> Result<Option<Cow<'_, str>>, String> {
        match (&self.content, &self.spelling) {
            (Content::Scalar(Value::String(text)), _) => Ok(Some(Cow::Borrowed(text))),
            (Content::Scalar(Value::Number(number)), Some(written)) => {
                let read = number.to_string();
                if read == **written {
                    Ok(Some(Cow::Owned(read)))
                } else {
                    Err(format!(
                        "{written} without quotes is the number {read}; write '{written}' or '{read}' in quotes"
                    ))
                }
            }
            (Content::Scalar(Value::Bool(flag)), Some(written)) => {
                Err(format!("{written} without quotes means {flag}; write '{written}' in quotes"))
            }
            _ => Ok(None),
        }
    }

    /// The part that a JSON pointer leads to, or the last part on the way that is there.
    #[must_use]
    pub fn nearest(&self, pointer: &str) -> &Node {
        let mut here = self;
        for step in pointer.split('/').skip(1) {
            let step = step.replace("~1", "/").replace("~0", "~");
            let next = match &here.content {
                Content::Sequence(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
                Content::Mapping(_) => here.get(&step),
                Content::Scalar(_) => None,
            };
            let Some(next) = next else { break };
            here = next;
        }
        here
    }

    /// The same without places.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::Sequence(items) => items.iter().map(Node::to_json).collect(),
            Content::Mapping(entries) => {
                Value::Object(entries.iter().map(|(key, value)| (key.text.clone(), value.to_json())).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parts_know_their_places() {
        let document = parse("label: a\nstates:\n  - label: one\n    callbacks: []\n  - {label: two}\n").unwrap();
        assert_eq!(
            document.to_json(),
            json!({"label": "a", "states": [{"label": "one", "callbacks": []}, {"label": "two"}]})
        );
        let two = document.nearest("/states/1/label");
        assert_eq!((two.place.line, two.place.column), (5, 13));
        assert_eq!(document.nearest("/states/0/nothing").place.line, 3);
    }

    #[test]
    fn a_broken_text_names_its_place() {
        let error = parse("a: [b\nc: d").unwrap_err();
        assert!(error.place.line >= 1 && !error.message.contains('\n'), "{error:?}");
    }
}
