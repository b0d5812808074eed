//! What workers on other machines say of an attempt, and that they may: each request shows the secret of the attempt.

use serde::Deserialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::engine::{Ended, Held};
use crate::http::HttpError;
use crate::queue::is_execution_secret;

use super::history::{Values, forbidden};
use super::input::{Given, Problems, invalid};

/// Which attempt, and who has it: what each of the bodies begins with.
struct Credentials {
    attempt: Given<i32>,
    secret: Given<String>,
    worker: Given<String>,
}

/// A worker that has shown the secret of an attempt.
pub(super) struct Worker {
    execution_id: i32,
    attempt: i32,
    name: String,
}

impl Worker {
    pub(super) fn held(&self) -> Held<'_> {
        Held { execution_id: self.execution_id, attempt: self.attempt, worker: &self.name }
    }
}

impl Credentials {
    /// Needs no look into the database: the secret says that there is such an execution. Without the right one nothing else
    /// is said.
    fn read(self, app: &App, execution_id: i32) -> Result<Worker, HttpError> {
        let Some(secret) = self.secret.value() else { return Err(forbidden()) };
        let mut problems = Problems::default();
        let attempt = problems.required("attempt", self.attempt);
        let worker = problems.required("worker", self.worker);
        let (attempt, worker) = problems.all(attempt.zip(worker))?;
        if !is_execution_secret(&app.settings.secrets.secret_key, execution_id, attempt, &secret) {
            return Err(forbidden());
        }
        let name: String = worker.trim().chars().filter(|c| !c.is_control()).take(128).collect();
        if name.is_empty() {
            return Err(invalid("worker", "is empty"));
        }
        Ok(Worker { execution_id, attempt, name })
    }
}

/// A claim or a heartbeat.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct WorkerBody {
    /// The attempt, as in the message.
    #[schema(value_type = i32, example = 1)]
    attempt: Given<i32>,
    /// The secret of this attempt, as in the message.
    #[schema(value_type = String)]
    secret: Given<String>,
    /// Name of the worker; another one for each process.
    #[schema(value_type = String, example = "node7:4711:0a1b2c3d")]
    worker: Given<String>,
    /// The log so far; left out when there is nothing new in it.
    #[schema(value_type = Option<String>)]
    run_log: Given<String>,
}

impl WorkerBody {
    /// Who it is, and the log so far.
    pub(super) fn read(self, app: &App, execution_id: i32) -> Result<(Worker, Option<String>), HttpError> {
        let Self { attempt, secret, worker, .. } = self;
        let worker = Credentials { attempt, secret, worker }.read(app, execution_id)?;
        let mut problems = Problems::default();
        let run_log = problems.optional("run_log", self.run_log);
        problems.check()?;
        Ok((worker, run_log))
    }
}

/// How a run ended.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct EndBody {
    /// The attempt, as in the message.
    #[schema(value_type = i32, example = 1)]
    attempt: Given<i32>,
    /// The secret of this attempt, as in the message.
    #[schema(value_type = String)]
    secret: Given<String>,
    /// Name of the worker; another one for each process.
    #[schema(value_type = String, example = "node7:4711:0a1b2c3d")]
    worker: Given<String>,
    #[schema(value_type = bool)]
    success: Given<bool>,
    /// After a success, somebody else finishes it later.
    #[schema(value_type = Option<bool>)]
    waits: Given<bool>,
    #[schema(value_type = Option<String>)]
    run_log: Given<String>,
    #[schema(value_type = Option<Object>)]
    result_values: Given<Values>,
}

impl EndBody {
    pub(super) fn read(self, app: &App, execution_id: i32) -> Result<(Worker, Ended), HttpError> {
        let Self { attempt, secret, worker, .. } = self;
        let worker = Credentials { attempt, secret, worker }.read(app, execution_id)?;
        let mut problems = Problems::default();
        let is_success = problems.required("success", self.success);
        let waits = problems.optional("waits", self.waits).unwrap_or_default();
        let log = problems.optional("run_log", self.run_log).unwrap_or_default();
        let values = problems.optional("result_values", self.result_values);
        let is_success = problems.all(is_success)?;
        let values = values.and_then(|values| values.0.as_object().cloned()).unwrap_or_default();
        Ok((worker, Ended { is_success, waits, log, values }))
    }
}

/// An attempt that a worker gives back.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct ReleaseBody {
    /// The attempt, as in the message.
    #[schema(value_type = i32, example = 1)]
    attempt: Given<i32>,
    /// The secret of this attempt, as in the message.
    #[schema(value_type = String)]
    secret: Given<String>,
    /// Name of the worker; another one for each process.
    #[schema(value_type = String, example = "node7:4711:0a1b2c3d")]
    worker: Given<String>,
    /// For the log of the execution.
    #[schema(value_type = Option<String>, example = "the worker was stopped")]
    reason: Given<String>,
}

impl ReleaseBody {
    pub(super) fn read(self, app: &App, execution_id: i32) -> Result<(Worker, String), HttpError> {
        let Self { attempt, secret, worker, .. } = self;
        let worker = Credentials { attempt, secret, worker }.read(app, execution_id)?;
        let mut problems = Problems::default();
        let reason = problems.optional("reason", self.reason);
        problems.check()?;
        let reason = reason.map(|text| text.chars().take(1000).collect()).filter(|text: &String| !text.is_empty());
        Ok((worker, reason.unwrap_or_else(|| "the worker gave it back".to_owned())))
    }
}
