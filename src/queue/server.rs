//! Broker connections of a server, and publishing of due executions. Dead letters, presence and queue repair have their own
//! modules.
//!
//! A broken connection is re-established after a growing pause; nothing is lost, because the executions to publish are in
//! the database.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions};
use lapin::protocol::BasicProperties;
use lapin::types::FieldTable;
use lapin::{Channel, Confirmation, Connection, Consumer, PublisherConfirm};
use metrics::{counter, histogram};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::database::Database;
use crate::fault;

use super::Ticket;
use super::rabbitmq::{DEFAULT_QUEUE, QueueNames, connect, declare_queue, pause_after};
use super::relay::{Due, Turn, mark_published, published_queues, put_back, take_due};
use super::renewal::{Ailing, Ward};

/// Whether this server is connected to the broker, for health checks and pages, and which queues it cannot use.
#[derive(Debug, Default)]
pub struct BrokerState {
    is_connected: AtomicBool,
    problem: Mutex<Option<String>>,
    pub(super) ward: Ward,
}

impl BrokerState {
    /// Why there is no connection; `None` while connected.
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

/// Settings and resources for serving a broker.
#[derive(Debug, Clone)]
pub struct Server {
    pub database: Database,
    pub clock: Clock,
    /// `amqp://…`
    pub broker: String,
    pub names: QueueNames,
    pub secret_key: String,
    /// Beginning of the URLs in messages to workers.
    pub base_url: String,
    /// Notified when executions may be due.
    pub dispatched: Arc<Notify>,
    /// Time without a claim after which a message is published again; longer for one that has waited long.
    pub republish: TimeDelta,
    pub state: Arc<BrokerState>,
}

/// Limit for a response of the broker. For a broken queue it fails at once or never responds.
pub(super) const ANSWER: Duration = Duration::from_secs(10);

/// Why a connection is abandoned.
pub(super) struct Broken(pub(super) String);

impl From<lapin::Error> for Broken {
    fn from(error: lapin::Error) -> Self {
        Self(error.to_string())
    }
}

/// The messages of a turn that were sent, and the error that stopped the rest.
struct Sent {
    confirmations: Vec<(Due, PublisherConfirm)>,
    broken: Option<Broken>,
}

fn ended_well(ended: Result<Result<(), Broken>, JoinError>) -> Result<(), Broken> {
    ended.unwrap_or_else(|error| Err(Broken(format!("a publishing round has panicked: {error}"))))
}

/// Turns that may await confirmation at the same time.
const TURNS_AT_ONCE: usize = 4;

/// Messages per turn: enough to make confirming and recording cheap for each.
const BATCH: u64 = 200;

/// Serves the broker until `stop`. Any number of servers may do so on one database.
pub async fn run_server(server: Server, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        () = server.keep_publishing() => {}
        () = server.keep_burying() => {}
        () = server.renew_queues() => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// Pauses between sessions with the broker; they grow while sessions are short.
pub(super) struct Pauses {
    failures: u32,
    began: Instant,
}

impl Pauses {
    pub(super) fn new() -> Self {
        Self { failures: 0, began: Instant::now() }
    }

    /// Waits after a session has ended.
    pub(super) async fn rest(&mut self) {
        self.failures = if self.began.elapsed() > Duration::from_secs(30) { 0 } else { self.failures + 1 };
        tokio::time::sleep(pause_after(self.failures)).await;
        self.began = Instant::now();
    }
}

/// Opens a channel. A broker that is starting may accept a connection and then not respond.
pub(super) async fn open_channel(connection: &Connection) -> Result<Channel, Broken> {
    match timeout(ANSWER, connection.create_channel()).await {
        Ok(channel) => Ok(channel?),
        Err(_) => Err(Broken("timeout opening a channel".to_owned())),
    }
}

/// Closes a connection that may already be broken.
pub(super) async fn end(connection: &Connection) {
    let _ = timeout(Duration::from_secs(1), connection.close(200, "done".into())).await;
}

impl Server {
    async fn keep_publishing(&self) {
        let mut pauses = Pauses::new();
        loop {
            let why = match connect(&self.broker, "study governor server").await {
                Ok(connection) => {
                    info!("connected to the broker");
                    self.state.connected();
                    self.doubt_queues().await;
                    let Broken(why) = self.publish(&connection).await;
                    end(&connection).await;
                    why
                }
                Err(why) => why,
            };
            self.state.lost(&why);
            warn!("broker unavailable ({why}); callbacks stay queued in the database; will retry");
            pauses.rest().await;
        }
    }

    /// Schedules checks of the queues that should contain messages: the broker may have been restarted.
    async fn doubt_queues(&self) {
        match published_queues(&self.database).await {
            Ok(queues) => queues.into_iter().for_each(|queue| self.state.ward.doubt(Ailing::Work(queue))),
            Err(error) => debug!(%error, "queues are checked when a message is published"),
        }
    }

    /// Publishes executions and records workers on one connection until it breaks.
    async fn publish(&self, connection: &Connection) -> Broken {
        let outcome = tokio::select! {
            outcome = self.relay(connection) => outcome,
            outcome = self.note_workers(connection) => outcome,
        };
        match outcome {
            Err(broken) => broken,
            Ok(()) => Broken("the broker closed the connection".to_owned()),
        }
    }

    /// Publishes due executions (Q1). The next turn is taken while the broker confirms the last one and the database records
    /// it, so that newly requested executions wait for neither.
    async fn relay(&self, connection: &Connection) -> Result<(), Broken> {
        let channel = open_channel(connection).await?;
        let confirming = timeout(ANSWER, channel.confirm_select(ConfirmSelectOptions::default())).await;
        confirming.map_err(|_| Broken("timeout enabling publisher confirms".to_owned()))??;
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
                    warn!(%error, "querying unpublished messages failed");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            if turn.due.is_empty() {
                if !channel.status().connected() || !connection.status().connected() {
                    return Ok(());
                }
                // Nothing notifies about executions that become due with time or were left by other servers.
                tokio::select! {
                    _ = timeout(Duration::from_secs(1), self.dispatched.notified()) => {}
                    Some(ended) = turns.join_next() => ended_well(ended)?,
                }
                continue;
            }
            fault::point("before-publish");
            let sent = self.send_all(&channel, &mut declared, &turn).await;
            // A separate task: when the connection breaks and this set is dropped, confirmed messages are recorded anyway.
            let confirming = tokio::spawn(self.clone().confirm(turn, sent));
            turns.spawn(async move { ended_well(confirming.await) });
        }
    }

    /// Sends a turn to the broker; stops at the first error.
    async fn send_all(&self, channel: &Channel, declared: &mut HashSet<String>, turn: &Turn) -> Sent {
        let mut sent = Sent { confirmations: Vec::with_capacity(turn.due.len()), broken: None };
        for one in &turn.due {
            if self.state.ward.refuses(&Ailing::Work(queue_of(one).to_owned())) {
                continue;
            }
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

    /// Waits for the broker's confirmations and records them.
    async fn confirm(self, turn: Turn, sent: Sent) -> Result<(), Broken> {
        let Sent { confirmations, mut broken } = sent;
        let mut published = Vec::with_capacity(confirmations.len());
        let deadline = Instant::now() + ANSWER;
        for (one, confirmation) in confirmations {
            match timeout_at(deadline, confirmation).await {
                Ok(Ok(Confirmation::Ack(None))) => published.push(one),
                // Its queue was deleted: a new connection declares all queues again.
                Ok(Ok(Confirmation::Ack(Some(_)) | Confirmation::NotRequested)) => {
                    broken = Some(Broken("a queue was deleted".to_owned()));
                }
                Ok(Err(error)) => broken = Some(error.into()),
                // Only this queue fails, not the broker: the other messages continue.
                Ok(Ok(Confirmation::Nack(_))) | Err(_) => {
                    self.state.ward.admit(Ailing::Work(queue_of(&one).to_owned()));
                }
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
        let queue = queue_of(one);
        if !declared.contains(queue) {
            let Ok(done) = timeout(ANSWER, declare_queue(channel, &self.names, queue)).await else {
                self.state.ward.admit(Ailing::Work(queue.to_owned()));
                self.state.ward.admit(Ailing::Dead);
                return Err(Broken(format!("timeout declaring {}", self.names.work(queue))));
            };
            done?;
            declared.insert(queue.to_owned());
        }
        let ticket = Ticket::new(one.id, one.attempt, &self.base_url, &self.secret_key);
        let body = serde_json::to_vec(&ticket).map_err(|error| Broken(error.to_string()))?;
        let properties = BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into());
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let sent = channel.basic_publish("".into(), self.names.work(queue).into(), options, &body, properties);
        match timeout(ANSWER, sent).await {
            Ok(sent) => Ok(sent?),
            // For example because the broker has run out of memory or disk.
            Err(_) => Err(Broken("publish timed out after 10 s".to_owned())),
        }
    }

    /// Records the published executions in the database; the others become due again.
    async fn settle(&self, turn: &Turn, published: &[Due]) {
        let now = self.clock.now();
        if let Err(error) = mark_published(&self.database, turn, published, now, self.republish).await {
            warn!(%error, "recording published messages failed; they will be published again");
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
            warn!(%error, "recording unpublished messages failed; they will be published later");
        }
    }
}

fn queue_of(one: &Due) -> &str {
    one.queue.as_deref().unwrap_or(DEFAULT_QUEUE)
}

pub(super) async fn consume(channel: &Channel, queue: &str, tag: &str) -> Result<Consumer, lapin::Error> {
    channel.basic_qos(50, BasicQosOptions::default()).await?;
    let tag = format!("{tag} {:08x}", rand::random::<u32>());
    channel.basic_consume(queue.into(), tag.into(), BasicConsumeOptions::default(), FieldTable::default()).await
}
