//! Creating experiments (E5).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use chrono::NaiveDateTime;
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
};
use serde_json::json;

use crate::audit::{self, Event};
use crate::context::Context;
use crate::database::{self, WriteTransaction};
use crate::entity::{experiment, state, subject, transition, workflow as workflow_table};
use crate::study::variable::{VariableValue, set_variables, set_variables_of_many};
use crate::study::{Label, Visible};
use crate::workflow::{self, Graph};

use super::answers::Turn;
use super::arrive::{First, enter_many};
use super::evaluate::any_condition;
use super::locked::{Entered, Locked};
use super::{Engine, EngineError, retried};

/// Input for creating an experiment.
#[derive(Debug, Clone)]
pub struct NewExperiment {
    pub subject_id: i32,
    pub label: Label,
    /// UTC.
    pub scandate: NaiveDateTime,
    /// Label or id of the workflow; the newest if not given.
    pub workflow: Option<String>,
    /// Set at creation, so that the conditions of the first callbacks see them.
    pub variables: Vec<(String, VariableValue)>,
}

impl Engine {
    /// Creates an experiment at the root of its workflow and takes the root's only transition.
    ///
    /// # Errors
    /// [`EngineError::Duplicate`] when the subject has an experiment with this label; [`EngineError::NoWorkflow`],
    /// [`EngineError::Workflow`] and [`EngineError::NoRoot`] when there is no usable workflow.
    pub async fn create_experiment(
        &self,
        ctx: &Context,
        new: &NewExperiment,
    ) -> Result<experiment::Model, EngineError> {
        retried(async || {
            let transaction = self.database.begin().await?;
            let (transaction, experiment) = self.create_experiment_in(ctx, transaction, new).await?;
            transaction.commit().await?;
            self.dispatched.notify_one();
            Ok(experiment)
        })
        .await
    }

    /// The same inside a transaction of the caller, who commits it with other changes and then notifies
    /// [`Engine::dispatched`].
    ///
    /// # Errors
    /// As [`Self::create_experiment`]; the transaction is then rolled back. After [`EngineError::Elsewhere`] the caller
    /// evaluates the conditions and starts again: see [`super::Evaluations`].
    pub async fn create_experiment_in(
        &self,
        ctx: &Context,
        transaction: WriteTransaction,
        new: &NewExperiment,
    ) -> Result<(WriteTransaction, experiment::Model), EngineError> {
        let start = self.start(&*transaction, new.workflow.as_deref()).await?;
        check_subjects(ctx, &transaction, [new.subject_id]).await?;
        let now = self.clock.now();
        let experiment = row(new, &start, now).insert(&*transaction).await.map_err(|error| refused(new, error))?;
        set_variables(&*transaction, experiment.id, &new.variables).await?;
        audit::record(ctx, &*transaction, created(new, &start, experiment.id)).await?;
        let (transaction, experiment, _) =
            self.enter_first(ctx, transaction, experiment, &start, now, Turn::default()).await?;
        Ok((transaction, experiment))
    }

