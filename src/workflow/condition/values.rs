//! Converts facts to Python values. All values are copies, so a condition that changes a dict only changes its own.

use chrono::{Datelike, NaiveDate, NaiveDateTime, NaiveTime, Timelike};
use monty_types::{
    DictPairs, MontyClassInstance, MontyClassType, MontyDate, MontyDateTime, MontyObject, MontyTime, MontyTimeZone,
    MontyUuid,
};

use super::{CallbackFacts, ExperimentFacts, Facts, Value, syntax::Reads};

/// Maximum nesting of JSON values that conditions receive. `serde_json` reads at most 128 levels; a value built in memory could have more.
const MAX_JSON_DEPTH: usize = 128;

/// The two kinds of objects; the number is part of an object's identity.
const EXPERIMENT: u128 = 1;
const CALLBACK: u128 = 2;

/// The values of the names `experiment` and `callbacks`, as far as the condition reads them.
pub(super) fn inputs(facts: &Facts, reads: &Reads) -> Vec<MontyObject> {
    let experiment = if reads.experiment { experiment(&facts.experiment) } else { MontyObject::None };
    vec![experiment, callbacks(facts, reads)]
}

fn callbacks(facts: &Facts, reads: &Reads) -> MontyObject {
    let wanted = facts.callbacks.iter().filter(|(label, _)| reads.all_callbacks || reads.labels.contains(*label));
    // Each callback gets a number, so that two callbacks are never the same object.
    let pairs = wanted.zip(1u128..).map(|((label, callback), number)| (text(label), self::callback(callback, number)));
    MontyObject::Dict(pairs.collect())
}

fn experiment(facts: &ExperimentFacts) -> MontyObject {
    let variables = facts.variables.iter().map(|(name, value)| (text(name), variable(value)));
    let attributes = [
        (text("label"), text(&facts.label)),
        (text("scandate"), date_time(facts.scandate)),
        (text("state"), text(&facts.state)),
        (text("variables"), MontyObject::Dict(variables.collect())),
    ];
    instance("Experiment", EXPERIMENT, 0, attributes.into_iter().collect())
}

fn callback(facts: &CallbackFacts, number: u128) -> MontyObject {
    let attributes = [
        (text("status"), text(&facts.status)),
        (text("result"), text(&facts.result)),
        (text("result_values"), json(&facts.result_values, 0)),
    ];
    instance("Callback", CALLBACK, number, attributes.into_iter().collect())
}

/// An object with attributes and without methods.
fn instance(class: &str, kind: u128, number: u128, attrs: DictPairs) -> MontyObject {
    let class_type = MontyClassType {
        name: class.to_owned(),
        id: MontyUuid::from_u128(kind),
        host_defined: true,
        is_dataclass: false,
        attrs: DictPairs::default(),
    };
    let instance_id = MontyUuid::from_u128((kind << 64) | number);
    MontyObject::ClassInstance(Box::new(MontyClassInstance { class_type, instance_id, attrs }))
}

fn variable(value: &Value) -> MontyObject {
    match value {
        Value::None => MontyObject::None,
        Value::Bool(value) => MontyObject::Bool(*value),
        Value::Int(value) => MontyObject::Int(*value),
        Value::Float(value) => MontyObject::Float(*value),
        Value::Str(value) => text(value),
        Value::Date(value) => date(*value),
        Value::DateTime(value) => date_time(*value),
        Value::Time(value) => time(*value),
        Value::Json(value) => json(value, 0),
    }
}

fn json(value: &serde_json::Value, depth: usize) -> MontyObject {
    match value {
        // Deeper levels are cut off: a condition that does not read them can still be evaluated.
        _ if depth > MAX_JSON_DEPTH => MontyObject::None,
        serde_json::Value::Null => MontyObject::None,
        serde_json::Value::Bool(value) => MontyObject::Bool(*value),
        serde_json::Value::Number(value) => number(value),
        serde_json::Value::String(value) => text(value),
        serde_json::Value::Array(items) => MontyObject::List(items.iter().map(|item| json(item, depth + 1)).collect()),
        serde_json::Value::Object(map) => {
            MontyObject::Dict(map.iter().map(|(key, value)| (text(key), json(value, depth + 1))).collect())
        }
    }
}

/// Maximum number of digits of a whole number, like Python's `sys.get_int_max_str_digits()`.
const MAX_DIGITS: usize = 4300;

fn number(value: &serde_json::Number) -> MontyObject {
    if let Some(value) = value.as_i64() {
        MontyObject::Int(value)
    } else if let Some(value) = value.as_u64() {
        MontyObject::BigInt(value.into())
    } else if !value.is_f64() {
        let digits = value.to_string();
        // Like Python, does not parse longer numbers: the time grows with the square of the length.
        match digits.len() <= MAX_DIGITS {
            true => digits.parse().map_or_else(|_| text(&digits), MontyObject::BigInt),
            false => text(&digits),
        }
    } else {
        MontyObject::Float(value.as_f64().unwrap_or(f64::NAN))
    }
}

fn text(value: &str) -> MontyObject {
    MontyObject::String(value.to_owned())
}

/// A date; also the result of `datetime.date.today()`.
pub(super) fn date(value: NaiveDate) -> MontyObject {
    MontyObject::Date(MontyDate { year: value.year(), month: small(value.month()), day: small(value.day()) })
}

/// A date with a time; also the result of `datetime.datetime.now()`.
pub(super) fn date_time(value: NaiveDateTime) -> MontyObject {
    MontyObject::DateTime(MontyDateTime {
        year: value.year(),
        month: small(value.month()),
        day: small(value.day()),
        hour: small(value.hour()),
        minute: small(value.minute()),
        second: small(value.second()),
        microsecond: microsecond(value.nanosecond()),
        offset_seconds: None,
        timezone_name: None,
    })
}

/// The result of `datetime.datetime.now(zone)`; `value` is UTC.
pub(super) fn date_time_in(value: NaiveDateTime, zone: &MontyTimeZone) -> MontyObject {
    match date_time(value + chrono::TimeDelta::seconds(zone.offset_seconds.into())) {
        MontyObject::DateTime(local) => MontyObject::DateTime(MontyDateTime {
            offset_seconds: Some(zone.offset_seconds),
            timezone_name: zone.name.clone(),
            ..local
        }),
        other => other,
    }
}

fn time(value: NaiveTime) -> MontyObject {
    MontyObject::Time(MontyTime {
        hour: small(value.hour()),
        minute: small(value.minute()),
        second: small(value.second()),
        microsecond: microsecond(value.nanosecond()),
        offset_seconds: None,
        timezone_name: None,
        fold: 0,
    })
}

/// Chrono stores a leap second as more than a second of nanoseconds; Python has no leap seconds, so it becomes the last microsecond.
fn microsecond(nanosecond: u32) -> u32 {
    (nanosecond / 1_000).min(999_999)
}

/// Converts months, days, hours and the like, which are always below 256.
fn small(value: u32) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}
