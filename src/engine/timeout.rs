//! Timeouts (E8): a stage that is past its deadline ends, and the next step follows.

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use tracing::{debug, warn};

use crate::context::Context;
use crate::entity::callback_execution::{Column, Entity};
use crate::entity::kind::{ExecutionResult, ExecutionStatus, Origin};

use super::report::{load, resolve};
use super::{Engine, EngineError, Swept, retried};

/// Number of executions that timed out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct TimeoutCounts {
    pub run_timeouts: u32,
    pub wait_timeouts: u32,
}

impl Engine {
    /// Ends every execution that is past its deadline. Several servers may do this at the same time.
    ///
    /// # Errors
    /// When the database cannot be read. Executions that cannot be ended are logged and tried again in the next sweep.
    pub async fn check_timeouts(&self, ctx: &Context) -> Result<TimeoutCounts, EngineError> {
        let mut counts = TimeoutCounts::default();
        let late: Vec<i32> = Entity::find()
            .select_only()
            .column(Column::Id)
            .filter(Column::Status.is_in([ExecutionStatus::Running, ExecutionStatus::Waiting]))
            .filter(Column::Deadline.lte(self.clock.now()))
            .order_by_asc(Column::Id)
            .into_tuple()
            .all(self.database.reader())
            .await?;
        let mut held = 0;
        for id in late {
            match self.time_out(ctx, id).await {
                Ok(Swept::Done(status)) => {
                    metrics::counter!("studygovernor_timeouts_total").increment(1);
                    match status {
                        ExecutionStatus::Running => counts.run_timeouts += 1,
                        _ => counts.wait_timeouts += 1,
                    }
                }
                Ok(Swept::Held) => held += 1,
                // Another server has ended it in the meantime.
                Ok(Swept::Over) => {}
                // Without a database, or on a full disk, the others would fail too, each after a wait.
                Err(error) if error.is_of_all(self.database.backend()) => return Err(error),
                // One failure does not delay the other executions.
                Err(error) => warn!(execution = id, %error, "timing out an execution failed"),
            }
        }
        if held > 0 {
            debug!(held, "overdue executions are locked by other transactions; will retry");
        }
        Ok(counts)
    }

    /// Ends an execution if it is still past its deadline; returns its previous status. Does not wait for a locked
    /// experiment (E14).
    async fn time_out(&self, ctx: &Context, execution_id: i32) -> Result<Swept<ExecutionStatus>, EngineError> {
        let ctx = &ctx.in_history_as("timeout", Origin::Timeout);
        let experiment_id = self.experiment_of(ctx, execution_id).await?;
        retried(async || {
            let Some(mut locked) = self.lock_if_free(ctx, experiment_id).await? else { return Ok(Swept::Held) };
            let (execution, callback) = load(ctx, &*locked.transaction, execution_id).await?;
            let is_late = execution.deadline.is_some_and(|deadline| deadline <= locked.now);
            if execution.status.is_resolved() || !is_late {
                return Ok(Swept::Over);
            }
            let (stage, minutes) = match execution.status {
                ExecutionStatus::Waiting => ("waiting", callback.wait_timeout),
                _ => ("running", callback.run_timeout),
            };
            let line = format!(
                "{} UTC: timeout: {stage} for longer than {} minutes",
                locked.now.format("%Y-%m-%d %H:%M:%S"),
                minutes.unwrap_or(0)
            );
            resolve(&locked, &execution, ExecutionStatus::Finished, ExecutionResult::Timeout, &line).await?;
            self.follow(ctx, &mut locked, &execution, Some(ExecutionStatus::Finished)).await?;
            self.commit(locked).await?;
            Ok(Swept::Done(execution.status))
        })
        .await
    }
}
