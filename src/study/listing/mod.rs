//! Whole lists and windows of them, with their totals, for programs.

mod window;

use chrono::NaiveDateTime;
use sea_orm::sea_query::{Expr, ExprTrait, Query};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect, Select};

use crate::database::{Database, contains};
use crate::entity::kind::{ExecutionResult, ExecutionStatus};
use crate::entity::{
    action, callback_execution, dead_letter, experiment, external_experiment_links, external_subject_links, scan,
    subject, variable,
};

pub use window::{Listed, Named, Totals, Window, list, list_named, named};
use window::{total, windowed};

use super::VariableValue;
use super::dossier::without_logs;
use super::visible::{Visible, experiments_in_use, subjects_in_use};

/// In which order experiments are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExperimentOrder {
    #[default]
    Id,
    Label,
    Scandate,
    StateSince,
}

/// Which experiments, for programs.
#[derive(Debug, Clone, Default)]
pub struct ExperimentQuery {
    pub cohort: Option<i32>,
    pub subject: Option<i32>,
    pub workflow: Option<i32>,
    /// In any of these states.
    pub states: Option<Vec<i32>>,
    /// Part of the label, in any case.
    pub label: Option<String>,
    pub scandate: Option<NaiveDateTime>,
    pub scandate_from: Option<NaiveDateTime>,
    /// Included.
    pub scandate_to: Option<NaiveDateTime>,
    pub state_since_from: Option<NaiveDateTime>,
    /// Included.
    pub state_since_to: Option<NaiveDateTime>,
    /// Names and values of variables, as they are written.
    pub variables: Vec<(String, String)>,
    /// The archived ones in place of those in use.
    pub archived: bool,
    pub order: ExperimentOrder,
    pub descending: bool,
}

impl ExperimentQuery {
    /// Whether the list is in the order of ids, so that a page may begin after one.
    #[must_use]
    pub fn is_by_id(&self) -> bool {
        self.order == ExperimentOrder::Id && !self.descending
    }
}

/// Experiments in the order that is asked for. Two statements, whatever the number of rows.
///
/// # Errors
/// When the database cannot be read.
pub async fn experiments(
    database: &Database,
    totals: &Totals,
    query: &ExperimentQuery,
    window: Window,
) -> Result<Listed<Named>, DbErr> {
    let all = filtered(query);
    let id = experiment::Column::Id;
    let direction = if query.descending { sea_orm::Order::Desc } else { sea_orm::Order::Asc };
    let mut select = windowed(all.clone(), id, window);
    select = match query.order {
        ExperimentOrder::Id => select,
        ExperimentOrder::Label => select.order_by(experiment::Column::Label, direction.clone()),
        ExperimentOrder::Scandate => select.order_by(experiment::Column::Scandate, direction.clone()),
        ExperimentOrder::StateSince => select.order_by(experiment::Column::StateSince, direction.clone()),
    };
    let rows = named(select.order_by(id, direction), (id, experiment::Column::Label), database.reader()).await?;
    let unordered = ExperimentQuery { order: ExperimentOrder::Id, descending: false, ..query.clone() };
    let key = format!("experiments {unordered:?}");
    let count = total(database, totals, &key, all, window, rows.len()).await?;
    Ok(Listed { rows, count })
}

