//! A worker: receives an attempt → claims it → runs it, with heartbeats → reports.
//!
//! [`Desk`] is the interface between the engine and its workers, [`Intake`] the source of work. Each has two
//! implementations: [`LocalDesk`] and [`LocalIntake`] inside the server's process, on its database; [`RemoteDesk`] and
//! [`BrokerIntake`] on another machine, over HTTP and the broker. The same [`Pool`] uses either.

mod broker;
mod by_hand;
mod desk;
mod intake;
mod local;
mod pool;
mod presence;
mod pulse;
mod remote;
mod service;

pub use broker::{BrokerIntake, BrokerSettings};
pub use by_hand::run_by_hand;
pub use desk::{Claim, Desk, DeskError, Order, Verdict};
pub use intake::{Intake, Letter, Offer};
pub use local::{LocalDesk, LocalIntake};
pub use pool::{Pool, worker_name};
pub use presence::{note as note_worker, presence, say as say_worker};
pub use pulse::Pulse;
pub use remote::RemoteDesk;
pub use service::sweep;
