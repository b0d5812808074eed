//! Many items in one request: bulk transitions, and imports of subjects. Each item is processed separately: an invalid
//! one does not affect the others, and each has its own result.

use std::collections::BTreeSet;

use axum::extract::State;
use chrono::{NaiveDate, NaiveDateTime};
use sea_orm::EntityTrait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::show::Summary;
use crate::api::access::May;
use crate::api::input::{Body, Given, ListBody, Problems, Readable};
use crate::api::lookup;
use crate::api::output::Addresses;
use crate::api::state::{self, StateBody};
use crate::app::App;
use crate::context::Context;
use crate::entity::external_system;
use crate::http::HttpError;
use crate::http::needs::{SampleAdd, SampleStateUpdate};
use crate::import::{Difference, ScanKind, Session, register_session, register_subject};
use crate::study::listing::Named;
use crate::study::register::{self, Registered};
use crate::study::{Label, Reference, VariableValue, limits};

/// Maximum number of items in one request, so that it ends in time.
const MOST: usize = 1000;

/// The error of one item: the others continue, and the result is reported. Internal errors are only logged.
fn told(error: &HttpError) -> String {
    if error.status().is_server_error() {
        tracing::error!(%error, "one item of a batch failed");
        let message = error.message();
        return if message.is_empty() { "internal server error; try again".to_owned() } else { message };
    }
    error.to_string()
}

/// Experiments to move to one state.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct BulkBody {
    /// Ids.
    #[schema(value_type = Vec<i32>, example = json!([1, 2, 3]), max_items = 1000)]
    experiments: Given<Vec<i32>>,
    /// Label of the state in the workflow of each experiment.
    #[schema(value_type = String, example = "processing")]
    state: Given<String>,
    /// A note for the history.
    #[schema(value_type = Option<String>)]
    freetext: Given<String>,
}

/// The result for one experiment.
#[derive(Serialize, ToSchema)]
pub(super) struct BulkResult {
    #[schema(example = 1)]
    experiment: i32,
    success: bool,
    /// The current state; null if the experiment does not exist.
    state: Option<Summary>,
    /// Why it did not move.
    #[schema(value_type = Option<Object>)]
    error: Option<Value>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct BulkAnswer {
    /// In the order in which they were requested.
    results: Vec<BulkResult>,
    succeeded: usize,
    failed: usize,
}

/// Moves many experiments independently: some may succeed while others fail. At most 1000 in one request.
#[utoipa::path(post, path = "/experiments/bulk/transition", tag = "experiments", request_body = BulkBody,
    security(("login" = ["sample_state_update"])), responses((status = 200, body = BulkAnswer)))]
pub(super) async fn bulk_transition(
    State(app): State<App>,
    may: May<SampleStateUpdate>,
    addresses: Addresses,
    Body(body): Body<BulkBody>,
) -> Result<axum::Json<BulkAnswer>, HttpError> {
    let ctx = &may.caller.ctx;
    let mut problems = Problems::default();
    let experiments = problems.required("experiments", body.experiments);
    let state = problems.required("state", body.state);
    let freetext = problems.optional("freetext", body.freetext);
    if experiments.as_ref().is_some_and(|all| all.len() > MOST) {
        problems.add("experiments", format!("must have at most {MOST} items"));
    }
    let (experiments, state) = problems.all(experiments.zip(state))?;
    let paths = addresses.path("/api/v2");
    let mut results = Vec::with_capacity(experiments.len());
    for id in experiments {
        let wanted = StateBody::new(&state, freetext.as_deref());
        let outcome = state::change_state(ctx, &app, id, wanted, "state", &paths, None).await;
        results.push(match outcome {
            Ok(change) => BulkResult {
                experiment: id,
                success: change.error.is_none(),
                state: Some(addresses.summary("states", change.state)),
                error: change.error,
            },
            Err(error) => {
                let error = Some(serde_json::json!({ "message": told(&error) }));
                BulkResult { experiment: id, success: false, state: None, error }
            }
        });
    }
    let succeeded = results.iter().filter(|result| result.success).count();
    Ok(axum::Json(BulkAnswer { failed: results.len() - succeeded, succeeded, results }))
}

