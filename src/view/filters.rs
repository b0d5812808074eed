//! Filters for templates.

use chrono::{NaiveDateTime, TimeDelta};
use minijinja::{Environment, Error, ErrorKind, Value};

pub(super) fn add(environment: &mut Environment<'static>) {
    environment.add_filter("moment", moment);
    environment.add_filter("ago", ago);
    environment.add_filter("until", until);
    environment.add_filter("thousands", thousands);
    environment.add_filter("shown", shown);
}

fn parse(value: &str) -> Result<NaiveDateTime, Error> {
    let parsed = NaiveDateTime::parse_from_str(value, "%Y-%m-%dT%H:%M:%S%.f");
    parsed.map_err(|_| Error::new(ErrorKind::InvalidOperation, format!("'{value}' is not a date and time")))
}

/// `2026-11-23 14:05`, in UTC.
fn moment(value: &Value) -> Result<String, Error> {
    match value.as_str() {
        None => Ok(String::new()),
        Some(text) => Ok(parse(text)?.format("%Y-%m-%d %H:%M").to_string()),
    }
}

/// `3 h ago`; the second argument is the current time.
fn ago(value: &Value, now: &str) -> Result<String, Error> {
    match value.as_str() {
        None => Ok(String::new()),
        Some(text) => {
            let passed = parse(now)? - parse(text)?;
            Ok(if passed < TimeDelta::seconds(5) { "just now".to_owned() } else { format!("{} ago", rough(passed)) })
        }
    }
}

/// `in 3 h`; the second argument is the current time.
fn until(value: &Value, now: &str) -> Result<String, Error> {
    match value.as_str() {
        None => Ok(String::new()),
        Some(text) => Ok(format!("in {}", rough((parse(text)? - parse(now)?).max(TimeDelta::zero())))),
    }
}

fn rough(time: TimeDelta) -> String {
    match (time.num_days(), time.num_hours(), time.num_minutes()) {
        (730.., _, _) => format!("{} years", time.num_days() / 365),
        (2.., _, _) => format!("{} days", time.num_days()),
        (_, 2.., _) => format!("{} h", time.num_hours()),
        (_, _, 1..) => format!("{} min", time.num_minutes()),
        _ => format!("{} s", time.num_seconds()),
    }
}

/// `12,345`.
fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The display form of a variable's value: texts unchanged, everything else as JSON.
fn shown(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None if value.is_none() => "–".to_owned(),
        None => serde_json::to_string(value).unwrap_or_else(|_| value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_easy_to_read() {
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(12), "12");
        let at = Value::from("2026-01-01T00:00:00");
        assert_eq!(ago(&at, "2026-01-01T00:00:02").unwrap(), "just now");
        assert_eq!(ago(&at, "2026-01-01T00:59:02.5").unwrap(), "59 min ago");
        assert_eq!(ago(&at, "2026-01-03T00:00:00").unwrap(), "2 days ago");
        assert_eq!(until(&at, "2025-12-31T21:00:00").unwrap(), "in 3 h");
        assert_eq!(moment(&at).unwrap(), "2026-01-01 00:00");
    }
}
