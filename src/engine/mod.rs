//! Life of an experiment: created at the root of its workflow → in a state → callbacks of the state run and report →
//! transitions are tried → in the next state → … → in a manual or final state.
//!
//! Every change of state goes through [`Engine`] (E1). Each verb owns one transaction: it locks the experiment, makes its
//! change, takes all automatic transitions that follow, and commits (E2). A verb that fails because of a concurrent
//! transaction is repeated; a change that comes too late is rejected.

mod annotate;
mod answers;
mod archive;
mod arrive;
mod attempt;
mod create;
mod error;
mod evaluate;
mod facts;
mod hold;
mod intervene;
mod lease;
mod locked;
mod report;
mod revision;
mod run_log;
mod running;
mod timeout;
mod transition;
mod turns;

use std::sync::Arc;

use tokio::sync::{Notify, Semaphore};

use crate::clock::Clock;
use crate::database::{Database, Snapshot};
use crate::entity::experiment;
use crate::workflow::Graphs;

use answers::Answers;

pub use annotate::Annotation;
pub use answers::Evaluations;
pub use create::NewExperiment;
pub use error::EngineError;
pub use evaluate::{Evaluation, Exits, Possible};
pub use intervene::Intervention;
pub use report::Report;
pub use revision::ProjectRevision;
pub use running::{Ended, Held};
pub use timeout::TimeoutCounts;
pub use transition::Target;

use turns::Turns;

/// The verbs that change the states of experiments. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Engine {
    database: Database,
    clock: Clock,
    answers: Answers,
    /// Pages evaluate conditions one at a time, so that many viewers do not delay a report.
    views: Arc<Semaphore>,
    /// Notified after each commit that may have queued executions.
    dispatched: Arc<Notify>,
    graphs: Graphs,
    /// Automatic transitions that an experiment may take within a minute; 0 means no limit.
    most_transitions: u32,
    turns: Turns,
    revision: ProjectRevision,
}

/// The default of the setting `STUDYGOV_TRANSITIONS_PER_MINUTE`.
pub const TRANSITIONS_PER_MINUTE: u32 = 100;

impl Engine {
    #[must_use]
    pub fn new(database: Database, clock: Clock) -> Self {
        Self {
            database,
            clock,
            answers: Answers::default(),
            views: Arc::new(Semaphore::new(1)),
            dispatched: Arc::new(Notify::new()),
            graphs: Graphs::default(),
            most_transitions: TRANSITIONS_PER_MINUTE,
            turns: Turns::default(),
            revision: ProjectRevision::default(),
        }
    }

    /// The commit of the study repository that claims name.
    #[must_use]
    pub fn revision(&self) -> &ProjectRevision {
        &self.revision
    }

    /// The same engine, reading from a snapshot; it refuses to change anything.
    #[must_use]
    pub fn at(&self, snapshot: &Snapshot) -> Self {
        Self { database: snapshot.database().clone(), ..self.clone() }
    }

    /// The database that the engine works on.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The label of the state that an experiment is in.
    pub async fn state_label(&self, experiment: &experiment::Model) -> Result<String, sea_orm::DbErr> {
        self.graphs.label_of(self.database.reader(), experiment.workflow_id, experiment.state_id).await
    }

    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Notified when there may be new work. A listener that misses a notification is only a little late, because it also
    /// polls every second.
    #[must_use]
    pub fn dispatched(&self) -> Arc<Notify> {
        Arc::clone(&self.dispatched)
    }
}

/// An audit event about an experiment.
fn about(experiment: &experiment::Model, verb: &'static str) -> crate::audit::Event {
    crate::audit::Event::new(verb, "experiment", experiment.id, &experiment.label).of_experiment(experiment.id)
}

/// Result of a sweep for one execution.
enum Swept<T> {
    Done(T),
    /// Its experiment is locked by another transaction; the next sweep tries it again.
    Held,
    /// There was nothing left to do.
    Over,
}

/// Runs a verb, and repeats it after a transient conflict with another transaction, or after its conditions had to be
/// evaluated without the lock.
async fn retried<T, F>(mut verb: impl FnMut() -> F) -> Result<T, EngineError>
where
    F: Future<Output = Result<T, EngineError>>,
{
    const MOST: u64 = 8;
    let mut tries = 1;
    let mut evaluations = Evaluations::default();
    loop {
        match verb().await {
            // 2 ms, 8 ms, 18 ms, …: growing delays keep two verbs from colliding again.
            Err(error) if error.is_transient() && tries < MOST => {
                tokio::time::sleep(std::time::Duration::from_millis(2 * tries * tries)).await;
                tries += 1;
            }
            Err(EngineError::Elsewhere(pending)) => evaluations.evaluate(&pending).await?,
            outcome => return outcome,
        }
    }
}
