//! Messages that came to nothing, kept where people see them. What they were about is not lost: it is published again.

use chrono::NaiveDateTime;
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::{ActiveModelTrait, DbErr};
use serde_json::Value;

use crate::database::Database;
use crate::entity::dead_letter::ActiveModel;

/// Keeps a message, without its secret.
///
/// # Errors
/// When the database fails.
pub(super) async fn keep(
    database: &Database,
    body: &[u8],
    reason: &str,
    queue: &str,
    now: NaiveDateTime,
) -> Result<(), DbErr> {
    let (body, read) = readable(body);
    let number = |name: &str| read.get(name).and_then(Value::as_i64).and_then(|number| i32::try_from(number).ok());
    let transaction = database.begin().await?;
    let row = ActiveModel {
        id: NotSet,
        at: Set(now),
        queue: Set(queue.chars().take(255).collect()),
        reason: Set(reason.chars().take(64).collect()),
        execution_id: Set(number("execution_id")),
        attempt: Set(number("attempt")),
        body: Set(body),
    };
    row.insert(&*transaction).await?;
    transaction.commit().await
}

/// What can be shown of a message, and what it is as JSON.
fn readable(body: &[u8]) -> (String, Value) {
    const MOST: usize = 2000;
    let mut value: Value = serde_json::from_slice(body).unwrap_or_default();
    if let Value::Object(entries) = &mut value {
        if let Some(secret) = entries.get_mut("secret") {
            *secret = "***".into();
        }
        return (value.to_string().chars().take(MOST).collect(), value);
    }
    let text = String::from_utf8_lossy(body).replace('\0', "\u{fffd}");
    (text.chars().take(MOST).collect(), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q2_the_secret_of_a_dead_letter_is_not_kept() {
        let (shown, read) = readable(br#"{"execution_id": 7, "attempt": 2, "secret": "s3cret"}"#);
        assert!(!shown.contains("s3cret") && shown.contains("***"), "{shown}");
        assert_eq!(read["execution_id"], 7);
        assert_eq!(readable(b"\xffno \0 json").0, "\u{fffd}no \u{fffd} json");
    }
}
