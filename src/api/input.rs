//! Request parsing with per-field errors; distinguishes missing from null.
//!
//! Scripts send numbers as texts and texts as numbers; both are accepted, as in version 8.1.

use std::collections::BTreeMap;

use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use chrono::{NaiveDate, NaiveDateTime};
use serde::de::DeserializeOwned;
use serde::de::value::MapDeserializer;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use crate::app::App;
use crate::http::{self, HttpError, Meter, SMALL_BYTES};
use crate::study::{Label, limits};

/// A field of a body or of a query.
#[derive(Debug, Clone, Default)]
pub(super) enum Given<T> {
    #[default]
    Missing,
    Null,
    Value(T),
    /// The value is invalid; contains the reason.
    Wrong(String),
}

impl<T> Given<T> {
    /// This field, or else `other`: for fields that have two names.
    pub(super) fn or(self, other: Self) -> Self {
        if self.is_missing() && !matches!(other, Self::Missing) { other } else { self }
    }

    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Missing | Self::Null)
    }

    pub(super) fn value(self) -> Option<T> {
        if let Self::Value(value) = self { Some(value) } else { None }
    }
}

/// A type that can be parsed from a field.
pub(super) trait Readable: Sized {
    /// Parses the value.
    ///
    /// # Errors
    /// The expected type of value.
    fn read(value: &Value) -> Result<Self, String>;
}

impl Readable for String {
    fn read(value: &Value) -> Result<Self, String> {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) if !number.is_f64() => number.to_string(),
            _ => return Err("must be a string".to_owned()),
        };
        if text.contains('\0') { Err("contains a null character".to_owned()) } else { Ok(text) }
    }
}

impl Readable for i32 {
    fn read(value: &Value) -> Result<Self, String> {
        let number = match value {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        let number = number.ok_or_else(|| "must be a whole number".to_owned())?;
        Self::try_from(number).map_err(|_| "is too large".to_owned())
    }
}

impl Readable for u64 {
    fn read(value: &Value) -> Result<Self, String> {
        let number = i32::read(value)?;
        Self::try_from(number).map_err(|_| "must not be negative".to_owned())
    }
}

impl Readable for bool {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Bool(value) => Ok(*value),
            Value::Number(number) if number.as_i64() == Some(0) => Ok(false),
            Value::Number(number) if number.as_i64() == Some(1) => Ok(true),
            Value::String(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "1" => Ok(true),
                "false" | "0" => Ok(false),
                _ => Err("must be true or false".to_owned()),
            },
            _ => Err("must be true or false".to_owned()),
        }
    }
}

impl Readable for NaiveDate {
    fn read(value: &Value) -> Result<Self, String> {
        limits::date(value.as_str().ok_or("must be a date (e.g. 1980-12-31)")?)
    }
}

impl Readable for NaiveDateTime {
    fn read(value: &Value) -> Result<Self, String> {
        limits::moment(value.as_str().ok_or("must be a date and time (e.g. 2024-03-01T10:00:00)")?)
    }
}

impl Readable for Value {
    fn read(value: &Value) -> Result<Self, String> {
        Ok(value.clone())
    }
}

/// Texts by name.
impl Readable for BTreeMap<String, String> {
    fn read(value: &Value) -> Result<Self, String> {
        let object = value.as_object().ok_or_else(|| "must be an object with string values".to_owned())?;
        let entry = |(name, value): (&String, &Value)| {
            let text = String::read(value).map_err(|problem| format!("'{name}' {problem}"))?;
            Ok((name.clone(), text))
        };
        object.iter().map(entry).collect()
    }
}

impl<T: Readable> Readable for Vec<T> {
    fn read(value: &Value) -> Result<Self, String> {
        let items = value.as_array().ok_or_else(|| "must be a list".to_owned())?;
        let item = |(index, item): (usize, &Value)| T::read(item).map_err(|problem| format!("item {index} {problem}"));
        items.iter().enumerate().map(item).collect()
    }
}

impl<'de, T: Readable> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if value.is_null() {
            return Ok(Self::Null);
        }
        Ok(match T::read(&value) {
            Ok(value) => Self::Value(value),
            Err(problem) => Self::Wrong(problem),
        })
    }
}

/// Only for the OpenAPI description, which asks for the default of a field: there is none.
impl<T> Serialize for Given<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_none()
    }
}

