//! Reading a BIDS data set (Brain Imaging Data Structure 1.8, bids-specification.readthedocs.io).
//!
//! A subject for each `sub-` folder, an experiment for each `ses-` folder in it, or one when there are none.
//!
//! What a data set does not say is filled in by these rules, and printed:
//! - **scan date**: the earliest `acq_time` of the session's `scans.tsv`; else `acq_time` of the session in
//!   `sessions.tsv`; else the earliest date of the subject's other sessions; else the default that was given.
//! - **date of birth**: `date_of_birth` of `participants.tsv`; else 1 January of the year of the subject's first scan
//!   minus `age`; else the default that was given.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use chrono::{NaiveDate, NaiveDateTime};

use crate::study::variable::parse_moment;
use crate::study::{Label, VariableValue};

use super::scans::scans_of;
use super::tsv::{self, Row, Table};
use super::{Intake, RowProblem, Session, SourceError, year_of_birth};

/// What the data set does not say.
#[derive(Debug, Clone)]
pub struct Options {
    pub cohort: Label,
    /// Label or id; the newest when none is named.
    pub workflow: Option<String>,
    pub date_of_birth_default: Option<NaiveDate>,
    pub scan_date_default: Option<NaiveDateTime>,
}

/// Reads the data set in `folder`.
///
/// # Errors
/// When the folder cannot be read or holds no subjects.
pub fn read(folder: &Path, options: &Options) -> Result<Intake, SourceError> {
    let participants_file = folder.join("participants.tsv");
    let participants = match participants_file.is_file() {
        true => tsv::read(&participants_file, b'\t')?,
        false => Table::default(),
    };
    let subjects = folders(folder, "sub-")?;
    if subjects.is_empty() {
        return Err(SourceError(format!("{} holds no BIDS data set: there is no folder sub-…", folder.display())));
    }
    let mut reader = Reader { options, intake: Intake::default(), assumed: Assumed::default() };
    reader.check_participants(&participants, &subjects);
    let by_id: HashMap<&str, &Row> =
        participants.rows.iter().filter_map(|row| Some((row.get("participant_id")?, row))).collect();
    for subject in &subjects {
        reader.read_subject(subject, by_id.get(name(subject).as_str()).copied(), &participants.columns)?;
    }
    reader.tell_assumptions();
    Ok(reader.intake)
}

/// How often something was filled in.
#[derive(Default)]
struct Assumed {
    born_by_age: usize,
    born_by_default: usize,
    dated_by_other_session: usize,
    dated_by_default: usize,
}

struct Reader<'a> {
    options: &'a Options,
    intake: Intake,
    assumed: Assumed,
}

/// A session before the rest of its subject is known.
struct Found {
    label: String,
    folder: PathBuf,
    date: Option<NaiveDateTime>,
    listed: Vec<String>,
    variables: Vec<(String, VariableValue)>,
}

