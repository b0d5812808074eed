//! Timeouts (E8): a stage past its time ends, and the next step follows.

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use tracing::warn;

use crate::entity::callback_execution::{Column, Entity};
use crate::entity::kind::{ExecutionResult, ExecutionStatus, Origin};

use super::report::{load, resolve};
use super::{Actor, Engine, EngineError, retried};

/// How many executions were past their time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct TimeoutCounts {
    pub run_timeouts: u32,
    pub wait_timeouts: u32,
}

impl Engine {
    /// Ends every execution that is past its time. Several servers may do this at the same time.
    ///
    /// # Errors
    /// When the database cannot be asked. What cannot be ended is logged, and tried again the next time.
    pub async fn check_timeouts(&self) -> Result<TimeoutCounts, EngineError> {
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
        for id in late {
            let ended = self.time_out(id).await;
            if matches!(ended, Ok(Some(_))) {
                metrics::counter!("studygovernor_timeouts_total").increment(1);
            }
            match ended {
                Ok(Some(ExecutionStatus::Running)) => counts.run_timeouts += 1,
                Ok(Some(_)) => counts.wait_timeouts += 1,
                // Another server ended it meanwhile.
                Ok(None) => {}
                // The others are not to suffer from one.
                Err(error) => warn!(execution = id, %error, "cannot be timed out"),
            }
        }
        Ok(counts)
    }

    /// Ends one execution if it is still past its time; gives the status it was in.
    async fn time_out(&self, execution_id: i32) -> Result<Option<ExecutionStatus>, EngineError> {
        let actor = Actor::without_account("timeout", Origin::Timeout);
        let experiment_id = self.experiment_of(execution_id).await?;
        retried(async || {
            let mut locked = self.lock(experiment_id).await?;
            let (execution, callback) = load(&*locked.transaction, execution_id).await?;
            let is_late = execution.deadline.is_some_and(|deadline| deadline <= locked.now);
            if execution.status.is_resolved() || !is_late {
                return Ok(None);
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
            self.follow(&mut locked, &execution, Some(ExecutionStatus::Finished), &actor).await?;
            self.commit(locked).await?;
            Ok(Some(execution.status))
        })
        .await
    }
}
