//! Cohorts, subjects, experiments and their states.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::show::{ActionList, Cohort, CohortList, Experiment, ExperimentList, Subject, SubjectList, V1};
use crate::api::access::{Caller, Everywhere, May};
use crate::api::filter::{AskedExperiments, ExperimentFilter};
use crate::api::input::{Body, Given, Problems, Query};
use crate::api::lookup::{self, reread};
use crate::api::output::{Addresses, Created, Extent, IfMatch, ListAddress, ListAnswer, Single, WindowQuery, Windowed};
use crate::api::sample::{self, CohortBody, ExperimentBody, SubjectBody};
use crate::api::state::{StateBody, change_state};
use crate::app::App;
use crate::context::Context;
use crate::entity::{cohort, experiment, subject};
use crate::http::HttpError;
use crate::http::needs::{SampleAdd, SampleStateUpdate};
use crate::study::{Reference, Visible, listing, record};

/// How to interpret the `{id}` path parameter.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(super) struct FilterField {
    /// `id` or `label`; either by default.
    #[param(value_type = Option<String>, example = "label")]
    filter_field: Given<String>,
}

impl FilterField {
    fn read(self, text: &str) -> Result<Reference, HttpError> {
        let mut problems = Problems::default();
        let field = problems.optional("filter_field", self.filter_field);
        problems.check()?;
        lookup::filtered(text, field.as_deref())
    }
}

/// How `subject` of the body is to be read.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(super) struct SubjectFilterField {
    /// `id` or `label`; either by default.
    #[param(value_type = Option<String>)]
    subject_filter_field: Given<String>,
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
    Ok(address.answer(&extent, CohortList::new(V1(addresses).uris("cohorts", &listed.rows), &extent)))
}

async fn show_cohort(ctx: &Context, app: &App, addresses: Addresses, row: cohort::Model) -> Result<Cohort, HttpError> {
    let (snapshot, row) = reread::<cohort::Entity>(ctx, app, row.id, row).await?;
    Ok(V1(addresses).cohort(record::cohort(ctx, &snapshot, row, None).await?))
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
    let body = show_cohort(ctx, &app, addresses, row).await?;
    Ok(Created { location: body.uri.clone(), body })
}

/// A cohort with its subjects, by id or label.
#[utoipa::path(get, path = "/cohorts/{id}", tag = "cohorts", params(("id" = String, Path), FilterField),
    security(("login" = [])), responses((status = 200, body = Cohort)))]
pub(super) async fn get_cohort(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Path(id): Path<String>,
    Query(field): Query<FilterField>,
) -> Result<Single<Cohort>, HttpError> {
    let ctx = &caller.ctx;
    let reference = field.read(&id)?;
    let snapshot = app.snapshot().await?;
    let row = lookup::cohort(ctx, &snapshot, &reference).await?;
    Ok(Single(V1(addresses).cohort(record::cohort(ctx, &snapshot, row, None).await?)))
}

/// Changes label or description. Omitted fields are unchanged.
#[utoipa::path(put, path = "/cohorts/{id}", tag = "cohorts", params(("id" = String, Path)), request_body = CohortBody,
    security(("login" = ["sample_add"])), responses((status = 200, body = Cohort)))]
pub(super) async fn update_cohort(
    State(app): State<App>,
    May { caller, .. }: May<SampleAdd>,
    addresses: Addresses,
    if_match: IfMatch,
    Path(id): Path<String>,
    Body(body): Body<CohortBody>,
) -> Result<Single<Cohort>, HttpError> {
    let ctx = &caller.ctx;
    let row = lookup::cohort(ctx, app.statement(), &Reference::parse(&id)).await?;
    let shown = V1(addresses.clone());
    let seen = |now: &record::CohortRecord| if_match.fits(&shown.cohort(now.clone()));
    let row = sample::update_cohort(ctx, &app, row.id, body, if_match.is_given(), seen).await?;
    show_cohort(ctx, &app, addresses, row).await.map(Single)
}

/// Subjects.
#[utoipa::path(get, path = "/subjects", tag = "subjects", params(WindowQuery), security(("login" = [])),
    responses((status = 200, body = SubjectList)))]
