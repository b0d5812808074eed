//! Reasons why the engine refused or failed. Nothing has been changed in any of these cases.

use sea_orm::{DbBackend, DbErr};

use crate::context::{Context, Sought};
use crate::database::{self, Failure};
use crate::entity::kind::ExecutionStatus;
use crate::workflow::WorkflowError;

use super::answers::Pending;

/// One variant per cause; pages, API and command line map it to a status and a sentence.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("there is no {kind} {id}")]
    NotFound { kind: &'static str, id: i32, sought: Sought },
    #[error("Could not find requested state \"{requested}\"")]
    StateNotFound { requested: String },
    #[error("Could not find a valid transition for requested state change (from {from} [{from_id}] to {to} [{to_id}])")]
    NoTransition { from: String, from_id: i32, to: String, to_id: i32 },
    #[error("the condition of the transition is not met: {condition}{}", .error.as_ref().map(|text| format!(" ({text})")).unwrap_or_default())]
    ConditionNotMet { transition_id: i32, condition: String, error: Option<String> },
    /// E4: a resolved execution does not change.
    #[error("callback execution {execution_id} is already {status}")]
    Resolved { execution_id: i32, status: ExecutionStatus },
    /// Q4: an older attempt may no longer report.
    #[error("callback execution {execution_id} is at attempt {current}; attempt {reported} has ended")]
    StaleAttempt { execution_id: i32, reported: i32, current: i32 },
    #[error("cannot change status of a callback execution from {from} to {to}")]
    StepBack { from: ExecutionStatus, to: ExecutionStatus },
    /// Another change came first: the state that the decision was made about no longer exists.
    #[error("the experiment has changed in the meantime; reload it and try again")]
    MovedOn,
    /// E14: it has been locked for longer than the limit, or too many requests wait for it.
    #[error("experiment {experiment_id} is being changed by another request or server; nothing was changed")]
    Busy { experiment_id: i32 },
    #[error("the subject already has an experiment '{label}'")]
    Duplicate { label: String },
    #[error("the cohort '{cohort}' already has a subject '{label}'")]
    DuplicateSubject { label: String, cohort: String },
    /// Protocols are unique, so a scan of this protocol has the modality of its scan type.
    #[error("the protocol '{protocol}' already has the modality {stored}, not {given}; protocols are unique")]
    OtherModality { protocol: String, stored: String, given: String },
    /// Archived experiments and subjects do not change.
    #[error("{kind} {id} is archived")]
    Archived { kind: &'static str, id: i32 },
    #[error("{kind} {id} is not archived")]
    NotArchived { kind: &'static str, id: i32 },
    #[error("experiment {0} is not on hold")]
    NotHeld(i32),
    #[error("no workflow has been loaded yet; load one first")]
    NoWorkflow,
    #[error("workflow '{0}' must have exactly one root state with exactly one transition")]
    NoRoot(String),
    /// No condition was decided, and nothing has changed: the caller may try again.
    #[error("conditions cannot be evaluated now: {0}")]
    NoInterpreter(String),
    /// Conditions have to be evaluated without the lock, then the verb is repeated. Only verbs that work in a transaction of
    /// the caller return this: see [`super::Evaluations`].
    #[error("conditions have to be evaluated first")]
    Elsewhere(Box<Pending>),
    #[error(transparent)]
    Workflow(#[from] WorkflowError),
    #[error(transparent)]
    Database(#[from] DbErr),
}

impl EngineError {
    /// No row with this id is visible to `ctx`.
    pub(super) fn not_found(ctx: &Context, kind: &'static str, id: i32) -> Self {
        Self::NotFound { kind, id, sought: ctx.sought(kind) }
    }

    /// The data changed during the decision; repeating the verb decides about the current data.
    pub(super) fn changed(what: &str) -> Self {
        Self::Database(DbErr::Custom(format!("Record has changed: {what}")))
    }

    /// Whether the database as a whole is the cause, so that the same verb fails for every other experiment too.
    pub(super) fn is_of_all(&self, backend: DbBackend) -> bool {
        let Self::Database(error) = self else { return false };
        match Failure::of(error) {
            None | Some(Failure::Conflict | Failure::TooLong) => false,
            // A locked row; on SQLite the lock is on the whole file.
            Some(Failure::Locked) => backend == DbBackend::Sqlite,
            Some(_) => true,
        }
    }

    /// Whether repeating the same call may succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Database(error) => database::is_transient(error),
            _ => false,
        }
    }
}
