//! Layout of a workflow's picture: the positions of boxes and arrows.

use std::collections::{HashSet, VecDeque};

use dagre::graph::{Graph, GraphOptions};
use dagre::{EdgeLabel, LayoutOptions, NodeLabel};

use super::Definition;

/// The kind of a state, which decides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StateKind {
    /// Experiments begin here and leave at once.
    Root,
    /// Has callbacks.
    Automatic,
    /// Waits for a person or a script.
    Manual,
    /// Has no outgoing transitions.
    End,
}

/// A state in the picture; `x` and `y` are its centre, in pixels.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Box {
    pub label: String,
    pub kind: StateKind,
    pub callbacks: usize,
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

/// A transition in the picture.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Arrow {
    pub from: String,
    pub to: String,
    pub condition: Option<String>,
    /// The `d` of an SVG path.
    pub path: String,
}

/// The whole picture; sizes in pixels.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Drawing {
    pub label: String,
    pub width: f64,
    pub height: f64,
    pub boxes: Vec<Box>,
    pub arrows: Vec<Arrow>,
}

const CHARACTER_WIDTH: f64 = 8.2;
const BOX_HEIGHT: f64 = 46.0;

/// Number of states up to which every transition takes part in the layout. In larger workflows only one transition into each state does,
/// and the others are drawn straight: the layout reserves space for a transition in each row that it passes, which takes minutes if
/// hundreds of states lead to one final state.
const FULL_LAYOUT: usize = 40;

/// Arranges the picture from top to bottom, with the states in the order of the workflow.
#[must_use]
pub fn draw(definition: &Definition) -> Drawing {
    let mut graph: Graph<NodeLabel, EdgeLabel> =
        Graph::with_options(GraphOptions { directed: true, multigraph: true, compound: false });
    for (index, state) in definition.states.iter().enumerate() {
        let mut node = NodeLabel::default();
        #[expect(clippy::cast_precision_loss, reason = "a label has at most 100 characters")]
        let characters = state.label.chars().count() as f64;
        node.width = (characters * CHARACTER_WIDTH + 28.0).max(96.0);
        node.height = BOX_HEIGHT;
        graph.set_node(index.to_string(), Some(node));
    }
    let ends = edges(definition);
    let leading = (definition.states.len() > FULL_LAYOUT).then(|| leading_edges(definition.states.len(), &ends));
    for (name, (from, to, _)) in ends.iter().enumerate() {
        if leading.as_ref().is_some_and(|leading| !leading.contains(&name)) {
            continue;
        }
        graph.set_edge(from.to_string(), to.to_string(), Some(EdgeLabel::default()), Some(&name.to_string()));
    }
    let options = LayoutOptions {
        nodesep: 36.0,
        ranksep: 46.0,
        edgesep: 18.0,
        marginx: 12.0,
        marginy: 12.0,
        ..LayoutOptions::default()
    };
    dagre::layout(&mut graph, Some(options));
    collect(definition, &graph, &ends)
}

/// Index of the source, index of the destination, condition.
fn edges(definition: &Definition) -> Vec<(usize, usize, Option<String>)> {
    let index = |label: &str| definition.states.iter().position(|state| state.label == label);
    let mut all = Vec::new();
    for (from, state) in definition.states.iter().enumerate() {
        for transition in &state.transitions {
            if let Some(to) = index(&transition.destination) {
                all.push((from, to, transition.condition.clone()));
            }
        }
    }
    all
}

/// For each state, the transition by which a breadth-first search first reaches it.
fn leading_edges(states: usize, ends: &[(usize, usize, Option<String>)]) -> HashSet<usize> {
    let mut ways: Vec<Vec<(usize, usize)>> = vec![Vec::new(); states];
    for (name, (from, to, _)) in ends.iter().enumerate() {
        ways[*from].push((name, *to));
    }
    let mut leading = HashSet::new();
    let mut reached = vec![false; states];
    // Begins at the first state, which is the root in files; then at states that were not reached.
    for start in 0..states {
        if std::mem::replace(&mut reached[start], true) {
            continue;
        }
        let mut open = VecDeque::from([start]);
        while let Some(at) = open.pop_front() {
            for (name, to) in &ways[at] {
                if !std::mem::replace(&mut reached[*to], true) {
                    leading.insert(*name);
                    open.push_back(*to);
                }
            }
        }
    }
    leading
}

