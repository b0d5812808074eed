//! Claims, leases and heartbeats in the database (Q3).

use chrono::{NaiveDateTime, TimeDelta};
use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect,
};

use crate::entity::callback_execution::{Column, Entity};
use crate::entity::kind::ExecutionStatus;

/// An execution that may be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, FromQueryResult)]
pub struct Available {
    pub id: i32,
    pub attempt: i32,
}

/// The executions that wait for a worker, longest waiting first.
pub async fn available(
    connection: &impl ConnectionTrait,
    now: NaiveDateTime,
    limit: u64,
) -> Result<Vec<Available>, DbErr> {
    Entity::find()
        .select_only()
        .columns([Column::Id, Column::Attempt])
        .filter(Column::Status.is_in(ExecutionStatus::CLAIMABLE))
        .filter(Column::AvailableAt.lte(now))
        .order_by_asc(Column::AvailableAt)
        .order_by_asc(Column::Id)
        .limit(limit)
        .into_model::<Available>()
        .all(connection)
        .await
}

/// Claims an attempt for `worker` until `now + lease`. Returns `false` when it has been claimed, has ended, or is no longer
/// the current attempt.
pub async fn claim(
    connection: &impl ConnectionTrait,
    wanted: Available,
    worker: &str,
    now: NaiveDateTime,
    lease: TimeDelta,
    run_timeout: Option<i32>,
) -> Result<bool, DbErr> {
    let deadline =
        run_timeout.filter(|minutes| *minutes > 0).map(|minutes| now + TimeDelta::minutes(i64::from(minutes)));
    let claimed = Entity::update_many()
        .col_expr(Column::Status, Expr::value(ExecutionStatus::Running))
        .col_expr(Column::Worker, Expr::value(worker))
        .col_expr(Column::RunStart, Expr::value(now))
        .col_expr(Column::LeasedUntil, Expr::value(now + lease))
        .col_expr(Column::Deadline, Expr::value(deadline))
        .col_expr(Column::RelayAt, Expr::value(None::<NaiveDateTime>))
        .filter(Column::Id.eq(wanted.id))
        .filter(Column::Attempt.eq(wanted.attempt))
        .filter(Column::Status.is_in(ExecutionStatus::CLAIMABLE))
        .exec(connection)
        .await?;
    Ok(claimed.rows_affected == 1)
}

/// Extends a claim and stores the log so far. Returns `false` when the claim is lost, because it was cancelled, timed out,
/// or given to another worker.
pub async fn beat(
    connection: &impl ConnectionTrait,
    claimed: Available,
    worker: &str,
    until: NaiveDateTime,
    run_log: Option<String>,
) -> Result<bool, DbErr> {
    let mut statement = Entity::update_many().col_expr(Column::LeasedUntil, Expr::value(until));
    if let Some(log) = run_log {
        statement = statement.col_expr(Column::RunLog, Expr::value(log));
    }
    let kept = statement
        .filter(Column::Id.eq(claimed.id))
        .filter(Column::Attempt.eq(claimed.attempt))
        .filter(Column::Status.eq(ExecutionStatus::Running))
        .filter(Column::Worker.eq(worker))
        .exec(connection)
        .await?;
    Ok(kept.rows_affected == 1)
}
