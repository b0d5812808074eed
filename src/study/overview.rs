//! Where the study stands, in numbers.

use std::collections::HashMap;

use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, FromQueryResult, PaginatorTrait, QueryFilter,
    QueryOrder, QuerySelect,
};
use serde::Serialize;

use crate::entity::kind::{ExecutionResult, ExecutionStatus};
use crate::entity::{action, callback, callback_execution, cohort, experiment, state, transition, user, workflow};

use super::visible::{Visible, experiments_in_use, subjects_in_use};

/// How many there are.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Totals {
    pub cohorts: u64,
    pub subjects: u64,
    pub experiments: u64,
    /// Callback executions that wait for a worker.
    pub queued: u64,
    pub running: u64,
    /// Callback executions that wait for somebody outside.
    pub waiting: u64,
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

/// A workflow with its states in their order.
#[derive(Debug, Clone, Serialize)]
pub struct WorkflowCounts {
    pub id: i32,
    pub label: String,
    pub experiments: u64,
    pub states: Vec<StateCount>,
}

/// Something that happened.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    pub at: chrono::NaiveDateTime,
    pub experiment_id: i32,
    pub experiment: String,
    pub from: String,
    pub to: String,
    pub user: Option<String>,
    pub origin: String,
}

/// A callback that did not succeed, in the state that its experiment is in.
#[derive(Debug, Clone, Serialize)]
pub struct Trouble {
    pub execution_id: i32,
    pub callback: String,
    pub result: String,
    pub at: Option<chrono::NaiveDateTime>,
    pub experiment_id: i32,
    pub experiment: String,
}

/// # Errors
/// When the database cannot be read.
pub async fn totals(connection: &impl ConnectionTrait) -> Result<Totals, DbErr> {
    let executions = |statuses: &[ExecutionStatus]| {
        let column = callback_execution::Column::Status;
        callback_execution::Entity::visible().filter(column.is_in(statuses.iter().copied()))
    };
    Ok(Totals {
        cohorts: cohort::Entity::visible().count(connection).await?,
        subjects: subjects_in_use().count(connection).await?,
        experiments: experiments_in_use().count(connection).await?,
        queued: executions(&ExecutionStatus::CLAIMABLE).count(connection).await?,
        running: executions(&[ExecutionStatus::Running]).count(connection).await?,
        waiting: executions(&[ExecutionStatus::Waiting]).count(connection).await?,
    })
}

#[derive(FromQueryResult)]
struct Counted {
    state_id: i32,
    count: i64,
}

