//! Workflows. A workflow is written as a YAML file, [`check()`]ed with all problems reported at once, [`load()`]ed under its label and
//! followed by experiments. It is [`upgrade`]d with a plan if it must change while in use, and replaced by a workflow with a new label.
//!
//! This room knows the graph; the engine knows what a state *does* to an experiment.

mod amend;
pub mod check;
pub mod condition;
pub mod definition;
mod dot;
mod graph;
mod layout;
mod load;
mod read;
pub mod upgrade;
pub mod yaml;

use sea_orm::DbErr;

pub use crate::config::is_queue_name;
pub use amend::{AmendError, CallbackChanges, amend_callback};
pub use check::{Checked, Problem, Severity, check, check_file, check_in_background};
pub use definition::{CallbackDefinition, Definition, StateDefinition, TransitionDefinition};
pub use dot::to_dot;
pub use graph::{Graph, Graphs};
pub use layout::{Arrow, Box, Drawing, StateKind, draw};
pub use load::{callback_model, load};
pub use read::{find, newest, queue_of, read_definition, variable_map};

/// Reason why an operation on a workflow failed. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum WorkflowError {
    /// The label is taken: a new version needs a new label, and a change of this one is an upgrade.
    #[error("Workflow {0} already exists.")]
    Exists(String),
    /// The reference is neither an id nor a label of a workflow.
    #[error("unknown workflow '{0}'")]
    Unknown(String),
    /// The upgrade would remove elements that the history refers to.
    #[error("the upgrade would remove elements that the history refers to: {}", .0.join("; "))]
    InUse(Vec<String>),
    #[error(transparent)]
    Database(#[from] DbErr),
}
