//! Upgrades: changes of a loaded workflow while experiments follow it.
//!
//! A plan lists all changes; applying it makes the plan again under a lock and executes all of it or nothing. Elements that the history
//! refers to are never removed (E10).

use std::collections::{HashMap, HashSet};

use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::{Expr, ExprTrait, Query};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, FromQueryResult, IntoActiveModel, QueryFilter,
    QuerySelect,
};

use crate::audit::{self, Event};
use crate::context::Context;
use crate::database::Database;
use crate::entity::{action, callback, callback_execution, experiment, state, transition, workflow};

use super::graph;
use super::load::{callback_model, id_of, state_ids, state_model, transition_model};
use super::read::{callback_definition, callbacks_of, transitions_of};
use super::{CallbackDefinition, Definition, StateDefinition, TransitionDefinition, WorkflowError};

/// The changes of an upgrade, in the terms of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// One sentence per change, in the order of execution.
    pub changes: Vec<String>,
    /// Why it is impossible: elements in use that would be removed.
    pub obstacles: Vec<String>,
}

impl Plan {
    /// Whether the loaded workflow already equals the file.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.obstacles.is_empty()
    }
}

/// Lists the changes that [`apply`] would make, and changes nothing.
///
/// # Errors
/// [`WorkflowError::Unknown`] if no workflow has the definition's label.
pub async fn plan(database: &Database, definition: &Definition) -> Result<Plan, WorkflowError> {
    // One transaction, for a consistent read; it is dropped without changes.
    let transaction = database.begin().await?;
    let difference = Difference::find(&*transaction, definition).await?;
    Ok(difference.plan())
}

/// Changes the loaded workflow to the definition.
///
/// # Errors
/// [`WorkflowError::InUse`] if it would remove elements that the history refers to; nothing has changed then.
pub async fn apply(ctx: &Context, database: &Database, definition: &Definition) -> Result<Plan, WorkflowError> {
    let transaction = database.begin().await?;
    let difference = Difference::find(&*transaction, definition).await?;
    let plan = difference.plan();
    if !plan.obstacles.is_empty() {
        return Err(WorkflowError::InUse(plan.obstacles));
    }
    let workflow_id = difference.workflow_id;
    difference.write(&*transaction).await?;
    graph::revise(&*transaction, workflow_id).await?;
    if !plan.changes.is_empty() {
        let after = serde_json::json!({ "changes": plan.changes });
        let event = Event::new("upgrade", "workflow", workflow_id, &definition.label).after(after);
        audit::record(ctx, &*transaction, event).await?;
    }
    transaction.commit().await?;
    Ok(plan)
}

/// The definition and the stored workflow.
struct Difference {
    workflow_id: i32,
    new_states: Vec<(StateDefinition, i32)>,
    changed_states: Vec<(state::Model, StateDefinition, i32)>,
    old_states: Vec<state::Model>,
    new_callbacks: Vec<(String, CallbackDefinition, i32)>,
    changed_callbacks: Vec<(String, callback::Model, CallbackDefinition, i32)>,
    old_callbacks: Vec<(String, callback::Model)>,
    new_transitions: Vec<(String, TransitionDefinition, i32)>,
    changed_transitions: Vec<(String, transition::Model, TransitionDefinition, i32)>,
    old_transitions: Vec<(String, String, transition::Model)>,
    in_use: InUse,
}

/// Elements that the history refers to.
struct InUse {
    states: HashSet<i32>,
    callbacks: HashSet<i32>,
    transitions: HashSet<i32>,
}

