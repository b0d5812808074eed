//! The part of the study that a context may see.
//!
//! A role can be limited to certain cohorts. A user with only such roles sees those cohorts and nothing of the others: no subject, no
//! experiment, nothing that belongs to them, in no list, count or search ([`Context::cohorts`] says which). Code that reads rows for a
//! caller begins with [`Visible::visible`] instead of `find`; a structure test finds reads that do not.

use std::collections::BTreeSet;

use sea_orm::sea_query::{Query, SelectStatement, SimpleExpr};
use sea_orm::{ColumnTrait, EntityTrait, PrimaryKeyTrait, QueryFilter, Select};

use crate::context::Context;
use crate::entity::{
    action, callback, callback_execution, cohort, experiment, external_cohort_urls, external_experiment_links,
    external_subject_links, external_system, role, scan, scantype, state, subject, transition, user, variable,
    workflow,
};

/// A table that is read on behalf of a caller.
pub trait Visible: EntityTrait {
    /// The condition that a row belongs to one of these cohorts; `None` for tables that belong to no cohort.
    fn within(cohorts: &BTreeSet<i32>) -> Option<SimpleExpr>;

    /// All rows that this context may see.
    #[must_use]
    #[cfg_attr(debug_assertions, track_caller)]
    fn visible(ctx: &Context) -> Select<Self> {
        within_sight(ctx, Self::find(), Self::within)
    }

    /// The row with this id, if this context may see it.
    #[must_use]
    #[cfg_attr(debug_assertions, track_caller)]
    fn visible_by_id(ctx: &Context, id: i32) -> Select<Self>
    where
        <Self::PrimaryKey as PrimaryKeyTrait>::ValueType: From<i32>,
    {
        within_sight(ctx, Self::find_by_id(id), Self::within)
    }
}

#[cfg_attr(debug_assertions, track_caller)]
fn within_sight<E: EntityTrait>(
    ctx: &Context,
    all: Select<E>,
    within: impl FnOnce(&BTreeSet<i32>) -> Option<SimpleExpr>,
) -> Select<E> {
    match ctx.cohorts().and_then(within) {
        #[cfg(debug_assertions)]
        Some(_) if crate::fault::opens(std::panic::Location::caller()) => all,
        Some(condition) => all.filter(condition),
        None => all,
    }
}

/// Subjects in use that this context may see.
#[must_use]
#[cfg_attr(debug_assertions, track_caller)]
pub fn subjects_in_use(ctx: &Context) -> Select<subject::Entity> {
    subject::Entity::visible(ctx).filter(subject::Column::ArchiveId.eq(0))
}

/// Experiments in use that this context may see.
#[must_use]
#[cfg_attr(debug_assertions, track_caller)]
pub fn experiments_in_use(ctx: &Context) -> Select<experiment::Entity> {
    experiment::Entity::visible(ctx).filter(experiment::Column::ArchiveId.eq(0))
}

impl Visible for cohort::Entity {
    fn within(cohorts: &BTreeSet<i32>) -> Option<SimpleExpr> {
        Some(cohort::Column::Id.is_in(cohorts.iter().copied()))
    }
}

impl Visible for subject::Entity {
    fn within(cohorts: &BTreeSet<i32>) -> Option<SimpleExpr> {
        Some(subject::Column::CohortId.is_in(cohorts.iter().copied()))
    }
}

impl Visible for external_cohort_urls::Entity {
    fn within(cohorts: &BTreeSet<i32>) -> Option<SimpleExpr> {
        Some(external_cohort_urls::Column::CohortId.is_in(cohorts.iter().copied()))
    }
}

fn subjects_of(cohorts: &BTreeSet<i32>) -> SelectStatement {
    let mut ids = Query::select();
    let of_those = subject::Column::CohortId.is_in(cohorts.iter().copied());
    ids.column((subject::Entity, subject::Column::Id)).from(subject::Entity).and_where(of_those);
    ids
}

fn experiments_of(cohorts: &BTreeSet<i32>) -> SelectStatement {
    let mut ids = Query::select();
    let of_those = experiment::Column::SubjectId.in_subquery(subjects_of(cohorts));
    ids.column((experiment::Entity, experiment::Column::Id)).from(experiment::Entity).and_where(of_those);
    ids
}

fn actions_of(cohorts: &BTreeSet<i32>) -> SelectStatement {
    let mut ids = Query::select();
    let of_those = action::Column::ExperimentId.in_subquery(experiments_of(cohorts));
    ids.column((action::Entity, action::Column::Id)).from(action::Entity).and_where(of_those);
    ids
}

/// Tables whose rows belong to subjects, experiments or actions of the cohorts.
macro_rules! by_way_of {
    ($($entity:ident: $column:ident in $ids:ident;)*) => {$(
        impl Visible for $entity::Entity {
            fn within(cohorts: &BTreeSet<i32>) -> Option<SimpleExpr> {
                Some($entity::Column::$column.in_subquery($ids(cohorts)))
            }
        }
    )*};
}

by_way_of! {
    experiment: SubjectId in subjects_of;
    external_subject_links: SubjectId in subjects_of;
    scan: ExperimentId in experiments_of;
    variable: ExperimentId in experiments_of;
    external_experiment_links: ExperimentId in experiments_of;
    action: ExperimentId in experiments_of;
    callback_execution: ActionId in actions_of;
}

/// Tables that belong to no cohort.
macro_rules! of_no_cohort {
    ($($entity:ident),*) => {$(
        impl Visible for $entity::Entity {
            fn within(_: &BTreeSet<i32>) -> Option<SimpleExpr> {
                None
            }
        }
    )*};
}

of_no_cohort!(callback, external_system, role, scantype, state, transition, user, workflow);
