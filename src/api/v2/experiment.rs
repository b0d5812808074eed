//! Experiments: their states, their transitions, and why they do not move.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::show::{ActionList, Experiment, ExperimentList, Summary};
use crate::api::access::{Caller, May};
use crate::api::filter::{AskedExperiments, ExperimentFilter};
use crate::api::input::{Body, Number, Query, ReasonBody, number};
use crate::api::link::{ExternalIdBody, ExternalIdsBody};
use crate::api::lookup::{by_id, reread};
use crate::api::output::{Addresses, Created, Extent, IfMatch, ListAddress, ListAnswer, Single, WindowQuery, Windowed};
use crate::api::sample::{self, ExperimentBody};
use crate::api::state::{StateBody, change_state};
use crate::app::App;
use crate::context::Context;
use crate::database::Snapshot;
use crate::engine::Possible;
use crate::entity::{experiment, state};
use crate::http::HttpError;
use crate::http::needs::{SampleAdd, SampleDelete, SampleStateUpdate, SampleUpdate};
use crate::study::link::{self, Linked};
use crate::study::listing::{self, Named};
use crate::study::record;

/// The ids of an experiment in external systems.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(super) struct ExperimentIds {
    #[schema(example = 1)]
    experiment_id: i32,
    #[schema(example = "sub-01_ses-1")]
    experiment_label: String,
    /// By the name of the external system.
    external_ids: record::BySystem,
}

/// The current state of an experiment.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(super) struct ExperimentState {
    state: Summary,
}

/// Result of a state change request.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(super) struct StateAnswer {
    /// The current state of the experiment.
    state: Summary,
    /// Why it did not move: `errorclass`, `message` and details. Null if it moved.
    #[schema(value_type = Option<Object>)]
    error: Option<Value>,
    success: bool,
}

/// The possible next transitions of an experiment.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(super) struct Explanation {
    experiment: Summary,
    state: Summary,
    transitions: Vec<ExplainedTransition>,
}

/// A transition from the current state, and whether it can be taken now.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(super) struct ExplainedTransition {
    #[schema(example = 2)]
    id: i32,
    #[schema(example = "/api/v2/transitions/2")]
    uri: String,
    destination: Summary,
    #[schema(example = "callbacks['count_scans'].result == 'success'")]
    condition: Option<String>,
    /// Current value of the condition; true if there is none.
    value: bool,
    /// Why the condition could not be evaluated.
    error: Option<String>,
}

/// Experiments.
#[utoipa::path(get, path = "/experiments", tag = "experiments", params(ExperimentFilter, WindowQuery),
    security(("login" = [])), responses((status = 200, body = ExperimentList)))]
pub(super) async fn list_experiments(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    address: ListAddress,
    Query(filter): Query<ExperimentFilter>,
    Query(window): Query<WindowQuery>,
) -> Result<ListAnswer<ExperimentList>, HttpError> {
    let ctx = &caller.ctx;
    let (asked, window) = AskedExperiments::read(filter, window)?;
    let snapshot = app.snapshot().await?;
    let query = asked.find(ctx, &snapshot, app.engine.clock().now()).await?;
    let page = listing::experiments(ctx, &snapshot, &app.totals, &query, window).await?;
    drop(snapshot);
    let extent = Extent::of_experiments(window, &page);
    Ok(address.answer(&extent, ExperimentList::new(addresses.summaries("experiments", page.listed.rows), &extent)))
}

/// Creates an experiment. It enters the first state of its workflow immediately.
#[utoipa::path(post, path = "/experiments", tag = "experiments", request_body = ExperimentBody,
    security(("login" = ["sample_add"])), responses((status = 201, body = Experiment)))]
