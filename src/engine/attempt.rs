//! Retry scheduling: whether an execution gets another attempt, when, and which fields of the last attempt are reset (Q5).

use chrono::{NaiveDateTime, TimeDelta};
use sea_orm::sea_query::{Expr, SimpleExpr};

use crate::entity::kind::{ExecutionResult, ExecutionStatus};
use crate::entity::{callback, callback_execution};
use crate::workflow;

use super::EngineError;
use super::locked::Locked;
use super::report::{Report, update};
use super::run_log::{cut, merged_log, next_attempt_log, storable};

/// Time of the next attempt after a worker's failure, if retries are left (Q5). A failure that a person or script reports is
/// final.
pub(super) fn retry_at(
    execution: &callback_execution::Model,
    callback: &callback::Model,
    report: &Report,
    now: NaiveDateTime,
) -> Option<NaiveDateTime> {
    let failed = report.status == Some(ExecutionStatus::Finished) && report.result == Some(ExecutionResult::Failed);
    if !failed || report.attempt.is_none() || execution.failures >= callback.retries {
        return None;
    }
    Some(now + backoff(callback.retry_delay, execution.failures, rand::random()))
}

/// `delay`, 2 × `delay`, 4 × `delay`, … seconds, at most a day; `chance` from 0 to 1 spreads that by ±20 %.
fn backoff(delay: i32, failures: i32, chance: f64) -> TimeDelta {
    const DAY: f64 = 86_400.0;
    let seconds = f64::from(delay.max(0)) * 2_f64.powi(failures.clamp(0, 30));
    let spread = 0.8 + 0.4 * chance.clamp(0.0, 1.0);
    #[expect(clippy::cast_possible_truncation, reason = "at most a day in milliseconds")]
    TimeDelta::milliseconds((seconds.min(DAY) * spread * 1000.0) as i64)
}

pub(super) async fn schedule_retry(
    locked: &Locked,
    execution: &callback_execution::Model,
    report: &Report,
    at: NaiveDateTime,
) -> Result<(), EngineError> {
    let log = report.run_log.as_deref().map(|log| merged_log(execution, &storable(&cut(log))));
    let log = log.or_else(|| execution.run_log.clone());
    let line = format!("failed; next attempt at {} UTC", at.format("%Y-%m-%d %H:%M:%S"));
    let log = next_attempt_log(log.as_deref(), &line, execution.attempt + 1);
    let changes = vec![(callback_execution::Column::Failures, Expr::value(execution.failures + 1))];
    requeue(locked, execution, at, log, changes).await
}

/// The queue that the callback names now: it may have changed since the execution was written.
fn queue_now(locked: &Locked, execution: &callback_execution::Model) -> Option<String> {
    let callbacks = locked.graph.callbacks(locked.experiment.state_id);
    match callbacks.iter().find(|callback| callback.id == execution.callback_id) {
        Some(callback) => workflow::queue_of(callback),
        None => execution.queue.clone(),
    }
}

/// Queues an execution for its next attempt.
pub(super) async fn requeue(
    locked: &Locked,
    execution: &callback_execution::Model,
    at: NaiveDateTime,
    log: String,
    changes: Vec<(callback_execution::Column, SimpleExpr)>,
) -> Result<(), EngineError> {
    use callback_execution::Column;
    let nothing = || Expr::value(None::<NaiveDateTime>);
    let mut all = vec![
        (Column::Status, Expr::value(ExecutionStatus::Queued)),
        (Column::Attempt, Expr::value(execution.attempt + 1)),
        (Column::AvailableAt, Expr::value(at)),
        (Column::RelayAt, Expr::value(at)),
        (Column::Queue, Expr::value(queue_now(locked, execution))),
        (Column::RunLog, Expr::value(log)),
        (Column::PublishedAt, nothing()),
        (Column::LeasedUntil, nothing()),
        (Column::Deadline, nothing()),
        (Column::Worker, Expr::value(None::<String>)),
    ];
    all.extend(changes);
    update(locked, execution, all).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q5_the_delay_doubles_within_a_fifth_and_stops_at_a_day() {
        assert_eq!(backoff(10, 0, 0.5), TimeDelta::seconds(10));
        assert_eq!(backoff(10, 2, 0.5), TimeDelta::seconds(40));
        assert_eq!(backoff(10, 0, 0.0), TimeDelta::seconds(8));
        assert_eq!(backoff(10, 0, 1.0), TimeDelta::seconds(12));
        assert_eq!(backoff(0, 5, 1.0), TimeDelta::zero());
        assert!(backoff(86_400, 30, 1.0) <= TimeDelta::hours(29));
    }
}
