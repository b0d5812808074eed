//! Interface between a worker and the engine.

use crate::callback::Outcome;
use crate::queue::{Assignment, Ticket};

/// The verbs of the engine that workers call.
pub trait Desk: Send + Sync + 'static {
    /// Claims an attempt. Only one worker gets it (Q3).
    fn claim(&self, ticket: &Ticket, worker: &str) -> impl Future<Output = Result<Claim, DeskError>> + Send;

    /// Sends a heartbeat, with the log so far if it has changed (Q6).
    fn beat(
        &self,
        ticket: &Ticket,
        worker: &str,
        log: Option<String>,
    ) -> impl Future<Output = Result<Order, DeskError>> + Send;

    /// Reports how the run ended.
    fn report(
        &self,
        ticket: &Ticket,
        worker: &str,
        outcome: &Outcome,
        log: String,
        wait: bool,
    ) -> impl Future<Output = Result<Verdict, DeskError>> + Send;

    /// Releases an unfinished attempt, so that it can be retried (Q7).
    fn release(&self, ticket: &Ticket, worker: &str, why: &str) -> impl Future<Output = Result<(), DeskError>> + Send;
}

/// The answer to a claim.
#[derive(Debug)]
pub enum Claim {
    /// This worker holds the attempt now.
    Granted(Box<Assignment>),
    /// Another worker holds it, or it has ended.
    Refused,
}

/// The answer to a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Continue,
    /// This worker no longer holds the attempt: it was cancelled, timed out, or given to another one.
    Stop,
}

/// The answer to a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    /// E4: the report came too late and changed nothing.
    Refused,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// The engine could not be reached; a retry may succeed.
    #[error("{0}")]
    Unreachable(String),
    /// The engine rejected the call and will reject it again.
    #[error("{0}")]
    Unacceptable(String),
}
