//! Data sets and tables → subjects and experiments.
//!
//! A source ([`bids`], [`table`]) is read whole into an [`Intake`] before anything is written, so that a mistake in
//! its last row is known before the first one is stored. [`write()`] then registers one session after the other, each
//! with all that belongs to it in one transaction. What is there already is left as it is.

pub mod bids;
mod configuration;
mod configure;
mod people;
mod scans;
pub mod table;
mod tsv;
mod write;

use chrono::{NaiveDate, NaiveDateTime};

use crate::study::{Label, VariableValue};

pub use configuration::{Configuration, read_configuration, read_configuration_in_background};
pub use configure::{Change, Configured, Existing, configure, plan_configuration};
pub use write::{Outcome, Summary, register_session, register_subject, write};

/// What a source holds.
#[derive(Debug, Clone, Default)]
pub struct Intake {
    pub sessions: Vec<Session>,
    /// What cannot be taken, and where it stands.
    pub problems: Vec<RowProblem>,
    /// What was assumed or left out, in sentences for people.
    pub notes: Vec<String>,
}

/// One experiment to be, with its subject.
#[derive(Debug, Clone)]
pub struct Session {
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

/// `1 January` of the year in which somebody of `age` years at the time of the scan was probably born.
fn year_of_birth(scandate: NaiveDateTime, age: f64) -> Option<NaiveDate> {
    use chrono::Datelike;
    if !(0.0..=130.0).contains(&age) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked to be at most 130")]
    let years = age.floor() as i32;
    NaiveDate::from_ymd_opt(scandate.year() - years, 1, 1)
}
