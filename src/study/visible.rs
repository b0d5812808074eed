//! What somebody may see of what is studied.
//!
//! A role can be given for certain cohorts only; then whoever has it sees those and nothing of the others: no subject, no
//! experiment, nothing that hangs on them, in no list, count or search ([`Who::cohorts`] says which). Whatever reads such a
//! thing for somebody begins with [`Visible::visible`] in place of `find`; a test of the structure looks for reads that do
//! not. The program itself (background work, workers with their secrets, the command line) sees everything.

use std::collections::BTreeSet;

use sea_orm::sea_query::{Query, SelectStatement, SimpleExpr};
use sea_orm::{ColumnTrait, EntityTrait, PrimaryKeyTrait, QueryFilter, Select};

use crate::audit::Who;
use crate::entity::{
    action, callback, callback_execution, cohort, experiment, external_cohort_urls, external_experiment_links,
    external_subject_links, external_system, role, scan, scantype, state, subject, transition, user, variable,
    workflow,
};

/// Something that is read for somebody.
pub trait Visible: EntityTrait {
    /// The condition of belonging to one of these cohorts; none for what belongs to no cohort and is everybody's.
    fn within(cohorts: &BTreeSet<i32>) -> Option<SimpleExpr>;

    /// All that who acts now may see.
    #[must_use]
    fn visible() -> Select<Self> {
        let all = Self::find();
        match Who::now().cohorts().and_then(|cohorts| Self::within(&cohorts)) {
            Some(condition) => all.filter(condition),
            None => all,
        }
    }

    /// The one with this id, if who acts now may see it.
    #[must_use]
    fn visible_by_id(id: i32) -> Select<Self>
    where
        <Self::PrimaryKey as PrimaryKeyTrait>::ValueType: From<i32>,
    {
        let one = Self::find_by_id(id);
        match Who::now().cohorts().and_then(|cohorts| Self::within(&cohorts)) {
            Some(condition) => one.filter(condition),
            None => one,
        }
    }
}

/// Whether who acts now sees the whole study.
#[must_use]
pub fn sees_all() -> bool {
    Who::now().cohorts().is_none()
}

/// Names what who acts now may see: numbers that were counted for somebody are good for all who see the same.
#[must_use]
pub fn key() -> String {
    Who::now().cohorts().map_or_else(String::new, |cohorts| format!("in {cohorts:?} "))
}

/// Subjects in use that who acts now may see.
#[must_use]
pub fn subjects_in_use() -> Select<subject::Entity> {
    subject::Entity::visible().filter(subject::Column::ArchiveId.eq(0))
}

/// Experiments in use that who acts now may see.
#[must_use]
pub fn experiments_in_use() -> Select<experiment::Entity> {
    experiment::Entity::visible().filter(experiment::Column::ArchiveId.eq(0))
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

/// By way of the subjects, experiments or actions of the cohorts.
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

/// What belongs to no cohort.
macro_rules! everybodys {
    ($($entity:ident),*) => {$(
        impl Visible for $entity::Entity {
            fn within(_: &BTreeSet<i32>) -> Option<SimpleExpr> {
                None
            }
        }
    )*};
}

everybodys!(callback, external_system, role, scantype, state, transition, user, workflow);
