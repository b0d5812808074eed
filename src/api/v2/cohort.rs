//! Cohorts, with their subjects by label.

use axum::extract::{Path, State};
use sea_orm::{ColumnTrait, QueryFilter};

use super::show::{Cohort, CohortList, Experiment, ExperimentList, Subject, SubjectList};
use crate::api::access::{Caller, Everywhere, May};
use crate::api::input::{Body, Number};
use crate::api::link::{ExternalUrlBody, ExternalUrlsBody};
use crate::api::lookup::{self, by_id, reread};
use crate::api::output::{Addresses, Created, Extent, IfMatch, ListAddress, ListAnswer, Single, WindowQuery, Windowed};
use crate::api::sample::{self, CohortBody};
use crate::app::App;
use crate::context::Context;
use crate::entity::{cohort, subject};
use crate::http::HttpError;
use crate::http::needs::{SampleAdd, SampleDelete, SampleUpdate};
use crate::study::link::{self, Linked};
use crate::study::visible::subjects_in_use;
use crate::study::{Reference, Visible, listing, record};

/// URLs of a cohort in external systems.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(super) struct CohortUrls {
    #[schema(example = 1)]
    cohort_id: i32,
    #[schema(example = "baseline")]
    cohort_label: String,
    /// By the name of the external system.
    external_urls: record::BySystem,
}

/// All cohorts.
#[utoipa::path(get, path = "/cohorts", tag = "cohorts", params(WindowQuery), security(("login" = [])),
    responses((status = 200, body = CohortList)))]
pub(super) async fn list_cohorts(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    address: ListAddress,
    Windowed(window): Windowed,
) -> Result<ListAnswer<CohortList>, HttpError> {
    let ctx = &caller.ctx;
    let columns = (cohort::Column::Id, cohort::Column::Label);
    let all = cohort::Entity::visible(ctx);
    let listed = listing::list_named(ctx, &app.snapshot().await?, &app.totals, "cohorts", all, columns, window).await?;
    let extent = Extent::of(window, &listed, |row| row.id);
    Ok(address.answer(&extent, CohortList::new(addresses.summaries("cohorts", listed.rows), &extent)))
}

/// Creates a cohort.
#[utoipa::path(post, path = "/cohorts", tag = "cohorts", request_body = CohortBody,
    security(("login" = ["sample_add"])), responses((status = 201, body = Cohort)))]
pub(super) async fn create_cohort(
    State(app): State<App>,
    Everywhere { caller, .. }: Everywhere<SampleAdd>,
    addresses: Addresses,
    Body(body): Body<CohortBody>,
) -> Result<Created<Cohort>, HttpError> {
    let ctx = &caller.ctx;
    let row = sample::create_cohort(ctx, &app, body).await?;
    let (snapshot, row) = reread::<cohort::Entity>(ctx, &app, row.id, row).await?;
    let body = addresses.cohort(record::cohort(ctx, &snapshot, row, None).await?);
    Ok(Created { location: body.uri.clone(), body })
}

/// A cohort with its subjects.
#[utoipa::path(get, path = "/cohorts/{id}", tag = "cohorts", params(("id" = i32, Path)), security(("login" = [])),
    responses((status = 200, body = Cohort)))]
pub(super) async fn get_cohort(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Number(id): Number,
) -> Result<Single<Cohort>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let row = by_id::<cohort::Entity>(ctx, &snapshot, "cohort", id).await?;
    Ok(Single(addresses.cohort(record::cohort(ctx, &snapshot, row, None).await?)))
}

/// The cohort with this label.
#[utoipa::path(get, path = "/cohorts/by-label/{label}", tag = "cohorts", params(("label" = String, Path)),
    security(("login" = [])), responses((status = 200, body = Cohort)))]
pub(super) async fn get_cohort_by_label(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Path(label): Path<String>,
) -> Result<Single<Cohort>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let row = lookup::cohort(ctx, &snapshot, &Reference::label(&label)).await?;
    Ok(Single(addresses.cohort(record::cohort(ctx, &snapshot, row, None).await?)))
}

/// Changes label or description. Omitted fields are unchanged.
#[utoipa::path(put, path = "/cohorts/{id}", tag = "cohorts", params(("id" = i32, Path)), request_body = CohortBody,
    security(("login" = ["sample_add"])), responses((status = 200, body = Cohort)))]
