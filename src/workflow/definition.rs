//! The content of a valid workflow file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::yaml::{self, Node};

/// A workflow in the form shared by files and the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    pub label: String,
    pub states: Vec<StateDefinition>,
}

/// A state with its callbacks and outgoing transitions, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDefinition {
    pub label: String,
    pub freetext: Option<String>,
    pub callbacks: Vec<CallbackDefinition>,
    pub transitions: Vec<TransitionDefinition>,
}

/// A transition to another state. Without a condition it is always open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransitionDefinition {
    pub destination: String,
    pub condition: Option<String>,
}

/// Work to do when a state is entered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallbackDefinition {
    pub label: String,
    pub function: String,
    /// YAML text of a mapping.
    pub callback_arguments: String,
    /// Target label → JSON pointer; may be empty.
    pub variable_map: BTreeMap<String, String>,
    /// Minutes; `None` means no limit.
    pub run_timeout: Option<i32>,
    /// Minutes; `None` or 0 means that there is no wait stage.
    pub wait_timeout: Option<i32>,
    /// Seconds.
    pub initial_delay: i32,
    pub description: Option<String>,
    pub condition: Option<String>,
    pub retries: i32,
    /// Seconds.
    pub retry_delay: i32,
}

/// Run timeout in minutes if the file has none: the default of version 8.1.
const DEFAULT_RUN_TIMEOUT: i32 = 60;

impl Definition {
    /// Builds the definition from a document in which [`super::check`] found no errors.
    pub(super) fn from_node(document: &Node) -> Self {
        let states = document.get("states").map_or(&[][..], Node::items);
        Self { label: text(document, "label").unwrap_or_default(), states: states.iter().map(state).collect() }
    }
}

fn state(node: &Node) -> StateDefinition {
    StateDefinition {
        label: text(node, "label").unwrap_or_default(),
        freetext: text(node, "freetext"),
        callbacks: node.get("callbacks").map_or(&[][..], Node::items).iter().map(callback).collect(),
        transitions: node.get("transitions").map_or(&[][..], Node::items).iter().map(transition).collect(),
    }
}

fn transition(node: &Node) -> TransitionDefinition {
    TransitionDefinition { destination: text(node, "destination").unwrap_or_default(), condition: condition(node) }
}

fn callback(node: &Node) -> CallbackDefinition {
    let variable_map = node.get("variable_map").map_or(&[][..], Node::entries);
    CallbackDefinition {
        label: text(node, "label").unwrap_or_default(),
        function: text(node, "function").unwrap_or_default(),
        callback_arguments: arguments(node),
        variable_map: variable_map
            .iter()
            .map(|(target, source)| (target.text.clone(), source.text().unwrap_or_default().to_owned()))
            .collect(),
        run_timeout: match node.get("run_timeout") {
            None => Some(DEFAULT_RUN_TIMEOUT),
            Some(_) => number(node, "run_timeout"),
        },
        wait_timeout: match node.get("wait_timeout") {
            None => Some(0),
            Some(_) => number(node, "wait_timeout"),
        },
        initial_delay: number(node, "initial_delay").unwrap_or(0),
        description: text(node, "description"),
        condition: condition(node),
        retries: number(node, "retries").unwrap_or(0),
        retry_delay: number(node, "retry_delay").unwrap_or(0),
    }
}

/// Arguments may be a mapping or a YAML text; they are stored as text.
fn arguments(node: &Node) -> String {
    match node.get("callback_arguments").map(Node::to_json) {
        None | Some(Value::Null) => "{}\n".to_owned(),
        Some(Value::String(text)) => text,
        Some(mapping) => yaml::to_text(&mapping),
    }
}

/// A blank condition counts as missing. Unquoted `true` and `false` mean the Python words.
pub(super) fn condition(node: &Node) -> Option<String> {
    match node.get("condition")?.to_json() {
        Value::String(text) if !text.trim().is_empty() => Some(text),
        Value::Bool(true) => Some("True".to_owned()),
        Value::Bool(false) => Some("False".to_owned()),
        _ => None,
    }
}

fn text(node: &Node, key: &str) -> Option<String> {
    node.get(key).and_then(Node::text).map(str::to_owned)
}

fn number(node: &Node, key: &str) -> Option<i32> {
    let value = node.get(key)?.to_json();
    // `60.0` is a whole number too.
    #[expect(clippy::cast_possible_truncation, reason = "checked to be whole, and to fit below")]
    let whole =
        || value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < 1e15).map(|number| number as i64);
    value.as_i64().or_else(whole).and_then(|value| i32::try_from(value).ok())
}