/// The wording of version 8.1, which scripts may look for.
pub(super) const MISSING: &str = "Missing required parameter in the JSON body";

/// The errors of a request, by field.
#[derive(Debug, Default)]
pub(super) struct Problems(BTreeMap<String, String>);

impl Problems {
    pub(super) fn add(&mut self, field: &str, problem: impl Into<String>) {
        self.0.entry(field.to_owned()).or_insert_with(|| problem.into());
    }

    /// The value of a required field.
    pub(super) fn required<T>(&mut self, field: &str, given: Given<T>) -> Option<T> {
        if given.is_missing() {
            self.add(field, MISSING);
        }
        self.optional(field, given)
    }

    /// The value of a field that may be missing or null.
    pub(super) fn optional<T>(&mut self, field: &str, given: Given<T>) -> Option<T> {
        match given {
            Given::Value(value) => Some(value),
            Given::Wrong(problem) => {
                self.add(field, problem);
                None
            }
            Given::Missing | Given::Null => None,
        }
    }

    /// A change of a field: `None` leaves it unchanged; `Some(None)` clears it.
    #[expect(clippy::option_option, reason = "not given and given as null are two things")]
    pub(super) fn change<T>(&mut self, field: &str, given: Given<T>) -> Option<Option<T>> {
        match given {
            Given::Null => Some(None),
            given => self.optional(field, given).map(Some),
        }
    }

    /// Parses a label.
    pub(super) fn label(&mut self, field: &str, text: Option<String>) -> Option<Label> {
        match Label::parse(&text?) {
            Ok(label) => Some(label),
            Err(error) => {
                self.add(field, error.to_string());
                None
            }
        }
    }

    /// Returns the errors, if there are any.
    ///
    /// # Errors
    /// [`HttpError::Invalid`] if there is any error.
    pub(super) fn check(self) -> Result<(), HttpError> {
        if self.0.is_empty() { Ok(()) } else { Err(self.error()) }
    }

    /// The value, if there are no errors.
    ///
    /// # Errors
    /// [`HttpError::Invalid`].
    pub(super) fn all<T>(self, value: Option<T>) -> Result<T, HttpError> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self.error()),
        }
    }

    fn error(self) -> HttpError {
        HttpError::Invalid(self.0)
    }
}

/// An error of one field.
pub(super) fn invalid(field: &str, problem: impl Into<String>) -> HttpError {
    HttpError::Invalid(BTreeMap::from([(field.to_owned(), problem.into())]))
}

/// The reason for a change.
#[derive(Debug, Default, Deserialize, ToSchema, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(super) struct ReasonBody {
    /// Recorded in the history.
    #[schema(value_type = String, example = "scanned twice by mistake")]
    #[param(value_type = Option<String>, example = "scanned twice by mistake")]
    reason: Given<String>,
}

impl ReasonBody {
    /// The reason.
    ///
    /// # Errors
    /// 400 if it is missing.
    pub(super) fn read(self) -> Result<String, HttpError> {
        let mut problems = Problems::default();
        let reason = problems.required("reason", self.reason);
        let reason = problems.all(reason)?;
        if reason.trim().is_empty() {
            return Err(invalid("reason", "is empty"));
        }
        Ok(reason.trim().to_owned())
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self { reason: self.reason.or(other.reason) }
    }
}

/// A JSON body, whatever its declared type; an empty body is an empty object.
pub(super) struct Body<T>(pub T);

impl<T: DeserializeOwned + Send + 'static> FromRequest<App> for Body<T> {
    type Rejection = Response;

    async fn from_request(request: Request, _: &App) -> Result<Self, Response> {
        parsed(request, read_body).await.map(Self).map_err(IntoResponse::into_response)
    }
}

/// Reads the body within the limits of its sender and parses it; a large one outside the threads that answer requests.
async fn parsed<T: Send + 'static>(request: Request, parse: fn(&[u8]) -> Result<T, HttpError>) -> Result<T, HttpError> {
    let (parts, body) = request.into_parts();
    let bytes = http::read_body(&parts, body).await?;
    if bytes.len() <= SMALL_BYTES {
        return parse(&bytes);
    }
    http::hold_values(parts.extensions.get::<Meter>(), &bytes).await?;
    let parsing = tokio::task::spawn_blocking(move || parse(&bytes)).await;
    parsing.map_err(|error| HttpError::Internal(error.to_string()))?
}

