//! Creating and changing cohorts, subjects and scans. One verb per change; each owns its transaction.

use chrono::{NaiveDate, NaiveDateTime};
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::{ActiveModelTrait, ConnectionTrait, DbErr, IntoActiveModel, QuerySelect};
use serde_json::{Value, json};

use crate::audit::{self, Event};
use crate::context::{Context, Sought};
use crate::database::{self, Database, WriteTransaction};
use crate::entity::{cohort, experiment, external_system, external_system_history, scan, scantype, subject};

use super::record::{self, CohortRecord, SubjectRecord};
use super::{Label, Visible};

/// Reason why a change was refused; nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum ReviseError {
    #[error("there is no {kind} {reference}")]
    NotFound { kind: &'static str, reference: String, sought: Sought },
    #[error("{kind} '{label}' already exists")]
    Duplicate { kind: &'static str, label: String },
    #[error("{kind} {id} is archived")]
    Archived { kind: &'static str, id: i32 },
    /// The caller may see certain cohorts only, and the change concerns others too.
    #[error("this requires access to the whole study; your role is limited to certain cohorts")]
    WholeStudy,
    /// The row has changed since the caller read it.
    #[error("the {0} has changed since it was read")]
    Changed(&'static str),
    #[error(transparent)]
    Database(#[from] DbErr),
}

pub(super) fn not_found(ctx: &Context, kind: &'static str, reference: &impl ToString) -> ReviseError {
    ReviseError::NotFound { kind, reference: reference.to_string(), sought: ctx.sought(kind) }
}

fn duplicate(kind: &'static str, label: &Label) -> impl FnOnce(DbErr) -> ReviseError {
    let label = label.to_string();
    move |error| match database::is_duplicate(&error) {
        true => ReviseError::Duplicate { kind, label },
        false => error.into(),
    }
}

/// Fields to change. `None` leaves a field unchanged.
#[derive(Debug, Clone, Default)]
pub struct CohortChanges {
    pub label: Option<Label>,
    /// `Some(None)` clears it.
    pub description: Option<Option<String>>,
}

/// Creates a cohort.
///
/// # Errors
/// [`ReviseError::Duplicate`].
pub async fn create_cohort(
    ctx: &Context,
    database: &Database,
    label: &Label,
    description: Option<String>,
) -> Result<cohort::Model, ReviseError> {
    let transaction = database.begin().await?;
    let row = cohort::ActiveModel { id: NotSet, label: Set(label.to_string()), description: Set(description) };
    let row = row.insert(&*transaction).await.map_err(duplicate("cohort", label))?;
    let event = Event::new("create", "cohort", row.id, &row.label).after(json!({ "description": row.description }));
    audit::record(ctx, &*transaction, event).await?;
    transaction.commit().await?;
    Ok(row)
}

/// Changes a cohort if `seen` accepts its present record.
///
/// # Errors
/// [`ReviseError::NotFound`], [`ReviseError::Duplicate`] and [`ReviseError::Changed`]; [`ReviseError::WholeStudy`] for a new label, since
/// the answer would reveal the labels of other cohorts.
pub async fn update_cohort(
    ctx: &Context,
    database: &Database,
    id: i32,
    changes: CohortChanges,
    is_guarded: bool,
    seen: impl FnOnce(&CohortRecord) -> bool,
) -> Result<cohort::Model, ReviseError> {
    let transaction = database.begin().await?;
    let row = cohort::Entity::visible_by_id(ctx, id).lock_exclusive().one(&*transaction).await?;
    let row = row.ok_or_else(|| not_found(ctx, "cohort", &id))?;
    // A cohort has thousands of subjects, so they are read only if the caller has a precondition.
    if is_guarded && !seen(&record::cohort(ctx, &*transaction, row.clone(), None).await?) {
        return Err(ReviseError::Changed("cohort"));
    }
    if !ctx.sees_all() && changes.label.as_ref().is_some_and(|label| label.as_str() != row.label) {
        return Err(ReviseError::WholeStudy);
    }
    let label = changes.label.clone();
    let before = json!({ "label": row.label, "description": row.description });
    let mut changed = row.clone().into_active_model();
    changed.label = changes.label.map_or(changed.label, |label| Set(label.to_string()));
    changed.description = changes.description.map_or(changed.description, Set);
    let row = match changed.is_changed() {
        false => row,
        true => {
            let shown = label.map_or_else(|| Label::parse(&row.label), Ok);
            let outcome = changed.update(&*transaction).await;
            match shown {
                Ok(label) => outcome.map_err(duplicate("cohort", &label))?,
                Err(_) => outcome?,
            }
        }
    };
    let after = json!({ "label": row.label, "description": row.description });
    audit::record(ctx, &*transaction, Event::new("update", "cohort", id, &row.label).changed(&before, &after)).await?;
    transaction.commit().await?;
    Ok(row)
}

/// Fields to change. `None` leaves a field unchanged.
#[derive(Debug, Clone, Default)]
pub struct SubjectChanges {
    pub label: Option<Label>,
    pub cohort_id: Option<i32>,
    /// `Some(None)` clears it.
    pub date_of_birth: Option<Option<NaiveDate>>,
}

/// Creates a subject in a cohort.
///
/// # Errors
/// [`ReviseError::Duplicate`].
pub async fn create_subject(
    ctx: &Context,
    database: &Database,
    cohort_id: i32,
    label: &Label,
    date_of_birth: Option<NaiveDate>,
) -> Result<subject::Model, ReviseError> {
    let transaction = database.begin().await?;
    let row = subject::ActiveModel {
        id: NotSet,
        label: Set(label.to_string()),
        date_of_birth: Set(date_of_birth),
        cohort_id: Set(cohort_id),
        ..Default::default()
    };
    let row = row.insert(&*transaction).await.map_err(duplicate("subject of this cohort", label))?;
    audit::record(ctx, &*transaction, Event::new("create", "subject", row.id, &row.label).after(shown(&row))).await?;
    transaction.commit().await?;
    Ok(row)
}

/// Changes a subject if `seen` accepts its present record.
///
/// # Errors
/// [`ReviseError::NotFound`], [`ReviseError::Duplicate`], [`ReviseError::Archived`] and [`ReviseError::Changed`];
/// [`ReviseError::WholeStudy`] for a move to another cohort, where the user may have other permissions.
pub async fn update_subject(
    ctx: &Context,
    database: &Database,
    id: i32,
    changes: SubjectChanges,
    seen: impl FnOnce(&SubjectRecord) -> bool,
    now: NaiveDateTime,
) -> Result<subject::Model, ReviseError> {
    let transaction = database.begin().await?;
    let row = locked_subject(ctx, &transaction, id).await?;
    if !seen(&record::subject(ctx, &*transaction, row.clone()).await?) {
        return Err(ReviseError::Changed("subject"));
    }
    if !ctx.sees_all() && changes.cohort_id.is_some_and(|cohort_id| cohort_id != row.cohort_id) {
        return Err(ReviseError::WholeStudy);
    }
    let label = changes.label.as_ref().map_or_else(|| row.label.clone(), ToString::to_string);
    let before = shown(&row);
    let mut changed = row.clone().into_active_model();
    changed.label = Set(label.clone());
    changed.cohort_id = changes.cohort_id.map_or(changed.cohort_id, Set);
    changed.date_of_birth = changes.date_of_birth.map_or(changed.date_of_birth, Set);
    changed.updated_at = Set(Some(now));
    let row = changed.update(&*transaction).await.map_err(|error| match database::is_duplicate(&error) {
        true => ReviseError::Duplicate { kind: "subject of this cohort", label },
        false => error.into(),
    })?;
    audit::record(ctx, &*transaction, Event::new("update", "subject", id, &row.label).changed(&before, &shown(&row)))
        .await?;
    transaction.commit().await?;
    Ok(row)
}

fn shown(row: &subject::Model) -> Value {
    json!({ "label": row.label, "cohort_id": row.cohort_id, "date_of_birth": row.date_of_birth })
}

/// Locks the subject: nothing else changes or archives it until the transaction ends.
pub(super) async fn locked_subject(
    ctx: &Context,
    transaction: &WriteTransaction,
    id: i32,
) -> Result<subject::Model, ReviseError> {
    let row = subject::Entity::visible_by_id(ctx, id).lock_exclusive().one(&**transaction).await?;
    let row = row.ok_or_else(|| not_found(ctx, "subject", &id))?;
    if row.archive_id != 0 {
        return Err(ReviseError::Archived { kind: "subject", id });
    }
    Ok(row)
}

pub(super) async fn locked_experiment(
    ctx: &Context,
    transaction: &WriteTransaction,
    id: i32,
) -> Result<experiment::Model, ReviseError> {
    let row = experiment::Entity::visible_by_id(ctx, id).lock_exclusive().one(&**transaction).await?;
    let row = row.ok_or_else(|| not_found(ctx, "experiment", &id))?;
    if row.archive_id != 0 {
        return Err(ReviseError::Archived { kind: "experiment", id });
    }
    Ok(row)
}

/// Adds a scan to an experiment.
///
/// # Errors
/// [`ReviseError::NotFound`] and [`ReviseError::Archived`] for the experiment.
pub async fn add_scan(
    ctx: &Context,
    database: &Database,
    experiment_id: i32,
    scantype: &scantype::Model,
) -> Result<scan::Model, ReviseError> {
    let transaction = database.begin().await?;
    locked_experiment(ctx, &transaction, experiment_id).await?;
    let row = scan::ActiveModel { id: NotSet, experiment_id: Set(experiment_id), scantype_id: Set(scantype.id) };
    let row = row.insert(&*transaction).await?;
    let event = Event::new("add_scan", "experiment", experiment_id, &scantype.protocol).of_experiment(experiment_id);
    audit::record(ctx, &*transaction, event.after(json!({ "scan": row.id, "modality": scantype.modality }))).await?;
    transaction.commit().await?;
    Ok(row)
}

/// Sets the URL of an external system and records the change in its history. A helper: the caller owns the transaction.
pub async fn set_system_url(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    system: external_system::Model,
    url: &str,
    now: NaiveDateTime,
) -> Result<external_system::Model, DbErr> {
    if system.url == url {
        return Ok(system);
    }
    let history = external_system_history::ActiveModel {
        id: NotSet,
        system_id: Set(system.id),
        timestamp: Set(now),
        url: Set(Some(url.to_owned())),
    };
    history.insert(connection).await?;
    let (before, after) = (json!({ "url": system.url }), json!({ "url": url }));
    let event = Event::new("update", "external_system", system.id, &system.system_name).changed(&before, &after);
    audit::record(ctx, connection, event).await?;
    let mut changed = system.into_active_model();
    changed.url = Set(url.to_owned());
    changed.update(connection).await
}
