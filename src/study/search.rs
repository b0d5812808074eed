//! Pages of the lists of cohorts, subjects and experiments.
//!
//! A page begins after an id, not at a number of rows. So the last page is as fast as the first, and no row appears twice while
//! experiments are added.

use std::collections::HashMap;

use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, FromQueryResult, PaginatorTrait, QueryFilter,
    QueryOrder, QuerySelect, Select,
};
use serde::Serialize;

use crate::context::Context;
use crate::database::{Snapshot, contains};
use crate::entity::{cohort, experiment, state, subject, workflow};

use super::listing::{self, Cursor, ExperimentQuery, Totals, Window};
use super::visible::{Visible, experiments_in_use, subjects_in_use};

/// Selects a page: the one after this id (below it, since the newest come first), the one before it, or the first if neither is given.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place {
    pub below: Option<i32>,
    pub above: Option<i32>,
    pub size: u64,
}

/// A page of a list.
#[derive(Debug, Clone, Serialize)]
pub struct Page<T> {
    pub rows: Vec<T>,
    /// Number of rows in all pages, counted up to [`COUNT_LIMIT`].
    pub count: u64,
    /// Whether there are more rows than were counted.
    pub count_is_least: bool,
    /// Whether there is a page before this one.
    pub has_newer: bool,
    /// Whether there is a page after this one.
    pub has_older: bool,
}

/// Counting stops here, so that lists stay fast as the study grows.
pub const COUNT_LIMIT: u64 = 1000;

/// A row of the list of experiments.
#[derive(Debug, Clone, Serialize)]
pub struct ExperimentRow {
    pub id: i32,
    pub label: String,
    pub scandate: chrono::NaiveDateTime,
    pub state_since: chrono::NaiveDateTime,
    pub state_id: i32,
    pub state: String,
    pub workflow_id: i32,
    pub workflow: String,
    pub subject_id: i32,
    pub subject: String,
    pub cohort_id: i32,
    pub cohort: String,
}

/// A row of the list of subjects.
#[derive(Debug, Clone, Serialize)]
pub struct SubjectRow {
    pub id: i32,
    pub label: String,
    pub date_of_birth: Option<chrono::NaiveDate>,
    pub cohort_id: i32,
    pub cohort: String,
    pub experiments: u64,
}

/// A row of the list of cohorts.
#[derive(Debug, Clone, Serialize)]
pub struct CohortRow {
    pub id: i32,
    pub label: String,
    pub description: Option<String>,
    pub subjects: u64,
    pub experiments: u64,
}

/// A page of the list of experiments.
#[derive(Debug, Clone, Serialize)]
pub struct ExperimentRows {
    pub rows: Vec<ExperimentRow>,
    /// Number of rows in the whole list.
    pub count: u64,
    /// Cursor at which the previous page ends; `None` on the first page.
    pub previous: Option<String>,
    /// Cursor after which the next page begins; `None` on the last page.
    pub next: Option<String>,
}

/// A page of experiments with the labels of their cohort, subject, workflow and state. Seven statements at most, whatever the page size.
pub async fn experiments(
    ctx: &Context,
    snapshot: &Snapshot,
    totals: &Totals,
    query: &ExperimentQuery,
    size: u64,
) -> Result<ExperimentRows, DbErr> {
    let window = Window { limit: Some(size), ..Window::default() };
    let page = listing::experiments(ctx, snapshot, totals, query, window).await?;
    let ids: Vec<i32> = page.listed.rows.iter().map(|row| row.id).collect();
    let found = experiment::Entity::visible(ctx).filter(experiment::Column::Id.is_in(ids.iter().copied()));
    let mut rows = with_names(ctx, snapshot, found.all(snapshot).await?).await?;
    let places: HashMap<i32, usize> = ids.into_iter().enumerate().map(|(place, id)| (id, place)).collect();
    rows.sort_by_key(|row| places.get(&row.id).copied());
    let text = |cursor: Option<Cursor>| cursor.map(|cursor| cursor.to_string());
    Ok(ExperimentRows { rows, count: page.listed.count, previous: text(page.previous), next: text(page.next) })
}

async fn page<E, C>(
    connection: &C,
    all: impl Fn() -> Select<E>,
    id: E::Column,
    place: Place,
    id_of: impl Fn(&E::Model) -> i32,
) -> Result<Page<E::Model>, DbErr>
where
    E: EntityTrait,
    E::Model: FromQueryResult + Sized + Send + Sync,
    C: ConnectionTrait,
{
    let size = place.size.clamp(1, 500);
    let mut rows = match (place.below, place.above) {
        (_, Some(above)) => all().filter(id.gt(above)).order_by_asc(id).limit(size + 1).all(connection).await?,
        (Some(below), None) => all().filter(id.lt(below)).order_by_desc(id).limit(size + 1).all(connection).await?,
        (None, None) => all().order_by_desc(id).limit(size + 1).all(connection).await?,
    };
    let more = rows.len() > usize::try_from(size).unwrap_or(usize::MAX);
    rows.truncate(usize::try_from(size).unwrap_or(usize::MAX));
    let (has_newer, has_older) = match (place.below, place.above) {
        (_, Some(_)) => {
            rows.reverse();
            (more, true)
        }
        (Some(_), None) => (true, more),
        (None, None) => (false, more),
    };
    rows.sort_by_key(|row| std::cmp::Reverse(id_of(row)));
    let count = all().select_only().column(id).limit(COUNT_LIMIT + 1).count(connection).await?;
    Ok(Page { rows, count: Ord::min(count, COUNT_LIMIT), count_is_least: count > COUNT_LIMIT, has_newer, has_older })
}