pub(super) async fn list_subjects(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    address: ListAddress,
    Windowed(window): Windowed,
) -> Result<ListAnswer<SubjectList>, HttpError> {
    let ctx = &caller.ctx;
    let listed = listing::subjects(ctx, &app.snapshot().await?, &app.totals, None, None, false, window).await?;
    let extent = Extent::of(window, &listed, |row| row.id);
    Ok(address.answer(&extent, SubjectList::new(V1(addresses).uris("subjects", &listed.rows), &extent)))
}

async fn show_subject(
    ctx: &Context,
    app: &App,
    addresses: Addresses,
    row: subject::Model,
) -> Result<Subject, HttpError> {
    let (snapshot, row) = reread::<subject::Entity>(ctx, app, row.id, row).await?;
    Ok(V1(addresses).subject(record::subject(ctx, &snapshot, row).await?))
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
    let row = sample::create_subject(ctx, &app, body, "cohort").await?;
    let body = show_subject(ctx, &app, addresses, row).await?;
    Ok(Created { location: body.uri.clone(), body })
}

/// A subject with its experiments, by id, or by label when only one has it.
#[utoipa::path(get, path = "/subjects/{id}", tag = "subjects", params(("id" = String, Path), FilterField),
    security(("login" = [])), responses((status = 200, body = Subject)))]
pub(super) async fn get_subject(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Path(id): Path<String>,
    Query(field): Query<FilterField>,
) -> Result<Single<Subject>, HttpError> {
    let ctx = &caller.ctx;
    let reference = field.read(&id)?;
    let snapshot = app.snapshot().await?;
    let row = lookup::subject(ctx, &snapshot, &reference).await?;
    Ok(Single(V1(addresses).subject(record::subject(ctx, &snapshot, row).await?)))
}

/// Changes label, date of birth or cohort. Omitted fields are unchanged.
#[utoipa::path(put, path = "/subjects/{id}", tag = "subjects", params(("id" = String, Path)),
    request_body = SubjectBody, security(("login" = ["sample_add"])), responses((status = 200, body = Subject)))]
pub(super) async fn update_subject(
    State(app): State<App>,
    May { caller, .. }: May<SampleAdd>,
    addresses: Addresses,
    if_match: IfMatch,
    Path(id): Path<String>,
    Body(body): Body<SubjectBody>,
) -> Result<Single<Subject>, HttpError> {
    let ctx = &caller.ctx;
    let row = lookup::subject(ctx, app.statement(), &Reference::parse(&id)).await?;
    let shown = V1(addresses.clone());
    let seen = |now: &record::SubjectRecord| if_match.fits(&shown.subject(now.clone()));
    let row = sample::update_subject(ctx, &app, row.id, body, "cohort", seen).await?;
    show_subject(ctx, &app, addresses, row).await.map(Single)
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
    Ok(address.answer(&extent, ExperimentList::new(V1(addresses).uris("experiments", &page.listed.rows), &extent)))
}

async fn show_experiment(
    ctx: &Context,
    app: &App,
    addresses: Addresses,
    row: experiment::Model,
) -> Result<Experiment, HttpError> {
    let (snapshot, row) = reread::<experiment::Entity>(ctx, app, row.id, row).await?;
    Ok(V1(addresses).experiment(record::experiment(ctx, &snapshot, row).await?))
}

/// Creates an experiment. It enters the first state of its workflow immediately.
#[utoipa::path(post, path = "/experiments", tag = "experiments", params(SubjectFilterField),
    request_body = ExperimentBody, security(("login" = ["sample_add"])), responses((status = 201, body = Experiment)))]
pub(super) async fn create_experiment(
    State(app): State<App>,
    may: May<SampleAdd>,
    addresses: Addresses,
    Query(field): Query<SubjectFilterField>,
    Body(body): Body<ExperimentBody>,
) -> Result<Created<Experiment>, HttpError> {
    let ctx = &may.caller.ctx;
    let mut problems = Problems::default();
    let field = problems.optional("subject_filter_field", field.subject_filter_field);
    problems.check()?;
    let row = sample::create_experiment(ctx, &app, body, "subject", field.as_deref()).await?;
    let body = show_experiment(ctx, &app, addresses, row).await?;
    Ok(Created { location: body.uri.clone(), body })
}

/// An experiment with its variables, by id, or by label when only one has it.
#[utoipa::path(get, path = "/experiments/{id}", tag = "experiments", params(("id" = String, Path), FilterField),
    security(("login" = [])), responses((status = 200, body = Experiment)))]
