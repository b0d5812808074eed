//! The desk inside the server's process: it asks the engine and the database directly.

use std::time::Duration;

use chrono::TimeDelta;
use sea_orm::EntityTrait;
use serde_json::Value;

use crate::callback::Outcome;
use crate::engine::{Actor, Engine, EngineError, Report};
use crate::entity::callback_execution;
use crate::entity::kind::{ExecutionResult, ExecutionStatus, Origin};
use crate::queue::{self, Available, Ticket};

use super::desk::{Claim, Desk, DeskError, Order, Verdict};

/// See the module.
#[derive(Debug, Clone)]
pub struct LocalDesk {
    engine: Engine,
    secret_key: String,
    base_url: String,
    lease: TimeDelta,
}

impl LocalDesk {
    /// `base_url` begins the addresses that callbacks are told; a claim is good for `lease`.
    #[must_use]
    pub fn new(engine: Engine, secret_key: &str, base_url: &str, lease: Duration) -> Self {
        let lease = TimeDelta::from_std(lease).unwrap_or(TimeDelta::seconds(15));
        Self { engine, secret_key: secret_key.to_owned(), base_url: base_url.to_owned(), lease }
    }

    async fn execution(&self, ticket: &Ticket) -> Result<Option<callback_execution::Model>, DeskError> {
        let found = callback_execution::Entity::find_by_id(ticket.execution_id).one(self.engine.database().reader());
        found.await.map_err(failed)
    }
}

fn failed(error: impl std::fmt::Display) -> DeskError {
    DeskError(error.to_string())
}

fn available(ticket: &Ticket) -> Available {
    Available { id: ticket.execution_id, attempt: ticket.attempt }
}

impl Desk for LocalDesk {
    async fn waiting(&self, limit: u64) -> Result<Vec<Ticket>, DeskError> {
        let now = self.engine.clock().now();
        let found = queue::available(self.engine.database().reader(), now, limit).await.map_err(failed)?;
        let ticket = |one: Available| Ticket {
            execution_id: one.id,
            attempt: one.attempt,
            secret: queue::execution_secret(&self.secret_key, one.id, one.attempt),
        };
        Ok(found.into_iter().map(ticket).collect())
    }

    async fn news(&self) {
        self.engine.dispatched().notified().await;
    }

    async fn claim(&self, ticket: &Ticket, worker: &str) -> Result<Claim, DeskError> {
        let loaded = queue::load_assignment(self.engine.database().reader(), ticket.execution_id, &self.base_url);
        let Some((_, callback, assignment)) = loaded.await.map_err(failed)? else { return Ok(Claim::Refused) };
        let transaction = self.engine.database().begin().await.map_err(failed)?;
        let now = self.engine.clock().now();
        let granted =
            queue::claim(&*transaction, available(ticket), worker, now, self.lease, callback.run_timeout).await;
        let granted = granted.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        // The attempt may have changed between the reading and the claim; then the claim was refused.
        Ok(if granted { Claim::Granted(Box::new(assignment)) } else { Claim::Refused })
    }

    async fn beat(&self, ticket: &Ticket, worker: &str, log: Option<String>) -> Result<Order, DeskError> {
        let log = match log {
            None => None,
            Some(log) => self.execution(ticket).await?.map(|execution| crate::engine::merged_log(&execution, &log)),
        };
        let transaction = self.engine.database().begin().await.map_err(failed)?;
        let until = self.engine.clock().now() + self.lease;
        let kept = queue::beat(&*transaction, available(ticket), worker, until, log).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(if kept { Order::Continue } else { Order::Stop })
    }

    async fn report(
        &self,
        ticket: &Ticket,
        worker: &str,
        outcome: &Outcome,
        log: String,
        wait: bool,
    ) -> Result<Verdict, DeskError> {
        let (status, result) = match (outcome.is_success, wait) {
            (false, _) => (ExecutionStatus::Finished, ExecutionResult::Failed),
            (true, false) => (ExecutionStatus::Finished, ExecutionResult::Success),
            (true, true) => (ExecutionStatus::Waiting, ExecutionResult::None),
        };
        let report = Report {
            attempt: Some(ticket.attempt),
            status: Some(status),
            result: Some(result),
            run_log: Some(log),
            result_log: None,
            result_values: Some(Value::Object(outcome.values.clone())),
        };
        let actor = Actor::without_account(worker, Origin::Worker);
        match self.engine.report(ticket.execution_id, &report, &actor).await {
            Ok(_) => Ok(Verdict::Accepted),
            Err(
                EngineError::Resolved { .. }
                | EngineError::StaleAttempt { .. }
                | EngineError::StepBack { .. }
                | EngineError::NotFound { .. },
            ) => Ok(Verdict::Refused),
            Err(error) => Err(failed(error)),
        }
    }

    async fn release(&self, ticket: &Ticket, worker: &str, why: &str) -> Result<(), DeskError> {
        let Some(execution) = self.execution(ticket).await? else { return Ok(()) };
        if execution.attempt == ticket.attempt && execution.worker.as_deref() == Some(worker) {
            self.engine.release(&execution, why).await.map_err(failed)?;
        }
        Ok(())
    }
}
