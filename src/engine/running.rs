//! The verbs of a worker: claim an attempt → send heartbeats with the log so far → report the result, or release the attempt
//! (Q3, Q4, Q6, Q7). They are the same for workers inside the server and for those that use HTTP.

use std::time::Duration;

use chrono::TimeDelta;
use metrics::counter;
use sea_orm::EntityTrait;
use serde_json::{Map, Value};

use crate::context::Context;
use crate::entity::callback_execution::{self, Entity};
use crate::entity::kind::{ExecutionResult, ExecutionStatus, Origin};
use crate::fault;
use crate::queue::{self, Assignment, Available, Loaded};

use super::run_log::{cut, merged_log, storable};
use super::{Engine, EngineError, Report, retried};

/// An attempt that a worker holds.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a> {
    pub execution_id: i32,
    pub attempt: i32,
    /// Name of the worker.
    pub worker: &'a str,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Ended {
    pub is_success: bool,
    /// After a success, the execution waits until a person or script finishes it.
    pub waits: bool,
    pub log: String,
    /// Becomes `result_values`.
    pub values: Map<String, Value>,
}

fn lease_of(lease: Duration) -> TimeDelta {
    TimeDelta::from_std(lease).unwrap_or(TimeDelta::seconds(15))
}

impl Held<'_> {
    fn available(&self) -> Available {
        Available { id: self.execution_id, attempt: self.attempt }
    }

    /// Whether the attempt still runs, and on this worker.
    fn is_in(&self, execution: &callback_execution::Model) -> bool {
        execution.attempt == self.attempt
            && execution.status == ExecutionStatus::Running
            && execution.worker.as_deref() == Some(self.worker)
    }
}

impl Engine {
    /// Claims an attempt for a worker until `lease` from now. Returns `None` when another worker holds it or it has ended. A
    /// worker that repeats its claim gets the same answer: the first answer may have been lost.
    ///
    /// `base_url` is the beginning of the URLs that the callback gets.
    pub async fn claim(
        &self,
        ctx: &Context,
        held: Held<'_>,
        lease: Duration,
        base_url: &str,
    ) -> Result<Option<Assignment>, EngineError> {
        fault::point("before-claim");
        let Some(loaded) = Loaded::find(self.database.reader(), held.execution_id).await? else { return Ok(None) };
        if !loaded.is_claimable(held.attempt) {
            let repeated = loaded.status == ExecutionStatus::Running && self.keep(held, lease, None).await?;
            if !repeated {
                return Ok(None);
            }
        } else if !self.take(held, lease, loaded.run_timeout).await? {
            return Ok(None);
        }
        fault::point("after-claim");
        counter!("studygovernor_claimed_total").increment(1);
        self.assignment(ctx, held, lease, base_url).await
    }

    /// The data of a claimed attempt, read in one snapshot (E13); `None` when the worker has lost the claim again.
    async fn assignment(
        &self,
        ctx: &Context,
        held: Held<'_>,
        lease: Duration,
        base_url: &str,
    ) -> Result<Option<Assignment>, EngineError> {
        let snapshot = self.database.snapshot().await?;
        match Loaded::find(&snapshot, held.execution_id).await? {
            Some(loaded) if loaded.is_running(held.attempt) => {
                let assignment = loaded.assignment(ctx, &snapshot, base_url, lease).await?;
                Ok(Some(Assignment { project_revision: self.revision.get(), ..assignment }))
            }
            _ => Ok(None),
        }
    }

    async fn take(&self, held: Held<'_>, lease: Duration, run_timeout: Option<i32>) -> Result<bool, EngineError> {
        // One statement that compares and sets; a transaction would add two round trips.
        retried(async || {
            let (now, lease) = (self.clock.now(), lease_of(lease));
            Ok(queue::claim(self.database.writer(), held.available(), held.worker, now, lease, run_timeout).await?)
        })
        .await
    }

    /// Extends the lease of an attempt and stores its log so far. Returns `false` when this worker no longer holds it,
    /// because it was cancelled, timed out, or claimed by another worker.
    pub async fn keep(&self, held: Held<'_>, lease: Duration, log: Option<&str>) -> Result<bool, EngineError> {
        let log = match log {
            None => None,
            Some(log) => {
                let row = Entity::find_by_id(held.execution_id).one(self.database.reader()).await?;
                let Some(row) = row.filter(|row| held.is_in(row)) else { return Ok(false) };
                Some(merged_log(&row, &storable(&cut(log))))
            }
        };
        retried(async || {
            let until = self.clock.now() + lease_of(lease);
            Ok(queue::beat(self.database.writer(), held.available(), held.worker, until, log.clone()).await?)
        })
        .await
    }

    /// Records how the run of an attempt ended. Returns `false` when the report comes too late; it changes nothing then
    /// (E4).
    ///
    /// # Errors
    /// [`EngineError::NoInterpreter`] when conditions cannot be evaluated now.
    pub async fn conclude(&self, ctx: &Context, held: Held<'_>, ended: Ended) -> Result<bool, EngineError> {
        fault::point("before-report");
        let (status, result) = match (ended.is_success, ended.waits) {
            (false, _) => (ExecutionStatus::Finished, ExecutionResult::Failed),
            (true, false) => (ExecutionStatus::Finished, ExecutionResult::Success),
            (true, true) => (ExecutionStatus::Waiting, ExecutionResult::None),
        };
        let report = Report {
            attempt: Some(held.attempt),
            status: Some(status),
            result: Some(result),
            run_log: Some(ended.log),
            result_log: None,
            result_values: Some(Value::Object(ended.values)),
        };
        let ctx = &ctx.in_history_as(held.worker, Origin::Worker);
        match self.report(ctx, held.execution_id, &report).await {
            Ok(_) => Ok(true),
            Err(
                EngineError::Resolved { .. }
                | EngineError::StaleAttempt { .. }
                | EngineError::StepBack { .. }
                | EngineError::Archived { .. }
                | EngineError::NotFound { .. },
            ) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Releases an attempt that a worker cannot finish; the next attempt is not counted. Does nothing when the worker no
    /// longer holds it.
    pub async fn hand_back(&self, ctx: &Context, held: Held<'_>, why: &str) -> Result<(), EngineError> {
        let row = Entity::find_by_id(held.execution_id).one(self.database.reader()).await?;
        if let Some(row) = row.filter(|row| held.is_in(row)) {
            self.release(ctx, &row, &storable(why)).await?;
        }
        Ok(())
    }
}
