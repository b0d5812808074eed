//! Archives experiments and subjects that were created by mistake. A reason is required, and the history stays (E10).
//!
//! Archived experiments no longer move: their callbacks are cancelled, and their labels can be used again.

use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use serde_json::json;

use crate::audit::{self, Event};
use crate::context::Context;
use crate::database;
use crate::entity::{cohort, experiment, subject};
use crate::study::Visible;
use crate::study::visible::experiments_in_use;

use super::locked::Locked;
use super::run_log::storable;
use super::{Engine, EngineError, about, retried};

impl Engine {
    /// Archives an experiment and cancels its open callbacks.
    ///
    /// # Errors
    /// [`EngineError::Archived`] when it is already archived.
    pub async fn archive_experiment(&self, ctx: &Context, id: i32, reason: &str) -> Result<(), EngineError> {
        retried(async || {
            let locked = self.lock(ctx, id).await?;
            put_away(ctx, &locked, reason).await?;
            self.commit(locked).await
        })
        .await
    }

    /// Archives a subject and all its experiments in one transaction. Returns the number of experiments.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] and [`EngineError::Archived`].
    pub async fn archive_subject(&self, ctx: &Context, id: i32, reason: &str) -> Result<usize, EngineError> {
        retried(async || {
            let mut transaction = self.database.begin().await?;
            let subject = subject::Entity::visible_by_id(ctx, id).lock_exclusive().one(&*transaction).await?;
            let subject = subject.ok_or_else(|| EngineError::not_found(ctx, "subject", id))?;
            if subject.archive_id != 0 {
                return Err(EngineError::Archived { kind: "subject", id });
            }
            let experiments = experiments_in_use(ctx).filter(experiment::Column::SubjectId.eq(id));
            let experiments = experiments.order_by_asc(experiment::Column::Id).all(&*transaction).await?;
            for experiment in &experiments {
                let locked = match self.lock_in(ctx, transaction, experiment.id).await {
                    // Another request archived it in the meantime: read the experiments again.
                    Err(EngineError::Archived { .. }) => {
                        return Err(EngineError::changed("an experiment was archived"));
                    }
                    outcome => outcome?,
                };
                put_away(ctx, &locked, reason).await?;
                transaction = locked.transaction;
            }
            subject::Entity::update_many()
                .col_expr(subject::Column::ArchiveId, Expr::value(id))
                .col_expr(subject::Column::ArchivedAt, Expr::value(self.clock.now()))
                .col_expr(subject::Column::ArchivedBy, Expr::value(name_of(ctx)))
                .col_expr(subject::Column::ArchivedReason, Expr::value(storable(reason)))
                .filter(subject::Column::Id.eq(id))
                .exec(&*transaction)
                .await?;
            let event = Event::new("archive", "subject", id, &subject.label).because(reason);
            audit::record(ctx, &*transaction, event.after(json!({ "experiments": experiments.len() }))).await?;
            transaction.commit().await?;
            Ok(experiments.len())
        })
        .await
    }

    /// Restores an archived experiment to the state that it was in. Its callbacks stay cancelled: a person moves it or
    /// retries them.
    ///
    /// # Errors
    /// [`EngineError::NotArchived`]; [`EngineError::Duplicate`] when the subject now has another experiment with this label;
    /// [`EngineError::Archived`] when the subject is archived.
    pub async fn restore_experiment(&self, ctx: &Context, id: i32) -> Result<(), EngineError> {
        retried(async || self.try_restore_experiment(ctx, id).await).await
    }

