//! The inputs of conditions: an experiment, its variables and its executions.

use std::collections::BTreeMap;

use sea_orm::{ConnectionTrait, DbErr};

use crate::context::Context;
use crate::entity::{callback, callback_execution, experiment};
use crate::study::variable::{VariableValue, variables_of};
use crate::workflow::condition::{CallbackFacts, ExperimentFacts, Facts, Value};

/// Collects the facts of an experiment in `state`, with the executions of its last action.
pub(super) async fn collect(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    experiment: &experiment::Model,
    state: &str,
    executions: &[(callback_execution::Model, callback::Model)],
    now: chrono::NaiveDateTime,
) -> Result<Facts, DbErr> {
    let variables = variables_of(ctx, connection, experiment.id).await?;
    let callbacks: BTreeMap<String, CallbackFacts> = executions
        .iter()
        .map(|(execution, callback)| {
            let values = execution.result_values.as_deref().and_then(|text| serde_json::from_str(text).ok());
            let facts = CallbackFacts {
                status: execution.status.to_string(),
                result: execution.result.to_string(),
                result_values: values.unwrap_or_default(),
            };
            (callback.label.clone(), facts)
        })
        .collect();
    let experiment = ExperimentFacts {
        label: experiment.label.clone(),
        scandate: experiment.scandate,
        state: state.to_owned(),
        variables: variables.into_iter().map(|(label, value)| (label, python(value))).collect(),
    };
    Ok(Facts { experiment, callbacks, now })
}

/// Empty facts, for transitions without conditions.
pub(super) fn nothing(experiment: &experiment::Model, now: chrono::NaiveDateTime) -> Facts {
    let experiment = ExperimentFacts {
        label: experiment.label.clone(),
        scandate: experiment.scandate,
        state: String::new(),
        variables: Vec::new(),
    };
    Facts { experiment, callbacks: BTreeMap::new(), now }
}

/// A variable as a Python value.
fn python(value: VariableValue) -> Value {
    match value {
        VariableValue::None => Value::None,
        VariableValue::Bool(value) => Value::Bool(value),
        VariableValue::Int(value) => Value::Int(value),
        VariableValue::BigInt(value) => Value::Json(value.into()),
        VariableValue::Float(value) => Value::Float(value),
        VariableValue::Str(value) => Value::Str(value),
        VariableValue::Date(value) => Value::Date(value),
        VariableValue::DateTime(value) => Value::DateTime(value),
        VariableValue::Time(value) => Value::Time(value),
        VariableValue::Json(value) => Value::Json(value),
    }
}
