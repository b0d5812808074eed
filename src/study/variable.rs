//! Named typed values of experiments (E7): how they are stored, and how they are set.

use std::collections::BTreeMap;

use chrono::{NaiveDate, NaiveDateTime, NaiveTime};
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::sea_query::OnConflict;
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder};
use serde_json::Value;

use crate::entity::kind::VariableKind;
use crate::entity::variable;

use super::Visible;

/// A value with its type. Stored as the existing product stores it: a type word and a text.
#[derive(Debug, Clone, PartialEq)]
pub enum VariableValue {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Date(NaiveDate),
    DateTime(NaiveDateTime),
    Time(NaiveTime),
    Json(Value),
}

impl VariableValue {
    /// The value that a JSON value means: `null` is none, lists and objects are kept as JSON.
    #[must_use]
    pub fn from_json(value: Value) -> Self {
        match value {
            Value::Null => Self::None,
            Value::Bool(value) => Self::Bool(value),
            Value::String(value) => Self::Str(value),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(value), _) => Self::Int(value),
                (None, Some(value)) if number.is_f64() => Self::Float(value),
                // A whole number that does not fit is better kept whole than rounded.
                _ => Self::Json(Value::Number(number)),
            },
            other => Self::Json(other),
        }
    }

    /// The value that a cell of a table most plainly means; `n/a` (BIDS) and nothing are none.
    #[must_use]
    pub fn from_cell(cell: &str) -> Self {
        let cell = cell.trim();
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

    /// Type word and text for the database.
    #[must_use]
    pub fn pack(&self) -> (VariableKind, String) {
        match self {
            Self::None => (VariableKind::None, "None".to_owned()),
            Self::Bool(true) => (VariableKind::Bool, "True".to_owned()),
            Self::Bool(false) => (VariableKind::Bool, "False".to_owned()),
            Self::Int(value) => (VariableKind::Int, value.to_string()),
            Self::Float(value) => (VariableKind::Float, format!("{value:?}")),
            // PostgreSQL has no place for null characters.
            Self::Str(value) => (VariableKind::Str, value.replace('\0', "\u{fffd}")),
            Self::Date(value) => (VariableKind::Date, value.to_string()),
            Self::DateTime(value) => (VariableKind::DateTime, value.format("%Y-%m-%dT%H:%M:%S%.f").to_string()),
            Self::Time(value) => (VariableKind::Time, value.format("%H:%M:%S%.f").to_string()),
            Self::Json(value) => (VariableKind::Json, value.to_string()),
        }
    }

    /// The value from the database. A text that its type cannot read (by hand, by another program) stays a text.
    #[must_use]
    pub fn unpack(kind: VariableKind, text: &str) -> Self {
        let read = match kind {
            VariableKind::None => Some(Self::None),
            VariableKind::Bool => Some(Self::Bool(text.eq_ignore_ascii_case("true"))),
            VariableKind::Int => text.parse().ok().map(Self::Int),
            VariableKind::Float => text.parse().ok().map(Self::Float),
            VariableKind::Str => None,
            VariableKind::Date => text.parse().ok().map(Self::Date),
            VariableKind::DateTime => parse_moment(text).map(Self::DateTime),
            VariableKind::Time => text.parse().ok().map(Self::Time),
            VariableKind::Json => serde_json::from_str(text).ok().map(Self::Json),
        };
        read.unwrap_or_else(|| Self::Str(text.to_owned()))
    }

    /// The value as JSON; times as ISO texts.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(value) => (*value).into(),
            Self::Float(value) => (*value).into(),
            Self::Json(value) => value.clone(),
            Self::Str(_) | Self::Date(_) | Self::DateTime(_) | Self::Time(_) => Value::String(self.pack().1),
        }
    }
}

/// A moment in ISO form, with a blank or a `T`, with or without seconds; an offset is worked into UTC.
#[must_use]
pub fn parse_moment(text: &str) -> Option<NaiveDateTime> {
    let text = text.trim();
    if let Ok(with_offset) = chrono::DateTime::parse_from_rfc3339(&text.replacen(' ', "T", 1)) {
        return Some(with_offset.naive_utc());
    }
    ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
}

/// The variables of an experiment by label, in alphabetical order.
///
/// # Errors
/// When the database cannot be read.
pub async fn variables_of(
    connection: &impl ConnectionTrait,
    experiment_id: i32,
) -> Result<Vec<(String, VariableValue)>, DbErr> {
    let rows = variable::Entity::visible()
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

/// Sets variables of an experiment, whether they exist or not, in one statement.
///
/// # Errors
/// When the database cannot be written.
pub async fn set_variables(
    connection: &impl ConnectionTrait,
    experiment_id: i32,
    values: &[(String, VariableValue)],
) -> Result<(), DbErr> {
    if values.is_empty() {
        return Ok(());
    }
    // One statement cannot set a label twice; of two values the last one counts.
    let distinct: BTreeMap<&String, &VariableValue> = values.iter().map(|(label, value)| (label, value)).collect();
    let rows = distinct.into_iter().map(|(label, value)| {
        let (kind, text) = value.pack();
        variable::ActiveModel {
            id: NotSet,
            experiment_id: Set(experiment_id),
            label: Set(label.clone()),
            kind: Set(kind),
            value: Set(Some(text)),
        }
    });
    let conflict = OnConflict::columns([variable::Column::ExperimentId, variable::Column::Label])
        .update_columns([variable::Column::Kind, variable::Column::Value])
        .to_owned();
    let rows: Vec<variable::ActiveModel> = rows.collect();
    // Databases take only so many values in one statement.
    for chunk in rows.chunks(1000) {
        let rows = variable::Entity::insert_many(chunk.to_vec()).on_conflict(conflict.clone());
        rows.exec_without_returning(connection).await?;
    }
    Ok(())
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
    }

    #[test]
    fn moments_are_read_in_the_usual_forms() {
        let noon = NaiveDate::from_ymd_opt(2024, 1, 2).unwrap().and_hms_opt(12, 0, 0).unwrap();
        for text in ["2024-01-02T12:00:00", "2024-01-02 12:00", "2024-01-02T14:00:00+02:00", "2024-01-02T12:00:00Z"] {
            assert_eq!(parse_moment(text), Some(noon), "{text}");
        }
        assert_eq!(parse_moment("yesterday"), None);
    }
}