impl Difference {
    async fn find(connection: &impl ConnectionTrait, definition: &Definition) -> Result<Self, WorkflowError> {
        let workflow = workflow::Entity::find()
            .filter(workflow::Column::Label.eq(&definition.label))
            .lock_exclusive()
            .one(connection)
            .await?
            .ok_or_else(|| WorkflowError::Unknown(definition.label.clone()))?;
        let states = state::Entity::find().filter(state::Column::WorkflowId.eq(workflow.id)).all(connection).await?;
        let labels: HashMap<i32, String> = states.iter().map(|state| (state.id, state.label.clone())).collect();
        let mut difference = Self {
            workflow_id: workflow.id,
            new_states: Vec::new(),
            changed_states: Vec::new(),
            old_states: Vec::new(),
            new_callbacks: Vec::new(),
            changed_callbacks: Vec::new(),
            old_callbacks: Vec::new(),
            new_transitions: Vec::new(),
            changed_transitions: Vec::new(),
            old_transitions: Vec::new(),
            in_use: InUse::find(connection, workflow.id).await?,
        };
        difference.compare_states(states, definition);
        difference.compare_callbacks(callbacks_of(connection, workflow.id).await?, &labels, definition);
        difference.compare_transitions(transitions_of(connection, workflow.id).await?, &labels, definition);
        Ok(difference)
    }

    fn compare_states(&mut self, stored: Vec<state::Model>, definition: &Definition) {
        let mut stored: HashMap<String, state::Model> =
            stored.into_iter().map(|state| (state.label.clone(), state)).collect();
        for (wanted, position) in definition.states.iter().zip(0..) {
            match stored.remove(&wanted.label) {
                None => self.new_states.push((wanted.clone(), position)),
                Some(state) if state.freetext != wanted.freetext || state.position != position => {
                    self.changed_states.push((state, wanted.clone(), position));
                }
                Some(_) => {}
            }
        }
        self.old_states = sorted(stored.into_values(), |state| state.position);
    }

    fn compare_callbacks(
        &mut self,
        stored: Vec<callback::Model>,
        labels: &HashMap<i32, String>,
        definition: &Definition,
    ) {
        let mut stored: HashMap<(String, String), callback::Model> = stored
            .into_iter()
            .filter_map(|row| Some(((labels.get(&row.state_id)?.clone(), row.label.clone()), row)))
            .collect();
        for state in &definition.states {
            for (wanted, position) in state.callbacks.iter().zip(0..) {
                match stored.remove(&(state.label.clone(), wanted.label.clone())) {
                    None => self.new_callbacks.push((state.label.clone(), wanted.clone(), position)),
                    Some(row) if callback_definition(row.clone()) != *wanted || row.position != position => {
                        self.changed_callbacks.push((state.label.clone(), row, wanted.clone(), position));
                    }
                    Some(_) => {}
                }
            }
        }
        let rest = stored.into_iter().map(|((state, _), row)| (state, row));
        self.old_callbacks = sorted(rest, |(_, row)| row.id);
    }

    /// Several transitions between the same two states are compared in order: the first with the first, and so on.
    fn compare_transitions(
        &mut self,
        stored: Vec<transition::Model>,
        labels: &HashMap<i32, String>,
        definition: &Definition,
    ) {
        let mut rest: HashMap<(String, String), Vec<transition::Model>> = HashMap::new();
        for row in stored {
            let ends = (labels.get(&row.source_state_id), labels.get(&row.destination_state_id));
            if let (Some(source), Some(destination)) = ends {
                rest.entry((source.clone(), destination.clone())).or_default().push(row);
            }
        }
        for state in &definition.states {
            for (wanted, position) in state.transitions.iter().zip(0..) {
                let same = rest.get_mut(&(state.label.clone(), wanted.destination.clone()));
                match same.filter(|rows| !rows.is_empty()).map(|rows| rows.remove(0)) {
                    None => self.new_transitions.push((state.label.clone(), wanted.clone(), position)),
                    Some(row) if row.condition != wanted.condition || row.position != position => {
                        self.changed_transitions.push((state.label.clone(), row, wanted.clone(), position));
                    }
                    Some(_) => {}
                }
            }
        }
        let rest = rest.into_iter().flat_map(|((source, destination), rows)| {
            rows.into_iter().map(move |row| (source.clone(), destination.clone(), row))
        });
        self.old_transitions = sorted(rest, |(_, _, row)| row.id);
    }

