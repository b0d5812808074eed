//! Lease expiry of lost workers (Q4), and release of executions by workers that cannot finish them (Q7).

use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use tracing::{debug, warn};

use crate::context::Context;
use crate::entity::callback_execution::{Column, Entity, Model};
use crate::entity::kind::{ExecutionResult, ExecutionStatus, Origin};

use super::attempt::requeue;
use super::locked::Locked;
use super::report::{load, resolve};
use super::run_log::next_attempt_log;
use super::{Engine, EngineError, Swept, retried};

impl Engine {
    /// Requeues the executions whose lease has expired; those without attempts left fail. An execution whose experiment is
    /// locked is left to the next sweep (E14). Returns the number of executions.
    ///
    /// # Errors
    /// When the database cannot be read. Executions that cannot be requeued are logged and tried again in the next sweep.
    pub async fn check_leases(&self, ctx: &Context) -> Result<usize, EngineError> {
        let lost: Vec<(i32, i32, Option<String>)> = Entity::find()
            .select_only()
            .columns([Column::Id, Column::Attempt, Column::Worker])
            .filter(Column::Status.eq(ExecutionStatus::Running))
            .filter(Column::LeasedUntil.lt(self.clock.now()))
            .order_by_asc(Column::Id)
            .into_tuple()
            .all(self.database.reader())
            .await?;
        let (mut count, mut held) = (0, 0);
        for (id, attempt, worker) in lost {
            let line = format!("no heartbeat from worker {}; lease expired", worker.as_deref().unwrap_or("unknown"));
            match self.give_back(ctx, id, attempt, true, &line).await {
                Ok(Swept::Done(())) => {
                    count += 1;
                    metrics::counter!("studygovernor_lease_expiries_total").increment(1);
                }
                Ok(Swept::Held) => held += 1,
                Ok(Swept::Over) => {}
                // Without a database, or on a full disk, the others would fail too, each after a wait.
                Err(error) if error.is_of_all(self.database.backend()) => return Err(error),
                // One failure does not delay the other executions.
                Err(error) => warn!(execution = id, %error, "requeueing an execution failed"),
            }
        }
        if held > 0 {
            debug!(held, "executions with expired leases are locked by other transactions; will retry");
        }
        Ok(count)
    }

    /// Releases an execution that a worker claimed and cannot finish because it stops. Returns `false` and changes nothing
    /// when the worker no longer holds it.
    pub async fn release(&self, ctx: &Context, execution: &Model, why: &str) -> Result<bool, EngineError> {
        let given = self.give_back(ctx, execution.id, execution.attempt, false, why).await?;
        Ok(matches!(given, Swept::Done(())))
    }

    /// `expired`: only if the lease is still expired, and without waiting for a lock.
    async fn give_back(
        &self,
        ctx: &Context,
        id: i32,
        attempt: i32,
        expired: bool,
        why: &str,
    ) -> Result<Swept<()>, EngineError> {
        let experiment_id = self.experiment_of(ctx, id).await?;
        retried(async || {
            let locked = match expired {
                true => self.lock_if_free(ctx, experiment_id).await?,
                false => Some(self.lock(ctx, experiment_id).await?),
            };
            let Some(mut locked) = locked else { return Ok(Swept::Held) };
            let (execution, _) = load(ctx, &*locked.transaction, id).await?;
            let same = execution.status == ExecutionStatus::Running && execution.attempt == attempt;
            let run_out = execution.leased_until.is_some_and(|until| until < locked.now);
            if !same || (expired && !run_out) {
                return Ok(Swept::Over);
            }
            let line = format!("{} UTC: {why}", locked.now.format("%Y-%m-%d %H:%M:%S"));
            if !expired || execution.attempt < execution.max_attempts {
                let log = next_attempt_log(execution.run_log.as_deref(), &line, execution.attempt + 1);
                // A regular release costs no attempt.
                let attempts = if expired { execution.max_attempts } else { execution.max_attempts + 1 };
                let changes = vec![(Column::MaxAttempts, Expr::value(attempts))];
                requeue(&locked, &execution, locked.now, log, changes).await?;
            } else {
                self.give_up(ctx, &mut locked, &execution, &line).await?;
            }
            self.commit(locked).await?;
            Ok(Swept::Done(()))
        })
        .await
    }

    async fn give_up(
        &self,
        ctx: &Context,
        locked: &mut Locked,
        execution: &Model,
        line: &str,
    ) -> Result<(), EngineError> {
        let ctx = &ctx.in_history_as("lease", Origin::Timeout);
        let line = format!("{line}; this was the last of {} attempts", execution.max_attempts);
        resolve(locked, execution, ExecutionStatus::Finished, ExecutionResult::Failed, &line).await?;
        self.follow(ctx, locked, execution, Some(ExecutionStatus::Finished)).await
    }
}
