//! Lists and windows of them, with their totals, for the API.

mod cursor;
mod window;

use chrono::NaiveDateTime;
use sea_orm::sea_query::{Expr, ExprTrait, Query};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect,
    Select,
};
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::database::{Snapshot, contains};
use crate::entity::kind::{ExecutionResult, ExecutionStatus};
use crate::entity::{
    action, callback_execution, dead_letter, experiment, external_experiment_links, external_subject_links, scan,
    subject, variable,
};

pub use cursor::Cursor;
pub use window::{Listed, Named, Totals, Window, list, list_named, named};
use window::{counted, windowed};

use cursor::{Key, VisibleActions};

use super::VariableValue;
use super::dossier::without_logs;
use super::filter::Resolved;
use super::visible::{Visible, experiments_in_use, subjects_in_use};

/// The order of a list of experiments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ExperimentOrder {
    #[default]
    Id,
    Label,
    Scandate,
    StateSince,
}

/// The page of a list that a cursor leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// The page that begins after the cursor.
    #[default]
    Forward,
    /// The page that ends before the cursor.
    Backward,
}

/// Restricts a list of experiments.
#[derive(Debug, Clone, Default)]
pub struct ExperimentQuery {
    pub cohort: Option<i32>,
    pub subject: Option<i32>,
    pub workflow: Option<i32>,
    /// Experiments in any of these states.
    pub states: Option<Vec<i32>>,
    /// Part of the label, ignoring case.
    pub label: Option<String>,
    pub scandate: Option<NaiveDateTime>,
    pub scandate_from: Option<NaiveDateTime>,
    /// Inclusive.
    pub scandate_to: Option<NaiveDateTime>,
    pub state_since_from: Option<NaiveDateTime>,
    /// Inclusive.
    pub state_since_to: Option<NaiveDateTime>,
    /// Only experiments on hold.
    pub held: bool,
    /// Names and values of variables, in their written form.
    pub variables: Vec<(String, String)>,
    /// Archived experiments instead of those in use.
    pub archived: bool,
    pub order: ExperimentOrder,
    pub descending: bool,
    /// Only rows after this cursor, or before it, in the same order.
    pub from: Option<Cursor>,
    pub direction: Direction,
    /// Further conditions in the filter language.
    pub filter: Option<Resolved>,
}

impl ExperimentQuery {
    /// Whether the list is ordered by id, so that a page may begin after an id.
    #[must_use]
    pub fn is_by_id(&self) -> bool {
        self.order == ExperimentOrder::Id && !self.descending
    }
}

/// A page of experiments with the cursors of its neighbours.
#[derive(Debug, Clone)]
pub struct ExperimentPage {
    pub listed: Listed<Named>,
    /// The end of the previous page; `None` on the first page.
    pub previous: Option<Cursor>,
    /// The beginning of the next page. `None` on the last page, and in the order of ids, where the last id is enough.
    pub next: Option<Cursor>,
}

/// An experiment in an ordered list.
#[derive(Debug, FromQueryResult)]
struct Ordered {
    id: i32,
    label: String,
    /// The time by which the list is ordered.
    at: Option<NaiveDateTime>,
}

/// Experiments in the requested order. Two or three statements, whatever the number of rows.
pub async fn experiments(
    ctx: &Context,
    snapshot: &Snapshot,
    totals: &Totals,
    query: &ExperimentQuery,
    window: Window,
) -> Result<ExperimentPage, DbErr> {
    let all = filtered(ctx, query, snapshot.get_database_backend());
    let unordered = ExperimentQuery {
        order: ExperimentOrder::Id,
        descending: false,
        from: None,
        direction: Direction::Forward,
        ..query.clone()
    };
    let key = format!("experiments {unordered:?}");
    if query.is_by_id() && query.from.is_none() {
        let columns = (experiment::Column::Id, experiment::Column::Label);
        let listed = list_named(ctx, snapshot, totals, &key, all, columns, window).await?;
        return Ok(ExperimentPage { listed, previous: None, next: None });
    }
    let mut rows: Vec<Ordered> = in_order(all.clone(), query, window).all(snapshot).await?;
    let more = window.cut(&mut rows);
    let (more_before, more_behind) = match (&query.from, query.direction) {
        (None, _) => (false, more),
        (Some(_), Direction::Forward) => (true, more),
        (Some(_), Direction::Backward) => {
            rows.reverse();
            (more, true)
        }
    };
    let previous = match rows.first() {
        Some(first) if more_before => Some(cursor_at(snapshot, query, first).await?),
        _ => None,
    };
    let next = match rows.last() {
        Some(last) if more_behind => Some(cursor_at(snapshot, query, last).await?),
        _ => None,
    };
    let rows: Vec<Named> = rows.into_iter().map(|row| Named { id: row.id, label: row.label }).collect();
    let window = Window { is_continued: query.from.is_some(), ..window };
    let listed = counted(ctx, snapshot, totals, &key, all, window, (rows, more_behind)).await?;
    Ok(ExperimentPage { listed, previous, next })
}

