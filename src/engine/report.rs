//! Reports about callback executions: from workers, scripts and people (E3, E4, E7, Q5).

use chrono::{NaiveDateTime, TimeDelta};
use sea_orm::sea_query::{Expr, SimpleExpr};
use sea_orm::{
    ActiveEnum, ColumnTrait, ConnectionTrait, EntityTrait, JoinType, QueryFilter, QuerySelect, RelationTrait,
};
use serde_json::{Value, json};

use crate::audit::{self, Event};
use crate::context::Context;
use crate::entity::kind::{ExecutionResult, ExecutionStatus};
use crate::entity::{action, callback, callback_execution};
use crate::study::Visible;
use crate::study::variable::{VariableValue, set_variables};
use crate::workflow;

use super::attempt::{retry_at, schedule_retry};
use super::locked::Locked;
use super::run_log::{appended, cut, merged_log, storable};
use super::{Engine, EngineError, retried};

/// Reported fields of an execution; `None` leaves a field unchanged.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The attempt that a worker reports on; `None` for scripts and people.
    pub attempt: Option<i32>,
    pub status: Option<ExecutionStatus>,
    pub result: Option<ExecutionResult>,
    pub run_log: Option<String>,
    pub result_log: Option<String>,
    pub result_values: Option<Value>,
}

impl Report {
    /// A report that finishes an execution with this result.
    #[must_use]
    pub fn finished(result: ExecutionResult) -> Self {
        Self { status: Some(ExecutionStatus::Finished), result: Some(result), ..Self::default() }
    }
}

/// Whether an execution may change from one status to another: forward only. A pure function; the database checks it too.
fn may_become(from: ExecutionStatus, to: ExecutionStatus) -> bool {
    use ExecutionStatus::{Created, Finished, Queued, Running, Skipped, Waiting};
    let rank = |status| match status {
        Created => 0,
        Queued => 1,
        Running => 2,
        Waiting => 3,
        Finished | Skipped => 4,
    };
    !from.is_resolved() && rank(to) >= rank(from)
}

impl Engine {
    /// Records a report. When it resolves the last open execution of the experiment's state, the next step follows in the
    /// same transaction.
    ///
    /// # Errors
    /// [`EngineError::Resolved`], [`EngineError::StaleAttempt`] and [`EngineError::StepBack`] when it comes too late.
    pub async fn report(
        &self,
        ctx: &Context,
        execution_id: i32,
        report: &Report,
    ) -> Result<callback_execution::Model, EngineError> {
        self.report_if(ctx, execution_id, report, None).await
    }

    /// The same, if the execution still equals `seen`; compared under the experiment's lock.
    ///
    /// # Errors
    /// [`EngineError::MovedOn`] when it is not.
    pub async fn report_if(
        &self,
        ctx: &Context,
        execution_id: i32,
        report: &Report,
        seen: Option<&callback_execution::Model>,
    ) -> Result<callback_execution::Model, EngineError> {
        let experiment_id = self.experiment_of(ctx, execution_id).await?;
        retried(async || {
            let mut locked = self.lock(ctx, experiment_id).await?;
            let (execution, callback) = load(ctx, &*locked.transaction, execution_id).await?;
            if seen.is_some_and(|seen| *seen != execution) {
                return Err(EngineError::MovedOn);
            }
            check(&execution, report)?;
            record_of_person(ctx, &locked, &execution, &callback, report).await?;
            if let Some(retry) = retry_at(&execution, &callback, report, locked.now) {
                schedule_retry(&locked, &execution, report, retry).await?;
            } else {
                write(&locked, &execution, &callback, report).await?;
                self.follow(ctx, &mut locked, &execution, report.status).await?;
            }
            let (execution, _) = load(ctx, &*locked.transaction, execution_id).await?;
            self.commit(locked).await?;
            count_end(&execution, &callback, report);
            Ok(execution)
        })
        .await
    }

    /// Takes the next step when the execution was resolved and belongs to the experiment's current state.
    pub(super) async fn follow(
        &self,
        ctx: &Context,
        locked: &mut Locked,
        execution: &callback_execution::Model,
        status: Option<ExecutionStatus>,
    ) -> Result<(), EngineError> {
        let resolved = status.is_some_and(ExecutionStatus::is_resolved);
        if resolved && locked.experiment.last_action_id == Some(execution.action_id) {
            self.settle(ctx, locked).await?;
        }
        Ok(())
    }

    /// The experiment of an execution. It never changes, so it may be read before locking.
    pub(super) async fn experiment_of(&self, ctx: &Context, execution_id: i32) -> Result<i32, EngineError> {
        let experiment_id: Option<i32> = callback_execution::Entity::visible_by_id(ctx, execution_id)
            .select_only()
            .column(action::Column::ExperimentId)
            .join(JoinType::InnerJoin, callback_execution::Relation::Action.def())
            .into_tuple()
            .one(self.database.reader())
            .await?;
        experiment_id.ok_or_else(|| EngineError::not_found(ctx, "callback execution", execution_id))
    }
}

