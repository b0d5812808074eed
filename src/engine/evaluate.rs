//! Trying conditions (E3, E9).

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::database::Snapshot;
use crate::entity::{experiment, state, transition};
use crate::workflow::condition::{self, Facts};
use crate::workflow::yaml;

use super::locked::executions_of;
use super::{Engine, EngineError, facts};

/// What came of trying one transition. `test_result` is none when an earlier one was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluation {
    pub transition_id: i32,
    pub destination: String,
    pub condition: Option<String>,
    pub test_result: Option<bool>,
    /// Why the condition could not be evaluated; it counts as false.
    pub error: Option<String>,
}

impl Evaluation {
    /// The evaluation as the text of `action.return_value`, with the keys of the existing product.
    pub(super) fn to_yaml(all: &[Self]) -> String {
        let entries = all.iter().map(|one| {
            let mut entry = Map::new();
            entry.insert("condition".to_owned(), json!(one.condition));
            entry.insert("destination".to_owned(), json!(one.destination));
            if let Some(error) = &one.error {
                entry.insert("error".to_owned(), json!(error));
            }
            entry.insert("test_result".to_owned(), json!(one.test_result));
            entry.insert("transition_id".to_owned(), json!(one.transition_id));
            Value::Object(entry)
        });
        yaml::to_text(&entries.collect())
    }
}

/// Whether a condition holds, or why that cannot be said.
pub(super) type Answer = Result<bool, String>;

/// A transition out of the current state, and whether it can be taken now.
#[derive(Debug, Clone)]
pub struct Possible {
    pub evaluation: Evaluation,
    pub destination_id: i32,
    pub destination_text: Option<String>,
}

impl Possible {
    /// Whether the condition holds now.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.evaluation.test_result == Some(true)
    }
}

/// The transitions out of a state at one moment, with what their conditions ask about.
#[derive(Debug)]
pub struct Exits {
    transitions: Vec<(transition::Model, state::Model)>,
    facts: Arc<Facts>,
}

/// Whether any of the conditions needs facts to be answered.
pub(super) fn any_condition<'a>(mut conditions: impl Iterator<Item = Option<&'a str>>) -> bool {
    conditions.any(|condition| condition.is_some_and(|text| !text.trim().is_empty()))
}

impl Engine {
    /// Whether a condition holds; no condition does. The inner error is the text of why it could not be evaluated.
    ///
    /// # Errors
    /// [`EngineError::NoInterpreter`] when there was nobody to ask: that says nothing about the condition, so nothing
    /// may be decided.
    pub(super) async fn holds(&self, condition: Option<&str>, facts: &Arc<Facts>) -> Result<Answer, EngineError> {
        let Some(text) = condition.filter(|text| !text.trim().is_empty()) else { return Ok(Ok(true)) };
        let failed = |error: &dyn std::fmt::Display| EngineError::NoInterpreter(error.to_string());
        let _permit = self.evaluations.acquire().await.map_err(|error| failed(&error))?;
        let (text, facts) = (text.to_owned(), Arc::clone(facts));
        let outcome = tokio::task::spawn_blocking(move || condition::evaluate(&text, &facts)).await;
        match outcome.map_err(|error| failed(&error))? {
            Err(error @ condition::EvaluationError::Unavailable(_)) => Err(failed(&error)),
            outcome => Ok(outcome.map_err(|error| error.to_string())),
        }
    }

    /// Tries transitions in their order until one holds; with `all`, tries the rest too.
    pub(super) async fn try_transitions(
        &self,
        transitions: &[(transition::Model, state::Model)],
        facts: &Arc<Facts>,
        all: bool,
    ) -> Result<Vec<Evaluation>, EngineError> {
        let mut taken = false;
        let mut evaluations = Vec::with_capacity(transitions.len());
        for (transition, destination) in transitions {
            let (test_result, error) = if taken && !all {
                (None, None)
            } else {
                match self.holds(transition.condition.as_deref(), facts).await? {
                    Ok(holds) => (Some(holds), None),
                    Err(error) => (Some(false), Some(error)),
                }
            };
            taken |= test_result == Some(true);
            evaluations.push(Evaluation {
                transition_id: transition.id,
                destination: destination.label.clone(),
                condition: transition.condition.clone(),
                test_result,
                error,
            });
        }
        Ok(evaluations)
    }

    /// The transitions out of an experiment's state and what their conditions ask about, to be evaluated with
    /// [`Self::evaluate_exits`] after the snapshot is dropped: conditions may take their time.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn exits(&self, snapshot: &Snapshot, experiment: &experiment::Model) -> Result<Exits, EngineError> {
        let graph = self.graphs.of(snapshot, experiment.workflow_id).await?;
        let label = graph.state(experiment.state_id).map_or("", |state| state.label.as_str());
        let executions = executions_of(snapshot, experiment.last_action_id).await?;
        let facts = facts::collect(snapshot, experiment, label, &executions, self.clock.now()).await?;
        Ok(Exits { transitions: graph.exits(experiment.state_id), facts: Arc::new(facts) })
    }

    /// Every one of these transitions with the value that its condition has. Changes nothing.
    ///
    /// # Errors
    /// When the conditions cannot be evaluated now.
    pub async fn evaluate_exits(&self, exits: Exits) -> Result<Vec<Possible>, EngineError> {
        let _turn = self.views.acquire().await.map_err(|error| EngineError::NoInterpreter(error.to_string()))?;
        let evaluations = self.try_transitions(&exits.transitions, &exits.facts, true).await?;
        let possible = evaluations.into_iter().zip(exits.transitions).map(|(evaluation, (_, destination))| Possible {
            evaluation,
            destination_id: destination.id,
            destination_text: destination.freetext,
        });
        Ok(possible.collect())
    }
}
