//! The callback functions, one file each, and their common contract.
//!
//! A run gets an [`Assignment`] and a [`Workplace`], writes to a [`RunLog`], and ends in an [`Outcome`]. Whatever goes
//! wrong inside is a failed outcome with the reason, never a crash of the worker.

mod command;
mod log;
mod process;
mod sleep;
mod substitution;

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::config::ProjectSettings;
use crate::queue::Assignment;
use crate::workflow::yaml;

pub use log::RunLog;

/// The functions that a workflow may name: those of the existing product and `http_request`.
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

/// What the worker's machine offers to a run.
#[derive(Debug, Clone)]
pub struct Workplace {
    /// The folder of `external_program`.
    pub bin: PathBuf,
    /// Environment variables that programs get: where the project's files are.
    pub variables: Vec<(String, String)>,
    /// Names of environment variables that programs do not get to see: the secrets of the server.
    pub hidden_variables: Vec<String>,
}

impl Workplace {
    /// The workplace of a project.
    #[must_use]
    pub fn new(project: &ProjectSettings) -> Self {
        const HIDDEN: [&str; 11] = [
            "DATABASE_URL",
            "DB_PASSWORD",
            "MAIL_PASSWORD",
            "SECRET_KEY",
            "SECURITY_PASSWORD_SALT",
            "SQLALCHEMY_DATABASE_URI",
            "STUDYGOV_ADMIN_PASSWORD",
            "STUDYGOV_BROKER",
            "STUDYGOV_CELERY_BACKEND",
            "STUDYGOV_CELERY_BROKER",
            "STUDYGOV_EMAIL_PASSWORD",
        ];
        let folders = [
            ("STUDYGOV_PROJECT_HOME", &project.home),
            ("STUDYGOV_PROJECT_BIN", &project.bin),
            ("STUDYGOV_DATA_DIR", &project.data),
            ("STUDYGOV_PROJECT_SCRATCH", &project.scratch),
        ];
        Self {
            bin: project.bin.clone(),
            variables: folders.map(|(name, path)| (name.to_owned(), path.display().to_string())).to_vec(),
            hidden_variables: HIDDEN.map(str::to_owned).to_vec(),
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub is_success: bool,
    /// Becomes `result_values`.
    pub values: Map<String, Value>,
}

/// Why a run could not do what it should: the text of `__exception__`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

impl Outcome {
    /// A run that could not do what it should, and why.
    #[must_use]
    pub fn failed(reason: &str) -> Self {
        let mut values = Map::new();
        values.insert("__exception__".to_owned(), reason.into());
        values.insert("__traceback__".to_owned(), Value::Null);
        Self { is_success: false, values }
    }
}

/// Runs one assignment to its end. Cancelled by dropping: whatever was started is killed with its process group.
///
/// `secret` is the secret of the attempt; it is handed to the program when asked for, and blotted out of whatever
/// comes back.
pub async fn run(assignment: &Assignment, secret: &str, workplace: &Workplace, log: &RunLog) -> Outcome {
    if assignment.initial_delay > 0 {
        tokio::time::sleep(std::time::Duration::from_secs(assignment.initial_delay.into())).await;
    }
    let mut outcome = match call(assignment, secret, workplace, log).await {
        Ok(outcome) => outcome,
        Err(failure) => {
            log.line(&format!("failed: {failure}"));
            Outcome::failed(&failure.0)
        }
    };
    outcome.values.insert("__success__".to_owned(), outcome.is_success.into());
    let mut values = Value::Object(outcome.values);
    blot_out(&mut values, secret);
    outcome.values = if let Value::Object(values) = values { values } else { Map::new() };
    outcome
}

async fn call(assignment: &Assignment, secret: &str, workplace: &Workplace, log: &RunLog) -> Result<Outcome, Failure> {
    let arguments = match yaml::parse_value(&assignment.arguments) {
        Ok(Value::Object(arguments)) => arguments,
        Ok(Value::Null) => Map::new(),
        Ok(_) => return Err(Failure("callback_arguments is not a mapping".to_owned())),
        Err(_) if assignment.arguments.trim().is_empty() => Map::new(),
        Err(error) => return Err(Failure(format!("callback_arguments is no YAML: {error}"))),
    };
    match assignment.function.as_str() {
        "sleep" => sleep::run(arguments, log).await,
        "command" => command::run(arguments, assignment, secret, workplace, log).await,
        "external_program" => command::run_external_program(arguments, assignment, secret, workplace, log).await,
        name if FUNCTIONS.contains(&name) => {
            Err(Failure(format!("the callback function '{name}' is not in this version of Study Governor")))
        }
        name => Err(Failure(format!("there is no callback function '{name}'"))),
    }
}

/// Reads the arguments that a function knows; the others are named in the log and ignored.
fn read_arguments<T: DeserializeOwned>(
    mut arguments: Map<String, Value>,
    known: &[&str],
    log: &RunLog,
) -> Result<T, Failure> {
    arguments.retain(|name, _| {
        // `queue` is for the dispatcher.
        if !known.contains(&name.as_str()) && name != "queue" {
            log.line(&format!("argument {name} is not known to this function and is ignored"));
        }
        known.contains(&name.as_str())
    });
    serde_json::from_value(Value::Object(arguments)).map_err(|error| Failure(format!("callback_arguments: {error}")))
}

/// Puts stars in the place of the secret, wherever it stands in a text of the value.
fn blot_out(value: &mut Value, secret: &str) {
    match value {
        Value::String(text) if text.contains(secret) => *text = text.replace(secret, "***"),
        Value::Array(items) => items.iter_mut().for_each(|item| blot_out(item, secret)),
        Value::Object(entries) => entries.values_mut().for_each(|entry| blot_out(entry, secret)),
        _ => {}
    }
}
