//! Evaluation of transition conditions (E3, E9).

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::database::Snapshot;
use crate::entity::{experiment, state, transition};
use crate::workflow::condition::Facts;
use crate::workflow::yaml;

use super::answers::{NOT_EVALUATED, Tried, Turn};
use super::locked::executions_of;
use super::{Engine, EngineError, facts};

/// Result of trying one transition. `test_result` is `None` when an earlier transition was taken, or when the condition was
/// not evaluated; then `error` says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluation {
    pub transition_id: i32,
    pub destination: String,
    pub condition: Option<String>,
    pub test_result: Option<bool>,
    /// Why the condition could not be evaluated, which counts as not met; without a `test_result`: why it was not evaluated.
    pub error: Option<String>,
}

impl Evaluation {
    /// The evaluations as the text of `action.return_value`, with the keys of version 8.1.
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

/// A transition out of the current state, and whether its condition is met now.
#[derive(Debug, Clone)]
pub struct Possible {
    pub evaluation: Evaluation,
    pub destination_id: i32,
    pub destination_text: Option<String>,
}

impl Possible {
    /// Whether the condition is met now.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.evaluation.test_result == Some(true)
    }
}

/// The text of a condition, unless it is blank.
pub(super) fn condition_text(condition: Option<&str>) -> Option<&str> {
    condition.filter(|text| !text.trim().is_empty())
}

/// The transitions out of a state at one moment, with the inputs of their conditions.
#[derive(Debug)]
pub struct Exits {
    transitions: Vec<(transition::Model, state::Model)>,
    facts: Arc<Facts>,
}

/// Whether any of the conditions has to be evaluated, and so needs facts.
pub(super) fn any_condition<'a>(mut conditions: impl Iterator<Item = Option<&'a str>>) -> bool {
    conditions.any(|condition| condition_text(condition).is_some())
}

impl Engine {
    /// Tries transitions in their order until a condition is met; with `all`, tries the rest too. When the time for
    /// evaluating is used up, the remaining conditions are not evaluated.
    ///
    /// # Errors
    /// [`EngineError::NoInterpreter`] and [`EngineError::Elsewhere`] when there was no answer: the condition is then neither
    /// met nor not met, so nothing may be decided.
    pub(super) async fn try_transitions(
        &self,
        transitions: &[(transition::Model, state::Model)],
        facts: &Arc<Facts>,
        all: bool,
        turn: &mut Turn,
    ) -> Result<Vec<Evaluation>, EngineError> {
        let (mut taken, mut over) = (false, false);
        let mut evaluations = Vec::with_capacity(transitions.len());
        for (at, (transition, destination)) in transitions.iter().enumerate() {
            let (test_result, error) = match condition_text(transition.condition.as_deref()) {
                _ if taken && !all => (None, None),
                _ if over => (None, Some(NOT_EVALUATED.to_owned())),
                None => (Some(true), None),
                Some(text) => match self.answers.ask(turn, text, facts).await? {
                    Tried::Answered(Ok(holds)) => (Some(holds), None),
                    Tried::Answered(Err(error)) => (Some(false), Some(error)),
                    Tried::OverBudget => {
                        over = true;
                        (None, Some(NOT_EVALUATED.to_owned()))
                    }
                    Tried::Elsewhere => {
                        let left = transitions[at..].iter().map(|(transition, _)| transition.condition.as_deref());
                        return Err(self.answers.pending(turn, left, facts, !all));
                    }
                },
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

    /// Reads the transitions out of an experiment's state and the inputs of their conditions. The caller drops the snapshot
    /// before [`Self::evaluate_exits`], because conditions may take time.
    pub async fn exits(
        &self,
        ctx: &Context,
        snapshot: &Snapshot,
        experiment: &experiment::Model,
    ) -> Result<Exits, EngineError> {
        let graph = self.graphs.of(snapshot, experiment.workflow_id).await?;
        let label = graph.state(experiment.state_id).map_or("", |state| state.label.as_str());
        let executions = executions_of(snapshot, experiment.last_action_id).await?;
        let facts = facts::collect(ctx, snapshot, experiment, label, &executions, self.clock.now()).await?;
        Ok(Exits { transitions: graph.exits(experiment.state_id), facts: Arc::new(facts) })
    }

    /// Evaluates the condition of each of these transitions. Changes nothing.
    ///
    /// # Errors
    /// [`EngineError::NoInterpreter`] when the conditions cannot be evaluated now.
    pub async fn evaluate_exits(&self, exits: Exits) -> Result<Vec<Possible>, EngineError> {
        let _turn = self.views.acquire().await.map_err(|error| EngineError::NoInterpreter(error.to_string()))?;
        let evaluations = self.try_transitions(&exits.transitions, &exits.facts, true, &mut Turn::staying()).await?;
        let possible = evaluations.into_iter().zip(exits.transitions).map(|(evaluation, (_, destination))| Possible {
            evaluation,
            destination_id: destination.id,
            destination_text: destination.freetext,
        });
        Ok(possible.collect())
    }
}
