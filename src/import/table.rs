//! Reads a table with one row per experiment.
//!
//! Columns, in any case: `subject`, `date_of_birth`, `experiment`, `scan_date`; optional `cohort`, `workflow`; any number of `var:NAME`
//! (variables) and `id:SYSTEM` (external ids of the experiment).

use std::collections::{HashMap, HashSet};
use std::path::Path;

use chrono::{NaiveDate, NaiveDateTime};

use crate::study::{Label, VariableValue, limits};

use super::text_table::{self, Row, Table};
use super::{Intake, RowProblem, Session, SourceError};

/// Values that the table does not contain.
#[derive(Debug, Clone)]
pub struct Options {
    /// For rows without a cohort.
    pub cohort: Option<Label>,
    pub workflow: Option<String>,
    pub date_of_birth_default: Option<NaiveDate>,
    /// `None` means to guess it from the header.
    pub delimiter: Option<u8>,
}

const SUBJECT: &[&str] = &["subject", "subject_label", "participant_id"];
const DATE_OF_BIRTH: &[&str] = &["date_of_birth", "dob", "birth_date"];
const EXPERIMENT: &[&str] = &["experiment", "experiment_label", "session", "session_id"];
const SCAN_DATE: &[&str] = &["scan_date", "scandate", "scan date", "acq_time"];

/// Reads the table in `file`.
///
/// # Errors
/// The file cannot be read, or a required column is missing.
pub fn read(file: &Path, options: &Options) -> Result<Intake, SourceError> {
    let table = text_table::read(file, options.delimiter)?;
    let columns = Columns::find(&table).map_err(|problem| SourceError(format!("{}: {problem}", file.display())))?;
    let mut intake = Intake { notes: columns.notes(&table), ..Intake::default() };
    let mut problems: Vec<(u64, String)> =
        table.broken.iter().map(|broken| (broken.line, broken.message.clone())).collect();
    let mut seen = Seen::default();
    for row in &table.rows {
        match columns.session(row, options).and_then(|session| seen.check(session, row.line)) {
            Ok(session) => intake.sessions.push(session),
            Err(message) => problems.push((row.line, message)),
        }
    }
    problems.sort_by_key(|(line, _)| *line);
    let problem = |(line, message)| RowProblem { place: format!("line {line}"), message };
    intake.problems = problems.into_iter().map(problem).collect();
    Ok(intake)
}

/// Indexes of the columns. Case does not matter in their names, except in those of variables and systems.
struct Columns {
    subject: usize,
    date_of_birth: Option<usize>,
    experiment: usize,
    scan_date: usize,
    cohort: Option<usize>,
    workflow: Option<usize>,
    variables: Vec<(usize, String)>,
    systems: Vec<(usize, Label)>,
}

impl Columns {
    fn find(table: &Table) -> Result<Self, String> {
        let missing = |name: &str| format!("there is no column '{name}' (columns: {})", table.names());
        check_names(table)?;
        let variables: Vec<(usize, String)> = prefixed(table, "var:").collect();
        for (_, name) in &variables {
            limits::variable_name(name)?;
        }
        let systems = prefixed(table, "id:").map(|(column, system)| match Label::parse(&system) {
            Ok(label) => Ok((column, label)),
            Err(error) => Err(format!("column '{}': the system {error}", table.columns[column])),
        });
        Ok(Self {
            subject: one_of(table, SUBJECT).ok_or_else(|| missing("subject"))?,
            date_of_birth: one_of(table, DATE_OF_BIRTH),
            experiment: one_of(table, EXPERIMENT).ok_or_else(|| missing("experiment"))?,
            scan_date: one_of(table, SCAN_DATE).ok_or_else(|| missing("scan_date"))?,
            cohort: one_of(table, &["cohort"]),
            workflow: one_of(table, &["workflow"]),
            variables,
            systems: systems.collect::<Result<_, _>>()?,
        })
    }

    /// A message for each column that is ignored.
    fn notes(&self, table: &Table) -> Vec<String> {
        let read: HashSet<usize> = [self.subject, self.experiment, self.scan_date]
            .into_iter()
            .chain([self.date_of_birth, self.cohort, self.workflow].into_iter().flatten())
            .chain(self.variables.iter().map(|(column, _)| *column))
            .chain(self.systems.iter().map(|(column, _)| *column))
            .collect();
        let left_out =
            table.columns.iter().enumerate().filter(|(index, name)| !name.is_empty() && !read.contains(index));
        let note = |(_, name): (usize, &String)| match alias_group(name) {
            Some(group) => {
                let taken = one_of(table, group).map_or("", |column| table.columns[column].as_str());
                format!("column '{name}' is ignored: '{taken}' is used instead")
            }
            None => {
                format!("unknown column '{name}' is ignored (to store it as a variable, rename it to var:{name})")
            }
        };
        left_out.map(note).collect()
    }

