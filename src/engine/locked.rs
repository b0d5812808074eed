//! A locked experiment: all changes of state are made here (E1).

use std::sync::Arc;

use chrono::NaiveDateTime;
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::sea_query::{Expr, ExprTrait, LockBehavior, LockType, Query, SimpleExpr};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, FromQueryResult, QueryFilter, QueryOrder,
    QuerySelect, QueryTrait,
};

use crate::context::Context;
use crate::database::{Failure, WriteTransaction};
use crate::entity::kind::{ExecutionResult, ExecutionStatus};
use crate::entity::{action, callback, callback_execution, experiment, state, transition, workflow as workflow_table};
use crate::fault;
use crate::study::Visible;
use crate::workflow::condition::Facts;
use crate::workflow::{self, Graph};

use super::answers::{Answer, NOT_EVALUATED, Tried, Turn};
use super::evaluate::{Evaluation, any_condition, condition_text};
use super::turns;
use super::{Engine, EngineError, facts};

/// Attempts before an execution is given up because its workers were lost. Retries after failures are counted separately.
pub(super) const ATTEMPTS: i32 = 3;

/// Transitions that may follow one another without running anything. Without this limit, a circle of states that all skip
/// their callbacks would never end.
const MOST_STEPS: usize = 100;

/// An experiment that no other transaction can change before this one ends.
pub(super) struct Locked {
    pub(super) transaction: WriteTransaction,
    pub(super) experiment: experiment::Model,
    pub(super) now: NaiveDateTime,
    /// Graph of the experiment's workflow, read under the lock.
    pub(super) graph: Arc<Graph>,
    /// Time that evaluating conditions has taken so far.
    pub(super) turn: Turn,
    /// Held until the transaction ends: other requests of this process wait without a connection.
    pub(super) _row_turn: Option<turns::Turn>,
}

/// Work that an entered state requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entered {
    /// It has no callbacks: a person or a script decides.
    Manual,
    /// At least one callback has to be run.
    Open,
    /// All its callbacks are skipped, so the next step follows at once.
    Skipped,
}

impl Engine {
    /// Begins a transaction and locks the experiment in it.
    ///
    /// # Errors
    /// [`EngineError::Busy`] when others hold the lock for too long.
    pub(super) async fn lock(&self, ctx: &Context, experiment_id: i32) -> Result<Locked, EngineError> {
        let turn = self.turns.wait(experiment_id, self.database.lock_limit()).await?;
        let transaction = self.database.begin().await?;
        let locked = self.lock_in(ctx, transaction, experiment_id).await?;
        Ok(Locked { _row_turn: Some(turn), ..locked })
    }

    /// As [`Self::lock`], for maintenance: does not wait, and returns `None` when another transaction has locked the
    /// experiment.
    pub(super) async fn lock_if_free(&self, ctx: &Context, experiment_id: i32) -> Result<Option<Locked>, EngineError> {
        let Some(turn) = self.turns.take_free(experiment_id) else { return Ok(None) };
        let transaction = self.database.begin_maintenance().await?;
        let behavior = if self.database.skips_locked() { LockBehavior::SkipLocked } else { LockBehavior::Nowait };
        match lock_row(ctx, &transaction, experiment_id, Some(behavior)).await {
            Ok((experiment, revision)) => {
                let locked = self.locked(transaction, experiment, revision).await?;
                Ok(Some(Locked { _row_turn: Some(turn), ..locked }))
            }
            Err(EngineError::Database(error)) if Failure::of(&error) == Some(Failure::Locked) => Ok(None),
            // A locked row that was skipped looks like one that does not exist.
            Err(error @ EngineError::NotFound { .. }) => {
                let exists = experiment::Entity::visible_by_id(ctx, experiment_id).one(&*transaction).await?.is_some();
                if exists { Ok(None) } else { Err(error) }
            }
            Err(error) => Err(error),
        }
    }