pub(super) async fn get_experiment(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Path(id): Path<String>,
    Query(field): Query<FilterField>,
) -> Result<Single<Experiment>, HttpError> {
    let ctx = &caller.ctx;
    let reference = field.read(&id)?;
    let snapshot = app.snapshot().await?;
    let row = lookup::experiment(ctx, &snapshot, &reference).await?;
    Ok(Single(V1(addresses).experiment(record::experiment(ctx, &snapshot, row).await?)))
}

/// The history of an experiment, oldest first.
#[utoipa::path(get, path = "/experiments/{id}/actions", tag = "experiments",
    params(("id" = String, Path), WindowQuery), security(("login" = [])),
    responses((status = 200, body = ActionList)))]
pub(super) async fn list_actions_of_experiment(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    address: ListAddress,
    Path(id): Path<String>,
    Windowed(window): Windowed,
) -> Result<ListAnswer<ActionList>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let experiment = lookup::experiment(ctx, &snapshot, &Reference::parse(&id)).await?;
    let listed = listing::actions(ctx, &snapshot, &app.totals, Some(experiment.id), window).await?;
    let extent = Extent::of(window, &listed, |row| row.id);
    let shown = V1(addresses);
    let rows = listed.rows.iter().map(|row| shown.uri("actions", row.id)).collect();
    Ok(address.answer(&extent, ActionList::new(rows, &extent)))
}

/// The current state of an experiment.
#[derive(Serialize, ToSchema)]
pub(super) struct ExperimentState {
    /// URI.
    #[schema(example = "/api/v1/states/2")]
    state: String,
    /// URI.
    #[schema(example = "/api/v1/workflows/1")]
    workflow: String,
}

/// Result of a state change request.
#[derive(Serialize, ToSchema)]
pub(super) struct StateAnswer {
    /// URI of the current state of the experiment.
    #[schema(example = "/api/v1/states/2")]
    state: String,
    /// Why it did not move: `errorclass`, `message` and details. Null if it moved.
    #[schema(value_type = Option<Object>)]
    error: Option<Value>,
    success: bool,
}

/// The current state of an experiment.
#[utoipa::path(get, path = "/experiments/{id}/state", tag = "experiments", params(("id" = String, Path)),
    security(("login" = [])), responses((status = 200, body = ExperimentState)))]
pub(super) async fn get_experiment_state(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Path(id): Path<String>,
) -> Result<Single<ExperimentState>, HttpError> {
    let ctx = &caller.ctx;
    let row = lookup::experiment(ctx, app.statement(), &Reference::parse(&id)).await?;
    Ok(Single(state_of(&V1(addresses), &row)))
}

fn state_of(shown: &V1, row: &experiment::Model) -> ExperimentState {
    ExperimentState { state: shown.uri("states", row.state_id), workflow: shown.uri("workflows", row.workflow_id) }
}

/// Moves an experiment along a transition whose condition is met. Running callbacks of the state that it leaves are
/// cancelled.
#[utoipa::path(put, path = "/experiments/{id}/state", tag = "experiments", params(("id" = String, Path)),
    request_body = StateBody, security(("login" = ["sample_state_update"])),
    responses((status = 200, body = StateAnswer), (status = 404, body = StateAnswer, description = "State not found"),
    (status = 409, body = StateAnswer, description = "There is no transition to this state, or its condition is not \
        met")))]
pub(super) async fn set_experiment_state(
    State(app): State<App>,
    may: May<SampleStateUpdate>,
    addresses: Addresses,
    if_match: IfMatch,
    Path(id): Path<String>,
    Body(body): Body<StateBody>,
) -> Result<Response, HttpError> {
    let ctx = &may.caller.ctx;
    let row = lookup::experiment(ctx, app.statement(), &Reference::parse(&id)).await?;
    let (id, version) = (row.id, row.version);
    if !if_match.fits(&state_of(&V1(addresses.clone()), &row)) {
        return Err(HttpError::Precondition);
    }
    let seen = if_match.is_given().then_some(version);
    let paths = addresses.path("/api/v1");
    let change = change_state(ctx, &app, id, body, "state", &paths, seen).await?;
    let success = change.error.is_none();
    let answer = StateAnswer { state: V1(addresses).uri("states", change.state.id), error: change.error, success };
    Ok((change.status, axum::Json(answer)).into_response())
}