/// A subject with its experiments. Each item is validated separately, so that one invalid item does not affect the
/// others.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the description")]
pub(super) struct ImportedSubject {
    #[schema(example = "baseline")]
    cohort: String,
    #[schema(example = "sub-01")]
    label: String,
    date_of_birth: Option<NaiveDate>,
    /// By the name of the external system; only set when the subject is new.
    external_ids: Option<std::collections::BTreeMap<String, String>>,
    experiments: Option<Vec<ImportedExperiment>>,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "for the description")]
pub(super) struct ImportedExperiment {
    #[schema(example = "sub-01_ses-1")]
    label: String,
    #[schema(example = "2024-03-01T10:00:00")]
    scandate: String,
    /// Label or id; the newest workflow by default.
    workflow: Option<String>,
    /// Set when the experiment is created, so that the conditions of the first callbacks can use them.
    #[schema(value_type = Option<Object>)]
    variables: Option<Value>,
    scans: Option<Vec<ImportedScan>>,
    /// By the name of the external system.
    external_ids: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "for the description")]
pub(super) struct ImportedScan {
    #[schema(example = "MR")]
    modality: String,
    #[schema(example = "T1w")]
    protocol: String,
}

/// The result for one subject.
#[derive(Serialize, ToSchema)]
pub(super) struct ImportResult {
    subject: Option<Summary>,
    /// Whether the subject was added.
    is_new: bool,
    experiments: Vec<ImportedExperimentResult>,
    /// Fields in which the stored subject differs from the request; the stored values are kept.
    differences: Vec<ImportDifference>,
    /// Why the subject was rejected.
    error: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct ImportedExperimentResult {
    /// Null if it was rejected, or skipped because its subject is archived.
    experiment: Option<Summary>,
    /// Whether the experiment was added; an existing one is left unchanged.
    is_new: bool,
    /// Fields in which the stored experiment differs from the request; the stored values are kept.
    differences: Vec<ImportDifference>,
    /// Why the experiment was rejected.
    error: Option<String>,
}

impl ImportedExperimentResult {
    fn wrong(error: String) -> Self {
        Self { experiment: None, is_new: false, differences: Vec::new(), error: Some(error) }
    }
}

/// A stored field whose value differs from the request. To change it, use the resource itself.
#[derive(Serialize, ToSchema)]
pub(super) struct ImportDifference {
    /// `date_of_birth`, `scan_date`, `workflow`, `var:NAME`, `id:SYSTEM`, `external_ids.SYSTEM`, `scans of PROTOCOL`.
    #[schema(example = "scan_date")]
    field: String,
    #[schema(example = "2024-01-02T10:00:00")]
    stored: String,
    #[schema(example = "2024-01-03T10:00:00")]
    given: String,
}

impl ImportDifference {
    fn new(difference: &Difference) -> Self {
        let Difference { field, stored, given, .. } = difference;
        Self { field: field.clone(), stored: stored.clone(), given: given.clone() }
    }
}

fn shown(differences: &[Difference]) -> Vec<ImportDifference> {
    differences.iter().map(ImportDifference::new).collect()
}

#[derive(Serialize, ToSchema)]
pub(super) struct ImportAnswer {
    /// In the order of the request.
    results: Vec<ImportResult>,
    /// Number of subjects that were added.
    subjects: usize,
    /// Number of experiments that were added.
    experiments: usize,
    /// Number of subjects and experiments that were rejected.
    errors: usize,
}

/// Imports a list of subjects with their experiments. Existing ones, found by their labels, are left unchanged, so that
/// the same list can be sent again; differences are reported in `differences`. Errors are reported per item and do not
/// affect other items. At most 1000 subjects and 1000 experiments. Archived subjects and experiments stay archived.
#[utoipa::path(post, path = "/import", tag = "service", request_body = Vec<ImportedSubject>,
    security(("login" = ["sample_add"])), responses((status = 200, body = ImportAnswer)))]