fn filtered(query: &ExperimentQuery) -> Select<experiment::Entity> {
    use experiment::Column;
    let mut all = match query.archived {
        true => experiment::Entity::visible().filter(Column::ArchiveId.ne(0)),
        false => experiments_in_use(),
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
        // With `=`, so that the index gives the rows in their order.
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
    for (name, value) in &query.variables {
        all = all.filter(Column::Id.in_subquery(with_variable(name, value)));
    }
    all
}

/// Experiments whose variable has this value, however its type writes it: `true` finds `True`, `3.50` finds `3.5`.
fn with_variable(name: &str, value: &str) -> sea_orm::sea_query::SelectStatement {
    let plain = |text: &str| text.replace('\0', "\u{fffd}");
    let (_, typed) = VariableValue::from_cell(value).pack();
    Query::select()
        .column(variable::Column::ExperimentId)
        .from(variable::Entity)
        .and_where(variable::Column::Label.eq(plain(name)))
        .and_where(Expr::col((variable::Entity, variable::Column::Value)).is_in([plain(value), plain(&typed)]))
        .to_owned()
}

/// Subjects of a cohort or of all, with part of the label. Two statements.
///
/// # Errors
/// When the database cannot be read.
pub async fn subjects(
    database: &Database,
    totals: &Totals,
    cohort: Option<i32>,
    label: Option<&str>,
    archived: bool,
    window: Window,
) -> Result<Listed<Named>, DbErr> {
    use subject::Column;
    let mut all = match archived {
        true => subject::Entity::visible().filter(Column::ArchiveId.ne(0)),
        false => subjects_in_use(),
    };
    if let Some(cohort) = cohort {
        all = all.filter(Column::CohortId.eq(cohort));
    }
    if let Some(text) = label.filter(|text| !text.is_empty()) {
        all = all.filter(contains(Column::Label, text));
    }
    let key = format!("subjects {cohort:?} {label:?} {archived}");
    list_named(database, totals, &key, all, (Column::Id, Column::Label), window).await
}

/// Callback executions without their logs and values, which may be megabytes each.
///
/// # Errors
/// When the database cannot be read.
pub async fn executions(
    database: &Database,
    totals: &Totals,
    status: Option<ExecutionStatus>,
    result: Option<ExecutionResult>,
    callback: Option<i32>,
    window: Window,
) -> Result<Listed<callback_execution::Model>, DbErr> {
    use callback_execution::{Column, Entity};
    let mut all = Entity::visible();
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
    let rows = rows.all(database.reader()).await?;
    let key = format!("executions {status:?} {result:?} {callback:?}");
    let count = total(database, totals, &key, all, window, rows.len()).await?;
    Ok(Listed { rows, count })
}

/// Messages that came to nothing.
///
/// # Errors
/// When the database cannot be read.
pub async fn dead_letters(
    database: &Database,
    totals: &Totals,
    window: Window,
) -> Result<Listed<dead_letter::Model>, DbErr> {
    use dead_letter::Column;
    let all = dead_letter::Entity::find();
    let rows = windowed(all.clone(), Column::Id, window).order_by_asc(Column::Id).all(database.reader()).await?;
    let count = total(database, totals, "dead letters", all, window, rows.len()).await?;
    Ok(Listed { rows, count })
}

/// The ids that external systems have for subjects that are not archived.
#[must_use]
pub fn subject_links() -> Select<external_subject_links::Entity> {
    let column = external_subject_links::Column::SubjectId;
    external_subject_links::Entity::visible().filter(column.in_subquery(subject::Entity::ids_in_use()))
}

/// The same of experiments.
#[must_use]
pub fn experiment_links() -> Select<external_experiment_links::Entity> {
    let column = external_experiment_links::Column::ExperimentId;
    external_experiment_links::Entity::visible().filter(column.in_subquery(experiment::Entity::ids_in_use()))
}

/// Scans of experiments that are not archived.
#[must_use]
pub fn scans() -> Select<scan::Entity> {
    scan::Entity::visible().filter(scan::Column::ExperimentId.in_subquery(experiment::Entity::ids_in_use()))
}

/// Actions without their notes and times, of one experiment or of all: there may be millions.
///
/// # Errors
/// When the database cannot be read.
pub async fn actions(
    database: &Database,
    totals: &Totals,
    experiment: Option<i32>,
    window: Window,
) -> Result<Listed<ActionRow>, DbErr> {
    use action::{Column, Entity};
    let mut all = Entity::visible();
    if let Some(id) = experiment {
        all = all.filter(Column::ExperimentId.eq(id));
    }
    let rows = windowed(all.clone(), Column::Id, window).order_by_asc(Column::Id);
    let rows = rows.select_only().columns([Column::Id, Column::Success, Column::ReturnValue]);
    let rows: Vec<ActionRow> = rows.into_model().all(database.reader()).await?;
    let count = total(database, totals, &format!("actions {experiment:?}"), all, window, rows.len()).await?;
    Ok(Listed { rows, count })
}

/// An action in a list.
#[derive(Debug, Clone, FromQueryResult)]
pub struct ActionRow {
    pub id: i32,
    pub success: bool,
    pub return_value: Option<String>,
}
