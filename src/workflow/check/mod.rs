//! Checks workflow files and reports all problems at once, with line and column.

mod graph;
mod place;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;

use super::condition;
use super::definition::{self, Definition};
use super::yaml::{self, Content, Node, Place};
use graph::{has_distinct_states, label};
use place::inner_place;

/// Severity of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is accepted; its author should look at the problem.
    Warning,
}

/// A problem and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub severity: Severity,
    pub place: Place,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.severity == Severity::Error { "error" } else { "warning" };
        write!(formatter, "line {}, column {}: {word}: {}", self.place.line, self.place.column, self.message)
    }
}

/// Result of checking a file.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The workflow, if there are no errors.
    pub definition: Option<Definition>,
    /// Errors and warnings in the order of the file: the first few hundred of each, and a line with the number of the others.
    pub problems: Vec<Problem>,
    /// Number of all errors, listed or not.
    pub errors: usize,
}

/// The JSON schema of workflow files, which editors can use too.
pub const SCHEMA: &str = include_str!("../workflow.schema.json");

/// Top-level keys of older files that are ignored now.
const IGNORED_KEYS: [&str; 2] = ["external_systems", "scantypes"];

impl Checked {
    /// The file cannot be parsed.
    fn unreadable(place: Place, message: String) -> Self {
        Self { definition: None, problems: vec![Problem { severity: Severity::Error, place, message }], errors: 1 }
    }
}

/// Checks a file on a blocking thread, because a large one takes seconds.
pub async fn check_in_background(text: String, functions: &'static [&'static str]) -> Checked {
    let checked = tokio::task::spawn_blocking(move || check(&text, functions)).await;
    checked.unwrap_or_else(|error| Checked::unreadable(Place::FIRST, format!("the check itself failed: {error}")))
}

/// Reads and checks the bytes of a workflow file. `functions` are the known callback functions.
#[must_use]
pub fn check_file(bytes: &[u8], functions: &[&str]) -> Checked {
    match yaml::decode(bytes) {
        Ok(text) => check(&text, functions),
        Err(error) => Checked::unreadable(error.place, error.message),
    }
}

/// Reads and checks the text of a workflow file. `functions` are the known callback functions.
#[must_use]
pub fn check(text: &str, functions: &[&str]) -> Checked {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Checked::unreadable(Place::FIRST, "the file is empty".to_owned());
    }
    let document = match yaml::parse(text) {
        Ok(document) => document,
        Err(error) => return Checked::unreadable(error.place, format!("invalid YAML: {}", error.message)),
    };
    if matches!(document.content, Content::Scalar(Value::Null)) {
        return Checked::unreadable(
            Place::FIRST,
            "the file is empty: it contains only comments, or no \
            value"
                .to_owned(),
        );
    }
    let mut checker = Checker {
        functions,
        lines: text.lines().collect(),
        errors: Found::default(),
        warnings: Found::default(),
        comparisons: MOST_COMPARISONS,
    };
    checker.check_keys(&document);
    checker.check_shape(&document);
    let has_shape = checker.errors.count == 0;
    checker.check_states(&document);
    // Without distinct labels, problems of the graph would be meaningless.
    if has_shape && has_distinct_states(&document) {
        checker.check_graph(&document);
    }
    let (mut problems, errors) = checker.errors.take();
    problems.extend(checker.warnings.take().0);
    problems.sort_by_key(|problem| (problem.place, problem.severity));
    Checked { definition: (errors == 0).then(|| Definition::from_node(&document)), problems, errors }
}

/// Maximum number of reported problems of one severity; the others are counted. Users do not read more, and writing tens of thousands of
/// messages takes long.
const MOST: usize = 200;

/// Maximum number of comparisons for "did you mean" suggestions in a file. Each takes some microseconds.
const MOST_COMPARISONS: usize = 50_000;

struct Checker<'a> {
    functions: &'a [&'a str],
    /// The lines of the file, to find places inside of texts.
    lines: Vec<&'a str>,
    errors: Found,
    warnings: Found,
    comparisons: usize,
}

/// The problems of one severity.
#[derive(Default)]
struct Found {
    shown: Vec<Problem>,
    count: usize,
}

