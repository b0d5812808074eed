//! Moving an experiment, and the error if it did not move, in the format of version 8.1.

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::app::App;
use crate::context::Context;
use crate::engine::{EngineError, Target};
use crate::entity::experiment;
use crate::http::HttpError;
use crate::study::Reference;
use crate::study::listing::Named;

use super::input::{Given, MISSING, Problems};
use super::lookup;

/// A requested state.
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

/// Result of a state change request.
pub(super) struct StateChange {
    /// 200, 404 or 409.
    pub status: StatusCode,
    /// The current state of the experiment.
    pub state: Named,
    /// Why it did not move, in the format of version 8.1.
    pub error: Option<Value>,
}

/// Moves an experiment. `paths` is the start of the URLs in the error (`/api/v2`). `seen` is the version that the
/// caller knows.
pub(super) async fn change_state(
    ctx: &Context,
    app: &App,
    experiment_id: i32,
    body: StateBody,
    state_field: &str,
    paths: &str,
    seen: Option<i32>,
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
    let outcome = app.engine.transition(ctx, experiment_id, &target, freetext.as_deref(), seen).await;
    let (status, error, experiment) = match outcome {
        Ok(experiment) => (StatusCode::OK, None, experiment),
        Err(error) => match refusal(&error, &wanted, paths) {
            Some((status, body)) => {
                let connection = app.statement();
                let experiment =
                    lookup::by_id::<experiment::Entity>(ctx, connection, "experiment", experiment_id).await?;
                (status, Some(body), experiment)
            }
            None if seen.is_some() && matches!(error, EngineError::MovedOn) => return Err(HttpError::Precondition),
            None => return Err(error.into()),
        },
    };
    let label = app.engine.state_label(&experiment).await?;
    Ok(StateChange { status, state: Named { id: experiment.state_id, label }, error })
}

/// The error in the format for clients of version 8.1.
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
