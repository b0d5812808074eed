//! Dead letters: undeliverable messages, moved from the broker to the database, where pages show them. No work is lost: the
//! executions are published again.

use chrono::NaiveDateTime;
use lapin::Connection;
use lapin::options::BasicAckOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use metrics::counter;
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::{ActiveModelTrait, DbErr};
use serde_json::Value;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tracing::warn;

use crate::database::Database;
use crate::entity::dead_letter::ActiveModel;

use super::rabbitmq::{connect, declare_dead_queue};
use super::renewal::Ailing;
use super::server::{ANSWER, Broken, Pauses, Server, consume, end, open_channel};

/// Stores a message without its secret.
async fn keep(database: &Database, body: &[u8], reason: &str, queue: &str, now: NaiveDateTime) -> Result<(), DbErr> {
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

/// The text of a message that pages may show, and its JSON value.
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

impl Server {
    /// Stores dead letters until cancelled. Uses its own connection: a broker with a broken dead letter queue closes the
    /// connection that consumes it.
    pub(super) async fn keep_burying(&self) {
        let mut pauses = Pauses::new();
        loop {
            if let Ok(connection) = connect(&self.broker, "study governor dead letters").await {
                if let Err(Broken(why)) = self.keep_dead_letters(&connection).await {
                    warn!("cannot store dead letters ({why}); they stay queued at the broker");
                }
                end(&connection).await;
            }
            pauses.rest().await;
        }
    }

    /// Stores undeliverable messages in the database.
    async fn keep_dead_letters(&self, connection: &Connection) -> Result<(), Broken> {
        let channel = open_channel(connection).await?;
        let name = self.names.dead();
        let reading = async {
            declare_dead_queue(&channel, &self.names).await?;
            consume(&channel, &name, "study governor dead letters").await
        };
        let read =
            timeout(ANSWER, reading).await.map_err(|_| Broken("no response".to_owned())).and_then(|read| Ok(read?));
        let mut letters = read.inspect_err(|_| self.state.ward.admit(Ailing::Dead))?;
        while let Some(delivery) = letters.next().await {
            let delivery = delivery?;
            let (reason, queue) = cause_of_death(delivery.properties.headers().as_ref());
            if let Err(error) = keep(&self.database, &delivery.data, &reason, &queue, self.clock.now()).await {
                // The message is delivered again on the next connection.
                return Err(Broken(format!("cannot store a dead letter: {error}")));
            }
            warn!(%queue, %reason, "undeliverable message");
            counter!("studygovernor_dead_letters_total").increment(1);
            delivery.ack(BasicAckOptions::default()).await?;
        }
        Ok(())
    }
}

/// Reason and queue of the first time that a message was dead-lettered, from RabbitMQ's header `x-death`.
fn cause_of_death(headers: Option<&FieldTable>) -> (String, String) {
    let of = |name: &str| -> Option<String> {
        let value = headers?.inner().get(&ShortString::from(name))?;
        as_text(value)
    };
    let deaths = headers.and_then(|headers| match headers.inner().get(&ShortString::from("x-death"))? {
        AMQPValue::FieldArray(deaths) => deaths.as_slice().first().cloned(),
        _ => None,
    });
    let death = |name: &str| match &deaths {
        Some(AMQPValue::FieldTable(death)) => death.inner().get(&ShortString::from(name)).and_then(as_text),
        _ => None,
    };
    let reason = of("x-first-death-reason").or_else(|| death("reason"));
    let queue = of("x-first-death-queue").or_else(|| death("queue"));
    (reason.unwrap_or_else(|| "unknown".to_owned()), queue.unwrap_or_default())
}

fn as_text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
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