impl Found {
    fn take(self) -> (Vec<Problem>, usize) {
        let Self { mut shown, count } = self;
        let more = count - shown.len();
        shown.sort_by_key(|problem| problem.place);
        // An aliased part reports the same problems each time.
        let before = shown.len();
        shown.dedup();
        let count = count - (before - shown.len());
        if let Some(last) = shown.last().filter(|_| more > 0) {
            let word = if last.severity == Severity::Error { "errors" } else { "warnings" };
            let summary = Problem { message: format!("and {more} more {word}"), ..last.clone() };
            shown.push(summary);
        }
        (shown, count)
    }
}

impl Checker<'_> {
    fn error(&mut self, node: &Node, message: impl FnOnce() -> String) {
        self.add(Severity::Error, || (node.place, message()));
    }

    fn warning(&mut self, node: &Node, message: impl FnOnce() -> String) {
        self.add(Severity::Warning, || (node.place, message()));
    }

    /// Counts a problem, and stores its message while there are few.
    fn add(&mut self, severity: Severity, words: impl FnOnce() -> (Place, String)) {
        let found = if severity == Severity::Error { &mut self.errors } else { &mut self.warnings };
        found.count += 1;
        if found.shown.len() < MOST {
            let (place, message) = words();
            found.shown.push(Problem { severity, place, message });
        }
    }

    /// Duplicate keys, and unknown keys at the top level.
    fn check_keys(&mut self, document: &Node) {
        for (key, _) in document.entries() {
            if IGNORED_KEYS.contains(&key.text.as_str()) {
                let message = || format!("'{}' is no longer part of a workflow and is ignored", key.text);
                self.add(Severity::Warning, || (key.place, message()));
            } else if key.text != "label" && key.text != "states" {
                let message = || format!("'{}' is not used and is ignored", key.text);
                self.add(Severity::Warning, || (key.place, message()));
            }
        }
        self.check_repeated_keys(document);
    }

    fn check_repeated_keys(&mut self, node: &Node) {
        if node.text().is_some_and(|text| text.contains('\0')) {
            self.error(node, || "a null character cannot be stored".to_owned());
        }
        let mut seen = HashSet::new();
        for (key, value) in node.entries() {
            if !seen.insert(&key.text) {
                let message = || format!("'{}' is given twice; the last value is used", key.text);
                self.add(Severity::Warning, || (key.place, message()));
            }
            self.check_repeated_keys(value);
        }
        for item in node.items() {
            self.check_repeated_keys(item);
        }
    }

    fn check_shape(&mut self, document: &Node) {
        let value = document.to_json();
        let Some(schema) = &*VALIDATOR else { return };
        for error in schema.iter_errors(&value) {
            self.add(Severity::Error, || {
                let pointer = error.instance_path().to_string();
                let message = format!("{}{}", subject(&pointer), shortened(&error.to_string()));
                (document.nearest(&pointer).place, message)
            });
        }
    }

    /// Checks each state separately.
    fn check_states(&mut self, document: &Node) {
        let states = document.get("states").map_or(&[][..], Node::items);
        let labels: HashSet<&str> = states.iter().filter_map(label).collect();
        self.check_labels(states, "state");
        for state in states {
            let callbacks = state.get("callbacks").map_or(&[][..], Node::items);
            self.check_labels(callbacks, "callback");
            for callback in callbacks {
                self.check_callback(callback);
            }
            for transition in state.get("transitions").map_or(&[][..], Node::items) {
                self.check_condition(transition);
                if let Some(destination) = transition.get("destination")
                    && let Some(name) = destination.text()
                    && !labels.contains(name)
                {
                    let near = self.suggestion(name, &labels);
                    self.error(destination, || format!("unknown state '{name}'{near}"));
                }
            }
        }
    }

    fn check_labels(&mut self, nodes: &[Node], kind: &str) {
        let mut seen: HashMap<&str, Place> = HashMap::new();
        for node in nodes {
            let Some(text) = label(node) else { continue };
            if let Some(first) = seen.get(text) {
                let message = || format!("{kind} '{text}' already exists in line {}", first.line);
                self.error(node.get("label").unwrap_or(node), message);
            } else {
                seen.insert(text, node.place);
            }
        }
    }

    fn check_callback(&mut self, callback: &Node) {
        self.check_condition(callback);
        self.check_queue(callback);
        if let Some(function) = callback.get("function")
            && let Some(name) = function.text()
            && !self.functions.contains(&name)
        {
            let known: HashSet<&str> = self.functions.iter().copied().collect();
            let near = self.suggestion(name, &known);
            self.error(function, || format!("unknown callback function '{name}'{near}"));
        }
        if let Some(arguments) = callback.get("callback_arguments")
            && let Some(text) = arguments.text()
        {
            match yaml::parse(text) {
                Ok(Node { content: Content::Mapping(_) | Content::Scalar(Value::Null), .. }) => {}
                Ok(_) => self.error(arguments, || "callback_arguments is not a mapping".to_owned()),
                Err(error) => self.error(arguments, || format!("callback_arguments is not valid YAML: {error}")),
            }
        }
    }

    /// A queue with an invalid name would silently become the default queue.
    fn check_queue(&mut self, callback: &Node) {
        let Some(arguments) = callback.get("callback_arguments") else { return };
        let parsed = arguments.text().and_then(|text| yaml::parse(text).ok());
        let Some(queue) = parsed.as_ref().unwrap_or(arguments).get("queue").cloned() else { return };
        let is_sound = queue.text().is_some_and(|name| super::is_queue_name(name.trim()));
        if !is_sound && queue.to_json() != Value::Null {
            // Places inside a YAML text do not refer to the file.
            let place = if parsed.is_some() { arguments } else { &queue };
            let message = "queue is not a valid queue name (at most 100 characters, no spaces)";
            self.error(place, || message.to_owned());
        }
    }

    fn check_condition(&mut self, node: &Node) {
        let (Some(place), Some(text)) = (node.get("condition"), definition::condition(node)) else { return };
        match condition::review(&text) {
            Ok(findings) => {
                for finding in findings {
                    let at = (finding.line, finding.column);
                    self.about_condition(Severity::Warning, place, &text, at, &finding.message);
                }
            }
            Err(error) => {
                self.about_condition(Severity::Error, place, &text, (error.line, error.column), &error.message);
            }
        }
    }

    fn about_condition(&mut self, severity: Severity, node: &Node, text: &str, at: (usize, usize), message: &str) {
        let shown = if severity == Severity::Error { &self.errors.shown } else { &self.warnings.shown };
        // Searching for the place is expensive if the whole text is in one line.
        let place = if shown.len() < MOST { inner_place(node, text, at, &self.lines) } else { node.place };
        self.add(severity, || (place, format!("condition: {message}")));
    }

    /// "; did you mean 'x'?" if a similar name is known.
    fn suggestion(&mut self, name: &str, known: &HashSet<&str>) -> String {
        if self.comparisons < known.len() {
            return String::new();
        }
        self.comparisons -= known.len();
        suggestion(name, known)
    }
}

