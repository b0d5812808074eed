//! Ids and URLs of cohorts, subjects and experiments in external systems: set individually, together, or as links.

use std::collections::BTreeMap;

use sea_orm::{ColumnTrait, QueryFilter};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::context::Context;
use crate::entity::{external_experiment_links, external_subject_links, external_system};
use crate::http::HttpError;
use crate::study::link::{self, Linked};
use crate::study::{Reference, Visible};

use super::input::{Given, Problems};
use super::lookup;

/// URLs or ids by the name of the external system.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct ExternalIdsBody {
    #[schema(value_type = BTreeMap<String, String>, example = json!({"XNAT": "XNAT_S00001"}))]
    external_ids: Given<BTreeMap<String, String>>,
}

/// URLs by the name of the external system.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct ExternalUrlsBody {
    #[schema(value_type = BTreeMap<String, String>, example = json!({"XNAT": "https://xnat.example.com/base"}))]
    external_urls: Given<BTreeMap<String, String>>,
}

/// The id in the external system.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct ExternalIdBody {
    #[schema(value_type = String, example = "XNAT_S00001", max_length = 1024)]
    external_id: Given<String>,
}

/// URL of its page in the external system.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct ExternalUrlBody {
    #[schema(value_type = String, example = "https://xnat.example.com/base", max_length = 1024)]
    external_url: Given<String>,
}

impl ExternalIdsBody {
    pub(super) async fn set(self, ctx: &Context, app: &App, linked: Linked) -> Result<(), HttpError> {
        set_all(ctx, app, linked, "external_ids", self.external_ids).await
    }
}

impl ExternalUrlsBody {
    pub(super) async fn set(self, ctx: &Context, app: &App, linked: Linked) -> Result<(), HttpError> {
        set_all(ctx, app, linked, "external_urls", self.external_urls).await
    }
}

impl ExternalIdBody {
    pub(super) async fn set(self, ctx: &Context, app: &App, linked: Linked, system: String) -> Result<(), HttpError> {
        set_one(ctx, app, linked, "external_id", system, self.external_id).await
    }
}

impl ExternalUrlBody {
    pub(super) async fn set(self, ctx: &Context, app: &App, linked: Linked, system: String) -> Result<(), HttpError> {
        set_one(ctx, app, linked, "external_url", system, self.external_url).await
    }
}

async fn set_all(
    ctx: &Context,
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
    Ok(link::set_links(ctx, app.engine.database(), linked, &values).await?)
}

/// Checks that an id or URL is valid, and not a script that runs when a user follows it.
fn check_external(problems: &mut Problems, field: &str, value: Option<&str>) {
    let Some(value) = value else { return };
    if value.trim().is_empty() {
        problems.add(field, "must not be empty; use DELETE to remove it");
    }
    if value.chars().count() > 1024 {
        problems.add(field, "must be at most 1024 characters");
    }
    let scheme = url::Url::parse(value.trim()).ok().map(|url| url.scheme().to_owned());
    if field.starts_with("external_url")
        && scheme.is_some_and(|one| ["javascript", "data", "vbscript"].contains(&one.as_str()))
    {
        problems.add(field, "is not a valid URL of a page");
    }
}

async fn set_one(
    ctx: &Context,
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
    Ok(link::set_links(ctx, app.engine.database(), linked, &BTreeMap::from([(system, value)])).await?)
}

/// The id of a subject or an experiment in an external system.
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

/// The fields of a link: the target's reference, the system, the id.
struct ReadLink {
    target: String,
    system: external_system::Model,
    external_id: String,
}

async fn read_link(
    ctx: &Context,
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
    let connection = app.statement();
    let system = lookup::external_system(ctx, connection, &Reference::label_first(&system)).await?;
    Ok(ReadLink { target, system, external_id })
}

/// Adds a subject's link; with `replace`, sets it whether it exists or not.
pub(super) async fn link_subject(
    ctx: &Context,
    app: &App,
    body: LinkBody,
    replace: bool,
) -> Result<external_subject_links::Model, HttpError> {
    let target = body.subject_id.or(body.subject);
    let link =
        read_link(ctx, app, "subject_id", target, body.external_system_name.or(body.external_system), body.external_id)
            .await?;
    let database = app.engine.database();
    let subject = lookup::subject(ctx, app.statement(), &Reference::parse(&link.target)).await?;
    if !replace {
        return Ok(link::add_subject_link(ctx, database, subject.id, &link.system, &link.external_id).await?);
    }
    let values = BTreeMap::from([(link.system.system_name.clone(), link.external_id)]);
    link::set_links(ctx, database, Linked::Subject(subject.id), &values).await?;
    let found =
        external_subject_links::Entity::visible(ctx).filter(external_subject_links::Column::SubjectId.eq(subject.id));
    let found =
        found.filter(external_subject_links::Column::ExternalSystemId.eq(link.system.id)).one(app.statement()).await?;
    found.ok_or_else(|| HttpError::Conflict("The link was deleted concurrently.".to_owned()))
}

/// The same for an experiment.
pub(super) async fn link_experiment(
    ctx: &Context,
    app: &App,
    body: LinkBody,
    replace: bool,
) -> Result<external_experiment_links::Model, HttpError> {
    let target = body.experiment_id.or(body.experiment);
    let link = read_link(
        ctx,
        app,
        "experiment_id",
        target,
        body.external_system_name.or(body.external_system),
        body.external_id,
    )
    .await?;
    let database = app.engine.database();
    let experiment = lookup::experiment(ctx, app.statement(), &Reference::parse(&link.target)).await?;
    if !replace {
        return Ok(link::add_experiment_link(ctx, database, experiment.id, &link.system, &link.external_id).await?);
    }
    let values = BTreeMap::from([(link.system.system_name.clone(), link.external_id)]);
    link::set_links(ctx, database, Linked::Experiment(experiment.id), &values).await?;
    let found = external_experiment_links::Entity::visible(ctx)
        .filter(external_experiment_links::Column::ExperimentId.eq(experiment.id));
    let found = found
        .filter(external_experiment_links::Column::ExternalSystemId.eq(link.system.id))
        .one(app.statement())
        .await?;
    found.ok_or_else(|| HttpError::Conflict("The link was deleted concurrently.".to_owned()))
}
