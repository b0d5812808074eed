//! Named, typed values of experiments (E7): storing and setting them.

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, Timelike};
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::sea_query::OnConflict;
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder};
use serde_json::{Number, Value};

use crate::context::Context;
use crate::entity::kind::VariableKind;
use crate::entity::variable;

use super::Visible;
use super::limits::YEARS;

/// A typed value, stored as version 8.1 stores it: a type word and a text.
#[derive(Debug, Clone, PartialEq)]
pub enum VariableValue {
    None,
    Bool(bool),
    Int(i64),
    /// A whole number of more than 64 bits, in its written form.
    BigInt(Number),
    Float(f64),
    Str(String),
    Date(NaiveDate),
    DateTime(NaiveDateTime),
    Time(NaiveTime),
    Json(Value),
}

impl VariableValue {
    /// The variable's value for a JSON value: `None` for `null`; lists and objects are stored as JSON.
    #[must_use]
    pub fn from_json(value: Value) -> Self {
        match value {
            Value::Null => Self::None,
            Value::Bool(value) => Self::Bool(value),
            Value::String(value) => Self::Str(value),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(value), _) => Self::Int(value),
                (None, _) if is_whole(&number.to_string()) => Self::BigInt(number),
                (None, Some(value)) if number.is_f64() => Self::Float(value),
                // Too large for a float: kept in its written form instead of being lost.
                _ => Self::Json(Value::Number(number)),
            },
            other => Self::Json(other),
        }
    }

    /// The value of a table cell; `None` for an empty cell and `n/a` (BIDS).
    ///
    /// A cell becomes a number or a date only if that value is written as the same text: `007`, `1.10`, `12E5`, `+31612345678` and `1-2-3`
    /// are texts. `true` and `false` (also `True`, `TRUE`) are booleans.
    #[must_use]
    pub fn from_cell(cell: &str) -> Self {
        let cell = cell.trim();
        match Self::read_loosely(cell) {
            value @ (Self::None | Self::Bool(_)) => value,
            value if value.pack().1 == cell && value.is_storable() => value,
            _ if is_whole(cell) => serde_json::from_str(cell).map_or_else(|_| Self::Str(cell.to_owned()), Self::BigInt),
            _ => Self::Str(cell.to_owned()),
        }
    }

    /// The texts under which a searched value may be stored: the given text, and the form of each type (`true` is stored as `True`, `3.50`
    /// perhaps as `3.5`).
    #[must_use]
    pub fn stored_texts(given: &str) -> Vec<String> {
        let plain = |text: &str| text.replace('\0', "\u{fffd}");
        vec![plain(given), plain(&Self::read_loosely(given.trim()).pack().1)]
    }

    fn read_loosely(cell: &str) -> Self {
        if cell.is_empty() || cell.eq_ignore_ascii_case("n/a") {
            return Self::None;
        }
        // `007` is a code, not a number.
        let is_code = cell.len() > 1 && cell.starts_with('0') && cell.bytes().all(|byte| byte.is_ascii_digit());
        if !is_code && let Ok(value) = cell.parse::<i64>() {
            return Self::Int(value);
        }
        if cell.bytes().any(|byte| byte.is_ascii_digit())
            && let Ok(value) = cell.parse::<f64>()
            && value.is_finite()
            && !is_code
        {
            return Self::Float(value);
        }
        if let Ok(value) = cell.parse::<NaiveDate>() {
            return Self::Date(value);
        }
        match parse_moment(cell) {
            Some(value) => Self::DateTime(value),
            None => match cell {
                "true" | "True" | "TRUE" => Self::Bool(true),
                "false" | "False" | "FALSE" => Self::Bool(false),
                _ => Self::Str(cell.to_owned()),
            },
        }
    }

    /// Whether a date is within the supported years.
    fn is_storable(&self) -> bool {
        match self {
            Self::Date(value) => YEARS.contains(&value.year()),
            Self::DateTime(value) => YEARS.contains(&value.year()) && value.nanosecond() < 1_000_000_000,
            _ => true,
        }
    }

    /// The type word and the text for the database.
    #[must_use]
    pub fn pack(&self) -> (VariableKind, String) {
        match self {
            Self::None => (VariableKind::None, "None".to_owned()),
            Self::Bool(true) => (VariableKind::Bool, "True".to_owned()),
            Self::Bool(false) => (VariableKind::Bool, "False".to_owned()),
            Self::Int(value) => (VariableKind::Int, value.to_string()),
            Self::BigInt(value) => (VariableKind::Int, value.to_string()),
            Self::Float(value) => (VariableKind::Float, format!("{value:?}")),
            // PostgreSQL cannot store null characters.
            Self::Str(value) => (VariableKind::Str, value.replace('\0', "\u{fffd}")),
            Self::Date(value) => (VariableKind::Date, value.to_string()),
            Self::DateTime(value) => (VariableKind::DateTime, value.format("%Y-%m-%dT%H:%M:%S%.f").to_string()),
            Self::Time(value) => (VariableKind::Time, value.format("%H:%M:%S%.f").to_string()),
            Self::Json(value) => (VariableKind::Json, value.to_string()),
        }
    }

    /// The value from the database. A text that does not fit its type (written by hand or by another program) stays a text.
    #[must_use]
    pub fn unpack(kind: VariableKind, text: &str) -> Self {
        let read = match kind {
            VariableKind::None => Some(Self::None),
            VariableKind::Bool => Some(Self::Bool(text.eq_ignore_ascii_case("true"))),
            VariableKind::Int => match text.parse() {
                Ok(value) => Some(Self::Int(value)),
                Err(_) => is_whole(text).then(|| serde_json::from_str(text).ok().map(Self::BigInt)).flatten(),
            },
            VariableKind::Float => text.parse().ok().map(Self::Float),
            VariableKind::Str => None,
            VariableKind::Date => text.parse().ok().map(Self::Date),
            VariableKind::DateTime => parse_moment(text).map(Self::DateTime),
            VariableKind::Time => text.parse().ok().map(Self::Time),
            VariableKind::Json => serde_json::from_str(text).ok().map(Self::Json),
        };
        read.unwrap_or_else(|| Self::Str(text.to_owned()))
    }

    /// The value as JSON; times become ISO texts.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(value) => (*value).into(),
            Self::BigInt(value) => value.clone().into(),
            Self::Float(value) => (*value).into(),
            Self::Json(value) => value.clone(),
            Self::Str(_) | Self::Date(_) | Self::DateTime(_) | Self::Time(_) => Value::String(self.pack().1),
        }
    }
}

