//! Everything that can be wrong with a workflow file, all of it told at once with line and column.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;

use super::condition;
use super::definition::{self, Definition};
use super::yaml::{self, Content, Node, Place};

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is taken; somebody should have a look.
    Warning,
}

/// One thing that is wrong, and where.
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

/// What came of checking a file.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The workflow, when there is no error.
    pub definition: Option<Definition>,
    /// Errors and warnings in the order of the file.
    pub problems: Vec<Problem>,
}

/// The JSON schema of workflow files, for editors too.
pub const SCHEMA: &str = include_str!("workflow.schema.json");

/// Top-level keys of older files that have no meaning any more.
const IGNORED_KEYS: [&str; 2] = ["external_systems", "scantypes"];

/// Reads and checks the text of a workflow file. `functions` are the names that a callback may call.
#[must_use]
pub fn check(text: &str, functions: &[&str]) -> Checked {
    if text.trim().is_empty() {
        let place = Place { line: 1, column: 1 };
        let problem = Problem { severity: Severity::Error, place, message: "the file is empty".to_owned() };
        return Checked { definition: None, problems: vec![problem] };
    }
    let document = match yaml::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let message = format!("not readable as YAML: {}", error.message);
            let problem = Problem { severity: Severity::Error, place: error.place, message };
            return Checked { definition: None, problems: vec![problem] };
        }
    };
    let mut checker = Checker { functions, lines: text.lines().collect(), problems: Vec::new() };
    checker.check_keys(&document);
    checker.check_shape(&document);
    let has_shape = checker.problems.iter().all(|problem| problem.severity == Severity::Warning);
    checker.check_states(&document);
    // Of a graph whose states have no names of their own nothing can be said but noise.
    if has_shape && has_distinct_states(&document) {
        checker.check_graph(&document);
    }
    let mut problems = checker.problems;
    problems.sort_by_key(|problem| (problem.place, problem.severity));
    problems.dedup();
    let sound = problems.iter().all(|problem| problem.severity == Severity::Warning);
    Checked { definition: sound.then(|| Definition::from_node(&document)), problems }
}

