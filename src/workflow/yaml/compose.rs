//! Builds a tree from the events of the parser: anchors, merge keys, tags, and the limits.

use std::collections::{HashMap, HashSet};

use granit_parser::{ErrorKind, Event, Marker, Options, Parser, ScalarStyle, ScanError, Span, Tag};
use serde_json::Value;

use super::{Content, Key, Node, Place, YamlError, scalar};

/// Maximum number of nodes in a document; nodes repeated by aliases count each time. 300 states have some 10,000.
const MAX_NODES: usize = 200_000;

/// Maximum nesting depth, including the levels that aliases add.
const MAX_DEPTH: usize = 64;

const TAGS: &str = "tag:yaml.org,2002:";

/// Parses one document.
pub(super) fn compose(text: &str) -> Result<Node, YamlError> {
    refuse_control_characters(text)?;
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.block_scalar_eof_without_line_feed = true;
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    let mut composer = Composer::default();
    for next in Parser::new_from_str_with_options(text, options) {
        let (event, span) = next.map_err(|error| unreadable(&error))?;
        composer.take(event, &span)?;
    }
    Ok(composer.root.unwrap_or(Node { place: Place::FIRST, content: Content::Scalar(Value::Null), spelling: None }))
}

/// Like PyYAML, refuses invisible characters in the file; in double quotes they may be written as escapes.
fn refuse_control_characters(text: &str) -> Result<(), YamlError> {
    let hidden = |one: &char| one.is_control() && !matches!(one, '\t' | '\n' | '\r' | '\u{85}');
    let Some((at, character)) = text.char_indices().find(|(_, one)| hidden(one)) else { return Ok(()) };
    let before = &text[..at];
    let place = Place {
        line: small(before.matches('\n').count() + 1),
        column: small(before.rsplit('\n').next().unwrap_or_default().chars().count() + 1),
    };
    let code = u32::from(character);
    Err(YamlError { place, message: format!("the control character U+{code:04X} is not allowed in YAML") })
}

/// A complete node.
#[derive(Clone)]
struct Whole {
    node: Node,
    /// Number of nodes in it, including itself.
    size: usize,
    /// Number of levels in it.
    depth: usize,
}

/// A node whose end has not been read yet.
struct Open {
    place: Place,
    anchor: usize,
    size: usize,
    depth: usize,
    parts: Parts,
}

enum Parts {
    Sequence(Vec<Node>),
    Mapping { entries: Vec<(Key, Node)>, merged: Vec<(Place, Node)>, key: Option<PendingKey> },
}

enum PendingKey {
    Name(Key),
    /// `<<`: the next node is merged into the mapping.
    Merge(Place),
}

#[derive(Default)]
struct Composer {
    open: Vec<Open>,
    anchors: HashMap<usize, Whole>,
    root: Option<Node>,
    written: usize,
    copied: usize,
}

