//! `participants.tsv`: one row per subject of a BIDS data set, with the age or date of birth.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use chrono::{Datelike, Days, Months, NaiveDate, NaiveDateTime};
use serde_json::Value;

use crate::study::{VariableValue, limits};

use super::text_table::{Row, Table};
use super::{Intake, RowProblem, bids_files};

/// The table and its problems.
#[derive(Default)]
pub(super) struct Participants {
    table: Table,
    rows: HashMap<String, usize>,
    /// Subjects whose rows have problems.
    bad: HashSet<String>,
    /// Set if the table says nothing reliable about any subject.
    is_unreadable: bool,
    age_unit: Option<AgeUnit>,
}

/// Name of the file in problems.
const FILE: &str = "participants.tsv";
/// Columns that are not variables.
const SPECIAL: [&str; 2] = ["participant_id", "date_of_birth"];

impl Participants {
    /// Reads the table and the description of its columns. `subjects` are the names of the subject folders.
    pub(super) fn read(root: &Path, subjects: &[String], intake: &mut Intake) -> Self {
        let mut read = Self { age_unit: Some(AgeUnit::Years), ..Self::default() };
        match bids_files::table(root, FILE) {
            Ok(None) => return read,
            Ok(Some(table)) => read.table = table,
            Err(problem) => {
                read.is_unreadable = true;
                intake.problem(FILE, problem);
                return read;
            }
        }
        if let Err(problem) = check_columns(&read.table, "participant_id") {
            read.is_unreadable = true;
            intake.problem(FILE, problem);
            return read;
        }
        read.read_rows(subjects, intake);
        if let Some(column) = read.table.column("age").map(|index| read.table.columns[index].clone()) {
            match age_unit(root, "participants.json", &column) {
                Ok(unit) => read.age_unit = Some(unit),
                Err(problem) => {
                    read.age_unit = None;
                    intake.problem("participants.json", problem);
                }
            }
        }
        read
    }

    fn read_rows(&mut self, subjects: &[String], intake: &mut Intake) {
        let id_column = self.table.column("participant_id").unwrap_or_default();
        for broken in &self.table.broken {
            intake.problem(&format!("{FILE} line {}", broken.line), broken.message.clone());
            self.bad.extend(broken.row.get(id_column).map(|id| with_prefix("sub-", id)));
        }
        for (index, row) in self.table.rows.iter().enumerate() {
            let place = format!("{FILE} line {}", row.line);
            let Some(id) = row.get(id_column) else {
                intake.problem(&place, "participant_id is empty".to_owned());
                continue;
            };
            let id = with_prefix("sub-", id);
            if let Some(first) = self.rows.get(&id) {
                let first = self.table.rows[*first].line;
                intake.problem(&place, format!("participant_id: {id} is already in line {first}"));
                self.bad.insert(id);
                continue;
            }
            if let Err(problem) = check_values(row, &self.table) {
                intake.problem(&place, problem);
                self.bad.insert(id.clone());
            }
            if !subjects.contains(&id) {
                intake.notes.push(format!("{id} in {FILE} has no folder and is skipped"));
            }
            self.rows.insert(id, index);
        }
    }

    /// Whether the subject must be skipped because of problems in its row.
    pub(super) fn is_bad(&self, subject: &str) -> bool {
        self.is_unreadable || self.bad.contains(subject)
    }

    fn row(&self, subject: &str) -> Option<&Row> {
        self.rows.get(subject).map(|index| &self.table.rows[*index])
    }

    /// The variables that every experiment of the subject gets.
    pub(super) fn variables(&self, subject: &str) -> Vec<(String, VariableValue)> {
        self.row(subject).map_or_else(Vec::new, |row| variables(row, &self.table, &SPECIAL))
    }