    /// Creates many experiments, a thousand per statement: each as [`Self::create_experiment_in`] does, in the order of
    /// `new`.
    ///
    /// # Errors
    /// As [`Self::create_experiment`] for any of them; the transaction is then rolled back.
    pub async fn create_experiments_in(
        &self,
        ctx: &Context,
        transaction: WriteTransaction,
        new: &[NewExperiment],
    ) -> Result<(WriteTransaction, Vec<experiment::Model>), EngineError> {
        if let [one] = new {
            let (transaction, experiment) = self.create_experiment_in(ctx, transaction, one).await?;
            return Ok((transaction, vec![experiment]));
        }
        let mut starts: HashMap<Option<&str>, Start> = HashMap::new();
        for one in new {
            let reference = one.workflow.as_deref();
            if let std::collections::hash_map::Entry::Vacant(e) = starts.entry(reference) {
                e.insert(self.start(&*transaction, reference).await?);
            }
        }
        check_subjects(ctx, &transaction, new.iter().map(|one| one.subject_id)).await?;
        let now = self.clock.now();
        let of_each: Vec<&Start> = new.iter().map(|one| &starts[&one.workflow.as_deref()]).collect();
        let mut experiments = Vec::with_capacity(new.len());
        for (chunk, starts) in new.chunks(CHUNK).zip(of_each.chunks(CHUNK)) {
            let rows = chunk.iter().zip(starts).map(|(one, start)| row(one, start, now));
            let inserted = experiment::Entity::insert_many(rows).exec_without_returning(&*transaction).await;
            inserted.map_err(|error| refused(&chunk[0], error))?;
            experiments.extend(read_back(ctx, &transaction, chunk).await?);
        }
        let variables = experiments.iter().zip(new).map(|(row, one)| (row.id, one.variables.as_slice()));
        set_variables_of_many(&*transaction, variables).await?;
        let events = experiments.iter().zip(new.iter().zip(&of_each));
        let events = events.map(|(row, (one, start))| created(one, start, row.id));
        audit::record_many(ctx, &*transaction, events.collect()).await?;
        let mut transaction = transaction;
        let mut turn = Turn::default();
        for (reference, start) in &starts {
            let theirs: Vec<usize> =
                (0..new.len()).filter(|index| new[*index].workflow.as_deref() == *reference).collect();
            if start.has_conditions() {
                // The conditions may differ for each experiment.
                for index in theirs {
                    let experiment = experiments[index].clone();
                    (transaction, experiments[index], turn) =
                        self.enter_first(ctx, transaction, experiment, start, now, turn.next()).await?;
                }
                continue;
            }
            for chunk in theirs.chunks(CHUNK) {
                let ids: Vec<i32> = chunk.iter().map(|index| experiments[*index].id).collect();
                let first =
                    First { transition: &start.transition, destination: &start.destination, graph: &start.graph };
                let actions = enter_many(ctx, &transaction, &ids, &first, now).await?;
                for index in chunk {
                    let experiment = &mut experiments[*index];
                    experiment.state_id = start.destination.id;
                    experiment.last_action_id = actions.get(&experiment.id).copied();
                    experiment.version += 1;
                }
            }
        }
        Ok((transaction, experiments))
    }

    /// Takes the root's only transition, then all automatic transitions that follow.
    async fn enter_first(
        &self,
        ctx: &Context,
        transaction: WriteTransaction,
        experiment: experiment::Model,
        start: &Start,
        now: NaiveDateTime,
        turn: Turn,
    ) -> Result<(WriteTransaction, experiment::Model, Turn), EngineError> {
        let mut locked =
            Locked { transaction, experiment, now, graph: Arc::clone(&start.graph), turn, _row_turn: None };
        if self.enter(ctx, &mut locked, &start.transition, &start.destination, None).await? == Entered::Skipped {
            self.settle(ctx, &mut locked).await?;
        }
        Ok((locked.transaction, locked.experiment, locked.turn))
    }

    /// Whether creating an experiment in this workflow evaluates conditions (label or id; `None`: the newest).
    ///
    /// # Errors
    /// [`EngineError::NoWorkflow`], [`EngineError::Workflow`] and [`EngineError::NoRoot`] when there is no usable workflow.
    pub async fn begins_with_conditions(&self, workflow: Option<&str>) -> Result<bool, EngineError> {
        Ok(self.start(self.database.reader(), workflow).await?.has_conditions())
    }

    /// Looks up where experiments of a workflow start.
    async fn start(&self, connection: &impl ConnectionTrait, reference: Option<&str>) -> Result<Start, EngineError> {
        let workflow = match reference {
            Some(reference) => workflow::find(connection, reference).await?,
            None => workflow::newest(connection).await?.ok_or(EngineError::NoWorkflow)?,
        };
        let graph = self.graphs.of(connection, workflow.id).await?;
        let (root, transition, destination) = root(&graph, &workflow)?;
        Ok(Start { workflow, graph, root, transition, destination })
    }
}

/// Experiments per statement: databases limit the number of values.
const CHUNK: usize = 1000;

/// Start of a workflow: the root, its only transition and the first state.
struct Start {
    workflow: workflow_table::Model,
    graph: Arc<Graph>,
    root: state::Model,
    transition: transition::Model,
    destination: state::Model,
}

