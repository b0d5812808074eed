//! JSON values in formats other than JSON.
//!
//! `serde_json` keeps the digits of a number as they were written (`arbitrary_precision`), so whole numbers of any size survive a round
//! trip. It serializes them in a private form that other serializers (templates, YAML) would write as a mapping; [`PlainNumbers`] writes
//! them as numbers.

use serde::{Serialize, Serializer};
use serde_json::{Number, Value};

/// A JSON value whose numbers any serializer understands. Whole numbers of more than 64 bits become texts of their digits.
#[derive(Debug, Clone, Copy)]
pub struct PlainNumbers<'a>(pub &'a Value);

impl Serialize for PlainNumbers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Number(number) => plain(number, serializer),
            Value::Array(items) => serializer.collect_seq(items.iter().map(PlainNumbers)),
            Value::Object(entries) => {
                serializer.collect_map(entries.iter().map(|(name, value)| (name, PlainNumbers(value))))
            }
            Value::Null | Value::Bool(_) | Value::String(_) => self.0.serialize(serializer),
        }
    }
}

fn plain<S: Serializer>(number: &Number, serializer: S) -> Result<S::Ok, S::Error> {
    if let Some(value) = number.as_i64() {
        serializer.serialize_i64(value)
    } else if let Some(value) = number.as_u64() {
        serializer.serialize_u64(value)
    } else if let (true, Some(value)) = (number.is_f64(), number.as_f64()) {
        serializer.serialize_f64(value)
    } else {
        serializer.serialize_str(&number.to_string())
    }
}

/// For `#[serde(serialize_with)]`: pairs of a name and a value.
///
/// # Errors
/// Those of the serializer.
pub fn plain_pairs<S: Serializer>(pairs: &[(String, Value)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(pairs.iter().map(|(name, value)| (name, PlainNumbers(value))))
}
