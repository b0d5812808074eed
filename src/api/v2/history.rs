//! Actions, callbacks and their executions.

use axum::extract::State;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::show::{Action, ActionList, Callback, CallbackList, Execution, Summary};
use crate::api::access::{Administrator, Caller, May, MaybeCaller};
use crate::api::history::{
    self, ActionBody, CallbackBody, ExecutionBody, MarkBody, SecretBody, open_execution, read_mark, word,
};
use crate::api::input::{Body, Given, Number, Problems, Query, ReasonBody};
use crate::api::lookup::{by_id, moment, reread};
use crate::api::output::{Addresses, Extent, IfMatch, ListAddress, ListAnswer, Single, WindowQuery, Windowed, list_of};

use crate::api::worker::HeaderSecret;
use crate::app::App;
use crate::context::Context;
use crate::engine::Intervention;
use crate::entity::kind::{ExecutionResult, ExecutionStatus};
use crate::entity::{action, callback, callback_execution};
use crate::http::HttpError;
use crate::http::needs::ActionUpdate;
use crate::study::listing::{self, Named};
use crate::study::record;

/// Actions of all experiments.
#[utoipa::path(get, path = "/actions", tag = "history", params(WindowQuery), security(("login" = [])),
    responses((status = 200, body = ActionList)))]
pub(super) async fn list_actions(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    address: ListAddress,
    Windowed(window): Windowed,
) -> Result<ListAnswer<ActionList>, HttpError> {
    let ctx = &caller.ctx;
    let listed = listing::actions(ctx, &app.snapshot().await?, &app.totals, None, window).await?;
    let extent = Extent::of(window, &listed, |row| row.id);
    let rows = listed.rows.into_iter().map(|row| addresses.action_summary(row)).collect();
    Ok(address.answer(&extent, ActionList::new(rows, &extent)))
}

/// An action with its callback executions.
#[utoipa::path(get, path = "/actions/{id}", tag = "history", params(("id" = i32, Path)), security(("login" = [])),
    responses((status = 200, body = Action)))]
pub(super) async fn get_action(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Number(id): Number,
) -> Result<Single<Action>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let row = by_id::<action::Entity>(ctx, &snapshot, "action", id).await?;
    Ok(Single(addresses.action(record::action(ctx, &snapshot, row).await?)))
}

/// Updates the outcome of an action. Omitted fields are unchanged. The experiment does not move.
#[utoipa::path(put, path = "/actions/{id}", tag = "history", params(("id" = i32, Path)), request_body = ActionBody,
    security(("login" = ["action_update"])), responses((status = 200, body = Action)))]
pub(super) async fn update_action(
    State(app): State<App>,
    May { caller, .. }: May<ActionUpdate>,
    addresses: Addresses,
    if_match: IfMatch,
    Number(id): Number,
    Body(body): Body<ActionBody>,
) -> Result<Single<Action>, HttpError> {
    let ctx = &caller.ctx;
    let seen = async |transaction: &crate::database::WriteTransaction, row: &action::Model| {
        if !if_match.is_given() {
            return Ok(true);
        }
        Ok(if_match.fits(&addresses.action(record::action(ctx, &**transaction, row.clone()).await?)))
    };
    let row = history::update_action(ctx, &app, id, body, if_match.is_given(), seen).await?;
    let (snapshot, row) = reread::<action::Entity>(ctx, &app, row.id, row).await?;
    Ok(Single(addresses.action(record::action(ctx, &snapshot, row).await?)))
}

/// Callbacks of all states.
#[utoipa::path(get, path = "/callbacks", tag = "callbacks", params(WindowQuery), security(("login" = [])),
    responses((status = 200, body = CallbackList)))]
pub(super) async fn list_callbacks(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    address: ListAddress,
    Windowed(window): Windowed,
) -> Result<ListAnswer<CallbackList>, HttpError> {
    let ctx = &caller.ctx;
    let columns = (callback::Column::Id, callback::Column::Label);
    let all = callback::Entity::find();
    let listed =
        listing::list_named(ctx, &app.snapshot().await?, &app.totals, "callbacks", all, columns, window).await?;
    let extent = Extent::of(window, &listed, |row| row.id);
    Ok(address.answer(&extent, CallbackList::new(addresses.summaries("callbacks", listed.rows), &extent)))
}

/// A callback with its executions.
#[utoipa::path(get, path = "/callbacks/{id}", tag = "callbacks", params(("id" = i32, Path)),
    security(("login" = [])), responses((status = 200, body = Callback)))]
pub(super) async fn get_callback(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Number(id): Number,
) -> Result<Single<Callback>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let row = by_id::<callback::Entity>(ctx, &snapshot, "callback", id).await?;
    Ok(Single(addresses.callback(record::callback(ctx, &snapshot, row, None).await?)))
}