pub(super) async fn create_experiment(
    State(app): State<App>,
    may: May<SampleAdd>,
    addresses: Addresses,
    Body(body): Body<ExperimentBody>,
) -> Result<Created<Experiment>, HttpError> {
    let ctx = &may.caller.ctx;
    let row = sample::create_experiment(ctx, &app, body, "subject_id", None).await?;
    let (snapshot, row) = reread::<experiment::Entity>(ctx, &app, row.id, row).await?;
    let body = addresses.experiment(record::experiment(ctx, &snapshot, row).await?);
    Ok(Created { location: body.uri.clone(), body })
}

async fn find(ctx: &Context, snapshot: &Snapshot, id: i32) -> Result<experiment::Model, HttpError> {
    by_id::<experiment::Entity>(ctx, snapshot, "experiment", id).await
}

async fn show(ctx: &Context, app: &App, addresses: &Addresses, id: i32) -> Result<Single<Experiment>, HttpError> {
    let snapshot = app.snapshot().await?;
    let row = find(ctx, &snapshot, id).await?;
    Ok(Single(addresses.experiment(record::experiment(ctx, &snapshot, row).await?)))
}

/// An experiment with its variables.
#[utoipa::path(get, path = "/experiments/{id}", tag = "experiments", params(("id" = i32, Path)),
    security(("login" = [])), responses((status = 200, body = Experiment)))]
pub(super) async fn get_experiment(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Number(id): Number,
) -> Result<Single<Experiment>, HttpError> {
    let ctx = &caller.ctx;
    show(ctx, &app, &addresses, id).await
}

/// Archives an experiment: the experiment is hidden, its history is kept and its label can be reused. Its running
/// callbacks are cancelled.
#[utoipa::path(delete, path = "/experiments/{id}", tag = "experiments", params(("id" = i32, Path), ReasonBody),
    request_body(content = ReasonBody, description = "The reason, if it is not given in the query"),
    security(("login" = ["sample_delete"])), responses((status = 200, body = Experiment)))]
pub(super) async fn archive_experiment(
    State(app): State<App>,
    may: May<SampleDelete>,
    addresses: Addresses,
    Number(id): Number,
    Query(asked): Query<ReasonBody>,
    Body(body): Body<ReasonBody>,
) -> Result<Single<Experiment>, HttpError> {
    let ctx = &may.caller.ctx;
    let reason = body.or(asked).read()?;
    app.engine.archive_experiment(ctx, id, &reason).await?;
    show(ctx, &app, &addresses, id).await
}

/// Restores an archived experiment in its previous state. Its callbacks stay cancelled.
#[utoipa::path(post, path = "/experiments/{id}/restore", tag = "experiments", params(("id" = i32, Path)),
    security(("login" = ["sample_delete"])), responses((status = 200, body = Experiment)))]
pub(super) async fn restore_experiment(
    State(app): State<App>,
    May { caller, .. }: May<SampleDelete>,
    addresses: Addresses,
    Number(id): Number,
) -> Result<Single<Experiment>, HttpError> {
    let ctx = &caller.ctx;
    app.engine.restore_experiment(ctx, id).await?;
    show(ctx, &app, &addresses, id).await
}

/// Releases an experiment that was put on hold after too many automatic transitions. Its next step follows immediately.
/// Moving the experiment manually also releases it.
#[utoipa::path(post, path = "/experiments/{id}/release", tag = "experiments", params(("id" = i32, Path)),
    security(("login" = ["sample_state_update"])), responses((status = 200, body = Experiment)))]
pub(super) async fn release_experiment(
    State(app): State<App>,
    may: May<SampleStateUpdate>,
    addresses: Addresses,
    Number(id): Number,
) -> Result<Single<Experiment>, HttpError> {
    let ctx = &may.caller.ctx;
    app.engine.release_experiment(ctx, id).await?;
    show(ctx, &app, &addresses, id).await
}

/// The history of an experiment, oldest first.
#[utoipa::path(get, path = "/experiments/{id}/actions", tag = "experiments", params(("id" = i32, Path), WindowQuery),
    security(("login" = [])), responses((status = 200, body = ActionList)))]