pub(super) async fn import_subjects(
    State(app): State<App>,
    may: May<SampleAdd>,
    addresses: Addresses,
    ListBody(items): ListBody,
) -> Result<axum::Json<ImportAnswer>, HttpError> {
    let ctx = &may.caller.ctx;
    let experiments = items.iter().map(|item| item["experiments"].as_array().map_or(0, Vec::len)).sum::<usize>();
    if items.len() > MOST || experiments > MOST {
        let message = format!("At most {MOST} subjects and {MOST} experiments in one request.");
        return Err(HttpError::BadRequest(message));
    }
    let systems = external_system::Entity::find().all(app.statement()).await?;
    let systems: BTreeSet<String> = systems.into_iter().map(|system| system.system_name).collect();
    let mut results = Vec::with_capacity(items.len());
    for item in &items {
        results.push(import_subject(ctx, &app, &addresses, &systems, item).await?);
    }
    let experiments = || results.iter().flat_map(|result: &ImportResult| &result.experiments);
    let wrong = results.iter().filter(|result| result.error.is_some()).count();
    Ok(axum::Json(ImportAnswer {
        subjects: results.iter().filter(|result| result.is_new).count(),
        experiments: experiments().filter(|result| result.is_new).count(),
        errors: wrong + experiments().filter(|result| result.error.is_some()).count(),
        results,
    }))
}

/// A parsed subject of the list.
struct ReadSubject {
    cohort: Label,
    label: Label,
    date_of_birth: Option<NaiveDate>,
    external_ids: Vec<(Label, String)>,
}

fn read_subject(item: &Value, systems: &BTreeSet<String>) -> Result<ReadSubject, String> {
    if !item.is_object() {
        return Err("must be an object".to_owned());
    }
    let given = item.get("date_of_birth").filter(|value| !value.is_null());
    Ok(ReadSubject {
        cohort: label_of(item.get("cohort").or_else(|| item.get("cohort_label")), "cohort")?,
        label: label_of(item.get("label"), "label")?,
        date_of_birth: given.map(NaiveDate::read).transpose().map_err(|problem| format!("date_of_birth: {problem}"))?,
        external_ids: read_external_ids(item, systems)?,
    })
}

fn read_external_ids(item: &Value, systems: &BTreeSet<String>) -> Result<Vec<(Label, String)>, String> {
    let Some(given) = item.get("external_ids").filter(|value| !value.is_null()) else { return Ok(Vec::new()) };
    let entries = given.as_object().ok_or("external_ids must be an object")?;
    let entry = |(name, value): (&String, &Value)| {
        let name = Label::parse(name).map_err(|error| format!("external_ids: '{name}' {error}"))?;
        // A typing error must not create a new system.
        if !systems.contains(name.as_str()) {
            return Err(format!("external_ids: unknown external system '{name}'"));
        }
        let id = String::read(value).map_err(|problem| format!("external_ids: {name} {problem}"))?;
        limits::external_id(&id).map_err(|problem| format!("external_ids: {name} {problem}"))?;
        Ok((name, id))
    };
    entries.iter().map(entry).collect()
}

fn read_session(subject: &ReadSubject, item: &Value, systems: &BTreeSet<String>) -> Result<Session, String> {
    let label = label_of(item.get("label"), "label")?;
    let scandate = item.get("scandate").ok_or("scandate is required")?;
    let scandate = NaiveDateTime::read(scandate).map_err(|problem| format!("scandate: {problem}"))?;
    let given = |name: &str| item.get(name).filter(|value| !value.is_null());
    let mut variables = Vec::new();
    if let Some(given) = given("variables") {
        for (name, value) in given.as_object().ok_or("variables must be an object")? {
            limits::variable_name(name).map_err(|problem| format!("variables: {problem}"))?;
            variables.push((name.clone(), VariableValue::from_json(value.clone())));
        }
    }
    let mut scans = Vec::new();
    if let Some(given) = given("scans") {
        for scan in given.as_array().ok_or("scans must be a list")? {
            scans.push(ScanKind {
                modality: label_of(scan.get("modality"), "scans: modality")?.to_string(),
                protocol: label_of(scan.get("protocol"), "scans: protocol")?.to_string(),
            });
        }
    }
    let workflow = given("workflow").map(String::read).transpose().map_err(|problem| format!("workflow {problem}"))?;
    Ok(Session {
        place: format!("experiment {label}"),
        cohort: subject.cohort.clone(),
        subject: subject.label.clone(),
        date_of_birth: subject.date_of_birth,
        experiment: label,
        scandate,
        workflow,
        variables,
        scans,
        external_ids: read_external_ids(item, systems)?,
    })
}

