//! What both versions do with cohorts, subjects, experiments, scans and external ids: their bodies, read and carried out.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use chrono::{NaiveDate, NaiveDateTime};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use crate::app::App;
use crate::engine::{Actor, EngineError, NewExperiment, Target};
use crate::entity::{
    cohort, experiment, external_experiment_links, external_subject_links, external_system, scan, subject,
};
use crate::http::HttpError;
use crate::study::listing::{ExperimentOrder, ExperimentQuery, Named, Window};
use crate::study::record::{CohortRecord, SubjectRecord};
use crate::study::revise::{self, CohortChanges, Linked, SubjectChanges};
use crate::study::{Label, Reference};
use crate::workflow;

use super::input::{Given, MISSING, Problems, invalid};
use super::lookup;
use super::output::WindowQuery;

/// A cohort to be, or what is to be different about one.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct CohortBody {
    #[schema(value_type = Option<String>, example = "baseline", max_length = 100)]
    label: Given<String>,
    #[schema(value_type = Option<String>, example = "First visit")]
    description: Given<String>,
}

pub(super) async fn create_cohort(app: &App, body: CohortBody) -> Result<cohort::Model, HttpError> {
    let mut problems = Problems::default();
    let label = problems.required("label", body.label);
    let label = problems.label("label", label);
    let description = problems.optional("description", body.description);
    let label = problems.all(label)?;
    Ok(revise::create_cohort(app.engine.database(), &label, description).await?)
}

pub(super) async fn update_cohort(
    app: &App,
    id: i32,
    body: CohortBody,
    is_guarded: bool,
    seen: impl FnOnce(&CohortRecord) -> bool,
) -> Result<cohort::Model, HttpError> {
    let mut problems = Problems::default();
    let label = problems.optional("label", body.label);
    let changes = CohortChanges {
        label: problems.label("label", label),
        description: problems.change("description", body.description),
    };
    problems.check()?;
    Ok(revise::update_cohort(app.engine.database(), id, changes, is_guarded, seen).await?)
}

/// A subject to be, or what is to be different about one.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct SubjectBody {
    #[schema(value_type = Option<String>, example = "sub-01", max_length = 100)]
    label: Given<String>,
    #[schema(value_type = Option<NaiveDate>, example = "1950-02-03")]
    date_of_birth: Given<NaiveDate>,
    /// Label, id or URI of the cohort (the name in v1).
    #[schema(value_type = Option<String>, example = "baseline")]
    cohort: Given<String>,
    /// The same (the name in v2).
    #[schema(value_type = Option<String>, example = "baseline")]
    cohort_label: Given<String>,
}

pub(super) async fn create_subject(
    app: &App,
    body: SubjectBody,
    cohort_field: &str,
) -> Result<subject::Model, HttpError> {
    let mut problems = Problems::default();
    let label = problems.required("label", body.label);
    let label = problems.label("label", label);
    let cohort = problems.required(cohort_field, body.cohort_label.or(body.cohort));
    let date_of_birth = problems.optional("date_of_birth", body.date_of_birth);
    let (label, cohort) = problems.all(label.zip(cohort))?;
    let database = app.engine.database();
    let cohort = lookup::cohort(database.reader(), &Reference::label_first(&cohort)).await?;
    Ok(revise::create_subject(database, cohort.id, &label, date_of_birth).await?)
}

pub(super) async fn update_subject(
    app: &App,
    id: i32,
    body: SubjectBody,
    cohort_field: &str,
    seen: impl FnOnce(&SubjectRecord) -> bool,
) -> Result<subject::Model, HttpError> {
    let mut problems = Problems::default();
    let label = problems.optional("label", body.label);
    let label = problems.label("label", label);
    let cohort = problems.optional(cohort_field, body.cohort_label.or(body.cohort));
    let date_of_birth = problems.change("date_of_birth", body.date_of_birth);
    problems.check()?;
    let database = app.engine.database();
    let cohort_id = match cohort {
        Some(cohort) => Some(lookup::cohort(database.reader(), &Reference::label_first(&cohort)).await?.id),
        None => None,
    };
    let changes = SubjectChanges { label, cohort_id, date_of_birth };
    Ok(revise::update_subject(database, id, changes, seen, app.engine.clock().now()).await?)
}

