//! The audit log with filters, and its download as CSV.

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use chrono::{Datelike, NaiveDate, NaiveDateTime, TimeDelta};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::audit::{self, Filter, search};
use crate::clock::iso;
use crate::entity::audit_event;
use crate::entity::kind::Origin;
use crate::http::{HttpError, LoggedIn, Wants};

use super::page::{PAGE_SIZE, maybe, page_or_block};

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct AuditQuery {
    #[serde(default)]
    who: String,
    #[serde(default)]
    verb: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    origin: String,
    #[serde(default)]
    since: String,
    #[serde(default)]
    until: String,
    #[serde(default, deserialize_with = "maybe")]
    below: Option<i32>,
}

impl AuditQuery {
    fn filter(&self) -> Result<Filter, HttpError> {
        let text = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let day = |name: &str, value: &str| match value.trim() {
            "" => Ok(None),
            value => {
                let problem = || {
                    HttpError::BadRequest(format!(
                        "{name}: '{value}' is not a date (expected \
                    YYYY-MM-DD)"
                    ))
                };
                let day = value.parse::<NaiveDate>().map_err(|_| problem())?;
                // The range that all databases can compare with.
                if (1000..=9998).contains(&day.year()) { Ok(Some(day)) } else { Err(problem()) }
            }
        };
        let origin = match self.origin.trim() {
            "" => None,
            text => {
                let parsed = serde_json::from_value::<Origin>(text.into());
                Some(parsed.map_err(|_| HttpError::BadRequest(format!("unknown origin '{text}'")))?)
            }
        };
        let midnight = |day: NaiveDate| day.and_hms_opt(0, 0, 0);
        Ok(Filter {
            who: text(&self.who),
            verb: text(&self.verb),
            kind: text(&self.kind),
            name: text(&self.name),
            origin,
            since: day("since", &self.since)?.and_then(midnight),
            // Includes the whole last day.
            until: day("until", &self.until)?.and_then(|day| midnight(day + TimeDelta::days(1))),
        })
    }

    /// The filters as a query, for the links to older pages and to the CSV file: everything except the position in the
    /// list.
    fn address(&self) -> String {
        let mut address = url::form_urlencoded::Serializer::new(String::new());
        let fields = [
            ("who", &self.who),
            ("verb", &self.verb),
            ("kind", &self.kind),
            ("name", &self.name),
            ("origin", &self.origin),
            ("since", &self.since),
            ("until", &self.until),
        ];
        for (name, value) in fields.into_iter().filter(|(_, value)| !value.is_empty()) {
            address.append_pair(name, value);
        }
        address.finish()
    }
}

/// An event as shown on pages.
#[derive(Serialize)]
pub(super) struct EventRow {
    id: i32,
    at: NaiveDateTime,
    who: String,
    origin: String,
    address: Option<String>,
    verb: String,
    kind: String,
    subject_id: Option<i32>,
    name: String,
    experiment_id: Option<i32>,
    before: Option<String>,
    after: Option<String>,
    reason: Option<String>,
}

impl From<audit_event::Model> for EventRow {
    fn from(row: audit_event::Model) -> Self {
        Self {
            id: row.id,
            at: row.at,
            who: row.who,
            origin: row.origin.to_string(),
            address: row.address,
            verb: row.verb.replace('_', " "),
            kind: row.subject_type.replace('_', " "),
            subject_id: row.subject_id,
            name: row.subject_name,
            experiment_id: row.experiment_id,
            before: row.before.as_deref().and_then(in_words),
            after: row.after.as_deref().and_then(in_words),
            reason: row.reason,
        }
    }
}

/// `label: a, active: true` for a mapping in JSON; `None` if it is empty.
fn in_words(json: &str) -> Option<String> {
    let serde_json::Value::Object(fields) = serde_json::from_str(json).ok()? else { return Some(json.to_owned()) };
    let word = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => "–".to_owned(),
        other => other.to_string(),
    };
    let words: Vec<String> = fields.iter().map(|(name, value)| format!("{name}: {}", word(value))).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

#[derive(Serialize)]
struct AuditPage {
    events: Vec<EventRow>,
    older: Option<i32>,
    query: String,
    is_first: bool,
    who: String,
    verb: String,
    kind: String,
    name: String,
    origin: String,
    since: String,
    until: String,
    verbs: &'static [&'static str],
    kinds: &'static [&'static str],
    origins: &'static [&'static str],
}

