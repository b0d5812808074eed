//! Workers that were lost (Q4), and workers that give back what they cannot finish (Q7).

use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder};

use crate::entity::callback_execution::{Column, Entity, Model};
use crate::entity::kind::{ExecutionResult, ExecutionStatus, Origin};

use super::locked::Locked;
use super::report::{appended, load, next_attempt_log, requeue, update};
use super::{Actor, Engine, EngineError, retried};

impl Engine {
    /// Dispatches again what was claimed by workers that are not heard of any more; what used all its attempts
    /// has failed. Gives how many there were.
    ///
    /// # Errors
    /// When the database fails; what was done until then stays done.
    pub async fn check_leases(&self) -> Result<usize, EngineError> {
        let lost = Entity::find()
            .filter(Column::Status.eq(ExecutionStatus::Running))
            .filter(Column::LeasedUntil.lt(self.clock.now()))
            .order_by_asc(Column::Id)
            .all(self.database.reader())
            .await?;
        let mut count = 0;
        for execution in lost {
            let worker = execution.worker.as_deref().unwrap_or("unknown");
            let line = format!("nothing was heard of worker {worker} any more");
            count += usize::from(self.give_back(&execution, true, &line).await?);
        }
        Ok(count)
    }

    /// A worker gives back an execution that it claimed and cannot finish, because it stops.
    ///
    /// # Errors
    /// When the database fails. One that is not the worker's any more is left alone.
    pub async fn release(&self, execution: &Model, why: &str) -> Result<bool, EngineError> {
        self.give_back(execution, false, why).await
    }

    /// `expired`: only if the lease is still run out.
    async fn give_back(&self, seen: &Model, expired: bool, why: &str) -> Result<bool, EngineError> {
        let experiment_id = self.experiment_of(seen.id).await?;
        retried(async || {
            let mut locked = self.lock(experiment_id).await?;
            let (execution, _) = load(&*locked.transaction, seen.id).await?;
            let same = execution.status == ExecutionStatus::Running && execution.attempt == seen.attempt;
            let run_out = execution.leased_until.is_some_and(|until| until < locked.now);
            if !same || (expired && !run_out) {
                return Ok(false);
            }
            let line = format!("{} UTC: {why}", locked.now.format("%Y-%m-%d %H:%M:%S"));
            if execution.attempt < execution.max_attempts {
                let log = next_attempt_log(execution.run_log.as_deref(), &line, execution.attempt + 1);
                requeue(&locked, &execution, locked.now, log, Vec::new()).await?;
            } else {
                self.give_up(&mut locked, &execution, &line).await?;
            }
            self.commit(locked).await?;
            Ok(true)
        })
        .await
    }

    async fn give_up(&self, locked: &mut Locked, execution: &Model, line: &str) -> Result<(), EngineError> {
        let actor = Actor::without_account("lease", Origin::Timeout);
        let line = format!("{line}; that was the last of {} attempts", execution.max_attempts);
        let nothing = || Expr::value(None::<chrono::NaiveDateTime>);
        let changes = vec![
            (Column::Status, Expr::value(ExecutionStatus::Finished)),
            (Column::Result, Expr::value(ExecutionResult::Failed)),
            (Column::Finished, Expr::value(locked.now)),
            (Column::Deadline, nothing()),
            (Column::LeasedUntil, nothing()),
            (Column::RunLog, Expr::value(appended(execution.run_log.as_deref(), &line))),
        ];
        update(locked, execution, changes).await?;
        self.follow(locked, execution, Some(ExecutionStatus::Finished), &actor).await
    }
}
