//! Values in comparisons: times, durations and numbers.

use chrono::{Datelike, Days, Months, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta};

use crate::study::limits;

use super::syntax::RawValue;

/// A comparison operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    pub(super) fn of(operator: &str) -> Self {
        match operator {
            "<" => Self::Less,
            "<=" => Self::LessOrEqual,
            ">" => Self::Greater,
            ">=" => Self::GreaterOrEqual,
            _ => Self::Equal,
        }
    }
}

/// A range with inclusive or exclusive ends; `None` is an open end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bounds<T> {
    pub from: Option<Bound<T>>,
    pub to: Option<Bound<T>>,
}

/// One end of a range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bound<T> {
    pub value: T,
    pub is_included: bool,
}

impl<T: Copy> Bounds<T> {
    /// The range of values for which the comparison with `value` is true.
    pub(super) fn of(comparison: Comparison, value: T) -> Self {
        let bound = |is_included| Some(Bound { value, is_included });
        match comparison {
            Comparison::Equal => Self { from: bound(true), to: bound(true) },
            Comparison::Less => Self { from: None, to: bound(false) },
            Comparison::LessOrEqual => Self { from: None, to: bound(true) },
            Comparison::Greater => Self { from: bound(false), to: None },
            Comparison::GreaterOrEqual => Self { from: bound(true), to: None },
        }
    }
}

/// Reads a value, a comparison with a value, or an inclusive range, which may lack one end.
///
/// # Errors
/// The error of `read`, or both ends of the range are missing.
pub(super) fn bounds<T: Copy>(raw: &RawValue, read: impl Fn(&str) -> Result<T, String>) -> Result<Bounds<T>, String> {
    let Some((from, to)) = range(raw) else {
        return Ok(Bounds::of(Comparison::of(raw.operator), read(&raw.text)?));
    };
    let end = |text: &str| -> Result<_, String> {
        if text.is_empty() {
            return Ok(None);
        }
        Ok(Some(Bound { value: read(text)?, is_included: true }))
    };
    let bounds = Bounds { from: end(from)?, to: end(to)? };
    if bounds.from.is_none() && bounds.to.is_none() { Err(BOTH_MISSING.to_owned()) } else { Ok(bounds) }
}

const BOTH_MISSING: &str = "'..' needs a value before or behind it";

/// The two ends of `from..to`.
pub(super) fn range(raw: &RawValue) -> Option<(&str, &str)> {
    if raw.is_quoted || !raw.operator.is_empty() { None } else { raw.text.split_once("..") }
}

/// A year, a month, a day or a minute: from its beginning to the beginning of the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Period {
    pub from: NaiveDateTime,
    pub to: NaiveDateTime,
}

impl Period {
    /// Reads `2026`, `2026-03`, `2026-03-31` or `2026-03-31T10:00`.
    ///
    /// # Errors
    /// The text is none of these.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not a date; use one like 2026-03-31, 2026-03, 2026 or 2026-03-31T10:00");
        let digits = |text: &str, length| text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit());
        let (first, months) = match text.split_once('-') {
            None if digits(text, 4) => (format!("{text}-01-01"), 12),
            Some((year, month)) if digits(year, 4) && digits(month, 2) => (format!("{text}-01"), 1),
            _ => (text.to_owned(), 0),
        };
        if let Ok(day) = limits::date(&first) {
            let next = if months > 0 {
                day.checked_add_months(Months::new(months))
            } else {
                day.checked_add_days(Days::new(1))
            };
            let midnight = |day: NaiveDate| day.and_time(NaiveTime::MIN);
            let next = next.filter(|next| limits::YEARS.contains(&next.year())).ok_or_else(wrong)?;
            return Ok(Self { from: midnight(day), to: midnight(next) });
        }
        let moment = limits::moment(text).map_err(|_| wrong())?;
        let length = if text.matches(':').count() > 1 { TimeDelta::microseconds(1) } else { TimeDelta::minutes(1) };
        Ok(Self { from: moment, to: moment.checked_add_signed(length).ok_or_else(wrong)? })
    }

    /// The range of times for which the comparison with this period is true.
    pub(super) fn bounds(self, comparison: Comparison) -> Bounds<NaiveDateTime> {
        let included = |value| Some(Bound { value, is_included: true });
        let excluded = |value| Some(Bound { value, is_included: false });
        match comparison {
            Comparison::Equal => Bounds { from: included(self.from), to: excluded(self.to) },
            Comparison::Less => Bounds { from: None, to: excluded(self.from) },
            Comparison::LessOrEqual => Bounds { from: None, to: excluded(self.to) },
            Comparison::Greater => Bounds { from: included(self.to), to: None },
            Comparison::GreaterOrEqual => Bounds { from: included(self.from), to: None },
        }
    }
}

