//! Workflows, states, transitions, actions, callbacks and their executions.

use axum::extract::{Path, State};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};

use super::show::{
    Action, ActionList, Callback, CallbackList, Execution, ExperimentList, StateList, Transition, TransitionList, V1,
    Workflow, WorkflowList,
};
use crate::api::access::{Administrator, Caller, May, MaybeCaller};
use crate::api::history::{self, ActionBody, CallbackBody, ExecutionBody, SecretBody, open_execution};
use crate::api::input::{Body, Number};
use crate::api::lookup::{self, by_id, reread};
use crate::api::output::{Addresses, Extent, IfMatch, ListAddress, ListAnswer, Single, WindowQuery, Windowed};
use crate::api::worker::HeaderSecret;
use crate::app::App;
use crate::database::WriteTransaction;
use crate::entity::{action, callback, callback_execution, state, transition, workflow};
use crate::http::HttpError;
use crate::http::needs::ActionUpdate;
use crate::study::{Reference, listing, record};

/// Workflows.
#[utoipa::path(get, path = "/workflows", tag = "workflows", params(WindowQuery), security(("login" = [])),
    responses((status = 200, body = WorkflowList)))]
pub(super) async fn list_workflows(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    address: ListAddress,
    Windowed(window): Windowed,
) -> Result<ListAnswer<WorkflowList>, HttpError> {
    let ctx = &caller.ctx;
    let columns = (workflow::Column::Id, workflow::Column::Label);
    let all = workflow::Entity::find();
    let listed =
        listing::list_named(ctx, &app.snapshot().await?, &app.totals, "workflows", all, columns, window).await?;
    let extent = Extent::of(window, &listed, |row| row.id);
    Ok(address.answer(&extent, WorkflowList::new(V1(addresses).uris("workflows", &listed.rows), &extent)))
}

/// A workflow, by id or label.
#[utoipa::path(get, path = "/workflows/{id}", tag = "workflows", params(("id" = String, Path)),
    security(("login" = [])), responses((status = 200, body = Workflow)))]
pub(super) async fn get_workflow(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Path(id): Path<String>,
) -> Result<Single<Workflow>, HttpError> {
    let ctx = &caller.ctx;
    let row = lookup::workflow(ctx, app.statement(), &Reference::parse(&id)).await?;
    Ok(Single(V1(addresses).workflow(row)))
}

/// The states of a workflow, by id or label.
#[utoipa::path(get, path = "/workflows/{workflow_id}/states", tag = "workflows",
    params(("workflow_id" = String, Path), WindowQuery), security(("login" = [])),
    responses((status = 200, body = StateList)))]
pub(super) async fn list_states_of_workflow(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    address: ListAddress,
    Path(id): Path<String>,
    Windowed(window): Windowed,
) -> Result<ListAnswer<StateList>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let workflow = lookup::workflow(ctx, &snapshot, &Reference::parse(&id)).await?;
    let all = state::Entity::find().filter(state::Column::WorkflowId.eq(workflow.id));
    let key = format!("states of {}", workflow.id);
    let columns = (state::Column::Id, state::Column::Label);
    let listed = listing::list_named(ctx, &snapshot, &app.totals, &key, all, columns, window).await?;
    let extent = Extent::of(window, &listed, |row| row.id);
    Ok(address.answer(&extent, StateList::new(V1(addresses).uris("states", &listed.rows), &extent)))
}

/// A state of a workflow, both by id or label.
#[utoipa::path(get, path = "/workflows/{workflow_id}/states/{state_id}", tag = "workflows",
    params(("workflow_id" = String, Path), ("state_id" = String, Path)), security(("login" = [])),
    responses((status = 200, body = super::show::State)))]
pub(super) async fn get_state_of_workflow(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Path((workflow, state)): Path<(String, String)>,
) -> Result<Single<super::show::State>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let workflow = lookup::workflow(ctx, &snapshot, &Reference::parse(&workflow)).await?;
    let row = lookup::state_of(ctx, &snapshot, workflow.id, &Reference::parse(&state)).await?;
    Ok(Single(V1(addresses).state(record::state(ctx, &snapshot, row).await?)))
}

/// States of all workflows.
#[utoipa::path(get, path = "/states", tag = "workflows", params(WindowQuery), security(("login" = [])),
    responses((status = 200, body = StateList)))]
pub(super) async fn list_states(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    address: ListAddress,
    Windowed(window): Windowed,
) -> Result<ListAnswer<StateList>, HttpError> {
    let ctx = &caller.ctx;
    let columns = (state::Column::Id, state::Column::Label);
    let all = state::Entity::find();
    let listed = listing::list_named(ctx, &app.snapshot().await?, &app.totals, "states", all, columns, window).await?;
    let extent = Extent::of(window, &listed, |row| row.id);
    Ok(address.answer(&extent, StateList::new(V1(addresses).uris("states", &listed.rows), &extent)))
}

