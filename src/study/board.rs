//! Queries for the callbacks and workers pages: callback executions, workers and dead letters.

use std::collections::BTreeMap;

use chrono::NaiveDateTime;
use sea_orm::sea_query::{Expr, Func};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, FromQueryResult, JoinType, PaginatorTrait,
    QueryFilter, QueryOrder, QuerySelect, RelationTrait,
};
use serde::Serialize;

use crate::context::Context;
use crate::entity::callback_execution::{Column, Entity, Relation};
use crate::entity::kind::{ExecutionResult, ExecutionStatus};
use crate::entity::{action, callback, dead_letter, experiment, worker};

use super::Visible;
use super::search::{COUNT_LIMIT, Page, Place};

/// Restricts the list of executions.
#[derive(Debug, Clone, Default)]
pub struct ExecutionFilter {
    pub stage: Option<Stage>,
    /// Name of a callback function.
    pub function: Option<String>,
    /// Requested at this time or before.
    pub before: Option<NaiveDateTime>,
    /// Name of a worker.
    pub worker: Option<String>,
}

/// Stages of executions, as users name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Not finished and not skipped.
    Open,
    /// Waits for a worker.
    Queued,
    Running,
    /// Waits for an external system or a person.
    Waiting,
    /// Failed or timed out.
    Failed,
    Succeeded,
    Skipped,
}

impl Stage {
    /// All stages, with their names in URLs.
    pub const ALL: [(Self, &str); 7] = [
        (Self::Open, "open"),
        (Self::Queued, "queued"),
        (Self::Running, "running"),
        (Self::Waiting, "waiting"),
        (Self::Failed, "failed"),
        (Self::Succeeded, "succeeded"),
        (Self::Skipped, "skipped"),
    ];

    /// The stage with this name.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, name)| *name == word).map(|(stage, _)| *stage)
    }

    fn condition(self) -> Condition {
        use ExecutionStatus::{Created, Finished, Queued, Running, Skipped, Waiting};
        let status =
            |statuses: &[ExecutionStatus]| Condition::all().add(Column::Status.is_in(statuses.iter().copied()));
        match self {
            Self::Open => status(&[Created, Queued, Running, Waiting]),
            Self::Queued => status(&[Created, Queued]),
            Self::Running => status(&[Running]),
            Self::Waiting => status(&[Waiting]),
            Self::Failed => {
                status(&[Finished]).add(Column::Result.is_in([ExecutionResult::Failed, ExecutionResult::Timeout]))
            }
            Self::Succeeded => status(&[Finished]).add(Column::Result.eq(ExecutionResult::Success)),
            Self::Skipped => status(&[Skipped]),
        }
    }
}

/// A row of the list of executions.
#[derive(Debug, Clone, Serialize, FromQueryResult)]
pub struct ExecutionRow {
    pub id: i32,
    pub callback: String,
    pub function: String,
    pub experiment_id: i32,
    pub experiment: String,
    pub action_id: i32,
    pub status: ExecutionStatus,
    pub result: ExecutionResult,
    pub attempt: i32,
    pub queue: Option<String>,
    pub worker: Option<String>,
    pub created: NaiveDateTime,
    pub available_at: NaiveDateTime,
    pub run_start: Option<NaiveDateTime>,
    pub finished: Option<NaiveDateTime>,
    /// The last action of its experiment: executions of earlier actions cannot be retried.
    last_action_id: Option<i32>,
    archive_id: i32,
    #[sea_orm(skip)]
    pub is_current: bool,
}

/// Executions, the newest first. Two statements.
pub async fn executions(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    filter: &ExecutionFilter,
    place: Place,
) -> Result<Page<ExecutionRow>, DbErr> {
    let mut condition = filter.stage.map_or_else(Condition::all, Stage::condition);
    if let Some(before) = filter.before {
        condition = condition.add(Column::Created.lte(before));
    }
    if let Some(worker) = &filter.worker {
        condition = condition.add(Column::Worker.eq(worker));
    }
    if let Some(function) = &filter.function {
        let of_function = callback::Entity::find()
            .select_only()
            .column(callback::Column::Id)
            .filter(callback::Column::Function.eq(function));
        condition = condition.add(Column::CallbackId.in_subquery(sea_orm::QueryTrait::into_query(of_function)));
    }
    let size = place.size.clamp(1, 500);
    let all = || Entity::visible(ctx).filter(condition.clone());
    let window = match (place.below, place.above) {
        (_, Some(above)) => all().filter(Column::Id.gt(above)).order_by_asc(Column::Id),
        (Some(below), None) => all().filter(Column::Id.lt(below)).order_by_desc(Column::Id),
        (None, None) => all().order_by_desc(Column::Id),
    };
    let mut rows = window
        .select_only()
        .columns([Column::Id, Column::ActionId, Column::Status, Column::Result, Column::Attempt, Column::Queue])
        .columns([Column::Worker, Column::Created, Column::AvailableAt, Column::RunStart, Column::Finished])
        .column_as(callback::Column::Label, "callback")
        .column_as(callback::Column::Function, "function")
        .column_as(action::Column::ExperimentId, "experiment_id")
        .column_as(experiment::Column::Label, "experiment")
        .columns([experiment::Column::LastActionId, experiment::Column::ArchiveId])
        .join(JoinType::InnerJoin, Relation::Callback.def())
        .join(JoinType::InnerJoin, Relation::Action.def())
        .join(JoinType::InnerJoin, action::Relation::Experiment.def())
        .limit(size + 1)
        .into_model::<ExecutionRow>()
        .all(connection)
        .await?;
    let most = usize::try_from(size).unwrap_or(usize::MAX);
    let more = rows.len() > most;
    rows.truncate(most);
    rows.sort_by_key(|row| std::cmp::Reverse(row.id));
    for row in &mut rows {
        row.is_current = row.last_action_id == Some(row.action_id) && row.archive_id == 0;
    }
    let (has_newer, has_older) = match (place.below, place.above) {
        (_, Some(_)) => (more, true),
        (Some(_), None) => (true, more),
        (None, None) => (false, more),
    };
    let count = all().select_only().column(Column::Id).limit(COUNT_LIMIT + 1).count(connection).await?;
    Ok(Page { rows, count: Ord::min(count, COUNT_LIMIT), count_is_least: count > COUNT_LIMIT, has_newer, has_older })
}

