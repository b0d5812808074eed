//! Subjects.

use axum::extract::{Path, State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::show::{Subject, SubjectList};
use crate::api::access::{Caller, May};
use crate::api::input::{Body, Given, Number, Problems, Query, ReasonBody, number};
use crate::api::link::{ExternalIdBody, ExternalIdsBody};
use crate::api::lookup::{self, by_id, reread};
use crate::api::output::{Addresses, Created, Extent, IfMatch, ListAddress, ListAnswer, Single, WindowQuery};
use crate::api::sample::{self, SubjectBody};
use crate::app::App;
use crate::context::Context;
use crate::entity::subject;
use crate::http::HttpError;
use crate::http::needs::{SampleAdd, SampleDelete, SampleUpdate};
use crate::study::link::{self, Linked};
use crate::study::{Reference, listing, record};

/// The ids of a subject in external systems.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(super) struct SubjectIds {
    #[schema(example = 1)]
    subject_id: i32,
    #[schema(example = "sub-01")]
    subject_label: String,
    /// By the name of the external system.
    external_ids: record::BySystem,
}

/// Which subjects.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(super) struct SubjectFilter {
    /// Label of the cohort.
    #[param(value_type = Option<String>)]
    cohort_label: Given<String>,
    /// Label, id or URI of the cohort.
    #[param(value_type = Option<String>)]
    cohort: Given<String>,
    /// Part of the label, case-insensitive.
    #[param(value_type = Option<String>)]
    label: Given<String>,
    /// `true`: archived rows instead of those in use.
    #[param(value_type = Option<bool>)]
    archived: Given<bool>,
}

/// Subjects.
#[utoipa::path(get, path = "/subjects", tag = "subjects", params(SubjectFilter, WindowQuery),
    security(("login" = [])), responses((status = 200, body = SubjectList)))]
pub(super) async fn list_subjects(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    address: ListAddress,
    Query(filter): Query<SubjectFilter>,
    Query(window): Query<WindowQuery>,
) -> Result<ListAnswer<SubjectList>, HttpError> {
    let ctx = &caller.ctx;
    let mut problems = Problems::default();
    let window = window.read(&mut problems);
    let cohort = problems.optional("cohort_label", filter.cohort_label.or(filter.cohort));
    let label = problems.optional("label", filter.label);
    let archived = problems.optional("archived", filter.archived).unwrap_or(false);
    problems.check()?;
    let snapshot = app.snapshot().await?;
    let cohort = match cohort {
        Some(text) => Some(lookup::cohort(ctx, &snapshot, &Reference::label_first(&text)).await?.id),
        None => None,
    };
    let listed = listing::subjects(ctx, &snapshot, &app.totals, cohort, label.as_deref(), archived, window).await?;
    let extent = Extent::of(window, &listed, |row| row.id);
    Ok(address.answer(&extent, SubjectList::new(addresses.summaries("subjects", listed.rows), &extent)))
}

/// Creates a subject in a cohort.
#[utoipa::path(post, path = "/subjects", tag = "subjects", request_body = SubjectBody,
    security(("login" = ["sample_add"])), responses((status = 201, body = Subject)))]
pub(super) async fn create_subject(
    State(app): State<App>,
    May { caller, .. }: May<SampleAdd>,
    addresses: Addresses,
    Body(body): Body<SubjectBody>,
) -> Result<Created<Subject>, HttpError> {
    let ctx = &caller.ctx;
    let row = sample::create_subject(ctx, &app, body, "cohort_label").await?;
    let (snapshot, row) = reread::<subject::Entity>(ctx, &app, row.id, row).await?;
    let body = addresses.subject(record::subject(ctx, &snapshot, row).await?);
    Ok(Created { location: body.uri.clone(), body })
}

/// A subject with its experiments.
#[utoipa::path(get, path = "/subjects/{id}", tag = "subjects", params(("id" = i32, Path)), security(("login" = [])),
    responses((status = 200, body = Subject)))]
pub(super) async fn get_subject(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Number(id): Number,
) -> Result<Single<Subject>, HttpError> {
    let ctx = &caller.ctx;
    show(ctx, &app, &addresses, id).await
}

async fn show(ctx: &Context, app: &App, addresses: &Addresses, id: i32) -> Result<Single<Subject>, HttpError> {
    let snapshot = app.snapshot().await?;
    let row = by_id::<subject::Entity>(ctx, &snapshot, "subject", id).await?;
    Ok(Single(addresses.subject(record::subject(ctx, &snapshot, row).await?)))
}

/// Changes label, date of birth or cohort. Omitted fields are unchanged.
#[utoipa::path(put, path = "/subjects/{id}", tag = "subjects", params(("id" = i32, Path)), request_body = SubjectBody,
    security(("login" = ["sample_add"])), responses((status = 200, body = Subject)))]
pub(super) async fn update_subject(
    State(app): State<App>,
    May { caller, .. }: May<SampleAdd>,
    addresses: Addresses,
    if_match: IfMatch,
    Number(id): Number,
    Body(body): Body<SubjectBody>,
) -> Result<Single<Subject>, HttpError> {
    let ctx = &caller.ctx;
    by_id::<subject::Entity>(ctx, app.statement(), "subject", id).await?;
    let seen = |now: &record::SubjectRecord| if_match.fits(&addresses.subject(now.clone()));
    sample::update_subject(ctx, &app, id, body, "cohort_label", seen).await?;
    show(ctx, &app, &addresses, id).await
}

