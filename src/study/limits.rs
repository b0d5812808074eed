//! Limits of stored values, shared by all inputs (API, pages, command line, imports).
//!
//! Each limit is that of the narrowest of the three databases: every database accepts a valid value, and a check before writing finds the
//! values that a database would refuse.

use std::ops::RangeInclusive;

use chrono::{Datelike, NaiveDate, NaiveDateTime, NaiveTime, SubsecRound, Timelike};

use super::label::is_invisible;
use super::variable::parse_moment;

/// Years that all three databases can store.
pub const YEARS: RangeInclusive<i32> = 1000..=9999;
/// Maximum length of a variable's name in characters.
pub const VARIABLE_NAME: usize = 255;
/// Maximum length of an external id or a URL in characters.
pub const EXTERNAL_ID: usize = 1024;
/// Maximum size of a variable's value in bytes. MariaDB refuses statements of more than 16 MiB by default, and one statement writes
/// several values.
pub const VARIABLE_VALUE: usize = 1024 * 1024;

/// Reads a date such as `1980-12-31`.
///
/// # Errors
/// The text is not a date, or its year is not in [`YEARS`].
pub fn date(text: &str) -> Result<NaiveDate, String> {
    let read = text.trim().parse::<NaiveDate>();
    let date = read.map_err(|_| format!("'{text}' is not a valid date (expected e.g. 1980-12-31)"))?;
    year(text, date.year())?;
    Ok(date)
}

/// Reads a date and time such as `2024-03-01T10:00:00`, to the microsecond. A date alone means its midnight; a time with an offset is
/// converted to UTC.
///
/// # Errors
/// The text is not a date, its year is not in [`YEARS`], or it is a leap second.
pub fn moment(text: &str) -> Result<NaiveDateTime, String> {
    let midnight = || text.trim().parse::<NaiveDate>().ok().map(|day| day.and_time(NaiveTime::MIN));
    let moment = parse_moment(text)
        .or_else(midnight)
        .ok_or_else(|| format!("'{text}' is not a valid date and time (expected e.g. 2024-03-01T10:00:00)"))?;
    year(text, moment.year())?;
    // No database stores leap seconds, and few programs read them.
    if moment.nanosecond() >= 1_000_000_000 {
        return Err(format!("'{text}' must have seconds from 0 to 59"));
    }
    Ok(moment.trunc_subsecs(6))
}

fn year(text: &str, year: i32) -> Result<(), String> {
    if YEARS.contains(&year) { Ok(()) } else { Err(format!("'{text}' must be in a year from 1000 to 9999")) }
}

/// Checks the name of a variable.
///
/// # Errors
/// The name is empty, too long, or has invisible characters.
pub fn variable_name(name: &str) -> Result<(), String> {
    let length = name.chars().count();
    if name.trim().is_empty() {
        Err("the name of a variable is empty".to_owned())
    } else if length > VARIABLE_NAME {
        let start: String = name.chars().take(20).collect();
        Err(format!("the name of the variable '{start}…' must be at most {VARIABLE_NAME} characters (got {length})"))
    } else if name.chars().any(|c| c.is_control() || is_invisible(c)) {
        Err(format!("the name of the variable {name:?} contains an invisible character"))
    } else {
        Ok(())
    }
}

/// Checks the stored size of a variable's value.
///
/// # Errors
/// The value has more than [`VARIABLE_VALUE`] bytes.
pub fn variable_value(text: &str) -> Result<(), String> {
    match text.len() {
        size if size > VARIABLE_VALUE => Err(format!("must be at most {VARIABLE_VALUE} bytes (got {size})")),
        _ => Ok(()),
    }
}

/// Checks an external id.
///
/// # Errors
/// The id is too long or has a null character.
pub fn external_id(id: &str) -> Result<(), String> {
    match id.chars().count() {
        length if length > EXTERNAL_ID => Err(format!("must be at most {EXTERNAL_ID} characters (got {length})")),
        _ if id.contains('\0') => Err("contains a null character".to_owned()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_that_every_database_stores() {
        for text in ["50-02-03", "0999-12-31", "-2020-01-01", "+12024-01-01"] {
            assert!(date(text).unwrap_err().contains("year from 1000 to 9999"), "{text}");
            assert!(moment(&format!("{text}T10:00:00")).is_err(), "{text}");
        }
        assert_eq!(date("1000-01-01").unwrap().year(), 1000);
        assert!(moment("2016-12-31T23:59:60").unwrap_err().contains("seconds from 0 to 59"));
        assert_eq!(moment("2020-03-04").unwrap().to_string(), "2020-03-04 00:00:00");
        assert_eq!(moment("2020-03-04T10:00:00+0100").unwrap().to_string(), "2020-03-04 09:00:00");
        assert_eq!(
            moment("9999-12-31T23:30:00-01:00").unwrap_err(),
            "'9999-12-31T23:30:00-01:00' must be in a year from 1000 to 9999"
        );
        assert!(date("2020-02-30").is_err() && moment("04/03/2020 10:00").is_err());
    }

    #[test]
    fn names_and_ids_have_a_length() {
        assert!(variable_name(&"q".repeat(255)).is_ok());
        assert!(variable_name(&"q".repeat(256)).unwrap_err().contains("(got 256)"));
        assert!(variable_name("a\nb").is_err() && variable_name(" ").is_err());
        assert!(external_id(&"é".repeat(1024)).is_ok() && external_id(&"e".repeat(1025)).is_err());
    }
}
