//! The broker: how queues are called and declared, and how one connects.

use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties};
use tokio::time::timeout;

/// The queue of callbacks that ask for none.
pub const DEFAULT_QUEUE: &str = "default";

/// How queues are called at the broker. Not by their bare names: the queues of the existing product are of another kind, and
/// several studies may use one broker, each with a prefix of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueNames {
    prefix: String,
}

impl QueueNames {
    /// Names that begin with `prefix`: the same for the servers and the workers of a study.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The queue of callbacks that ask for `queue`.
    #[must_use]
    pub fn work(&self, queue: &str) -> String {
        format!("{}.queue.{queue}", self.prefix)
    }

    /// Where messages go that no worker could take.
    #[must_use]
    pub fn dead(&self) -> String {
        format!("{}.dead", self.prefix)
    }

    /// Whose queue this is may declare queues anew: one server at a time.
    #[must_use]
    pub fn renewal(&self) -> String {
        format!("{}.renewal", self.prefix)
    }

    /// Where workers say that they are there.
    #[must_use]
    pub fn workers(&self) -> String {
        format!("{}.workers", self.prefix)
    }
}

/// Connects to the first of the addresses (with semicolons between them) that answers; `name` is shown in the broker's own pages.
/// Without a heartbeat in the address it is ten seconds.
///
/// # Errors
/// When none of them can be reached, or lets us in, with the reason of each. There is no password in the text: it is shown to callers
/// who are not logged in.
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

/// Why one of several addresses cannot be used.
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

/// A text of the broker or of its driver, which may quote what it was given.
fn without_password(text: &str, address: &str, password: &str) -> String {
    let written = url::Url::parse(address).ok().and_then(|url| url.password().map(str::to_owned)).unwrap_or_default();
    let mut text = text.replace(address, "amqp://…");
    for secret in [password, &written] {
        // The one that everybody knows (guest) is also a name.
        if !secret.is_empty() && secret != "guest" {
            text = text.replace(secret, "***");
        }
    }
    text
}

/// How long to wait before the next attempt after so many failures in a row: 0.2 s, 0.4 s, 0.8 s, … at most 10 s.
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

/// Declares the queue of callbacks with this name at the broker: durable, replicated where the broker has several nodes, and
/// what cannot be delivered goes to the dead letters and is not lost on the way there.
///
/// # Errors
/// When the broker refuses, as when there is a queue of this name and another kind.
pub async fn declare_queue(channel: &Channel, names: &QueueNames, queue: &str) -> Result<(), lapin::Error> {
    let arguments = table(&[
        ("x-queue-type", text("quorum")),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(&names.dead())),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
        // A worker that is full hands messages back; only what comes back this often is something else.
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

/// Declares [`QueueNames::workers`]: what nobody reads within a minute is of no use.
///
/// # Errors
/// When the broker refuses.
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