    /// Locks the experiment in a transaction that has begun.
    pub(super) async fn lock_in(
        &self,
        ctx: &Context,
        transaction: WriteTransaction,
        experiment_id: i32,
    ) -> Result<Locked, EngineError> {
        let (experiment, revision) = lock_row(ctx, &transaction, experiment_id, None).await?;
        self.locked(transaction, experiment, revision).await
    }

    async fn locked(
        &self,
        transaction: WriteTransaction,
        experiment: experiment::Model,
        revision: i32,
    ) -> Result<Locked, EngineError> {
        if experiment.archive_id != 0 {
            return Err(EngineError::Archived { kind: "experiment", id: experiment.id });
        }
        let graph = self.graphs.at(&*transaction, experiment.workflow_id, revision).await?;
        // Read after the lock was acquired, so that times in the history increase.
        Ok(Locked { transaction, experiment, now: self.clock.now(), graph, turn: Turn::default(), _row_turn: None })
    }

    /// Commits, then notifies the relay and the workers of this process.
    pub(super) async fn commit(&self, locked: Locked) -> Result<(), EngineError> {
        fault::point("before-commit");
        locked.transaction.commit().await?;
        fault::point("after-commit");
        self.dispatched.notify_one();
        Ok(())
    }

    /// Takes a transition: writes the action, all executions of the entered state, and the new state (E2).
    pub(super) async fn enter(
        &self,
        ctx: &Context,
        locked: &mut Locked,
        transition: &transition::Model,
        destination: &state::Model,
        note: Option<String>,
    ) -> Result<Entered, EngineError> {
        let graph = Arc::clone(&locked.graph);
        let callbacks = graph.callbacks(destination.id);
        let is_manual = callbacks.is_empty();
        let action = new_action(ctx, locked.experiment.id, transition.id, is_manual, locked.now, note);
        let action = action.insert(&*locked.transaction).await?;
        let entered = self.ask_for_callbacks(ctx, locked, callbacks, action.id, &destination.label).await?;
        move_experiment(locked, destination.id, action.id).await?;
        Ok(entered)
    }

    /// Writes an execution for each callback: created, or skipped when its condition is not met.
    async fn ask_for_callbacks(
        &self,
        ctx: &Context,
        locked: &mut Locked,
        callbacks: &[callback::Model],
        action_id: i32,
        state: &str,
    ) -> Result<Entered, EngineError> {
        if callbacks.is_empty() {
            return Ok(Entered::Manual);
        }
        let facts = match any_condition(callbacks.iter().map(|callback| callback.condition.as_deref())) {
            true => Some(Arc::new(
                facts::collect(ctx, &*locked.transaction, &locked.experiment, state, &[], locked.now).await?,
            )),
            false => None,
        };
        let mut rows = Vec::with_capacity(callbacks.len());
        let mut entered = Entered::Skipped;
        for (at, callback) in callbacks.iter().enumerate() {
            let outcome = match (&facts, condition_text(callback.condition.as_deref())) {
                (Some(facts), Some(text)) => match self.answers.ask(&mut locked.turn, text, facts).await? {
                    Tried::Answered(answer) => answer,
                    Tried::OverBudget => Err(NOT_EVALUATED.to_owned()),
                    Tried::Elsewhere => {
                        let left = callbacks[at..].iter().map(|callback| callback.condition.as_deref());
                        return Err(self.answers.pending(&locked.turn, left, facts, false));
                    }
                },
                _ => Ok(true),
            };
            if outcome == Ok(true) {
                entered = Entered::Open;
            }
            rows.push(new_execution(callback, action_id, outcome, locked.now));
        }
        callback_execution::Entity::insert_many(rows).exec_without_returning(&*locked.transaction).await?;
        Ok(entered)
    }