pub(super) async fn update_cohort(
    State(app): State<App>,
    May { caller, .. }: May<SampleAdd>,
    addresses: Addresses,
    if_match: IfMatch,
    Number(id): Number,
    Body(body): Body<CohortBody>,
) -> Result<Single<Cohort>, HttpError> {
    let ctx = &caller.ctx;
    let seen = |now: &record::CohortRecord| if_match.fits(&addresses.cohort(now.clone()));
    let row = sample::update_cohort(ctx, &app, id, body, if_match.is_given(), seen).await?;
    let (snapshot, row) = reread::<cohort::Entity>(ctx, &app, row.id, row).await?;
    Ok(Single(addresses.cohort(record::cohort(ctx, &snapshot, row, None).await?)))
}

async fn urls(ctx: &Context, app: &App, id: i32) -> Result<CohortUrls, HttpError> {
    let snapshot = app.snapshot().await?;
    let row = by_id::<cohort::Entity>(ctx, &snapshot, "cohort", id).await?;
    let external_urls = record::cohort_urls(ctx, &snapshot, id).await?;
    Ok(CohortUrls { cohort_id: id, cohort_label: row.label, external_urls })
}

/// URLs of the cohort in external systems.
#[utoipa::path(get, path = "/cohorts/{id}/external_urls", tag = "cohorts", params(("id" = i32, Path)),
    security(("login" = [])), responses((status = 200, body = CohortUrls)))]
pub(super) async fn get_cohort_urls(
    State(app): State<App>,
    caller: Caller,
    Number(id): Number,
) -> Result<Single<CohortUrls>, HttpError> {
    let ctx = &caller.ctx;
    urls(ctx, &app, id).await.map(Single)
}

/// Sets the values for several external systems at once.
#[utoipa::path(post, path = "/cohorts/{id}/external_urls", tag = "cohorts", params(("id" = i32, Path)),
    request_body = ExternalUrlsBody, security(("login" = ["sample_update"])),
    responses((status = 201, body = CohortUrls)))]
pub(super) async fn set_cohort_urls(
    State(app): State<App>,
    May { caller, .. }: May<SampleUpdate>,
    addresses: Addresses,
    Number(id): Number,
    Body(body): Body<ExternalUrlsBody>,
) -> Result<Created<CohortUrls>, HttpError> {
    let ctx = &caller.ctx;
    body.set(ctx, &app, Linked::Cohort(id)).await?;
    Ok(Created {
        location: addresses.path(&format!("/api/v2/cohorts/{id}/external_urls")),
        body: urls(ctx, &app, id).await?,
    })
}

/// Sets the value for one external system.
#[utoipa::path(put, path = "/cohorts/{id}/external_urls/{system_name}", tag = "cohorts",
    params(("id" = i32, Path), ("system_name" = String, Path)), request_body = ExternalUrlBody,
    security(("login" = ["sample_update"])), responses((status = 201, body = CohortUrls)))]
pub(super) async fn set_cohort_url(
    State(app): State<App>,
    May { caller, .. }: May<SampleUpdate>,
    addresses: Addresses,
    Path((id, system)): Path<(String, String)>,
    Body(body): Body<ExternalUrlBody>,
) -> Result<Created<CohortUrls>, HttpError> {
    let ctx = &caller.ctx;
    let id = crate::api::input::number(&id)?;
    body.set(ctx, &app, Linked::Cohort(id), system).await?;
    Ok(Created {
        location: addresses.path(&format!("/api/v2/cohorts/{id}/external_urls")),
        body: urls(ctx, &app, id).await?,
    })
}

/// Deletes the value for one external system.
#[utoipa::path(delete, path = "/cohorts/{id}/external_urls/{system_name}", tag = "cohorts",
    params(("id" = i32, Path), ("system_name" = String, Path)), security(("login" = ["sample_delete"])),
    responses((status = 200, body = CohortUrls)))]