    async fn try_restore_experiment(&self, ctx: &Context, id: i32) -> Result<(), EngineError> {
        let not_found = EngineError::not_found(ctx, "experiment", id);
        let found = experiment::Entity::visible_by_id(ctx, id).one(self.database.reader()).await?.ok_or(not_found)?;
        let transaction = self.database.begin().await?;
        // Locks the subject first, as archiving does, so that it is not archived at the same moment.
        let subject = subject::Entity::visible_by_id(ctx, found.subject_id).lock_exclusive().one(&*transaction).await?;
        if subject.is_some_and(|subject| subject.archive_id != 0) {
            return Err(EngineError::Archived { kind: "subject", id: found.subject_id });
        }
        let experiment = experiment::Entity::visible_by_id(ctx, id).lock_exclusive().one(&*transaction).await?;
        let Some(experiment) = experiment.filter(|experiment| experiment.archive_id != 0) else {
            return Err(EngineError::NotArchived { kind: "experiment", id });
        };
        let restored = experiment::Entity::update_many()
            .col_expr(experiment::Column::ArchiveId, Expr::value(0))
            .col_expr(experiment::Column::ArchivedAt, Expr::value(None::<chrono::NaiveDateTime>))
            .col_expr(experiment::Column::ArchivedBy, Expr::value(None::<String>))
            .col_expr(experiment::Column::ArchivedReason, Expr::value(None::<String>))
            .filter(experiment::Column::Id.eq(id))
            .exec(&*transaction)
            .await;
        match restored {
            Err(error) if database::is_duplicate(&error) => {
                return Err(EngineError::Duplicate { label: experiment.label });
            }
            outcome => outcome?,
        };
        audit::record(ctx, &*transaction, about(&experiment, "restore")).await?;
        Ok(transaction.commit().await?)
    }

    /// Restores an archived subject; its experiments stay archived until each is restored.
    ///
    /// # Errors
    /// [`EngineError::NotArchived`]; [`EngineError::DuplicateSubject`] when the cohort now has another subject with this
    /// label.
    pub async fn restore_subject(&self, ctx: &Context, id: i32) -> Result<(), EngineError> {
        retried(async || self.try_restore_subject(ctx, id).await).await
    }

    async fn try_restore_subject(&self, ctx: &Context, id: i32) -> Result<(), EngineError> {
        let transaction = self.database.begin().await?;
        let subject = subject::Entity::visible_by_id(ctx, id).lock_exclusive().one(&*transaction).await?;
        let subject = subject.ok_or_else(|| EngineError::not_found(ctx, "subject", id))?;
        if subject.archive_id == 0 {
            return Err(EngineError::NotArchived { kind: "subject", id });
        }
        let cohort = cohort::Entity::visible_by_id(ctx, subject.cohort_id).one(&*transaction).await?;
        let restored = subject::Entity::update_many()
            .col_expr(subject::Column::ArchiveId, Expr::value(0))
            .col_expr(subject::Column::ArchivedAt, Expr::value(None::<chrono::NaiveDateTime>))
            .col_expr(subject::Column::ArchivedBy, Expr::value(None::<String>))
            .col_expr(subject::Column::ArchivedReason, Expr::value(None::<String>))
            .filter(subject::Column::Id.eq(id))
            .exec(&*transaction)
            .await;
        match restored {
            Err(error) if database::is_duplicate(&error) => {
                let cohort = cohort.map(|cohort| cohort.label).unwrap_or_default();
                return Err(EngineError::DuplicateSubject { label: subject.label, cohort });
            }
            outcome => outcome?,
        };
        audit::record(ctx, &*transaction, Event::new("restore", "subject", id, &subject.label)).await?;
        Ok(transaction.commit().await?)
    }
}

/// Cancels the open callbacks of the locked experiment and marks it as archived.
async fn put_away(ctx: &Context, locked: &Locked, reason: &str) -> Result<(), EngineError> {
    super::transition::leave(ctx, locked, "the experiment was archived").await?;
    let id = locked.experiment.id;
    let event = about(&locked.experiment, "archive").because(reason);
    audit::record(ctx, &*locked.transaction, event).await?;
    experiment::Entity::update_many()
        .col_expr(experiment::Column::ArchiveId, Expr::value(id))
        .col_expr(experiment::Column::ArchivedAt, Expr::value(locked.now))
        .col_expr(experiment::Column::ArchivedBy, Expr::value(name_of(ctx)))
        .col_expr(experiment::Column::ArchivedReason, Expr::value(storable(reason)))
        .filter(experiment::Column::Id.eq(id))
        .exec(&*locked.transaction)
        .await?;
    Ok(())
}

fn name_of(ctx: &Context) -> String {
    ctx.actor().name.chars().take(64).collect()
}
