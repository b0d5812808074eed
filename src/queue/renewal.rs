//! Repairs broken quorum queues by deleting and redeclaring them.
//!
//! A RabbitMQ that is killed just after a quorum queue was declared may restart with a queue that is listed but has no
//! process. Declaring it succeeds, a message for it is rejected or never confirmed, and a consumer gets `INTERNAL_ERROR` or
//! no response. That is permanent (seen with 3.10; as in rabbitmq-server issues 11561 and 17531); only deleting the queue
//! helps. Deleting is safe: the executions are in the database and are published again, and a message that is delivered
//! twice runs once (Q3).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lapin::options::{BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ErrorKind};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tracing::{debug, error, info, warn};

use super::rabbitmq::{connect, declare_dead_queue, declare_queue};
use super::relay;
use super::server::{ANSWER, Server, end};

/// Pause between two rounds of checks.
const PAUSE: Duration = Duration::from_secs(1);

/// A queue that can be repaired.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ailing {
    /// The queue of callbacks that name it.
    Work(String),
    /// The queue of dead letters.
    Dead,
}

/// The queues to check.
#[derive(Debug, Default)]
pub(super) struct Ward {
    patients: Mutex<BTreeMap<Ailing, Complaint>>,
    bell: Notify,
}

#[derive(Debug, Clone, Copy)]
struct Complaint {
    since: Instant,
    /// It rejected a publish or a consumer; otherwise its health is unknown.
    refuses: bool,
}

/// Result of a check.
enum Finding {
    /// It can be consumed. If it still rejects messages, it is full because of a limit that the broker's administrator has
    /// set.
    Well,
    Ill(String),
}

impl Ward {
    /// Schedules a check of a queue that rejected a publish or a consumer; nothing is published to it until it is healthy.
    pub(super) fn admit(&self, queue: Ailing) {
        let complaint = Complaint { since: Instant::now(), refuses: true };
        self.patients().entry(queue).or_insert(complaint).refuses = true;
        self.bell.notify_one();
    }

    /// Schedules a check of a queue whose health is unknown.
    pub(super) fn doubt(&self, queue: Ailing) {
        let complaint = Complaint { since: Instant::now(), refuses: false };
        self.patients().entry(queue).or_insert(complaint);
        self.bell.notify_one();
    }

    /// Whether publishing to it is suspended.
    pub(super) fn refuses(&self, queue: &Ailing) -> bool {
        self.patients().get(queue).is_some_and(|complaint| complaint.refuses)
    }

    fn patients(&self) -> std::sync::MutexGuard<'_, BTreeMap<Ailing, Complaint>> {
        self.patients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dismiss(&self, queue: &Ailing) {
        self.patients().remove(queue);
    }

    /// Restarts the time that a queue has been broken: time without checks does not count.
    fn begin_again(&self, queue: &Ailing) {
        if let Some(complaint) = self.patients().get_mut(queue) {
            complaint.since = Instant::now();
        }
    }
}

