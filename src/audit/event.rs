//! An audit event: one change, as the verb that makes it describes it.

use chrono::Timelike;
use sea_orm::ActiveValue::NotSet;
use sea_orm::{ActiveModelTrait, ConnectionTrait, DbErr, EntityTrait, IntoActiveModel};
use serde_json::{Map, Value};
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::context::Context;
use crate::entity::audit_event::{ActiveModel, Entity, Model};

use super::key;
use super::seal::last;

/// All verbs of events.
pub const VERBS: &[&str] = &[
    "add_scan",
    "annotate",
    "archive",
    "confirm",
    "create",
    "decline",
    "end_access",
    "end_sessions",
    "give_role",
    "hold",
    "intervene",
    "invite",
    "link",
    "log_in",
    "log_out",
    "release",
    "replace",
    "report",
    "restore",
    "revoke",
    "seal",
    "send",
    "take_role",
    "transition",
    "unlink",
    "update",
    "upgrade",
    "upload",
];

/// The kinds of objects in events.
pub const KINDS: &[&str] = &[
    "action",
    "audit_trail",
    "callback",
    "callback_execution",
    "cohort",
    "experiment",
    "external_system",
    "file",
    "mailing",
    "role",
    "scantype",
    "subject",
    "token",
    "user",
    "workflow",
];

/// A change: a verb (`create`, `update`, …) and its object.
#[derive(Debug, Clone)]
pub struct Event {
    verb: &'static str,
    kind: &'static str,
    id: Option<i32>,
    name: String,
    experiment_id: Option<i32>,
    before: Option<Value>,
    after: Option<Value>,
    reason: Option<String>,
}

impl Event {
    /// `kind` is the table (`user`, `cohort`, …), `name` the name that users know.
    #[must_use]
    pub fn new(verb: &'static str, kind: &'static str, id: i32, name: impl Into<String>) -> Self {
        // The filters of the audit log offer only the listed ones.
        debug_assert!(VERBS.contains(&verb) && KINDS.contains(&kind), "{verb} {kind}");
        let name = name.into();
        Self { verb, kind, id: Some(id), name, experiment_id: None, before: None, after: None, reason: None }
    }

    /// About an object that has no row: a file, a configuration.
    #[must_use]
    pub fn of(verb: &'static str, kind: &'static str, name: impl Into<String>) -> Self {
        Self { id: None, ..Self::new(verb, kind, 0, name) }
    }

    /// The new values.
    #[must_use]
    pub fn after(mut self, after: Value) -> Self {
        self.after = Some(after);
        self
    }

    /// The removed values.
    #[must_use]
    pub fn before(mut self, before: Value) -> Self {
        self.before = Some(before);
        self
    }

    /// The values before and after; of two mappings only the fields that differ.
    #[must_use]
    pub fn changed(mut self, before: &Value, after: &Value) -> Self {
        let (mut was, mut is) = (Map::new(), Map::new());
        if let (Value::Object(before), Value::Object(after)) = (before, after) {
            for (key, value) in after {
                let old = before.get(key).unwrap_or(&Value::Null);
                if old != value {
                    was.insert(key.clone(), old.clone());
                    is.insert(key.clone(), value.clone());
                }
            }
        }
        self.before = Some(Value::Object(was));
        self.after = Some(Value::Object(is));
        self
    }

    /// Whether [`Self::changed`] found no difference.
    fn is_nothing(&self) -> bool {
        let is_empty = |value: &Option<Value>| value.as_ref().and_then(Value::as_object).is_some_and(Map::is_empty);
        is_empty(&self.before) && is_empty(&self.after)
    }

    /// Shows the event on the page of this experiment.
    #[must_use]
    pub fn of_experiment(mut self, id: i32) -> Self {
        self.experiment_id = Some(id);
        self
    }

    /// The reason that the user gave.
    #[must_use]
    pub fn because(mut self, reason: &str) -> Self {
        self.reason = Some(reason.to_owned()).filter(|reason| !reason.trim().is_empty());
        self
    }
}

