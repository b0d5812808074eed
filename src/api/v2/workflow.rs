//! Workflows: their states and transitions, and their graphs with numbers of experiments.

use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};
use serde::Serialize;
use utoipa::ToSchema;

use super::show::{ExperimentList, StateList, Summary, Transition, TransitionList, WorkflowList};
use crate::api::access::Caller;
use crate::api::input::Number;
use crate::api::lookup::{self, by_id};
use crate::api::output::{Addresses, Extent, ListAddress, ListAnswer, Single, WindowQuery, Windowed};
use crate::app::App;
use crate::entity::{state, transition, workflow};
use crate::http::{HttpError, draw_workflow};
use crate::study::listing::{self, Named};
use crate::study::{Reference, record};

/// A workflow as a graph, with the number of experiments in each state and a layout to draw it.
#[derive(Serialize, ToSchema)]
pub(super) struct WorkflowGraph {
    workflow: Summary,
    /// Pixels.
    width: f64,
    height: f64,
    /// Number of experiments that follow it.
    experiments: u64,
    states: Vec<GraphState>,
    transitions: Vec<GraphTransition>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct GraphState {
    #[schema(example = 2)]
    id: i32,
    #[schema(example = "check")]
    label: String,
    #[schema(example = "/api/v2/states/2")]
    uri: String,
    freetext: Option<String>,
    /// `root`, `automatic` (has callbacks), `manual` (requires a manual decision) or `end`.
    #[schema(example = "automatic")]
    kind: String,
    /// Number of experiments that are currently in it.
    #[schema(example = 12)]
    experiments: u64,
    /// Centre of its box.
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

#[derive(Serialize, ToSchema)]
pub(super) struct GraphTransition {
    /// Label of the state that it leaves.
    #[schema(example = "check")]
    source: String,
    /// Label of the state that it leads to.
    #[schema(example = "processing")]
    destination: String,
    condition: Option<String>,
    /// The `d` of an SVG path.
    path: String,
}

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
    Ok(address.answer(&extent, WorkflowList::new(addresses.summaries("workflows", listed.rows), &extent)))
}

/// A workflow.
#[utoipa::path(get, path = "/workflows/{id}", tag = "workflows", params(("id" = i32, Path)),
    security(("login" = [])), responses((status = 200, body = Summary)))]
pub(super) async fn get_workflow(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Number(id): Number,
) -> Result<Single<Summary>, HttpError> {
    let ctx = &caller.ctx;
    let row = by_id::<workflow::Entity>(ctx, app.statement(), "workflow", id).await?;
    Ok(Single(addresses.summary("workflows", Named { id: row.id, label: row.label })))
}

/// The workflow with this label.
#[utoipa::path(get, path = "/workflows/by-label/{label}", tag = "workflows", params(("label" = String, Path)),
    security(("login" = [])), responses((status = 200, body = Summary)))]
pub(super) async fn get_workflow_by_label(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Path(label): Path<String>,
) -> Result<Single<Summary>, HttpError> {
    let ctx = &caller.ctx;
    let row = lookup::workflow(ctx, app.statement(), &Reference::label(&label)).await?;
    Ok(Single(addresses.summary("workflows", Named { id: row.id, label: row.label })))
}

/// The states of a workflow.
#[utoipa::path(get, path = "/workflows/{workflow_label}/states", tag = "workflows",
    params(("workflow_label" = String, Path, description = "Label or id"), WindowQuery), security(("login" = [])),
    responses((status = 200, body = StateList)))]
pub(super) async fn list_states_of_workflow(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    address: ListAddress,
    Path(reference): Path<String>,
    Windowed(window): Windowed,
) -> Result<ListAnswer<StateList>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let workflow = lookup::workflow(ctx, &snapshot, &Reference::label_first(&reference)).await?;
    let all = state::Entity::find().filter(state::Column::WorkflowId.eq(workflow.id));
    let key = format!("states of {}", workflow.id);
    let columns = (state::Column::Id, state::Column::Label);
    let listed = listing::list_named(ctx, &snapshot, &app.totals, &key, all, columns, window).await?;
    let extent = Extent::of(window, &listed, |row| row.id);
    Ok(address.answer(&extent, StateList::new(addresses.summaries("states", listed.rows), &extent)))
}

/// A state of a workflow.
#[utoipa::path(get, path = "/workflows/{workflow_label}/states/{state_label}", tag = "workflows",
    params(("workflow_label" = String, Path, description = "Label or id"),
    ("state_label" = String, Path, description = "Label or id")), security(("login" = [])),
    responses((status = 200, body = super::show::State)))]