    fn plan(&self) -> Plan {
        let mut plan = Plan::default();
        self.plan_states(&mut plan);
        self.plan_callbacks(&mut plan);
        self.plan_transitions(&mut plan);
        plan
    }

    fn plan_states(&self, plan: &mut Plan) {
        plan.changes.extend(self.new_states.iter().map(|(state, _)| format!("add state {}", state.label)));
        for (stored, wanted, position) in &self.changed_states {
            if stored.freetext != wanted.freetext {
                plan.changes.push(format!("change the text of state {}", wanted.label));
            }
            if stored.position != *position {
                plan.changes.push(format!("move state {} to position {}", wanted.label, position + 1));
            }
        }
        for state in &self.old_states {
            plan.changes.push(format!("remove state {}", state.label));
            if self.in_use.states.contains(&state.id) {
                plan.obstacles.push(format!("state {} has experiments", state.label));
            }
        }
    }

    fn plan_callbacks(&self, plan: &mut Plan) {
        for (state, callback, _) in &self.new_callbacks {
            plan.changes.push(format!("add callback {} to state {state}", callback.label));
        }
        for (state, stored, wanted, position) in &self.changed_callbacks {
            let fields = changed_fields(&callback_definition(stored.clone()), wanted, stored.position != *position);
            plan.changes.push(format!("change callback {} of state {state}: {}", wanted.label, fields.join(", ")));
        }
        for (state, callback) in &self.old_callbacks {
            plan.changes.push(format!("remove callback {} from state {state}", callback.label));
            if self.in_use.callbacks.contains(&callback.id) {
                plan.obstacles.push(format!("callback {} of state {state} has been run", callback.label));
            }
        }
    }

    fn plan_transitions(&self, plan: &mut Plan) {
        for (source, wanted, _) in &self.new_transitions {
            let condition = shown_condition(wanted.condition.as_deref());
            plan.changes.push(format!("add transition {source} → {} {condition}", wanted.destination));
        }
        for (source, stored, wanted, position) in &self.changed_transitions {
            let name = format!("{source} → {}", wanted.destination);
            if stored.condition != wanted.condition {
                let (old, new) =
                    (shown_condition(stored.condition.as_deref()), shown_condition(wanted.condition.as_deref()));
                plan.changes.push(format!("change transition {name}: {old} becomes {new}"));
            }
            if stored.position != *position {
                plan.changes.push(format!("move transition {name} to position {}", position + 1));
            }
        }
        for (source, destination, row) in &self.old_transitions {
            plan.changes.push(format!("remove transition {source} → {destination}"));
            if self.in_use.transitions.contains(&row.id) {
                plan.obstacles.push(format!("transition {source} → {destination} has been taken"));
            }
        }
    }

    /// Adds new elements first, so that transitions can lead to them; removes old ones last, edges before states.
    async fn write(self, connection: &impl ConnectionTrait) -> Result<(), DbErr> {
        for (wanted, position) in &self.new_states {
            state_model(self.workflow_id, wanted, *position).insert(connection).await?;
        }
        for (stored, wanted, position) in self.changed_states {
            let mut row = stored.into_active_model();
            row.freetext = Set(wanted.freetext);
            row.position = Set(position);
            row.update(connection).await?;
        }
        let ids = state_ids(connection, self.workflow_id).await?;
        for (state, wanted, position) in &self.new_callbacks {
            callback_model(id_of(&ids, state)?, wanted, *position).insert(connection).await?;
        }
        for (_, stored, wanted, position) in &self.changed_callbacks {
            let mut row = callback_model(stored.state_id, wanted, *position);
            row.id = Set(stored.id);
            row.update(connection).await?;
        }
        for (state, wanted, position) in &self.new_transitions {
            let destination = id_of(&ids, &wanted.destination)?;
            transition_model(id_of(&ids, state)?, destination, wanted, *position).insert(connection).await?;
        }
        for (_, stored, wanted, position) in self.changed_transitions {
            let mut row = stored.into_active_model();
            row.condition = Set(wanted.condition);
            row.position = Set(position);
            row.update(connection).await?;
        }
        let transitions = self.old_transitions.iter().map(|(_, _, row)| row.id);
        transition::Entity::delete_many().filter(transition::Column::Id.is_in(transitions)).exec(connection).await?;
        let callbacks = self.old_callbacks.iter().map(|(_, row)| row.id);
        callback::Entity::delete_many().filter(callback::Column::Id.is_in(callbacks)).exec(connection).await?;
        let states = self.old_states.iter().map(|row| row.id);
        state::Entity::delete_many().filter(state::Column::Id.is_in(states)).exec(connection).await?;
        Ok(())
    }
}