/// An experiment to be. Without a workflow it follows the newest one.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct ExperimentBody {
    #[schema(value_type = Option<String>, example = "sub-01_ses-1", max_length = 100)]
    label: Given<String>,
    /// ISO 8601; without an offset it is UTC.
    #[schema(value_type = Option<String>, example = "2024-03-01T10:00:00")]
    scandate: Given<NaiveDateTime>,
    /// Id of the subject (the name in v2).
    #[schema(value_type = Option<i32>, example = 1)]
    subject_id: Given<String>,
    /// Id, label or URI of the subject (the name in v1).
    #[schema(value_type = Option<String>)]
    subject: Given<String>,
    /// Label, id or URI of the workflow.
    #[schema(value_type = Option<String>)]
    workflow: Given<String>,
    /// The same.
    #[schema(value_type = Option<String>)]
    workflow_label: Given<String>,
}

/// Creates an experiment. `named` says how `subject` is read in v1.
pub(super) async fn create_experiment(
    app: &App,
    body: ExperimentBody,
    subject_field: &str,
    named: Option<&str>,
    actor: &Actor,
) -> Result<experiment::Model, HttpError> {
    let mut problems = Problems::default();
    let label = problems.required("label", body.label);
    let label = problems.label("label", label);
    let scandate = problems.required("scandate", body.scandate);
    let is_no_id = matches!(&body.subject_id, Given::Value(text) if text.trim().parse::<i32>().is_err());
    if is_no_id && subject_field == "subject_id" {
        problems.add("subject_id", "must be a whole number");
    }
    let subject = problems.required(subject_field, body.subject_id.or(body.subject));
    let workflow = problems.optional("workflow", body.workflow_label.or(body.workflow));
    let ((label, scandate), subject) = problems.all(label.zip(scandate).zip(subject))?;
    let connection = app.engine.database().reader();
    let subject = lookup::subject(connection, &lookup::filtered(&subject, named)?).await?;
    let workflow = match workflow {
        Some(text) => Some(lookup::workflow(connection, &Reference::label_first(&text)).await?.label),
        None => None,
    };
    let new = NewExperiment { subject_id: subject.id, label, scandate, workflow, variables: Vec::new() };
    Ok(app.engine.create_experiment(&new, actor).await?)
}

/// Which experiments.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(super) struct ExperimentFilter {
    /// Exactly this date and time.
    #[param(value_type = Option<String>)]
    scandate: Given<NaiveDateTime>,
    /// From this date and time on.
    #[param(value_type = Option<String>, example = "2024-01-01")]
    scandate_from: Given<NaiveDateTime>,
    /// Up to this date and time.
    #[param(value_type = Option<String>)]
    scandate_to: Given<NaiveDateTime>,
    /// In their state since this date and time or later.
    #[param(value_type = Option<String>)]
    state_since_from: Given<NaiveDateTime>,
    /// In their state since this date and time or earlier.
    #[param(value_type = Option<String>)]
    state_since_to: Given<NaiveDateTime>,
    /// Label, id or URI of the cohort.
    #[param(value_type = Option<String>)]
    cohort: Given<String>,
    /// The same.
    #[param(value_type = Option<String>)]
    cohort_label: Given<String>,
    /// The same as `workflow`.
    #[param(value_type = Option<String>)]
    workflow_label: Given<String>,
    /// The same as `state`.
    #[param(value_type = Option<String>)]
    state_label: Given<String>,
    /// Id or URI of the subject, or its label when only one has it.
    #[param(value_type = Option<String>)]
    subject: Given<String>,
    /// Id of the subject.
    #[param(value_type = Option<String>)]
    subject_id: Given<String>,
    /// Label, id or URI of the workflow.
    #[param(value_type = Option<String>)]
    workflow: Given<String>,
    /// Id or URI of a state, or a label: then of whichever workflow.
    #[param(value_type = Option<String>, example = "check")]
    state: Given<String>,
    /// Part of the label, in upper or lower case.
    #[param(value_type = Option<String>)]
    label: Given<String>,
    /// `true`: the archived ones in place of those in use.
    #[param(value_type = Option<bool>)]
    archived: Given<bool>,
    /// `id`, `label`, `scandate` or `state_since`; with `-` before it, the other way round.
    #[param(value_type = Option<String>, example = "-scandate")]
    order: Given<String>,
    /// `variable.NAME=VALUE`: experiments whose variable has this value. May be there several times, for several names.
    #[serde(flatten)]
    #[param(value_type = Option<String>, rename = "variable.NAME")]
    others: BTreeMap<String, Value>,
}