struct Checker<'a> {
    functions: &'a [&'a str],
    /// The file, to find places inside of texts.
    lines: Vec<&'a str>,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    fn error(&mut self, node: &Node, message: impl Into<String>) {
        self.add(Severity::Error, node.place, message);
    }

    fn warning(&mut self, node: &Node, message: impl Into<String>) {
        self.add(Severity::Warning, node.place, message);
    }

    fn add(&mut self, severity: Severity, place: Place, message: impl Into<String>) {
        self.problems.push(Problem { severity, place, message: message.into() });
    }

    /// Keys that are given twice, and keys at the top that mean nothing.
    fn check_keys(&mut self, document: &Node) {
        for (key, _) in document.entries() {
            if IGNORED_KEYS.contains(&key.text.as_str()) {
                let message = format!("'{}' is not part of a workflow any more and is ignored", key.text);
                self.add(Severity::Warning, key.place, message);
            } else if key.text != "label" && key.text != "states" {
                self.add(Severity::Warning, key.place, format!("'{}' has no meaning here and is ignored", key.text));
            }
        }
        self.check_repeated_keys(document);
    }

    fn check_repeated_keys(&mut self, node: &Node) {
        if node.text().is_some_and(|text| text.contains('\0')) {
            self.error(node, "a null character cannot be stored");
        }
        let mut seen = HashSet::new();
        for (key, value) in node.entries() {
            if !seen.insert(&key.text) {
                let message = format!("'{}' is given twice; the last one counts", key.text);
                self.add(Severity::Warning, key.place, message);
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
            let pointer = error.instance_path().to_string();
            self.error(document.nearest(&pointer), format!("{}{}", subject(&pointer), shortened(&error.to_string())));
        }
    }

    /// What can be said of each state by itself.
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
                    self.error(destination, format!("there is no state '{name}'{}", suggestion(name, &labels)));
                }
            }
        }
    }

    fn check_labels(&mut self, nodes: &[Node], kind: &str) {
        let mut seen: HashMap<&str, Place> = HashMap::new();
        for node in nodes {
            let Some(text) = label(node) else { continue };
            if let Some(first) = seen.get(text) {
                let message = format!("there is a {kind} '{text}' already, in line {}", first.line);
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
            self.error(function, format!("there is no callback function '{name}'{}", suggestion(name, &known)));
        }
        if let Some(arguments) = callback.get("callback_arguments")
            && let Some(text) = arguments.text()
        {
            match yaml::parse(text) {
                Ok(Node { content: Content::Mapping(_) | Content::Scalar(Value::Null), .. }) => {}
                Ok(_) => self.error(arguments, "the text of callback_arguments is not a mapping"),
                Err(error) => self.error(arguments, format!("the text of callback_arguments is no YAML: {error}")),
            }
        }
    }

    /// A queue that cannot be called so would silently be the usual one.
    fn check_queue(&mut self, callback: &Node) {
        let Some(arguments) = callback.get("callback_arguments") else { return };
        let parsed = arguments.text().and_then(|text| yaml::parse(text).ok());
        let Some(queue) = parsed.as_ref().unwrap_or(arguments).get("queue").cloned() else { return };
        let is_sound = queue.text().is_some_and(|name| super::is_queue_name(name.trim()));
        if !is_sound && queue.to_json() != Value::Null {
            // In a text the places are those of the text.
            let place = if parsed.is_some() { arguments } else { &queue };
            self.error(place, "queue is no name of a queue: a text of at most 100 characters without spaces");
        }
    }

    fn check_condition(&mut self, node: &Node) {
        let (Some(place), Some(text)) = (node.get("condition"), definition::condition(node)) else { return };
        if let Err(error) = condition::check(&text) {
            let inner = inner_place(place, &text, &error, &self.lines);
            self.add(Severity::Error, inner, format!("condition: {}", error.message));
        }
    }

    /// One root with one exit, and ways from it to everywhere and to an end.
    fn check_graph(&mut self, document: &Node) {
        let states = document.get("states").map_or(&[][..], Node::items);
        let index: HashMap<&str, usize> =
            states.iter().enumerate().filter_map(|(at, state)| Some((label(state)?, at))).collect();
        let exits: Vec<Vec<usize>> = states.iter().map(|state| destinations(state, &index)).collect();
        let entered: HashSet<usize> = exits.iter().flatten().copied().collect();
        let roots: Vec<usize> = (0..states.len()).filter(|at| !entered.contains(at)).collect();
        let [root] = roots[..] else {
            // A state whose name is misspelled where it is led to looks like a root; that was said already.
            let misspelled = states.iter().map(|state| unknown_destinations(state, &index)).sum::<usize>();
            if roots.is_empty() || roots.len() > 1 + misspelled {
                self.report_roots(document, states, &roots);
            }
            return;
        };
        let name = |at: usize| label(&states[at]).unwrap_or_default();
        if states[root].get("transitions").map_or(0, |transitions| transitions.items().len()) != 1 {
            let message = format!("the root state '{}' must have exactly one transition", name(root));
            self.error(&states[root], message);
        }
        if states[root].get("callbacks").is_some_and(|callbacks| !callbacks.items().is_empty()) {
            let message = format!("callbacks of the root state '{}' never run: it is left at once", name(root));
            self.warning(&states[root], message);
        }
        let reached = closure(&exits, [root]);
        let ends = (0..states.len()).filter(|at| exits[*at].is_empty());
        let ending = closure(&reversed(&exits), ends);
        for (at, state) in states.iter().enumerate() {
            if !reached.contains(&at) {
                self.warning(state, format!("state '{}' cannot be reached from '{}'", name(at), name(root)));
            } else if !ending.contains(&at) {
                self.warning(state, format!("no end can be reached from state '{}'", name(at)));
            } else if exits[at].is_empty() && state.get("callbacks").is_some_and(|all| !all.items().is_empty()) {
                self.warning(state, format!("state '{}' has callbacks and no transition follows them", name(at)));
            }
        }
    }

    fn report_roots(&mut self, document: &Node, states: &[Node], roots: &[usize]) {
        if roots.is_empty() {
            let place = document.get("states").unwrap_or(document);
            self.error(place, "there is no root: every state has an incoming transition");
            return;
        }
        let names: Vec<&str> = roots.iter().filter_map(|at| label(&states[*at])).collect();
        for at in &roots[1..] {
            let message =
                format!("there must be one root, and these states have no incoming transition: {}", names.join(", "));
            self.error(&states[*at], message);
        }
    }
}