#[derive(FromQueryResult)]
struct Id {
    id: i32,
}

impl InUse {
    async fn find(connection: &impl ConnectionTrait, workflow_id: i32) -> Result<Self, DbErr> {
        let states = || {
            Query::select()
                .column(state::Column::Id)
                .from(state::Entity)
                .and_where(state::Column::WorkflowId.eq(workflow_id))
                .to_owned()
        };
        let in_states = experiment::Entity::find()
            .select_only()
            .column_as(experiment::Column::StateId, "id")
            .distinct()
            .filter(experiment::Column::WorkflowId.eq(workflow_id))
            .into_model::<Id>()
            .all(connection)
            .await?;
        let run = callback::Entity::find()
            .select_only()
            .column(callback::Column::Id)
            .filter(callback::Column::StateId.in_subquery(states()))
            .filter(Expr::exists(
                Query::select()
                    .expr(Expr::val(1))
                    .from(callback_execution::Entity)
                    .and_where(
                        Expr::col((callback_execution::Entity, callback_execution::Column::CallbackId))
                            .equals((callback::Entity, callback::Column::Id)),
                    )
                    .to_owned(),
            ))
            .into_model::<Id>()
            .all(connection)
            .await?;
        let taken = transition::Entity::find()
            .select_only()
            .column(transition::Column::Id)
            .filter(transition::Column::SourceStateId.in_subquery(states()))
            .filter(Expr::exists(
                Query::select()
                    .expr(Expr::val(1))
                    .from(action::Entity)
                    .and_where(
                        Expr::col((action::Entity, action::Column::TransitionId))
                            .equals((transition::Entity, transition::Column::Id)),
                    )
                    .to_owned(),
            ))
            .into_model::<Id>()
            .all(connection)
            .await?;
        let set = |rows: Vec<Id>| rows.into_iter().map(|row| row.id).collect();
        Ok(Self { states: set(in_states), callbacks: set(run), transitions: set(taken) })
    }
}

fn sorted<T, K: Ord>(rows: impl Iterator<Item = T>, key: impl FnMut(&T) -> K) -> Vec<T> {
    let mut rows: Vec<T> = rows.collect();
    rows.sort_by_key(key);
    rows
}

fn shown_condition(condition: Option<&str>) -> String {
    condition.map_or_else(|| "(always)".to_owned(), |text| format!("(if {})", text.trim()))
}

fn changed_fields(old: &CallbackDefinition, new: &CallbackDefinition, moved: bool) -> Vec<&'static str> {
    let mut fields = Vec::new();
    let mut field = |name, changed: bool| {
        if changed {
            fields.push(name);
        }
    };
    field("function", old.function != new.function);
    field("callback_arguments", old.callback_arguments != new.callback_arguments);
    field("variable_map", old.variable_map != new.variable_map);
    field("run_timeout", old.run_timeout != new.run_timeout);
    field("wait_timeout", old.wait_timeout != new.wait_timeout);
    field("initial_delay", old.initial_delay != new.initial_delay);
    field("description", old.description != new.description);
    field("condition", old.condition != new.condition);
    field("retries", old.retries != new.retries);
    field("retry_delay", old.retry_delay != new.retry_delay);
    field("place", moved);
    fields
}
