//! Creating experiments (E5).

use chrono::NaiveDateTime;
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::{ActiveModelTrait, QuerySelect};

use serde_json::json;

use crate::audit::{self, Event};
use crate::database::{self, WriteTransaction};
use crate::entity::{experiment, state, subject, transition, workflow as workflow_table};
use crate::study::variable::{VariableValue, set_variables};
use crate::study::{Label, Visible};
use crate::workflow::{self, Graph};

use super::answers::Turn;
use super::locked::{Entered, Locked};
use super::{Actor, Engine, EngineError, retried};

/// An experiment to be.
#[derive(Debug, Clone)]
pub struct NewExperiment {
    pub subject_id: i32,
    pub label: Label,
    /// UTC.
    pub scandate: NaiveDateTime,
    /// Label or id of the workflow; the newest when none is named.
    pub workflow: Option<String>,
    /// Known from the beginning, so that the conditions of the first callbacks see them.
    pub variables: Vec<(String, VariableValue)>,
}

impl Engine {
    /// Creates an experiment at the root of its workflow and takes the root's only transition at once.
    ///
    /// # Errors
    /// [`EngineError::Duplicate`] when the subject has an experiment with this label; [`EngineError::NoWorkflow`],
    /// [`EngineError::Workflow`] and [`EngineError::NoRoot`] when there is no workflow to follow.
    pub async fn create_experiment(
        &self,
        new: &NewExperiment,
        actor: &Actor,
    ) -> Result<experiment::Model, EngineError> {
        retried(async || {
            let transaction = self.database.begin().await?;
            let (transaction, experiment) = self.create(transaction, new, actor, Turn::default()).await?;
            transaction.commit().await?;
            self.dispatched.notify_one();
            Ok(experiment)
        })
        .await
    }

    /// The same inside a transaction of the caller, who commits it together with what belongs to it
    /// and then rings [`Engine::dispatched`].
    ///
    /// # Errors
    /// As [`Self::create_experiment`]; the transaction is gone then.
    pub async fn create_experiment_in(
        &self,
        transaction: WriteTransaction,
        new: &NewExperiment,
        actor: &Actor,
    ) -> Result<(WriteTransaction, experiment::Model), EngineError> {
        self.create(transaction, new, actor, Turn::staying()).await
    }

    async fn create(
        &self,
        transaction: WriteTransaction,
        new: &NewExperiment,
        actor: &Actor,
        turn: Turn,
    ) -> Result<(WriteTransaction, experiment::Model), EngineError> {
        let workflow = match &new.workflow {
            Some(reference) => workflow::find(&*transaction, reference).await?,
            None => workflow::newest(&*transaction).await?.ok_or(EngineError::NoWorkflow)?,
        };
        let graph = self.graphs.of(&*transaction, workflow.id).await?;
        let (root, transition, destination) = root(&graph, &workflow)?;
        check_subject(&transaction, new.subject_id).await?;
        let now = self.clock.now();
        let row = experiment::ActiveModel {
            id: NotSet,
            label: Set(new.label.to_string()),
            scandate: Set(new.scandate),
            subject_id: Set(new.subject_id),
            workflow_id: Set(workflow.id),
            state_id: Set(root.id),
            last_action_id: Set(None),
            state_since: Set(now),
            version: Set(0),
            archive_id: Set(0),
            ..Default::default()
        };
        let experiment = row.insert(&*transaction).await.map_err(|error| match database::is_duplicate(&error) {
            true => EngineError::Duplicate { label: new.label.to_string() },
            false => error.into(),
        })?;
        set_variables(&*transaction, experiment.id, &new.variables).await?;
        let after = json!({ "subject_id": new.subject_id, "scandate": new.scandate, "workflow": workflow.label });
        let event = Event::new("create", "experiment", experiment.id, &experiment.label).of_experiment(experiment.id);
        audit::record(&*transaction, event.after(after)).await?;
        let mut locked = Locked { transaction, experiment, now, graph, turn, _row_turn: None };
        if self.enter(&mut locked, &transition, &destination, actor, None).await? == Entered::Skipped {
            self.settle(&mut locked, actor).await?;
        }
        Ok((locked.transaction, locked.experiment))
    }
}

/// The subject is there and not archived, and is not archived before the experiment is there.
async fn check_subject(transaction: &WriteTransaction, id: i32) -> Result<(), EngineError> {
    let subject = subject::Entity::visible_by_id(id).lock_shared().one(&**transaction).await?;
    match subject {
        None => Err(EngineError::NotFound { kind: "subject", id }),
        Some(subject) if subject.archive_id != 0 => Err(EngineError::Archived { kind: "subject", id }),
        Some(_) => Ok(()),
    }
}

/// The only state of a workflow without incoming transitions, its only transition, and where that leads.
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
