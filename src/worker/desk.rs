//! What a worker and the engine say to each other.

use crate::callback::Outcome;
use crate::queue::{Assignment, Ticket};

/// The engine's side as its workers see it.
pub trait Desk: Send + Sync + 'static {
    /// Asks for an attempt. Only one worker gets it (Q3).
    fn claim(&self, ticket: &Ticket, worker: &str) -> impl Future<Output = Result<Claim, DeskError>> + Send;

    /// Says that the worker is alive, with the log so far when there is something new in it (Q6).
    fn beat(
        &self,
        ticket: &Ticket,
        worker: &str,
        log: Option<String>,
    ) -> impl Future<Output = Result<Order, DeskError>> + Send;

    /// Says how the run ended.
    fn report(
        &self,
        ticket: &Ticket,
        worker: &str,
        outcome: &Outcome,
        log: String,
        wait: bool,
    ) -> impl Future<Output = Result<Verdict, DeskError>> + Send;

    /// Gives an attempt back unfinished, for another one (Q7).
    fn release(&self, ticket: &Ticket, worker: &str, why: &str) -> impl Future<Output = Result<(), DeskError>> + Send;
}

/// The answer to a claim.
#[derive(Debug)]
pub enum Claim {
    /// It is this worker's now.
    Granted(Box<Assignment>),
    /// Somebody else has it, or it is over.
    Refused,
}

/// The answer to a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Continue,
    /// The attempt is not this worker's any more: cancelled, timed out, or given to another one.
    Stop,
}

/// The answer to a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    /// E4: it came too late and changed nothing.
    Refused,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// The desk could not be asked; it may be there again in a moment.
    #[error("{0}")]
    Unreachable(String),
    /// It was asked and does not take what it was given, and will not the next time.
    #[error("{0}")]
    Unacceptable(String),
}