async fn with_names(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    experiments: Vec<experiment::Model>,
) -> Result<Vec<ExperimentRow>, DbErr> {
    let ids = |id: fn(&experiment::Model) -> i32| experiments.iter().map(id).collect::<Vec<_>>();
    let states = state::Entity::find().filter(state::Column::Id.is_in(ids(|row| row.state_id))).all(connection).await?;
    let states: HashMap<i32, String> = states.into_iter().map(|row| (row.id, row.label)).collect();
    let workflows = workflow::Entity::find().all(connection).await?;
    let workflows: HashMap<i32, String> = workflows.into_iter().map(|row| (row.id, row.label)).collect();
    let subjects = subject::Entity::visible(ctx)
        .filter(subject::Column::Id.is_in(ids(|row| row.subject_id)))
        .find_also_related(cohort::Entity)
        .all(connection)
        .await?;
    let subjects: HashMap<i32, _> = subjects.into_iter().map(|(row, cohort)| (row.id, (row, cohort))).collect();
    let name = |names: &HashMap<i32, String>, id: i32| names.get(&id).cloned().unwrap_or_default();
    let row = |experiment: experiment::Model| {
        let (subject, cohort) = subjects.get(&experiment.subject_id)?;
        let cohort = cohort.as_ref()?;
        Some(ExperimentRow {
            id: experiment.id,
            scandate: experiment.scandate,
            state_since: experiment.state_since,
            state_id: experiment.state_id,
            state: name(&states, experiment.state_id),
            workflow_id: experiment.workflow_id,
            workflow: name(&workflows, experiment.workflow_id),
            subject_id: subject.id,
            subject: subject.label.clone(),
            cohort_id: cohort.id,
            cohort: cohort.label.clone(),
            label: experiment.label,
        })
    };
    Ok(experiments.into_iter().filter_map(row).collect())
}

/// Subjects, newest first, of one cohort or of all.
pub async fn subjects(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    cohort: Option<i32>,
    text: Option<&str>,
    place: Place,
) -> Result<Page<SubjectRow>, DbErr> {
    let mut condition = Condition::all();
    if let Some(id) = cohort {
        condition = condition.add(subject::Column::CohortId.eq(id));
    }
    if let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) {
        condition = condition.add(contains(subject::Column::Label, text));
    }
    let all = || subjects_in_use(ctx).filter(condition.clone());
    let page = page(connection, all, subject::Column::Id, place, |row| row.id).await?;
    let ids: Vec<i32> = page.rows.iter().map(|row| row.id).collect();
    let counts = count_by(ctx, connection, experiment::Column::SubjectId, ids).await?;
    let cohorts: HashMap<i32, String> =
        cohort::Entity::visible(ctx).all(connection).await?.into_iter().map(|row| (row.id, row.label)).collect();
    let rows = page.rows.into_iter().map(|row| SubjectRow {
        experiments: counts.get(&row.id).copied().unwrap_or(0),
        cohort: cohorts.get(&row.cohort_id).cloned().unwrap_or_default(),
        id: row.id,
        label: row.label,
        date_of_birth: row.date_of_birth,
        cohort_id: row.cohort_id,
    });
    Ok(Page {
        rows: rows.collect(),
        count: page.count,
        count_is_least: page.count_is_least,
        has_newer: page.has_newer,
        has_older: page.has_older,
    })
}

#[derive(FromQueryResult)]
struct Counted {
    key: i32,
    count: i64,
}

async fn count_by(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    column: experiment::Column,
    ids: Vec<i32>,
) -> Result<HashMap<i32, u64>, DbErr> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let counted = experiments_in_use(ctx)
        .select_only()
        .column_as(column, "key")
        .column_as(experiment::Column::Id.count(), "count")
        .filter(column.is_in(ids))
        .group_by(column)
        .into_model::<Counted>()
        .all(connection)
        .await?;
    Ok(counted.into_iter().map(|row| (row.key, u64::try_from(row.count).unwrap_or(0))).collect())
}

/// All cohorts by label, with their numbers of subjects and experiments.
pub async fn cohorts(ctx: &Context, connection: &impl ConnectionTrait) -> Result<Vec<CohortRow>, DbErr> {
    let cohorts = cohort::Entity::visible(ctx).order_by_asc(cohort::Column::Label).all(connection).await?;
    let subjects = subjects_in_use(ctx)
        .select_only()
        .column_as(subject::Column::CohortId, "key")
        .column_as(subject::Column::Id.count(), "count")
        .group_by(subject::Column::CohortId)
        .into_model::<Counted>()
        .all(connection)
        .await?;
    let experiments = experiments_in_use(ctx)
        .select_only()
        .inner_join(subject::Entity)
        .column_as(subject::Column::CohortId, "key")
        .column_as(experiment::Column::Id.count(), "count")
        .group_by(subject::Column::CohortId)
        .into_model::<Counted>()
        .all(connection)
        .await?;
    let map = |rows: Vec<Counted>| -> HashMap<i32, u64> {
        rows.into_iter().map(|row| (row.key, u64::try_from(row.count).unwrap_or(0))).collect()
    };
    let (subjects, experiments) = (map(subjects), map(experiments));
    let row = |cohort: cohort::Model| CohortRow {
        subjects: subjects.get(&cohort.id).copied().unwrap_or(0),
        experiments: experiments.get(&cohort.id).copied().unwrap_or(0),
        id: cohort.id,
        label: cohort.label,
        description: cohort.description,
    };
    Ok(cohorts.into_iter().map(row).collect())
}