    /// The date of birth, if the table has one, and whether it was calculated from the age.
    ///
    /// # Errors
    /// The value in the table cannot be read.
    pub(super) fn born(
        &self,
        subject: &str,
        first_scan: NaiveDateTime,
    ) -> Result<Option<(NaiveDate, bool)>, RowProblem> {
        let Some(row) = self.row(subject) else { return Ok(None) };
        let problem = |message: String| RowProblem { place: format!("{FILE} line {}", row.line), message };
        let said = |column: &str| self.table.column(column).and_then(|column| row.get(column));
        if let Some(text) = said("date_of_birth") {
            let date = limits::date(text).map_err(|message| problem(format!("date_of_birth: {message}")))?;
            if date > first_scan.date() {
                let message = format!("date_of_birth: {date} is after the scan date {}", first_scan.date());
                return Err(problem(message));
            }
            return Ok(Some((date, false)));
        }
        let Some(text) = said("age") else { return Ok(None) };
        let Some(unit) = self.age_unit else {
            let message = "unknown unit (participants.json)".to_owned();
            return Err(problem(format!("age: '{text}': {message}")));
        };
        let date = unit.year_of_birth(text, first_scan).map_err(|message| problem(format!("age: {message}")))?;
        Ok(Some((date, true)))
    }
}

/// Unit of the ages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AgeUnit {
    Years,
    Months,
    Weeks,
    Days,
}

