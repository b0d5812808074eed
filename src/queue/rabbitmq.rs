//! The broker: how queues are declared, and what a server does with it: publishes what is due, keeps dead letters, and
//! notes which workers there are.
//!
//! A connection that breaks is made again, with a growing pause; nothing is lost meanwhile, for what is to be published
//! is in the database.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::protocol::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{Channel, Confirmation, Connection, ConnectionProperties, Consumer, PublisherConfirm};
use metrics::{counter, histogram};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::database::Database;
use crate::fault;

use super::relay::{Due, Turn, mark_published, put_back, take_due};
use super::{Ticket, dead_letter, presence};

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

async fn declare_dead_queue(channel: &Channel, names: &QueueNames) -> Result<(), lapin::Error> {
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

/// Whether this server has the broker, for those who ask.
#[derive(Debug, Default)]
pub struct BrokerState {
    is_connected: AtomicBool,
    problem: Mutex<Option<String>>,
}

impl BrokerState {
    /// Why there is no connection; nothing when there is one.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        if self.is_connected.load(Ordering::Acquire) {
            return None;
        }
        let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some(problem.unwrap_or_else(|| "not connected yet".to_owned()))
    }

    fn connected(&self) {
        self.is_connected.store(true, Ordering::Release);
    }

    fn lost(&self, why: &str) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
        self.is_connected.store(false, Ordering::Release);
    }
}

/// What a server needs to serve a broker.
#[derive(Debug, Clone)]
pub struct Server {
    pub database: Database,
    pub clock: Clock,
    /// `amqp://…`
    pub broker: String,
    pub names: QueueNames,
    pub secret_key: String,
    /// Begins the addresses that workers are told.
    pub base_url: String,
    /// Rung when something may be due.
    pub dispatched: Arc<Notify>,
    /// How long nobody may claim what was published before it is published once more; longer for what waits long.
    pub republish: TimeDelta,
    pub state: Arc<BrokerState>,
}

/// Why a connection is given up.
enum Broken {
    Broker(String),
}

impl From<lapin::Error> for Broken {
    fn from(error: lapin::Error) -> Self {
        Self::Broker(error.to_string())
    }
}

/// What was sent of a turn, and why not all of it.
struct Sent {
    confirmations: Vec<(Due, PublisherConfirm)>,
    broken: Option<Broken>,
}

fn ended_well(ended: Result<Result<(), Broken>, JoinError>) -> Result<(), Broken> {
    ended.unwrap_or_else(|error| Err(Broken::Broker(format!("a turn has crashed: {error}"))))
}

/// Turns that are under way to the broker at the same time.
const TURNS_AT_ONCE: usize = 4;

/// Messages of one turn: enough that confirming and marking them costs little for each.
const BATCH: u64 = 200;

