//! YAML as a tree whose nodes know their places in the text. [`scalar`] reads by the rules of PyYAML, which read and wrote these texts in
//! version 8.1; [`write`] writes text that all readers understand alike.

mod compose;
mod scalar;
mod write;

use std::borrow::Cow;

use serde_json::Value;

/// A position in a text; line and column begin at 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: u32,
    pub column: u32,
}

impl Place {
    pub(super) const FIRST: Self = Self { line: 1, column: 1 };
}

/// A node of a YAML document with its place.
#[derive(Debug, Clone)]
pub struct Node {
    pub place: Place,
    pub content: Content,
    /// The written form of a scalar that is not a text (`0755`, `yes`, or empty).
    spelling: Option<Box<str>>,
}

/// The content of a node.
#[derive(Debug, Clone)]
pub enum Content {
    Scalar(Value),
    Sequence(Vec<Node>),
    Mapping(Vec<(Key, Node)>),
}

/// A key of a mapping. Keys of other types (`1:`, `yes:`) become their written texts.
#[derive(Debug, Clone)]
pub struct Key {
    pub place: Place,
    pub text: String,
}

/// Reason why a text is not valid YAML.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {}, column {}: {message}", place.line, place.column)]
pub struct YamlError {
    pub place: Place,
    pub message: String,
}

/// Parses one document, ignoring a byte order mark before it.
///
/// # Errors
/// The text is not valid YAML, has more than one document, or is so large or so deeply nested (through aliases) that reading it would take
/// too long.
pub fn parse(text: &str) -> Result<Node, YamlError> {
    compose::compose(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// Decodes a file: UTF-8, or UTF-16 with a byte order mark, like PyYAML.
///
/// # Errors
/// The place of the first invalid byte.
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

/// Parses one document as JSON, for callers that do not need places.
///
/// # Errors
/// Those of [`parse`].
pub fn parse_value(text: &str) -> Result<Value, YamlError> {
    parse(text).map(|node| node.to_json())
}

/// Writes a value as YAML that this program and PyYAML read as the same value.
#[must_use]
pub fn to_text(value: &Value) -> String {
    let text = write::document(value);
    // JSON is valid YAML. It serves for values that the block style cannot represent; no such value is known.
    if parse_value(&text).is_ok_and(|back| back == *value) { text } else { value.to_string() }
}

impl Node {
    /// The value of `key`, if this is a mapping that has it. Of duplicate keys the last counts, as in PyYAML.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().rev().find(|(name, _)| name.text == key).map(|(_, value)| value)
    }

    /// The entries of a mapping; empty for other nodes.
    #[must_use]
    pub fn entries(&self) -> &[(Key, Node)] {
        if let Content::Mapping(entries) = &self.content { entries } else { &[] }
    }

    /// The items of a sequence; empty for other nodes.
    #[must_use]
    pub fn items(&self) -> &[Node] {
        if let Content::Sequence(items) = &self.content { items } else { &[] }
    }

    /// The text of a text scalar.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        if let Content::Scalar(Value::String(text)) = &self.content { Some(text) } else { None }
    }

    /// The text of a scalar where a text is expected: the name `2026` is the text "2026".
    ///
    /// # Errors
    /// PyYAML reads another value than the written one (`0755` is the number 493, `1_000` is 1000). It is unclear which of the two is
    /// meant, so quotes are required.
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

    /// The node at a JSON pointer, or the last existing node on the way there.
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

    /// The same value without places.
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
