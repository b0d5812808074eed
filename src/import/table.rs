//! Reading a table with a row for each experiment.
//!
//! Columns: `subject`, `date_of_birth`, `experiment`, `scan_date`; optional `cohort`, `workflow`; any number of
//! `var:NAME` (variables) and `id:SYSTEM` (ids of the experiment in external systems).

use std::collections::{HashMap, HashSet};
use std::path::Path;

use chrono::{NaiveDate, NaiveDateTime};

use crate::study::variable::parse_moment;
use crate::study::{Label, VariableValue};

use super::tsv::{self, Row, Table};
use super::{Intake, RowProblem, Session, SourceError};

/// What the table does not say.
#[derive(Debug, Clone)]
pub struct Options {
    /// For rows without a cohort of their own.
    pub cohort: Option<Label>,
    pub workflow: Option<String>,
    pub date_of_birth_default: Option<NaiveDate>,
    /// Guessed from the header when none is given.
    pub delimiter: Option<u8>,
}

const SUBJECT: [&str; 3] = ["subject", "subject_label", "participant_id"];
const DATE_OF_BIRTH: [&str; 3] = ["date_of_birth", "dob", "birth_date"];
const EXPERIMENT: [&str; 4] = ["experiment", "experiment_label", "session", "session_id"];
const SCAN_DATE: [&str; 4] = ["scan_date", "scandate", "scan date", "acq_time"];

/// Reads the table in `file`.
///
/// # Errors
/// When the file cannot be read, or a column is missing without which nothing can be done.
pub fn read(file: &Path, options: &Options) -> Result<Intake, SourceError> {
    let delimiter = match options.delimiter {
        Some(delimiter) => delimiter,
        None => guess_delimiter(file)?,
    };
    let table = tsv::read(file, delimiter)?;
    let columns = Columns::find(&table, file)?;
    let mut intake = Intake::default();
    for name in columns.unknown(&table) {
        intake.notes.push(format!("column '{name}' is not known and is left out (variables are named var:{name})"));
    }
    for (line, message) in &table.broken {
        intake.problems.push(RowProblem { place: format!("line {line}"), message: message.clone() });
    }
    let mut seen = Seen::default();
    for row in &table.rows {
        match columns.session(row, options).and_then(|session| seen.check(session, row.line)) {
            Ok(session) => intake.sessions.push(session),
            Err(message) => intake.problems.push(RowProblem { place: format!("line {}", row.line), message }),
        }
    }
    intake.problems.sort_by_key(|problem| problem.place.trim_start_matches("line ").parse::<u64>().unwrap_or(0));
    Ok(intake)
}

/// The first of tab, semicolon and comma that is in the header.
fn guess_delimiter(file: &Path) -> Result<u8, SourceError> {
    let text = std::fs::read(file).map_err(|error| SourceError(format!("cannot read {}: {error}", file.display())))?;
    let header = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok([b'\t', b';'].into_iter().find(|delimiter| header.contains(delimiter)).unwrap_or(b','))
}

struct Columns {
    subject: String,
    date_of_birth: Option<String>,
    experiment: String,
    scan_date: String,
    variables: Vec<(String, String)>,
    systems: Vec<(String, Label)>,
}

