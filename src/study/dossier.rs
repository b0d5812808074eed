//! Read model of the experiment page.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, Iterable, QueryFilter, QueryOrder, QuerySelect, Select,
};
use serde::Serialize;

use crate::context::Context;
use crate::entity::kind::ExecutionStatus;
use crate::entity::{
    action, callback, callback_execution, cohort, experiment, external_experiment_links, external_system, scan,
    scantype, state, subject, transition, workflow,
};

use super::Visible;
use super::recent::user_names;
use super::variable::variables_of;

/// All data of one experiment.
#[derive(Debug, Clone, Serialize)]
pub struct Dossier {
    pub id: i32,
    pub label: String,
    pub scandate: chrono::NaiveDateTime,
    pub version: i32,
    pub state_id: i32,
    pub state: String,
    pub state_text: Option<String>,
    pub state_since: chrono::NaiveDateTime,
    pub workflow_id: i32,
    pub workflow: String,
    pub subject_id: i32,
    pub subject: String,
    pub date_of_birth: Option<chrono::NaiveDate>,
    pub cohort_id: i32,
    pub cohort: String,
    #[serde(serialize_with = "super::json::plain_pairs")]
    pub variables: Vec<(String, serde_json::Value)>,
    pub scans: Vec<ScanCount>,
    pub external_ids: BTreeMap<String, String>,
    /// Newest first.
    pub history: Vec<HistoryEntry>,
    /// Set when a user archived it.
    pub archived: Option<Archived>,
    /// Set while it is on hold because it moved too often.
    pub held: Option<Held>,
}

/// Since when and why an experiment is on hold.
#[derive(Debug, Clone, Serialize)]
pub struct Held {
    pub since: chrono::NaiveDateTime,
    pub reason: String,
}

impl Held {
    /// The hold of an experiment, if it is on hold.
    #[must_use]
    pub fn of(experiment: &experiment::Model) -> Option<Self> {
        let since = experiment.held_since?;
        Some(Self { since, reason: experiment.held_reason.clone().unwrap_or_default() })
    }
}

/// Time, user and reason of an archiving.
#[derive(Debug, Clone, Serialize)]
pub struct Archived {
    pub at: Option<chrono::NaiveDateTime>,
    pub by: Option<String>,
    pub reason: Option<String>,
}

/// The number of scans of one type.
#[derive(Debug, Clone, Serialize)]
pub struct ScanCount {
    pub modality: String,
    pub protocol: String,
    pub count: usize,
}

/// One action with the executions that it requested.
#[derive(Debug, Clone, Serialize)]
pub struct HistoryEntry {
    pub id: i32,
    pub from: String,
    pub to: String,
    pub start_time: chrono::NaiveDateTime,
    pub end_time: Option<chrono::NaiveDateTime>,
    pub success: bool,
    pub freetext: Option<String>,
    pub return_value: Option<String>,
    pub user: Option<String>,
    pub origin: String,
    pub is_last: bool,
    pub executions: Vec<ExecutionEntry>,
}

/// One callback execution.
#[derive(Debug, Clone, Serialize)]
pub struct ExecutionEntry {
    pub id: i32,
    pub callback: String,
    pub function: String,
    pub description: Option<String>,
    pub status: String,
    pub result: String,
    pub is_resolved: bool,
    pub attempt: i32,
    pub worker: Option<String>,
    pub created: chrono::NaiveDateTime,
    pub run_start: Option<chrono::NaiveDateTime>,
    pub wait_start: Option<chrono::NaiveDateTime>,
    pub finished: Option<chrono::NaiveDateTime>,
    pub deadline: Option<chrono::NaiveDateTime>,
    pub available_at: chrono::NaiveDateTime,
    pub run_log: Option<String>,
    pub result_log: Option<String>,
    pub result_values: Option<String>,
}

