//! Source of work for a worker pool.

use crate::queue::Ticket;

/// Attempts that wait for a worker, one after the other.
pub trait Intake: Send {
    type Letter: Letter;

    /// Waits for an attempt; `None` when there was none for a while and the caller should ask again. Cancelling the wait
    /// loses nothing.
    fn next(&mut self) -> impl Future<Output = Option<Offer<Self::Letter>>> + Send;

    /// The pool has been full for a while: releases the attempts that were received but not taken, for other workers.
    fn full(&mut self) -> impl Future<Output = ()> + Send;
}

/// An attempt, and the message that announced it.
pub struct Offer<L> {
    pub ticket: Ticket,
    pub letter: L,
}

/// The message that announced an attempt. If it is dropped undecided, it is delivered again.
pub trait Letter: Send + 'static {
    /// The claim was granted or refused, so the message is no longer needed.
    fn decided(self) -> impl Future<Output = ()> + Send;

    /// The engine rejects the message: it becomes a dead letter, for an administrator to inspect.
    fn undeliverable(self) -> impl Future<Output = ()> + Send;
}