const ORIGINS: &[&str] = &["web", "api", "cli"];

pub(super) async fn list_events(
    State(app): State<App>,
    user: LoggedIn,
    wants: Wants,
    Query(query): Query<AuditQuery>,
) -> Result<Response, HttpError> {
    let found = search(app.statement(), &query.filter()?, query.below, PAGE_SIZE).await?;
    let content = AuditPage {
        older: found.events.last().filter(|_| found.has_older).map(|event| event.id),
        events: found.events.into_iter().map(EventRow::from).collect(),
        query: query.address(),
        is_first: query.below.is_none(),
        who: query.who,
        verb: query.verb,
        kind: query.kind,
        name: query.name,
        origin: query.origin,
        since: query.since,
        until: query.until,
        verbs: audit::VERBS,
        kinds: audit::KINDS,
        origins: ORIGINS,
    };
    page_or_block(&app, "audit/list.html", "audit", &user.0, content, wants.fragment.then_some("results"))
}

/// Rows of the CSV file that are read at a time.
const BATCH: u64 = 2_000;

/// Includes all matching events, so that the file is complete.
pub(super) async fn download_events(
    State(app): State<App>,
    Query(query): Query<AuditQuery>,
) -> Result<Response, HttpError> {
    let (filter, below) = (query.filter()?, query.below);
    // Read before the response begins, so that an immediate error is reported.
    let first = search(app.statement(), &filter, below, BATCH).await?;
    let mut begun = csv::Writer::from_writer(Vec::new());
    begun.write_record(HEADER).map_err(|error| HttpError::Internal(error.to_string()))?;
    let batches = stream::unfold((begun, Some(first)), move |(mut table, found)| {
        let (app, filter) = (app.clone(), filter.clone());
        async move {
            let found = found?;
            let older = found.events.last().filter(|_| found.has_older).map(|event| event.id);
            let text = written(&mut table, found.events);
            let next = match (&text, older) {
                (Ok(_), Some(older)) => search(app.statement(), &filter, Some(older), BATCH).await.map(Some),
                _ => Ok(None),
            };
            // An incomplete file must be recognizable: the connection ends without the end of the response.
            let (text, next) = match next {
                Ok(next) => (text, next),
                Err(error) => (Err(std::io::Error::other(error)), None),
            };
            Some((text, (csv::Writer::from_writer(Vec::new()), next)))
        }
    });
    let headers = [
        (CONTENT_TYPE, "text/csv; charset=utf-8"),
        (CONTENT_DISPOSITION, "attachment; filename=\"audit.csv\""),
        (CACHE_CONTROL, "no-store"),
    ];
    // Without `fuse` the stream would panic if polled after its end, as compression does.
    Ok((headers, Body::from_stream(batches.fuse())).into_response())
}

const HEADER: [&str; 14] = [
    "id",
    "at",
    "user_id",
    "who",
    "origin",
    "address",
    "verb",
    "subject_type",
    "subject_id",
    "subject_name",
    "experiment_id",
    "before",
    "after",
    "reason",
];

/// The content written to the table so far, and these rows.
fn written(table: &mut csv::Writer<Vec<u8>>, events: Vec<audit_event::Model>) -> std::io::Result<Vec<u8>> {
    for event in events {
        let number = |value: Option<i32>| value.map(|value| value.to_string()).unwrap_or_default();
        let row = [
            event.id.to_string(),
            iso(event.at),
            number(event.user_id),
            event.who,
            event.origin.to_string(),
            event.address.unwrap_or_default(),
            event.verb,
            event.subject_type,
            number(event.subject_id),
            event.subject_name,
            number(event.experiment_id),
            event.before.unwrap_or_default(),
            event.after.unwrap_or_default(),
            event.reason.unwrap_or_default(),
        ];
        table.write_record(row.map(|cell| harmless(&cell)))?;
    }
    table.flush()?;
    Ok(table.get_ref().clone())
}

/// Prevents spreadsheets from evaluating a cell as a formula, as users typed some of the values.
fn harmless(cell: &str) -> String {
    if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{cell}") } else { cell.to_owned() }
}