impl Dossier {
    /// Whether the experiment may change automatically: its last action has not ended, or has open callbacks. The last action of an
    /// experiment on hold ends when a person releases it.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        let last = self.history.iter().find(|entry| entry.is_last).filter(|_| self.archived.is_none());
        last.is_some_and(|entry| {
            (entry.end_time.is_none() && self.held.is_none())
                || entry.executions.iter().any(|execution| !execution.is_resolved)
        })
    }

    /// Reads the experiment with this id.
    pub async fn find(ctx: &Context, connection: &impl ConnectionTrait, id: i32) -> Result<Option<Self>, DbErr> {
        match experiment::Entity::visible_by_id(ctx, id).one(connection).await? {
            Some(experiment) => Self::of(ctx, connection, experiment).await,
            None => Ok(None),
        }
    }

    /// Reads the related data of an experiment from the snapshot that the experiment came from.
    pub async fn of(
        ctx: &Context,
        connection: &impl ConnectionTrait,
        experiment: experiment::Model,
    ) -> Result<Option<Self>, DbErr> {
        let id = experiment.id;
        let subject = subject::Entity::visible_by_id(ctx, experiment.subject_id).find_also_related(cohort::Entity);
        let Some((subject, Some(cohort))) = subject.one(connection).await? else { return Ok(None) };
        let state = state::Entity::find_by_id(experiment.state_id).find_also_related(workflow::Entity);
        let Some((state, Some(workflow))) = state.one(connection).await? else { return Ok(None) };
        let variables = variables_of(ctx, connection, id).await?;
        Ok(Some(Self {
            history: history(ctx, connection, &experiment).await?,
            archived: (experiment.archive_id != 0).then(|| Archived {
                at: experiment.archived_at,
                by: experiment.archived_by.clone(),
                reason: experiment.archived_reason.clone(),
            }),
            held: Held::of(&experiment),
            scans: scans(ctx, connection, id).await?,
            external_ids: external_ids(ctx, connection, id).await?,
            variables: variables.into_iter().map(|(label, value)| (label, value.to_json())).collect(),
            id,
            label: experiment.label,
            scandate: experiment.scandate,
            version: experiment.version,
            state_id: state.id,
            state: state.label,
            state_text: state.freetext,
            state_since: experiment.state_since,
            workflow_id: workflow.id,
            workflow: workflow.label,
            subject_id: subject.id,
            subject: subject.label,
            date_of_birth: subject.date_of_birth,
            cohort_id: cohort.id,
            cohort: cohort.label,
        }))
    }
}

async fn scans(ctx: &Context, connection: &impl ConnectionTrait, experiment_id: i32) -> Result<Vec<ScanCount>, DbErr> {
    let scans = scan::Entity::visible(ctx)
        .filter(scan::Column::ExperimentId.eq(experiment_id))
        .find_also_related(scantype::Entity)
        .all(connection)
        .await?;
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for (_, scantype) in scans {
        let Some(scantype) = scantype else { continue };
        *counts.entry((scantype.modality, scantype.protocol)).or_default() += 1;
    }
    let row = |((modality, protocol), count)| ScanCount { modality, protocol, count };
    Ok(counts.into_iter().map(row).collect())
}

async fn external_ids(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    experiment_id: i32,
) -> Result<BTreeMap<String, String>, DbErr> {
    let links = external_experiment_links::Entity::visible(ctx)
        .filter(external_experiment_links::Column::ExperimentId.eq(experiment_id))
        .find_also_related(external_system::Entity)
        .all(connection)
        .await?;
    Ok(links.into_iter().filter_map(|(link, system)| Some((system?.system_name, link.external_id))).collect())
}

async fn history(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    experiment: &experiment::Model,
) -> Result<Vec<HistoryEntry>, DbErr> {
    let actions = action::Entity::visible(ctx)
        .filter(action::Column::ExperimentId.eq(experiment.id))
        .order_by_desc(action::Column::Id)
        .all(connection)
        .await?;
    let ids = actions.iter().map(|action| action.transition_id);
    let transitions = transition::Entity::find().filter(transition::Column::Id.is_in(ids)).all(connection).await?;
    let ends: HashMap<i32, (i32, i32)> =
        transitions.iter().map(|row| (row.id, (row.source_state_id, row.destination_state_id))).collect();
    let labels =
        state::Entity::find().filter(state::Column::WorkflowId.eq(experiment.workflow_id)).all(connection).await?;
    let labels: HashMap<i32, String> = labels.into_iter().map(|row| (row.id, row.label)).collect();
    let users = user_names(connection, actions.iter().filter_map(|action| action.user_id)).await?;
    let mut executions = executions(ctx, connection, &actions).await?;
    let label = |id: i32| labels.get(&id).cloned().unwrap_or_default();
    let entry = |action: action::Model| {
        let (from, to) = ends.get(&action.transition_id).copied().unwrap_or_default();
        HistoryEntry {
            is_last: experiment.last_action_id == Some(action.id),
            executions: executions.remove(&action.id).unwrap_or_default(),
            from: label(from),
            to: label(to),
            user: action.user_id.and_then(|id| users.get(&id).cloned()),
            origin: action.origin.to_string(),
            id: action.id,
            start_time: action.start_time,
            end_time: action.end_time,
            success: action.success,
            freetext: action.freetext,
            return_value: action.return_value,
        }
    };
    Ok(actions.into_iter().map(entry).collect())
}

