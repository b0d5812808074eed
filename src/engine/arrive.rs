//! The first transition of many new experiments at once: as [`super::Engine::enter`] does for one, with one statement for
//! all.
//!
//! Only for states whose callbacks have no conditions: each experiment gets the same executions, and no automatic transition
//! follows.

use std::collections::HashMap;

use chrono::NaiveDateTime;
use sea_orm::sea_query::{Expr, ExprTrait, Func, Query, SimpleExpr};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QuerySelect};

use crate::context::Context;
use crate::database::WriteTransaction;
use crate::entity::{action, callback_execution, experiment, state, transition};
use crate::study::Visible;
use crate::workflow::Graph;

use super::EngineError;
use super::locked::{new_action, new_execution};

/// The transition that new experiments take, and its destination.
pub(super) struct First<'a> {
    pub(super) transition: &'a transition::Model,
    pub(super) destination: &'a state::Model,
    pub(super) graph: &'a Graph,
}

/// Writes the action of each experiment, all executions of the entered state, and the new state (E2). Returns the actions by
/// experiment. The experiments, at most a thousand, were created in this transaction, so no other transaction can move them.
pub(super) async fn enter_many(
    ctx: &Context,
    transaction: &WriteTransaction,
    experiments: &[i32],
    first: &First<'_>,
    now: NaiveDateTime,
) -> Result<HashMap<i32, i32>, EngineError> {
    if experiments.is_empty() {
        return Ok(HashMap::new());
    }
    let callbacks = first.graph.callbacks(first.destination.id);
    let rows = experiments.iter().map(|id| new_action(ctx, *id, first.transition.id, callbacks.is_empty(), now, None));
    action::Entity::insert_many(rows).exec_without_returning(&**transaction).await?;
    let actions = actions_of(ctx, transaction, experiments).await?;
    let rows: Vec<callback_execution::ActiveModel> = actions
        .iter()
        .flat_map(|(_, action_id)| callbacks.iter().map(|callback| new_execution(callback, *action_id, Ok(true), now)))
        .collect();
    for chunk in rows.chunks(1000) {
        callback_execution::Entity::insert_many(chunk.to_vec()).exec_without_returning(&**transaction).await?;
    }
    move_experiments(transaction, experiments, first.destination.id, now).await?;
    Ok(actions.into_iter().collect())
}

/// The only action of each experiment, in order of creation.
async fn actions_of(
    ctx: &Context,
    transaction: &WriteTransaction,
    experiments: &[i32],
) -> Result<Vec<(i32, i32)>, EngineError> {
    let mut actions: Vec<(i32, i32)> = action::Entity::visible(ctx)
        .select_only()
        .columns([action::Column::ExperimentId, action::Column::Id])
        .filter(action::Column::ExperimentId.is_in(experiments.iter().copied()))
        .into_tuple()
        .all(&**transaction)
        .await?;
    if actions.len() != experiments.len() {
        return Err(EngineError::MovedOn);
    }
    actions.sort_unstable_by_key(|(_, action_id)| *action_id);
    Ok(actions)
}

async fn move_experiments(
    transaction: &WriteTransaction,
    experiments: &[i32],
    state_id: i32,
    now: NaiveDateTime,
) -> Result<(), EngineError> {
    let own = (experiment::Entity, experiment::Column::Id);
    let last_action = Query::select()
        .expr(Func::max(Expr::col((action::Entity, action::Column::Id))))
        .from(action::Entity)
        .and_where(Expr::col((action::Entity, action::Column::ExperimentId)).equals(own))
        .to_owned();
    let moved = experiment::Entity::update_many()
        .col_expr(experiment::Column::StateId, Expr::value(state_id))
        .col_expr(experiment::Column::LastActionId, SimpleExpr::SubQuery(None, Box::new(last_action.into())))
        .col_expr(experiment::Column::StateSince, Expr::value(now))
        .col_expr(experiment::Column::Version, Expr::value(1))
        .filter(experiment::Column::Id.is_in(experiments.iter().copied()))
        .filter(experiment::Column::Version.eq(0))
        .exec(&**transaction)
        .await?;
    let all = u64::try_from(experiments.len()).unwrap_or(u64::MAX);
    if moved.rows_affected == all { Ok(()) } else { Err(EngineError::MovedOn) }
}
