//! A worker: sees that there is something to run → claims it → runs it, with heartbeats → reports.
//!
//! [`Desk`] is the contract between the engine and its workers, and has two sides: here the one inside the server's
//! process; a worker on another machine speaks the same verbs over HTTP.

mod desk;
mod local;
mod pool;
mod service;

pub use desk::{Claim, Desk, DeskError, Order, Verdict};
pub use local::LocalDesk;
pub use pool::Pool;
pub use service::sweep;