impl Reader<'_> {
    fn check_participants(&mut self, participants: &Table, subjects: &[PathBuf]) {
        for (line, message) in &participants.broken {
            self.problem(format!("participants.tsv line {line}"), message);
        }
        for row in &participants.rows {
            match row.get("participant_id") {
                None => self.problem(format!("participants.tsv line {}", row.line), "participant_id is empty"),
                Some(id) if !subjects.iter().any(|folder| name(folder) == id) => {
                    self.intake.notes.push(format!("{id} of participants.tsv has no folder and is left out"));
                }
                Some(_) => {}
            }
        }
    }

    fn problem(&mut self, place: String, message: &str) {
        self.intake.problems.push(RowProblem { place, message: message.to_owned() });
    }

    fn read_subject(&mut self, folder: &Path, row: Option<&Row>, columns: &[String]) -> Result<(), SourceError> {
        let id = name(folder);
        if id == "sub-emptyroom" {
            // BIDS 1.8, MEG: recordings of the empty room are filed under a subject of this name.
            self.intake
                .notes
                .push("sub-emptyroom holds recordings of the empty room, not of a person: left out".to_owned());
            return Ok(());
        }
        let subject = match Label::parse(&id) {
            Ok(subject) => subject,
            Err(error) => {
                self.problem(folder.display().to_string(), &format!("the subject's label {error}"));
                return Ok(());
            }
        };
        let sessions = find_sessions(folder, &id)?;
        let first = sessions.iter().filter_map(|session| session.date).min();
        let Some(dated) = self.date_sessions(sessions, first) else { return Ok(()) };
        let first = dated.iter().map(|(date, _)| *date).min();
        let Some(date_of_birth) = first.and_then(|first| self.date_of_birth(folder, row, first)) else { return Ok(()) };
        let known = participant_variables(row, columns);
        for (scandate, session) in dated {
            let Ok(experiment) = Label::parse(&session.label) else {
                self.problem(session.folder.display().to_string(), "the name of the session is no label");
                continue;
            };
            let mut variables = known.clone();
            variables.extend(session.variables);
            self.intake.sessions.push(Session {
                cohort: self.options.cohort.clone(),
                subject: subject.clone(),
                date_of_birth: Some(date_of_birth),
                experiment,
                scandate,
                workflow: self.options.workflow.clone(),
                variables,
                scans: scans_of(&session.folder, &session.listed),
                external_ids: Vec::new(),
            });
        }
        Ok(())
    }

    /// Every session with its date, or nothing and a problem.
    fn date_sessions(
        &mut self,
        sessions: Vec<Found>,
        first: Option<NaiveDateTime>,
    ) -> Option<Vec<(NaiveDateTime, Found)>> {
        let mut dated = Vec::with_capacity(sessions.len());
        for session in sessions {
            let date = match (session.date, first, self.options.scan_date_default) {
                (Some(date), _, _) => date,
                (None, Some(other), _) => {
                    self.assumed.dated_by_other_session += 1;
                    other
                }
                (None, None, Some(default)) => {
                    self.assumed.dated_by_default += 1;
                    default
                }
                (None, None, None) => {
                    let message = "no scan date: there is no acq_time; give --scan-date-default";
                    self.problem(session.folder.display().to_string(), message);
                    return None;
                }
            };
            dated.push((date, session));
        }
        Some(dated)
    }

    fn date_of_birth(&mut self, folder: &Path, row: Option<&Row>, first_scan: NaiveDateTime) -> Option<NaiveDate> {
        if let Some(text) = row.and_then(|row| row.get("date_of_birth")) {
            let date = text.parse().ok();
            if date.is_none() {
                let line = row.map_or(0, |row| row.line);
                let message = format!("date_of_birth: '{text}' is not a date like 1980-12-31");
                self.problem(format!("participants.tsv line {line}"), &message);
            }
            return date;
        }
        // "89+" stands for everybody older, to protect who they are.
        let age = row.and_then(|row| row.get("age")).and_then(|age| age.trim_end_matches('+').parse().ok());
        if let Some(date) = age.and_then(|age| year_of_birth(first_scan, age)) {
            self.assumed.born_by_age += 1;
            return Some(date);
        }
        if self.options.date_of_birth_default.is_some() {
            self.assumed.born_by_default += 1;
        } else {
            let message = "no date of birth and no age in participants.tsv; give --date-of-birth-default";
            self.problem(folder.display().to_string(), message);
        }
        self.options.date_of_birth_default
    }

    fn tell_assumptions(&mut self) {
        let Assumed { born_by_age, born_by_default, dated_by_other_session, dated_by_default } = self.assumed;
        let mut tell = |count: usize, sentence: String| {
            if count > 0 {
                self.intake.notes.push(sentence);
            }
        };
        tell(
            born_by_age,
            format!("{born_by_age} dates of birth: 1 January of the year of the first scan minus the age"),
        );
        if let Some(date) = self.options.date_of_birth_default {
            tell(born_by_default, format!("{born_by_default} dates of birth: {date}, the given default"));
        }
        tell(
            dated_by_other_session,
            format!("{dated_by_other_session} scan dates: the earliest date of the subject's other sessions"),
        );
        if let Some(date) = self.options.scan_date_default {
            tell(dated_by_default, format!("{dated_by_default} scan dates: {date}, the given default"));
        }
    }
}

fn find_sessions(subject: &Path, id: &str) -> Result<Vec<Found>, SourceError> {
    let table = subject.join(format!("{id}_sessions.tsv"));
    let table = if table.is_file() { tsv::read(&table, b'\t')? } else { Table::default() };
    let mut found = Vec::new();
    let folders = folders(subject, "ses-")?;
    if folders.is_empty() {
        found.push(find_session(subject.to_owned(), id.to_owned(), None, &table.columns)?);
    }
    for folder in folders {
        let session = name(&folder);
        let row = table.rows.iter().find(|row| row.get("session_id") == Some(session.as_str()));
        found.push(find_session(folder, format!("{id}_{session}"), row, &table.columns)?);
    }
    Ok(found)
}

fn find_session(folder: PathBuf, label: String, row: Option<&Row>, columns: &[String]) -> Result<Found, SourceError> {
    let scans = folder.join(format!("{label}_scans.tsv"));
    let scans = if scans.is_file() { tsv::read(&scans, b'\t')? } else { Table::default() };
    let earliest = scans.rows.iter().filter_map(|scan| parse_moment(scan.get("acq_time")?)).min();
    let session_date = || row.and_then(|row| parse_moment(row.get("acq_time")?));
    Ok(Found {
        date: earliest.or_else(session_date),
        listed: scans.rows.iter().filter_map(|scan| scan.get("filename").map(str::to_owned)).collect(),
        variables: variables(row, columns, &["session_id", "acq_time"]),
        folder,
        label,
    })
}

fn participant_variables(row: Option<&Row>, columns: &[String]) -> Vec<(String, VariableValue)> {
    variables(row, columns, &["participant_id", "date_of_birth"])
}

/// The columns that are not `taken` otherwise.
fn variables(row: Option<&Row>, columns: &[String], taken: &[&str]) -> Vec<(String, VariableValue)> {
    let Some(row) = row else { return Vec::new() };
    let free = columns.iter().filter(|column| !column.is_empty() && !taken.contains(&column.as_str()));
    free.map(|column| (column.clone(), VariableValue::from_cell(row.get(column).unwrap_or_default()))).collect()
}

/// The folders in `parent` whose names begin with `prefix`, in the order of their names.
fn folders(parent: &Path, prefix: &str) -> Result<Vec<PathBuf>, SourceError> {
    let entries =
        parent.read_dir().map_err(|error| SourceError(format!("cannot read {}: {error}", parent.display())))?;
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir() && name(path).starts_with(prefix))
        .collect();
    found.sort();
    Ok(found)
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
