//! Recent transitions and failed callbacks, for the overview page.

use std::collections::HashMap;

use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use serde::Serialize;

use crate::context::Context;
use crate::entity::kind::ExecutionResult;
use crate::entity::{action, callback, callback_execution, experiment, state, transition, user};

use super::visible::Visible;

/// A transition that was taken.
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

/// A callback that failed or timed out in the present state of its experiment.
#[derive(Debug, Clone, Serialize)]
pub struct Trouble {
    pub execution_id: i32,
    pub callback: String,
    pub result: String,
    pub at: Option<chrono::NaiveDateTime>,
    pub experiment_id: i32,
    pub experiment: String,
}

/// Reads windows of rows from the newest downwards, until enough of them belong to experiments in use. Rows of archived experiments are
/// filtered here: MariaDB would read and sort all experiments first.
struct Windows {
    wanted: usize,
    left: u32,
    /// The rows of the next window have smaller ids than this.
    below: i32,
}

impl Windows {
    /// Size of a window, as a multiple of the rows that the caller requires.
    const SIZE: u64 = 4;
    const MOST: u32 = 8;

    fn new(wanted: usize) -> Self {
        Self { wanted, left: Self::MOST, below: i32::MAX }
    }

    fn rows(&self) -> u64 {
        self.wanted as u64 * Self::SIZE
    }

    /// Takes the ids of the last window, newest first, and the number of rows found so far. Returns whether to read another window.
    fn goes_on(&mut self, ids: &[i32], found: usize) -> bool {
        self.left -= 1;
        self.below = ids.last().copied().unwrap_or(self.below);
        ids.len() as u64 == self.rows() && found < self.wanted && self.left > 0
    }
}

/// The newest actions of experiments in use, with their experiments.
async fn newest_actions(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    wanted: usize,
) -> Result<Vec<(action::Model, experiment::Model)>, DbErr> {
    let mut windows = Windows::new(wanted);
    let mut found = Vec::new();
    loop {
        let rows = action::Entity::visible(ctx)
            .filter(action::Column::Id.lt(windows.below))
            .order_by_desc(action::Column::Id)
            .limit(windows.rows())
            .find_also_related(experiment::Entity)
            .all(connection)
            .await?;
        let ids: Vec<i32> = rows.iter().map(|(action, _)| action.id).collect();
        let in_use = |(action, experiment): (action::Model, Option<experiment::Model>)| {
            experiment.filter(|one| one.archive_id == 0).map(|experiment| (action, experiment))
        };
        found.extend(rows.into_iter().filter_map(in_use));
        if !windows.goes_on(&ids, found.len()) {
            found.truncate(wanted);
            return Ok(found);
        }
    }
}

/// The newest transitions of all experiments.
pub async fn events(ctx: &Context, connection: &impl ConnectionTrait, wanted: usize) -> Result<Vec<Event>, DbErr> {
    let actions = newest_actions(ctx, connection, wanted).await?;
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

/// User names by account id.
pub(super) async fn user_names(
    connection: &impl ConnectionTrait,
    ids: impl Iterator<Item = i32>,
) -> Result<HashMap<i32, String>, DbErr> {
    let users = user::Entity::find().filter(user::Column::Id.is_in(ids)).all(connection).await?;
    Ok(users.into_iter().map(|row| (row.id, row.name)).collect())
}

/// The callbacks that failed or timed out most recently.
pub async fn trouble(ctx: &Context, connection: &impl ConnectionTrait, wanted: usize) -> Result<Vec<Trouble>, DbErr> {
    let mut windows = Windows::new(wanted);
    let mut found = Vec::new();
    loop {
        let executions = callback_execution::Entity::visible(ctx)
            .filter(callback_execution::Column::Result.is_in([ExecutionResult::Failed, ExecutionResult::Timeout]))
            .filter(callback_execution::Column::Id.lt(windows.below))
            .order_by_desc(callback_execution::Column::Id)
            .limit(windows.rows())
            .find_also_related(callback::Entity)
            .all(connection)
            .await?;
        let ids: Vec<i32> = executions.iter().map(|(execution, _)| execution.id).collect();
        found.extend(of_experiments_in_use(ctx, connection, executions).await?);
        if !windows.goes_on(&ids, found.len()) {
            found.truncate(wanted);
            return Ok(found);
        }
    }
}

async fn of_experiments_in_use(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    executions: Vec<(callback_execution::Model, Option<callback::Model>)>,
) -> Result<Vec<Trouble>, DbErr> {
    let ids = executions.iter().map(|(execution, _)| execution.action_id);
    let actions = action::Entity::visible(ctx)
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
