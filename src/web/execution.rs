//! Callback executions: a run with its log, and the actions on it.

use axum::extract::{Form, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::{Deserialize, Serialize};

use crate::account::{Permission, User};
use crate::app::App;
use crate::context::Context;
use crate::engine::Intervention;
use crate::entity::kind::ExecutionResult;
use crate::entity::{action, callback, callback_execution, experiment, subject};
use crate::http::{HttpError, LoggedIn, Wants};
use crate::study::Visible;
use crate::study::dossier::{ExecutionEntry, execution_entry};

use super::page::{missing, page_or_block};

#[derive(Serialize)]
struct ExecutionPage {
    execution: ExecutionEntry,
    arguments: Option<String>,
    experiment_id: i32,
    experiment: String,
    action_id: i32,
    /// Whether the page may still change: this run, or the action that it belongs to, has not ended.
    is_live: bool,
    /// Whether the experiment is still in the state that the callback belongs to.
    is_current: bool,
    /// Whether the viewer may retry, skip or mark this run.
    may_intervene: bool,
    reason: String,
    problem: Option<String>,
}

pub(super) async fn show_execution(
    State(app): State<App>,
    user: LoggedIn,
    wants: Wants,
    Path(id): Path<i32>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    execution_page(ctx, &app, &user.0, wants.fragment, id, String::new(), None).await
}

async fn execution_page(
    ctx: &Context,
    app: &App,
    user: &User,
    fragment: bool,
    id: i32,
    reason: String,
    problem: Option<String>,
) -> Result<Response, HttpError> {
    let snapshot = app.snapshot().await?;
    let found =
        callback_execution::Entity::visible_by_id(ctx, id).find_also_related(callback::Entity).one(&snapshot).await?;
    let Some((execution, Some(callback))) = found else { return Err(missing(ctx, "callback execution", id)) };
    let found = action::Entity::visible_by_id(ctx, execution.action_id)
        .find_also_related(experiment::Entity)
        .one(&snapshot)
        .await?;
    let Some((action, Some(experiment))) = found else { return Err(missing(ctx, "callback execution", id)) };
    let subject = subject::Entity::visible_by_id(ctx, experiment.subject_id).one(&snapshot).await?;
    drop(snapshot);
    let here = user.in_cohort(subject.ok_or_else(|| missing(ctx, "callback execution", id))?.cohort_id);
    let content = ExecutionPage {
        arguments: callback.callback_arguments.clone(),
        is_live: !execution.status.is_resolved() || action.end_time.is_none(),
        execution: execution_entry(execution, callback),
        experiment_id: experiment.id,
        is_current: experiment.last_action_id == Some(action.id) && experiment.archive_id == 0,
        experiment: experiment.label,
        action_id: action.id,
        may_intervene: here.may(Permission::ActionUpdate),
        reason,
        problem,
    };
    page_or_block(app, "execution/page.html", "experiments", user, content, fragment.then_some("live"))
}

#[derive(Deserialize)]
pub(super) struct InterventionForm {
    what: String,
    #[serde(default)]
    reason: String,
}

pub(super) fn intervention(word: &str) -> Result<Intervention, HttpError> {
    Ok(match word {
        "retry" => Intervention::Retry,
        "skip" => Intervention::Skip,
        "success" => Intervention::Mark(ExecutionResult::Success),
        "failed" => Intervention::Mark(ExecutionResult::Failed),
        other => return Err(HttpError::BadRequest(format!("unknown action '{other}'"))),
    })
}

pub(super) async fn intervene(
    State(app): State<App>,
    user: LoggedIn,
    Path(id): Path<i32>,
    Form(form): Form<InterventionForm>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let what = intervention(&form.what)?;
    let reason = form.reason.trim();
    if reason.is_empty() {
        let problem = Some("Please give a reason; it is recorded in the log.".to_owned());
        let page = execution_page(ctx, &app, &user.0, false, id, String::new(), problem).await?;
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, page).into_response());
    }
    match app.engine.intervene(ctx, id, what, reason).await.map_err(HttpError::from) {
        Ok(_) => Ok(Redirect::to(&format!("{}/callback_executions/{id}", app.settings.web.prefix)).into_response()),
        Err(error @ HttpError::Conflict(_)) => {
            let page = execution_page(ctx, &app, &user.0, false, id, form.reason, Some(error.to_string())).await?;
            Ok((StatusCode::CONFLICT, page).into_response())
        }
        Err(error) => Err(error),
    }
}