fn in_order(
    all: Select<experiment::Entity>,
    query: &ExperimentQuery,
    window: Window,
) -> sea_orm::Selector<sea_orm::SelectModel<Ordered>> {
    let column = |column: experiment::Column| Expr::col((experiment::Entity, column));
    let (id, label) = (column(experiment::Column::Id), column(experiment::Column::Label));
    let visible = query.from.as_ref().and_then(|cursor| cursor.visible.as_ref());
    let (key, at) = match query.order {
        ExperimentOrder::Id => (id.clone(), None),
        ExperimentOrder::Label => (label, None),
        ExperimentOrder::Scandate => (column(experiment::Column::Scandate), Some(column(experiment::Column::Scandate))),
        ExperimentOrder::StateSince => {
            let key = visible.map_or_else(|| column(experiment::Column::StateSince), VisibleActions::state_since);
            (key.clone(), Some(key))
        }
    };
    let descending = query.descending != (query.direction == Direction::Backward);
    let direction = if descending { sea_orm::Order::Desc } else { sea_orm::Order::Asc };
    let mut select = all;
    if let Some(cursor) = &query.from {
        select = select.filter(cursor.behind(&key, &id, descending));
    }
    // If the key is the id, it is named twice, which changes nothing.
    select = select.order_by(key, direction.clone()).order_by(id, direction);
    let select = windowed(select, experiment::Column::Id, window);
    let select = select.select_only().columns([experiment::Column::Id, experiment::Column::Label]);
    select.expr_as(at.unwrap_or_else(|| Expr::value(None::<NaiveDateTime>)), "at").into_model()
}

/// The cursor at this row.
async fn cursor_at(snapshot: &Snapshot, query: &ExperimentQuery, row: &Ordered) -> Result<Cursor, DbErr> {
    let key = match (query.order, row.at) {
        (ExperimentOrder::Label, _) => Key::Label(row.label.clone()),
        (_, Some(at)) => Key::At(at),
        (_, None) => Key::Id,
    };
    let visible = match (query.order, &query.from) {
        // Later pages keep the actions that the first page saw.
        (_, Some(cursor)) => cursor.visible.clone(),
        (ExperimentOrder::StateSince, None) => Some(VisibleActions::now(snapshot).await?),
        _ => None,
    };
    Ok(Cursor { order: query.order, descending: query.descending, key, id: row.id, visible })
}

fn filtered(ctx: &Context, query: &ExperimentQuery, backend: DbBackend) -> Select<experiment::Entity> {
    use experiment::Column;
    let mut all = match query.archived || query.filter.as_ref().is_some_and(Resolved::is_archived) {
        true => experiment::Entity::visible(ctx).filter(Column::ArchiveId.ne(0)),
        false => experiments_in_use(ctx),
    };
    let ids = [(Column::SubjectId, query.subject), (Column::WorkflowId, query.workflow)];
    for (column, id) in ids.into_iter().filter_map(|(column, id)| Some((column, id?))) {
        all = all.filter(column.eq(id));
    }
    if let Some(cohort) = query.cohort {
        let mut subjects = Query::select();
        subjects.column(subject::Column::Id).from(subject::Entity).and_where(subject::Column::CohortId.eq(cohort));
        all = all.filter(Column::SubjectId.in_subquery(subjects));
    }
    match query.states.as_deref() {
        // With `=` the index returns the rows in order.
        Some([state]) => all = all.filter(Column::StateId.eq(*state)),
        Some(states) => all = all.filter(Column::StateId.is_in(states.iter().copied())),
        None => {}
    }
    if let Some(text) = query.label.as_deref().filter(|text| !text.is_empty()) {
        all = all.filter(contains(Column::Label, text));
    }
    if let Some(at) = query.scandate {
        all = all.filter(Column::Scandate.eq(at));
    }
    let from = [(Column::Scandate, query.scandate_from), (Column::StateSince, query.state_since_from)];
    for (column, at) in from.into_iter().filter_map(|(column, at)| Some((column, at?))) {
        all = all.filter(column.gte(at));
    }
    let to = [(Column::Scandate, query.scandate_to), (Column::StateSince, query.state_since_to)];
    for (column, at) in to.into_iter().filter_map(|(column, at)| Some((column, at?))) {
        all = all.filter(column.lte(at));
    }
    if query.held {
        all = all.filter(Column::HeldSince.is_not_null());
    }
    for (name, value) in &query.variables {
        all = all.filter(Column::Id.in_subquery(with_variable(name, value)));
    }
    if let Some(filter) = &query.filter {
        all = all.filter(filter.condition(backend));
    }
    all
}