async fn import_subject(
    ctx: &Context,
    app: &App,
    addresses: &Addresses,
    systems: &BTreeSet<String>,
    item: &Value,
) -> Result<ImportResult, HttpError> {
    let wrong = |error: String| ImportResult {
        subject: None,
        is_new: false,
        experiments: Vec::new(),
        differences: Vec::new(),
        error: Some(error),
    };
    let subject = match read_subject(item, systems) {
        Ok(subject) => subject,
        Err(error) => return Ok(wrong(error)),
    };
    // Neither new cohorts nor subjects in invisible cohorts can be created by a caller with some cohorts only.
    let reference = Reference::label(subject.cohort.as_str());
    if !ctx.sees_all()
        && let Err(error) = lookup::cohort(ctx, app.statement(), &reference).await
    {
        return Ok(wrong(told(&error)));
    }
    let sessions = match item.get("experiments") {
        None | Some(Value::Null) => &[][..],
        Some(Value::Array(sessions)) => sessions,
        Some(_) => return Ok(wrong("experiments must be a list".to_owned())),
    };
    let registered = register_subject(
        ctx,
        &app.engine,
        &subject.cohort,
        &subject.label,
        subject.date_of_birth,
        &subject.external_ids,
    )
    .await;
    let (registered, differences) = match registered.map_err(HttpError::from) {
        Ok(registered) => registered,
        Err(error) => return Ok(wrong(told(&error))),
    };
    let mut experiments = Vec::with_capacity(sessions.len());
    for item in sessions {
        let session = read_session(&subject, item, systems);
        let session = match session {
            Ok(session) => with_known_scantypes(ctx, app, session).await?,
            Err(error) => Err(error),
        };
        experiments.push(match session {
            Ok(session) => import_session(ctx, app, addresses, &session).await?,
            Err(error) => ImportedExperimentResult::wrong(error),
        });
    }
    let named = Named { id: registered.id, label: subject.label.to_string() };
    let subject = Some(addresses.summary("subjects", named));
    let differences = shown(&differences);
    Ok(ImportResult { subject, is_new: registered.is_new, experiments, differences, error: None })
}

/// A caller with some cohorts only cannot create scantypes, which are shared by all cohorts.
async fn with_known_scantypes(
    ctx: &Context,
    app: &App,
    session: Session,
) -> Result<Result<Session, String>, HttpError> {
    if ctx.sees_all() {
        return Ok(Ok(session));
    }
    let protocols = session.scans.iter().map(|scan| scan.protocol.as_str());
    let known = register::known_scantypes(app.statement(), protocols).await?;
    if let Some(scan) = session.scans.iter().find(|scan| !known.contains_key(&scan.protocol)) {
        return Ok(Err(format!("unknown scantype '{}', and you are not allowed to create it", scan.protocol)));
    }
    Ok(Ok(session))
}

async fn import_session(
    ctx: &Context,
    app: &App,
    addresses: &Addresses,
    session: &Session,
) -> Result<ImportedExperimentResult, HttpError> {
    match register_session(ctx, &app.engine, session).await.map_err(HttpError::from) {
        Ok(outcome) => {
            let label = session.experiment.to_string();
            let summary = |one: Registered| addresses.summary("experiments", Named { id: one.id, label });
            let is_new = outcome.experiment.is_some_and(|experiment| experiment.is_new);
            // The date of birth belongs to the subject, which reports its own differences.
            let differences = outcome.differences.iter().filter(|one| one.field != "date_of_birth");
            let differences = differences.map(ImportDifference::new).collect();
            Ok(ImportedExperimentResult {
                experiment: outcome.experiment.map(summary),
                is_new,
                differences,
                error: None,
            })
        }
        Err(error) => Ok(ImportedExperimentResult::wrong(told(&error))),
    }
}

/// Parses a label in an imported list.
fn label_of(text: Option<&Value>, field: &str) -> Result<Label, String> {
    let text = text.ok_or_else(|| format!("{field} is required"))?;
    let text = match text {
        Value::String(text) => text.clone(),
        Value::Number(number) if !number.is_f64() => number.to_string(),
        _ => return Err(format!("{field} must be a string")),
    };
    Label::parse(&text).map_err(|error| format!("{field} {error}"))
}