/// A state, by id, or by label when only one workflow has it.
#[utoipa::path(get, path = "/states/{id}", tag = "workflows", params(("id" = String, Path)), security(("login" = [])),
    responses((status = 200, body = super::show::State)))]
pub(super) async fn get_state(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Path(id): Path<String>,
) -> Result<Single<super::show::State>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let row = lookup::state(ctx, &snapshot, &Reference::parse(&id)).await?;
    Ok(Single(V1(addresses).state(record::state(ctx, &snapshot, row).await?)))
}

/// The experiments in a state.
#[utoipa::path(get, path = "/states/{id}/experiments", tag = "workflows",
    params(("id" = String, Path), WindowQuery), security(("login" = [])),
    responses((status = 200, body = ExperimentList)))]
pub(super) async fn list_experiments_in_state(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    address: ListAddress,
    Path(id): Path<String>,
    Windowed(window): Windowed,
) -> Result<ListAnswer<ExperimentList>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let state = lookup::state(ctx, &snapshot, &Reference::parse(&id)).await?;
    let query = listing::ExperimentQuery { states: Some(vec![state.id]), ..listing::ExperimentQuery::default() };
    let listed = listing::experiments(ctx, &snapshot, &app.totals, &query, window).await?.listed;
    let extent = Extent::of(window, &listed, |row| row.id);
    Ok(address.answer(&extent, ExperimentList::new(V1(addresses).uris("experiments", &listed.rows), &extent)))
}

/// Transitions of all workflows.
#[utoipa::path(get, path = "/transitions", tag = "workflows", params(WindowQuery), security(("login" = [])),
    responses((status = 200, body = TransitionList)))]
pub(super) async fn list_transitions(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    address: ListAddress,
    Windowed(window): Windowed,
) -> Result<ListAnswer<TransitionList>, HttpError> {
    let ctx = &caller.ctx;
    let all = transition::Entity::find();
    let id = transition::Column::Id;
    let listed = listing::list(ctx, &app.snapshot().await?, &app.totals, "transitions", all, id, window).await?;
    let extent = Extent::of(window, &listed, |row| row.id);
    let shown = V1(addresses);
    let rows = listed.rows.iter().map(|row| shown.uri("transitions", row.id)).collect();
    Ok(address.answer(&extent, TransitionList::new(rows, &extent)))
}

/// A transition.
#[utoipa::path(get, path = "/transitions/{id}", tag = "workflows", params(("id" = i32, Path)),
    security(("login" = [])), responses((status = 200, body = Transition)))]
pub(super) async fn get_transition(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Number(id): Number,
) -> Result<Single<Transition>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let row = by_id::<transition::Entity>(ctx, &snapshot, "transition", id).await?;
    Ok(Single(V1(addresses).transition(record::transition(&snapshot, row).await?)))
}

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
    let shown = V1(addresses);
    let rows = listed.rows.iter().map(|row| shown.uri("actions", row.id)).collect();
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
    Ok(Single(V1(addresses).action(record::action(ctx, &snapshot, row).await?)))
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
    let shown = V1(addresses);
    let seen = async |transaction: &WriteTransaction, row: &action::Model| {
        if !if_match.is_given() {
            return Ok(true);
        }
        Ok(if_match.fits(&shown.action(record::action(ctx, &**transaction, row.clone()).await?)))
    };
    let row = history::update_action(ctx, &app, id, body, if_match.is_given(), seen).await?;
    let (snapshot, row) = reread::<action::Entity>(ctx, &app, row.id, row).await?;
    Ok(Single(shown.action(record::action(ctx, &snapshot, row).await?)))
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
    Ok(address.answer(&extent, CallbackList::new(V1(addresses).uris("callbacks", &listed.rows), &extent)))
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
    Ok(Single(V1(addresses).callback(record::callback(ctx, &snapshot, row, None).await?)))
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
    let shown = V1(addresses);
    let seen = async |transaction: &WriteTransaction, row: &callback::Model| {
        if !if_match.is_given() {
            return Ok(true);
        }
        Ok(if_match.fits(&shown.callback(record::callback(ctx, &**transaction, row.clone(), None).await?)))
    };
    let row = history::update_callback(ctx, &app, id, body, seen).await?;
    let (snapshot, row) = reread::<callback::Entity>(ctx, &app, row.id, row).await?;
    Ok(Single(shown.callback(record::callback(ctx, &snapshot, row, None).await?)))
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
    Ok(Single(V1(addresses).execution(record::execution(&reporter.ctx, &snapshot, row).await?)))
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
    let shown = V1(addresses);
    let (row, ctx) =
        history::report(&app, id, (caller, secret), body, &if_match, |record| shown.execution(record)).await?;
    let (snapshot, row) = reread::<callback_execution::Entity>(&ctx, &app, row.id, row).await?;
    Ok(Single(shown.execution(record::execution(&ctx, &snapshot, row).await?)))
}