/// Experiments with this value of a variable, in the form of any type: `true` finds `True`, `3.50` finds `3.5`.
fn with_variable(name: &str, value: &str) -> sea_orm::sea_query::SelectStatement {
    let plain = |text: &str| text.replace('\0', "\u{fffd}");
    Query::select()
        .column(variable::Column::ExperimentId)
        .from(variable::Entity)
        .and_where(variable::Column::Label.eq(plain(name)))
        .and_where(Expr::col((variable::Entity, variable::Column::Value)).is_in(VariableValue::stored_texts(value)))
        .to_owned()
}

/// Subjects of one cohort or of all, by a part of the label. Two statements.
pub async fn subjects(
    ctx: &Context,
    snapshot: &Snapshot,
    totals: &Totals,
    cohort: Option<i32>,
    label: Option<&str>,
    archived: bool,
    window: Window,
) -> Result<Listed<Named>, DbErr> {
    use subject::Column;
    let mut all = match archived {
        true => subject::Entity::visible(ctx).filter(Column::ArchiveId.ne(0)),
        false => subjects_in_use(ctx),
    };
    if let Some(cohort) = cohort {
        all = all.filter(Column::CohortId.eq(cohort));
    }
    if let Some(text) = label.filter(|text| !text.is_empty()) {
        all = all.filter(contains(Column::Label, text));
    }
    let key = format!("subjects {cohort:?} {label:?} {archived}");
    list_named(ctx, snapshot, totals, &key, all, (Column::Id, Column::Label), window).await
}

/// Callback executions without logs and values, which may be megabytes each.
pub async fn executions(
    ctx: &Context,
    snapshot: &Snapshot,
    totals: &Totals,
    status: Option<ExecutionStatus>,
    result: Option<ExecutionResult>,
    callback: Option<i32>,
    window: Window,
) -> Result<Listed<callback_execution::Model>, DbErr> {
    use callback_execution::{Column, Entity};
    let mut all = Entity::visible(ctx);
    if let Some(status) = status {
        all = all.filter(Column::Status.eq(status));
    }
    if let Some(result) = result {
        all = all.filter(Column::Result.eq(result));
    }
    if let Some(callback) = callback {
        all = all.filter(Column::CallbackId.eq(callback));
    }
    let rows = without_logs(windowed(all.clone(), Column::Id, window).order_by_asc(Column::Id));
    let mut rows = rows.all(snapshot).await?;
    let more = window.cut(&mut rows);
    let key = format!("executions {status:?} {result:?} {callback:?}");
    counted(ctx, snapshot, totals, &key, all, window, (rows, more)).await
}

/// Dead letters.
pub async fn dead_letters(
    ctx: &Context,
    snapshot: &Snapshot,
    totals: &Totals,
    window: Window,
) -> Result<Listed<dead_letter::Model>, DbErr> {
    use dead_letter::Column;
    list(ctx, snapshot, totals, "dead letters", dead_letter::Entity::find(), Column::Id, window).await
}

/// External ids of subjects that are not archived.
#[must_use]
pub fn subject_links(ctx: &Context) -> Select<external_subject_links::Entity> {
    let column = external_subject_links::Column::SubjectId;
    external_subject_links::Entity::visible(ctx).filter(column.in_subquery(subject::Entity::ids_in_use()))
}

/// External ids of experiments that are not archived.
#[must_use]
pub fn experiment_links(ctx: &Context) -> Select<external_experiment_links::Entity> {
    let column = external_experiment_links::Column::ExperimentId;
    external_experiment_links::Entity::visible(ctx).filter(column.in_subquery(experiment::Entity::ids_in_use()))
}

/// Scans of experiments that are not archived.
#[must_use]
pub fn scans(ctx: &Context) -> Select<scan::Entity> {
    scan::Entity::visible(ctx).filter(scan::Column::ExperimentId.in_subquery(experiment::Entity::ids_in_use()))
}

/// Actions of one experiment or of all, without notes and times: there may be millions.
pub async fn actions(
    ctx: &Context,
    snapshot: &Snapshot,
    totals: &Totals,
    experiment: Option<i32>,
    window: Window,
) -> Result<Listed<ActionRow>, DbErr> {
    use action::{Column, Entity};
    let mut all = Entity::visible(ctx);
    if let Some(id) = experiment {
        all = all.filter(Column::ExperimentId.eq(id));
    }
    let rows = windowed(all.clone(), Column::Id, window).order_by_asc(Column::Id);
    let rows = rows.select_only().columns([Column::Id, Column::Success, Column::ReturnValue]);
    let mut rows: Vec<ActionRow> = rows.into_model().all(snapshot).await?;
    let more = window.cut(&mut rows);
    counted(ctx, snapshot, totals, &format!("actions {experiment:?}"), all, window, (rows, more)).await
}

/// An action in a list.
#[derive(Debug, Clone, FromQueryResult)]
pub struct ActionRow {
    pub id: i32,
    pub success: bool,
    pub return_value: Option<String>,
}
