//! Checks the graph: one root with one transition, and paths from it to every state and to a final state.

use std::collections::{HashMap, HashSet};

use super::super::yaml::Node;
use super::Checker;

/// Maximum number of root labels in one message.
const MOST_NAMES: usize = 10;

impl Checker<'_> {
    /// Checks for one root with one transition, and for paths from it to every state and to a final state.
    pub(super) fn check_graph(&mut self, document: &Node) {
        let states = document.get("states").map_or(&[][..], Node::items);
        let index: HashMap<&str, usize> =
            states.iter().enumerate().filter_map(|(at, state)| Some((label(state)?, at))).collect();
        let exits: Vec<Vec<usize>> = states.iter().map(|state| destinations(state, &index)).collect();
        let entered: HashSet<usize> = exits.iter().flatten().copied().collect();
        let roots: Vec<usize> = (0..states.len()).filter(|at| !entered.contains(at)).collect();
        let [root] = roots[..] else {
            // A state whose label is misspelled in a transition looks like a root; that was reported already.
            let misspelled = states.iter().map(|state| unknown_destinations(state, &index)).sum::<usize>();
            if roots.is_empty() || roots.len() > 1 + misspelled {
                self.report_roots(document, states, &roots);
            }
            return;
        };
        let name = |at: usize| label(&states[at]).unwrap_or_default();
        if states[root].get("transitions").map_or(0, |transitions| transitions.items().len()) != 1 {
            let message = format!("the root state '{}' must have exactly one transition", name(root));
            self.error(&states[root], || message);
        }
        if states[root].get("callbacks").is_some_and(|callbacks| !callbacks.items().is_empty()) {
            let message = format!(
                "callbacks of the root state '{}' never run, because it is left \
                immediately",
                name(root)
            );
            self.warning(&states[root], || message);
        }
        let reached = closure(&exits, [root]);
        let ends = (0..states.len()).filter(|at| exits[*at].is_empty());
        let ending = closure(&reversed(&exits), ends);
        for (at, state) in states.iter().enumerate() {
            if !reached.contains(&at) {
                self.warning(state, || format!("state '{}' cannot be reached from '{}'", name(at), name(root)));
            } else if !ending.contains(&at) {
                self.warning(state, || format!("no final state can be reached from state '{}'", name(at)));
            } else if exits[at].is_empty() && state.get("callbacks").is_some_and(|all| !all.items().is_empty()) {
                self.warning(state, || format!("state '{}' has callbacks but no outgoing transition", name(at)));
            }
        }
    }

    fn report_roots(&mut self, document: &Node, states: &[Node], roots: &[usize]) {
        if roots.is_empty() {
            let place = document.get("states").unwrap_or(document);
            self.error(place, || "there is no root state: every state has an incoming transition".to_owned());
            return;
        }
        let shown = roots.iter().take(MOST_NAMES).filter_map(|at| label(&states[*at])).collect::<Vec<_>>().join(", ");
        let names = match roots.len().saturating_sub(MOST_NAMES) {
            0 => shown,
            more => format!("{shown} and {more} more"),
        };
        for at in &roots[1..] {
            let message = || {
                format!(
                    "there must be exactly one root state, but several states have no incoming \
                transition: {names}"
                )
            };
            self.error(&states[*at], message);
        }
    }
}

/// Whether all states have distinct labels.
pub(super) fn has_distinct_states(document: &Node) -> bool {
    let states = document.get("states").map_or(&[][..], Node::items);
    states.iter().filter_map(label).collect::<HashSet<_>>().len() == states.len()
}

pub(super) fn label(node: &Node) -> Option<&str> {
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

/// All states that can be reached from `start`, including itself.
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
