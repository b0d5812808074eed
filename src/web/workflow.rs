//! Workflows: their graphs with the number of experiments in each state.

use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::app::App;
use crate::http::{HttpError, LoggedIn, draw_workflow};
use crate::project::{FileReport, Project, ProjectStatus};
use crate::study::overview::{self, WorkflowCounts};

use super::page::page;

#[derive(Serialize)]
struct WorkflowList {
    workflows: Vec<WorkflowCounts>,
    project: Option<ProjectShown>,
}

/// The repository of the study's files, with a description of each file.
#[derive(Serialize)]
struct ProjectShown {
    status: ProjectStatus,
    files: Vec<FileShown>,
}

#[derive(Serialize)]
struct FileShown {
    file: String,
    words: String,
    is_refused: bool,
    problems: Vec<String>,
}

impl ProjectShown {
    fn new(project: &Project) -> Self {
        let status = project.status();
        let shown = |file: &FileReport| FileShown {
            file: file.file.clone(),
            words: file.words(),
            is_refused: file.is_refused(),
            problems: file.problems.clone(),
        };
        Self { files: status.files.iter().map(shown).collect(), status }
    }
}

#[derive(Serialize)]
struct WorkflowPage {
    workflow: WorkflowCounts,
    graph: String,
}

pub(super) async fn list_workflows(State(app): State<App>, user: LoggedIn) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let workflows = overview::workflows(ctx, &app.snapshot().await?, None).await?;
    let project = app.project.as_deref().map(ProjectShown::new);
    let list = WorkflowList { workflows, project };
    page(&app, "workflow/list.html", "workflows", &user.0, list)
}

pub(super) async fn show_workflow(
    State(app): State<App>,
    user: LoggedIn,
    Path(id): Path<i32>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let drawn = draw_workflow(ctx, &app, id).await?;
    let graph = drawn.svg(&app, false)?;
    page(&app, "workflow/page.html", "workflows", &user.0, WorkflowPage { workflow: drawn.counts, graph })
}

pub(super) async fn show_graph(
    State(app): State<App>,
    user: LoggedIn,
    Path(id): Path<i32>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let graph = draw_workflow(ctx, &app, id).await?.svg(&app, true)?;
    Ok(([(CONTENT_TYPE, "image/svg+xml")], graph).into_response())
}
