//! Workflows in memory. Each move of an experiment needs states, transitions and callbacks, which change once in months; they are read
//! once, and again when the workflow's `revision` has changed. The revision itself is read each time, because another server may have
//! changed the workflow.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::entity::{callback, state, transition, workflow};

use super::read::{callbacks_of, transitions_of};

/// The rows of a workflow.
#[derive(Debug)]
pub struct Graph {
    states: HashMap<i32, state::Model>,
    /// By source state, in order.
    transitions: HashMap<i32, Vec<transition::Model>>,
    /// By state, in order.
    callbacks: HashMap<i32, Vec<callback::Model>>,
}

/// A graph and its revision.
type Known = (i32, Arc<Graph>);

/// A cache of graphs. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Graphs {
    known: Arc<Mutex<HashMap<i32, Known>>>,
}

impl Graphs {
    /// The present graph of this workflow.
    pub async fn of(&self, connection: &impl ConnectionTrait, workflow_id: i32) -> Result<Arc<Graph>, DbErr> {
        let revision: Option<i32> = workflow::Entity::find_by_id(workflow_id)
            .select_only()
            .column(workflow::Column::Revision)
            .into_tuple()
            .one(connection)
            .await?;
        self.at(connection, workflow_id, revision.unwrap_or_default()).await
    }

    /// Like [`Self::of`], for a caller that has already read the revision.
    pub async fn at(
        &self,
        connection: &impl ConnectionTrait,
        workflow_id: i32,
        revision: i32,
    ) -> Result<Arc<Graph>, DbErr> {
        if let Some(graph) = self.known(workflow_id, revision) {
            return Ok(graph);
        }
        // The revision was read before the rows, so a change between the two causes another read next time.
        let graph = Arc::new(Graph::read(connection, workflow_id).await?);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(workflow_id, (revision, Arc::clone(&graph)));
        Ok(graph)
    }

    /// The label of a state. It does not check the revision, because labels of states never change.
    pub async fn label_of(
        &self,
        connection: &impl ConnectionTrait,
        workflow_id: i32,
        state_id: i32,
    ) -> Result<String, DbErr> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&workflow_id).cloned();
        if let Some(state) = known.as_ref().and_then(|(_, graph)| graph.state(state_id)) {
            return Ok(state.label.clone());
        }
        let state = state::Entity::find_by_id(state_id).one(connection).await?;
        Ok(state.map(|state| state.label).unwrap_or_default())
    }

    fn known(&self, workflow_id: i32, revision: i32) -> Option<Arc<Graph>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&workflow_id).filter(|(seen, _)| *seen == revision).map(|(_, graph)| Arc::clone(graph))
    }
}

impl Graph {
    async fn read(connection: &impl ConnectionTrait, workflow_id: i32) -> Result<Self, DbErr> {
        let states = state::Entity::find()
            .filter(state::Column::WorkflowId.eq(workflow_id))
            .order_by_asc(state::Column::Id)
            .all(connection)
            .await?;
        let mut transitions: HashMap<i32, Vec<transition::Model>> = HashMap::new();
        for row in transitions_of(connection, workflow_id).await? {
            transitions.entry(row.source_state_id).or_default().push(row);
        }
        let mut callbacks: HashMap<i32, Vec<callback::Model>> = HashMap::new();
        for row in callbacks_of(connection, workflow_id).await? {
            callbacks.entry(row.state_id).or_default().push(row);
        }
        Ok(Self { states: states.into_iter().map(|row| (row.id, row)).collect(), transitions, callbacks })
    }

    /// The state with this id, if it belongs to this workflow.
    #[must_use]
    pub fn state(&self, id: i32) -> Option<&state::Model> {
        self.states.get(&id)
    }

    /// The state with this label.
    #[must_use]
    pub fn state_labelled(&self, label: &str) -> Option<&state::Model> {
        self.states.values().find(|state| state.label == label)
    }

    /// The callbacks of a state, in order.
    #[must_use]
    pub fn callbacks(&self, state_id: i32) -> &[callback::Model] {
        self.callbacks.get(&state_id).map_or(&[], Vec::as_slice)
    }

    /// The outgoing transitions of a state in order, with their destinations.
    #[must_use]
    pub fn exits(&self, state_id: i32) -> Vec<(transition::Model, state::Model)> {
        let exits = self.transitions.get(&state_id).into_iter().flatten();
        exits.filter_map(|row| Some((row.clone(), self.state(row.destination_state_id)?.clone()))).collect()
    }

    /// The only state without incoming transitions, if there is exactly one.
    #[must_use]
    pub fn root(&self) -> Option<&state::Model> {
        let entered = |id: i32| self.transitions.values().flatten().any(|row| row.destination_state_id == id);
        let mut roots = self.states.values().filter(|state| !entered(state.id));
        roots.next().filter(|_| roots.next().is_none())
    }
}

/// Gives the workflow a new revision. The caller owns the transaction.
pub(super) async fn revise(connection: &impl ConnectionTrait, workflow_id: i32) -> Result<(), DbErr> {
    workflow::Entity::update_many()
        .col_expr(workflow::Column::Revision, Expr::value(new_revision()))
        .filter(workflow::Column::Id.eq(workflow_id))
        .exec(connection)
        .await?;
    Ok(())
}

/// A random number: a counter would repeat numbers if the database were emptied under a running server.
pub(super) fn new_revision() -> i32 {
    rand::random()
}