/// Reads a date, a comparison with a date, or an inclusive range of dates, which may lack one end.
///
/// # Errors
/// The part that is not a date.
pub(super) fn times(raw: &RawValue) -> Result<Bounds<NaiveDateTime>, String> {
    let Some((from, to)) = range(raw) else {
        return Ok(Period::read(&raw.text)?.bounds(Comparison::of(raw.operator)));
    };
    let end = |text: &str, comparison| match text {
        "" => Ok(Bounds { from: None, to: None }),
        text => Period::read(text).map(|period| period.bounds(comparison)),
    };
    let (from, to) = (end(from, Comparison::GreaterOrEqual)?, end(to, Comparison::LessOrEqual)?);
    if from.from.is_none() && to.to.is_none() {
        return Err(BOTH_MISSING.to_owned());
    }
    Ok(Bounds { from: from.from, to: to.to })
}

/// Reads a duration such as `30d`: minutes (`min`), hours (`h`), days (`d`), weeks (`w`) or years of 365 days (`y`).
///
/// # Errors
/// The text is not a duration.
pub(super) fn duration(text: &str) -> Result<TimeDelta, String> {
    let wrong = || format!("'{text}' is not a duration; use one like 30d (min, h, d, w or y)");
    let unit_at = text.find(|character: char| !character.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit_at);
    let minutes = match unit {
        "min" => 1,
        "h" => 60,
        "d" => 24 * 60,
        "w" => 7 * 24 * 60,
        "y" => 365 * 24 * 60,
        _ => return Err(wrong()),
    };
    let number: i64 = number.parse().map_err(|_| wrong())?;
    number
        .checked_mul(minutes)
        .filter(|minutes| *minutes <= 1000 * 366 * 24 * 60)
        .map(TimeDelta::minutes)
        .ok_or_else(wrong)
}

/// Reads a number.
///
/// # Errors
/// The text is not a finite number.
pub(super) fn number(text: &str) -> Result<f64, String> {
    let read = text.parse().ok().filter(|number: &f64| number.is_finite());
    let starts_well =
        text.starts_with(|character: char| character.is_ascii_digit() || matches!(character, '-' | '+' | '.'));
    read.filter(|_| starts_well).ok_or_else(|| format!("'{text}' is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> NaiveDateTime {
        limits::moment(text).unwrap()
    }

    #[test]
    fn a_period_goes_to_the_beginning_of_the_next() {
        for (text, from, to) in [
            ("2026", "2026-01-01", "2027-01-01"),
            ("2026-12", "2026-12-01", "2027-01-01"),
            ("2024-02-29", "2024-02-29", "2024-03-01"),
            ("2026-03-31T10:00", "2026-03-31T10:00", "2026-03-31T10:01"),
        ] {
            assert_eq!(Period::read(text), Ok(Period { from: at(from), to: at(to) }), "{text}");
        }
        for text in ["", "26", "2026-13", "2026-02-30", "yesterday", "9999", "2026-1"] {
            Period::read(text).unwrap_err();
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("30d"), Ok(TimeDelta::days(30)));
        assert_eq!(duration("2w"), Ok(TimeDelta::days(14)));
        assert_eq!(duration("90min"), Ok(TimeDelta::minutes(90)));
        for text in ["", "30", "d", "-3d", "3 d", "3m", "99999999999999999999d", "9999999999y"] {
            duration(text).unwrap_err();
        }
    }
}
