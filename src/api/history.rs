//! Actions, callbacks and their executions, for both versions.

use chrono::NaiveDateTime;
use sea_orm::ConnectionTrait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::account::Permission;
use crate::app::App;
use crate::callback::FUNCTIONS;
use crate::context::Context;
use crate::database::WriteTransaction;
use crate::engine::{Annotation, EngineError, Intervention, Report, TimeoutCounts};
use crate::entity::kind::{ExecutionResult, ExecutionStatus, Origin};
use crate::entity::{action, callback, callback_execution};
use crate::http::HttpError;
use crate::queue::is_execution_secret;
use crate::workflow::{AmendError, CallbackChanges, amend_callback, yaml};

use crate::study::Visible;
use crate::study::record::{self, ExecutionRecord};

use super::access::{Caller, MaybeCaller};
use super::input::{Given, Problems, Readable, invalid};
use super::lookup::{by_id, reread};
use super::output::IfMatch;
use super::worker::HeaderSecret;

/// The outcome of an action.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct ActionBody {
    #[schema(value_type = Option<bool>)]
    success: Given<bool>,
    #[schema(value_type = Option<String>)]
    return_value: Given<String>,
    #[schema(value_type = Option<String>, example = "2024-03-01T10:00:00")]
    end_time: Given<NaiveDateTime>,
}

pub(super) async fn update_action(
    ctx: &Context,
    app: &App,
    id: i32,
    body: ActionBody,
    is_guarded: bool,
    seen: impl AsyncFnOnce(&WriteTransaction, &action::Model) -> Result<bool, sea_orm::DbErr>,
) -> Result<action::Model, HttpError> {
    let mut problems = Problems::default();
    let annotation = Annotation {
        success: problems.optional("success", body.success),
        return_value: problems.optional("return_value", body.return_value).map(Some),
        end_time: problems.optional("end_time", body.end_time).map(Some),
    };
    problems.check()?;
    app.engine.annotate_action(ctx, id, annotation, seen).await.map_err(|error| match error {
        EngineError::MovedOn if is_guarded => HttpError::Precondition,
        error => error.into(),
    })
}

/// YAML text, or a mapping.
#[derive(Debug)]
struct Arguments(String);

impl Readable for Arguments {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Object(_) => Ok(Self(yaml::to_text(value))),
            value => String::read(value).map(Self),
        }
    }
}

/// An object, or a text of JSON with one, as answers have it.
#[derive(Debug)]
pub(super) struct Values(pub Value);

impl Readable for Values {
    fn read(value: &Value) -> Result<Self, String> {
        let object = match value {
            Value::String(text) => serde_json::from_str(text).ok(),
            value => Some(value.clone()),
        };
        match object.filter(Value::is_object) {
            Some(object) => Ok(Self(object)),
            None => Err("must be an object".to_owned()),
        }
    }
}

/// Fields to change on a callback. Omitted fields are unchanged.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct CallbackBody {
    #[schema(value_type = Option<String>, example = "count_scans")]
    label: Given<String>,
    #[schema(value_type = Option<String>, example = "sleep")]
    function: Given<String>,
    /// YAML text, or a mapping.
    #[schema(value_type = Option<String>, example = "{seconds: 1}")]
    callback_arguments: Given<Arguments>,
    /// Minutes; null for no limit.
    #[schema(value_type = Option<i32>, example = 20)]
    run_timeout: Given<i32>,
    /// Minutes; 0 for no waiting.
    #[schema(value_type = Option<i32>, example = 0)]
    wait_timeout: Given<i32>,
    /// Seconds.
    #[schema(value_type = Option<i32>, example = 0)]
    initial_delay: Given<i32>,
    #[schema(value_type = Option<String>)]
    description: Given<String>,
    /// A Python expression.
    #[schema(value_type = Option<String>)]
    condition: Given<String>,
}