impl Composer {
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), YamlError> {
        let place = place(&span.start);
        match event {
            Event::DocumentStart(..) if self.root.is_some() => {
                Err(wrong(place, "the text has more than one document, and only one is read; the second starts here"))
            }
            Event::Scalar(text, style, anchor, tag) => {
                // As a key, `<<` is not a text.
                if style == ScalarStyle::Plain && text == "<<" && tag.is_none() && self.expects_key() {
                    self.set_key(PendingKey::Merge(place));
                    return Ok(());
                }
                let node = scalar_node(place, &text, style, tag.as_deref())?;
                self.count(place)?;
                self.finish(anchor, Whole { node, size: 1, depth: 1 })
            }
            Event::SequenceStart(_, anchor, tag) => {
                check_tag(place, tag.as_deref(), &["seq", "omap", "pairs"])?;
                self.open(place, anchor, Parts::Sequence(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                check_tag(place, tag.as_deref(), &["map", "set"])?;
                self.open(place, anchor, Parts::Mapping { entries: Vec::new(), merged: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => {
                let mut known = self
                    .anchors
                    .get(&anchor)
                    .cloned()
                    .ok_or_else(|| wrong(place, "this alias is inside the node that it refers to"))?;
                known.node.place = place;
                self.count_copies(place, known.size)?;
                self.finish(0, known)
            }
            _ => Ok(()),
        }
    }

    /// Counts the nodes in the file, and refuses a text with too many.
    fn count(&mut self, place: Place) -> Result<(), YamlError> {
        self.written += 1;
        if self.written > MAX_NODES {
            return Err(wrong(place, format!("the text is too large: it has more than {MAX_NODES} parts")));
        }
        Ok(())
    }

    /// Counts copied nodes: copies for an alias, and those stored for later aliases. Nested anchors could copy a large text many times.
    fn count_copies(&mut self, place: Place, parts: usize) -> Result<(), YamlError> {
        self.copied += parts;
        if self.copied > MAX_NODES {
            let message = format!("aliases repeat so much that the text would have more than {MAX_NODES} parts");
            return Err(wrong(place, message));
        }
        Ok(())
    }

    fn expects_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { parts: Parts::Mapping { key: None, .. }, .. }))
    }

    fn open(&mut self, place: Place, anchor: usize, parts: Parts) -> Result<(), YamlError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(wrong(place, format!("parts are nested more than {MAX_DEPTH} levels deep")));
        }
        self.open.push(Open { place, anchor, size: 1, depth: 1, parts });
        self.count(place)
    }

    fn close(&mut self) -> Result<(), YamlError> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let content = match open.parts {
            Parts::Sequence(items) => Content::Sequence(items),
            Parts::Mapping { entries, merged, .. } => Content::Mapping(with_merged(entries, merged)?),
        };
        let node = Node { place: open.place, content, spelling: None };
        self.finish(open.anchor, Whole { node, size: open.size, depth: open.depth })
    }

    /// Adds a complete node to its parent, and stores it under its anchor.
    fn finish(&mut self, anchor: usize, whole: Whole) -> Result<(), YamlError> {
        let place = whole.node.place;
        if self.open.len() + whole.depth > MAX_DEPTH {
            return Err(wrong(place, format!("parts are nested more than {MAX_DEPTH} levels deep")));
        }
        if anchor != 0 {
            self.count_copies(place, whole.size)?;
            self.anchors.insert(anchor, whole.clone());
        }
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(whole.node);
            return Ok(());
        };
        parent.size += whole.size;
        parent.depth = parent.depth.max(whole.depth + 1);
        match &mut parent.parts {
            Parts::Sequence(items) => items.push(whole.node),
            Parts::Mapping { entries, merged, key } => match key.take() {
                Some(PendingKey::Name(key)) => entries.push((key, whole.node)),
                Some(PendingKey::Merge(place)) => merged.push((place, whole.node)),
                None => *key = Some(PendingKey::Name(name_of(whole.node)?)),
            },
        }
        Ok(())
    }

    fn set_key(&mut self, pending: PendingKey) {
        if let Some(Open { parts: Parts::Mapping { key, .. }, .. }) = self.open.last_mut() {
            *key = Some(pending);
        }
    }
}

/// A key is its written text, even if it would be a number or a date as a value.
fn name_of(node: Node) -> Result<Key, YamlError> {
    match (node.content, node.spelling) {
        (Content::Scalar(Value::String(text)), None) => Ok(Key { place: node.place, text }),
        (Content::Scalar(_), Some(spelling)) => Ok(Key { place: node.place, text: spelling.into() }),
        (Content::Scalar(_), None) => Ok(Key { place: node.place, text: String::new() }),
        _ => Err(wrong(node.place, "a key must be a single value, not a list or a mapping")),
    }
}