pub(super) async fn list_actions_of_experiment(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    address: ListAddress,
    Number(id): Number,
    Windowed(window): Windowed,
) -> Result<ListAnswer<ActionList>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    find(ctx, &snapshot, id).await?;
    let listed = listing::actions(ctx, &snapshot, &app.totals, Some(id), window).await?;
    let extent = Extent::of(window, &listed, |row| row.id);
    let rows = listed.rows.into_iter().map(|row| addresses.action_summary(row)).collect();
    Ok(address.answer(&extent, ActionList::new(rows, &extent)))
}

/// The current state of an experiment.
#[utoipa::path(get, path = "/experiments/{id}/state", tag = "experiments", params(("id" = i32, Path)),
    security(("login" = [])), responses((status = 200, body = ExperimentState)))]
pub(super) async fn get_experiment_state(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Number(id): Number,
) -> Result<Single<ExperimentState>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let row = find(ctx, &snapshot, id).await?;
    let state = by_id::<state::Entity>(ctx, &snapshot, "state", row.state_id).await?;
    Ok(Single(ExperimentState { state: addresses.summary("states", Named { id: state.id, label: state.label }) }))
}

/// Moves an experiment along a transition whose condition is met. Running callbacks of the state that it leaves are
/// cancelled. `If-Match` may be the `ETag` of the state or of the experiment.
#[utoipa::path(put, path = "/experiments/{id}/state", tag = "experiments", params(("id" = i32, Path)),
    request_body = StateBody, security(("login" = ["sample_state_update"])),
    responses((status = 200, body = StateAnswer), (status = 404, body = StateAnswer, description = "State not found"),
    (status = 409, body = StateAnswer, description = "There is no transition to this state, or its condition is not \
        met")))]
pub(super) async fn set_experiment_state(
    State(app): State<App>,
    may: May<SampleStateUpdate>,
    addresses: Addresses,
    if_match: IfMatch,
    Number(id): Number,
    Body(body): Body<StateBody>,
) -> Result<Response, HttpError> {
    let ctx = &may.caller.ctx;
    let seen = match if_match.is_given() {
        false => None,
        true => {
            let snapshot = app.snapshot().await?;
            let row = find(ctx, &snapshot, id).await?;
            let version = row.version;
            let now = record::experiment(ctx, &snapshot, row).await?;
            let state = ExperimentState { state: addresses.summary("states", now.state.clone()) };
            if !if_match.fits(&state) && !if_match.fits(&addresses.experiment(now)) {
                return Err(HttpError::Precondition);
            }
            Some(version)
        }
    };
    let paths = addresses.path("/api/v2");
    let change = change_state(ctx, &app, id, body, "state_label", &paths, seen).await?;
    let success = change.error.is_none();
    let answer = StateAnswer { state: addresses.summary("states", change.state), error: change.error, success };
    Ok((change.status, axum::Json(answer)).into_response())
}

/// Explains why an experiment does not move: every transition from its state, with its condition, its value, and the
/// error if it cannot be evaluated. Read-only.
#[utoipa::path(get, path = "/experiments/{id}/explain", tag = "experiments", params(("id" = i32, Path)),
    security(("login" = [])), responses((status = 200, body = Explanation)))]
pub(super) async fn explain_experiment(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Number(id): Number,
) -> Result<Single<Explanation>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let row = find(ctx, &snapshot, id).await?;
    let state = by_id::<state::Entity>(ctx, &snapshot, "state", row.state_id).await?;
    let exits = app.engine.exits(ctx, &snapshot, &row).await?;
    drop(snapshot);
    let possible = app.engine.evaluate_exits(exits).await?;
    let explained = |Possible { evaluation, destination_id, .. }: Possible| ExplainedTransition {
        id: evaluation.transition_id,
        uri: addresses.v2("transitions", evaluation.transition_id),
        destination: addresses.summary("states", Named { id: destination_id, label: evaluation.destination }),
        condition: evaluation.condition,
        value: evaluation.test_result == Some(true),
        error: evaluation.error,
    };
    Ok(Single(Explanation {
        experiment: addresses.summary("experiments", Named { id, label: row.label }),
        state: addresses.summary("states", Named { id: state.id, label: state.label }),
        transitions: possible.into_iter().map(explained).collect(),
    }))
}

