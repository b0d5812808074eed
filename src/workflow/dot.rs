//! Writes a workflow as a graph for Graphviz.

use std::fmt::Write;

use super::Definition;
use super::layout::{StateKind, kind_of};

/// The content of a `.dot` file.
#[must_use]
pub fn to_dot(definition: &Definition) -> String {
    let mut text = format!("digraph {} {{\n", quoted(&definition.label));
    text.push_str("  node [shape=box, style=\"rounded,filled\", fillcolor=white];\n");
    for (index, state) in definition.states.iter().enumerate() {
        let color = match kind_of(definition, index) {
            StateKind::Root => "gray90",
            StateKind::Automatic => "lightblue",
            StateKind::Manual => "gold",
            StateKind::End => "palegreen",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {} [fillcolor={color}];", quoted(&state.label));
    }
    for state in &definition.states {
        for transition in &state.transitions {
            let label =
                transition.condition.as_deref().map(|condition| format!(" [label={}]", quoted(condition.trim())));
            let (from, to) = (quoted(&state.label), quoted(&transition.destination));
            let _ = writeln!(text, "  {from} -> {to}{};", label.unwrap_or_default());
        }
    }
    text.push_str("}\n");
    text
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
