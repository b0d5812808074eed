//! Writes a checked workflow to the database.

use std::collections::HashMap;

use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::{ActiveModelTrait, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter};

use crate::audit::{self, Event};
use crate::context::Context;
use crate::database::{self, Database};
use crate::entity::{callback, state, transition, workflow};

use super::graph;
use super::{CallbackDefinition, Definition, StateDefinition, TransitionDefinition, WorkflowError, yaml};

/// Number of rows in one statement: far below the 32,766 values that SQLite accepts.
const CHUNK: usize = 500;

/// Loads a workflow under its label, all or nothing.
///
/// # Errors
/// [`WorkflowError::Exists`] if the label is taken.
pub async fn load(
    ctx: &Context,
    database: &Database,
    definition: &Definition,
) -> Result<workflow::Model, WorkflowError> {
    let transaction = database.begin().await?;
    let row = workflow::ActiveModel {
        id: NotSet,
        label: Set(definition.label.clone()),
        revision: Set(graph::new_revision()),
    };
    let workflow = row.insert(&*transaction).await.map_err(|error| match database::is_duplicate(&error) {
        true => WorkflowError::Exists(definition.label.clone()),
        false => error.into(),
    })?;
    let states = definition.states.iter().zip(0..).map(|(state, position)| state_model(workflow.id, state, position));
    insert_all::<state::Entity, _>(&*transaction, states.collect()).await?;
    let ids = state_ids(&*transaction, workflow.id).await?;
    let mut callbacks = Vec::new();
    let mut transitions = Vec::new();
    for state in &definition.states {
        let state_id = id_of(&ids, &state.label)?;
        callbacks
            .extend(state.callbacks.iter().zip(0..).map(|(one, position)| callback_model(state_id, one, position)));
        for (one, position) in state.transitions.iter().zip(0..) {
            transitions.push(transition_model(state_id, id_of(&ids, &one.destination)?, one, position));
        }
    }
    insert_all::<callback::Entity, _>(&*transaction, callbacks).await?;
    insert_all::<transition::Entity, _>(&*transaction, transitions).await?;
    let after = serde_json::json!({ "states": definition.states.len() });
    audit::record(ctx, &*transaction, Event::new("create", "workflow", workflow.id, &workflow.label).after(after))
        .await?;
    transaction.commit().await?;
    Ok(workflow)
}

async fn insert_all<E, A>(connection: &impl ConnectionTrait, rows: Vec<A>) -> Result<(), DbErr>
where
    E: EntityTrait,
    A: ActiveModelTrait<Entity = E> + Clone,
{
    for chunk in rows.chunks(CHUNK) {
        E::insert_many(chunk.to_vec()).exec_without_returning(connection).await?;
    }
    Ok(())
}

/// The ids of a workflow's states by label.
pub(super) async fn state_ids(
    connection: &impl ConnectionTrait,
    workflow_id: i32,
) -> Result<HashMap<String, i32>, DbErr> {
    let states = state::Entity::find().filter(state::Column::WorkflowId.eq(workflow_id)).all(connection).await?;
    Ok(states.into_iter().map(|state| (state.label, state.id)).collect())
}

pub(super) fn id_of(ids: &HashMap<String, i32>, label: &str) -> Result<i32, DbErr> {
    ids.get(label).copied().ok_or_else(|| DbErr::Custom(format!("state '{label}' was not stored")))
}

pub(super) fn state_model(workflow_id: i32, state: &StateDefinition, position: i32) -> state::ActiveModel {
    state::ActiveModel {
        id: NotSet,
        label: Set(state.label.clone()),
        freetext: Set(state.freetext.clone()),
        workflow_id: Set(workflow_id),
        position: Set(position),
    }
}

pub(super) fn transition_model(
    source_state_id: i32,
    destination_state_id: i32,
    transition: &TransitionDefinition,
    position: i32,
) -> transition::ActiveModel {
    transition::ActiveModel {
        id: NotSet,
        source_state_id: Set(source_state_id),
        destination_state_id: Set(destination_state_id),
        condition: Set(transition.condition.clone()),
        position: Set(position),
    }
}

/// The row of a callback of a state.
#[must_use]
pub fn callback_model(state_id: i32, callback: &CallbackDefinition, position: i32) -> callback::ActiveModel {
    let map = (!callback.variable_map.is_empty())
        .then(|| yaml::to_text(&serde_json::to_value(&callback.variable_map).unwrap_or_default()));
    callback::ActiveModel {
        id: NotSet,
        state_id: Set(state_id),
        label: Set(callback.label.clone()),
        function: Set(callback.function.clone()),
        callback_arguments: Set(Some(callback.callback_arguments.clone())),
        variable_map: Set(map),
        run_timeout: Set(callback.run_timeout),
        wait_timeout: Set(callback.wait_timeout),
        initial_delay: Set(callback.initial_delay),
        description: Set(callback.description.clone()),
        condition: Set(callback.condition.clone()),
        retries: Set(callback.retries),
        retry_delay: Set(callback.retry_delay),
        position: Set(position),
    }
}
