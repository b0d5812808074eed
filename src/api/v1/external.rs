//! External systems, and the ids of subjects and experiments in them; scans.
//!
//! Version 8.1 answers POST and PUT of a link with the URL of the list as its `uri`; so does this program.

use axum::extract::State;
use sea_orm::EntityTrait;

use super::show::{
    ExperimentLink, ExperimentLinkList, ExternalSystem, ExternalSystemList, Scan, ScanList, Scantype, ScantypeList,
    SubjectLink, SubjectLinkList, V1,
};
use crate::api::access::{Caller, May};
use crate::api::input::{Body, Number};
use crate::api::link::{self, LinkBody};
use crate::api::lookup::{by_id, reread};
use crate::api::output::{Addresses, Created, Extent, ListAddress, ListAnswer, Single, WindowQuery, Windowed};
use crate::api::sample::{self, ScanBody};
use crate::app::App;
use crate::context::Context;
use crate::database::Snapshot;
use crate::entity::{external_experiment_links, external_subject_links, external_system, scan, scantype};
use crate::http::HttpError;
use crate::http::needs::SampleAdd;
use crate::study::{listing, record};

fn gone() -> HttpError {
    HttpError::Conflict("It was deleted concurrently.".to_owned())
}

/// External systems.
#[utoipa::path(get, path = "/external_systems", tag = "external systems", params(WindowQuery),
    security(("login" = [])), responses((status = 200, body = ExternalSystemList)))]
pub(super) async fn list_external_systems(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    address: ListAddress,
    Windowed(window): Windowed,
) -> Result<ListAnswer<ExternalSystemList>, HttpError> {
    let ctx = &caller.ctx;
    let all = external_system::Entity::find();
    let id = external_system::Column::Id;
    let listed = listing::list(ctx, &app.snapshot().await?, &app.totals, "external systems", all, id, window).await?;
    let extent = Extent::of(window, &listed, |row| row.id);
    let shown = V1(addresses);
    let rows = listed.rows.iter().map(|row| shown.uri("external_systems", row.id)).collect();
    Ok(address.answer(&extent, ExternalSystemList::new(rows, &extent)))
}

/// An external system.
#[utoipa::path(get, path = "/external_systems/{id}", tag = "external systems", params(("id" = i32, Path)),
    security(("login" = [])), responses((status = 200, body = ExternalSystem)))]
pub(super) async fn get_external_system(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Number(id): Number,
) -> Result<Single<ExternalSystem>, HttpError> {
    let ctx = &caller.ctx;
    let row = by_id::<external_system::Entity>(ctx, app.statement(), "external system", id).await?;
    Ok(Single(V1(addresses).external_system(row)))
}

/// The ids of subjects in external systems.
#[utoipa::path(get, path = "/external_subject_links", tag = "external systems", params(WindowQuery),
    security(("login" = [])), responses((status = 200, body = SubjectLinkList)))]
pub(super) async fn list_subject_links(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    address: ListAddress,
    Windowed(window): Windowed,
) -> Result<ListAnswer<SubjectLinkList>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let all = listing::subject_links(ctx);
    let id = external_subject_links::Column::Id;
    let listed = listing::list(ctx, &snapshot, &app.totals, "subject links", all, id, window).await?;
    let extent = Extent::of(window, &listed, |row| row.id);
    let shown = V1(addresses);
    let rows = listed.rows.iter().map(|row| shown.uri("external_subject_links", row.id)).collect();
    Ok(address.answer(&extent, SubjectLinkList::new(rows, &extent)))
}

async fn subject_link(
    ctx: &Context,
    snapshot: &Snapshot,
    shown: &V1,
    row: external_subject_links::Model,
) -> Result<SubjectLink, HttpError> {
    let mut records = record::subject_links(ctx, snapshot, vec![row]).await?;
    Ok(shown.subject_link(records.pop().ok_or_else(gone)?))
}

/// Creates a link. Fails if one already exists.
#[utoipa::path(post, path = "/external_subject_links", tag = "external systems", request_body = LinkBody,
    security(("login" = ["sample_add"])), responses((status = 201, body = SubjectLink)))]
pub(super) async fn create_subject_link(
    State(app): State<App>,
    May { caller, .. }: May<SampleAdd>,
    addresses: Addresses,
    Body(body): Body<LinkBody>,
) -> Result<Created<SubjectLink>, HttpError> {
    let ctx = &caller.ctx;
    let row = link::link_subject(ctx, &app, body, false).await?;
    let (snapshot, row) = reread::<external_subject_links::Entity>(ctx, &app, row.id, row).await?;
    let shown = V1(addresses);
    let mut body = subject_link(ctx, &snapshot, &shown, row).await?;
    let location = std::mem::replace(&mut body.uri, shown.0.path("/api/v1/external_subject_links"));
    Ok(Created { location, body })
}

