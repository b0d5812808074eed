//! Cohorts.

use axum::extract::{Path, Query, State};
use axum::response::Response;
use serde::Serialize;

use crate::app::App;
use crate::entity::cohort;
use crate::http::{HttpError, LoggedIn, Wants};
use crate::study::Visible;
use crate::study::search::{self, CohortRow, Page, SubjectRow};

use super::page::{missing, page, page_or_block};
use super::subject::SubjectQuery;

#[derive(Serialize)]
struct CohortList {
    cohorts: Vec<CohortRow>,
}

#[derive(Serialize)]
struct CohortPage {
    id: i32,
    label: String,
    description: Option<String>,
    q: String,
    subjects: Page<SubjectRow>,
    path: String,
}

pub(super) async fn list_cohorts(State(app): State<App>, user: LoggedIn) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let cohorts = search::cohorts(ctx, &app.snapshot().await?).await?;
    page(&app, "cohort/list.html", "cohorts", &user.0, CohortList { cohorts })
}

pub(super) async fn show_cohort(
    State(app): State<App>,
    user: LoggedIn,
    wants: Wants,
    Path(id): Path<i32>,
    Query(query): Query<SubjectQuery>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let snapshot = app.snapshot().await?;
    let cohort =
        cohort::Entity::visible_by_id(ctx, id).one(&snapshot).await?.ok_or_else(|| missing(ctx, "cohort", id))?;
    let subjects = search::subjects(ctx, &snapshot, Some(id), Some(&query.q), query.paging().place()).await?;
    drop(snapshot);
    let content = CohortPage {
        id,
        label: cohort.label,
        description: cohort.description,
        q: query.q,
        subjects,
        path: format!("/cohorts/{id}"),
    };
    page_or_block(&app, "cohort/page.html", "cohorts", &user.0, content, wants.fragment.then_some("results"))
}
