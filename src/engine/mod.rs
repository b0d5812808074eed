//! An experiment: created at the root of its workflow → in a state → the callbacks of the state are run and reported
//! → its transitions are tried → in the next state → … → in a state that waits for a person, or at an end.
//!
//! Every change of state goes through [`Engine`] (E1). Each verb owns one transaction: it locks the experiment,
//! changes what is to be changed, lets everything follow that follows by itself, and commits (E2). A verb that loses
//! against another one through no fault of its own is done again; one that comes too late is refused.

mod annotate;
mod archive;
mod attempt;
mod create;
mod error;
mod evaluate;
mod facts;
mod intervene;
mod lease;
mod locked;
mod report;
mod run_log;
mod running;
mod timeout;
mod transition;

use std::sync::Arc;

use tokio::sync::{Notify, Semaphore};

use crate::clock::Clock;
use crate::database::{Database, Snapshot};
use crate::entity::experiment;
use crate::entity::kind::Origin;
use crate::workflow::Graphs;

pub use annotate::Annotation;
pub use create::NewExperiment;
pub use error::EngineError;
pub use evaluate::{Evaluation, Exits, Possible};
pub use intervene::Intervention;
pub use report::Report;
pub use running::{Ended, Held};
pub use timeout::TimeoutCounts;
pub use transition::Target;

/// Who does something, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The account, when it is a person's.
    pub user_id: Option<i32>,
    /// How logs name the actor.
    pub name: String,
    pub origin: Origin,
}

impl Actor {
    /// Somebody without an account: a worker, the clock, the command line.
    #[must_use]
    pub fn without_account(name: &str, origin: Origin) -> Self {
        Self { user_id: None, name: name.to_owned(), origin }
    }
}

/// The rules of states. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Engine {
    database: Database,
    clock: Clock,
    /// Conditions are evaluated two at a time: each may take memory and a whole core for a moment.
    evaluations: Arc<Semaphore>,
    /// The same for pages, which only look: many viewers do not keep a report waiting.
    views: Arc<Semaphore>,
    /// Rung after each commit that left something to dispatch.
    dispatched: Arc<Notify>,
    graphs: Graphs,
}

impl Engine {
    #[must_use]
    pub fn new(database: Database, clock: Clock) -> Self {
        Self {
            database,
            clock,
            evaluations: Arc::new(Semaphore::new(2)),
            views: Arc::new(Semaphore::new(1)),
            dispatched: Arc::new(Notify::new()),
            graphs: Graphs::default(),
        }
    }

    /// The same engine, reading at one moment; it refuses to change anything.
    #[must_use]
    pub fn at(&self, snapshot: &Snapshot) -> Self {
        Self { database: snapshot.database().clone(), ..self.clone() }
    }

    /// Where the engine keeps its state.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The label of the state that an experiment is in.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn state_label(&self, experiment: &experiment::Model) -> Result<String, sea_orm::DbErr> {
        self.graphs.label_of(self.database.reader(), experiment.workflow_id, experiment.state_id).await
    }

    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Rings when there may be something new to run. A listener that was away misses nothing but a little time:
    /// it looks by itself every second too.
    #[must_use]
    pub fn dispatched(&self) -> Arc<Notify> {
        Arc::clone(&self.dispatched)
    }
}

/// Something that is done to an experiment, for the audit trail.
fn about(experiment: &experiment::Model, verb: &'static str) -> crate::audit::Event {
    crate::audit::Event::new(verb, "experiment", experiment.id, &experiment.label).of_experiment(experiment.id)
}

/// Does a verb, and does it again when it lost against another transaction through no fault of its own.
async fn retried<T, F>(mut verb: impl FnMut() -> F) -> Result<T, EngineError>
where
    F: Future<Output = Result<T, EngineError>>,
{
    const MOST: u64 = 8;
    let mut tries = 1;
    loop {
        match verb().await {
            // 2 ms, 8 ms, 18 ms, …: those who met once should not meet again.
            Err(error) if error.is_transient() && tries < MOST => {
                tokio::time::sleep(std::time::Duration::from_millis(2 * tries * tries)).await;
                tries += 1;
            }
            outcome => return outcome,
        }
    }
}
