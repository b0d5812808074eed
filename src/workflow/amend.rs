//! Changes one callback of a loaded workflow, for repairs by administrators.

use sea_orm::ActiveValue::Set;
use sea_orm::{ActiveModelTrait, EntityTrait, IntoActiveModel, QuerySelect};

use crate::audit::{self, Event};
use crate::context::Context;
use crate::database::{self, Database};
use crate::entity::{callback, state};

use super::{condition, graph, yaml};

/// Fields to change. `None` leaves a field unchanged; `Some(None)` clears it.
#[derive(Debug, Clone, Default)]
pub struct CallbackChanges {
    pub label: Option<String>,
    pub function: Option<String>,
    /// YAML of a mapping.
    pub callback_arguments: Option<String>,
    pub run_timeout: Option<Option<i32>>,
    pub wait_timeout: Option<Option<i32>>,
    pub initial_delay: Option<i32>,
    pub description: Option<Option<String>>,
    pub condition: Option<Option<String>>,
}

/// Reason why a callback was not changed.
#[derive(Debug, thiserror::Error)]
pub enum AmendError {
    #[error("callback {0} does not exist")]
    NotFound(i32),
    #[error("{field}: {problem}")]
    Invalid { field: &'static str, problem: String },
    #[error("the state already has a callback '{0}'")]
    Duplicate(String),
    /// The callback has changed since the caller read it.
    #[error("the callback has changed since it was read")]
    Changed,
    #[error(transparent)]
    Database(#[from] sea_orm::DbErr),
}

impl CallbackChanges {
    /// # Errors
    /// [`AmendError::Invalid`] for the first field that would be an error in a workflow file.
    fn check(&self, functions: &[&str]) -> Result<(), AmendError> {
        let invalid = |field, problem: String| Err(AmendError::Invalid { field, problem });
        if let Some(label) = self.label.as_deref()
            && (label.trim().is_empty() || label.chars().count() > 128)
        {
            return invalid("label", "must have 1 to 128 characters".to_owned());
        }
        if let Some(function) = self.function.as_deref().filter(|function| !functions.contains(function)) {
            return invalid(
                "function",
                format!(
                    "unknown function '{function}'; known functions: \
                {}",
                    functions.join(", ")
                ),
            );
        }
        if let Some(text) = self.callback_arguments.as_deref().filter(|text| !text.trim().is_empty()) {
            match yaml::parse_value(text) {
                Ok(value) if value.is_object() || value.is_null() => {}
                Ok(_) => return invalid("callback_arguments", "must be a mapping".to_owned()),
                Err(error) => return invalid("callback_arguments", error.to_string()),
            }
        }
        let times = [("run_timeout", self.run_timeout.flatten()), ("wait_timeout", self.wait_timeout.flatten())];
        for (field, value) in times.into_iter().chain([("initial_delay", self.initial_delay)]) {
            if value.is_some_and(|value| value < 0) {
                return invalid(field, "must not be negative".to_owned());
            }
        }
        if let Some(text) = self.condition.as_ref().and_then(Option::as_deref).filter(|text| !text.trim().is_empty())
            && let Err(error) = condition::check(text)
        {
            return invalid("condition", error.to_string());
        }
        Ok(())
    }
}

/// Changes a callback if `seen` accepts its present definition. Existing executions keep the values with which they were created, except
/// those that are read when they run.
///
/// # Errors
/// [`AmendError`]; nothing has changed then.
pub async fn amend_callback(
    ctx: &Context,
    database: &Database,
    id: i32,
    changes: CallbackChanges,
    functions: &'static [&'static str],
    seen: impl AsyncFnOnce(&database::WriteTransaction, &callback::Model) -> Result<bool, sea_orm::DbErr>,
) -> Result<callback::Model, AmendError> {
    // Arguments may be long, and parsing YAML blocks a thread.
    let checked = tokio::task::spawn_blocking(move || changes.check(functions).map(|()| changes)).await;
    let changes = checked.map_err(|error| database_error(&error))??;
    let transaction = database.begin().await?;
    let row = callback::Entity::find_by_id(id).lock_exclusive().one(&*transaction).await?;
    let row = row.ok_or(AmendError::NotFound(id))?;
    if !seen(&transaction, &row).await? {
        return Err(AmendError::Changed);
    }
    let label = changes.label.clone().unwrap_or_else(|| row.label.clone());
    let before = shown(&row);
    let mut changed = row.into_active_model();
    changed.label = Set(label.trim().to_owned());
    changed.function = changes.function.map_or(changed.function, Set);
    changed.callback_arguments = changes.callback_arguments.map_or(changed.callback_arguments, |text| Set(Some(text)));
    changed.run_timeout = changes.run_timeout.map_or(changed.run_timeout, Set);
    changed.wait_timeout = changes.wait_timeout.map_or(changed.wait_timeout, Set);
    changed.initial_delay = changes.initial_delay.map_or(changed.initial_delay, Set);
    changed.description = changes.description.map_or(changed.description, Set);
    changed.condition = changes.condition.map_or(changed.condition, Set);
    let row = changed.update(&*transaction).await.map_err(|error| match database::is_duplicate(&error) {
        true => AmendError::Duplicate(label),
        false => error.into(),
    })?;
    let event = Event::new("update", "callback", id, &row.label).changed(&before, &shown(&row));
    audit::record(ctx, &*transaction, event).await?;
    let state = state::Entity::find_by_id(row.state_id).one(&*transaction).await?;
    if let Some(state) = state {
        graph::revise(&*transaction, state.workflow_id).await?;
    }
    transaction.commit().await?;
    Ok(row)
}

fn database_error(error: &tokio::task::JoinError) -> AmendError {
    AmendError::Database(sea_orm::DbErr::Custom(error.to_string()))
}

fn shown(row: &callback::Model) -> serde_json::Value {
    serde_json::json!({
        "label": row.label, "function": row.function, "callback_arguments": row.callback_arguments,
        "run_timeout": row.run_timeout, "wait_timeout": row.wait_timeout, "initial_delay": row.initial_delay,
        "description": row.description, "condition": row.condition,
    })
}