pub(super) async fn get_state_of_workflow(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Path((workflow, state)): Path<(String, String)>,
) -> Result<Single<super::show::State>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let workflow = lookup::workflow(ctx, &snapshot, &Reference::label_first(&workflow)).await?;
    let row = lookup::state_of(ctx, &snapshot, workflow.id, &Reference::label_first(&state)).await?;
    Ok(Single(addresses.state(record::state(ctx, &snapshot, row).await?)))
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
    Ok(address.answer(&extent, StateList::new(addresses.summaries("states", listed.rows), &extent)))
}

/// A state with the experiments in it.
#[utoipa::path(get, path = "/states/{id}", tag = "workflows", params(("id" = i32, Path)), security(("login" = [])),
    responses((status = 200, body = super::show::State)))]
pub(super) async fn get_state(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Number(id): Number,
) -> Result<Single<super::show::State>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let row = by_id::<state::Entity>(ctx, &snapshot, "state", id).await?;
    Ok(Single(addresses.state(record::state(ctx, &snapshot, row).await?)))
}

/// The experiments in a state.
#[utoipa::path(get, path = "/states/{id}/experiments", tag = "workflows", params(("id" = i32, Path), WindowQuery),
    security(("login" = [])), responses((status = 200, body = ExperimentList)))]
pub(super) async fn list_experiments_in_state(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    address: ListAddress,
    Number(id): Number,
    Windowed(window): Windowed,
) -> Result<ListAnswer<ExperimentList>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    by_id::<state::Entity>(ctx, &snapshot, "state", id).await?;
    let query = listing::ExperimentQuery { states: Some(vec![id]), ..listing::ExperimentQuery::default() };
    let listed = listing::experiments(ctx, &snapshot, &app.totals, &query, window).await?.listed;
    let extent = Extent::of(window, &listed, |row| row.id);
    Ok(address.answer(&extent, ExperimentList::new(addresses.summaries("experiments", listed.rows), &extent)))
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
    let rows = listed.rows.iter().map(|row| addresses.pointer("transitions", row.id)).collect();
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
    Ok(Single(addresses.transition(record::transition(&snapshot, row).await?)))
}

/// A workflow as a graph, with the number of experiments in each state, and a layout to draw it.
#[utoipa::path(get, path = "/workflows/{id}/graph", tag = "workflows", params(("id" = i32, Path)),
    security(("login" = [])), responses((status = 200, body = WorkflowGraph)))]
pub(super) async fn get_workflow_graph(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Number(id): Number,
) -> Result<Single<WorkflowGraph>, HttpError> {
    let ctx = &caller.ctx;
    let drawn = draw_workflow(ctx, &app, id).await?;
    let states = drawn.counts.states.into_iter().zip(drawn.drawing.boxes).map(|(state, place)| GraphState {
        id: state.id,
        uri: addresses.v2("states", state.id),
        label: state.label,
        freetext: state.freetext,
        kind: state.kind.to_owned(),
        experiments: state.experiments,
        x: place.x,
        y: place.y,
        width: place.width,
        height: place.height,
    });
    let transitions = drawn.drawing.arrows.into_iter().map(|arrow| GraphTransition {
        source: arrow.from,
        destination: arrow.to,
        condition: arrow.condition,
        path: arrow.path,
    });
    Ok(Single(WorkflowGraph {
        workflow: addresses.summary("workflows", Named { id, label: drawn.counts.label }),
        width: drawn.drawing.width,
        height: drawn.drawing.height,
        experiments: drawn.counts.experiments,
        states: states.collect(),
        transitions: transitions.collect(),
    }))
}

/// The graph of a workflow as an image.
#[utoipa::path(get, path = "/workflows/{id}/graph.svg", tag = "workflows", params(("id" = i32, Path)),
    security(("login" = [])),
    responses((status = 200, description = "SVG", content_type = "image/svg+xml", body = String)))]
pub(super) async fn draw_workflow_graph(
    State(app): State<App>,
    caller: Caller,
    Number(id): Number,
) -> Result<Response, HttpError> {
    let ctx = &caller.ctx;
    let svg = draw_workflow(ctx, &app, id).await?.svg(&app, true)?;
    Ok(([(CONTENT_TYPE, "image/svg+xml")], svg).into_response())
}
