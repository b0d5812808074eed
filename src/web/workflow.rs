//! Workflows: their pictures and the numbers in them.

use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use sea_orm::EntityTrait;
use serde::Serialize;

use crate::app::App;
use crate::entity::workflow as workflow_table;
use crate::http::{HttpError, LoggedIn};
use crate::study::overview::{self, WorkflowCounts};
use crate::view::GraphState;
use crate::workflow;

use super::page::{missing, page};

#[derive(Serialize)]
struct WorkflowList {
    workflows: Vec<WorkflowCounts>,
}

#[derive(Serialize)]
struct WorkflowPage {
    workflow: WorkflowCounts,
    graph: String,
}

pub(super) async fn list_workflows(State(app): State<App>, user: LoggedIn) -> Result<Response, HttpError> {
    let workflows = overview::workflows(app.engine.database().reader(), None).await?;
    page(&app, "workflow/list.html", "workflows", &user.0, WorkflowList { workflows })
}

pub(super) async fn show_workflow(
    State(app): State<App>,
    user: LoggedIn,
    Path(id): Path<i32>,
) -> Result<Response, HttpError> {
    let (workflow, graph) = draw(&app, id, false).await?;
    page(&app, "workflow/page.html", "workflows", &user.0, WorkflowPage { workflow, graph })
}

pub(super) async fn show_graph(
    State(app): State<App>,
    _user: LoggedIn,
    Path(id): Path<i32>,
) -> Result<Response, HttpError> {
    let (_, graph) = draw(&app, id, true).await?;
    Ok(([(CONTENT_TYPE, "image/svg+xml")], graph).into_response())
}

async fn draw(app: &App, id: i32, standalone: bool) -> Result<(WorkflowCounts, String), HttpError> {
    let connection = app.engine.database().reader();
    let row = workflow_table::Entity::find_by_id(id).one(connection).await?.ok_or_else(|| missing("workflow", id))?;
    let counts = overview::workflows(connection, Some(id)).await?.pop().ok_or_else(|| missing("workflow", id))?;
    let definition = workflow::read_definition(connection, &row).await?;
    let states: Vec<GraphState> = counts
        .states
        .iter()
        .map(|state| GraphState {
            label: state.label.clone(),
            href: format!("{}/states/{}", app.settings.web.prefix, state.id),
            experiments: state.experiments,
        })
        .collect();
    let drawing = tokio::task::spawn_blocking(move || workflow::draw(&definition))
        .await
        .map_err(|error| HttpError::Internal(error.to_string()))?;
    Ok((counts, app.templates.graph(&drawing, &states, standalone)?))
}