impl Event {
    /// The row of the event, signed. `head` is the current end of the chain.
    fn row(self, ctx: &Context, head: String) -> Result<ActiveModel, DbErr> {
        let who = ctx.who();
        let json = |value: Option<Value>| value.map(|value| value.to_string());
        let now = Clock::study().now();
        let mut row = Model {
            id: 0,
            // Databases store microseconds, and the signed value must equal the value that is read.
            at: now.with_nanosecond(now.nanosecond() / 1000 * 1000).unwrap_or(now),
            user_id: who.user_id,
            who: fit(&who.name, 64),
            origin: who.origin,
            address: ctx.ip().map(|ip| ip.to_string()),
            verb: self.verb.to_owned(),
            subject_type: self.kind.to_owned(),
            subject_id: self.id,
            subject_name: fit(&self.name, 255),
            experiment_id: self.experiment_id,
            before: json(self.before),
            after: json(self.after),
            reason: self.reason.map(|reason| fit(&reason, 10_000)),
            // Reveals a later removal from the chain: what was written after it refers to it.
            head: Some(head),
            // Not `None`: the signature covers `head` if there is a signature.
            signature: Some(String::new()),
        };
        row.signature = Some(key::current()?.sign(&row));
        Ok(ActiveModel { id: NotSet, ..row.into_active_model().reset_all() })
    }
}

async fn head(connection: &impl ConnectionTrait) -> Result<String, DbErr> {
    Ok(last(connection).await?.map(|head| head.to_string()).unwrap_or_default())
}

/// At most `most` characters, without the null character, which PostgreSQL does not store.
fn fit(text: &str, most: usize) -> String {
    text.replace('\0', "\u{fffd}").chars().take(most).collect()
}

/// Notified when an event was recorded in this process.
static RECORDED: Notify = Notify::const_new();

/// Resolves when an event was recorded in this process since the last call; it may not be committed yet.
pub async fn recorded() {
    RECORDED.notified().await;
}

/// Records an event in the name of `ctx`, in the caller's transaction, together with the change that it describes. An
/// event without a difference ([`Event::changed`]) is not recorded.
pub async fn record(ctx: &Context, connection: &impl ConnectionTrait, event: Event) -> Result<(), DbErr> {
    if event.is_nothing() {
        return Ok(());
    }
    let head = head(connection).await?;
    let row = event.row(ctx, head)?;
    let row = row.insert(connection).await?;
    RECORDED.notify_one();
    if let Some(watch) = ctx.watch() {
        watch.add(row);
    }
    Ok(())
}

/// Events in one statement: databases limit the number of values.
const CHUNK: usize = 1000;

/// Records many events, as [`record`] does, with one statement per thousand.
pub async fn record_many(ctx: &Context, connection: &impl ConnectionTrait, events: Vec<Event>) -> Result<(), DbErr> {
    // A watch needs the rows with their ids.
    if events.len() < 2 || ctx.watch().is_some() {
        for event in events {
            record(ctx, connection, event).await?;
        }
        return Ok(());
    }
    let head = head(connection).await?;
    let rows = events.into_iter().filter(|event| !event.is_nothing()).map(|event| event.row(ctx, head.clone()));
    let rows = rows.collect::<Result<Vec<ActiveModel>, DbErr>>()?;
    for chunk in rows.chunks(CHUNK) {
        Entity::insert_many(chunk.to_vec()).exec_without_returning(connection).await?;
    }
    RECORDED.notify_one();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_different_is_told() {
        let event = Event::new("update", "cohort", 1, "c")
            .changed(&json!({ "label": "a", "description": null }), &json!({ "label": "b", "description": null }));
        assert_eq!(event.before, Some(json!({ "label": "a" })));
        assert_eq!(event.after, Some(json!({ "label": "b" })));
        assert!(Event::new("update", "cohort", 1, "c").changed(&json!({ "a": 1 }), &json!({ "a": 1 })).is_nothing());
    }
}