async fn executions(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    actions: &[action::Model],
) -> Result<HashMap<i32, Vec<ExecutionEntry>>, DbErr> {
    // The page requests this every two seconds.
    let rows = without_logs(callback_execution::Entity::visible(ctx))
        .filter(callback_execution::Column::ActionId.is_in(actions.iter().map(|action| action.id)))
        .order_by_asc(callback_execution::Column::Id)
        .all(connection)
        .await?;
    let ids: BTreeSet<i32> = rows.iter().map(|row| row.callback_id).collect();
    let callbacks = callback::Entity::find().filter(callback::Column::Id.is_in(ids)).all(connection).await?;
    let callbacks: HashMap<i32, callback::Model> = callbacks.into_iter().map(|row| (row.id, row)).collect();
    let newest = rows.iter().rev().take(SHOWN_LOGS).map(|row| row.id);
    let mut logs = last_of_logs(ctx, connection, newest).await?;
    let mut executions: HashMap<i32, Vec<ExecutionEntry>> = HashMap::new();
    for mut execution in rows {
        let Some(callback) = callbacks.get(&execution.callback_id).cloned() else { continue };
        execution.run_log = logs.remove(&execution.id);
        executions.entry(execution.action_id).or_default().push(execution_entry(execution, callback));
    }
    Ok(executions)
}

/// Executions without logs and values, which may be megabytes each.
pub(super) fn without_logs(all: Select<callback_execution::Entity>) -> Select<callback_execution::Entity> {
    let nothing = || Expr::value(None::<String>);
    all.select_only()
        .columns(callback_execution::Column::iter().filter(|column| !is_large(*column)))
        .expr_as(nothing(), "run_log")
        .expr_as(nothing(), "result_log")
        .expr_as(nothing(), "result_values")
}

fn is_large(column: callback_execution::Column) -> bool {
    use callback_execution::Column::{ResultLog, ResultValues, RunLog};
    matches!(column, RunLog | ResultLog | ResultValues)
}

/// Number of executions, the newest ones, whose logs the experiment page shows. The others have pages of their own.
const SHOWN_LOGS: usize = 6;

/// Number of characters of a log that the page shows, from its end.
const SHOWN_CHARACTERS: usize = 4000;

async fn last_of_logs(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    ids: impl Iterator<Item = i32>,
) -> Result<HashMap<i32, String>, DbErr> {
    let logs: Vec<(i32, Option<String>)> = callback_execution::Entity::visible(ctx)
        .select_only()
        .columns([callback_execution::Column::Id, callback_execution::Column::RunLog])
        .filter(callback_execution::Column::Id.is_in(ids))
        .into_tuple()
        .all(connection)
        .await?;
    let last = |log: String| {
        let count = log.chars().count();
        if count <= SHOWN_CHARACTERS {
            return log;
        }
        let tail: String = log.chars().skip(count - SHOWN_CHARACTERS).collect();
        format!("[… the run page shows the full log …]\n{tail}")
    };
    Ok(logs.into_iter().filter_map(|(id, log)| Some((id, last(log?)))).collect())
}

/// An execution as pages show it.
#[must_use]
pub fn execution_entry(execution: callback_execution::Model, callback: callback::Model) -> ExecutionEntry {
    ExecutionEntry {
        id: execution.id,
        callback: callback.label,
        function: callback.function,
        description: callback.description,
        is_resolved: ExecutionStatus::is_resolved(execution.status),
        status: execution.status.to_string(),
        result: execution.result.to_string(),
        attempt: execution.attempt,
        worker: execution.worker,
        created: execution.created,
        run_start: execution.run_start,
        wait_start: execution.wait_start,
        finished: execution.finished,
        deadline: execution.deadline,
        available_at: execution.available_at,
        run_log: execution.run_log,
        result_log: execution.result_log,
        result_values: execution.result_values,
    }
}