/// What a list of experiments asks for.
pub(super) async fn read_experiment_filter(
    app: &App,
    filter: ExperimentFilter,
    window: WindowQuery,
) -> Result<(ExperimentQuery, Window), HttpError> {
    let mut problems = Problems::default();
    let window = window.read(&mut problems);
    let order = problems.optional("order", filter.order).unwrap_or_else(|| "id".to_owned());
    let column = match order.trim_start_matches('-') {
        // `asc` and `desc` are words of the existing product's engine.
        "id" | "asc" | "desc" => ExperimentOrder::Id,
        "label" => ExperimentOrder::Label,
        "scandate" => ExperimentOrder::Scandate,
        "state_since" => ExperimentOrder::StateSince,
        _ => {
            problems
                .add("order", "must be one of id, label, scandate, state_since, or one of these with a '-' before it");
            ExperimentOrder::Id
        }
    };
    let descending = order.starts_with('-') || order == "desc";
    let mut variables = Vec::new();
    for (name, value) in &filter.others {
        if let (Some(name), Value::String(value)) = (name.strip_prefix("variable."), value) {
            variables.push((name.to_owned(), value.clone()));
        }
    }
    if variables.len() > 10 {
        problems.add("variable", "at most ten of them in one request");
    }
    let cohort = problems.optional("cohort", filter.cohort.or(filter.cohort_label));
    let subject = problems.optional("subject", filter.subject_id.or(filter.subject));
    let workflow = problems.optional("workflow", filter.workflow.or(filter.workflow_label));
    let state = problems.optional("state", filter.state.or(filter.state_label));
    let mut query = ExperimentQuery {
        scandate: problems.optional("scandate", filter.scandate),
        scandate_from: problems.optional("scandate_from", filter.scandate_from),
        scandate_to: problems.optional("scandate_to", filter.scandate_to),
        state_since_from: problems.optional("state_since_from", filter.state_since_from),
        state_since_to: problems.optional("state_since_to", filter.state_since_to),
        label: problems.optional("label", filter.label),
        archived: problems.optional("archived", filter.archived).unwrap_or(false),
        variables,
        order: column,
        descending,
        ..ExperimentQuery::default()
    };
    if window.after.is_some() && !query.is_by_id() {
        problems.add("after", "goes with the order 'id' only");
    }
    problems.check()?;
    let connection = app.engine.database().reader();
    if let Some(text) = cohort {
        query.cohort = Some(lookup::cohort(connection, &Reference::label_first(&text)).await?.id);
    }
    if let Some(text) = subject {
        // A number is an id that may be nobody's: an empty list, as the existing product answers.
        query.subject = match Reference::parse(&text) {
            Reference::Id(id) | Reference::Either(id, _) => Some(id),
            reference => Some(lookup::subject(connection, &reference).await?.id),
        };
    }
    if let Some(text) = workflow {
        query.workflow = Some(lookup::workflow(connection, &Reference::label_first(&text)).await?.id);
    }
    if let Some(text) = state {
        query.states = Some(lookup::states(connection, &Reference::parse(&text)).await?);
    }
    Ok((query, window))
}

/// A state to go to.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct StateBody {
    /// Label, id or URI of the state.
    #[schema(value_type = Option<String>, example = "processing")]
    state: Given<String>,
    /// The same.
    #[schema(value_type = Option<String>)]
    state_label: Given<String>,
    /// A note for the history.
    #[schema(value_type = Option<String>, example = "looks fine")]
    freetext: Given<String>,
}

impl StateBody {
    pub(super) fn new(state: &str, freetext: Option<&str>) -> Self {
        let freetext = freetext.map_or(Given::Missing, |text| Given::Value(text.to_owned()));
        Self { state: Given::Value(state.to_owned()), state_label: Given::Missing, freetext }
    }
}

/// What came of asking for another state.
pub(super) struct StateChange {
    /// 200, 404 or 409.
    pub status: StatusCode,
    /// The state that the experiment is in now.
    pub state: Named,
    /// Why it did not move, in the form of the existing product.
    pub error: Option<Value>,
}