    fn session(&self, row: &Row, options: &Options) -> Result<Session, String> {
        let mut external_ids = Vec::new();
        for (column, system) in &self.systems {
            let Some(id) = row.get(*column) else { continue };
            limits::external_id(id).map_err(|problem| format!("id:{system}: {problem}"))?;
            external_ids.push((system.clone(), id.to_owned()));
        }
        let mut variables = Vec::with_capacity(self.variables.len());
        for (column, name) in &self.variables {
            let cell = row.get(*column).unwrap_or_default();
            limits::variable_value(cell).map_err(|problem| format!("var:{name}: {problem}"))?;
            variables.push((name.clone(), VariableValue::from_cell(cell)));
        }
        let cohort = match self.cohort.and_then(|column| row.get(column)) {
            Some(text) => Label::parse(text).map_err(|error| format!("cohort: {error}"))?,
            None => options.cohort.clone().ok_or("cohort: is empty; use --cohort or a column cohort")?,
        };
        let (date_of_birth, scandate) = (self.date_of_birth(row, options)?, scandate(row, self.scan_date)?);
        if date_of_birth > scandate.date() {
            return Err(format!("date_of_birth: {date_of_birth} is after the scan date {}", scandate.date()));
        }
        let workflow = self.workflow.and_then(|column| row.get(column)).map(str::to_owned);
        Ok(Session {
            place: format!("line {}", row.line),
            cohort,
            subject: label(row, self.subject, "subject")?,
            experiment: label(row, self.experiment, "experiment")?,
            date_of_birth: Some(date_of_birth),
            scandate,
            workflow: workflow.or_else(|| options.workflow.clone()),
            variables,
            scans: Vec::new(),
            external_ids,
        })
    }

    fn date_of_birth(&self, row: &Row, options: &Options) -> Result<NaiveDate, String> {
        match self.date_of_birth.and_then(|column| row.get(column)) {
            Some(text) => limits::date(text).map_err(|problem| format!("date_of_birth: {problem}")),
            None => options
                .date_of_birth_default
                .ok_or_else(|| "date_of_birth: is empty; use --date-of-birth-default to fill it in".to_owned()),
        }
    }
}

/// The first column of the table that has one of these names.
fn one_of(table: &Table, names: &[&str]) -> Option<usize> {
    table.columns.iter().position(|column| names.iter().any(|name| column.eq_ignore_ascii_case(name)))
}

fn alias_group(name: &str) -> Option<&'static [&'static str]> {
    let groups = [SUBJECT, DATE_OF_BIRTH, EXPERIMENT, SCAN_DATE];
    groups.into_iter().find(|group| group.iter().any(|alias| name.eq_ignore_ascii_case(alias)))
}

/// Whether a column is a known one.
fn is_special(name: &str) -> bool {
    alias_group(name).is_some() || ["cohort", "workflow"].iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// The columns whose name has this prefix, in any case, with the rest of the name.
fn prefixed(table: &Table, prefix: &'static str) -> impl Iterator<Item = (usize, String)> {
    table.columns.iter().enumerate().filter_map(move |(index, column)| {
        let start = column.get(..prefix.len())?;
        start.eq_ignore_ascii_case(prefix).then(|| (index, column[prefix.len()..].trim().to_owned()))
    })
}

/// Refuses two columns with the same meaning, which could contradict each other.
fn check_names(table: &Table) -> Result<(), String> {
    let mut seen: HashMap<String, &str> = HashMap::new();
    for column in table.columns.iter().filter(|column| !column.is_empty()) {
        let meaning = match column.split_once(':') {
            // The names of variables and systems are compared with their case.
            Some((prefix, name)) if ["var", "id"].iter().any(|known| prefix.eq_ignore_ascii_case(known)) => {
                format!("{}:{}", prefix.to_ascii_lowercase(), name.trim())
            }
            _ if is_special(column) => column.to_ascii_lowercase(),
            _ => column.clone(),
        };
        match seen.insert(meaning, column) {
            Some(first) if first == column => return Err(format!("there are two columns '{column}'")),
            Some(first) => return Err(format!("there are two columns '{first}' and '{column}' that mean the same")),
            None => {}
        }
    }
    Ok(())
}

fn label(row: &Row, column: usize, name: &str) -> Result<Label, String> {
    Label::parse(row.get(column).unwrap_or_default()).map_err(|error| format!("{name}: {error}"))
}

fn scandate(row: &Row, column: usize) -> Result<NaiveDateTime, String> {
    let text = row.get(column).ok_or("scan_date: is empty")?;
    limits::moment(text).map_err(|problem| format!("scan_date: {problem}"))
}

/// Values of earlier rows, to find rows that contradict them.
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
            return Err(format!("date_of_birth: line {first} has {born} for {}", session.subject));
        }
        let experiment = (subject.0, subject.1, session.experiment.clone());
        match self.experiments.insert(experiment, line) {
            Some(first) => {
                Err(format!("experiment: {} of {} is already in line {first}", session.experiment, session.subject))
            }
            None => Ok(session),
        }
    }
}