/// Archives a subject with all its experiments: they are hidden, their history is kept and their labels can be reused.
#[utoipa::path(delete, path = "/subjects/{id}", tag = "subjects", params(("id" = i32, Path), ReasonBody),
    request_body(content = ReasonBody, description = "The reason, if it is not given in the query"),
    security(("login" = ["sample_delete"])), responses((status = 200, body = Subject)))]
pub(super) async fn archive_subject(
    State(app): State<App>,
    may: May<SampleDelete>,
    addresses: Addresses,
    Number(id): Number,
    Query(asked): Query<ReasonBody>,
    Body(body): Body<ReasonBody>,
) -> Result<Single<Subject>, HttpError> {
    let ctx = &may.caller.ctx;
    let reason = body.or(asked).read()?;
    app.engine.archive_subject(ctx, id, &reason).await?;
    show(ctx, &app, &addresses, id).await
}

/// Restores an archived subject. Its experiments stay archived until they are restored.
#[utoipa::path(post, path = "/subjects/{id}/restore", tag = "subjects", params(("id" = i32, Path)),
    security(("login" = ["sample_delete"])), responses((status = 200, body = Subject)))]
pub(super) async fn restore_subject(
    State(app): State<App>,
    May { caller, .. }: May<SampleDelete>,
    addresses: Addresses,
    Number(id): Number,
) -> Result<Single<Subject>, HttpError> {
    let ctx = &caller.ctx;
    app.engine.restore_subject(ctx, id).await?;
    show(ctx, &app, &addresses, id).await
}

async fn ids(ctx: &Context, app: &App, id: i32) -> Result<SubjectIds, HttpError> {
    let snapshot = app.snapshot().await?;
    let row = by_id::<subject::Entity>(ctx, &snapshot, "subject", id).await?;
    let external_ids = record::subject_ids(ctx, &snapshot, id).await?;
    Ok(SubjectIds { subject_id: id, subject_label: row.label, external_ids })
}

fn ids_path(addresses: &Addresses, id: i32) -> String {
    addresses.path(&format!("/api/v2/subjects/{id}/external_ids"))
}

/// The ids of a subject in external systems.
#[utoipa::path(get, path = "/subjects/{id}/external_ids", tag = "subjects", params(("id" = i32, Path)),
    security(("login" = [])), responses((status = 200, body = SubjectIds)))]
pub(super) async fn get_subject_ids(
    State(app): State<App>,
    caller: Caller,
    Number(id): Number,
) -> Result<Single<SubjectIds>, HttpError> {
    let ctx = &caller.ctx;
    ids(ctx, &app, id).await.map(Single)
}

/// Sets the values for several external systems at once.
#[utoipa::path(post, path = "/subjects/{id}/external_ids", tag = "subjects", params(("id" = i32, Path)),
    request_body = ExternalIdsBody, security(("login" = ["sample_update"])),
    responses((status = 201, body = SubjectIds)))]
pub(super) async fn set_subject_ids(
    State(app): State<App>,
    May { caller, .. }: May<SampleUpdate>,
    addresses: Addresses,
    Number(id): Number,
    Body(body): Body<ExternalIdsBody>,
) -> Result<Created<SubjectIds>, HttpError> {
    let ctx = &caller.ctx;
    body.set(ctx, &app, Linked::Subject(id)).await?;
    Ok(Created { location: ids_path(&addresses, id), body: ids(ctx, &app, id).await? })
}

/// Sets the value for one external system.
#[utoipa::path(put, path = "/subjects/{id}/external_ids/{system_name}", tag = "subjects",
    params(("id" = i32, Path), ("system_name" = String, Path)), request_body = ExternalIdBody,
    security(("login" = ["sample_update"])), responses((status = 201, body = SubjectIds)))]
pub(super) async fn set_subject_id(
    State(app): State<App>,
    May { caller, .. }: May<SampleUpdate>,
    addresses: Addresses,
    Path((id, system)): Path<(String, String)>,
    Body(body): Body<ExternalIdBody>,
) -> Result<Created<SubjectIds>, HttpError> {
    let ctx = &caller.ctx;
    let id = number(&id)?;
    body.set(ctx, &app, Linked::Subject(id), system).await?;
    Ok(Created { location: ids_path(&addresses, id), body: ids(ctx, &app, id).await? })
}

/// Deletes the value for one external system.
#[utoipa::path(delete, path = "/subjects/{id}/external_ids/{system_name}", tag = "subjects",
    params(("id" = i32, Path), ("system_name" = String, Path)), security(("login" = ["sample_delete"])),
    responses((status = 200, body = SubjectIds)))]
pub(super) async fn delete_subject_id(
    State(app): State<App>,
    May { caller, .. }: May<SampleDelete>,
    Path((id, system)): Path<(String, String)>,
) -> Result<Single<SubjectIds>, HttpError> {
    let ctx = &caller.ctx;
    let id = number(&id)?;
    link::delete_link(ctx, app.engine.database(), Linked::Subject(id), &system).await?;
    ids(ctx, &app, id).await.map(Single)
}