/// Serves the broker until `stop`. Any number of servers may do so on one database.
pub async fn run_server(server: Server, mut stop: watch::Receiver<bool>) {
    let serving = async {
        let mut failures = 0_u32;
        loop {
            let began = tokio::time::Instant::now();
            let Broken::Broker(why) = match connect(&server.broker, "study governor server").await {
                Ok(connection) => {
                    info!("connected to the broker");
                    server.state.connected();
                    let broken = server.session(&connection).await;
                    // It is broken already; what is left of it is closed.
                    let _ = timeout(Duration::from_secs(1), connection.close(200, "done".into())).await;
                    broken
                }
                Err(why) => Broken::Broker(why),
            };
            server.state.lost(&why);
            failures = if began.elapsed() > Duration::from_secs(30) { 0 } else { failures + 1 };
            // 0.2 s, 0.4 s, 0.8 s, … at most 10 s.
            let pause = Duration::from_millis(100 << failures.clamp(1, 7)).min(Duration::from_secs(10));
            warn!("the broker cannot be used ({why}); callbacks wait in the database; trying again in {pause:?}");
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        () = serving => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

impl Server {
    /// Does everything on one connection until it breaks.
    async fn session(&self, connection: &Connection) -> Broken {
        let outcome = tokio::select! {
            outcome = self.relay(connection) => outcome,
            outcome = self.keep_dead_letters(connection) => outcome,
            outcome = self.note_workers(connection) => outcome,
        };
        match outcome {
            Err(broken) => broken,
            Ok(()) => Broken::Broker("the broker ended the connection".to_owned()),
        }
    }

    /// Publishes what is due (Q1). While the broker confirms one turn and the database notes it, the next is taken: what a
    /// report has just asked for does not wait for either.
    async fn relay(&self, connection: &Connection) -> Result<(), Broken> {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let mut declared = HashSet::new();
        let mut turns = JoinSet::new();
        loop {
            while let Some(ended) = turns.try_join_next() {
                ended_well(ended)?;
            }
            while turns.len() >= TURNS_AT_ONCE {
                turns.join_next().await.map_or(Ok(()), ended_well)?;
            }
            let turn = match take_due(&self.database, self.clock.now(), BATCH).await {
                Ok(turn) => turn,
                Err(error) => {
                    warn!(%error, "cannot look for what is to be published");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            if turn.due.is_empty() {
                if !channel.status().connected() || !connection.status().connected() {
                    return Ok(());
                }
                // What becomes due by itself, and what other servers left, is not announced.
                tokio::select! {
                    _ = timeout(Duration::from_secs(1), self.dispatched.notified()) => {}
                    Some(ended) = turns.join_next() => ended_well(ended)?,
                }
                continue;
            }
            fault::point("before-publish");
            let sent = self.send_all(&channel, &mut declared, &turn).await;
            // A task of its own: when the connection breaks and this set is dropped, what was confirmed is noted all the same.
            let confirming = tokio::spawn(self.clone().confirm(turn, sent));
            turns.spawn(async move { ended_well(confirming.await) });
        }
    }

    /// Sends a turn to the broker, as far as that goes.
    async fn send_all(&self, channel: &Channel, declared: &mut HashSet<String>, turn: &Turn) -> Sent {
        let mut sent = Sent { confirmations: Vec::with_capacity(turn.due.len()), broken: None };
        for one in &turn.due {
            match self.send(channel, declared, one).await {
                Ok(confirmation) => sent.confirmations.push((one.clone(), confirmation)),
                Err(broken) => {
                    sent.broken = Some(broken);
                    break;
                }
            }
        }
        sent
    }

    /// Waits until the broker has what was sent, and notes it.
    async fn confirm(self, turn: Turn, sent: Sent) -> Result<(), Broken> {
        let Sent { confirmations, mut broken } = sent;
        let mut published = Vec::with_capacity(confirmations.len());
        for (one, confirmation) in confirmations {
            match timeout(Duration::from_secs(10), confirmation).await {
                Ok(Ok(Confirmation::Ack(None))) => published.push(one),
                // Its queue was deleted: a new connection declares all of them again.
                Ok(Ok(_)) => broken = Some(Broken::Broker("a queue was deleted".to_owned())),
                Ok(Err(error)) => broken = Some(error.into()),
                Err(_) => broken = Some(Broken::Broker("a message was not confirmed in ten seconds".to_owned())),
            }
        }
        fault::point("after-publish");
        self.settle(&turn, &published).await;
        broken.map_or(Ok(()), Err)
    }

    async fn send(
        &self,
        channel: &Channel,
        declared: &mut HashSet<String>,
        one: &Due,
    ) -> Result<PublisherConfirm, Broken> {
        let queue = one.queue.as_deref().unwrap_or(DEFAULT_QUEUE);
        if !declared.contains(queue) {
            declare_queue(channel, &self.names, queue).await?;
            declared.insert(queue.to_owned());
        }
        let ticket = Ticket::new(one.id, one.attempt, &self.base_url, &self.secret_key);
        let body = serde_json::to_vec(&ticket).map_err(|error| Broken::Broker(error.to_string()))?;
        let properties = BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into());
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let sent = channel.basic_publish("".into(), self.names.work(queue).into(), options, &body, properties);
        match timeout(Duration::from_secs(10), sent).await {
            Ok(sent) => Ok(sent?),
            // As when the broker has run out of memory or disk.
            Err(_) => Err(Broken::Broker("the broker took no message for ten seconds".to_owned())),
        }
    }

    /// Notes in the database what was published; what was not is due again.
    async fn settle(&self, turn: &Turn, published: &[Due]) {
        let now = self.clock.now();
        if let Err(error) = mark_published(&self.database, turn, published, now, self.republish).await {
            warn!(%error, "cannot note what was published; it is published again");
        }
        counter!("studygovernor_published_total").increment(u64::try_from(published.len()).unwrap_or(0));
        for one in published.iter().filter(|one| one.published_at.is_none()) {
            let lag = (now - one.available_at).num_microseconds().unwrap_or(0).max(0);
            #[expect(clippy::cast_precision_loss, reason = "a duration for a histogram")]
            histogram!("studygovernor_relay_lag_seconds").record(lag as f64 / 1e6);
        }
        let rest: Vec<Due> = turn.due.iter().filter(|one| !published.contains(one)).cloned().collect();
        if rest.is_empty() {
            return;
        }
        if let Err(error) = put_back(&self.database, turn, &rest, now + TimeDelta::seconds(1)).await {
            warn!(%error, "cannot note what was not published; it is published a little later");
        }
    }

    /// Keeps what the broker could not deliver where people see it.
    async fn keep_dead_letters(&self, connection: &Connection) -> Result<(), Broken> {
        let channel = connection.create_channel().await?;
        declare_dead_queue(&channel, &self.names).await?;
        let mut letters = consume(&channel, &self.names.dead(), "study governor dead letters").await?;
        while let Some(delivery) = letters.next().await {
            let delivery = delivery?;
            let (reason, queue) = cause_of_death(delivery.properties.headers().as_ref());
            if let Err(error) =
                dead_letter::keep(&self.database, &delivery.data, &reason, &queue, self.clock.now()).await
            {
                // It comes again with the next connection.
                return Err(Broken::Broker(format!("a dead letter cannot be kept: {error}")));
            }
            warn!(%queue, %reason, "a message could not be delivered");
            counter!("studygovernor_dead_letters_total").increment(1);
            delivery.ack(BasicAckOptions::default()).await?;
        }
        Ok(())
    }

    /// Notes which workers there are.
    async fn note_workers(&self, connection: &Connection) -> Result<(), Broken> {
        let channel = connection.create_channel().await?;
        declare_presence_queue(&channel, &self.names).await?;
        let mut messages = consume(&channel, &self.names.workers(), "study governor workers").await?;
        while let Some(delivery) = messages.next().await {
            let delivery = delivery?;
            match serde_json::from_slice(&delivery.data) {
                Ok(presence) => {
                    if let Err(error) = presence::note(&self.database, &presence, self.clock.now()).await {
                        debug!(%error, "a worker cannot be noted; it says so again in a moment");
                    }
                }
                Err(error) => debug!(%error, "a message of a worker cannot be read"),
            }
            delivery.ack(BasicAckOptions::default()).await?;
        }
        Ok(())
    }
}

async fn consume(channel: &Channel, queue: &str, tag: &str) -> Result<Consumer, lapin::Error> {
    channel.basic_qos(50, BasicQosOptions::default()).await?;
    let tag = format!("{tag} {:08x}", rand::random::<u32>());
    channel.basic_consume(queue.into(), tag.into(), BasicConsumeOptions::default(), FieldTable::default()).await
}

/// Why and in which queue a message died first, as RabbitMQ notes it in the header `x-death`.
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
