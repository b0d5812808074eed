//! Requests of workers on other machines about an attempt, authenticated by the secret of the attempt.
//!
//! A secret in the headers `X-Callback-Secret` and `X-Callback-Attempt` is checked before the body is read. A secret in
//! the body, where clients of version 8.1 send it, is accepted, too; such a body must be small.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::context::Context;
use crate::engine::{Ended, Held};
use crate::http::{HttpError, Meter};
use crate::queue::is_execution_secret;

use super::history::{Values, attempt_of, forbidden};
use super::input::{Given, Number, Problems, invalid};

/// The attempt, its secret and the worker: the common fields of the bodies.
struct Credentials {
    attempt: Given<i32>,
    secret: Given<String>,
    worker: Given<String>,
}

/// A worker that has presented the secret of an attempt.
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

const SECRET: &str = "x-callback-secret";
const ATTEMPT: &str = "x-callback-attempt";

fn header(parts: &Parts, name: &str) -> Option<String> {
    parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// Allows reading the body: all of it from a sender that has presented a secret, and a small one that might contain it.
fn allow_body(parts: &Parts, has_shown: bool) {
    match parts.extensions.get::<Meter>() {
        Some(meter) if has_shown => meter.know(),
        Some(meter) => meter.expect_secret(),
        None => {}
    }
}

/// The attempt whose secret is in the headers, checked before the body is read; `None` if there is none.
pub(super) struct HeaderAttempt(Option<i32>);

impl FromRequestParts<App> for HeaderAttempt {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        let shown = match header(parts, SECRET) {
            None => None,
            Some(secret) => {
                let Number(id) = Number::from_request_parts(parts, app).await?;
                let attempt = header(parts, ATTEMPT).and_then(|attempt| attempt.trim().parse().ok());
                let key = &app.settings.secrets.secret_key;
                let attempt = attempt.filter(|attempt| is_execution_secret(key, id, *attempt, &secret));
                Some(attempt.ok_or_else(|| forbidden().into_response())?)
            }
        };
        allow_body(parts, shown.is_some());
        Ok(Self(shown))
    }
}

/// The secret of one of the attempts of an execution in the header, checked before the body is read; `None` without
/// this header.
pub(super) struct HeaderSecret(pub Option<String>);

impl FromRequestParts<App> for HeaderSecret {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        let secret = header(parts, SECRET);
        if let Some(secret) = &secret {
            let Number(id) = Number::from_request_parts(parts, app).await?;
            let ctx = Context::from_request_parts(parts, app).await.map_err(IntoResponse::into_response)?;
            let found =
                attempt_of(&ctx, app, app.statement(), id, secret).await.map_err(IntoResponse::into_response)?;
            // With a login, which was checked before, the secret does not matter.
            if found.is_none() && !parts.extensions.get::<Meter>().is_some_and(Meter::is_known) {
                return Err(forbidden().into_response());
            }
        }
        allow_body(parts, secret.is_some());
        Ok(Self(secret))
    }
}

impl Credentials {
    /// Needs no query: the secret proves that the execution exists. Without the right secret, nothing else is revealed.
    fn read(self, app: &App, execution_id: i32, shown: &HeaderAttempt) -> Result<Worker, HttpError> {
        let secret = self.secret.value();
        if shown.0.is_none() && secret.is_none() {
            return Err(forbidden());
        }
        let mut problems = Problems::default();
        let attempt = match shown.0 {
            Some(attempt) => Some(attempt),
            None => problems.required("attempt", self.attempt),
        };
        let worker = problems.required("worker", self.worker);
        let (attempt, worker) = problems.all(attempt.zip(worker))?;
        let key = &app.settings.secrets.secret_key;
        let is_shown =
            shown.0.is_some() || secret.is_some_and(|secret| is_execution_secret(key, execution_id, attempt, &secret));
        if !is_shown {
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
    /// The attempt, from the message.
    #[schema(value_type = i32, example = 1)]
    attempt: Given<i32>,
    /// The secret of this attempt, from the message.
    #[schema(value_type = String)]
    secret: Given<String>,
    /// Name of the worker, unique for each process.
    #[schema(value_type = String, example = "node7:4711:0a1b2c3d")]
    worker: Given<String>,
    /// The log so far; omit it if it is unchanged.
    #[schema(value_type = Option<String>)]
    run_log: Given<String>,
}

impl WorkerBody {
    /// Parses the worker and the log so far.
    pub(super) fn read(
        self,
        app: &App,
        execution_id: i32,
        shown: &HeaderAttempt,
    ) -> Result<(Worker, Option<String>), HttpError> {
        let Self { attempt, secret, worker, .. } = self;
        let worker = Credentials { attempt, secret, worker }.read(app, execution_id, shown)?;
        let mut problems = Problems::default();
        let run_log = problems.optional("run_log", self.run_log);
        problems.check()?;
        Ok((worker, run_log))
    }
}

/// The outcome of a run.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct EndBody {
    /// The attempt, from the message.
    #[schema(value_type = i32, example = 1)]
    attempt: Given<i32>,
    /// The secret of this attempt, from the message.
    #[schema(value_type = String)]
    secret: Given<String>,
    /// Name of the worker, unique for each process.
    #[schema(value_type = String, example = "node7:4711:0a1b2c3d")]
    worker: Given<String>,
    #[schema(value_type = bool)]
    success: Given<bool>,
    /// After a success, an external system or a person finishes it later.
    #[schema(value_type = Option<bool>)]
    waits: Given<bool>,
    #[schema(value_type = Option<String>)]
    run_log: Given<String>,
    #[schema(value_type = Option<Object>)]
    result_values: Given<Values>,
}

impl EndBody {
    pub(super) fn read(
        self,
        app: &App,
        execution_id: i32,
        shown: &HeaderAttempt,
    ) -> Result<(Worker, Ended), HttpError> {
        let Self { attempt, secret, worker, .. } = self;
        let worker = Credentials { attempt, secret, worker }.read(app, execution_id, shown)?;
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

/// An attempt that a worker releases.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct ReleaseBody {
    /// The attempt, from the message.
    #[schema(value_type = i32, example = 1)]
    attempt: Given<i32>,
    /// The secret of this attempt, from the message.
    #[schema(value_type = String)]
    secret: Given<String>,
    /// Name of the worker, unique for each process.
    #[schema(value_type = String, example = "node7:4711:0a1b2c3d")]
    worker: Given<String>,
    /// For the log of the execution.
    #[schema(value_type = Option<String>, example = "the worker was stopped")]
    reason: Given<String>,
}

impl ReleaseBody {
    pub(super) fn read(
        self,
        app: &App,
        execution_id: i32,
        shown: &HeaderAttempt,
    ) -> Result<(Worker, String), HttpError> {
        let Self { attempt, secret, worker, .. } = self;
        let worker = Credentials { attempt, secret, worker }.read(app, execution_id, shown)?;
        let mut problems = Problems::default();
        let reason = problems.optional("reason", self.reason);
        problems.check()?;
        let reason = reason.map(|text| text.chars().take(1000).collect()).filter(|text: &String| !text.is_empty());
        Ok((worker, reason.unwrap_or_else(|| "released by the worker".to_owned())))
    }
}