impl Columns {
    fn find(table: &Table, file: &Path) -> Result<Self, SourceError> {
        let column = |names: &[&str]| {
            table.columns.iter().find(|column| names.contains(&column.to_ascii_lowercase().as_str())).cloned()
        };
        let missing = |name: &str| {
            SourceError(format!(
                "{}: there is no column '{name}' (columns: {})",
                file.display(),
                table.columns.join(", ")
            ))
        };
        let too_long = |column: &&String| column.strip_prefix("var:").is_some_and(|name| name.chars().count() > 255);
        if table.columns.iter().any(|column| too_long(&column)) {
            return Err(SourceError(format!("{}: a variable has a name of more than 255 characters", file.display())));
        }
        let mut seen = HashSet::new();
        if let Some(twice) = table.columns.iter().find(|column| !seen.insert(column.as_str())) {
            return Err(SourceError(format!("{}: there are two columns '{twice}'", file.display())));
        }
        let prefixed = |prefix: &'static str| {
            table
                .columns
                .iter()
                .filter_map(move |column| Some((column.clone(), column.strip_prefix(prefix)?.trim().to_owned())))
        };
        let systems = prefixed("id:").map(|(column, system)| match Label::parse(&system) {
            Ok(label) => Ok((column, label)),
            Err(error) => Err(SourceError(format!("{}: column '{column}': the system {error}", file.display()))),
        });
        Ok(Self {
            subject: column(&SUBJECT).ok_or_else(|| missing("subject"))?,
            date_of_birth: column(&DATE_OF_BIRTH),
            experiment: column(&EXPERIMENT).ok_or_else(|| missing("experiment"))?,
            scan_date: column(&SCAN_DATE).ok_or_else(|| missing("scan_date"))?,
            variables: prefixed("var:").collect(),
            systems: systems.collect::<Result<_, _>>()?,
        })
    }

    fn unknown<'a>(&'a self, table: &'a Table) -> impl Iterator<Item = &'a String> {
        table.columns.iter().filter(|column| {
            let known = [&self.subject, &self.experiment, &self.scan_date];
            !known.contains(column)
                && self.date_of_birth.as_ref() != Some(column)
                && !["cohort", "workflow"].contains(&column.as_str())
                && !column.starts_with("var:")
                && !column.starts_with("id:")
        })
    }

    fn session(&self, row: &Row, options: &Options) -> Result<Session, String> {
        let external_ids =
            self.systems.iter().filter_map(|(column, system)| Some((system.clone(), row.get(column)?.to_owned())));
        for (column, _) in &self.systems {
            let length = row.get(column).map_or(0, |id| id.chars().count());
            if length > 1024 {
                return Err(format!("{column}: has {length} characters; at most 1,024 are kept"));
            }
        }
        let cohort = match row.get("cohort") {
            Some(text) => Label::parse(text).map_err(|error| format!("cohort: {error}"))?,
            None => options.cohort.clone().ok_or("cohort: is empty; give --cohort or a column cohort")?,
        };
        let (date_of_birth, scandate) = (self.date_of_birth(row, options)?, scandate(row, &self.scan_date)?);
        if date_of_birth > scandate.date() {
            return Err(format!("date_of_birth: {date_of_birth} is after the scan date {}", scandate.date()));
        }
        Ok(Session {
            cohort,
            subject: label(row, &self.subject, "subject")?,
            experiment: label(row, &self.experiment, "experiment")?,
            date_of_birth: Some(date_of_birth),
            scandate,
            workflow: row.get("workflow").map(str::to_owned).or_else(|| options.workflow.clone()),
            variables: self
                .variables
                .iter()
                .map(|(column, name)| (name.clone(), VariableValue::from_cell(row.get(column).unwrap_or_default())))
                .collect(),
            scans: Vec::new(),
            external_ids: external_ids.collect(),
        })
    }

    fn date_of_birth(&self, row: &Row, options: &Options) -> Result<NaiveDate, String> {
        match self.date_of_birth.as_ref().and_then(|column| row.get(column)) {
            Some(text) => text.parse().map_err(|_| format!("date_of_birth: '{text}' is not a date like 1980-12-31")),
            None => options
                .date_of_birth_default
                .ok_or_else(|| "date_of_birth: is empty; give --date-of-birth-default to fill it in".to_owned()),
        }
    }
}

fn label(row: &Row, column: &str, name: &str) -> Result<Label, String> {
    Label::parse(row.get(column).unwrap_or_default()).map_err(|error| format!("{name}: {error}"))
}

fn scandate(row: &Row, column: &str) -> Result<NaiveDateTime, String> {
    let Some(text) = row.get(column) else { return Err("scan_date: is empty".to_owned()) };
    let date = || text.parse::<NaiveDate>().ok().and_then(|date| date.and_hms_opt(0, 0, 0));
    parse_moment(text)
        .or_else(date)
        .ok_or_else(|| format!("scan_date: '{text}' is not a date like 2024-12-31 or 2024-12-31T09:30:00"))
}

/// What earlier rows said, to find rows that contradict them.
#[derive(Default)]
struct Seen {
    experiments: HashMap<(Label, Label, Label), u64>,
    births: HashMap<(Label, Label), (Option<NaiveDate>, u64)>,
}

impl Seen {
    fn check(&mut self, session: Session, line: u64) -> Result<Session, String> {
        let subject = (session.cohort.clone(), session.subject.clone());
        let (born, first) = *self.births.entry(subject.clone()).or_insert((session.date_of_birth, line));
        if born != session.date_of_birth {
            let born = born.map(|born| born.to_string()).unwrap_or_default();
            return Err(format!("date_of_birth: line {first} says {born} for {}", session.subject));
        }
        let experiment = (subject.0, subject.1, session.experiment.clone());
        match self.experiments.insert(experiment, line) {
            Some(first) => {
                Err(format!("experiment: {} of {} is in line {first} already", session.experiment, session.subject))
            }
            None => Ok(session),
        }
    }
}
