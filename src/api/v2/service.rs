//! For administrators: timeouts, configuration files, workflow files.

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::show::{ExternalSystem, RoleSummary, Scantype, Summary, UserSummary};
use crate::api::access::{Administrator, By, Everywhere};
use crate::api::history::{self, CheckedTimeouts};
use crate::api::input::{Body, Given, Problems, invalid};
use crate::api::lookup::moment;
use crate::api::output::{Addresses, Created};
use crate::app::App;
use crate::callback::FUNCTIONS;
use crate::context::Context;
use crate::engine::EngineError;
use crate::http::HttpError;
use crate::http::needs::ActionUpdate;
use crate::import::{Configured, Existing, configure, read_configuration_in_background};
use crate::study::listing::Named;
use crate::workflow;

/// Times out overdue executions. The server does this automatically every second.
#[utoipa::path(post, path = "/service/check_timeouts", tag = "service", security(("login" = ["action_update"])),
    responses((status = 200, body = CheckedTimeouts)))]
pub(super) async fn check_timeouts(
    State(app): State<App>,
    Everywhere { caller, .. }: Everywhere<ActionUpdate>,
) -> Result<axum::Json<CheckedTimeouts>, HttpError> {
    let ctx = &caller.ctx;
    history::check_timeouts(ctx, &app).await.map(axum::Json)
}

/// A configuration file.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct ConfigBody {
    /// YAML with `roles`, `users`, `external_systems`, `scantypes`.
    #[schema(value_type = String, example = "scantypes:\n  - {modality: MR, protocol: T1w}\n")]
    config_definition: Given<String>,
}

/// The entries that were added or changed.
#[derive(Serialize, ToSchema)]
pub(super) struct ConfigAnswer {
    updated_at: String,
    users: Vec<UserSummary>,
    roles: Vec<RoleSummary>,
    external_systems: Vec<ExternalSystem>,
    scantypes: Vec<Scantype>,
}

async fn set_config(
    ctx: &Context,
    app: &App,
    addresses: &Addresses,
    body: ConfigBody,
    existing: Existing,
) -> Result<ConfigAnswer, HttpError> {
    let mut problems = Problems::default();
    let text = problems.required("config_definition", body.config_definition);
    let text = problems.all(text)?;
    let configuration = read_configuration_in_background(text).await.map_err(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        invalid("config_definition", problems.join("; "))
    })?;
    let now = app.engine.clock().now();
    let Configured { roles, users, external_systems, scantypes } =
        configure(ctx, app.engine.database(), &app.accounts, &configuration, existing, now).await?;
    Ok(ConfigAnswer {
        updated_at: moment(now),
        users: users.into_iter().map(|row| addresses.user_summary(row)).collect(),
        roles: roles.into_iter().map(|row| addresses.role_summary(row)).collect(),
        external_systems: external_systems.into_iter().map(|row| addresses.external_system(row)).collect(),
        scantypes: scantypes.into_iter().map(|row| addresses.scantype(row)).collect(),
    })
}

/// Adds roles, users, external systems and scantypes. Existing ones are left unchanged.
#[utoipa::path(post, path = "/service/config/import-config", tag = "service", request_body = ConfigBody,
    security(("login" = ["role:admin"])), responses((status = 201, body = ConfigAnswer)))]
pub(super) async fn import_config(
    State(app): State<App>,
    Administrator(caller): Administrator,
    addresses: Addresses,
    Body(body): Body<ConfigBody>,
) -> Result<(StatusCode, axum::Json<ConfigAnswer>), HttpError> {
    let ctx = &caller.ctx;
    Ok((StatusCode::CREATED, axum::Json(set_config(ctx, &app, &addresses, body, Existing::Kept).await?)))
}

/// Adds roles, users, external systems and scantypes, and overwrites existing ones.
#[utoipa::path(put, path = "/service/config/import-config", tag = "service", request_body = ConfigBody,
    security(("login" = ["role:admin"])), responses((status = 200, body = ConfigAnswer)))]
pub(super) async fn overwrite_config(
    State(app): State<App>,
    Administrator(caller): Administrator,
    addresses: Addresses,
    Body(body): Body<ConfigBody>,
) -> Result<axum::Json<ConfigAnswer>, HttpError> {
    let ctx = &caller.ctx;
    // The same rule for every way to change an account: PUT /users rejects it, too.
    let existing = match caller.by {
        By::Token(_) => Existing::OverwrittenButCredentials,
        _ => Existing::Overwritten,
    };
    Ok(axum::Json(set_config(ctx, &app, &addresses, body, existing).await?))
}

/// A workflow file.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct WorkflowBody {
    /// YAML.
    #[schema(value_type = String,
        example = "label: reading_1\nstates:\n- label: start\n  transitions: [{destination: reading}]\n- label: reading\n")]
    workflow_definition: Given<String>,
}

/// Loads a workflow. Its label must be new. All errors are reported at once, with line and column.
#[utoipa::path(post, path = "/service/config/import-workflow", tag = "service", request_body = WorkflowBody,
    security(("login" = ["role:admin"])), responses((status = 201, body = Summary)))]
pub(super) async fn import_workflow(
    State(app): State<App>,
    Administrator(caller): Administrator,
    addresses: Addresses,
    Body(body): Body<WorkflowBody>,
) -> Result<Created<Summary>, HttpError> {
    let ctx = &caller.ctx;
    let mut problems = Problems::default();
    let text = problems.required("workflow_definition", body.workflow_definition);
    let text = problems.all(text)?;
    let row = load_workflow(ctx, &app, &text).await?;
    let body = addresses.summary("workflows", Named { id: row.id, label: row.label });
    Ok(Created { location: body.uri.clone(), body })
}

/// Loads a workflow from the text of its file.
async fn load_workflow(ctx: &Context, app: &App, text: &str) -> Result<crate::entity::workflow::Model, HttpError> {
    let checked = workflow::check_in_background(text.to_owned(), &FUNCTIONS).await;
    let Some(definition) = checked.definition else {
        let problems: Vec<String> = checked.problems.iter().map(ToString::to_string).collect();
        return Err(invalid("workflow_definition", problems.join("; ")));
    };
    workflow::load(ctx, app.engine.database(), &definition).await.map_err(|error| EngineError::from(error).into())
}