fn count_end(execution: &callback_execution::Model, callback: &callback::Model, report: &Report) {
    if report.status.is_none_or(|status| !status.is_resolved()) {
        return;
    }
    let (function, result) = (callback.function.clone(), execution.result.to_string());
    metrics::counter!("studygovernor_finished_total", "function" => function.clone(), "result" => result).increment(1);
    let (Some(start), Some(end)) = (execution.run_start, execution.finished) else { return };
    #[expect(clippy::cast_precision_loss, reason = "a duration for a histogram")]
    let seconds = (end - start).num_milliseconds().max(0) as f64 / 1000.0;
    metrics::histogram!("studygovernor_execution_seconds", "function" => function).record(seconds);
}

/// The execution with its callback, read under the experiment's lock.
pub(super) async fn load(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    execution_id: i32,
) -> Result<(callback_execution::Model, callback::Model), EngineError> {
    let found = callback_execution::Entity::visible_by_id(ctx, execution_id)
        .find_also_related(callback::Entity)
        .one(connection)
        .await?;
    match found {
        Some((execution, Some(callback))) => Ok((execution, callback)),
        _ => Err(EngineError::not_found(ctx, "callback execution", execution_id)),
    }
}

fn check(execution: &callback_execution::Model, report: &Report) -> Result<(), EngineError> {
    if execution.status.is_resolved() {
        return Err(EngineError::Resolved { execution_id: execution.id, status: execution.status });
    }
    if let Some(reported) = report.attempt
        && reported != execution.attempt
    {
        return Err(EngineError::StaleAttempt { execution_id: execution.id, reported, current: execution.attempt });
    }
    match report.status {
        Some(status) if !may_become(execution.status, status) => {
            Err(EngineError::StepBack { from: execution.status, to: status })
        }
        _ => Ok(()),
    }
}

async fn write(
    locked: &Locked,
    execution: &callback_execution::Model,
    callback: &callback::Model,
    report: &Report,
) -> Result<(), EngineError> {
    use callback_execution::Column;
    let mut changes = Vec::new();
    if let Some(status) = report.status {
        changes.extend(status_changes(execution, callback, status, locked.now));
    }
    if let Some(result) = report.result {
        changes.push((Column::Result, Expr::value(result)));
    }
    if let Some(log) = &report.run_log {
        changes.push((Column::RunLog, Expr::value(merged_log(execution, &storable(&cut(log))))));
    }
    if let Some(log) = &report.result_log {
        changes.push((Column::ResultLog, Expr::value(storable(&cut(log)))));
    }
    if let Some(values) = &report.result_values {
        changes.push((Column::ResultValues, Expr::value(pretty(values))));
    }
    if !changes.is_empty() {
        update(locked, execution, changes).await?;
    }
    let result = report.result.unwrap_or(execution.result);
    if report.status == Some(ExecutionStatus::Finished) && result == ExecutionResult::Success {
        let values = report.result_values.clone().unwrap_or_else(|| kept_values(execution));
        map_variables(locked, callback, &values).await?;
    }
    Ok(())
}

/// Records a user's report in the audit trail; reports of workers are recorded in the history.
async fn record_of_person(
    ctx: &Context,
    locked: &Locked,
    execution: &callback_execution::Model,
    callback: &callback::Model,
    report: &Report,
) -> Result<(), EngineError> {
    if ctx.actor().user_id.is_none() {
        return Ok(());
    }
    let before = json!({ "status": execution.status, "result": execution.result });
    let mut after = json!({
        "status": report.status.unwrap_or(execution.status),
        "result": report.result.unwrap_or(execution.result),
    });
    let texts = [("run_log", report.run_log.is_some()), ("result_log", report.result_log.is_some())];
    for (name, _) in texts.into_iter().chain([("result_values", report.result_values.is_some())]).filter(|one| one.1) {
        after[name] = json!("written");
    }
    let event = Event::new("report", "callback_execution", execution.id, &callback.label);
    let event = event.of_experiment(locked.experiment.id).changed(&before, &after);
    Ok(audit::record(ctx, &*locked.transaction, event).await?)
}