/// Changes a callback of a loaded workflow, for repairs. Omitted fields are unchanged. Restricted to administrators,
/// because it determines what workers run.
#[utoipa::path(put, path = "/callbacks/{id}", tag = "callbacks", params(("id" = i32, Path)),
    request_body = CallbackBody, security(("login" = ["role:admin"])), responses((status = 200, body = Callback)))]
pub(super) async fn update_callback(
    State(app): State<App>,
    Administrator(caller): Administrator,
    addresses: Addresses,
    if_match: IfMatch,
    Number(id): Number,
    Body(body): Body<CallbackBody>,
) -> Result<Single<Callback>, HttpError> {
    let ctx = &caller.ctx;
    let seen = async |transaction: &crate::database::WriteTransaction, row: &callback::Model| {
        if !if_match.is_given() {
            return Ok(true);
        }
        Ok(if_match.fits(&addresses.callback(record::callback(ctx, &**transaction, row.clone(), None).await?)))
    };
    let row = history::update_callback(ctx, &app, id, body, seen).await?;
    let (snapshot, row) = reread::<callback::Entity>(ctx, &app, row.id, row).await?;
    Ok(Single(addresses.callback(record::callback(ctx, &snapshot, row, None).await?)))
}

/// An execution in a list, without its logs.
#[derive(Serialize, ToSchema)]
pub(super) struct ExecutionSummary {
    #[schema(example = 1)]
    id: i32,
    #[schema(example = "/api/v2/callback_executions/1")]
    uri: String,
    callback: Summary,
    action: super::show::Pointer,
    #[schema(example = "running")]
    status: String,
    #[schema(example = "none")]
    result: String,
    #[schema(example = 1)]
    attempt: i32,
    worker: Option<String>,
    created: String,
    finished: Option<String>,
}

list_of! {
    ExecutionList { callback_executions: ExecutionSummary }
}

/// Which executions.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(super) struct ExecutionFilter {
    /// `created`, `queued`, `running`, `waiting`, `finished` or `skipped`.
    #[param(value_type = Option<String>)]
    status: Given<String>,
    /// `none`, `success`, `failed` or `timeout`.
    #[param(value_type = Option<String>)]
    result: Given<String>,
    /// Id of the callback.
    #[param(value_type = Option<i32>)]
    callback: Given<i32>,
}

/// Callback executions, to find running and stuck ones.
#[utoipa::path(get, path = "/callback_executions", tag = "callbacks", params(ExecutionFilter, WindowQuery),
    security(("login" = ["action_update"])), responses((status = 200, body = ExecutionList)))]
pub(super) async fn list_callback_executions(
    State(app): State<App>,
    May { caller, .. }: May<ActionUpdate>,
    addresses: Addresses,
    address: ListAddress,
    Query(filter): Query<ExecutionFilter>,
    Query(window): Query<WindowQuery>,
) -> Result<ListAnswer<ExecutionList>, HttpError> {
    let ctx = &caller.ctx;
    let mut problems = Problems::default();
    let window = window.read(&mut problems);
    let status: Option<ExecutionStatus> = word(&mut problems, "status", filter.status);
    let result: Option<ExecutionResult> = word(&mut problems, "result", filter.result);
    let callback = problems.optional("callback", filter.callback);
    problems.check()?;
    let snapshot = app.snapshot().await?;
    let listed = listing::executions(ctx, &snapshot, &app.totals, status, result, callback, window).await?;
    let extent = Extent::of(window, &listed, |row| row.id);
    let ids = listed.rows.iter().map(|row| row.callback_id).collect::<std::collections::BTreeSet<_>>();
    let callbacks = callback::Entity::find().filter(callback::Column::Id.is_in(ids));
    let columns = (callback::Column::Id, callback::Column::Label);
    let callbacks = listing::named(callbacks, columns, &snapshot).await?;
    drop(snapshot);
    let rows = listed.rows.into_iter().map(|row| {
        let label = callbacks.iter().find(|callback| callback.id == row.callback_id).map(|one| one.label.clone());
        ExecutionSummary {
            id: row.id,
            uri: addresses.v2("callback_executions", row.id),
            callback: addresses.summary("callbacks", Named { id: row.callback_id, label: label.unwrap_or_default() }),
            action: addresses.pointer("actions", row.action_id),
            status: row.status.to_string(),
            result: row.result.to_string(),
            attempt: row.attempt,
            worker: row.worker,
            created: moment(row.created),
            finished: row.finished.map(moment),
        }
    });
    let rows = rows.collect();
    Ok(address.answer(&extent, ExecutionList::new(rows, &extent)))
}

