//! The queue of executions: written as rows with the transition → due → published by the relay, or read by an embedded
//! worker → claimed by one worker, with a lease → kept by heartbeats → reported, or due again when the lease expires.
//!
//! The table of callback executions is the queue; its `relay_at` says when to publish (Q1). A claim is one compare-and-set
//! on status and attempt (Q3), so any number of workers may try, and a message that is delivered twice is harmless.

mod assignment;
mod claim;
mod dead_letter;
mod presence;
mod rabbitmq;
mod relay;
mod renewal;
mod server;
mod ticket;

pub use assignment::{Assignment, Loaded};
pub use claim::{Available, available, beat, claim};
pub use presence::{Presence, note as note_presence};
pub use rabbitmq::{DEFAULT_QUEUE, QueueNames, connect, declare_presence_queue, declare_queue, pause_after};
pub use relay::{Due, Turn, mark_published, put_back, take_due};
pub use server::{BrokerState, Server, run_server};
pub use ticket::{Ticket, execution_secret, is_execution_secret};