/// Creates or replaces a link.
#[utoipa::path(put, path = "/external_subject_links", tag = "external systems", request_body = LinkBody,
    security(("login" = ["sample_add"])), responses((status = 201, body = SubjectLink)))]
pub(super) async fn set_subject_link(
    State(app): State<App>,
    May { caller, .. }: May<SampleAdd>,
    addresses: Addresses,
    Body(body): Body<LinkBody>,
) -> Result<Created<SubjectLink>, HttpError> {
    let ctx = &caller.ctx;
    let row = link::link_subject(ctx, &app, body, true).await?;
    let (snapshot, row) = reread::<external_subject_links::Entity>(ctx, &app, row.id, row).await?;
    let shown = V1(addresses);
    let mut body = subject_link(ctx, &snapshot, &shown, row).await?;
    let location = std::mem::replace(&mut body.uri, shown.0.path("/api/v1/external_subject_links"));
    Ok(Created { location, body })
}

/// The id of a subject in an external system.
#[utoipa::path(get, path = "/external_subject_links/{id}", tag = "external systems", params(("id" = i32, Path)),
    security(("login" = [])), responses((status = 200, body = SubjectLink)))]
pub(super) async fn get_subject_link(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Number(id): Number,
) -> Result<Single<SubjectLink>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let row = by_id::<external_subject_links::Entity>(ctx, &snapshot, "external subject link", id).await?;
    subject_link(ctx, &snapshot, &V1(addresses), row).await.map(Single)
}

/// The ids of experiments in external systems.
#[utoipa::path(get, path = "/external_experiment_links", tag = "external systems", params(WindowQuery),
    security(("login" = [])), responses((status = 200, body = ExperimentLinkList)))]
pub(super) async fn list_experiment_links(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    address: ListAddress,
    Windowed(window): Windowed,
) -> Result<ListAnswer<ExperimentLinkList>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let all = listing::experiment_links(ctx);
    let id = external_experiment_links::Column::Id;
    let listed = listing::list(ctx, &snapshot, &app.totals, "experiment links", all, id, window).await?;
    let extent = Extent::of(window, &listed, |row| row.id);
    let shown = V1(addresses);
    let rows = listed.rows.iter().map(|row| shown.uri("external_experiment_links", row.id)).collect();
    Ok(address.answer(&extent, ExperimentLinkList::new(rows, &extent)))
}

async fn experiment_link(
    ctx: &Context,
    snapshot: &Snapshot,
    shown: &V1,
    row: external_experiment_links::Model,
) -> Result<ExperimentLink, HttpError> {
    let mut records = record::experiment_links(ctx, snapshot, vec![row]).await?;
    Ok(shown.experiment_link(records.pop().ok_or_else(gone)?))
}

/// Creates a link. Fails if one already exists.
#[utoipa::path(post, path = "/external_experiment_links", tag = "external systems", request_body = LinkBody,
    security(("login" = ["sample_add"])), responses((status = 201, body = ExperimentLink)))]
pub(super) async fn create_experiment_link(
    State(app): State<App>,
    May { caller, .. }: May<SampleAdd>,
    addresses: Addresses,
    Body(body): Body<LinkBody>,
) -> Result<Created<ExperimentLink>, HttpError> {
    let ctx = &caller.ctx;
    let row = link::link_experiment(ctx, &app, body, false).await?;
    let (snapshot, row) = reread::<external_experiment_links::Entity>(ctx, &app, row.id, row).await?;
    let shown = V1(addresses);
    let mut body = experiment_link(ctx, &snapshot, &shown, row).await?;
    let location = std::mem::replace(&mut body.uri, shown.0.path("/api/v1/external_experiment_links"));
    Ok(Created { location, body })
}

/// Creates or replaces a link.
#[utoipa::path(put, path = "/external_experiment_links", tag = "external systems", request_body = LinkBody,
    security(("login" = ["sample_add"])), responses((status = 200, body = ExperimentLink)))]
pub(super) async fn set_experiment_link(
    State(app): State<App>,
    May { caller, .. }: May<SampleAdd>,
    addresses: Addresses,
    Body(body): Body<LinkBody>,
) -> Result<Single<ExperimentLink>, HttpError> {
    let ctx = &caller.ctx;
    let row = link::link_experiment(ctx, &app, body, true).await?;
    let (snapshot, row) = reread::<external_experiment_links::Entity>(ctx, &app, row.id, row).await?;
    let shown = V1(addresses);
    let mut body = experiment_link(ctx, &snapshot, &shown, row).await?;
    body.uri = shown.0.path("/api/v1/external_experiment_links");
    Ok(Single(body))
}