/// The number of executions in each open stage, and how long the first one has waited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    pub queued: u64,
    pub running: u64,
    pub waiting: u64,
    /// The earliest time at which an execution in the queue could be run.
    pub oldest: Option<NaiveDateTime>,
    /// The earliest time at which an execution was due for the relay.
    pub relay: Option<NaiveDateTime>,
}

#[derive(FromQueryResult)]
struct StatusCount {
    status: ExecutionStatus,
    count: i64,
    oldest: Option<NaiveDateTime>,
    relay: Option<NaiveDateTime>,
}

/// The load at `now`. One statement, which reads open executions only, however long the history is.
pub async fn load(ctx: &Context, connection: &impl ConnectionTrait, now: NaiveDateTime) -> Result<Load, DbErr> {
    let rows = Entity::visible(ctx)
        .select_only()
        .column(Column::Status)
        .column_as(Column::Id.count(), "count")
        .column_as(Column::AvailableAt.min(), "oldest")
        .expr_as(Expr::expr(Func::min(Expr::col(Column::RelayAt))), "relay")
        .filter(Stage::Open.condition())
        .group_by(Column::Status)
        .into_model::<StatusCount>()
        .all(connection)
        .await?;
    let mut load = Load::default();
    for row in rows {
        let count = u64::try_from(row.count).unwrap_or(0);
        match row.status {
            ExecutionStatus::Running => load.running += count,
            ExecutionStatus::Waiting => load.waiting += count,
            _ => {
                load.queued += count;
                let earlier = |a: Option<NaiveDateTime>, b: Option<NaiveDateTime>| a.into_iter().chain(b).min();
                load.oldest = earlier(load.oldest, row.oldest.filter(|at| *at <= now));
                load.relay = earlier(load.relay, row.relay.filter(|at| *at <= now));
            }
        }
    }
    Ok(load)
}

/// A worker and its running executions.
#[derive(Debug, Clone, Serialize)]
pub struct WorkerRow {
    pub name: String,
    pub kind: String,
    pub queues: String,
    pub concurrency: i32,
    pub version: String,
    pub started_at: NaiveDateTime,
    pub seen_at: NaiveDateTime,
    pub stopped_at: Option<NaiveDateTime>,
    /// The worker has announced its end, or has sent no heartbeat for a minute.
    pub is_gone: bool,
    pub running: Vec<RunningRow>,
}

/// An execution that a worker runs.
#[derive(Debug, Clone, Serialize)]
pub struct RunningRow {
    pub id: i32,
    pub callback: String,
    pub run_start: Option<NaiveDateTime>,
}

/// Workers that have reported since `since`, and workers with running executions; those online come first. Two statements.
pub async fn workers(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    since: NaiveDateTime,
    now: NaiveDateTime,
) -> Result<Vec<WorkerRow>, DbErr> {
    let running = Entity::visible(ctx)
        .select_only()
        .columns([Column::Id, Column::Worker, Column::RunStart])
        .column(callback::Column::Label)
        .join(JoinType::InnerJoin, Relation::Callback.def())
        .filter(Column::Status.eq(ExecutionStatus::Running))
        .order_by_asc(Column::Id)
        .into_tuple::<(i32, Option<String>, Option<NaiveDateTime>, String)>()
        .all(connection)
        .await?;
    let mut by_worker: BTreeMap<String, Vec<RunningRow>> = BTreeMap::new();
    for (id, worker, run_start, callback) in running {
        by_worker.entry(worker.unwrap_or_default()).or_default().push(RunningRow { id, callback, run_start });
    }
    let rows = worker::Entity::find()
        .filter(
            Condition::any()
                .add(worker::Column::SeenAt.gte(since))
                .add(worker::Column::Name.is_in(by_worker.keys().cloned())),
        )
        .order_by_desc(worker::Column::SeenAt)
        .all(connection)
        .await?;
    let mut rows: Vec<WorkerRow> = rows
        .into_iter()
        .map(|row| WorkerRow {
            is_gone: row.stopped_at.is_some() || now - row.seen_at > chrono::TimeDelta::minutes(1),
            running: by_worker.remove(&row.name).unwrap_or_default(),
            name: row.name,
            kind: row.kind,
            queues: row.queues,
            concurrency: row.concurrency,
            version: row.version,
            started_at: row.started_at,
            seen_at: row.seen_at,
            stopped_at: row.stopped_at,
        })
        .collect();
    rows.sort_by(|a, b| (a.is_gone, &a.name).cmp(&(b.is_gone, &b.name)));
    Ok(rows)
}

/// Dead letters, newest first, at most `most`.
pub async fn dead_letters(connection: &impl ConnectionTrait, most: u64) -> Result<Vec<dead_letter::Model>, DbErr> {
    dead_letter::Entity::find().order_by_desc(dead_letter::Column::Id).limit(most).all(connection).await
}