/// Whether the text is a whole number as programs write it: digits, without leading zeros and without `+`.
fn is_whole(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.is_empty() && (!digits.starts_with('0') || text == "0")
}

/// A date and time in ISO form, with a blank or a `T`, with or without seconds; an offset (`Z`, `+01:00`, `+0100`, `+01`) is converted to
/// UTC.
#[must_use]
pub fn parse_moment(text: &str) -> Option<NaiveDateTime> {
    let text = text.trim();
    let with_t = text.replacen(' ', "T", 1);
    if let Ok(with_offset) = DateTime::parse_from_rfc3339(&with_t) {
        return Some(with_offset.naive_utc());
    }
    let plain = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M"];
    let plain = plain.iter().find_map(|format| NaiveDateTime::parse_from_str(&with_t, format).ok());
    let with_offset = || {
        let formats = ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z"];
        formats.iter().find_map(|format| DateTime::parse_from_str(&with_t, format).ok())
    };
    plain.or_else(|| Some(with_offset()?.naive_utc()))
}

/// The variables of an experiment by label, sorted.
pub async fn variables_of(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    experiment_id: i32,
) -> Result<Vec<(String, VariableValue)>, DbErr> {
    let rows = variable::Entity::visible(ctx)
        .filter(variable::Column::ExperimentId.eq(experiment_id))
        .order_by_asc(variable::Column::Label)
        .all(connection)
        .await?;
    let value = |row: variable::Model| {
        let value = VariableValue::unpack(row.kind, row.value.as_deref().unwrap_or_default());
        (row.label, value)
    };
    Ok(rows.into_iter().map(value).collect())
}

/// Creates or replaces variables of an experiment, in one statement.
pub async fn set_variables(
    connection: &impl ConnectionTrait,
    experiment_id: i32,
    values: &[(String, VariableValue)],
) -> Result<(), DbErr> {
    set_variables_of_many(connection, [(experiment_id, values)]).await
}

/// Creates or replaces variables of several experiments, many with one statement.
pub async fn set_variables_of_many<'a>(
    connection: &impl ConnectionTrait,
    experiments: impl IntoIterator<Item = (i32, &'a [(String, VariableValue)])>,
) -> Result<(), DbErr> {
    let rows: Vec<variable::ActiveModel> =
        experiments.into_iter().flat_map(|(id, values)| rows_of(id, values)).collect();
    let conflict = OnConflict::columns([variable::Column::ExperimentId, variable::Column::Label])
        .update_columns([variable::Column::Kind, variable::Column::Value])
        .to_owned();
    let mut rows = rows.as_slice();
    while !rows.is_empty() {
        let (chunk, rest) = rows.split_at(one_statement(rows));
        let insert = variable::Entity::insert_many(chunk.to_vec()).on_conflict(conflict.clone());
        insert.exec_without_returning(connection).await?;
        rows = rest;
    }
    Ok(())
}

/// Number of rows for one statement: databases limit the number of values, and MariaDB statements to 16 MiB by default.
fn one_statement(rows: &[variable::ActiveModel]) -> usize {
    const MOST_ROWS: usize = 1000;
    const MOST_BYTES: usize = 4 * 1024 * 1024;
    let size = |row: &variable::ActiveModel| row.value.as_ref().as_ref().map_or(0, String::len);
    let mut bytes = 0;
    let fitting = rows.iter().take(MOST_ROWS).take_while(|row| {
        bytes += size(row);
        bytes <= MOST_BYTES
    });
    fitting.count().max(1)
}

