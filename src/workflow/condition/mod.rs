//! Conditions: a condition is one Python expression in a workflow file that is true or false for an experiment.
//!
//! It is read from a workflow, [`check`]ed when the workflow is loaded (is it one expression, and small enough?), and [`evaluate`]d
//! against the [`Facts`] whenever the engine needs to know whether a transition is open or a callback runs. Users who may load workflows
//! write it, so it is untrusted code. It runs in `monty`, an interpreter without files, network or imports, and in a separate process,
//! because monty cannot limit itself: `''.join(['x' * 99999] * 6000)` takes 600 MB in one step, `str(str(…))` of backslashes doubles at
//! each level, and a failed allocation or a full stack ends the process.
//!
//! - `syntax` decides before execution what may be compiled.
//! - `values` converts facts to Python values; they are copies, so a condition cannot change a fact.
//! - `process` manages the worker process and repeats a question that had no answer.
//! - `worker` runs in that process: [`serve`], with `sandbox`, which compiles, runs and answers the questions of monty.
//! - `rewrite`, with `percent`, rewrites Python that monty does not support.
//! - `review` finds what the sandbox does not support when a workflow is checked.
//! - `cache` stores data about texts in both processes.
//!
//! Only this module knows `monty`; a replacement would have to pass the tables in the tests.

mod cache;
mod percent;
mod process;
mod review;
mod rewrite;
mod sandbox;
mod syntax;
mod values;
mod worker;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{NaiveDate, NaiveDateTime, NaiveTime};
use serde::{Deserialize, Serialize};

use cache::Cache;
pub use process::{use_worker, worker_id};
pub use review::{Finding, review};
use syntax::Reads;
pub use syntax::SyntaxError;
pub use worker::serve;

/// The inputs of a condition.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The name `experiment`.
    pub experiment: ExperimentFacts,
    /// The name `callbacks`: a mapping by label.
    pub callbacks: BTreeMap<String, CallbackFacts>,
    /// The result of `datetime.datetime.now()`. The caller provides it, so that an evaluation can be repeated.
    pub now: NaiveDateTime,
}

/// `experiment`, with these attributes.
#[derive(Debug, Clone)]
pub struct ExperimentFacts {
    /// `experiment.label`
    pub label: String,
    /// `experiment.scandate`, a naive `datetime.datetime`
    pub scandate: NaiveDateTime,
    /// `experiment.state`
    pub state: String,
    /// `experiment.variables`, a dict in this order
    pub variables: Vec<(String, Value)>,
}

/// `callbacks[label]`, with these attributes.
#[derive(Debug, Clone)]
pub struct CallbackFacts {
    /// `.status`, a plain string
    pub status: String,
    /// `.result`, a plain string
    pub result: String,
    /// `.result_values`, a mapping if it is a JSON object
    pub result_values: serde_json::Value,
}

/// The value of a variable, with its Python type.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `None`
    None,
    /// `bool`
    Bool(bool),
    /// `int`
    Int(i64),
    /// `float`
    Float(f64),
    /// `str`
    Str(String),
    /// `datetime.date`
    Date(NaiveDate),
    /// `datetime.datetime`, naive
    DateTime(NaiveDateTime),
    /// `datetime.time`, naive
    Time(NaiveTime),
    /// dicts, lists and scalars, nested
    Json(serde_json::Value),
}

/// Reason why a condition has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum EvaluationError {
    /// It is not an expression that may be compiled.
    #[error("{0}")]
    Syntax(#[from] SyntaxError),
    /// Python raised an error, or the sandbox refused: one line such as `KeyError: 'qc'`.
    #[error("{0}")]
    Raised(String),
    /// It reached the time limit.
    #[error("took longer than {} ms", sandbox::MAX_DURATION.as_millis())]
    TooSlow,
    /// It reached the memory limit.
    #[error("needed too much memory")]
    TooLarge,
    /// The interpreter itself failed. That is a bug in it; the evaluation still ends with this error.
    #[error("the interpreter failed: {0}")]
    Broken(String),
    /// There was no answer. This says nothing about the condition, which must be evaluated again.
    #[error("a condition could not be evaluated now: {0}")]
    Unavailable(String),
}

/// The names that each text reads. Errors are not cached: users correct a wrong condition instead of evaluating it again.
static KNOWN: Mutex<Option<Cache<Arc<Reads>>>> = Mutex::new(None);

/// Checks that the text is exactly one Python expression, small enough to compile. A blank text is valid and means true.
///
/// # Errors
/// The first error, with its place in the text.
pub fn check(text: &str) -> Result<(), SyntaxError> {
    if is_blank(text) { Ok(()) } else { known(text).map(drop) }
}

/// The time that [`evaluate`] waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A completed evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluated {
    /// Whether the condition's value is true, or the condition's own error.
    pub outcome: Result<bool, EvaluationError>,
    /// Processor time of the evaluation.
    pub spent: Duration,
}

/// Evaluates a condition. A blank text is true.
///
/// Processor time and memory are bounded, but the call blocks: use `spawn_blocking`. Evaluations run one after the other.
///
/// # Errors
/// The condition's own error, or [`EvaluationError::Unavailable`] if there was no answer within [`PATIENCE`]; the text is one line for
/// users.
pub fn evaluate(text: &str, facts: &Facts) -> Result<bool, EvaluationError> {
    evaluate_within(text, facts, PATIENCE)?.outcome
}

/// Like [`evaluate`], with the processor time, within `patience`.
///
/// # Errors
/// [`EvaluationError::Unavailable`] if there was no answer: nothing may be decided then.
pub fn evaluate_within(text: &str, facts: &Facts, patience: Duration) -> Result<Evaluated, EvaluationError> {
    let at_once = |outcome| Ok(Evaluated { outcome, spent: Duration::ZERO });
    if is_blank(text) {
        return at_once(Ok(true));
    }
    let reads = match known(text) {
        Ok(reads) => reads,
        Err(error) => return at_once(Err(error.into())),
    };
    if let Some(refused) = &reads.refused {
        return at_once(Err(EvaluationError::Raised(refused.clone())));
    }
    let question = worker::Question { text: text.into(), inputs: values::inputs(facts, &reads), now: facts.now };
    process::ask(&question, patience)
}

/// Checks a text, using the cached result if there is one.
fn known(text: &str) -> Result<Arc<Reads>, SyntaxError> {
    // A panic while the lock is held leaves the cache consistent.
    let lock = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(reads) = lock().get_or_insert_default().get(text) {
        return Ok(Arc::clone(reads));
    }
    let reads = Arc::new(sandbox::compile(text)?.reads);
    lock().get_or_insert_default().put(text, Arc::clone(&reads));
    Ok(reads)
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}
