//! The sessions of one subject of a BIDS data set, with their data from `sessions.tsv` and `scans.tsv`.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use chrono::NaiveDateTime;

use crate::study::{VariableValue, limits};

use super::participants::{check_columns, check_values, variables, with_prefix};
use super::text_table::{Row, Table};
use super::{Intake, bids_files};

/// A session, before the other data of its subject is known.
pub(super) struct FoundSession {
    pub label: String,
    /// Path of its folder within the data set.
    pub path: String,
    pub date: Option<NaiveDateTime>,
    /// File names in its `scans.tsv`.
    pub listed: Vec<String>,
    pub variables: Vec<(String, VariableValue)>,
    /// Part of its data cannot be read, so it must be skipped. The problem has been reported.
    pub is_bad: bool,
}

/// Columns of `sessions.tsv` that are not variables.
const SPECIAL: [&str; 2] = ["session_id", "acq_time"];

/// The sessions of a subject: `folders` are the names of its `ses-` folders.
pub(super) fn find(root: &Path, subject: &str, folders: &[String], intake: &mut Intake) -> Vec<FoundSession> {
    let table = SessionTable::read(root, subject, folders, intake);
    if folders.is_empty() {
        return vec![find_one(root, subject, None, &table, intake)];
    }
    folders.iter().map(|session| find_one(root, subject, Some(session), &table, intake)).collect()
}

/// `sessions.tsv` of a subject.
#[derive(Default)]
struct SessionTable {
    path: String,
    table: Table,
    rows: HashMap<String, usize>,
    bad: HashSet<String>,
    is_unreadable: bool,
}

impl SessionTable {
    fn read(root: &Path, subject: &str, folders: &[String], intake: &mut Intake) -> Self {
        let mut read = Self { path: format!("{subject}/{subject}_sessions.tsv"), ..Self::default() };
        let table = match bids_files::table(root, &read.path) {
            Ok(None) => return read,
            Ok(Some(table)) => check_columns(&table, "session_id").map(|()| table),
            Err(problem) => Err(problem),
        };
        match table {
            Ok(table) => read.table = table,
            Err(problem) => {
                intake.problem(&read.path, problem);
                read.is_unreadable = true;
                return read;
            }
        }
        read.read_rows(subject, folders, intake);
        read
    }

    fn read_rows(&mut self, subject: &str, folders: &[String], intake: &mut Intake) {
        let id_column = self.table.column("session_id").unwrap_or_default();
        for broken in &self.table.broken {
            intake.problem(&format!("{} line {}", self.path, broken.line), broken.message.clone());
            match broken.row.get(id_column) {
                Some(id) => drop(self.bad.insert(with_prefix("ses-", id))),
                // The row may belong to any session.
                None => self.is_unreadable = true,
            }
        }
        for (index, row) in self.table.rows.iter().enumerate() {
            let place = format!("{} line {}", self.path, row.line);
            let Some(id) = row.get(id_column) else {
                intake.problem(&place, "session_id is empty".to_owned());
                continue;
            };
            let id = with_prefix("ses-", id);
            if let Some(first) = self.rows.get(&id) {
                let first = self.table.rows[*first].line;
                intake.problem(&place, format!("session_id: {id} is already in line {first}"));
                self.bad.insert(id);
                continue;
            }
            if let Err(problem) = check_values(row, &self.table) {
                intake.problem(&place, problem);
                self.bad.insert(id.clone());
            }
            if !folders.contains(&id) {
                intake.notes.push(format!("{id} in {place} has no folder in {subject} and is skipped"));
            }
            self.rows.insert(id, index);
        }
    }

    fn row(&self, session: &str) -> Option<&Row> {
        self.rows.get(session).map(|index| &self.table.rows[*index])
    }
}

fn find_one(
    root: &Path,
    subject: &str,
    session: Option<&String>,
    table: &SessionTable,
    intake: &mut Intake,
) -> FoundSession {
    let (label, path) = match session {
        Some(session) => (format!("{subject}_{session}"), format!("{subject}/{session}")),
        None => (subject.to_owned(), subject.to_owned()),
    };
    let row = session.and_then(|session| table.row(session));
    let mut found = FoundSession {
        variables: row.map_or_else(Vec::new, |row| variables(row, &table.table, &SPECIAL)),
        is_bad: session.is_some_and(|session| table.is_unreadable || table.bad.contains(session)),
        date: None,
        listed: Vec::new(),
        label,
        path,
    };
    let earliest = read_scans(root, &mut found, intake);
    let said = row.and_then(|row| Some((row, row.get(table.table.column("acq_time")?)?)));
    let place = said.map(|(row, _)| format!("{} line {}", table.path, row.line)).unwrap_or_default();
    let of_session = said.map(|(_, text)| limits::moment(text));
    match (earliest, of_session) {
        (_, Some(Err(problem))) => {
            intake.problem(&place, format!("acq_time: {problem}"));
            found.is_bad = true;
        }
        (Some(earliest), Some(Ok(said))) => {
            if said.date() != earliest.date() {
                let (scans, session) = (earliest.date(), said.date());
                let note = format!(
                    "{place}: acq_time is {session}, but scans.tsv of {} has {scans}, which is \
                        used",
                    found.path
                );
                intake.notes.push(note);
            }
            found.date = Some(earliest);
        }
        (earliest, said) => found.date = earliest.or(said.and_then(Result::ok)),
    }
    found
}

/// Reads `scans.tsv` of a session: the file names and the earliest date.
fn read_scans(root: &Path, session: &mut FoundSession, intake: &mut Intake) -> Option<NaiveDateTime> {
    let path = format!("{}/{}_scans.tsv", session.path, session.label);
    let table = match scans_table(root, &path) {
        Ok(table) => table?,
        Err(problem) => {
            intake.problem(&path, problem);
            session.is_bad = true;
            return None;
        }
    };
    for broken in &table.broken {
        intake.problem(&format!("{path} line {}", broken.line), broken.message.clone());
        session.is_bad = true;
    }
    let (name, time) = (table.column("filename"), table.column("acq_time"));
    let mut earliest: Option<NaiveDateTime> = None;
    let mut seen: HashMap<&str, &Row> = HashMap::new();
    for row in &table.rows {
        let place = format!("{path} line {}", row.line);
        if let Some(name) = name.and_then(|column| row.get(column)) {
            session.listed.push(name.to_owned());
            if let Some(first) = seen.insert(name, row).filter(|first| !first.is_like(row)) {
                let message = format!("filename: {name} is already in line {} with other values", first.line);
                intake.problem(&place, message);
                session.is_bad = true;
            }
        }
        match time.and_then(|column| row.get(column)).map(limits::moment) {
            Some(Ok(moment)) => earliest = Some(earliest.map_or(moment, |earliest| earliest.min(moment))),
            Some(Err(problem)) => {
                intake.problem(&place, format!("acq_time: {problem}"));
                session.is_bad = true;
            }
            None => {}
        }
    }
    earliest
}

/// Also reads a table without file names, since it still has dates.
fn scans_table(root: &Path, path: &str) -> Result<Option<Table>, String> {
    let Some(table) = bids_files::table(root, path)? else { return Ok(None) };
    check_columns(&table, if table.column("acq_time").is_some() { "acq_time" } else { "filename" })?;
    Ok(Some(table))
}
