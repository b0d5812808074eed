//! Resolves ids, labels and URIs to rows.

use chrono::NaiveDateTime;
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, PrimaryKeyTrait, QueryFilter, QueryOrder, QuerySelect, Select,
};

use crate::app::App;
use crate::context::Context;
use crate::database::Snapshot;
use crate::entity::{cohort, experiment, external_system, role, scantype, state, subject, user, workflow};
use crate::http::HttpError;
use crate::study::visible::{experiments_in_use, subjects_in_use};
use crate::study::{Found, Reference, Visible};

use super::input::invalid;

/// The row with this id.
///
/// # Errors
/// 404 if it does not exist.
pub(super) async fn by_id<E>(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    kind: &str,
    id: i32,
) -> Result<E::Model, HttpError>
where
    E: Visible,
    <E::PrimaryKey as PrimaryKeyTrait>::ValueType: From<i32>,
{
    let found = E::visible_by_id(ctx, id).one(connection).await?;
    found.ok_or_else(|| HttpError::missing(ctx, kind, id))
}

/// A snapshot after a change, and in it the changed row: what the verb returned may no longer match the data that is
/// shown with it.
pub(super) async fn reread<E>(
    ctx: &Context,
    app: &App,
    id: i32,
    row: E::Model,
) -> Result<(Snapshot, E::Model), HttpError>
where
    E: Visible,
    <E::PrimaryKey as PrimaryKeyTrait>::ValueType: From<i32>,
{
    let snapshot = app.snapshot().await?;
    // If the caller no longer sees the row, it is returned as it was.
    let now = E::visible_by_id(ctx, id).one(&snapshot).await?.unwrap_or(row);
    Ok((snapshot, now))
}

/// The row, if there is exactly one.
///
/// # Errors
/// 404 if there is none, 409 if there are several.
pub(super) fn one_of<T>(ctx: &Context, kind: &str, reference: &Reference, found: Found<T>) -> Result<T, HttpError> {
    match found {
        Found::One(row) => Ok(row),
        Found::Nothing => Err(HttpError::missing(ctx, kind, reference)),
        Found::Several(ids) => {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            let ids = ids.join(", ");
            Err(HttpError::Conflict(format!("{kind} {reference} is ambiguous; use one of these ids: {ids}.")))
        }
    }
}

macro_rules! finders {
    ($($name:ident: $kind:literal, $entity:ident, $label:ident;)*) => {$(
        /// Resolves a reference.
        ///
        /// # Errors
        /// 404 if there is none, 409 if there are several.
        pub(super) async fn $name(
            ctx: &Context,
            connection: &impl ConnectionTrait,
            reference: &Reference,
        ) -> Result<$entity::Model, HttpError> {
            let columns = ($entity::Column::Id, $entity::Column::$label);
            let found = reference.find_in(connection, $entity::Entity::visible(ctx), columns, |row| row.id).await?;
            one_of(ctx, $kind, reference, found)
        }
    )*};
}

finders! {
    cohort: "cohort", cohort, Label;
    workflow: "workflow", workflow, Label;
    state: "state", state, Label;
    external_system: "external system", external_system, SystemName;
    scantype: "scantype", scantype, Protocol;
    role: "role", role, Name;
    user: "user", user, Username;
}

/// Subjects in use take precedence: an archived one is only found by its id.
///
/// # Errors
/// 404 if there is none, 409 if there are several.
pub(super) async fn subject(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    reference: &Reference,
) -> Result<subject::Model, HttpError> {
    let columns = (subject::Column::Id, subject::Column::Label);
    match reference.find_in(connection, subjects_in_use(ctx), columns, |row| row.id).await? {
        Found::Nothing => {}
        found => return one_of(ctx, "subject", reference, found),
    }
    archived::<subject::Entity>(ctx, connection, "subject", reference).await
}