async fn ids(ctx: &Context, app: &App, id: i32) -> Result<ExperimentIds, HttpError> {
    let snapshot = app.snapshot().await?;
    let row = find(ctx, &snapshot, id).await?;
    let external_ids = record::experiment_ids(ctx, &snapshot, id).await?;
    Ok(ExperimentIds { experiment_id: id, experiment_label: row.label, external_ids })
}

fn ids_path(addresses: &Addresses, id: i32) -> String {
    addresses.path(&format!("/api/v2/experiments/{id}/external_ids"))
}

/// The ids of an experiment in external systems.
#[utoipa::path(get, path = "/experiments/{id}/external_ids", tag = "experiments", params(("id" = i32, Path)),
    security(("login" = [])), responses((status = 200, body = ExperimentIds)))]
pub(super) async fn get_experiment_ids(
    State(app): State<App>,
    caller: Caller,
    Number(id): Number,
) -> Result<Single<ExperimentIds>, HttpError> {
    let ctx = &caller.ctx;
    ids(ctx, &app, id).await.map(Single)
}

/// Sets the values for several external systems at once.
#[utoipa::path(post, path = "/experiments/{id}/external_ids", tag = "experiments", params(("id" = i32, Path)),
    request_body = ExternalIdsBody, security(("login" = ["sample_update"])),
    responses((status = 201, body = ExperimentIds)))]
pub(super) async fn set_experiment_ids(
    State(app): State<App>,
    May { caller, .. }: May<SampleUpdate>,
    addresses: Addresses,
    Number(id): Number,
    Body(body): Body<ExternalIdsBody>,
) -> Result<Created<ExperimentIds>, HttpError> {
    let ctx = &caller.ctx;
    body.set(ctx, &app, Linked::Experiment(id)).await?;
    Ok(Created { location: ids_path(&addresses, id), body: ids(ctx, &app, id).await? })
}

/// Sets the value for one external system.
#[utoipa::path(put, path = "/experiments/{id}/external_ids/{system_name}", tag = "experiments",
    params(("id" = i32, Path), ("system_name" = String, Path)), request_body = ExternalIdBody,
    security(("login" = ["sample_update"])), responses((status = 201, body = ExperimentIds)))]
pub(super) async fn set_experiment_id(
    State(app): State<App>,
    May { caller, .. }: May<SampleUpdate>,
    addresses: Addresses,
    Path((id, system)): Path<(String, String)>,
    Body(body): Body<ExternalIdBody>,
) -> Result<Created<ExperimentIds>, HttpError> {
    let ctx = &caller.ctx;
    let id = number(&id)?;
    body.set(ctx, &app, Linked::Experiment(id), system).await?;
    Ok(Created { location: ids_path(&addresses, id), body: ids(ctx, &app, id).await? })
}

/// Deletes the value for one external system.
#[utoipa::path(delete, path = "/experiments/{id}/external_ids/{system_name}", tag = "experiments",
    params(("id" = i32, Path), ("system_name" = String, Path)), security(("login" = ["sample_delete"])),
    responses((status = 200, body = ExperimentIds)))]
pub(super) async fn delete_experiment_id(
    State(app): State<App>,
    May { caller, .. }: May<SampleDelete>,
    Path((id, system)): Path<(String, String)>,
) -> Result<Single<ExperimentIds>, HttpError> {
    let ctx = &caller.ctx;
    let id = number(&id)?;
    link::delete_link(ctx, app.engine.database(), Linked::Experiment(id), &system).await?;
    ids(ctx, &app, id).await.map(Single)
}
