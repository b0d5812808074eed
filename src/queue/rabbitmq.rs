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

/// Connects; `name` is shown in the broker's own pages. Without a heartbeat in the address it is ten seconds.
///
/// # Errors
/// When the broker cannot be reached, or does not let us in; the text has no password in it.
pub async fn connect(address: &str, name: &str) -> Result<Connection, String> {
    const PATIENCE: Duration = Duration::from_secs(15);
    let mut uri: AMQPUri =
        address.parse().map_err(|_| "the address of the broker is not of the form amqp://…".to_owned())?;
    uri.query.heartbeat.get_or_insert(10);
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    match timeout(PATIENCE, Connection::connect_uri(uri, properties)).await {
        Ok(connected) => connected.map_err(|error| error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
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
