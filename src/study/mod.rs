//! The data of the study: cohorts have subjects, subjects have experiments, experiments have scans and variables.
//!
//! This room creates and describes all of them; only the engine changes the state of an experiment.

pub mod board;
pub mod dossier;
pub mod files;
pub mod filter;
pub mod json;
pub mod label;
pub mod limits;
pub mod link;
pub mod listing;
pub mod overview;
pub mod queue_load;
pub mod recent;
pub mod record;
pub mod reference;
pub mod register;
pub mod revise;
pub mod search;
pub mod variable;
pub mod visible;

pub use label::{Label, LabelError};
pub use listing::Totals;
pub use reference::{Found, Reference};
pub use variable::VariableValue;
pub use visible::Visible;
