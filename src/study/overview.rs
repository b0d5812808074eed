//! Counts per state, for the overview page.

use std::collections::HashMap;

use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, FromQueryResult, PaginatorTrait, QueryFilter,
    QueryOrder, QuerySelect,
};
use serde::Serialize;

use crate::context::Context;
use crate::entity::kind::ExecutionStatus;
use crate::entity::{callback, callback_execution, cohort, experiment, state, transition, workflow};

use super::visible::{Visible, experiments_in_use, subjects_in_use};

/// Counts over the whole study.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Totals {
    pub cohorts: u64,
    pub subjects: u64,
    pub experiments: u64,
    /// Callback executions that wait for a worker.
    pub queued: u64,
    pub running: u64,
    /// Callback executions that wait for an external system or a person.
    pub waiting: u64,
    /// Experiments that were put on hold because they moved too often.
    pub held: u64,
}

/// A state of a workflow with the number of experiments in it.
#[derive(Debug, Clone, Serialize)]
pub struct StateCount {
    pub id: i32,
    pub label: String,
    pub freetext: Option<String>,
    pub kind: &'static str,
    pub experiments: u64,
}

/// A workflow with its states in order.
#[derive(Debug, Clone, Serialize)]
pub struct WorkflowCounts {
    pub id: i32,
    pub label: String,
    pub experiments: u64,
    pub states: Vec<StateCount>,
}

pub async fn totals(ctx: &Context, connection: &impl ConnectionTrait) -> Result<Totals, DbErr> {
    let executions = |statuses: &[ExecutionStatus]| {
        let column = callback_execution::Column::Status;
        callback_execution::Entity::visible(ctx).filter(column.is_in(statuses.iter().copied()))
    };
    Ok(Totals {
        cohorts: cohort::Entity::visible(ctx).count(connection).await?,
        subjects: subjects_in_use(ctx).count(connection).await?,
        experiments: experiments_in_use(ctx).count(connection).await?,
        queued: executions(&ExecutionStatus::CLAIMABLE).count(connection).await?,
        running: executions(&[ExecutionStatus::Running]).count(connection).await?,
        waiting: executions(&[ExecutionStatus::Waiting]).count(connection).await?,
        held: experiments_in_use(ctx).filter(experiment::Column::HeldSince.is_not_null()).count(connection).await?,
    })
}

#[derive(FromQueryResult)]
struct Counted {
    state_id: i32,
    count: i64,
}

/// Every workflow, or one, with the number of experiments in each state.
pub async fn workflows(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    only: Option<i32>,
) -> Result<Vec<WorkflowCounts>, DbErr> {
    let mut condition = Condition::all();
    if let Some(id) = only {
        condition = condition.add(workflow::Column::Id.eq(id));
    }
    let workflows =
        workflow::Entity::find().filter(condition).order_by_desc(workflow::Column::Id).all(connection).await?;
    let ids: Vec<i32> = workflows.iter().map(|row| row.id).collect();
    let states = state::Entity::find()
        .filter(state::Column::WorkflowId.is_in(ids))
        .order_by_asc(state::Column::Position)
        .order_by_asc(state::Column::Id)
        .all(connection)
        .await?;
    let counts = experiments_in_use(ctx)
        .select_only()
        .column(experiment::Column::StateId)
        .column_as(experiment::Column::Id.count(), "count")
        .group_by(experiment::Column::StateId)
        .into_model::<Counted>()
        .all(connection)
        .await?;
    let counts: HashMap<i32, u64> =
        counts.into_iter().map(|row| (row.state_id, u64::try_from(row.count).unwrap_or(0))).collect();
    let kinds = state_kinds(connection, &states).await?;
    let row = |workflow: workflow::Model| {
        let states: Vec<StateCount> = states
            .iter()
            .filter(|state| state.workflow_id == workflow.id)
            .map(|state| StateCount {
                id: state.id,
                label: state.label.clone(),
                freetext: state.freetext.clone(),
                kind: kinds.get(&state.id).copied().unwrap_or("manual"),
                experiments: counts.get(&state.id).copied().unwrap_or(0),
            })
            .collect();
        let experiments = states.iter().map(|state| state.experiments).sum();
        WorkflowCounts { id: workflow.id, label: workflow.label, experiments, states }
    };
    Ok(workflows.into_iter().map(row).collect())
}

/// The kind of each state: `root`, `automatic` (has callbacks), `manual` (waits for a person) or `end`.
async fn state_kinds(
    connection: &impl ConnectionTrait,
    states: &[state::Model],
) -> Result<HashMap<i32, &'static str>, DbErr> {
    let with_callbacks = distinct(callback::Entity::find(), callback::Column::StateId, connection).await?;
    let left = distinct(transition::Entity::find(), transition::Column::SourceStateId, connection).await?;
    let entered = distinct(transition::Entity::find(), transition::Column::DestinationStateId, connection).await?;
    let kind = |id: &i32| match (entered.contains(id), with_callbacks.contains(id), left.contains(id)) {
        (false, _, _) => "root",
        (true, true, _) => "automatic",
        (true, false, true) => "manual",
        (true, false, false) => "end",
    };
    Ok(states.iter().map(|state| (state.id, kind(&state.id))).collect())
}

#[derive(FromQueryResult)]
struct StateId {
    state_id: i32,
}

async fn distinct<E: EntityTrait>(
    select: sea_orm::Select<E>,
    column: E::Column,
    connection: &impl ConnectionTrait,
) -> Result<std::collections::HashSet<i32>, DbErr> {
    let rows =
        select.select_only().column_as(column, "state_id").distinct().into_model::<StateId>().all(connection).await?;
    Ok(rows.into_iter().map(|row| row.state_id).collect())
}