pub(super) async fn delete_cohort_url(
    State(app): State<App>,
    May { caller, .. }: May<SampleDelete>,
    Path((id, system)): Path<(String, String)>,
) -> Result<Single<CohortUrls>, HttpError> {
    let ctx = &caller.ctx;
    let id = crate::api::input::number(&id)?;
    link::delete_link(ctx, app.engine.database(), Linked::Cohort(id), &system).await?;
    urls(ctx, &app, id).await.map(Single)
}

/// The subjects of a cohort. Without paging parameters, subjects that were changed after registration come last; with
/// paging, subjects are ordered by id.
#[utoipa::path(get, path = "/cohorts/{label}/subjects", tag = "cohorts",
    params(("label" = String, Path, description = "Label of the cohort"), WindowQuery), security(("login" = [])),
    responses((status = 200, body = SubjectList)))]
pub(super) async fn list_subjects_of_cohort(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    address: ListAddress,
    Path(label): Path<String>,
    Windowed(window): Windowed,
) -> Result<ListAnswer<SubjectList>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let cohort = lookup::cohort(ctx, &snapshot, &Reference::label(&label)).await?;
    let listed = if window == listing::Window::default() {
        let all = subjects_in_use(ctx).filter(subject::Column::CohortId.eq(cohort.id));
        let rows = record::subjects_of_cohort(&snapshot, all).await?;
        listing::Listed { count: rows.len() as u64, rows, more: false }
    } else {
        listing::subjects(ctx, &snapshot, &app.totals, Some(cohort.id), None, false, window).await?
    };
    let extent = Extent::of(window, &listed, |row| row.id);
    Ok(address.answer(&extent, SubjectList::new(addresses.summaries("subjects", listed.rows), &extent)))
}

/// A subject by its labels.
#[utoipa::path(get, path = "/cohorts/{label}/subjects/{subject_label}", tag = "cohorts",
    params(("label" = String, Path), ("subject_label" = String, Path)), security(("login" = [])),
    responses((status = 200, body = Subject)))]
pub(super) async fn get_subject_of_cohort(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Path((cohort, label)): Path<(String, String)>,
) -> Result<Single<Subject>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let row = lookup::subject_of_cohort(ctx, &snapshot, &cohort, &label).await?;
    Ok(Single(addresses.subject(record::subject(ctx, &snapshot, row).await?)))
}

/// The experiments of a subject by its labels.
#[utoipa::path(get, path = "/cohorts/{label}/subjects/{subject_label}/experiments", tag = "cohorts",
    params(("label" = String, Path), ("subject_label" = String, Path), WindowQuery), security(("login" = [])),
    responses((status = 200, body = ExperimentList)))]
pub(super) async fn list_experiments_of_subject(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    address: ListAddress,
    Path((cohort, label)): Path<(String, String)>,
    Windowed(window): Windowed,
) -> Result<ListAnswer<ExperimentList>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let subject = lookup::subject_of_cohort(ctx, &snapshot, &cohort, &label).await?;
    let query = listing::ExperimentQuery { subject: Some(subject.id), ..listing::ExperimentQuery::default() };
    let listed = listing::experiments(ctx, &snapshot, &app.totals, &query, window).await?.listed;
    let extent = Extent::of(window, &listed, |row| row.id);
    Ok(address.answer(&extent, ExperimentList::new(addresses.summaries("experiments", listed.rows), &extent)))
}

/// An experiment by its labels.
#[utoipa::path(get, path = "/cohorts/{label}/subjects/{subject_label}/experiments/{experiment_label}",
    tag = "cohorts", params(("label" = String, Path), ("subject_label" = String, Path),
    ("experiment_label" = String, Path)), security(("login" = [])), responses((status = 200, body = Experiment)))]
pub(super) async fn get_experiment_of_subject(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Path((cohort, subject, label)): Path<(String, String, String)>,
) -> Result<Single<Experiment>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let subject = lookup::subject_of_cohort(ctx, &snapshot, &cohort, &subject).await?;
    let label = label.replace('\0', "\u{fffd}");
    let row = crate::study::register::find_experiment(ctx, &snapshot, subject.id, &label).await?;
    let row = row.ok_or_else(|| HttpError::missing(ctx, "experiment", format!("'{label}' of this subject")))?;
    Ok(Single(addresses.experiment(record::experiment(ctx, &snapshot, row).await?)))
}
