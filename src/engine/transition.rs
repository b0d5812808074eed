//! Manual transitions (E6), requested from pages, scripts and the command line.

use std::sync::Arc;

use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};

use serde_json::json;

use crate::audit;
use crate::context::Context;
use crate::entity::kind::ExecutionStatus;
use crate::entity::{action, callback, callback_execution, experiment, state, transition};
use crate::workflow::Graph;

use super::evaluate::any_condition;
use super::hold::end_hold;
use super::locked::{Entered, Locked, executions_of};
use super::run_log::{appended, storable};
use super::{Engine, EngineError, about, retried};

/// The requested state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Id(i32),
    /// Label of a state of the experiment's workflow.
    Label(String),
    /// Label, or else id: the form that people and scripts use.
    Either(String),
}

impl std::fmt::Display for Target {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => id.fmt(formatter),
            Self::Label(label) | Self::Either(label) => label.fmt(formatter),
        }
    }
}

impl Engine {
    /// Takes a transition out of the current state to `target` if its condition is met, and cancels the open callbacks of
    /// the state that is left. `seen` is the version of the experiment that the decision was based on.
    ///
    /// # Errors
    /// [`EngineError::StateNotFound`], [`EngineError::NoTransition`] and [`EngineError::ConditionNotMet`] when there is no
    /// such transition; [`EngineError::MovedOn`] when the experiment no longer has the version `seen`.
    pub async fn transition(
        &self,
        ctx: &Context,
        experiment_id: i32,
        target: &Target,
        note: Option<&str>,
        seen: Option<i32>,
    ) -> Result<experiment::Model, EngineError> {
        retried(async || {
            let mut locked = self.lock(ctx, experiment_id).await?;
            if seen.is_some_and(|seen| seen != locked.experiment.version) {
                return Err(EngineError::MovedOn);
            }
            let (transition, destination) = self.choose(ctx, &mut locked, target).await?;
            let from = locked.graph.state(locked.experiment.state_id).map(|state| state.label.clone());
            let event = about(&locked.experiment, "transition").before(json!({ "state": from }));
            let event = event.after(json!({ "state": destination.label })).because(note.unwrap_or_default());
            audit::record(ctx, &*locked.transaction, event).await?;
            // A person who moves the experiment has reviewed it.
            end_hold(ctx, &mut locked).await?;
            leave(ctx, &locked, "the experiment was moved manually").await?;
            let note = note.map(str::trim).filter(|note| !note.is_empty());
            let note = note.map_or_else(|| format!("Set to {} by {}", destination.label, ctx.actor().name), storable);
            if self.enter(ctx, &mut locked, &transition, &destination, Some(note)).await? == Entered::Skipped {
                self.settle(ctx, &mut locked).await?;
            }
            let experiment = locked.experiment.clone();
            self.commit(locked).await?;
            Ok(experiment)
        })
        .await
    }

    /// Chooses the first transition to the target whose condition is met.
    async fn choose(
        &self,
        ctx: &Context,
        locked: &mut Locked,
        target: &Target,
    ) -> Result<(transition::Model, state::Model), EngineError> {
        let (graph, here) = (Arc::clone(&locked.graph), locked.experiment.state_id);
        let wanted = find_state(&graph, target)?;
        let mut ways = graph.exits(here);
        ways.retain(|(transition, _)| transition.destination_state_id == wanted.id);
        if ways.is_empty() {
            return Err(EngineError::NoTransition {
                from: graph.state(here).map(|state| state.label.clone()).unwrap_or_default(),
                from_id: here,
                to: wanted.label.clone(),
                to_id: wanted.id,
            });
        }
        if !any_condition(ways.iter().map(|(transition, _)| transition.condition.as_deref())) {
            return Ok(ways.swap_remove(0));
        }
        let executions = executions_of(&*locked.transaction, locked.experiment.last_action_id).await?;
        let facts = self.facts_for(ctx, locked, &ways, &executions).await?;
        let evaluations = self.try_transitions(&ways, &facts, false, &mut locked.turn).await?;
        if let Some(index) = evaluations.iter().position(|one| one.test_result == Some(true)) {
            return Ok(ways.swap_remove(index));
        }
        let first = evaluations.into_iter().next();
        Err(EngineError::ConditionNotMet {
            transition_id: ways[0].0.id,
            condition: ways[0].0.condition.clone().unwrap_or_default(),
            error: first.and_then(|evaluation| evaluation.error),
        })
    }
}

fn find_state<'a>(graph: &'a Graph, target: &Target) -> Result<&'a state::Model, EngineError> {
    let found = match target {
        Target::Id(id) => graph.state(*id),
        Target::Label(label) => graph.state_labelled(label),
        Target::Either(text) => graph.state_labelled(text).or_else(|| text.parse().ok().and_then(|id| graph.state(id))),
    };
    found.ok_or_else(|| EngineError::StateNotFound { requested: target.to_string() })
}

/// Ends the last action: executions that are not resolved are skipped, and their logs name the user.
pub(super) async fn leave(ctx: &Context, locked: &Locked, why: &str) -> Result<(), EngineError> {
    let Some(action_id) = locked.experiment.last_action_id else { return Ok(()) };
    // An action into a state without callbacks ended as it began.
    if locked.graph.callbacks(locked.experiment.state_id).is_empty() {
        return Ok(());
    }
    let connection = &*locked.transaction;
    for (execution, callback) in executions_of(connection, Some(action_id)).await? {
        if !execution.status.is_resolved() {
            cancel(ctx, locked, &execution, &callback, why).await?;
        }
    }
    action::Entity::update_many()
        .col_expr(action::Column::EndTime, Expr::value(locked.now))
        .filter(action::Column::Id.eq(action_id))
        .filter(action::Column::EndTime.is_null())
        .exec(connection)
        .await?;
    Ok(())
}

async fn cancel(
    ctx: &Context,
    locked: &Locked,
    execution: &callback_execution::Model,
    callback: &callback::Model,
    why: &str,
) -> Result<(), EngineError> {
    let line = format!(
        "{} UTC: cancelled by {}: {why} while {} was {}",
        locked.now.format("%Y-%m-%d %H:%M:%S"),
        ctx.actor().name,
        callback.label,
        execution.status
    );
    // Regardless of the status that was read: a claim in between either waits for the row or finds it skipped.
    callback_execution::Entity::update_many()
        .col_expr(callback_execution::Column::Status, Expr::value(ExecutionStatus::Skipped))
        .col_expr(callback_execution::Column::Finished, Expr::value(locked.now))
        .col_expr(callback_execution::Column::LeasedUntil, Expr::value(None::<chrono::NaiveDateTime>))
        .col_expr(callback_execution::Column::Deadline, Expr::value(None::<chrono::NaiveDateTime>))
        .col_expr(callback_execution::Column::RelayAt, Expr::value(None::<chrono::NaiveDateTime>))
        .col_expr(callback_execution::Column::RunLog, Expr::value(appended(execution.run_log.as_deref(), &line)))
        .filter(callback_execution::Column::Id.eq(execution.id))
        .filter(callback_execution::Column::Status.is_not_in(ExecutionStatus::RESOLVED))
        .exec(&*locked.transaction)
        .await?;
    Ok(())
}
