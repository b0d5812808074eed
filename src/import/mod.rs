//! Data sets and tables → subjects and experiments.
//!
//! A source ([`bids`], [`table`]) is read whole into an [`Intake`] before anything is written, so that a mistake in
//! its last row is known before the first one is stored. [`write()`] then registers the sessions in batches, each batch with all that
//! belongs to it in one transaction. What is stored already is left as it is, and differences are reported.

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

/// What a source holds.
#[derive(Debug, Clone, Default)]
pub struct Intake {
    pub sessions: Vec<Session>,
    /// What cannot be taken, and where it stands.
    pub problems: Vec<RowProblem>,
    /// What was assumed or left out, in sentences for people.
    pub notes: Vec<String>,
}

impl Intake {
    fn problem(&mut self, place: &str, message: String) {
        self.problems.push(RowProblem { place: place.to_owned(), message });
    }
}

/// One experiment to be, with its subject.
#[derive(Debug, Clone)]
pub struct Session {
    /// Where the source says it: a line or a folder.
    pub place: String,
    pub cohort: Label,
    pub subject: Label,
    pub date_of_birth: Option<NaiveDate>,
    pub experiment: Label,
    pub scandate: NaiveDateTime,
    /// Label or id; the newest when none is named.
    pub workflow: Option<String>,
    pub variables: Vec<(String, VariableValue)>,
    pub scans: Vec<ScanKind>,
    /// External system and the id that it has for the experiment.
    pub external_ids: Vec<(Label, String)>,
}

/// A series: modality and protocol.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScanKind {
    pub modality: String,
    pub protocol: String,
}

/// Something that cannot be taken.
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

/// A source that cannot be read at all.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);