async fn show(
    ctx: &Context,
    app: &App,
    addresses: &Addresses,
    row: callback_execution::Model,
) -> Result<Single<Execution>, HttpError> {
    let (snapshot, row) = reread::<callback_execution::Entity>(ctx, app, row.id, row).await?;
    Ok(Single(addresses.execution(record::execution(ctx, &snapshot, row).await?)))
}

/// An execution with all data that its callback may need. Requires the permission, or the secret of its attempt in the
/// body.
#[utoipa::path(get, path = "/callback_executions/{id}", tag = "callbacks", params(("id" = i32, Path)),
    security((), ("login" = ["action_update"])), responses((status = 200, body = Execution)))]
pub(super) async fn get_callback_execution(
    State(app): State<App>,
    caller: MaybeCaller,
    secret: HeaderSecret,
    addresses: Addresses,
    Number(id): Number,
    Body(body): Body<SecretBody>,
) -> Result<Single<Execution>, HttpError> {
    let snapshot = app.snapshot().await?;
    let (row, reporter) = open_execution(&app, &snapshot, id, caller, body.secret(secret)).await?;
    // The secret of an earlier attempt does not give access to the current one.
    if reporter.attempt.is_some_and(|attempt| attempt != row.attempt) {
        return Err(HttpError::NotYours("Cannot access specified callback_execution".to_owned()));
    }
    Ok(Single(addresses.execution(record::execution(&reporter.ctx, &snapshot, row).await?)))
}

/// Reports the status of an execution. Omitted fields are unchanged. If it was the last open execution of the
/// experiment's state, the next step follows immediately. An execution that is already `finished` or `skipped` cannot
/// be changed (409).
#[utoipa::path(put, path = "/callback_executions/{id}", tag = "callbacks", params(("id" = i32, Path)),
    request_body = ExecutionBody, security((), ("login" = ["action_update"])),
    responses((status = 200, body = Execution)))]
pub(super) async fn update_callback_execution(
    State(app): State<App>,
    caller: MaybeCaller,
    secret: HeaderSecret,
    addresses: Addresses,
    if_match: IfMatch,
    Number(id): Number,
    Body(body): Body<ExecutionBody>,
) -> Result<Single<Execution>, HttpError> {
    let (row, ctx) =
        history::report(&app, id, (caller, secret), body, &if_match, |record| addresses.execution(record)).await?;
    show(&ctx, &app, &addresses, row).await
}

async fn intervene(
    app: &App,
    addresses: &Addresses,
    caller: &Caller,
    id: i32,
    what: Intervention,
    reason: &str,
) -> Result<Single<Execution>, HttpError> {
    let ctx = &caller.ctx;
    let row = app.engine.intervene(ctx, id, what, reason).await?;
    show(ctx, app, addresses, row).await
}

/// Runs an execution again, now. A finished execution can be run again while the experiment is still in its state.
#[utoipa::path(post, path = "/callback_executions/{id}/retry", tag = "callbacks", params(("id" = i32, Path)),
    request_body = ReasonBody, security(("login" = ["action_update"])), responses((status = 200, body = Execution)))]
pub(super) async fn retry_callback_execution(
    State(app): State<App>,
    may: May<ActionUpdate>,
    addresses: Addresses,
    Number(id): Number,
    Body(body): Body<ReasonBody>,
) -> Result<Single<Execution>, HttpError> {
    intervene(&app, &addresses, &may.caller, id, Intervention::Retry, &body.read()?).await
}

/// Skips the execution; the experiment continues as if it had not been requested.
#[utoipa::path(post, path = "/callback_executions/{id}/skip", tag = "callbacks", params(("id" = i32, Path)),
    request_body = ReasonBody, security(("login" = ["action_update"])), responses((status = 200, body = Execution)))]
pub(super) async fn skip_callback_execution(
    State(app): State<App>,
    may: May<ActionUpdate>,
    addresses: Addresses,
    Number(id): Number,
    Body(body): Body<ReasonBody>,
) -> Result<Single<Execution>, HttpError> {
    intervene(&app, &addresses, &may.caller, id, Intervention::Skip, &body.read()?).await
}

/// Sets the result of an execution.
#[utoipa::path(post, path = "/callback_executions/{id}/mark", tag = "callbacks", params(("id" = i32, Path)),
    request_body = MarkBody, security(("login" = ["action_update"])), responses((status = 200, body = Execution)))]
pub(super) async fn mark_callback_execution(
    State(app): State<App>,
    may: May<ActionUpdate>,
    addresses: Addresses,
    Number(id): Number,
    Body(body): Body<MarkBody>,
) -> Result<Single<Execution>, HttpError> {
    let (what, reason) = read_mark(body)?;
    intervene(&app, &addresses, &may.caller, id, what, &reason).await
}