/// The result values that were reported so far.
pub(super) fn kept_values(execution: &callback_execution::Model) -> Value {
    execution.result_values.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Fields that change with the status: its time, its deadline, the end of the lease.
fn status_changes(
    execution: &callback_execution::Model,
    callback: &callback::Model,
    status: ExecutionStatus,
    now: NaiveDateTime,
) -> Vec<(callback_execution::Column, SimpleExpr)> {
    use callback_execution::Column;
    let mut changes = vec![(Column::Status, Expr::value(status))];
    let first = |old: Option<NaiveDateTime>| Expr::value(old.unwrap_or(now));
    match status {
        ExecutionStatus::Running => {
            changes.push((Column::RelayAt, Expr::value(None::<NaiveDateTime>)));
            changes.push((Column::RunStart, first(execution.run_start)));
            changes.push((Column::Deadline, Expr::value(deadline(callback.run_timeout, now))));
        }
        ExecutionStatus::Waiting => {
            changes.push((Column::RelayAt, Expr::value(None::<NaiveDateTime>)));
            changes.push((Column::WaitStart, first(execution.wait_start)));
            changes.push((Column::Deadline, Expr::value(deadline(callback.wait_timeout, now))));
            changes.push((Column::LeasedUntil, Expr::value(None::<NaiveDateTime>)));
        }
        ExecutionStatus::Finished | ExecutionStatus::Skipped => {
            changes.push((Column::RelayAt, Expr::value(None::<NaiveDateTime>)));
            changes.push((Column::Finished, Expr::value(now)));
            changes.push((Column::Deadline, Expr::value(None::<NaiveDateTime>)));
            changes.push((Column::LeasedUntil, Expr::value(None::<NaiveDateTime>)));
        }
        ExecutionStatus::Created | ExecutionStatus::Queued => {}
    }
    changes
}

/// Deadline of a stage that begins now (E8): `minutes` from now; without or with 0 minutes there is none.
pub(crate) fn deadline(minutes: Option<i32>, now: NaiveDateTime) -> Option<NaiveDateTime> {
    minutes.filter(|minutes| *minutes > 0).map(|minutes| now + TimeDelta::minutes(i64::from(minutes)))
}

/// Changes an execution if it is still as it was read; a worker may have claimed it in between.
pub(super) async fn update(
    locked: &Locked,
    execution: &callback_execution::Model,
    changes: Vec<(callback_execution::Column, SimpleExpr)>,
) -> Result<(), EngineError> {
    let mut statement = callback_execution::Entity::update_many();
    for (column, value) in changes {
        statement = statement.col_expr(column, value);
    }
    let changed = statement
        .filter(callback_execution::Column::Id.eq(execution.id))
        .filter(callback_execution::Column::Status.eq(execution.status))
        .filter(callback_execution::Column::Attempt.eq(execution.attempt))
        .exec(&*locked.transaction)
        .await?;
    if changed.rows_affected == 1 {
        return Ok(());
    }
    Err(EngineError::Database(sea_orm::DbErr::Custom(format!(
        "Record has changed: execution {} is no longer {} at attempt {}",
        execution.id,
        execution.status.to_value(),
        execution.attempt
    ))))
}

/// Resolves an execution for a reason outside of its run, such as a timeout, a lost worker or a person, and logs the reason.
pub(super) async fn resolve(
    locked: &Locked,
    execution: &callback_execution::Model,
    status: ExecutionStatus,
    result: ExecutionResult,
    line: &str,
) -> Result<(), EngineError> {
    use callback_execution::Column;
    let nothing = || Expr::value(None::<NaiveDateTime>);
    let changes = vec![
        (Column::Status, Expr::value(status)),
        (Column::Result, Expr::value(result)),
        (Column::Finished, Expr::value(locked.now)),
        (Column::Deadline, nothing()),
        (Column::RelayAt, nothing()),
        (Column::LeasedUntil, nothing()),
        (Column::RunLog, Expr::value(appended(execution.run_log.as_deref(), line))),
    ];
    update(locked, execution, changes).await
}

/// Sets the variables of the callback's variable map (E7); a pointer without a value sets none.
pub(super) async fn map_variables(
    locked: &Locked,
    callback: &callback::Model,
    values: &Value,
) -> Result<(), EngineError> {
    let Some(text) = callback.variable_map.as_deref() else { return Ok(()) };
    let map = workflow::variable_map(text);
    let variables: Vec<(String, VariableValue)> = map
        .into_iter()
        .map(|(target, source)| {
            let pointer = if source.is_empty() || source.starts_with('/') { source } else { format!("/{source}") };
            (target, VariableValue::from_json(values.pointer(&pointer).cloned().unwrap_or_default()))
        })
        .collect();
    set_variables(&*locked.transaction, locked.experiment.id, &variables).await?;
    Ok(())
}

fn pretty(values: &Value) -> String {
    serde_json::to_string_pretty(values).unwrap_or_else(|_| values.to_string())
}

#[cfg(test)]
mod tests {
    use sea_orm::Iterable;

    use super::*;

    #[test]
    fn e4_a_status_goes_forward_only() {
        for from in ExecutionStatus::iter() {
            for to in ExecutionStatus::iter() {
                if from.is_resolved() {
                    assert!(!may_become(from, to), "{from} → {to}");
                } else if to.is_resolved() {
                    assert!(may_become(from, to), "{from} → {to}");
                }
            }
        }
        assert!(!may_become(ExecutionStatus::Waiting, ExecutionStatus::Running));
        assert!(may_become(ExecutionStatus::Created, ExecutionStatus::Running));
    }

    #[test]
    fn e8_no_limit_is_no_deadline() {
        let now = chrono::NaiveDate::from_ymd_opt(2026, 1, 1).unwrap().and_hms_opt(0, 0, 0).unwrap();
        assert_eq!(deadline(None, now), None);
        assert_eq!(deadline(Some(0), now), None);
        assert_eq!(deadline(Some(60), now), Some(now + TimeDelta::hours(1)));
    }
}