/// Rows with distinct labels, since one statement cannot set a label twice; the last of two values counts.
fn rows_of(experiment_id: i32, values: &[(String, VariableValue)]) -> Vec<variable::ActiveModel> {
    let distinct: BTreeMap<&String, &VariableValue> = values.iter().map(|(label, value)| (label, value)).collect();
    let row = |(label, value): (&String, &VariableValue)| {
        let (kind, text) = value.pack();
        variable::ActiveModel {
            id: NotSet,
            experiment_id: Set(experiment_id),
            label: Set(label.clone()),
            kind: Set(kind),
            value: Set(Some(text)),
        }
    };
    distinct.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn e7_every_type_survives_the_database() {
        let date = NaiveDate::from_ymd_opt(2024, 2, 29).unwrap();
        for value in [
            VariableValue::None,
            VariableValue::Bool(true),
            VariableValue::Bool(false),
            VariableValue::Int(-7),
            VariableValue::Float(0.1),
            VariableValue::Float(3.0),
            VariableValue::Str("None".to_owned()),
            VariableValue::Date(date),
            VariableValue::DateTime(date.and_hms_micro_opt(1, 2, 3, 450_000).unwrap()),
            VariableValue::Time(NaiveTime::from_hms_opt(23, 59, 1).unwrap()),
            VariableValue::Json(json!({"a": [1, null]})),
        ] {
            let (kind, text) = value.pack();
            assert_eq!(VariableValue::unpack(kind, &text), value);
        }
    }

    #[test]
    fn cells_mean_what_they_look_like() {
        for (cell, wanted) in [
            ("31", VariableValue::Int(31)),
            ("3.5", VariableValue::Float(3.5)),
            ("007", VariableValue::Str("007".to_owned())),
            ("n/a", VariableValue::None),
            ("", VariableValue::None),
            ("nan", VariableValue::Str("nan".to_owned())),
            ("true", VariableValue::Bool(true)),
            ("meg", VariableValue::Str("meg".to_owned())),
            ("2024-02-29", VariableValue::Date(NaiveDate::from_ymd_opt(2024, 2, 29).unwrap())),
        ] {
            assert_eq!(VariableValue::from_cell(cell), wanted, "{cell}");
        }
        let moment = NaiveDate::from_ymd_opt(2024, 2, 29).unwrap().and_hms_opt(10, 0, 0).unwrap();
        assert_eq!(VariableValue::from_cell("2024-02-29T10:00:00"), VariableValue::DateTime(moment));
    }

    #[test]
    fn a_text_that_would_not_come_back_stays_a_text() {
        for cell in [
            "12E5",
            "1.10",
            "1-2-3",
            "12-10-05",
            "0999-01-02",
            "+31612345678",
            "-007",
            "-0",
            "1_000",
            "3.",
            ".5",
            "0.10",
            "00",
            "2024-2-9",
            "2024-02-29 10:00",
            "2024-02-29T10:00:00Z",
            "2016-12-31T23:59:60",
            "0.1000000000000000055",
            "1e3",
            "inf",
            "٣",
            "0x1F",
            "1,5",
            "12345678901234567890.5",
            "012345678901234567890",
        ] {
            assert_eq!(VariableValue::from_cell(cell), VariableValue::Str(cell.to_owned()), "{cell}");
        }
    }

    #[test]
    fn whole_numbers_of_any_size_are_kept_whole() {
        for digits in
            ["12345678901234567890", "-98765432109876543210", "12345678901234567890123", "18446744073709551615"]
        {
            let from_json = VariableValue::from_json(serde_json::from_str(digits).unwrap());
            assert_eq!(VariableValue::from_cell(digits), from_json, "{digits}");
            let (kind, text) = from_json.pack();
            assert_eq!((kind, text.as_str()), (VariableKind::Int, digits));
            assert_eq!(VariableValue::unpack(kind, &text), from_json);
            assert_eq!(from_json.to_json().to_string(), digits);
        }
        let nested = r#"{"uid":[12345678901234567890123,1.10,1e+400]}"#;
        assert_eq!(VariableValue::from_json(serde_json::from_str(nested).unwrap()).pack().1, nested);
    }

    #[test]
    fn moments_are_read_in_the_usual_forms() {
        let noon = NaiveDate::from_ymd_opt(2024, 1, 2).unwrap().and_hms_opt(12, 0, 0).unwrap();
        for text in [
            "2024-01-02T12:00:00",
            "2024-01-02 12:00",
            "2024-01-02T14:00:00+02:00",
            "2024-01-02T12:00:00Z",
            "2024-01-02T13:00:00+0100",
            "2024-01-02 11:00-01",
        ] {
            assert_eq!(parse_moment(text), Some(noon), "{text}");
        }
        assert_eq!(parse_moment("yesterday"), None);
    }
}