/// Moves an experiment on. `paths` is the start of the addresses in the error (`/api/v2`). `seen` is the version that
/// the caller knows.
pub(super) async fn change_state(
    app: &App,
    experiment_id: i32,
    body: StateBody,
    state_field: &str,
    paths: &str,
    seen: Option<i32>,
    actor: &Actor,
) -> Result<StateChange, HttpError> {
    let mut problems = Problems::default();
    let wanted = body.state_label.or(body.state);
    if wanted.is_missing() {
        problems.add(state_field, format!("No state supplied {MISSING}"));
    }
    let wanted = problems.required(state_field, wanted);
    let freetext = problems.optional("freetext", body.freetext);
    let wanted = problems.all(wanted)?;
    let target = match Reference::label_first(&wanted) {
        Reference::Id(id) => Target::Id(id),
        _ => Target::Either(wanted.clone()),
    };
    let outcome = app.engine.transition(experiment_id, &target, freetext.as_deref(), seen, actor).await;
    let (status, error, experiment) = match outcome {
        Ok(experiment) => (StatusCode::OK, None, experiment),
        Err(error) => match refusal(&error, &wanted, paths) {
            Some((status, body)) => {
                let connection = app.engine.database().reader();
                let experiment = lookup::by_id::<experiment::Entity>(connection, "experiment", experiment_id).await?;
                (status, Some(body), experiment)
            }
            None if seen.is_some() && matches!(error, EngineError::MovedOn) => return Err(HttpError::Precondition),
            None => return Err(error.into()),
        },
    };
    let label = app.engine.state_label(&experiment).await?;
    Ok(StateChange { status, state: Named { id: experiment.state_id, label }, error })
}

/// The error as clients of the existing product read it.
fn refusal(error: &EngineError, wanted: &str, paths: &str) -> Option<(StatusCode, Value)> {
    let message = error.to_string();
    Some(match error {
        EngineError::StateNotFound { .. } => (
            StatusCode::NOT_FOUND,
            json!({
                "errorclass": "StateNotFoundError",
                "requested_state": wanted,
                "message": format!("Could not find requested state \"{wanted}\""),
            }),
        ),
        EngineError::NoTransition { from_id, to_id, .. } => (
            StatusCode::CONFLICT,
            json!({
                "errorclass": "NoValidTransitionError",
                "sourcestate": format!("{paths}/states/{from_id}"),
                "targetstate": format!("{paths}/states/{to_id}"),
                "message": message,
            }),
        ),
        EngineError::ConditionNotMet { transition_id, condition, .. } => (
            StatusCode::CONFLICT,
            json!({
                "errorclass": "ConditionNotMetError",
                "transition": format!("{paths}/transitions/{transition_id}"),
                "condition": null,
                "condition_rule": condition,
                "message": message,
            }),
        ),
        _ => return None,
    })
}

/// Addresses or ids by the name of the external system.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct ExternalIdsBody {
    #[schema(value_type = BTreeMap<String, String>, example = json!({"XNAT": "XNAT_S00001"}))]
    external_ids: Given<BTreeMap<String, String>>,
}

/// Addresses by the name of the external system.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct ExternalUrlsBody {
    #[schema(value_type = BTreeMap<String, String>, example = json!({"XNAT": "https://xnat.example.com/base"}))]
    external_urls: Given<BTreeMap<String, String>>,
}

/// The id that a system has.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct ExternalIdBody {
    #[schema(value_type = String, example = "XNAT_S00001", max_length = 1024)]
    external_id: Given<String>,
}

/// The address at which a system shows it.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct ExternalUrlBody {
    #[schema(value_type = String, example = "https://xnat.example.com/base", max_length = 1024)]
    external_url: Given<String>,
}

impl ExternalIdsBody {
    pub(super) async fn set(self, app: &App, linked: Linked) -> Result<(), HttpError> {
        set_all(app, linked, "external_ids", self.external_ids).await
    }
}

impl ExternalUrlsBody {
    pub(super) async fn set(self, app: &App, linked: Linked) -> Result<(), HttpError> {
        set_all(app, linked, "external_urls", self.external_urls).await
    }
}

impl ExternalIdBody {
    pub(super) async fn set(self, app: &App, linked: Linked, system: String) -> Result<(), HttpError> {
        set_one(app, linked, "external_id", system, self.external_id).await
    }
}

impl ExternalUrlBody {
    pub(super) async fn set(self, app: &App, linked: Linked, system: String) -> Result<(), HttpError> {
        set_one(app, linked, "external_url", system, self.external_url).await
    }
}

