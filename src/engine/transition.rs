//! Transitions by hand (E6): buttons, scripts, administrators.

use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter};

use crate::entity::kind::ExecutionStatus;
use crate::entity::{action, callback, callback_execution, experiment, state, transition};

use super::evaluate::transitions_from;
use super::locked::{Locked, executions_of};
use super::report::{appended, storable};
use super::{Actor, Engine, EngineError, retried};

/// The state that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Id(i32),
    /// Label of a state of the experiment's workflow.
    Label(String),
}

impl std::fmt::Display for Target {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => id.fmt(formatter),
            Self::Label(label) => label.fmt(formatter),
        }
    }
}

impl Engine {
    /// Takes a transition out of the current state to `target`, whose condition must hold, and cancels what was still
    /// running for the state that is left. `seen` is the version of the experiment that the decision was made about.
    ///
    /// # Errors
    /// [`EngineError::StateNotFound`], [`EngineError::NoTransition`] and [`EngineError::ConditionNotMet`] when there is
    /// no such way; [`EngineError::MovedOn`] when the experiment is not as it was `seen` any more.
    pub async fn transition(
        &self,
        experiment_id: i32,
        target: &Target,
        note: Option<&str>,
        seen: Option<i32>,
        actor: &Actor,
    ) -> Result<experiment::Model, EngineError> {
        retried(async || {
            let mut locked = self.lock(experiment_id).await?;
            if seen.is_some_and(|seen| seen != locked.experiment.version) {
                return Err(EngineError::MovedOn);
            }
            let (transition, destination) = self.choose(&locked, target).await?;
            leave(&locked, actor, "the experiment was moved on by hand").await?;
            let note = note.map(str::trim).filter(|note| !note.is_empty());
            let note = note.map_or_else(|| format!("Set to {} by {}", destination.label, actor.name), storable);
            self.enter(&mut locked, &transition, &destination, actor, Some(note)).await?;
            self.settle(&mut locked, actor).await?;
            let experiment = locked.experiment.clone();
            self.commit(locked).await?;
            Ok(experiment)
        })
        .await
    }

    /// The first transition to the target whose condition holds.
    async fn choose(&self, locked: &Locked, target: &Target) -> Result<(transition::Model, state::Model), EngineError> {
        let connection = &*locked.transaction;
        let wanted = find_state(connection, &locked.experiment, target).await?;
        let mut ways = transitions_from(connection, locked.experiment.state_id).await?;
        ways.retain(|(transition, _)| transition.destination_state_id == wanted.id);
        if ways.is_empty() {
            let here = state::Entity::find_by_id(locked.experiment.state_id).one(connection).await?;
            return Err(EngineError::NoTransition {
                from: here.map(|state| state.label).unwrap_or_default(),
                from_id: locked.experiment.state_id,
                to: wanted.label,
                to_id: wanted.id,
            });
        }
        let executions = executions_of(connection, locked.experiment.last_action_id).await?;
        let facts = self.facts_for(locked, &ways, &executions).await?;
        let evaluations = self.try_transitions(&ways, &facts, false).await?;
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

async fn find_state(
    connection: &impl ConnectionTrait,
    experiment: &experiment::Model,
    target: &Target,
) -> Result<state::Model, EngineError> {
    let states = state::Entity::find().filter(state::Column::WorkflowId.eq(experiment.workflow_id));
    let states = match target {
        Target::Id(id) => states.filter(state::Column::Id.eq(*id)),
        Target::Label(label) => states.filter(state::Column::Label.eq(label)),
    };
    let found = states.one(connection).await?;
    found.ok_or_else(|| EngineError::StateNotFound { requested: target.to_string() })
}

/// Ends the last action where it stands: what was not resolved is skipped and says by whom.
pub(super) async fn leave(locked: &Locked, actor: &Actor, why: &str) -> Result<(), EngineError> {
    let Some(action_id) = locked.experiment.last_action_id else { return Ok(()) };
    let connection = &*locked.transaction;
    for (execution, callback) in executions_of(connection, Some(action_id)).await? {
        if !execution.status.is_resolved() {
            cancel(locked, &execution, &callback, actor, why).await?;
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
    locked: &Locked,
    execution: &callback_execution::Model,
    callback: &callback::Model,
    actor: &Actor,
    why: &str,
) -> Result<(), EngineError> {
    let line = format!(
        "{} UTC: cancelled by {}: {why} while {} was {}",
        locked.now.format("%Y-%m-%d %H:%M:%S"),
        actor.name,
        callback.label,
        execution.status
    );
    // Whatever status it has by now: a claim that comes between the reading and this waits for the row or finds it gone.
    callback_execution::Entity::update_many()
        .col_expr(callback_execution::Column::Status, Expr::value(ExecutionStatus::Skipped))
        .col_expr(callback_execution::Column::Finished, Expr::value(locked.now))
        .col_expr(callback_execution::Column::LeasedUntil, Expr::value(None::<chrono::NaiveDateTime>))
        .col_expr(callback_execution::Column::Deadline, Expr::value(None::<chrono::NaiveDateTime>))
        .col_expr(callback_execution::Column::RunLog, Expr::value(appended(execution.run_log.as_deref(), &line)))
        .filter(callback_execution::Column::Id.eq(execution.id))
        .filter(callback_execution::Column::Status.is_not_in(ExecutionStatus::RESOLVED))
        .exec(&*locked.transaction)
        .await?;
    Ok(())
}
