//! Reads workflows from the database.

use std::collections::{BTreeMap, HashMap};

use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder};

use crate::entity::{callback, state, transition, workflow};

use super::is_queue_name;
use super::{CallbackDefinition, Definition, StateDefinition, TransitionDefinition, WorkflowError, yaml};

/// The workflow with this label or id.
///
/// # Errors
/// [`WorkflowError::Unknown`].
pub async fn find(connection: &impl ConnectionTrait, reference: &str) -> Result<workflow::Model, WorkflowError> {
    let by_label = workflow::Entity::find().filter(workflow::Column::Label.eq(reference)).one(connection).await?;
    if let Some(found) = by_label {
        return Ok(found);
    }
    if let Ok(id) = reference.parse::<i32>()
        && let Some(found) = workflow::Entity::find_by_id(id).one(connection).await?
    {
        return Ok(found);
    }
    Err(WorkflowError::Unknown(reference.to_owned()))
}

/// The workflow that was loaded last.
pub async fn newest(connection: &impl ConnectionTrait) -> Result<Option<workflow::Model>, DbErr> {
    workflow::Entity::find().order_by_desc(workflow::Column::Id).one(connection).await
}

/// A loaded workflow as the definition in a file, with explicit defaults.
pub async fn read_definition(
    connection: &impl ConnectionTrait,
    workflow: &workflow::Model,
) -> Result<Definition, DbErr> {
    let states = state::Entity::find()
        .filter(state::Column::WorkflowId.eq(workflow.id))
        .order_by_asc(state::Column::Position)
        .order_by_asc(state::Column::Id)
        .all(connection)
        .await?;
    let labels: HashMap<i32, String> = states.iter().map(|state| (state.id, state.label.clone())).collect();
    let mut callbacks: HashMap<i32, Vec<CallbackDefinition>> = HashMap::new();
    for row in callbacks_of(connection, workflow.id).await? {
        callbacks.entry(row.state_id).or_default().push(callback_definition(row));
    }
    let mut transitions: HashMap<i32, Vec<TransitionDefinition>> = HashMap::new();
    for row in transitions_of(connection, workflow.id).await? {
        let destination = labels.get(&row.destination_state_id).cloned().unwrap_or_default();
        let definition = TransitionDefinition { destination, condition: row.condition };
        transitions.entry(row.source_state_id).or_default().push(definition);
    }
    let states = states.into_iter().map(|state| StateDefinition {
        callbacks: callbacks.remove(&state.id).unwrap_or_default(),
        transitions: transitions.remove(&state.id).unwrap_or_default(),
        label: state.label,
        freetext: state.freetext,
    });
    Ok(Definition { label: workflow.label.clone(), states: states.collect() })
}

pub(super) async fn callbacks_of(
    connection: &impl ConnectionTrait,
    workflow_id: i32,
) -> Result<Vec<callback::Model>, DbErr> {
    callback::Entity::find()
        .inner_join(state::Entity)
        .filter(state::Column::WorkflowId.eq(workflow_id))
        .order_by_asc(callback::Column::Position)
        .order_by_asc(callback::Column::Id)
        .all(connection)
        .await
}

pub(super) async fn transitions_of(
    connection: &impl ConnectionTrait,
    workflow_id: i32,
) -> Result<Vec<transition::Model>, DbErr> {
    let states = sea_orm::sea_query::Query::select()
        .column(state::Column::Id)
        .from(state::Entity)
        .and_where(state::Column::WorkflowId.eq(workflow_id))
        .to_owned();
    transition::Entity::find()
        .filter(transition::Column::SourceStateId.in_subquery(states))
        .order_by_asc(transition::Column::Position)
        .order_by_asc(transition::Column::Id)
        .all(connection)
        .await
}

pub(super) fn callback_definition(row: callback::Model) -> CallbackDefinition {
    CallbackDefinition {
        label: row.label,
        function: row.function,
        callback_arguments: row.callback_arguments.unwrap_or_default(),
        variable_map: row.variable_map.as_deref().map(variable_map).unwrap_or_default(),
        run_timeout: row.run_timeout,
        wait_timeout: row.wait_timeout,
        initial_delay: row.initial_delay,
        description: row.description,
        condition: row.condition,
        retries: row.retries,
        retry_delay: row.retry_delay,
    }
}

/// Target label → JSON pointer, from the text in the database. Entries that are not texts are ignored.
pub fn variable_map(text: &str) -> BTreeMap<String, String> {
    let value = yaml::parse_value(text).unwrap_or_default();
    let entries = value.as_object().into_iter().flatten();
    entries.filter_map(|(target, source)| Some((target.clone(), source.as_str()?.to_owned()))).collect()
}

/// The queue in `callback_arguments.queue`; `None` means the default queue.
#[must_use]
pub fn queue_of(callback: &callback::Model) -> Option<String> {
    // Most callbacks have none, and parsing YAML for each execution would be slow.
    let arguments = callback.callback_arguments.as_deref().filter(|text| text.contains("queue"))?;
    let arguments = yaml::parse_value(arguments).ok()?;
    let queue = arguments.get("queue")?.as_str()?.trim();
    is_queue_name(queue).then(|| queue.to_owned())
}
