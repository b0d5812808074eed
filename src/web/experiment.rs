//! The page of an experiment, and its buttons.

use axum::extract::{Form, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::{Deserialize, Serialize};

use crate::account::{Permission, User};
use crate::app::App;
use crate::audit;
use crate::context::Context;
use crate::engine::{Exits, Possible, Target};
use crate::entity::{action, audit_event, experiment};
use crate::http::{HttpError, LoggedIn, Wants};
use crate::study::Visible;
use crate::study::dossier::Dossier;

use super::audit::EventRow;
use super::page::{missing, page_or_block};

/// A transition from the current state.
#[derive(Serialize)]
struct Way {
    state_id: i32,
    state: String,
    text: Option<String>,
    condition: Option<String>,
    holds: bool,
    error: Option<String>,
}

impl From<Possible> for Way {
    fn from(possible: Possible) -> Self {
        Self {
            holds: possible.holds(),
            state_id: possible.destination_id,
            text: possible.destination_text,
            state: possible.evaluation.destination,
            condition: possible.evaluation.condition,
            error: possible.evaluation.error,
        }
    }
}

#[derive(Serialize)]
struct ExperimentPage {
    experiment: Dossier,
    is_moving: bool,
    ways: Vec<Way>,
    /// Changes by users and scripts, the newest first.
    changes: Vec<EventRow>,
    /// Whether the viewer may move this experiment.
    may_move: bool,
    note: String,
    problem: Option<String>,
}

pub(super) async fn show_experiment(
    State(app): State<App>,
    user: LoggedIn,
    wants: Wants,
    Path(id): Path<i32>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    experiment_page(ctx, &app, &user.0, wants.fragment, id, String::new(), None).await
}

/// Maximum number of changes on the page; the audit log has all of them.
const MOST_CHANGES: u64 = 50;

/// The content of the page, read from one snapshot.
struct Seen {
    experiment: Dossier,
    /// `None` for an archived experiment, which does not move.
    exits: Option<Exits>,
    changes: Vec<audit_event::Model>,
}

async fn see(ctx: &Context, app: &App, id: i32) -> Result<Seen, HttpError> {
    let snapshot = app.snapshot().await?;
    let row = experiment::Entity::visible_by_id(ctx, id)
        .one(&snapshot)
        .await?
        .ok_or_else(|| missing(ctx, "experiment", id))?;
    let exits = match row.archive_id {
        0 => Some(app.engine.exits(ctx, &snapshot, &row).await?),
        _ => None,
    };
    let changes = audit::by_experiment(&snapshot, id, MOST_CHANGES).await?;
    let experiment = Dossier::of(ctx, &snapshot, row).await?.ok_or_else(|| missing(ctx, "experiment", id))?;
    Ok(Seen { experiment, exits, changes })
}

/// The page, with the note and the problem of a rejected form.
async fn experiment_page(
    ctx: &Context,
    app: &App,
    user: &User,
    fragment: bool,
    id: i32,
    note: String,
    problem: Option<String>,
) -> Result<Response, HttpError> {
    let Seen { experiment, exits, changes } = see(ctx, app, id).await?;
    let ways = match exits {
        Some(exits) => app.engine.evaluate_exits(exits).await?,
        None => Vec::new(),
    };
    let may_move = user.in_cohort(experiment.cohort_id).may(Permission::SampleStateUpdate);
    let content = ExperimentPage {
        is_moving: experiment.is_moving(),
        changes: changes.into_iter().map(EventRow::from).collect(),
        ways: ways.into_iter().map(Way::from).collect(),
        experiment,
        may_move,
        note,
        problem,
    };
    page_or_block(app, "experiment/page.html", "experiments", user, content, fragment.then_some("live"))
}

#[derive(Deserialize)]
pub(super) struct TransitionForm {
    state: i32,
    version: i32,
    #[serde(default)]
    note: String,
}

pub(super) async fn transition_experiment(
    State(app): State<App>,
    user: LoggedIn,
    wants: Wants,
    Path(id): Path<i32>,
    Form(form): Form<TransitionForm>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let target = Target::Id(form.state);
    let moved = app.engine.transition(ctx, id, &target, Some(&form.note), Some(form.version)).await;
    match moved.map_err(HttpError::from) {
        Ok(_) if wants.fragment => experiment_page(ctx, &app, &user.0, true, id, String::new(), None).await,
        Ok(_) => Ok(Redirect::to(&format!("{}/experiments/{id}", app.settings.web.prefix)).into_response()),
        Err(error @ (HttpError::Conflict(_) | HttpError::BadRequest(_))) => {
            let status = error.status();
            let page =
                experiment_page(ctx, &app, &user.0, wants.fragment, id, form.note, Some(error.to_string())).await?;
            Ok((status, page).into_response())
        }
        Err(error) => Err(error),
    }
}

pub(super) async fn release_experiment(
    State(app): State<App>,
    user: LoggedIn,
    wants: Wants,
    Path(id): Path<i32>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    match app.engine.release_experiment(ctx, id).await.map_err(HttpError::from) {
        Ok(_) if wants.fragment => experiment_page(ctx, &app, &user.0, true, id, String::new(), None).await,
        Ok(_) => Ok(Redirect::to(&format!("{}/experiments/{id}", app.settings.web.prefix)).into_response()),
        Err(error @ HttpError::Conflict(_)) => {
            let status = error.status();
            let problem = Some(error.to_string());
            let page = experiment_page(ctx, &app, &user.0, wants.fragment, id, String::new(), problem).await?;
            Ok((status, page).into_response())
        }
        Err(error) => Err(error),
    }
}

/// Shows an action in the history of its experiment.
pub(super) async fn show_action(
    State(app): State<App>,
    user: LoggedIn,
    Path(id): Path<i32>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let action = action::Entity::visible_by_id(ctx, id).one(app.statement()).await?;
    let action = action.ok_or_else(|| missing(ctx, "action", id))?;
    let address = format!("{}/experiments/{}#action-{id}", app.settings.web.prefix, action.experiment_id);
    Ok((StatusCode::SEE_OTHER, [("location", address)]).into_response())
}
