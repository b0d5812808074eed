//! Subjects.

use std::collections::BTreeMap;

use axum::extract::{Path, Query, State};
use axum::response::Response;
use sea_orm::{ColumnTrait, QueryFilter};
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::entity::{cohort, external_subject_links, external_system, subject};
use crate::http::{HttpError, LoggedIn, Wants};
use crate::study::Visible;
use crate::study::dossier::Archived;
use crate::study::listing::ExperimentQuery;
use crate::study::search::{self, ExperimentRows, Page, SubjectRow};

use super::page::{Choice, PAGE_SIZE, Paging, Turn, cohort_choices, maybe, missing, newest_first, page_or_block};

#[derive(Deserialize)]
pub(super) struct SubjectQuery {
    #[serde(default)]
    pub q: String,
    #[serde(default, deserialize_with = "maybe")]
    cohort: Option<i32>,
    #[serde(default, deserialize_with = "maybe")]
    below: Option<i32>,
    #[serde(default, deserialize_with = "maybe")]
    above: Option<i32>,
}

impl SubjectQuery {
    pub(super) fn paging(&self) -> Paging {
        Paging { below: self.below, above: self.above }
    }
}

#[derive(Serialize)]
struct SubjectList {
    q: String,
    cohort: Option<i32>,
    cohorts: Vec<Choice>,
    subjects: Page<SubjectRow>,
    path: &'static str,
}

#[derive(Serialize)]
struct SubjectPage {
    id: i32,
    label: String,
    date_of_birth: Option<chrono::NaiveDate>,
    cohort_id: i32,
    cohort: String,
    external_ids: BTreeMap<String, String>,
    experiments: ExperimentRows,
    path: String,
    archived: Option<Archived>,
}

pub(super) async fn list_subjects(
    State(app): State<App>,
    user: LoggedIn,
    wants: Wants,
    Query(query): Query<SubjectQuery>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let snapshot = app.snapshot().await?;
    let subjects = search::subjects(ctx, &snapshot, query.cohort, Some(&query.q), query.paging().place()).await?;
    let cohorts = cohort_choices(ctx, &snapshot).await?;
    drop(snapshot);
    let content = SubjectList { q: query.q, cohort: query.cohort, cohorts, subjects, path: "/subjects" };
    page_or_block(&app, "subject/list.html", "subjects", &user.0, content, wants.fragment.then_some("results"))
}

pub(super) async fn show_subject(
    State(app): State<App>,
    user: LoggedIn,
    wants: Wants,
    Path(id): Path<i32>,
    Query(turn): Query<Turn>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let snapshot = app.snapshot().await?;
    let found = subject::Entity::visible_by_id(ctx, id).find_also_related(cohort::Entity).one(&snapshot).await?;
    let Some((subject, Some(cohort))) = found else { return Err(missing(ctx, "subject", id)) };
    let links = external_subject_links::Entity::visible(ctx)
        .filter(external_subject_links::Column::SubjectId.eq(id))
        .find_also_related(external_system::Entity)
        .all(&snapshot)
        .await?;
    let mut query = ExperimentQuery { subject: Some(id), ..newest_first() };
    turn.apply(&mut query)?;
    let archived = (subject.archive_id != 0).then_some(Archived {
        at: subject.archived_at,
        by: subject.archived_by,
        reason: subject.archived_reason,
    });
    let content = SubjectPage {
        archived,
        id,
        label: subject.label,
        date_of_birth: subject.date_of_birth,
        cohort_id: cohort.id,
        cohort: cohort.label,
        external_ids: links
            .into_iter()
            .filter_map(|(link, system)| Some((system?.system_name, link.external_id)))
            .collect(),
        experiments: search::experiments(ctx, &snapshot, &app.totals, &query, PAGE_SIZE).await?,
        path: format!("/subjects/{id}"),
    };
    drop(snapshot);
    page_or_block(&app, "subject/page.html", "subjects", &user.0, content, wants.fragment.then_some("results"))
}
