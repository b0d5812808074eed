//! What is to be run: written with the transition as a row of its own → available → claimed by one worker, with a
//! lease → kept by heartbeats → reported, or available again when the lease runs out.
//!
//! The table of callback executions is the queue. A claim is one compare-and-set on status and attempt (Q3), so any
//! number of workers may try.

mod claim;
mod ticket;

pub use claim::{Available, available, beat, claim, load_assignment};
pub use ticket::{Ticket, execution_secret, is_execution_secret};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Everything a worker needs to run one attempt of one execution, and nothing of the server's own secrets (Q2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    pub execution_id: i32,
    pub attempt: i32,
    pub function: String,
    /// YAML text of a mapping.
    pub arguments: String,
    /// Seconds to wait before the run.
    pub initial_delay: u32,
    /// Minutes that somebody else may take to finish it after a successful run; 0 is no wait stage.
    pub wait_timeout: u32,
    /// What the function may know of the execution, under the names of `GET /api/v2/callback_executions/{id}`.
    pub data: Map<String, Value>,
}
