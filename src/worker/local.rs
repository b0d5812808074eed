//! Workers inside the server's process, or beside it on the same database: they use the engine and the database directly.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

use crate::callback::Outcome;
use crate::context::Context;
use crate::engine::{Ended, Engine, EngineError, Held};
use crate::queue::{self, Available, Ticket};

use super::desk::{Claim, Desk, DeskError, Order, Verdict};
use super::intake::{Intake, Letter, Offer};

/// The engine, called directly.
#[derive(Debug, Clone)]
pub struct LocalDesk {
    engine: Engine,
    base_url: String,
    lease: Duration,
    ctx: Context,
}

impl LocalDesk {
    /// `base_url` is the beginning of the URLs that callbacks get; a claim is valid for `lease`.
    #[must_use]
    pub fn new(engine: Engine, base_url: &str, lease: Duration) -> Self {
        Self { engine, base_url: base_url.to_owned(), lease, ctx: Context::system("worker") }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: EngineError) -> DeskError {
    DeskError::Unreachable(error.to_string())
}

fn held<'a>(ticket: &Ticket, worker: &'a str) -> Held<'a> {
    Held { execution_id: ticket.execution_id, attempt: ticket.attempt, worker }
}

impl Desk for LocalDesk {
    async fn claim(&self, ticket: &Ticket, worker: &str) -> Result<Claim, DeskError> {
        let granted =
            self.engine.claim(&self.ctx, held(ticket, worker), self.lease, &self.base_url).await.map_err(failed)?;
        Ok(granted.map_or(Claim::Refused, |assignment| Claim::Granted(Box::new(assignment))))
    }

    async fn beat(&self, ticket: &Ticket, worker: &str, log: Option<String>) -> Result<Order, DeskError> {
        let kept = self.engine.keep(held(ticket, worker), self.lease, log.as_deref()).await.map_err(failed)?;
        Ok(if kept { Order::Continue } else { Order::Stop })
    }

    async fn report(
        &self,
        ticket: &Ticket,
        worker: &str,
        outcome: &Outcome,
        log: String,
        waits: bool,
    ) -> Result<Verdict, DeskError> {
        let ended = Ended { is_success: outcome.is_success, waits, log, values: outcome.values.clone() };
        let taken = self.engine.conclude(&self.ctx, held(ticket, worker), ended).await.map_err(failed)?;
        Ok(if taken { Verdict::Accepted } else { Verdict::Refused })
    }

    async fn release(&self, ticket: &Ticket, worker: &str, why: &str) -> Result<(), DeskError> {
        self.engine.hand_back(&self.ctx, held(ticket, worker), why).await.map_err(failed)
    }
}

/// Reads waiting executions from the table.
pub struct LocalIntake {
    engine: Engine,
    secret_key: String,
    base_url: String,
    /// Read, and not offered yet.
    seen: VecDeque<Available>,
    /// Offered, and not decided yet: the table still lists these as waiting.
    offered: Arc<Mutex<HashSet<Available>>>,
    at_once: usize,
}

impl LocalIntake {
    /// `at_once` is the number of callbacks that the pool runs at the same time.
    #[must_use]
    pub fn new(engine: Engine, secret_key: &str, base_url: &str, at_once: usize) -> Self {
        Self {
            engine,
            secret_key: secret_key.to_owned(),
            base_url: base_url.to_owned(),
            seen: VecDeque::new(),
            offered: Arc::default(),
            at_once,
        }
    }

    /// Reads the attempts that wait for a worker, longest waiting first.
    pub async fn look(&mut self) -> Result<(), sea_orm::DbErr> {
        let offered = self.offered.lock().unwrap_or_else(PoisonError::into_inner).len();
        let most = u64::try_from(self.at_once + offered).unwrap_or(1);
        let now = self.engine.clock().now();
        let waiting = queue::available(self.engine.database().reader(), now, most).await?;
        // Locked again after the query: an attempt decided in between may be offered once more, which is harmless.
        let offered = self.offered.lock().unwrap_or_else(PoisonError::into_inner);
        self.seen = waiting.into_iter().filter(|one| !offered.contains(one)).collect();
        Ok(())
    }
}

/// An attempt that was offered; when this is dropped, it may be offered again.
pub struct Offered {
    one: Available,
    offered: Arc<Mutex<HashSet<Available>>>,
}

impl Drop for Offered {
    fn drop(&mut self) {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.one);
    }
}

impl Letter for Offered {
    async fn decided(self) {}

    async fn undeliverable(self) {}
}

impl Intake for LocalIntake {
    type Letter = Offered;

    async fn next(&mut self) -> Option<Offer<Offered>> {
        if self.seen.is_empty() {
            if let Err(error) = self.look().await {
                warn!(%error, "querying for work failed");
                tokio::time::sleep(Duration::from_secs(1)).await;
                return None;
            }
            if self.seen.is_empty() {
                // At most a second: delays that end, and changes by other servers, do not notify this process.
                let _ = timeout(Duration::from_secs(1), self.engine.dispatched().notified()).await;
            }
        }
        let one = self.seen.pop_front()?;
        self.offered.lock().unwrap_or_else(PoisonError::into_inner).insert(one);
        let ticket = Ticket::new(one.id, one.attempt, &self.base_url, &self.secret_key);
        Some(Offer { ticket, letter: Offered { one, offered: Arc::clone(&self.offered) } })
    }

    async fn full(&mut self) {
        // Other workers may have taken them before a place is free again.
        self.seen.clear();
    }
}