/// Only the fields of `T` are read: other fields of the object cost no memory. If a field is repeated, the last one
/// counts, as in Python.
fn read_body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, HttpError> {
    let text = if bytes.iter().all(u8::is_ascii_whitespace) { b"{}" } else { bytes };
    let fields: BTreeMap<String, &RawValue> = serde_json::from_slice(text).map_err(|error| {
        HttpError::BadRequest(match error.is_data() {
            true => "The body must be a JSON object.".to_owned(),
            false => format!("The body is not valid JSON: {error}."),
        })
    })?;
    let fields = MapDeserializer::new(fields.into_iter());
    T::deserialize(fields)
        .map_err(|error: serde_json::Error| HttpError::BadRequest(format!("The body is invalid: {error}.")))
}

/// A body that is a list.
pub(super) struct ListBody(pub Vec<Value>);

impl FromRequest<App> for ListBody {
    type Rejection = Response;

    async fn from_request(request: Request, _: &App) -> Result<Self, Response> {
        let read = |bytes: &[u8]| {
            serde_json::from_slice(bytes)
                .map_err(|error| HttpError::BadRequest(format!("The body must be a JSON list: {error}.")))
        };
        parsed(request, read).await.map(Self).map_err(IntoResponse::into_response)
    }
}

/// The query of the URL. A name without a value counts as missing.
pub(super) struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<App> for Query<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Response> {
        let mut fields = Map::new();
        for (name, value) in url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()) {
            // For a variable, an empty value is a value.
            if !value.is_empty() || name.starts_with("variable.") {
                fields.insert(name.into_owned(), Value::String(value.into_owned()));
            }
        }
        let read = serde_json::from_value(Value::Object(fields));
        read.map(Self).map_err(|error| HttpError::BadRequest(format!("{error}.")).into_response())
    }
}

/// The number in the path. Anything else does not exist: 404.
pub(super) struct Number(pub i32);

impl FromRequestParts<App> for Number {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        let Path(text) = Path::<String>::from_request_parts(parts, app).await.map_err(IntoResponse::into_response)?;
        number(&text).map(Self).map_err(IntoResponse::into_response)
    }
}

/// Parses an id.
///
/// # Errors
/// 404 if it is not a number.
pub(super) fn number(text: &str) -> Result<i32, HttpError> {
    text.parse().map_err(|_| HttpError::NotFound(format!("resource '{text}' here: an id must be a number")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Deserialize)]
    struct Fields {
        #[serde(default)]
        label: Given<String>,
        #[serde(default)]
        size: Given<i32>,
        #[serde(default)]
        at: Given<NaiveDateTime>,
    }

    #[test]
    fn everything_that_is_wrong_is_told_by_field() {
        let body = json!({"size": "many", "at": "yesterday"}).to_string();
        let fields: Fields = read_body(body.as_bytes()).unwrap();
        let mut problems = Problems::default();
        assert_eq!(problems.required("label", fields.label), None);
        assert_eq!(problems.optional("size", fields.size), None);
        assert_eq!(problems.optional("at", fields.at), None);
        let Err(HttpError::Invalid(errors)) = problems.check() else { panic!("nothing was found") };
        assert_eq!(errors.keys().collect::<Vec<_>>(), ["at", "label", "size"]);
        assert_eq!(errors["label"], MISSING);
    }

    #[test]
    fn numbers_may_be_texts_and_texts_numbers() {
        let fields: Fields = read_body(br#"{"label": 7, "size": "12", "at": "2024-03-01"}"#).unwrap();
        assert_eq!(fields.label.value().as_deref(), Some("7"));
        assert_eq!(fields.size.value(), Some(12));
        assert_eq!(fields.at.value().unwrap().to_string(), "2024-03-01 00:00:00");
        assert!(read_body::<Fields>(b"[]").is_err());
        assert!(read_body::<Fields>(b"{").is_err());
        assert!(read_body::<Fields>(b"").is_ok());
        let twice: Fields = read_body(br#"{"label": "a", "other": [[{}]], "label": "b"}"#).unwrap();
        assert_eq!(twice.label.value().as_deref(), Some("b"));
        assert!(String::read(&json!("a\0b")).is_err());
        assert!(i32::read(&json!(3_000_000_000_i64)).is_err());
        assert!(NaiveDate::read(&json!("0001-01-01")).is_err());
    }
}