async fn set_all(
    app: &App,
    linked: Linked,
    field: &str,
    values: Given<BTreeMap<String, String>>,
) -> Result<(), HttpError> {
    let mut problems = Problems::default();
    let values = problems.required(field, values);
    for value in values.iter().flat_map(BTreeMap::values) {
        check_external(&mut problems, field, Some(value));
    }
    let values = problems.all(values)?;
    Ok(revise::set_links(app.engine.database(), linked, &values).await?)
}

/// An id or address that can be kept, and that is no script when somebody follows it.
fn check_external(problems: &mut Problems, field: &str, value: Option<&str>) {
    let Some(value) = value else { return };
    if value.trim().is_empty() {
        problems.add(field, "is empty; DELETE takes it away");
    }
    if value.chars().count() > 1024 {
        problems.add(field, "has more than 1024 characters");
    }
    let scheme = url::Url::parse(value.trim()).ok().map(|url| url.scheme().to_owned());
    if field.starts_with("external_url")
        && scheme.is_some_and(|one| ["javascript", "data", "vbscript"].contains(&one.as_str()))
    {
        problems.add(field, "is no address of a page");
    }
}

async fn set_one(
    app: &App,
    linked: Linked,
    field: &str,
    system: String,
    value: Given<String>,
) -> Result<(), HttpError> {
    let mut problems = Problems::default();
    let value = problems.required(field, value);
    check_external(&mut problems, field, value.as_deref());
    let value = problems.all(value)?;
    Ok(revise::set_links(app.engine.database(), linked, &BTreeMap::from([(system, value)])).await?)
}

/// The id that a system has for a subject or an experiment.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct LinkBody {
    #[schema(value_type = Option<i32>, example = 1)]
    subject_id: Given<String>,
    /// Id, label or URI (the name in v1).
    #[schema(value_type = Option<String>)]
    subject: Given<String>,
    #[schema(value_type = Option<i32>)]
    experiment_id: Given<String>,
    /// Id, label or URI (the name in v1).
    #[schema(value_type = Option<String>)]
    experiment: Given<String>,
    #[schema(value_type = Option<String>, example = "XNAT")]
    external_system_name: Given<String>,
    /// Name, id or URI (the name in v1).
    #[schema(value_type = Option<String>)]
    external_system: Given<String>,
    #[schema(value_type = Option<String>, example = "XNAT_S00001", max_length = 1024)]
    external_id: Given<String>,
}

/// What a link says: the target's reference, the system, the id.
struct ReadLink {
    target: String,
    system: external_system::Model,
    external_id: String,
}

async fn read_link(
    app: &App,
    target_field: &str,
    target: Given<String>,
    system: Given<String>,
    external_id: Given<String>,
) -> Result<ReadLink, HttpError> {
    let mut problems = Problems::default();
    let target = problems.required(target_field, target);
    let system = problems.required("external_system_name", system);
    let external_id = problems.required("external_id", external_id);
    check_external(&mut problems, "external_id", external_id.as_deref());
    let ((target, system), external_id) = problems.all(target.zip(system).zip(external_id))?;
    let connection = app.engine.database().reader();
    let system = lookup::external_system(connection, &Reference::label_first(&system)).await?;
    Ok(ReadLink { target, system, external_id })
}

/// Adds a subject's link; with `replace`, sets it whether it is there or not.
pub(super) async fn link_subject(
    app: &App,
    body: LinkBody,
    replace: bool,
) -> Result<external_subject_links::Model, HttpError> {
    let target = body.subject_id.or(body.subject);
    let link =
        read_link(app, "subject_id", target, body.external_system_name.or(body.external_system), body.external_id)
            .await?;
    let database = app.engine.database();
    let subject = lookup::subject(database.reader(), &Reference::parse(&link.target)).await?;
    if !replace {
        return Ok(revise::add_subject_link(database, subject.id, &link.system, &link.external_id).await?);
    }
    let values = BTreeMap::from([(link.system.system_name.clone(), link.external_id)]);
    revise::set_links(database, Linked::Subject(subject.id), &values).await?;
    let found = external_subject_links::Entity::find().filter(external_subject_links::Column::SubjectId.eq(subject.id));
    let found = found
        .filter(external_subject_links::Column::ExternalSystemId.eq(link.system.id))
        .one(database.reader())
        .await?;
    found.ok_or_else(|| HttpError::Conflict("The link was taken away at the same moment.".to_owned()))
}