impl Start {
    /// Whether callbacks of the first state have conditions, so that their executions depend on the experiment.
    fn has_conditions(&self) -> bool {
        any_condition(self.graph.callbacks(self.destination.id).iter().map(|callback| callback.condition.as_deref()))
    }
}

fn row(new: &NewExperiment, start: &Start, now: NaiveDateTime) -> experiment::ActiveModel {
    experiment::ActiveModel {
        id: NotSet,
        label: Set(new.label.to_string()),
        scandate: Set(new.scandate),
        subject_id: Set(new.subject_id),
        workflow_id: Set(start.workflow.id),
        state_id: Set(start.root.id),
        last_action_id: Set(None),
        state_since: Set(now),
        version: Set(0),
        archive_id: Set(0),
        ..Default::default()
    }
}

fn refused(new: &NewExperiment, error: DbErr) -> EngineError {
    match database::is_duplicate(&error) {
        true => EngineError::Duplicate { label: new.label.to_string() },
        false => error.into(),
    }
}

fn created(new: &NewExperiment, start: &Start, id: i32) -> Event {
    let after = json!({ "subject_id": new.subject_id, "scandate": new.scandate, "workflow": start.workflow.label });
    Event::new("create", "experiment", id, new.label.as_str()).of_experiment(id).after(after)
}

/// Reads the rows that were just inserted, in the order of `new`.
async fn read_back(
    ctx: &Context,
    transaction: &WriteTransaction,
    new: &[NewExperiment],
) -> Result<Vec<experiment::Model>, EngineError> {
    use experiment::Column;
    let rows = experiment::Entity::visible(ctx)
        .filter(Column::ArchiveId.eq(0))
        .filter(Column::SubjectId.is_in(new.iter().map(|one| one.subject_id)))
        .filter(Column::Label.is_in(new.iter().map(|one| one.label.as_str())))
        .all(&**transaction)
        .await?;
    let mut found: HashMap<(i32, String), experiment::Model> =
        rows.into_iter().map(|row| ((row.subject_id, row.label.clone()), row)).collect();
    let taken = new.iter().map(|one| found.remove(&(one.subject_id, one.label.to_string())));
    taken.collect::<Option<Vec<_>>>().ok_or_else(|| EngineError::changed("new experiments"))
}

/// Checks that the subjects exist and are not archived, and locks them so that they stay so until the experiments are
/// written.
async fn check_subjects(
    ctx: &Context,
    transaction: &WriteTransaction,
    ids: impl IntoIterator<Item = i32>,
) -> Result<(), EngineError> {
    let ids: BTreeSet<i32> = ids.into_iter().collect();
    let ids: Vec<i32> = ids.into_iter().collect();
    for chunk in ids.chunks(CHUNK) {
        // In order of their ids, as all transactions that lock many subjects do.
        let all = subject::Entity::visible(ctx).filter(subject::Column::Id.is_in(chunk.iter().copied()));
        let rows = all.order_by_asc(subject::Column::Id).lock_shared().all(&**transaction).await?;
        let found: HashMap<i32, i32> = rows.into_iter().map(|row| (row.id, row.archive_id)).collect();
        for id in chunk.iter().copied() {
            match found.get(&id) {
                None => return Err(EngineError::not_found(ctx, "subject", id)),
                Some(0) => {}
                Some(_) => return Err(EngineError::Archived { kind: "subject", id }),
            }
        }
    }
    Ok(())
}

/// The only state of a workflow without incoming transitions, its only transition, and the destination of that.
fn root(
    graph: &Graph,
    workflow: &workflow_table::Model,
) -> Result<(state::Model, transition::Model, state::Model), EngineError> {
    let no_root = || EngineError::NoRoot(workflow.label.clone());
    let root = graph.root().ok_or_else(no_root)?.clone();
    let mut exits = graph.exits(root.id);
    let (Some((transition, destination)), true) = (exits.pop(), exits.is_empty()) else { return Err(no_root()) };
    Ok((root, transition, destination))
}
