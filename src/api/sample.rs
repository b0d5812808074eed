//! Cohorts, subjects, experiments and scans, for both versions: parsing bodies and applying them.

use chrono::{NaiveDate, NaiveDateTime};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::context::Context;
use crate::engine::NewExperiment;
use crate::entity::{cohort, experiment, scan, subject};
use crate::http::HttpError;
use crate::study::Reference;
use crate::study::record::{CohortRecord, SubjectRecord};
use crate::study::revise::{self, CohortChanges, SubjectChanges};

use super::input::{Given, Problems};
use super::lookup;

/// Fields to create or update a cohort.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct CohortBody {
    #[schema(value_type = Option<String>, example = "baseline", max_length = 100)]
    label: Given<String>,
    #[schema(value_type = Option<String>, example = "First visit")]
    description: Given<String>,
}

pub(super) async fn create_cohort(ctx: &Context, app: &App, body: CohortBody) -> Result<cohort::Model, HttpError> {
    let mut problems = Problems::default();
    let label = problems.required("label", body.label);
    let label = problems.label("label", label);
    let description = problems.optional("description", body.description);
    let label = problems.all(label)?;
    Ok(revise::create_cohort(ctx, app.engine.database(), &label, description).await?)
}

pub(super) async fn update_cohort(
    ctx: &Context,
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
    Ok(revise::update_cohort(ctx, app.engine.database(), id, changes, is_guarded, seen).await?)
}

/// Fields to create or update a subject.
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
    ctx: &Context,
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
    let cohort = lookup::cohort(ctx, app.statement(), &Reference::label_first(&cohort)).await?;
    Ok(revise::create_subject(ctx, database, cohort.id, &label, date_of_birth).await?)
}

pub(super) async fn update_subject(
    ctx: &Context,
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
        Some(cohort) => Some(lookup::cohort(ctx, app.statement(), &Reference::label_first(&cohort)).await?.id),
        None => None,
    };
    let changes = SubjectChanges { label, cohort_id, date_of_birth };
    Ok(revise::update_subject(ctx, database, id, changes, seen, app.engine.clock().now()).await?)
}

/// Fields to create an experiment. Without `workflow` it follows the newest workflow.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct ExperimentBody {
    #[schema(value_type = Option<String>, example = "sub-01_ses-1", max_length = 100)]
    label: Given<String>,
    /// ISO 8601; UTC unless an offset is given.
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

/// Creates an experiment. `named` says how v1 interprets `subject`.
pub(super) async fn create_experiment(
    ctx: &Context,
    app: &App,
    body: ExperimentBody,
    subject_field: &str,
    named: Option<&str>,
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
    let connection = app.statement();
    let subject = lookup::subject(ctx, connection, &lookup::filtered(&subject, named)?).await?;
    let workflow = match workflow {
        Some(text) => Some(lookup::workflow(ctx, connection, &Reference::label_first(&text)).await?.label),
        None => None,
    };
    let new = NewExperiment { subject_id: subject.id, label, scandate, workflow, variables: Vec::new() };
    Ok(app.engine.create_experiment(ctx, &new).await?)
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

pub(super) async fn create_scan(ctx: &Context, app: &App, body: ScanBody) -> Result<scan::Model, HttpError> {
    let mut problems = Problems::default();
    let scantype = problems.required("scantype_protocol", body.scantype_protocol.or(body.scantype));
    let experiment = problems.required("experiment_id", body.experiment_id.or(body.experiment));
    let (scantype, experiment) = problems.all(scantype.zip(experiment))?;
    let database = app.engine.database();
    let experiment = lookup::experiment(ctx, app.statement(), &Reference::parse(&experiment)).await?;
    let scantype = lookup::scantype(ctx, app.statement(), &Reference::label_first(&scantype)).await?;
    Ok(revise::add_scan(ctx, database, experiment.id, &scantype).await?)
}
