//! The load of each queue and the number of workers that it needs, for autoscalers.

use std::collections::BTreeMap;

use chrono::NaiveDateTime;
use sea_orm::{ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, FromQueryResult, QueryFilter, QuerySelect};
use serde::Serialize;

use crate::context::Context;
use crate::entity::callback_execution::{Column, Entity};
use crate::entity::kind::ExecutionStatus;
use crate::entity::worker;

use super::Visible;

/// The work of one queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueLoad {
    pub queue: String,
    /// Executions that a worker could claim now. Those due later (a delay, a retry) do not count.
    pub queued: u64,
    /// Executions that a worker has claimed. The broker cannot count them: their messages are acknowledged.
    pub running: u64,
    /// Number of executions that one worker runs at the same time.
    pub concurrency: u64,
    /// Number of workers that this needs: `(queued + running) / concurrency`, rounded up.
    pub wanted: u64,
}

#[derive(FromQueryResult)]
struct Row {
    queue: Option<String>,
    status: ExecutionStatus,
    count: i64,
}

/// The load of each queue that has work or a worker online, by name. `concurrency`, if given, applies to all queues. Otherwise a queue has
/// the lowest concurrency of its workers, so that the number of workers is rather too high than too low, or `otherwise` if it has no
/// worker.
pub async fn queue_loads(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    now: NaiveDateTime,
    default_queue: &str,
    concurrency: Option<u64>,
    otherwise: u64,
) -> Result<Vec<QueueLoad>, DbErr> {
    let due = Condition::all().add(Column::Status.is_in(ExecutionStatus::CLAIMABLE)).add(Column::AvailableAt.lte(now));
    let rows = Entity::visible(ctx)
        .select_only()
        .columns([Column::Queue, Column::Status])
        .column_as(Column::Id.count(), "count")
        .filter(Condition::any().add(due).add(Column::Status.eq(ExecutionStatus::Running)))
        .group_by(Column::Queue)
        .group_by(Column::Status)
        .into_model::<Row>()
        .all(connection)
        .await?;
    let mut loads: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut per_worker = concurrency_of_workers(connection, now).await?;
    for queue in per_worker.keys() {
        loads.entry(queue.clone()).or_default();
    }
    for row in rows {
        let (queued, running) = loads.entry(row.queue.unwrap_or_else(|| default_queue.to_owned())).or_default();
        let count = if row.status == ExecutionStatus::Running { running } else { queued };
        *count += u64::try_from(row.count).unwrap_or(0);
    }
    let load = |(queue, (queued, running)): (String, (u64, u64))| {
        let concurrency = concurrency.or_else(|| per_worker.remove(&queue)).unwrap_or(otherwise).max(1);
        QueueLoad { queue, queued, running, concurrency, wanted: (queued + running).div_ceil(concurrency) }
    };
    Ok(loads.into_iter().map(load).collect())
}

/// The lowest concurrency of the workers of each queue that reported within the last minute.
async fn concurrency_of_workers(
    connection: &impl ConnectionTrait,
    now: NaiveDateTime,
) -> Result<BTreeMap<String, u64>, DbErr> {
    let rows: Vec<(String, i32)> = worker::Entity::find()
        .select_only()
        .columns([worker::Column::Queues, worker::Column::Concurrency])
        .filter(worker::Column::SeenAt.gte(now - chrono::TimeDelta::minutes(1)))
        .filter(worker::Column::StoppedAt.is_null())
        .into_tuple()
        .all(connection)
        .await?;
    let mut lowest: BTreeMap<String, u64> = BTreeMap::new();
    for (queues, concurrency) in rows {
        let concurrency = u64::try_from(concurrency).unwrap_or(1);
        for queue in queues.split(", ").filter(|queue| !queue.is_empty()) {
            lowest.entry(queue.to_owned()).and_modify(|least| *least = concurrency.min(*least)).or_insert(concurrency);
        }
    }
    Ok(lowest)
}