/// The tests of this module would find a mistake in the schema.
static VALIDATOR: LazyLock<Option<Validator>> = LazyLock::new(|| {
    serde_json::from_str(SCHEMA).ok().and_then(|schema: Value| jsonschema::validator_for(&schema).ok())
});

/// "; did you mean 'x'?" if a similar name is known.
fn suggestion(name: &str, known: &HashSet<&str>) -> String {
    let distance = |other: &str| strsim::damerau_levenshtein(name, other);
    let length = name.chars().count();
    let near = known.iter().filter(|other| other.chars().count().abs_diff(length) <= 2 && length <= 60);
    let nearest = near.min_by_key(|other| (distance(other), **other));
    match nearest {
        // With two letters changed, a name of two letters is a different name.
        Some(other) if distance(other) <= 2 && distance(other) < length => {
            format!("; did you mean '{other}'?")
        }
        _ => String::new(),
    }
}

/// The key that a message refers to: `run_timeout: ` for `/states/1/callbacks/0/run_timeout`.
fn subject(pointer: &str) -> String {
    match pointer.rsplit('/').next() {
        Some(key) if !key.is_empty() && key.parse::<usize>().is_err() => format!("{key}: "),
        _ => String::new(),
    }
}

/// A message of the schema, with large values shortened.
fn shortened(message: &str) -> String {
    const MOST: usize = 160;
    if message.chars().count() <= MOST {
        return message.to_owned();
    }
    let head: String = message.chars().take(MOST / 2).collect();
    let count = message.chars().count();
    let tail: String = message.chars().skip(count - MOST / 2).collect();
    format!("{head} … {tail}")
}
