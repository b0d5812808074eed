//! Imports data sets and tables as subjects and experiments.
//!
//! A source ([`bids`], [`table`]) is read completely into an [`Intake`] before anything is written, so that a mistake in its last row is
//! reported before the first row is stored. [`write()`] then registers the sessions in batches, each with all its data in one transaction.
//! Stored data is not changed; differences are reported.

mod batch;
pub mod bids;
mod bids_files;
mod bidsignore;
mod check;
mod configuration;
mod configure;
mod decode;
mod difference;
mod participants;
mod people;
mod records;
mod scans;
mod sessions;
pub mod table;
mod text_table;
mod write;

use chrono::{NaiveDate, NaiveDateTime};

use crate::study::{Label, VariableValue};

pub use batch::Outcome;
pub use check::check;
pub use configuration::{Configuration, read_configuration, read_configuration_in_background};
pub use configure::{Change, Configured, Existing, configure, plan_configuration};
pub use difference::Difference;
pub use write::{Summary, register_session, register_subject, write};

/// The content of a source.
#[derive(Debug, Clone, Default)]
pub struct Intake {
    pub sessions: Vec<Session>,
    /// Entries that cannot be imported, with their places.
    pub problems: Vec<RowProblem>,
    /// Assumed values and skipped parts, as sentences for users.
    pub notes: Vec<String>,
}

impl Intake {
    fn problem(&mut self, place: &str, message: String) {
        self.problems.push(RowProblem { place: place.to_owned(), message });
    }
}

/// Input for creating one experiment and its subject.
#[derive(Debug, Clone)]
pub struct Session {
    /// Place in the source: a line or a folder.
    pub place: String,
    pub cohort: Label,
    pub subject: Label,
    pub date_of_birth: Option<NaiveDate>,
    pub experiment: Label,
    pub scandate: NaiveDateTime,
    /// Label or id; `None` means the newest workflow.
    pub workflow: Option<String>,
    pub variables: Vec<(String, VariableValue)>,
    pub scans: Vec<ScanKind>,
    /// External systems and their ids of the experiment.
    pub external_ids: Vec<(Label, String)>,
}

/// The kind of a scan: modality and protocol.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScanKind {
    pub modality: String,
    pub protocol: String,
}

/// An entry that cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowProblem {
    /// File and line, or folder.
    pub place: String,
    pub message: String,
}

impl std::fmt::Display for RowProblem {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}", self.place, self.message)
    }
}

/// The source as a whole cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);
