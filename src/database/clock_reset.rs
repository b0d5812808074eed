//! Makes the clock of the database the time of the study again, after it was set and while no server runs.
//!
//! Running servers continue with their own time, because a leap would end leases and deadlines. If no server runs,
//! everything that is due later can be moved with the time, so that each delay keeps its length.

use chrono::{NaiveDateTime, TimeDelta};
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, PaginatorTrait, QueryFilter, QuerySelect};
use tracing::info;

use crate::clock::{Reading, TOLERANCE, in_words};
use crate::entity::kind::ExecutionStatus;
use crate::entity::{callback_execution as execution, outbox, study_clock};

use super::Database;

/// No server runs if none has recorded a time for this long; servers do so every few seconds.
const QUIET: TimeDelta = TimeDelta::seconds(30);

impl Database {
    /// Makes the clock of the database the time of the study again, if they differ, no server runs, and no worker holds
    /// a lease.
    ///
    /// # Errors
    /// If the database fails; then nothing was changed.
    pub async fn reset_time(&self) -> Result<(), DbErr> {
        let reading = self.reading().await?;
        let is_quiet = reading.noted.is_some_and(|noted| reading.study() > noted + QUIET);
        if reading.ahead.abs() <= TOLERANCE || !is_quiet {
            return Ok(());
        }
        let transaction = self.begin().await?;
        let row = study_clock::Entity::find_by_id(study_clock::ID).lock_exclusive().one(&*transaction).await?;
        // Another server may have started meanwhile.
        let is_same = row.is_some_and(|row| row.noted_at == reading.noted);
        if !is_same || holds_anything(&*transaction, &reading).await? {
            return Ok(());
        }
        move_executions(&*transaction, -reading.ahead).await?;
        move_mails(&*transaction, -reading.ahead).await?;
        study_clock::Entity::update_many()
            .col_expr(study_clock::Column::AheadUs, Expr::value(0_i64))
            .col_expr(study_clock::Column::NotedAt, Expr::value(reading.database))
            .filter(study_clock::Column::Id.eq(study_clock::ID))
            .exec(&*transaction)
            .await?;
        transaction.commit().await?;
        let span = in_words(reading.ahead);
        info!("the study time differed from the database clock by {span} and follows it again");
        Ok(())
    }
}

async fn holds_anything(connection: &impl ConnectionTrait, reading: &Reading) -> Result<bool, DbErr> {
    let held = execution::Entity::find()
        .filter(execution::Column::Status.eq(ExecutionStatus::Running))
        .filter(execution::Column::LeasedUntil.gt(reading.study()));
    Ok(held.count(connection).await? > 0)
}

async fn move_executions(connection: &impl ConnectionTrait, by: TimeDelta) -> Result<(), DbErr> {
    use execution::Column;
    type Due = (i32, NaiveDateTime, Option<NaiveDateTime>, Option<NaiveDateTime>, Option<NaiveDateTime>);
    let open: Vec<Due> = execution::Entity::find()
        .select_only()
        .columns([Column::Id, Column::AvailableAt, Column::RelayAt, Column::Deadline, Column::LeasedUntil])
        .filter(Column::Status.is_not_in(ExecutionStatus::RESOLVED))
        .into_tuple()
        .all(connection)
        .await?;
    for (id, available, relay, deadline, leased) in open {
        let moved = |at: Option<NaiveDateTime>| Expr::value(at.map(|at| at + by));
        execution::Entity::update_many()
            .col_expr(Column::AvailableAt, Expr::value(available + by))
            .col_expr(Column::RelayAt, moved(relay))
            .col_expr(Column::Deadline, moved(deadline))
            .col_expr(Column::LeasedUntil, moved(leased))
            .filter(Column::Id.eq(id))
            .exec(connection)
            .await?;
    }
    Ok(())
}

async fn move_mails(connection: &impl ConnectionTrait, by: TimeDelta) -> Result<(), DbErr> {
    use outbox::Column;
    let due: Vec<(i32, NaiveDateTime)> = outbox::Entity::find()
        .select_only()
        .columns([Column::Id, Column::AvailableAt])
        .filter(Column::AvailableAt.is_not_null())
        .into_tuple()
        .all(connection)
        .await?;
    for (id, at) in due {
        outbox::Entity::update_many()
            .col_expr(Column::AvailableAt, Expr::value(at + by))
            .filter(Column::Id.eq(id))
            .exec(connection)
            .await?;
    }
    Ok(())
}
