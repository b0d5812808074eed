//! Which executions are to be published, and that they were (Q1).
//!
//! Due → taken by one server, which moves `relay_at` a little ahead so that the others leave it alone → published and
//! confirmed → `queued`, with `relay_at` at the time when it is sent once more if nobody has claimed it by then (Q4).
//! A server that dies in between leaves it due again a moment later: the message goes twice, and Q3 makes that harmless.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{NaiveDateTime, TimeDelta};
use sea_orm::sea_query::{Expr, LockBehavior, LockType};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, ExprTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect};

use crate::database::Database;
use crate::entity::callback_execution::{Column, Entity};
use crate::entity::kind::ExecutionStatus;

use super::DEFAULT_QUEUE;

/// An execution that is to be published.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct Due {
    pub id: i32,
    pub attempt: i32,
    /// The queue that its callback asks for.
    pub queue: Option<String>,
    pub available_at: NaiveDateTime,
    pub published_at: Option<NaiveDateTime>,
}

/// How long what one server has taken is left alone by the others.
const TURN: TimeDelta = TimeDelta::seconds(15);

/// What one server has taken, until it says what became of it.
#[derive(Debug)]
pub struct Turn {
    pub due: Vec<Due>,
    until: NaiveDateTime,
}

/// Takes what is due, what has waited longest first, at most `limit`.
///
/// # Errors
/// When the database fails.
pub async fn take_due(database: &Database, now: NaiveDateTime, limit: u64) -> Result<Turn, DbErr> {
    let until = now + TURN;
    let due =
        || Entity::find().filter(Column::RelayAt.lte(now)).filter(Column::Status.is_in(ExecutionStatus::CLAIMABLE));
    let columns = [Column::Id, Column::Attempt, Column::Queue, Column::AvailableAt, Column::PublishedAt];
    // Looked at without a lock first: mostly there is nothing, and a transaction for that is three statements too many.
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
        // What another server is taking at this moment is its business.
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

/// Notes that these were published and confirmed. One that was claimed meanwhile, or is over, stays as it is.
///
/// # Errors
/// When the database fails.
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

/// Leaves these to the next turn of any server, at `at`.
///
/// # Errors
/// When the database fails; they are due by themselves a little later then.
pub async fn put_back(database: &Database, turn: &Turn, unpublished: &[Due], at: NaiveDateTime) -> Result<(), DbErr> {
    alone(database, {
        Entity::update_many()
            .col_expr(Column::RelayAt, Expr::value(at))
            .filter(Column::Id.is_in(unpublished.iter().map(|one| one.id)))
            .filter(Column::RelayAt.eq(turn.until))
    })
    .await
}

/// The queues in which something was published that nobody has claimed.
///
/// # Errors
/// When the database fails.
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

/// Makes what was published to a queue and not claimed due once more: the queue was lost with all that lay in it.
///
/// # Errors
/// When the database fails.
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

/// One statement; done again when it met another one.
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

/// How long after a message was confirmed it is sent once more when nobody has claimed: `republish`, or as long as it has
/// waited already, in steps that double, at most six hours. So a message that the broker lost is made up for soon, and one that
/// waits in a long queue does not fill it with copies of itself.
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
        // In a day of waiting a dozen copies, not one a minute.
        let (mut waited, mut copies) = (TimeDelta::zero(), 0);
        while waited < TimeDelta::days(1) {
            waited += patience(minute, waited);
            copies += 1;
        }
        assert!(copies <= 14, "{copies}");
    }
}