pub(super) async fn update_callback(
    ctx: &Context,
    app: &App,
    id: i32,
    body: CallbackBody,
    seen: impl AsyncFnOnce(&WriteTransaction, &callback::Model) -> Result<bool, sea_orm::DbErr>,
) -> Result<callback::Model, HttpError> {
    let mut problems = Problems::default();
    let changes = CallbackChanges {
        label: problems.optional("label", body.label),
        function: problems.optional("function", body.function),
        callback_arguments: problems.optional("callback_arguments", body.callback_arguments).map(|text| text.0),
        run_timeout: problems.change("run_timeout", body.run_timeout),
        wait_timeout: problems.change("wait_timeout", body.wait_timeout),
        initial_delay: problems.optional("initial_delay", body.initial_delay),
        description: problems.change("description", body.description),
        condition: problems.change("condition", body.condition),
    };
    problems.check()?;
    amend_callback(ctx, app.engine.database(), id, changes, &FUNCTIONS, seen).await.map_err(|error| match error {
        AmendError::NotFound(id) => HttpError::NotFound(format!("callback {id}")),
        AmendError::Invalid { field, problem } => invalid(field, problem),
        AmendError::Duplicate(_) => HttpError::Conflict(error.to_string()),
        AmendError::Changed => HttpError::Precondition,
        AmendError::Database(error) => error.into(),
    })
}

/// The secret of an execution, from clients of version 8.1, which send it in the body of a GET; others send the header
/// `X-Callback-Secret`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct SecretBody {
    /// The secret of this attempt.
    #[schema(value_type = Option<String>)]
    secret: Given<String>,
    /// The same.
    #[schema(value_type = Option<String>)]
    secret_key: Given<String>,
}

impl SecretBody {
    pub(super) fn secret(self, header: HeaderSecret) -> Option<String> {
        header.0.or_else(|| self.secret.or(self.secret_key).value())
    }
}

/// A report about an execution. Omitted fields are unchanged.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct ExecutionBody {
    /// `created`, `queued`, `running`, `waiting`, `finished` or `skipped`.
    #[schema(value_type = Option<ExecutionStatusWord>)]
    status: Given<String>,
    /// `none`, `success`, `failed` or `timeout`.
    #[schema(value_type = Option<ExecutionResultWord>)]
    result: Given<String>,
    #[schema(value_type = Option<String>)]
    run_log: Given<String>,
    #[schema(value_type = Option<String>)]
    result_log: Given<String>,
    /// The same value, under the name that the Python client uses.
    #[schema(value_type = Option<String>)]
    wait_log: Given<String>,
    #[schema(value_type = Option<Object>, example = json!({"rating": "unsure"}))]
    result_values: Given<Values>,
    /// The secret of this attempt, for a worker without a login.
    #[schema(value_type = Option<String>)]
    secret: Given<String>,
    /// The same.
    #[schema(value_type = Option<String>)]
    secret_key: Given<String>,
}

/// Status of an execution.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "for the description")]
pub(super) enum ExecutionStatusWord {
    Created,
    Queued,
    Running,
    Waiting,
    Finished,
    Skipped,
}

/// The outcome of an execution.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "for the description")]
pub(super) enum ExecutionResultWord {
    None,
    Success,
    Failed,
    Timeout,
}

/// Parses a word of a closed set.
pub(super) fn word<T: serde::de::DeserializeOwned>(
    problems: &mut Problems,
    field: &str,
    given: Given<String>,
) -> Option<T> {
    let text = problems.optional(field, given)?;
    match serde_json::from_value(Value::String(text.clone())) {
        Ok(word) => Some(word),
        Err(_) => {
            problems.add(field, format!("the value '{text}' is not a valid choice for '{field}'"));
            None
        }
    }
}

/// A caller who may see and report on an execution: with the permission, or with the secret of one of its attempts.
pub(super) struct Reporter {
    /// The attempt that the secret belongs to; `None` for a user.
    pub attempt: Option<i32>,
    pub ctx: Context,
}

pub(super) fn forbidden() -> HttpError {
    HttpError::NotYours("Cannot access specified callback_execution".to_owned())
}

/// The execution, for a caller who may see it. Without a login, a missing execution looks like one that is not
/// accessible.
pub(super) async fn open_execution(
    app: &App,
    connection: &impl ConnectionTrait,
    id: i32,
    MaybeCaller { caller, ctx }: MaybeCaller,
    secret: Option<String>,
) -> Result<(callback_execution::Model, Reporter), HttpError> {
    let mut refused = forbidden();
    if let Some(Ok(Caller { ctx, .. })) = caller.map(|caller| caller.with(Permission::ActionUpdate)) {
        match by_id::<callback_execution::Entity>(&ctx, connection, "callback execution", id).await {
            Ok(row) => return Ok((row, Reporter { attempt: None, ctx })),
            Err(error) => refused = error,
        }
    }
    let Some(secret) = secret else { return Err(refused) };
    let Some((row, attempt)) = attempt_of(&ctx, app, connection, id, &secret).await? else { return Err(refused) };
    let ctx = ctx.seeing_everything().in_history_as("worker", Origin::Worker);
    Ok((row, Reporter { attempt: Some(attempt), ctx }))
}

