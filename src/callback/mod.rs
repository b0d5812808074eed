//! The callback functions, one file each, and their common interface.
//!
//! A run gets an [`Assignment`] and a [`Workplace`], writes to a [`RunLog`], and ends with an [`Outcome`]. Any error in it
//! becomes a failed outcome with the reason, never a crash of the worker.

mod castor;
mod command;
mod containers;
mod docker_run;
mod fastr;
mod guard;
mod http_request;
mod log;
mod netrc;
mod process;
mod python_function;
mod python_json;
mod redact;
mod send_mail;
mod size;
mod sleep;
mod substitution;
mod task;
mod web;
mod workplace;
mod xnat;

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::queue::Assignment;
use crate::workflow::yaml;

pub(crate) use containers::remove_stray_containers;
pub use guard::{ARGUMENT as GUARD_ARGUMENT, Programs, serve as serve_guard, use_guard};
pub use log::RunLog;
pub use web::within_origin;
pub use workplace::Workplace;

/// The functions that a workflow may name: those of version 8.1 and `http_request`.
pub const FUNCTIONS: [&str; 11] = [
    "castor",
    "command",
    "create_task",
    "create_taskgroup",
    "docker_run",
    "external_program",
    "fastr",
    "http_request",
    "python_function",
    "send_mail",
    "sleep",
];

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub is_success: bool,
    /// Becomes `result_values`.
    pub values: Map<String, Value>,
}

/// Reason why a run failed: the text of `__exception__`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

impl Outcome {
    /// The outcome of a successful run.
    fn success(values: Value) -> Self {
        Self { is_success: true, values: if let Value::Object(values) = values { values } else { Map::new() } }
    }

    /// The same values, as the outcome of a failed run with this reason.
    fn but_failed(mut self, reason: impl Into<String>, traceback: Option<&str>) -> Self {
        self.is_success = false;
        self.values.insert("__exception__".to_owned(), reason.into().into());
        self.values.insert("__traceback__".to_owned(), traceback.into());
        self
    }

    /// The outcome of a failed run, with the reason.
    #[must_use]
    pub fn failed(reason: &str) -> Self {
        Self { is_success: false, values: Map::new() }.but_failed(reason, None)
    }
}

/// The input of a function: its assignment and its environment.
pub(crate) struct Run<'a> {
    assignment: &'a Assignment,
    /// Secret of the attempt.
    secret: &'a str,
    workplace: &'a Workplace,
    log: &'a RunLog,
}

impl Run<'_> {
    /// A value of the execution data; null if absent.
    fn value(&self, pointer: &str) -> &Value {
        let mut steps = pointer.split('/').skip(1);
        let first = steps.next().and_then(|step| self.assignment.data.get(step));
        steps.fold(first, |value, step| value.and_then(|value| value.get(step))).unwrap_or(&Value::Null)
    }

    /// A text of the execution data; empty if absent.
    fn text(&self, pointer: &str) -> &str {
        self.value(pointer).as_str().unwrap_or_default()
    }

    /// The URL of an external system, without a trailing slash.
    fn system(&self, name: &str) -> Result<&str, Failure> {
        let found = self.assignment.data.get("external_systems").and_then(|systems| systems.get(name));
        match found.and_then(Value::as_str).map(|url| url.trim_end_matches('/')) {
            Some(url) if !url.is_empty() => Ok(url),
            Some(_) => Err(Failure(format!("the external system '{name}' has no URL"))),
            None => Err(Failure(format!("unknown external system '{name}'"))),
        }
    }

    /// The id of the `experiment` or `subject` in an external system.
    fn external_id(&self, kind: &str, system: &str) -> Result<&str, Failure> {
        let ids = self.assignment.data.get(kind).and_then(|one| one.get("external_ids"));
        let id = ids.and_then(|ids| ids.get(system)).and_then(Value::as_str).filter(|id| !id.is_empty());
        let label = self.text(&format!("/{kind}/label"));
        id.ok_or_else(|| Failure(format!("the {kind} {label} has no id in the external system '{system}'")))
    }
}

/// Runs one assignment to its end. Dropping the future cancels it and kills all programs that were started;
/// [`Programs::gone`] waits until they have ended.
///
/// `secret` is the secret of the attempt. It is passed to programs on request and removed from logs and results.
pub async fn run(assignment: &Assignment, secret: &str, workplace: &Workplace, log: &RunLog) -> Outcome {
    if assignment.initial_delay > 0 {
        tokio::time::sleep(std::time::Duration::from_secs(assignment.initial_delay.into())).await;
    }
    let run = Run { assignment, secret, workplace, log };
    // A panic in a function is a failed run too; otherwise it would go unnoticed until its lease expires.
    let called = AssertUnwindSafe(call(&run)).catch_unwind().await;
    let mut outcome = match called.unwrap_or_else(|_| Err(Failure("the function has panicked".to_owned()))) {
        Ok(outcome) => outcome,
        Err(failure) => {
            log.line(&format!("failed: {failure}"));
            Outcome::failed(&failure.0)
        }
    };
    outcome = size::fitted(outcome, log);
    outcome.values.insert("__success__".to_owned(), outcome.is_success.into());
    redact::redact_entries(&mut outcome.values, secret);
    outcome
}

async fn call(run: &Run<'_>) -> Result<Outcome, Failure> {
    let assignment = run.assignment;
    let arguments = match yaml::parse_value(&assignment.arguments) {
        Ok(Value::Object(arguments)) => arguments,
        Ok(Value::Null) => Map::new(),
        Ok(_) => return Err(Failure("callback_arguments is not a mapping".to_owned())),
        Err(_) if assignment.arguments.trim().is_empty() => Map::new(),
        Err(error) => return Err(Failure(format!("callback_arguments is not valid YAML: {error}"))),
    };
    match assignment.function.as_str() {
        "castor" => castor::run(arguments, run).await,
        "command" => command::run(arguments, run).await,
        "create_task" => task::create_task(arguments, run).await,
        "create_taskgroup" => task::create_taskgroup(arguments, run).await,
        "docker_run" => docker_run::run(arguments, run).await,
        "external_program" => command::run_external_program(arguments, run).await,
        "fastr" => fastr::run(arguments, run).await,
        "http_request" => http_request::run(arguments, run).await,
        "python_function" => python_function::run(arguments, run).await,
        "send_mail" => send_mail::run(arguments, run).await,
        "sleep" => sleep::run(arguments, run.log).await,
        name => Err(Failure(format!("unknown callback function '{name}'"))),
    }
}

/// Reads the arguments that a function knows; logs and ignores the others.
fn read_arguments<T: DeserializeOwned>(
    mut arguments: Map<String, Value>,
    known: &[&str],
    log: &RunLog,
) -> Result<T, Failure> {
    arguments.retain(|name, _| {
        // `queue` is read by the engine.
        if !known.contains(&name.as_str()) && name != "queue" {
            log.line(&format!("unknown argument {name} is ignored"));
        }
        known.contains(&name.as_str())
    });
    serde_json::from_value(Value::Object(arguments)).map_err(|error| Failure(format!("callback_arguments: {error}")))
}
