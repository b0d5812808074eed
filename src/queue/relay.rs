//! The relay: selects executions to publish, and records that they were published (Q1).
//!
//! Due → taken by one server, which moves `relay_at` a little ahead so that other servers skip it → published and confirmed
//! → `queued`, with `relay_at` at the time when it is published again unless a worker has claimed it (Q4). If a server dies
//! in between, the execution is due again soon: the message is sent twice, which Q3 makes harmless.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{NaiveDateTime, TimeDelta};
use sea_orm::sea_query::{Expr, LockBehavior, LockType};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, ExprTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect};

use crate::database::Database;
use crate::entity::callback_execution::{Column, Entity};
use crate::entity::kind::ExecutionStatus;

use super::DEFAULT_QUEUE;

/// An execution to publish.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct Due {
    pub id: i32,
    pub attempt: i32,
    /// The queue that its callback names.
    pub queue: Option<String>,
    pub available_at: NaiveDateTime,
    pub published_at: Option<NaiveDateTime>,
}

/// Time for which other servers skip the executions that one server has taken.
const TURN: TimeDelta = TimeDelta::seconds(15);

/// Executions that one server has taken, until it records the result.
#[derive(Debug)]
pub struct Turn {
    pub due: Vec<Due>,
    until: NaiveDateTime,
}

/// Takes due executions, longest waiting first, at most `limit`.
pub async fn take_due(database: &Database, now: NaiveDateTime, limit: u64) -> Result<Turn, DbErr> {
    let until = now + TURN;
    let due =
        || Entity::find().filter(Column::RelayAt.lte(now)).filter(Column::Status.is_in(ExecutionStatus::CLAIMABLE));
    let columns = [Column::Id, Column::Attempt, Column::Queue, Column::AvailableAt, Column::PublishedAt];
    // Checks without a lock first: usually nothing is due, and a transaction would cost three more statements.
    let any: Option<i32> = due().select_only().column(Column::Id).into_tuple().one(database.reader()).await?;
    if any.is_none() {
        return Ok(Turn { due: Vec::new(), until });
    }
    let transaction = database.begin_maintenance().await?;
    let taken = due()
        .select_only()
        .columns(columns)
        .order_by_asc(Column::RelayAt)
        .order_by_asc(Column::Id)
        .limit(limit)
        // Skips rows that another server is taking at this moment.
        .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
        .into_model::<Due>()
        .all(&*transaction)
        .await?;
    if !taken.is_empty() {
        Entity::update_many()
            .col_expr(Column::RelayAt, Expr::value(until))
            .filter(Column::Id.is_in(taken.iter().map(|one| one.id)))
            .exec(&*transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(Turn { due: taken, until })
}

/// Records that these were published and confirmed. Executions that have been claimed or resolved in the meantime stay
/// unchanged.
pub async fn mark_published(
    database: &Database,
    turn: &Turn,
    published: &[Due],
    now: NaiveDateTime,
    republish: TimeDelta,
) -> Result<(), DbErr> {
    let mut again: BTreeMap<NaiveDateTime, Vec<i32>> = BTreeMap::new();
    for one in published {
        again.entry(now + patience(republish, now - one.available_at)).or_default().push(one.id);
    }
    for (at, ids) in again {
        alone(database, {
            Entity::update_many()
                .col_expr(Column::Status, Expr::value(ExecutionStatus::Queued))
                .col_expr(Column::PublishedAt, Expr::value(now))
                .col_expr(Column::RelayAt, Expr::value(at))
                .filter(Column::Id.is_in(ids))
                .filter(Column::RelayAt.eq(turn.until))
                .filter(Column::Status.is_in(ExecutionStatus::CLAIMABLE))
        })
        .await?;
    }
    Ok(())
}

/// Leaves these to the next turn of any server, at `at`. If the database fails, they become due a little later anyway.
pub async fn put_back(database: &Database, turn: &Turn, unpublished: &[Due], at: NaiveDateTime) -> Result<(), DbErr> {
    alone(database, {
        Entity::update_many()
            .col_expr(Column::RelayAt, Expr::value(at))
            .filter(Column::Id.is_in(unpublished.iter().map(|one| one.id)))
            .filter(Column::RelayAt.eq(turn.until))
    })
    .await
}

/// The queues with published executions that no worker has claimed.
pub async fn published_queues(database: &Database) -> Result<BTreeSet<String>, DbErr> {
    let queues: Vec<Option<String>> = Entity::find()
        .filter(Column::Status.eq(ExecutionStatus::Queued))
        .filter(Column::PublishedAt.is_not_null())
        .select_only()
        .column(Column::Queue)
        .distinct()
        .into_tuple()
        .all(database.reader())
        .await?;
    Ok(queues.into_iter().map(|queue| queue.unwrap_or_else(|| DEFAULT_QUEUE.to_owned())).collect())
}

/// Makes the unclaimed executions of a queue due again, after the queue was lost with its messages.
pub async fn send_again(database: &Database, queue: &str, now: NaiveDateTime) -> Result<(), DbErr> {
    let asked_for = Column::Queue.eq(queue);
    let here = if queue == DEFAULT_QUEUE { asked_for.or(Column::Queue.is_null()) } else { asked_for };
    alone(database, {
        Entity::update_many()
            .col_expr(Column::RelayAt, Expr::value(now))
            .filter(Column::Status.eq(ExecutionStatus::Queued))
            .filter(Column::RelayAt.is_not_null())
            .filter(here)
    })
    .await
}

/// Runs one statement in a transaction; repeats it after a conflict.
async fn alone(database: &Database, statement: sea_orm::UpdateMany<Entity>) -> Result<(), DbErr> {
    for _ in 0..5 {
        let transaction = database.begin_maintenance().await?;
        match statement.clone().exec(&*transaction).await {
            Err(error) if crate::database::is_transient(&error) => {}
            outcome => {
                outcome?;
                return transaction.commit().await;
            }
        }
    }
    Err(DbErr::Custom("the queue was changed concurrently five times in a row".to_owned()))
}

/// Time after which an unclaimed message is published again: `republish`, doubled until it is at least the time already
/// waited, up to a limit of about six hours. A message that the broker lost is soon replaced, and one that waits in a long
/// queue does not fill the queue with copies.
fn patience(republish: TimeDelta, waited: TimeDelta) -> TimeDelta {
    let mut patience = republish;
    while patience < waited && patience < TimeDelta::hours(6) {
        patience = patience * 2;
    }
    patience
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q4_a_message_is_made_up_for_soon_and_a_long_queue_is_not_filled_with_copies() {
        let minute = TimeDelta::minutes(1);
        assert_eq!(patience(minute, TimeDelta::zero()), minute);
        assert_eq!(patience(minute, TimeDelta::minutes(3)), TimeDelta::minutes(4));
        // A dozen copies in a day of waiting, not one a minute.
        let (mut waited, mut copies) = (TimeDelta::zero(), 0);
        while waited < TimeDelta::days(1) {
            waited += patience(minute, waited);
            copies += 1;
        }
        assert!(copies <= 14, "{copies}");
    }
}
