//! From where a pool hears of attempts.

use crate::queue::Ticket;

/// Attempts that wait for a worker, one after the other.
pub trait Intake: Send {
    type Letter: Letter;

    /// Waits for an attempt; nothing when there was none for a while, and it is to be asked again. Dropped while it waits, it
    /// has lost nothing.
    fn next(&mut self) -> impl Future<Output = Option<Offer<Self::Letter>>> + Send;

    /// The pool has been full for a while: what was heard of and not taken is for others.
    fn full(&mut self) -> impl Future<Output = ()> + Send;
}

/// An attempt, and the letter that told of it.
pub struct Offer<L> {
    pub ticket: Ticket,
    pub letter: L,
}

/// What told of an attempt. Dropped undecided, it tells somebody again.
pub trait Letter: Send + 'static {
    /// Whether it is this worker's or not: nobody needs to be told any more.
    fn decided(self) -> impl Future<Output = ()> + Send;

    /// The desk does not know it: for people to look at.
    fn undeliverable(self) -> impl Future<Output = ()> + Send;
}
