//! An experiment: created at the root of its workflow → in a state → the callbacks of the state are run and reported
//! → its transitions are tried → in the next state → … → in a state that waits for a person, or at an end.
//!
//! Every change of state goes through [`Engine`] (E1). Each verb owns one transaction: it locks the experiment,
//! changes what is to be changed, lets everything follow that follows by itself, and commits (E2). A verb that loses
//! against another one through no fault of its own is done again; one that comes too late is refused.

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

/// The rules of states. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Engine {
    database: Database,
    clock: Clock,
    answers: Answers,
    /// Pages evaluate conditions one at a time: many viewers do not keep a report waiting.
    views: Arc<Semaphore>,
    /// Rung after each commit that left something to dispatch.
    dispatched: Arc<Notify>,
    graphs: Graphs,
    /// Transitions that an experiment may make by itself within a minute; 0 is no limit.
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

    /// The commit of the study's repository that claims name.
    #[must_use]
    pub fn revision(&self) -> &ProjectRevision {
        &self.revision
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

/// What a sweep did about one execution.
enum Swept<T> {
    Done(T),
    /// Its experiment is locked by another transaction; the next sweep tries it again.
    Held,
    /// There was nothing left to do.
    Over,
}

/// Does a verb, and does it again when it lost against another transaction through no fault of its own, or when conditions had
/// to be evaluated without its lock.
async fn retried<T, F>(mut verb: impl FnMut() -> F) -> Result<T, EngineError>
where
    F: Future<Output = Result<T, EngineError>>,
{
    const MOST: u64 = 8;
    let mut tries = 1;
    let mut evaluations = Evaluations::default();
    loop {
        match verb().await {
            // 2 ms, 8 ms, 18 ms, …: those who met once should not meet again.
            Err(error) if error.is_transient() && tries < MOST => {
                tokio::time::sleep(std::time::Duration::from_millis(2 * tries * tries)).await;
                tries += 1;
            }
            Err(EngineError::Elsewhere(pending)) => evaluations.evaluate(&pending).await?,
            outcome => return outcome,
        }
    }
}