/// A mistake in our own schema would be found by the tests of this module.
static VALIDATOR: LazyLock<Option<Validator>> = LazyLock::new(|| {
    serde_json::from_str(SCHEMA).ok().and_then(|schema: Value| jsonschema::validator_for(&schema).ok())
});

/// Whether every state has a name of its own.
fn has_distinct_states(document: &Node) -> bool {
    let states = document.get("states").map_or(&[][..], Node::items);
    states.iter().filter_map(label).collect::<HashSet<_>>().len() == states.len()
}

fn label(node: &Node) -> Option<&str> {
    node.get("label").and_then(Node::text)
}

fn destinations(state: &Node, index: &HashMap<&str, usize>) -> Vec<usize> {
    let transitions = state.get("transitions").map_or(&[][..], Node::items);
    transitions.iter().filter_map(|one| index.get(one.get("destination")?.text()?).copied()).collect()
}

fn unknown_destinations(state: &Node, index: &HashMap<&str, usize>) -> usize {
    let transitions = state.get("transitions").map_or(&[][..], Node::items);
    let names = transitions.iter().filter_map(|one| one.get("destination")?.text());
    names.filter(|name| !index.contains_key(name)).count()
}

fn reversed(exits: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut entries = vec![Vec::new(); exits.len()];
    for (from, destinations) in exits.iter().enumerate() {
        for to in destinations {
            entries[*to].push(from);
        }
    }
    entries
}

/// All that can be reached from `start`, itself included.
fn closure(edges: &[Vec<usize>], start: impl IntoIterator<Item = usize>) -> HashSet<usize> {
    let mut open: Vec<usize> = start.into_iter().collect();
    let mut reached: HashSet<usize> = open.iter().copied().collect();
    while let Some(at) = open.pop() {
        for next in &edges[at] {
            if reached.insert(*next) {
                open.push(*next);
            }
        }
    }
    reached
}

/// The place inside a condition that stands in the file as it is, in one line and without escapes; the place where the
/// condition begins otherwise.
fn inner_place(node: &Node, text: &str, error: &condition::SyntaxError, lines: &[&str]) -> Place {
    let line = usize::try_from(node.place.line).ok().and_then(|line| lines.get(line.checked_sub(1)?));
    let skipped = usize::try_from(node.place.column).unwrap_or(1).saturating_sub(1);
    let rest: String = line.map(|line| line.chars().skip(skipped).collect()).unwrap_or_default();
    let quote = u32::from(rest.starts_with(['"', '\'']));
    if error.line > 1 || !rest.trim_start_matches(['"', '\'']).starts_with(text.trim_start_matches(['"', '\''])) {
        return node.place;
    }
    let is_quoted = quote == 1 && !text.starts_with(['"', '\'']);
    let column = u32::try_from(error.column).unwrap_or(1).saturating_sub(1) + u32::from(is_quoted);
    Place { column: node.place.column + column, ..node.place }
}

/// ", did you mean 'x'?" when a known name is near.
fn suggestion(name: &str, known: &HashSet<&str>) -> String {
    let distance = |other: &str| strsim::damerau_levenshtein(name, other);
    let nearest = known.iter().min_by_key(|other| (distance(other), **other));
    match nearest {
        // Two letters changed in a name of two letters is another name.
        Some(other) if distance(other) <= 2 && distance(other) < name.chars().count() => {
            format!("; did you mean '{other}'?")
        }
        _ => String::new(),
    }
}

/// The key that a message is about: `run_timeout: ` for `/states/1/callbacks/0/run_timeout`.
fn subject(pointer: &str) -> String {
    match pointer.rsplit('/').next() {
        Some(key) if !key.is_empty() && key.parse::<usize>().is_err() => format!("{key}: "),
        _ => String::new(),
    }
}

/// A message of the schema without the whole of a large value in it.
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