/// Merges mappings as PyYAML does: keys of the mapping itself win; of several mappings in one list, the first wins.
fn with_merged(own: Vec<(Key, Node)>, merged: Vec<(Place, Node)>) -> Result<Vec<(Key, Node)>, YamlError> {
    if merged.is_empty() {
        return Ok(own);
    }
    let mut under: Vec<(Key, Node)> = Vec::new();
    for (place, node) in merged {
        let is_wrong = || wrong(place, "'<<' requires a mapping or a list of mappings");
        match node.content {
            Content::Mapping(entries) => under.extend(entries),
            Content::Sequence(items) => {
                for item in items.into_iter().rev() {
                    let Content::Mapping(entries) = item.content else { return Err(is_wrong()) };
                    under.extend(entries);
                }
            }
            Content::Scalar(_) => return Err(is_wrong()),
        }
    }
    let mut known: HashSet<String> = own.iter().map(|(key, _)| key.text.clone()).collect();
    // Backwards, because the last of the merged mappings wins.
    let mut kept: Vec<(Key, Node)> =
        under.into_iter().rev().filter(|(key, _)| known.insert(key.text.clone())).collect();
    kept.reverse();
    kept.extend(own);
    Ok(kept)
}

fn scalar_node(place: Place, text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Node, YamlError> {
    let value = match tag.map(known_tag) {
        None if style == ScalarStyle::Plain => scalar::resolve(text),
        None => text.into(),
        Some(tag) => tagged(place, text, &tag)?,
    };
    let spelling = (!value.is_string()).then(|| text.into());
    Ok(Node { place, content: Content::Scalar(value), spelling })
}

fn tagged(place: Place, text: &str, tag: &str) -> Result<Value, YamlError> {
    let value = match tag {
        // `!` alone means no tag.
        "!" => Some(scalar::resolve(text)),
        "str" | "timestamp" => Some(text.into()),
        "null" => Some(Value::Null),
        "bool" => Some(scalar::resolve(&text.to_lowercase())).filter(Value::is_boolean),
        "int" => scalar::integer(text),
        "float" => scalar::tagged_float(text),
        tag => return Err(wrong(place, format!("the tag {} is not supported", shown_tag(tag)))),
    };
    value.ok_or_else(|| wrong(place, format!("'{text}' is not a value of the type !!{tag}")))
}

fn check_tag(place: Place, tag: Option<&Tag>, allowed: &[&str]) -> Result<(), YamlError> {
    match tag.map(known_tag) {
        Some(tag) if tag != "!" && !allowed.contains(&tag.as_str()) => {
            Err(wrong(place, format!("the tag {} is not supported here", shown_tag(&tag))))
        }
        _ => Ok(()),
    }
}

/// The name of a standard YAML tag; any other tag in its written form.
fn known_tag(tag: &Tag) -> String {
    tag.suffix_in_namespace(TAGS).map_or_else(|| tag.original(), std::borrow::Cow::into_owned)
}

fn shown_tag(tag: &str) -> String {
    if tag.starts_with('!') { tag.to_owned() } else { format!("!!{tag}") }
}

/// Converts a parser error to a message. The parser uses terms of the grammar; common mistakes get plain words.
fn unreadable(error: &ScanError) -> YamlError {
    let message = match error.kind() {
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabInPlainScalar => "a tab is not allowed here; indent with spaces".to_owned(),
        ErrorKind::UnknownAnchor => "this alias refers to an anchor that is not defined before it".to_owned(),
        ErrorKind::UnclosedQuotedScalar => "a quote is not closed".to_owned(),
        ErrorKind::UnclosedFlowCollection { open } => format!("the bracket '{open}' is not closed"),
        ErrorKind::UnexpectedCharacter { character } => {
            format!("a value cannot start with '{}'; put it in quotes", character.escape_default())
        }
        ErrorKind::RecursionLimitExceeded => format!("parts are nested more than {MAX_DEPTH} levels deep"),
        ErrorKind::BomInsideDocument => "there is a byte order mark in the middle of the text".to_owned(),
        ErrorKind::MappingValueNotAllowed => {
            "a ':' is not allowed here; put a value that contains ': ' in quotes, and check the indentation".to_owned()
        }
        ErrorKind::UnexpectedEof => "unexpected end of the text".to_owned(),
        kind => kind.to_string(),
    };
    wrong(place(error.marker()), message)
}

fn wrong(place: Place, message: impl Into<String>) -> YamlError {
    YamlError { place, message: message.into() }
}

fn place(marker: &Marker) -> Place {
    Place { line: small(marker.line()), column: small(marker.col() + 1) }
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