impl Server {
    /// Checks and repairs the listed queues until cancelled.
    pub(super) async fn renew_queues(&self) {
        loop {
            let patients = self.state.ward.patients().clone();
            for (queue, complaint) in &patients {
                self.look_at(queue, *complaint).await;
            }
            if patients.is_empty() {
                self.state.ward.bell.notified().await;
            } else {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn look_at(&self, queue: &Ailing, complaint: Complaint) {
        let name = self.at_the_broker(queue);
        let patience = self.republish.to_std().unwrap_or_default();
        match self.examine(&name, complaint.refuses).await {
            Ok(Finding::Well) => {
                debug!(queue = name, "the queue can be consumed");
                self.state.ward.dismiss(queue);
            }
            Ok(Finding::Ill(why)) if complaint.since.elapsed() >= patience => match self.renew(queue).await {
                Ok(true) => {
                    error!(
                        queue = name,
                        "broken queue ({why}): it was deleted and redeclared, and its messages are republished"
                    );
                    self.state.ward.dismiss(queue);
                }
                Ok(false) => info!(queue = name, "another server is repairing queues, or has just done so"),
                Err(why) => {
                    warn!(queue = name, "repairing a broken queue failed: {why}");
                    // Wait before the next repair, which costs the broker more than a check.
                    self.state.ward.begin_again(queue);
                }
            },
            Ok(Finding::Ill(why)) => {
                warn!(queue = name, "broken queue ({why}); it is repaired if it stays broken for {patience:?}");
            }
            Err(why) => {
                debug!(queue = name, "checking the queue failed: {why}");
                self.state.ward.begin_again(queue);
            }
        }
    }

    fn at_the_broker(&self, queue: &Ailing) -> String {
        match queue {
            Ailing::Work(name) => self.names.work(name),
            Ailing::Dead => self.names.dead(),
        }
    }

    /// Uses its own connection, because the broker closes the one on which a queue is broken.
    async fn examine(&self, name: &str, refuses: bool) -> Result<Finding, String> {
        let connection = connect(&self.broker, "study governor queue check").await?;
        let finding = examine(&connection, name, refuses).await;
        // Messages that were delivered during the check are requeued.
        end(&connection).await;
        finding
    }

    /// Deletes and redeclares a broken queue, unless another server is doing so or has just done so; returns whether it did.
    /// Deleting a queue just after its declaration can stop the broker's dead-lettering; then none of our queues can be
    /// declared until the broker is restarted (`rabbit_fifo_dlx_sup` of 3.10 gives up).
    async fn renew(&self, queue: &Ailing) -> Result<bool, String> {
        let connection = connect(&self.broker, "study governor queue repair").await?;
        let renewed = self.renew_alone(&connection, queue).await;
        end(&connection).await;
        renewed
    }

    async fn renew_alone(&self, connection: &Connection, queue: &Ailing) -> Result<bool, String> {
        let name = self.at_the_broker(queue);
        // Deleting takes the broker some seconds, while it searches for the process of the queue.
        let soon = |what: &'static str| move |_| format!("{what}: no response");
        let channel = timeout(ANSWER, connection.create_channel()).await.map_err(soon("a channel"))?;
        let channel = channel.map_err(|error| error.to_string())?;
        if !lock(&channel, &self.names.renewal()).await? {
            return Ok(false);
        }
        if matches!(self.examine(&name, true).await?, Finding::Well) {
            return Ok(false);
        }
        let renewing = async {
            channel.queue_delete(name.into(), QueueDeleteOptions::default()).await?;
            match queue {
                Ailing::Work(name) => declare_queue(&channel, &self.names, name).await,
                Ailing::Dead => declare_dead_queue(&channel, &self.names).await,
            }
        };
        let renewed = timeout(Duration::from_mins(1), renewing).await.map_err(soon("the queue"))?;
        renewed.map_err(|error: lapin::Error| error.to_string())?;
        if let Ailing::Work(name) = queue {
            let sent_again = relay::send_again(&self.database, name, self.clock.now()).await;
            // If this fails, they are published again at their usual time anyway.
            sent_again.unwrap_or_else(|error| warn!(%error, "the messages of the queue are republished later"));
            self.dispatched.notify_one();
        }
        Ok(true)
    }
}

/// Whether this connection gets the lock for repairs, which it holds until it ends: an exclusive queue belongs to the
/// connection that declared it.
async fn lock(channel: &Channel, name: &str) -> Result<bool, String> {
    let exclusive = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    match timeout(ANSWER, channel.queue_declare(name.into(), exclusive, FieldTable::default())).await {
        Ok(Ok(_)) => Ok(true),
        Ok(Err(error)) => match error.kind() {
            ErrorKind::ProtocolError(said) if *said.kind() == AMQPErrorKind::Soft(AMQPSoftError::RESOURCELOCKED) => {
                Ok(false)
            }
            _ => Err(error.to_string()),
        },
        Err(_) => Err("the lock: no response".to_owned()),
    }
}

/// Checks whether a queue can be consumed. A queue that already has consumers is not checked unless it `refuses`, because a
/// message that is delivered and requeued loses its place.
async fn examine(connection: &Connection, name: &str, refuses: bool) -> Result<Finding, String> {
    let reading = async {
        let channel = connection.create_channel().await?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let there = channel.queue_declare(name.into(), passive, FieldTable::default()).await?;
        if there.consumer_count() > 0 && !refuses {
            return Ok(());
        }
        channel.basic_qos(1, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        channel.basic_consume(name.into(), "look".into(), options, FieldTable::default()).await.map(|_| ())
    };
    match timeout(ANSWER, reading).await {
        Ok(Ok(())) => Ok(Finding::Well),
        Ok(Err(error)) => match error.kind() {
            ErrorKind::ProtocolError(said) => match said.kind() {
                AMQPErrorKind::Hard(AMQPHardError::INTERNALERROR) => Ok(Finding::Ill(error.to_string())),
                // The queue does not exist; it is declared before the next publish.
                AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => Ok(Finding::Well),
                _ => Err(error.to_string()),
            },
            _ => Err(error.to_string()),
        },
        Err(_) => Ok(Finding::Ill("timeout consuming the queue".to_owned())),
    }
}