impl AgeUnit {
    fn parse(text: &str) -> Option<Self> {
        Some(match text.trim().to_ascii_lowercase().trim_end_matches('.') {
            "years" | "year" | "yrs" | "yr" | "y" | "a" => Self::Years,
            "months" | "month" | "mos" | "mo" => Self::Months,
            "weeks" | "week" | "wks" | "wk" | "w" => Self::Weeks,
            "days" | "day" | "d" => Self::Days,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Years => "years",
            Self::Months => "months",
            Self::Weeks => "weeks",
            Self::Days => "days",
        }
    }

    fn most(self) -> f64 {
        let in_a_year = match self {
            Self::Years => 1.0,
            Self::Months => 12.0,
            Self::Weeks => 53.0,
            Self::Days => 366.0,
        };
        130.0 * in_a_year
    }

    /// 1 January of the probable year of birth of a person who had this age at the scan. `89+` stands for all higher ages, which could
    /// identify a person.
    ///
    /// # Errors
    /// The text is not an age.
    pub(super) fn year_of_birth(self, text: &str, scan: NaiveDateTime) -> Result<NaiveDate, String> {
        let number = text.strip_suffix('+').unwrap_or(text);
        let is_plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let age = number.parse::<f64>().ok().filter(|_| is_plain);
        let age = age.ok_or_else(|| format!("'{text}' is not a number of {}", self.name()))?;
        if age > self.most() {
            return Err(format!("'{text}' is not a plausible age in {}", self.name()));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be small and positive")]
        let whole = age.floor() as u32;
        let day = scan.date();
        let born = match self {
            Self::Years => day.checked_sub_months(Months::new(whole * 12)),
            Self::Months => day.checked_sub_months(Months::new(whole)),
            Self::Weeks => day.checked_sub_days(Days::new(u64::from(whole) * 7)),
            Self::Days => day.checked_sub_days(Days::new(u64::from(whole))),
        };
        let year = born.map(|born| born.year()).filter(|year| limits::YEARS.contains(year));
        year.and_then(|year| NaiveDate::from_ymd_opt(year, 1, 1))
            .ok_or_else(|| format!("'{text}' results in a year of birth before {}", limits::YEARS.start()))
    }
}

/// The unit of the age column, from the description of the columns; years if that names no unit.
///
/// # Errors
/// The description cannot be read, or its unit is unknown.
fn age_unit(root: &Path, file: &str, column: &str) -> Result<AgeUnit, String> {
    let Some(description) = bids_files::json(root, file)? else { return Ok(AgeUnit::Years) };
    let entries = description.as_object().ok_or("is not a JSON object")?;
    let Some((_, entry)) = entries.iter().find(|(name, _)| name.eq_ignore_ascii_case(column)) else {
        return Ok(AgeUnit::Years);
    };
    let field = |wanted: &str| {
        let fields = entry.as_object()?;
        fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value)
    };
    match field("Units").or_else(|| field("Unit")) {
        Some(Value::String(unit)) if unit.trim().is_empty() => {}
        Some(Value::String(unit)) => {
            let wanted = "known units: years, months, weeks and days";
            return AgeUnit::parse(unit).ok_or_else(|| format!("{column}: unknown unit '{unit}' ({wanted})"));
        }
        None | Some(Value::Null) => {}
        Some(other) => return Err(format!("{column}: Units is not a string: {other}")),
    }
    let text = field("Description").and_then(Value::as_str).unwrap_or_default().to_ascii_lowercase();
    let speaks_of = |word: &str| text.contains(word);
    if !speaks_of("year") && ["month", "week"].into_iter().any(speaks_of) {
        return Err(format!("{column}: it has no Units, and its description does not mention years: '{text}'"));
    }
    Ok(AgeUnit::Years)
}

/// The id in the form of the folder names; some tables omit the prefix.
pub(super) fn with_prefix(prefix: &str, id: &str) -> String {
    if id.starts_with(prefix) { id.to_owned() } else { format!("{prefix}{id}") }
}

/// Checks that the id column exists, that no column occurs twice in another case, and the names of the variables.
///
/// # Errors
/// The problem of the columns.
pub(super) fn check_columns(table: &Table, id: &str) -> Result<(), String> {
    for name in [id, "age", "date_of_birth", "acq_time", "filename"] {
        if table.columns.iter().filter(|column| column.eq_ignore_ascii_case(name)).count() > 1 {
            return Err(format!("there are two columns '{name}'"));
        }
    }
    if table.column(id).is_none() {
        return Err(format!("there is no column {id} (columns: {})", table.names()));
    }
    table.columns.iter().filter(|column| !column.is_empty()).try_for_each(|column| limits::variable_name(column))
}

/// Checks the size of the values of a row.
///
/// # Errors
/// The first value that is too large.
pub(super) fn check_values(row: &Row, table: &Table) -> Result<(), String> {
    let mut cells = table.columns.iter().enumerate().filter_map(|(index, name)| Some((name, row.get(index)?)));
    cells.try_for_each(|(name, cell)| limits::variable_value(cell).map_err(|problem| format!("{name}: {problem}")))
}

/// The columns that are not `special`.
pub(super) fn variables(row: &Row, table: &Table, special: &[&str]) -> Vec<(String, VariableValue)> {
    let is_special = |column: &str| column.is_empty() || special.iter().any(|name| name.eq_ignore_ascii_case(column));
    let columns = table.columns.iter().enumerate().filter(|(_, column)| !is_special(column));
    columns
        .map(|(index, column)| (column.clone(), VariableValue::from_cell(row.get(index).unwrap_or_default())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_counted_in_its_unit() {
        let scan = NaiveDate::from_ymd_opt(2020, 3, 4).unwrap().and_hms_opt(10, 0, 0).unwrap();
        for (unit, age, year) in [
            (AgeUnit::Years, "30", 1990),
            (AgeUnit::Years, "30.9", 1990),
            (AgeUnit::Years, "89+", 1931),
            (AgeUnit::Months, "14", 2019),
            (AgeUnit::Months, "2", 2020),
            (AgeUnit::Weeks, "10", 2019),
            (AgeUnit::Days, "64", 2019),
            (AgeUnit::Days, "3", 2020),
        ] {
            assert_eq!(unit.year_of_birth(age, scan).unwrap().year(), year, "{age} {unit:?}");
        }
        for age in ["35-40", "030Y", ">89", "-3", "131", "30,5", "1e1", "NaN", "inf", "thirty", "+", "."] {
            assert!(AgeUnit::Years.year_of_birth(age, scan).unwrap_err().contains(&format!("'{age}'")), "{age}");
        }
        assert_eq!(AgeUnit::parse("Months"), Some(AgeUnit::Months));
        assert_eq!(AgeUnit::parse("gestational weeks"), None);
    }
}