/// The id of an experiment in an external system.
#[utoipa::path(get, path = "/external_experiment_links/{id}", tag = "external systems", params(("id" = i32, Path)),
    security(("login" = [])), responses((status = 200, body = ExperimentLink)))]
pub(super) async fn get_experiment_link(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Number(id): Number,
) -> Result<Single<ExperimentLink>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let row = by_id::<external_experiment_links::Entity>(ctx, &snapshot, "external experiment link", id).await?;
    experiment_link(ctx, &snapshot, &V1(addresses), row).await.map(Single)
}

/// Scans of all experiments.
#[utoipa::path(get, path = "/scans", tag = "scans", params(WindowQuery), security(("login" = [])),
    responses((status = 200, body = ScanList)))]
pub(super) async fn list_scans(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    address: ListAddress,
    Windowed(window): Windowed,
) -> Result<ListAnswer<ScanList>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let all = listing::scans(ctx);
    let listed = listing::list(ctx, &snapshot, &app.totals, "scans", all, scan::Column::Id, window).await?;
    let extent = Extent::of(window, &listed, |row| row.id);
    let shown = V1(addresses);
    let rows = listed.rows.iter().map(|row| shown.uri("scans", row.id)).collect();
    Ok(address.answer(&extent, ScanList::new(rows, &extent)))
}

async fn show_scan(ctx: &Context, snapshot: &Snapshot, shown: &V1, row: scan::Model) -> Result<Scan, HttpError> {
    let mut records = record::scans(ctx, snapshot, vec![row]).await?;
    Ok(shown.scan(&records.pop().ok_or_else(gone)?))
}

/// Adds a scan to an experiment.
#[utoipa::path(post, path = "/scans", tag = "scans", request_body = ScanBody, security(("login" = ["sample_add"])),
    responses((status = 201, body = Scan)))]
pub(super) async fn create_scan(
    State(app): State<App>,
    May { caller, .. }: May<SampleAdd>,
    addresses: Addresses,
    Body(body): Body<ScanBody>,
) -> Result<Created<Scan>, HttpError> {
    let ctx = &caller.ctx;
    let row = sample::create_scan(ctx, &app, body).await?;
    let (snapshot, row) = reread::<scan::Entity>(ctx, &app, row.id, row).await?;
    let body = show_scan(ctx, &snapshot, &V1(addresses), row).await?;
    Ok(Created { location: body.uri.clone(), body })
}

/// A scan.
#[utoipa::path(get, path = "/scans/{id}", tag = "scans", params(("id" = i32, Path)), security(("login" = [])),
    responses((status = 200, body = Scan)))]
pub(super) async fn get_scan(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Number(id): Number,
) -> Result<Single<Scan>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let row = by_id::<scan::Entity>(ctx, &snapshot, "scan", id).await?;
    show_scan(ctx, &snapshot, &V1(addresses), row).await.map(Single)
}

/// Scantypes.
#[utoipa::path(get, path = "/scantypes", tag = "scans", params(WindowQuery), security(("login" = [])),
    responses((status = 200, body = ScantypeList)))]
pub(super) async fn list_scantypes(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    address: ListAddress,
    Windowed(window): Windowed,
) -> Result<ListAnswer<ScantypeList>, HttpError> {
    let ctx = &caller.ctx;
    let all = scantype::Entity::find();
    let listed =
        listing::list(ctx, &app.snapshot().await?, &app.totals, "scantypes", all, scantype::Column::Id, window).await?;
    let extent = Extent::of(window, &listed, |row| row.id);
    let shown = V1(addresses);
    let rows = listed.rows.iter().map(|row| shown.uri("scantypes", row.id)).collect();
    Ok(address.answer(&extent, ScantypeList::new(rows, &extent)))
}

/// A scantype.
#[utoipa::path(get, path = "/scantypes/{id}", tag = "scans", params(("id" = i32, Path)), security(("login" = [])),
    responses((status = 200, body = Scantype)))]
pub(super) async fn get_scantype(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Number(id): Number,
) -> Result<Single<Scantype>, HttpError> {
    let ctx = &caller.ctx;
    let row = by_id::<scantype::Entity>(ctx, app.statement(), "scantype", id).await?;
    Ok(Single(V1(addresses).scantype(row)))
}
