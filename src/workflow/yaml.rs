//! YAML as a tree that knows where each of its parts stands in the text.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;

/// A place in a text, both numbers from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: u32,
    pub column: u32,
}

/// A part of a YAML document with its place.
#[derive(Debug, Clone)]
pub struct Node {
    pub place: Place,
    pub content: Content,
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

/// Reads one document.
///
/// # Errors
/// When the text is no YAML, or is so large or so folded into itself (aliases) that reading it would not end soon.
pub fn parse(text: &str) -> Result<Node, YamlError> {
    let read: Result<Spanned<Content>, _> = serde_saphyr::from_str_with_options(text, options());
    match read {
        Ok(document) => {
            let mut document = node(document);
            mend_letters(&mut document, &text.lines().collect::<Vec<_>>());
            Ok(document)
        }
        Err(error) => {
            let place = error.location().as_ref().map_or(Place { line: 1, column: 1 }, place);
            Err(YamlError { place, message: plain_message(&error) })
        }
    }
}

/// Reads one document as JSON, for texts of which no places are asked.
///
/// # Errors
/// As [`parse`].
pub fn parse_value(text: &str) -> Result<Value, YamlError> {
    parse(text).map(|node| node.to_json())
}

/// Writes a value as YAML that reads back as the same value.
#[must_use]
pub fn to_text(value: &Value) -> String {
    match serde_saphyr::to_string(value) {
        // What is written must come back; JSON is YAML too, and never surprises.
        Ok(text) if parse_value(&text).is_ok_and(|back| back == *value) => text,
        _ => value.to_string(),
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        // As PyYAML, which read these files until now.
        legacy_octal_numbers: true,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough,
        with_snippet: false,
        // An alias bomb takes seconds with the defaults; 300 states are some 10,000 nodes.
        budget: serde_saphyr::budget! {
            max_nodes: 200_000,
            max_events: 500_000,
            max_depth: 64,
            max_documents: 1,
            max_recorded_anchor_events: 200_000,
        },
    }
}

/// `y` and `n` are letters for PyYAML, and yes and no for YAML 1.1.
fn mend_letters(node: &mut Node, lines: &[&str]) {
    let place = node.place;
    match &mut node.content {
        Content::Scalar(value @ Value::Bool(_)) => {
            let line = usize::try_from(place.line).ok().and_then(|line| lines.get(line.checked_sub(1)?));
            let skipped = usize::try_from(place.column).unwrap_or(1).saturating_sub(1);
            let word: String = line
                .into_iter()
                .flat_map(|line| line.chars().skip(skipped))
                .take_while(char::is_ascii_alphabetic)
                .collect();
            if word.len() == 1 {
                *value = Value::String(word);
            }
        }
        Content::Scalar(_) => {}
        Content::Sequence(items) => items.iter_mut().for_each(|item| mend_letters(item, lines)),
        Content::Mapping(entries) => entries.iter_mut().for_each(|(_, value)| mend_letters(value, lines)),
    }
}

/// The sentence of an error without the place, which is told apart.
fn plain_message(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    if text.contains("budget breached") {
        return "the text is too large, or refers to itself too often".to_owned();
    }
    let first = text.lines().next().unwrap_or("not readable as YAML");
    let message = first.strip_prefix("error: ").unwrap_or(first);
    let message = match message.split_once(": ") {
        Some((head, rest)) if head.starts_with("line ") => rest,
        _ => message,
    };
    match message.rfind(" at line ") {
        Some(end) => message[..end].to_owned(),
        None => message.to_owned(),
    }
}

fn node(spanned: Spanned<Content>) -> Node {
    Node { place: place(&spanned.referenced), content: spanned.value }
}

fn place(location: &serde_saphyr::Location) -> Place {
    Place {
        line: u32::try_from(location.line()).unwrap_or(u32::MAX),
        column: u32::try_from(location.column()).unwrap_or(u32::MAX),
    }
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

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("YAML")
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Content, E> {
        // Infinity and not-a-number have no JSON; they stay readable as text.
        Ok(Content::Scalar(serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Content, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element::<Spanned<Content>>()? {
            items.push(node(item));
        }
        Ok(Content::Sequence(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Content, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            let key = Key { place: place(&key.referenced), text: key.value };
            entries.push((key, node(access.next_value::<Spanned<Content>>()?)));
        }
        Ok(Content::Mapping(entries))
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
    fn scalars_read_as_pyyaml_reads_them() {
        let document =
            parse("{a: yes, b: on, c: 0755, d: 0x1F, e: 1_000, f: ~, g: 1.5, h: '1', n: y, yes: 1, 7: N}").unwrap();
        assert_eq!(
            document.to_json(),
            json!({"a": true, "b": true, "c": 493, "d": 31, "e": 1000, "f": null, "g": 1.5, "h": "1", "n": "y", "yes": 1, "7": "N"})
        );
    }

    #[test]
    fn a_broken_text_names_its_place() {
        let error = parse("a: [b\nc: d").unwrap_err();
        assert!(error.place.line >= 1 && !error.message.contains('\n'), "{error:?}");
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let before = format!("*a{}", level - 1);
            text.push_str(&format!("a{level}: &a{level} [{}]\n", [before.as_str(); 10].join(",")));
        }
        assert!(parse(&text).is_err());
    }

    #[test]
    fn what_is_written_reads_back() {
        for value in [
            json!({"seconds": 0}),
            json!({"args": ["$EXPERIMENT", "yes", "1", " x ", "a: b", "- c", "", "#", "~", "0755"], "n": null}),
            json!("two\nlines\n"),
            json!({"deep": [{"a": [1, 2.5, true]}, {}], "empty": []}),
        ] {
            assert_eq!(parse_value(&to_text(&value)).unwrap(), value);
        }
    }
}
