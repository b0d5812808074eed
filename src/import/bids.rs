//! Reads a BIDS data set (Brain Imaging Data Structure, bids-specification.readthedocs.io).
//!
//! Each `sub-` folder is a subject. Each `ses-` folder in it is an experiment; without such folders the subject has one experiment.
//!
//! Missing values are filled in by these rules and reported:
//! - **scan date**: the earliest `acq_time` of the session's `scans.tsv`; else `acq_time` of the session in
//!   `sessions.tsv`; else the earliest date of the subject's other sessions; else the given default.
//! - **date of birth**: `date_of_birth` of `participants.tsv`; else 1 January of the year of the subject's first scan
//!   minus `age`; else the given default.
//!
//! A value that exists and cannot be read is a problem, not a missing value: the session or the subject is skipped.
//! `docs/reference/bids.md` has all rules.

use std::collections::BTreeMap;
use std::path::Path;

use chrono::{NaiveDate, NaiveDateTime};

use crate::study::Label;

use super::bidsignore::Ignored;
use super::participants::Participants;
use super::scans::{self, scans_of};
use super::sessions::{self, FoundSession};
use super::{Intake, Session, SourceError, bids_files};

/// Values that a data set does not contain.
#[derive(Debug, Clone)]
pub struct Options {
    pub cohort: Label,
    /// Label or id; `None` means the newest workflow.
    pub workflow: Option<String>,
    pub date_of_birth_default: Option<NaiveDate>,
    pub scan_date_default: Option<NaiveDateTime>,
}

/// Reads the data set in `folder`.
///
/// # Errors
/// The folder cannot be read or has no subjects.
pub fn read(folder: &Path, options: &Options) -> Result<Intake, SourceError> {
    let mut intake = Intake::default();
    let ignored = read_ignored(folder, &mut intake);
    let subjects = folders(folder, "", "sub-", &ignored, &mut intake)?;
    if subjects.is_empty() && intake.problems.is_empty() {
        return Err(SourceError(format!("{} is not a BIDS dataset: no sub-* folder found", folder.display())));
    }
    let has_scans = note_parts_that_are_not_read(folder, &mut intake);
    let participants = Participants::read(folder, &subjects, &mut intake);
    let mut reader = Reader {
        root: folder,
        options,
        participants,
        ignored,
        has_scans,
        intake,
        assumed: Assumed::default(),
        left_out: LeftOut::default(),
    };
    for subject in &subjects {
        reader.read_subject(subject)?;
    }
    reader.note_what_was_left_out();
    reader.note_assumptions();
    Ok(reader.intake)
}

fn read_ignored(folder: &Path, intake: &mut Intake) -> Ignored {
    match bids_files::text(folder, ".bidsignore") {
        Ok(text) => {
            let (ignored, problems) = Ignored::parse(&text.unwrap_or_default());
            intake.notes.extend(problems);
            ignored
        }
        Err(problem) => {
            intake.problem(".bidsignore", problem);
            Ignored::default()
        }
    }
}

/// Notes the parts of the data set that are not read. Returns whether its files are recordings.
fn note_parts_that_are_not_read(folder: &Path, intake: &mut Intake) -> bool {
    if folder.join("phenotype").is_dir() {
        intake.notes.push("phenotype/ is ignored".to_owned());
    }
    let kind = match bids_files::json(folder, "dataset_description.json") {
        Ok(description) => {
            description.and_then(|description| Some(description.get("DatasetType")?.as_str()?.to_owned()))
        }
        Err(problem) => {
            intake.notes.push(format!("dataset_description.json {problem}"));
            None
        }
    };
    let is_derivative = kind.is_some_and(|kind| kind.eq_ignore_ascii_case("derivative"));
    if is_derivative {
        let note = "this is a derivative dataset according to dataset_description.json: its files are results, so no \
            scans are counted";
        intake.notes.push(note.to_owned());
    }
    !is_derivative
}

