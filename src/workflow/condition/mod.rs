//! A condition: one Python expression out of a workflow file, answered yes or no about one experiment.
//!
//! Its life: read from a workflow → [`check`]ed when the workflow is loaded (is it one expression, and small
//! enough?) → [`evaluate`]d against the [`Facts`] whenever the engine asks whether a callback may run.
//! Its author is whoever may write a workflow, so it is code of a stranger. It runs in `monty`, an interpreter
//! without files, network or imports — and that in a process of its own, because monty cannot bound itself:
//! `''.join(['x' * 99999] * 6000)` takes 600 MB in one step, `str(str(…))` of backslashes doubles at each level,
//! and an allocation that fails, like a stack that is full, ends the process it happens in.
//!
//! - `syntax` decides what may be compiled at all, before anything runs.
//! - `values` turns facts into Python values; they are copies, so a condition cannot change a fact.
//! - `process` keeps the one worker process and asks it, again when there was no answer.
//! - `worker` is what runs over there: [`serve`], with `sandbox` that compiles, runs and answers what monty asks.
//! - `rewrite`, with `percent`, says what Python has and monty has not in other words.
//! - `review` says what the sandbox does not know, when a workflow is checked.
//! - `cache` keeps what was learnt about a text, here and there.
//!
//! Nothing outside this module knows `monty`; the tables in the tests are what a replacement would have to pass.

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

/// What a condition can see.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The name `experiment`.
    pub experiment: ExperimentFacts,
    /// The name `callbacks`: a mapping by label.
    pub callbacks: BTreeMap<String, CallbackFacts>,
    /// What `datetime.datetime.now()` answers. The clock is handed in, so that an evaluation can be repeated.
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
    /// `.result_values`, a real mapping when it is a JSON object
    pub result_values: serde_json::Value,
}

/// The value of a variable, as Python shall see it.
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

/// Why a condition has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum EvaluationError {
    /// It is not an expression that may be compiled.
    #[error("{0}")]
    Syntax(#[from] SyntaxError),
    /// Python raised, or the sandbox refused: one line such as `KeyError: 'qc'`.
    #[error("{0}")]
    Raised(String),
    /// It ran for as long as a condition may.
    #[error("took longer than {} ms", sandbox::MAX_DURATION.as_millis())]
    TooSlow,
    /// It wanted more memory than a condition may have.
    #[error("needed too much memory")]
    TooLarge,
    /// The interpreter itself failed. This is a bug there; the condition is answered with an error all the same.
    #[error("the interpreter failed: {0}")]
    Broken(String),
    /// There was no answer: this says nothing about the condition, which has to be evaluated again.
    #[error("a condition could not be evaluated now: {0}")]
    Unavailable(String),
}

/// What each text reads. Errors are not kept: a wrong condition is fixed, not asked again.
static KNOWN: Mutex<Option<Cache<Arc<Reads>>>> = Mutex::new(None);

/// Is the text exactly one Python expression, small enough to be compiled? A blank text is fine: it means true.
///
/// # Errors
/// The first thing that is wrong, with its place in the text.
pub fn check(text: &str) -> Result<(), SyntaxError> {
    if is_blank(text) { Ok(()) } else { known(text).map(drop) }
}

/// How long [`evaluate`] waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// An evaluation that took place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluated {
    /// The truth of the condition's value, or its own error.
    pub outcome: Result<bool, EvaluationError>,
    /// Processor time that it took.
    pub spent: Duration,
}

/// The truth of the condition's value. A blank text is true.
///
/// Bounded in processor time and memory, but it blocks: call it in `spawn_blocking`. Evaluations wait for each other.
///
/// # Errors
/// The condition's own error, or [`EvaluationError::Unavailable`] when there was no answer within [`PATIENCE`]; the text is
/// one line, fit for people.
pub fn evaluate(text: &str, facts: &Facts) -> Result<bool, EvaluationError> {
    evaluate_within(text, facts, PATIENCE)?.outcome
}

/// The same with the time that it took, within `patience`.
///
/// # Errors
/// [`EvaluationError::Unavailable`] when there was no answer: nothing may be decided then.
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

/// Checks a text, or remembers that it was checked.
fn known(text: &str) -> Result<Arc<Reads>, SyntaxError> {
    // A panic while the lock is held leaves a cache that is still whole.
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
