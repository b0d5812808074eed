//! Interventions in executions that are stuck: a person skips, marks or retries them (Q5).

use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};

use serde_json::json;

use crate::audit;
use crate::context::Context;
use crate::entity::action;
use crate::entity::callback_execution::{Column, Model};
use crate::entity::kind::{ExecutionResult, ExecutionStatus};

use super::attempt::requeue;
use super::report::{kept_values, load, map_variables, resolve};
use super::run_log::{next_attempt_log, storable};
use super::{Engine, EngineError, about, retried};

/// A person's decision about an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intervention {
    /// Continue as if the callback had not been requested.
    Skip,
    /// Resolve it with this result.
    Mark(ExecutionResult),
    /// Run it again, now. A resolved execution can be retried while the experiment is still in its state.
    Retry,
}

impl std::fmt::Display for Intervention {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Skip => formatter.write_str("skipped"),
            Self::Mark(result) => write!(formatter, "marked as {result}"),
            Self::Retry => formatter.write_str("retried"),
        }
    }
}

impl Engine {
    /// Intervenes, and writes the user and the reason into the log of the execution.
    ///
    /// # Errors
    /// [`EngineError::Resolved`] when it is already resolved; [`EngineError::MovedOn`] for a retry after the experiment has
    /// left the state.
    pub async fn intervene(
        &self,
        ctx: &Context,
        execution_id: i32,
        what: Intervention,
        reason: &str,
    ) -> Result<Model, EngineError> {
        let experiment_id = self.experiment_of(ctx, execution_id).await?;
        retried(async || {
            let mut locked = self.lock(ctx, experiment_id).await?;
            let (execution, callback) = load(ctx, &*locked.transaction, execution_id).await?;
            if locked.experiment.last_action_id != Some(execution.action_id) {
                return Err(EngineError::MovedOn);
            }
            if execution.status.is_resolved() && what != Intervention::Retry {
                return Err(EngineError::Resolved { execution_id, status: execution.status });
            }
            let before =
                json!({ "status": execution.status, "result": execution.result, "attempt": execution.attempt });
            let after = json!({ "execution": execution.id, "callback": callback.label, "is": what.to_string() });
            let event = about(&locked.experiment, "intervene").before(before).after(after).because(reason);
            audit::record(ctx, &*locked.transaction, event).await?;
            let now = locked.now.format("%Y-%m-%d %H:%M:%S");
            let line = format!("{now} UTC: {what} by {}: {}", ctx.actor().name, storable(reason));
            match what {
                Intervention::Retry => {
                    let log = next_attempt_log(execution.run_log.as_deref(), &line, execution.attempt + 1);
                    // A person's retry may exceed the allowed number of attempts.
                    let changes = vec![
                        (Column::MaxAttempts, Expr::value(execution.max_attempts.max(execution.attempt + 1))),
                        (Column::Result, Expr::value(ExecutionResult::None)),
                        (Column::Finished, Expr::value(None::<chrono::NaiveDateTime>)),
                        (Column::WaitStart, Expr::value(None::<chrono::NaiveDateTime>)),
                        (Column::RunStart, Expr::value(None::<chrono::NaiveDateTime>)),
                    ];
                    requeue(&locked, &execution, locked.now, log, changes).await?;
                    reopen(&locked, execution.action_id).await?;
                }
                Intervention::Skip | Intervention::Mark(_) => {
                    let (status, result) = match what {
                        Intervention::Mark(result) => (ExecutionStatus::Finished, result),
                        _ => (ExecutionStatus::Skipped, ExecutionResult::None),
                    };
                    resolve(&locked, &execution, status, result, &line).await?;
                    if what == Intervention::Mark(ExecutionResult::Success) {
                        map_variables(&locked, &callback, &kept_values(&execution)).await?;
                    }
                    self.follow(ctx, &mut locked, &execution, Some(status)).await?;
                }
            }
            let (execution, _) = load(ctx, &*locked.transaction, execution_id).await?;
            self.commit(locked).await?;
            Ok(execution)
        })
        .await
    }
}

/// Reopens an action when one of its executions runs again.
async fn reopen(locked: &super::locked::Locked, action_id: i32) -> Result<(), EngineError> {
    action::Entity::update_many()
        .col_expr(action::Column::EndTime, Expr::value(None::<chrono::NaiveDateTime>))
        .col_expr(action::Column::Success, Expr::value(false))
        .filter(action::Column::Id.eq(action_id))
        .exec(&*locked.transaction)
        .await?;
    Ok(())
}
