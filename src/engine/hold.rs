//! Experiments that move in a loop (E12): one that takes more automatic transitions within a minute than the setting allows
//! is put on hold, with the reason. Reports on it are still accepted; the next step follows when a person releases it.

use chrono::{NaiveDateTime, TimeDelta};
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, EntityTrait, PaginatorTrait, QueryFilter};
use serde_json::json;
use tracing::warn;

use crate::audit;
use crate::context::Context;
use crate::entity::{action, experiment, state};
use crate::study::Visible;

use super::locked::Locked;
use super::{Engine, EngineError, about, retried};

impl Engine {
    /// Sets the number of automatic transitions that an experiment may take within a minute; 0 means no limit.
    #[must_use]
    pub fn with_transition_limit(mut self, most: u32) -> Self {
        self.most_transitions = most;
        self
    }

    /// Puts the experiment on hold instead of taking the next automatic transition, when it took too many within the last
    /// minute. Returns whether it did. Manual transitions do not count: each has a known author.
    pub(super) async fn hold_if_too_fast(
        &self,
        ctx: &Context,
        locked: &mut Locked,
        destination: &state::Model,
    ) -> Result<bool, EngineError> {
        let most = self.most_transitions;
        if most == 0 {
            return Ok(false);
        }
        let made = action::Entity::visible(ctx)
            .filter(action::Column::ExperimentId.eq(locked.experiment.id))
            .filter(action::Column::StartTime.gt(locked.now - TimeDelta::minutes(1)))
            .filter(action::Column::Id.gt(locked.experiment.released_action_id.unwrap_or(0)))
            .filter(action::Column::Freetext.is_null())
            .count(&*locked.transaction)
            .await?;
        if made < u64::from(most) {
            return Ok(false);
        }
        let here = locked.graph.state(locked.experiment.state_id).map_or("", |state| state.label.as_str());
        let reason = format!(
            "It made {made} automatic transitions within a minute; the next one would have been from '{here}' to \
            '{}'. Check the workflow for a loop.",
            destination.label
        );
        warn!(experiment = locked.experiment.id, label = locked.experiment.label, reason, "experiment put on hold");
        metrics::counter!("studygovernor_holds_total").increment(1);
        set_hold(locked, Some((locked.now, reason.as_str()))).await?;
        let event = about(&locked.experiment, "hold").after(json!({ "state": here })).because(&reason);
        audit::record(ctx, &*locked.transaction, event).await?;
        locked.experiment.held_since = Some(locked.now);
        locked.experiment.held_reason = Some(reason);
        Ok(true)
    }

    /// Releases an experiment that is on hold: its next step follows at once.
    ///
    /// # Errors
    /// [`EngineError::NotHeld`] when it is not on hold.
    pub async fn release_experiment(&self, ctx: &Context, id: i32) -> Result<experiment::Model, EngineError> {
        retried(async || {
            let mut locked = self.lock(ctx, id).await?;
            if !end_hold(ctx, &mut locked).await? {
                return Err(EngineError::NotHeld(id));
            }
            self.settle(ctx, &mut locked).await?;
            let experiment = locked.experiment.clone();
            self.commit(locked).await?;
            Ok(experiment)
        })
        .await
    }
}

/// Ends the hold of the experiment; returns whether it was on hold. Earlier transitions no longer count towards the limit.
pub(super) async fn end_hold(ctx: &Context, locked: &mut Locked) -> Result<bool, EngineError> {
    let Some(since) = locked.experiment.held_since.take() else { return Ok(false) };
    locked.experiment.held_reason = None;
    locked.experiment.released_action_id = locked.experiment.last_action_id;
    set_hold(locked, None).await?;
    let event = about(&locked.experiment, "release").before(json!({ "held_since": since }));
    audit::record(ctx, &*locked.transaction, event).await?;
    Ok(true)
}

/// Writes the start or end of a hold.
async fn set_hold(locked: &Locked, hold: Option<(NaiveDateTime, &str)>) -> Result<(), EngineError> {
    let mut update = experiment::Entity::update_many()
        .col_expr(experiment::Column::HeldSince, Expr::value(hold.map(|(since, _)| since)))
        .col_expr(experiment::Column::HeldReason, Expr::value(hold.map(|(_, reason)| reason)));
    if hold.is_none() {
        let last = locked.experiment.last_action_id;
        update = update.col_expr(experiment::Column::ReleasedActionId, Expr::value(last));
    }
    update.filter(experiment::Column::Id.eq(locked.experiment.id)).exec(&*locked.transaction).await?;
    Ok(())
}
