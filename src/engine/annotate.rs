//! Updates to an action made through the API: its success, return value and end time. The history itself stays (E10).

use chrono::NaiveDateTime;
use sea_orm::ActiveValue::Set;
use sea_orm::{ActiveModelTrait, IntoActiveModel, QuerySelect};

use serde_json::json;

use crate::audit::{self, Event};
use crate::context::Context;
use crate::entity::action;
use crate::study::Visible;

use super::run_log::storable;
use super::{Engine, EngineError};

/// Fields to change. `None` leaves a field unchanged; `Some(None)` clears it.
#[derive(Debug, Clone, Default)]
pub struct Annotation {
    pub success: Option<bool>,
    pub return_value: Option<Option<String>>,
    pub end_time: Option<Option<NaiveDateTime>>,
}

impl Engine {
    /// Changes an action if `seen` accepts its current row.
    ///
    /// # Errors
    /// [`EngineError::NotFound`]; [`EngineError::MovedOn`] when `seen` does not accept it.
    pub async fn annotate_action(
        &self,
        ctx: &Context,
        id: i32,
        annotation: Annotation,
        seen: impl AsyncFnOnce(&crate::database::WriteTransaction, &action::Model) -> Result<bool, sea_orm::DbErr>,
    ) -> Result<action::Model, EngineError> {
        let transaction = self.database.begin().await?;
        let row = action::Entity::visible_by_id(ctx, id).lock_exclusive().one(&*transaction).await?;
        let row = row.ok_or_else(|| EngineError::not_found(ctx, "action", id))?;
        if !seen(&transaction, &row).await? {
            return Err(EngineError::MovedOn);
        }
        let mut changed = row.clone().into_active_model();
        changed.success = annotation.success.map_or(changed.success, Set);
        changed.return_value =
            annotation.return_value.map_or(changed.return_value, |text| Set(text.as_deref().map(storable)));
        changed.end_time = annotation.end_time.map_or(changed.end_time, Set);
        let before = shown(&row);
        let row = if changed.is_changed() { changed.update(&*transaction).await? } else { row };
        let event = Event::new("annotate", "action", id, "").of_experiment(row.experiment_id);
        let event = event.changed(&before, &shown(&row));
        audit::record(ctx, &*transaction, event).await?;
        transaction.commit().await?;
        Ok(row)
    }
}

fn shown(row: &action::Model) -> serde_json::Value {
    json!({ "success": row.success, "return_value": row.return_value, "end_time": row.end_time })
}
