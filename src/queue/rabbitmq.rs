//! RabbitMQ: names and declarations of the queues, and connections.

use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties};
use tokio::time::timeout;

/// The queue of callbacks that do not name one.
pub const DEFAULT_QUEUE: &str = "default";

/// Names of the queues at the broker. They have a prefix, because the queues of version 8.1 have other arguments, and
/// because several studies may share a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueNames {
    prefix: String,
}

impl QueueNames {
    /// Names with this prefix, which must be the same for all servers and workers of a study.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The queue of callbacks that name `queue`.
    #[must_use]
    pub fn work(&self, queue: &str) -> String {
        format!("{}.queue.{queue}", self.prefix)
    }

    /// The queue of undeliverable messages.
    #[must_use]
    pub fn dead(&self) -> String {
        format!("{}.dead", self.prefix)
    }

    /// A queue that serves as a lock: its owner may repair broken queues, one server at a time.
    #[must_use]
    pub fn renewal(&self) -> String {
        format!("{}.renewal", self.prefix)
    }

    /// The queue of presence messages.
    #[must_use]
    pub fn workers(&self) -> String {
        format!("{}.workers", self.prefix)
    }
}

/// Connects to the first of the URLs (separated by semicolons) that responds; `name` is shown on the broker's own pages. The
/// heartbeat is ten seconds unless the URL sets it.
///
/// # Errors
/// When none of them can be reached or accepts the login, with the reason for each. The text contains no password, because
/// it is shown to callers who are not logged in.
pub async fn connect(addresses: &str, name: &str) -> Result<Connection, String> {
    let mut reasons = Vec::new();
    let addresses: Vec<&str> = addresses.split(';').collect();
    for address in &addresses {
        match connect_to(address, name).await {
            Ok(connection) => return Ok(connection),
            Err(Refused { place, reason }) if addresses.len() > 1 => reasons.push(format!("{place}: {reason}")),
            Err(Refused { reason, .. }) => reasons.push(reason),
        }
    }
    Err(reasons.join("; "))
}

/// Why one of several URLs cannot be used.
struct Refused {
    /// Host and port.
    place: String,
    reason: String,
}

async fn connect_to(address: &str, name: &str) -> Result<Connection, Refused> {
    const PATIENCE: Duration = Duration::from_secs(15);
    let malformed =
        || Refused { place: "a URL".to_owned(), reason: "the broker URL is not of the form amqp://…".to_owned() };
    let mut uri: AMQPUri = address.parse().map_err(|_| malformed())?;
    uri.query.heartbeat.get_or_insert(10);
    let (place, password) =
        (format!("{}:{}", uri.authority.host, uri.authority.port), uri.authority.userinfo.password.clone());
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let reason = match timeout(PATIENCE, Connection::connect_uri(uri, properties)).await {
        Ok(Ok(connection)) => return Ok(connection),
        Ok(Err(error)) => without_password(&error.to_string(), address, &password),
        Err(_) => "no response".to_owned(),
    };
    Err(Refused { place, reason })
}

/// Redacts the URL and the password from a text of the broker or its driver, which may quote them.
fn without_password(text: &str, address: &str, password: &str) -> String {
    let written = url::Url::parse(address).ok().and_then(|url| url.password().map(str::to_owned)).unwrap_or_default();
    let mut text = text.replace(address, "amqp://…");
    for secret in [password, &written] {
        // The well-known default (guest) is also a user name.
        if !secret.is_empty() && secret != "guest" {
            text = text.replace(secret, "***");
        }
    }
    text
}

/// Pause before the next attempt after this number of failures in a row: 0.2 s, 0.4 s, 0.8 s, … at most 10 s.
#[must_use]
pub fn pause_after(failures: u32) -> Duration {
    Duration::from_millis(100 << failures.clamp(1, 7)).min(Duration::from_secs(10))
}

fn table(entries: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert((*name).into(), value.clone());
    }
    table
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// Declares a work queue at the broker: durable, and replicated if the broker has several nodes. Undeliverable messages go
/// to the dead letters, at least once.
///
/// # Errors
/// When the broker refuses, for example because a queue of this name has other arguments.
pub async fn declare_queue(channel: &Channel, names: &QueueNames, queue: &str) -> Result<(), lapin::Error> {
    let arguments = table(&[
        ("x-queue-type", text("quorum")),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(&names.dead())),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
        // A worker without capacity requeues messages; only a message that is requeued this often has another problem.
        ("x-delivery-limit", AMQPValue::LongInt(1000)),
    ]);
    declare_dead_queue(channel, names).await?;
    channel.queue_declare(names.work(queue).into(), QueueDeclareOptions::durable(), arguments).await.map(|_| ())
}

/// Declares [`QueueNames::dead`].
pub(super) async fn declare_dead_queue(channel: &Channel, names: &QueueNames) -> Result<(), lapin::Error> {
    let arguments = table(&[("x-queue-type", text("quorum"))]);
    channel.queue_declare(names.dead().into(), QueueDeclareOptions::durable(), arguments).await.map(|_| ())
}

/// Declares [`QueueNames::workers`]. Presence messages older than a minute are useless, so they expire.
pub async fn declare_presence_queue(channel: &Channel, names: &QueueNames) -> Result<(), lapin::Error> {
    let arguments = table(&[
        ("x-queue-type", text("classic")),
        ("x-message-ttl", AMQPValue::LongInt(60_000)),
        ("x-max-length", AMQPValue::LongInt(10_000)),
    ]);
    channel.queue_declare(names.workers().into(), QueueDeclareOptions::durable(), arguments).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_in_the_reason() {
        let address = "amqp://u:p%40ss@host/v";
        let said = "vhost v;amqp://u:p%40ss@host/v not found for p@ss at amqp://u:p%40ss@host/v";
        let shown = without_password(said, address, "p@ss");
        assert!(!shown.contains("p@ss") && !shown.contains("p%40ss"), "{shown}");
        assert_eq!(without_password("guest was refused", "amqp://guest:guest@h", "guest"), "guest was refused");
    }
}