/// Number of values that were filled in.
#[derive(Default)]
struct Assumed {
    born_by_age: usize,
    born_by_default: usize,
    dated_by_other_session: usize,
    dated_by_default: usize,
}

/// Parts of the data set that were skipped.
#[derive(Default)]
struct LeftOut {
    ignored_recordings: usize,
    /// Folders of each unknown data type: the first one, and their number.
    data_types: BTreeMap<String, (String, usize)>,
}

struct Reader<'a> {
    root: &'a Path,
    options: &'a Options,
    participants: Participants,
    ignored: Ignored,
    has_scans: bool,
    intake: Intake,
    assumed: Assumed,
    left_out: LeftOut,
}

impl Reader<'_> {
    fn read_subject(&mut self, id: &str) -> Result<(), SourceError> {
        if id == "sub-emptyroom" {
            // In MEG data, recordings of the empty room are filed under a subject of this name.
            let note = "sub-emptyroom contains empty-room recordings, not a subject; skipped";
            self.intake.notes.push(note.to_owned());
            return Ok(());
        }
        let subject = match Label::parse(id) {
            Ok(subject) => subject,
            Err(error) => {
                self.intake.problem(id, format!("the subject's label {error}"));
                return Ok(());
            }
        };
        let folders = folders(self.root, id, "ses-", &self.ignored, &mut self.intake)?;
        if !folders.is_empty() {
            self.note_files_beside_sessions(id);
        }
        let mut sessions = sessions::find(self.root, id, &folders, &mut self.intake);
        // Problems of all sessions are reported, even if their subject is skipped.
        sessions.retain(|session| !session.is_bad);
        if self.participants.is_bad(id) || sessions.is_empty() {
            return Ok(());
        }
        let Some(dated) = self.date_sessions(sessions) else { return Ok(()) };
        let first = dated.iter().map(|(date, _)| *date).min();
        let Some(date_of_birth) = first.and_then(|first| self.date_of_birth(id, first)) else { return Ok(()) };
        for (scandate, session) in dated {
            self.add(&subject, date_of_birth, scandate, session);
        }
        Ok(())
    }

    fn add(&mut self, subject: &Label, date_of_birth: NaiveDate, scandate: NaiveDateTime, session: FoundSession) {
        let experiment = match Label::parse(&session.label) {
            Ok(experiment) => experiment,
            Err(error) => return self.intake.problem(&session.path, format!("the experiment's label {error}")),
        };
        let found = match self.has_scans {
            true => scans_of(self.root, &session.path, &session.listed, &self.ignored),
            false => Ok(scans::Found::default()),
        };
        let found = match found {
            Ok(found) => found,
            Err((place, problem)) => return self.intake.problem(&place, problem),
        };
        self.left_out.ignored_recordings += found.ignored;
        for data_type in found.unknown {
            let folder = format!("{}/{data_type}", session.path);
            self.left_out.data_types.entry(data_type).or_insert((folder, 0)).1 += 1;
        }
        let mut variables = self.participants.variables(subject.as_str());
        // If both tables have a column, the session's value wins because it is set last.
        variables.extend(session.variables);
        self.intake.sessions.push(Session {
            place: session.path,
            cohort: self.options.cohort.clone(),
            subject: subject.clone(),
            date_of_birth: Some(date_of_birth),
            experiment,
            scandate,
            workflow: self.options.workflow.clone(),
            variables,
            scans: found.scans,
            external_ids: Vec::new(),
        });
    }

    /// Every session with its date. Without a date for one of them, reports a problem and returns `None`.
    fn date_sessions(&mut self, sessions: Vec<FoundSession>) -> Option<Vec<(NaiveDateTime, FoundSession)>> {
        let first = sessions.iter().filter_map(|session| session.date).min();
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
                    let message = "no scan date: there is no acq_time; use --scan-date-default";
                    self.intake.problem(&session.path, message.to_owned());
                    return None;
                }
            };
            dated.push((date, session));
        }
        Some(dated)
    }

    fn date_of_birth(&mut self, subject: &str, first_scan: NaiveDateTime) -> Option<NaiveDate> {
        match self.participants.born(subject, first_scan) {
            Err(problem) => {
                self.intake.problems.push(problem);
                return None;
            }
            Ok(Some((date, is_by_age))) => {
                self.assumed.born_by_age += usize::from(is_by_age);
                return Some(date);
            }
            Ok(None) => {}
        }
        let Some(default) = self.options.date_of_birth_default else {
            let message = "no date of birth and no age in participants.tsv; use --date-of-birth-default";
            self.intake.problem(subject, message.to_owned());
            return None;
        };
        if default > first_scan.date() {
            let message = format!("--date-of-birth-default: {default} is after the scan date {}", first_scan.date());
            self.intake.problem(subject, message);
            return None;
        }
        self.assumed.born_by_default += 1;
        Some(default)
    }

    /// A subject has either sessions or recordings; if it has both, the recordings belong to no experiment.
    fn note_files_beside_sessions(&mut self, id: &str) {
        let beside = scans_of(self.root, id, &[], &self.ignored).unwrap_or_default();
        if !beside.scans.is_empty() {
            let note = format!("{id}: {} recordings outside of its session folders are skipped", beside.scans.len());
            self.intake.notes.push(note);
        }
        let scans = format!("{id}/{id}_scans.tsv");
        if self.root.join(&scans).symlink_metadata().is_ok() {
            self.intake.notes.push(format!("{scans} is outside of the session folders and is skipped"));
        }
    }

    fn note_what_was_left_out(&mut self) {
        for (data_type, (first, count)) in std::mem::take(&mut self.left_out.data_types) {
            let folders = if count == 1 { String::new() } else { format!(" and {} more folders", count - 1) };
            self.intake
                .notes
                .push(format!("{first}{folders}: unknown data type {data_type}; its files are not counted"));
        }
        if self.left_out.ignored_recordings > 0 {
            let note = format!("{} recordings are skipped because of .bidsignore", self.left_out.ignored_recordings);
            self.intake.notes.push(note);
        }
    }

    fn note_assumptions(&mut self) {
        let Assumed { born_by_age, born_by_default, dated_by_other_session, dated_by_default } = self.assumed;
        let mut note = |count: usize, sentence: String| {
            if count > 0 {
                self.intake.notes.push(sentence);
            }
        };
        note(
            born_by_age,
            format!("{born_by_age} dates of birth: 1 January of the year of the first scan minus the age"),
        );
        if let Some(date) = self.options.date_of_birth_default {
            note(born_by_default, format!("{born_by_default} dates of birth: {date}, the specified default"));
        }
        note(
            dated_by_other_session,
            format!("{dated_by_other_session} scan dates: the earliest date of the subject's other sessions"),
        );
        if let Some(date) = self.options.scan_date_default {
            note(dated_by_default, format!("{dated_by_default} scan dates: {date}, the specified default"));
        }
    }
}

/// The names of the folders in `parent` (within the data set) that begin with `prefix`, in order.
fn folders(
    root: &Path,
    parent: &str,
    prefix: &str,
    ignored: &Ignored,
    intake: &mut Intake,
) -> Result<Vec<String>, SourceError> {
    let folder = root.join(parent);
    let failed = |error: std::io::Error| SourceError(format!("cannot read {}: {error}", folder.display()));
    let mut found = Vec::new();
    for entry in folder.read_dir().map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !name.starts_with(prefix) {
            continue;
        }
        let within = if parent.is_empty() { name.clone() } else { format!("{parent}/{name}") };
        match bids_files::dangling(&path) {
            // Only a link that could be a folder is a problem. Of a file (with a dot or underscore), the name is enough.
            Some(problem) if !name.contains('.') && !name.contains('_') => intake.problem(&within, problem),
            None if path.is_dir() && ignored.matches(&within, true) => {
                intake.notes.push(format!("{within} is skipped because of .bidsignore"));
            }
            None if path.is_dir() => found.push(name),
            _ => {}
        }
    }
    found.sort();
    Ok(found)
}