    /// Takes all automatic transitions that follow (E3): while the last action's executions are all resolved, ends the
    /// action and takes the first transition whose condition is met. Does nothing while the experiment is on hold (E12).
    pub(super) async fn settle(&self, ctx: &Context, locked: &mut Locked) -> Result<(), EngineError> {
        for step in 0.. {
            if locked.experiment.held_since.is_some() {
                return Ok(());
            }
            let Some(action_id) = locked.experiment.last_action_id else { return Ok(()) };
            let executions = executions_of(&*locked.transaction, Some(action_id)).await?;
            // No executions: the state waits for a person or a script.
            if executions.is_empty() || executions.iter().any(|(execution, _)| !execution.status.is_resolved()) {
                return Ok(());
            }
            let transitions = locked.graph.exits(locked.experiment.state_id);
            let facts = self.facts_for(ctx, locked, &transitions, &executions).await?;
            let evaluations = self.try_transitions(&transitions, &facts, false, &mut locked.turn).await?;
            let stopped = step >= MOST_STEPS;
            let taken = evaluations.iter().position(|evaluation| evaluation.test_result == Some(true));
            // The action stays open while the experiment is on hold; it is ended after a person releases the experiment.
            if let Some(index) = taken
                && self.hold_if_too_fast(ctx, locked, &transitions[index].1).await?
            {
                return Ok(());
            }
            end_action(locked, action_id, &evaluations, stopped).await?;
            let Some((transition, destination)) = taken.filter(|_| !stopped).map(|index| &transitions[index]) else {
                return Ok(());
            };
            if self.enter(ctx, locked, transition, destination, None).await? != Entered::Skipped {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The facts for trying transitions; empty if none has a condition.
    pub(super) async fn facts_for(
        &self,
        ctx: &Context,
        locked: &Locked,
        transitions: &[(transition::Model, state::Model)],
        executions: &[(callback_execution::Model, callback::Model)],
    ) -> Result<Arc<Facts>, EngineError> {
        let connection = &*locked.transaction;
        if !any_condition(transitions.iter().map(|(transition, _)| transition.condition.as_deref())) {
            return Ok(Arc::new(facts::nothing(&locked.experiment, locked.now)));
        }
        let label = locked.graph.state(locked.experiment.state_id).map_or("", |state| state.label.as_str());
        Ok(Arc::new(facts::collect(ctx, connection, &locked.experiment, label, executions, locked.now).await?))
    }
}

/// Locks the experiment and reads it with the revision of its workflow, in one statement.
///
/// After a wait for the lock, the revision may be the one from before the wait. The previous version of the workflow is then
/// followed, as if the transition had come first; if its transition no longer exists, the database rejects the action, and
/// the verb is repeated ([`crate::database::is_transient`]).
async fn lock_row(
    ctx: &Context,
    transaction: &WriteTransaction,
    experiment_id: i32,
    behavior: Option<LockBehavior>,
) -> Result<(experiment::Model, i32), EngineError> {
    let own = (experiment::Entity, experiment::Column::WorkflowId);
    let revision = Query::select()
        .column((workflow_table::Entity, workflow_table::Column::Revision))
        .from(workflow_table::Entity)
        .and_where(Expr::col((workflow_table::Entity, workflow_table::Column::Id)).equals(own))
        .to_owned();
    let query = experiment::Entity::visible_by_id(ctx, experiment_id)
        .expr_as(SimpleExpr::SubQuery(None, Box::new(revision.into())), "revision");
    let query = match behavior {
        None => query.lock_exclusive(),
        Some(behavior) => query.lock_with_behavior(LockType::Update, behavior),
    };
    let query = query.build(transaction.get_database_backend());
    let row = transaction.query_one_raw(query).await?;
    let row = row.ok_or_else(|| EngineError::not_found(ctx, "experiment", experiment_id))?;
    Ok((experiment::Model::from_query_result(&row, "")?, row.try_get("", "revision")?))
}

/// The executions of an action in the order of the workflow, each with its callback.
pub(super) async fn executions_of(
    connection: &impl ConnectionTrait,
    action_id: Option<i32>,
) -> Result<Vec<(callback_execution::Model, callback::Model)>, DbErr> {
    let Some(action_id) = action_id else { return Ok(Vec::new()) };
    let rows = callback_execution::Entity::find()
        .filter(callback_execution::Column::ActionId.eq(action_id))
        .find_also_related(callback::Entity)
        .order_by_asc(callback_execution::Column::Id)
        .all(connection)
        .await?;
    Ok(rows.into_iter().filter_map(|(execution, callback)| Some((execution, callback?))).collect())
}

/// A new action. In a state without callbacks there is nothing to wait for, so the action ends as it begins.
pub(super) fn new_action(
    ctx: &Context,
    experiment_id: i32,
    transition_id: i32,
    is_manual: bool,
    now: NaiveDateTime,
    note: Option<String>,
) -> action::ActiveModel {
    action::ActiveModel {
        id: NotSet,
        success: Set(false),
        return_value: Set(None),
        freetext: Set(note),
        start_time: Set(now),
        end_time: Set(is_manual.then_some(now)),
        transition_id: Set(transition_id),
        experiment_id: Set(experiment_id),
        user_id: Set(ctx.actor().user_id),
        origin: Set(ctx.actor().origin),
    }
}

/// `outcome` is the answer to the callback's condition.
pub(super) fn new_execution(
    callback: &callback::Model,
    action_id: i32,
    outcome: Answer,
    now: NaiveDateTime,
) -> callback_execution::ActiveModel {
    let (status, log) = match outcome {
        Ok(true) => (ExecutionStatus::Created, None),
        Ok(false) => (ExecutionStatus::Skipped, None),
        Err(error) => {
            let text = callback.condition.as_deref().unwrap_or_default();
            (ExecutionStatus::Skipped, Some(format!("skipped: the condition {text} could not be evaluated: {error}\n")))
        }
    };
    callback_execution::ActiveModel {
        id: NotSet,
        callback_id: Set(callback.id),
        action_id: Set(action_id),
        status: Set(status),
        result: Set(ExecutionResult::None),
        run_log: Set(log),
        result_log: Set(None),
        result_values: Set(None),
        created: Set(now),
        run_start: Set(None),
        wait_start: Set(None),
        finished: Set(None),
        attempt: Set(1),
        max_attempts: Set(ATTEMPTS + callback.retries),
        failures: Set(0),
        available_at: Set(now),
        published_at: Set(None),
        leased_until: Set(None),
        deadline: Set(None),
        worker: Set(None),
        queue: Set(workflow::queue_of(callback)),
        relay_at: Set((status == ExecutionStatus::Created).then_some(now)),
    }
}

async fn end_action(
    locked: &Locked,
    action_id: i32,
    evaluations: &[Evaluation],
    stopped: bool,
) -> Result<(), EngineError> {
    let mut text = Evaluation::to_yaml(evaluations);
    if stopped {
        text = format!("# Stopped after {MOST_STEPS} consecutive transitions without a callback run.\n{text}");
    }
    action::Entity::update_many()
        .col_expr(action::Column::EndTime, Expr::value(locked.now))
        .col_expr(action::Column::Success, Expr::value(true))
        .col_expr(action::Column::ReturnValue, Expr::value(text))
        .filter(action::Column::Id.eq(action_id))
        .exec(&*locked.transaction)
        .await?;
    Ok(())
}

/// The lock makes a second change wait; comparing the version detects one that bypassed the lock.
async fn move_experiment(locked: &mut Locked, state_id: i32, action_id: i32) -> Result<(), EngineError> {
    let version = locked.experiment.version;
    let moved = experiment::Entity::update_many()
        .col_expr(experiment::Column::StateId, Expr::value(state_id))
        .col_expr(experiment::Column::LastActionId, Expr::value(action_id))
        .col_expr(experiment::Column::StateSince, Expr::value(locked.now))
        .col_expr(experiment::Column::Version, Expr::value(version + 1))
        .filter(experiment::Column::Id.eq(locked.experiment.id))
        .filter(experiment::Column::Version.eq(version))
        .exec(&*locked.transaction)
        .await?;
    if moved.rows_affected != 1 {
        return Err(EngineError::MovedOn);
    }
    locked.experiment.state_id = state_id;
    locked.experiment.last_action_id = Some(action_id);
    locked.experiment.state_since = locked.now;
    locked.experiment.version = version + 1;
    Ok(())
}