/// The execution, and its attempt that the secret belongs to.
pub(super) async fn attempt_of(
    ctx: &Context,
    app: &App,
    connection: &impl ConnectionTrait,
    id: i32,
    secret: &str,
) -> Result<Option<(callback_execution::Model, i32)>, HttpError> {
    // A secret is valid for its execution, in every cohort.
    let found = callback_execution::Entity::visible_by_id(&ctx.seeing_everything(), id).one(connection).await?;
    let Some(row) = found else { return Ok(None) };
    let key = &app.settings.secrets.secret_key;
    // The newest first. A caller without a valid secret does not learn how many attempts there were.
    let attempt = (1..=row.attempt).rev().find(|attempt| is_execution_secret(key, id, *attempt, secret));
    Ok(attempt.map(|attempt| (row, attempt)))
}

/// Applies a report if the execution matches `if_match`; `shown` is the representation that a GET returns. Returns the
/// row and the context of the reporter.
///
/// # Errors
/// As [`open_execution`]; 400 by field; 412 if the execution has changed; 409 if the report is too late.
pub(super) async fn report<T: Serialize>(
    app: &App,
    id: i32,
    (caller, secret): (MaybeCaller, HeaderSecret),
    body: ExecutionBody,
    if_match: &IfMatch,
    shown: impl Fn(ExecutionRecord) -> T,
) -> Result<(callback_execution::Model, Context), HttpError> {
    let secret = secret.0.or_else(|| body.secret.or(body.secret_key).value());
    let (row, Reporter { attempt, ctx }) = open_execution(app, app.statement(), id, caller, secret).await?;
    let mut problems = Problems::default();
    let status: Option<ExecutionStatus> = word(&mut problems, "status", body.status);
    let result: Option<ExecutionResult> = word(&mut problems, "result", body.result);
    let run_log = problems.optional("run_log", body.run_log);
    let result_log = problems.optional("result_log", body.result_log.or(body.wait_log));
    let result_values = problems.optional("result_values", body.result_values).map(|values| values.0);
    problems.check()?;
    let seen = match if_match.is_given() {
        false => None,
        true => {
            let (snapshot, row) = reread::<callback_execution::Entity>(&ctx, app, id, row).await?;
            if !if_match.fits(&shown(record::execution(&ctx, &snapshot, row.clone()).await?)) {
                return Err(HttpError::Precondition);
            }
            Some(row)
        }
    };
    let report = Report { attempt, status, result, run_log, result_log, result_values };
    let reported = app.engine.report_if(&ctx, id, &report, seen.as_ref()).await.map_err(|error| match error {
        EngineError::MovedOn if seen.is_some() => HttpError::Precondition,
        error => error.into(),
    })?;
    Ok((reported, ctx))
}

/// The reason for an intervention on an execution.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct MarkBody {
    /// `success`, `failed` or `timeout`.
    #[schema(value_type = String, example = "success")]
    result: Given<String>,
    #[schema(value_type = String, example = "completed manually")]
    reason: Given<String>,
}

pub(super) fn read_mark(body: MarkBody) -> Result<(Intervention, String), HttpError> {
    let mut problems = Problems::default();
    let result: Option<ExecutionResult> = match &body.result {
        Given::Missing | Given::Null => problems.required("result", Given::Missing),
        _ => word(&mut problems, "result", body.result),
    };
    if result == Some(ExecutionResult::None) {
        problems.add("result", "must be success, failed or timeout");
    }
    let reason = problems.required("reason", body.reason);
    if reason.as_ref().is_some_and(|reason| reason.trim().is_empty()) {
        problems.add("reason", "is empty");
    }
    let (result, reason) = problems.all(result.zip(reason))?;
    Ok((Intervention::Mark(result), reason.trim().to_owned()))
}

/// Number of executions that were timed out.
#[derive(Serialize, ToSchema)]
pub(super) struct CheckedTimeouts {
    #[schema(example = 0)]
    run_timeouts: u32,
    #[schema(example = 0)]
    wait_timeouts: u32,
}

pub(super) async fn check_timeouts(ctx: &Context, app: &App) -> Result<CheckedTimeouts, HttpError> {
    let TimeoutCounts { run_timeouts, wait_timeouts } = Box::pin(app.engine.check_timeouts(ctx)).await?;
    Ok(CheckedTimeouts { run_timeouts, wait_timeouts })
}