fn collect(
    definition: &Definition,
    graph: &Graph<NodeLabel, EdgeLabel>,
    ends: &[(usize, usize, Option<String>)],
) -> Drawing {
    let mut drawing =
        Drawing { label: definition.label.clone(), width: 0.0, height: 0.0, boxes: Vec::new(), arrows: Vec::new() };
    for (index, state) in definition.states.iter().enumerate() {
        let node = graph.node(&index.to_string()).cloned().unwrap_or_default();
        let (x, y) = (node.x.unwrap_or_default(), node.y.unwrap_or_default());
        drawing.width = drawing.width.max(x + node.width / 2.0 + 12.0);
        drawing.height = drawing.height.max(y + node.height / 2.0 + 12.0);
        drawing.boxes.push(Box {
            label: state.label.clone(),
            kind: kind_of(definition, index),
            callbacks: state.callbacks.len(),
            x,
            y,
            width: node.width,
            height: node.height,
        });
    }
    for (name, (from, to, condition)) in ends.iter().enumerate() {
        let points: Vec<(f64, f64)> = match graph.edge(&from.to_string(), &to.to_string(), Some(&name.to_string())) {
            Some(edge) => edge.points.iter().map(|point| (point.x, point.y)).collect(),
            None => straight(&drawing.boxes[*from], &drawing.boxes[*to]),
        };
        for (x, y) in &points {
            drawing.width = drawing.width.max(x + 12.0);
            drawing.height = drawing.height.max(y + 12.0);
        }
        drawing.arrows.push(Arrow {
            from: definition.states[*from].label.clone(),
            to: definition.states[*to].label.clone(),
            condition: condition.clone(),
            path: smooth_path(&points),
        });
    }
    drawing
}

/// From the lower edge of one box to the upper edge of the other, or sideways if the other is not below.
fn straight(from: &Box, to: &Box) -> Vec<(f64, f64)> {
    if to.y > from.y {
        vec![(from.x, from.y + from.height / 2.0), (to.x, to.y - to.height / 2.0)]
    } else {
        let side = (from.x - from.width / 2.0).min(to.x - to.width / 2.0) - 10.0;
        vec![
            (from.x - from.width / 2.0, from.y),
            (side.max(2.0), f64::midpoint(from.y, to.y)),
            (to.x - to.width / 2.0, to.y),
        ]
    }
}

/// The kind of the state at `index`.
pub(super) fn kind_of(definition: &Definition, index: usize) -> StateKind {
    let state = &definition.states[index];
    let entered = definition
        .states
        .iter()
        .any(|other| other.transitions.iter().any(|transition| transition.destination == state.label));
    match (entered, state.callbacks.is_empty(), state.transitions.is_empty()) {
        (false, _, false) => StateKind::Root,
        (_, true, true) => StateKind::End,
        (_, true, false) => StateKind::Manual,
        _ => StateKind::Automatic,
    }
}

/// A smooth curve whose control points are those of the layout, through the middles between them.
fn smooth_path(points: &[(f64, f64)]) -> String {
    let Some(((x, y), rest)) = points.split_first() else { return String::new() };
    let mut path = format!("M{x:.1},{y:.1}");
    for (index, (x, y)) in rest.iter().enumerate() {
        match rest.get(index + 1) {
            Some((next_x, next_y)) => {
                let (middle_x, middle_y) = (f64::midpoint(*x, *next_x), f64::midpoint(*y, *next_y));
                path.push_str(&format!(" Q{x:.1},{y:.1} {middle_x:.1},{middle_y:.1}"));
            }
            None => path.push_str(&format!(" L{x:.1},{y:.1}")),
        }
    }
    path
}