/// The same of an experiment.
pub(super) async fn link_experiment(
    app: &App,
    body: LinkBody,
    replace: bool,
) -> Result<external_experiment_links::Model, HttpError> {
    let target = body.experiment_id.or(body.experiment);
    let link =
        read_link(app, "experiment_id", target, body.external_system_name.or(body.external_system), body.external_id)
            .await?;
    let database = app.engine.database();
    let experiment = lookup::experiment(database.reader(), &Reference::parse(&link.target)).await?;
    if !replace {
        return Ok(revise::add_experiment_link(database, experiment.id, &link.system, &link.external_id).await?);
    }
    let values = BTreeMap::from([(link.system.system_name.clone(), link.external_id)]);
    revise::set_links(database, Linked::Experiment(experiment.id), &values).await?;
    let found = external_experiment_links::Entity::find()
        .filter(external_experiment_links::Column::ExperimentId.eq(experiment.id));
    let found = found
        .filter(external_experiment_links::Column::ExternalSystemId.eq(link.system.id))
        .one(database.reader())
        .await?;
    found.ok_or_else(|| HttpError::Conflict("The link was taken away at the same moment.".to_owned()))
}

/// A series of an experiment.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct ScanBody {
    #[schema(value_type = Option<String>, example = "T1w")]
    scantype_protocol: Given<String>,
    /// Protocol, id or URI (the name in v1).
    #[schema(value_type = Option<String>)]
    scantype: Given<String>,
    #[schema(value_type = Option<i32>, example = 1)]
    experiment_id: Given<String>,
    /// Id, label or URI (the name in v1).
    #[schema(value_type = Option<String>)]
    experiment: Given<String>,
}

pub(super) async fn create_scan(app: &App, body: ScanBody) -> Result<scan::Model, HttpError> {
    let mut problems = Problems::default();
    let scantype = problems.required("scantype_protocol", body.scantype_protocol.or(body.scantype));
    let experiment = problems.required("experiment_id", body.experiment_id.or(body.experiment));
    let (scantype, experiment) = problems.all(scantype.zip(experiment))?;
    let database = app.engine.database();
    let experiment = lookup::experiment(database.reader(), &Reference::parse(&experiment)).await?;
    let scantype = lookup::scantype(database.reader(), &Reference::label_first(&scantype)).await?;
    Ok(revise::add_scan(database, experiment.id, &scantype).await?)
}

/// Why something is done.
#[derive(Debug, Default, Deserialize, ToSchema, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(super) struct ReasonBody {
    /// Kept in the history.
    #[schema(value_type = String, example = "scanned twice by mistake")]
    #[param(value_type = Option<String>, example = "scanned twice by mistake")]
    reason: Given<String>,
}

impl ReasonBody {
    /// # Errors
    /// 400 without one.
    pub(super) fn read(self) -> Result<String, HttpError> {
        let mut problems = Problems::default();
        let reason = problems.required("reason", self.reason);
        let reason = problems.all(reason)?;
        if reason.trim().is_empty() {
            return Err(invalid("reason", "is empty"));
        }
        Ok(reason.trim().to_owned())
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self { reason: self.reason.or(other.reason) }
    }
}

/// Loads a workflow from the text of its file.
pub(super) async fn load_workflow(app: &App, text: &str) -> Result<crate::entity::workflow::Model, HttpError> {
    let checked = workflow::check(text, &crate::callback::FUNCTIONS);
    let Some(definition) = checked.definition else {
        let problems: Vec<String> = checked.problems.iter().map(ToString::to_string).collect();
        return Err(invalid("workflow_definition", problems.join("; ")));
    };
    workflow::load(app.engine.database(), &definition).await.map_err(|error| EngineError::from(error).into())
}

/// A label in a list that is imported.
pub(super) fn label_of(text: Option<&Value>, field: &str) -> Result<Label, String> {
    let text = text.ok_or_else(|| format!("{field} is required"))?;
    let text = match text {
        Value::String(text) => text.clone(),
        Value::Number(number) if !number.is_f64() => number.to_string(),
        _ => return Err(format!("{field} must be a text")),
    };
    Label::parse(&text).map_err(|error| format!("{field} {error}"))
}