/// As [`subject`].
///
/// # Errors
/// 404 if there is none, 409 if there are several.
pub(super) async fn experiment(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    reference: &Reference,
) -> Result<experiment::Model, HttpError> {
    let columns = (experiment::Column::Id, experiment::Column::Label);
    match reference.find_in(connection, experiments_in_use(ctx), columns, |row| row.id).await? {
        Found::Nothing => {}
        found => return one_of(ctx, "experiment", reference, found),
    }
    archived::<experiment::Entity>(ctx, connection, "experiment", reference).await
}

async fn archived<E>(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    kind: &str,
    reference: &Reference,
) -> Result<E::Model, HttpError>
where
    E: Visible,
    <E::PrimaryKey as PrimaryKeyTrait>::ValueType: From<i32>,
{
    match reference {
        Reference::Id(id) | Reference::Either(id, _) | Reference::LabelFirst(id, _) => {
            by_id::<E>(ctx, connection, kind, *id).await
        }
        Reference::Label(_) => Err(HttpError::missing(ctx, kind, reference)),
    }
}

/// The subject with this label in this cohort.
///
/// # Errors
/// 404 if either does not exist.
pub(super) async fn subject_of_cohort(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    cohort: &str,
    label: &str,
) -> Result<subject::Model, HttpError> {
    let cohort = self::cohort(ctx, connection, &Reference::label(cohort)).await?;
    let reference = Reference::label(label);
    let of_cohort = subjects_in_use(ctx).filter(subject::Column::CohortId.eq(cohort.id));
    let columns = (subject::Column::Id, subject::Column::Label);
    let found = reference.find_in(connection, of_cohort, columns, |row| row.id).await?;
    one_of(ctx, "subject", &reference, found)
}

/// The states with this id or label, in any workflow.
///
/// # Errors
/// 404 if there is none.
pub(super) async fn states(connection: &impl ConnectionTrait, reference: &Reference) -> Result<Vec<i32>, HttpError> {
    let ids = |select: Select<state::Entity>| {
        select.select_only().column(state::Column::Id).order_by_asc(state::Column::Id).into_tuple::<i32>()
    };
    let (id, label) = match reference {
        Reference::Id(id) => (Some(*id), None),
        Reference::Label(label) => (None, Some(label)),
        Reference::Either(id, label) | Reference::LabelFirst(id, label) => (Some(*id), Some(label)),
    };
    if let Some(id) = id {
        let found = ids(state::Entity::find_by_id(id)).all(connection).await?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    let found = match label {
        Some(label) => ids(state::Entity::find().filter(state::Column::Label.eq(label))).all(connection).await?,
        None => Vec::new(),
    };
    if found.is_empty() {
        return Err(HttpError::NotFound(format!("state {reference}")));
    }
    Ok(found)
}

/// A state of a workflow.
///
/// # Errors
/// 404 if there is none.
pub(super) async fn state_of(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    workflow_id: i32,
    reference: &Reference,
) -> Result<state::Model, HttpError> {
    let of_workflow = state::Entity::find().filter(state::Column::WorkflowId.eq(workflow_id));
    let found = reference.find_in(connection, of_workflow, (state::Column::Id, state::Column::Label), |row| row.id);
    one_of(ctx, "state", reference, found.await?)
}

/// Interprets the `{id}` of a URL in v1: as `?filter_field=` says, or as either of the two.
///
/// # Errors
/// 400 for a word other than `id` and `label`; 404 if an id is required and the text is not a number.
pub(super) fn filtered(text: &str, filter_field: Option<&str>) -> Result<Reference, HttpError> {
    match filter_field {
        None => Ok(Reference::parse(text)),
        Some("label") => Ok(Reference::label(text)),
        Some("id") => super::input::number(text).map(Reference::Id),
        Some(_) => Err(invalid("filter_field", "must be 'id' or 'label'")),
    }
}

/// Formats a timestamp as version 8.1 does: UTC without an offset, with a fraction only if there is one.
pub(super) fn moment(at: NaiveDateTime) -> String {
    crate::clock::iso(at)
}