/// Every workflow, or one, with the number of experiments in each state.
///
/// # Errors
/// When the database cannot be read.
pub async fn workflows(connection: &impl ConnectionTrait, only: Option<i32>) -> Result<Vec<WorkflowCounts>, DbErr> {
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
    let counts = experiments_in_use()
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

/// `root`, `automatic` (has callbacks), `manual` (waits for somebody) or `end`, by state.
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

/// The newest rows are looked at in windows of so many times what is wanted, and so many windows at most: what belongs to
/// archived experiments is left out here, since MariaDB, asked to do it, reads and sorts all experiments first.
const WINDOW: u64 = 4;
const MOST_WINDOWS: usize = 8;

/// The newest actions of experiments in use, with those.
async fn newest_actions(
    connection: &impl ConnectionTrait,
    limit: u64,
) -> Result<Vec<(action::Model, experiment::Model)>, DbErr> {
    let mut found = Vec::new();
    let mut below = i32::MAX;
    for _ in 0..MOST_WINDOWS {
        let rows = action::Entity::visible()
            .filter(action::Column::Id.lt(below))
            .order_by_desc(action::Column::Id)
            .limit(limit * WINDOW)
            .find_also_related(experiment::Entity)
            .all(connection)
            .await?;
        let is_last = (rows.len() as u64) < limit * WINDOW;
        below = rows.last().map_or(below, |(action, _)| action.id);
        let in_use = |(action, experiment): (action::Model, Option<experiment::Model>)| {
            experiment.filter(|one| one.archive_id == 0).map(|experiment| (action, experiment))
        };
        found.extend(rows.into_iter().filter_map(in_use));
        if is_last || found.len() as u64 >= limit {
            break;
        }
    }
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(found)
}

/// The last transitions that were taken anywhere.
///
/// # Errors
/// When the database cannot be read.
pub async fn recent_events(connection: &impl ConnectionTrait, limit: u64) -> Result<Vec<Event>, DbErr> {
    let actions = newest_actions(connection, limit).await?;
    let ids = actions.iter().map(|(action, _)| action.transition_id);
    let transitions = transition::Entity::find().filter(transition::Column::Id.is_in(ids)).all(connection).await?;
    let ends: HashMap<i32, (i32, i32)> =
        transitions.iter().map(|row| (row.id, (row.source_state_id, row.destination_state_id))).collect();
    let ids = ends.values().flat_map(|(from, to)| [*from, *to]);
    let labels = state::Entity::find().filter(state::Column::Id.is_in(ids)).all(connection).await?;
    let labels: HashMap<i32, String> = labels.into_iter().map(|row| (row.id, row.label)).collect();
    let users = user_names(connection, actions.iter().filter_map(|(action, _)| action.user_id)).await?;
    let label = |id: i32| labels.get(&id).cloned().unwrap_or_default();
    let event = |(action, experiment): (action::Model, experiment::Model)| {
        let (from, to) = ends.get(&action.transition_id).copied().unwrap_or_default();
        Event {
            at: action.start_time,
            experiment_id: action.experiment_id,
            experiment: experiment.label,
            from: label(from),
            to: label(to),
            user: action.user_id.and_then(|id| users.get(&id).cloned()),
            origin: action.origin.to_string(),
        }
    };
    Ok(actions.into_iter().map(event).collect())
}

/// Names of accounts by id.
///
/// # Errors
/// When the database cannot be read.
pub async fn user_names(
    connection: &impl ConnectionTrait,
    ids: impl Iterator<Item = i32>,
) -> Result<HashMap<i32, String>, DbErr> {
    let users = user::Entity::find().filter(user::Column::Id.is_in(ids)).all(connection).await?;
    Ok(users.into_iter().map(|row| (row.id, row.name)).collect())
}

/// Callbacks that failed or timed out last.
///
/// # Errors
/// When the database cannot be read.
pub async fn recent_trouble(connection: &impl ConnectionTrait, limit: u64) -> Result<Vec<Trouble>, DbErr> {
    let mut found = Vec::new();
    let mut below = i32::MAX;
    for _ in 0..MOST_WINDOWS {
        let executions = callback_execution::Entity::visible()
            .filter(callback_execution::Column::Result.is_in([ExecutionResult::Failed, ExecutionResult::Timeout]))
            .filter(callback_execution::Column::Id.lt(below))
            .order_by_desc(callback_execution::Column::Id)
            .limit(limit * WINDOW)
            .find_also_related(callback::Entity)
            .all(connection)
            .await?;
        let is_last = (executions.len() as u64) < limit * WINDOW;
        below = executions.last().map_or(below, |(execution, _)| execution.id);
        found.extend(of_experiments_in_use(connection, executions).await?);
        if is_last || found.len() as u64 >= limit {
            break;
        }
    }
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(found)
}

async fn of_experiments_in_use(
    connection: &impl ConnectionTrait,
    executions: Vec<(callback_execution::Model, Option<callback::Model>)>,
) -> Result<Vec<Trouble>, DbErr> {
    let ids = executions.iter().map(|(execution, _)| execution.action_id);
    let actions = action::Entity::visible()
        .filter(action::Column::Id.is_in(ids))
        .find_also_related(experiment::Entity)
        .all(connection)
        .await?;
    let in_use = |(action, experiment): (action::Model, Option<experiment::Model>)| {
        experiment.filter(|one| one.archive_id == 0).map(|experiment| (action.id, experiment))
    };
    let experiments: HashMap<i32, experiment::Model> = actions.into_iter().filter_map(in_use).collect();
    let trouble = |(execution, callback): (callback_execution::Model, Option<callback::Model>)| {
        let experiment = experiments.get(&execution.action_id)?;
        Some(Trouble {
            execution_id: execution.id,
            callback: callback?.label,
            result: execution.result.to_string(),
            at: execution.finished,
            experiment_id: experiment.id,
            experiment: experiment.label.clone(),
        })
    };
    Ok(executions.into_iter().filter_map(trouble).collect())
}
