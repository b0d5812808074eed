//! Single resources with their related rows, for the API. Each takes a few statements, whatever the size of the study.

use std::collections::BTreeMap;

use chrono::NaiveDateTime;
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Select};
use serde_json::Value;

use crate::context::Context;
use crate::entity::{
    action, callback, callback_execution, cohort, experiment, external_cohort_urls, external_experiment_links,
    external_subject_links, external_system, scan, scantype, state, subject, transition, workflow,
};

use super::listing::{Named, named};
use super::variable::variables_of;
use super::visible::{Visible, experiments_in_use, subjects_in_use};

/// Texts by the name of the external system.
pub type BySystem = BTreeMap<String, String>;

/// A cohort with its subjects.
#[derive(Debug, Clone)]
pub struct CohortRecord {
    pub row: cohort::Model,
    pub external_urls: BySystem,
    pub subjects: Vec<Named>,
}

/// A subject with its experiments.
#[derive(Debug, Clone)]
pub struct SubjectRecord {
    pub row: subject::Model,
    pub cohort: Named,
    pub external_ids: BySystem,
    pub experiments: Vec<Named>,
}

/// An experiment with its variables.
#[derive(Debug, Clone)]
pub struct ExperimentRecord {
    pub row: experiment::Model,
    pub subject: Named,
    pub state: Named,
    pub external_ids: BySystem,
    pub variables: BTreeMap<String, Value>,
}

/// A state with the experiments in it.
#[derive(Debug, Clone)]
pub struct StateRecord {
    pub row: state::Model,
    pub workflow: Named,
    pub callbacks: Vec<Named>,
    pub experiments: Vec<Named>,
}

/// A transition with its source and destination.
#[derive(Debug, Clone)]
pub struct TransitionRecord {
    pub row: transition::Model,
    pub source: Named,
    pub destination: Named,
}

/// An action with its callback executions.
#[derive(Debug, Clone)]
pub struct ActionRecord {
    pub row: action::Model,
    pub experiment: Named,
    pub executions: Vec<i32>,
}

/// A callback with its executions.
#[derive(Debug, Clone)]
pub struct CallbackRecord {
    pub row: callback::Model,
    pub state: Named,
    pub executions: Vec<i32>,
}

/// All data that a callback may need for a run.
#[derive(Debug, Clone)]
pub struct ExecutionRecord {
    pub row: callback_execution::Model,
    pub callback: CallbackRecord,
    pub cohort: CohortRecord,
    pub subject: SubjectRecord,
    pub experiment: ExperimentRecord,
    pub action: ActionRecord,
    /// URLs by the name of the system.
    pub external_systems: BySystem,
}

/// A scan with its type and experiment.
#[derive(Debug, Clone)]
pub struct ScanRecord {
    pub id: i32,
    pub experiment: Named,
    pub scantype: scantype::Model,
}

/// An external id of a subject or an experiment.
#[derive(Debug, Clone)]
pub struct LinkRecord {
    pub id: i32,
    pub target: Named,
    pub system: external_system::Model,
    pub external_id: String,
}

/// Maximum number of subjects of the cohort, and of executions of the callback, in the record of an execution: the newest ones. A worker
/// requests the record for each run; a whole cohort would be megabytes each time.
pub const MOST_NAMED: u64 = 1000;

pub async fn cohort(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    row: cohort::Model,
    most: Option<u64>,
) -> Result<CohortRecord, DbErr> {
    let mut subjects = subjects_in_use(ctx).filter(subject::Column::CohortId.eq(row.id));
    if let Some(most) = most {
        subjects = subjects.order_by_desc(subject::Column::Id).limit(most);
    }
    let subjects = subjects_of_cohort(connection, subjects).await?;
    Ok(CohortRecord { external_urls: cohort_urls(ctx, connection, row.id).await?, subjects, row })
}

/// The subjects of a cohort in the order of version 8.1: in the order of registration, followed by those changed since, in the order of
/// the changes.
pub async fn subjects_of_cohort(
    connection: &impl ConnectionTrait,
    subjects: Select<subject::Entity>,
) -> Result<Vec<Named>, DbErr> {
    let mut rows: Vec<(i32, String, Option<NaiveDateTime>)> = subjects
        .select_only()
        .columns([subject::Column::Id, subject::Column::Label, subject::Column::UpdatedAt])
        .into_tuple()
        .all(connection)
        .await?;
    rows.sort_by_key(|(id, _, updated_at)| (*updated_at, *id));
    Ok(rows.into_iter().map(|(id, label, _)| Named { id, label }).collect())
}

/// URLs of a cohort in external systems.
pub async fn cohort_urls(ctx: &Context, connection: &impl ConnectionTrait, cohort_id: i32) -> Result<BySystem, DbErr> {
    let rows = external_cohort_urls::Entity::visible(ctx)
        .filter(external_cohort_urls::Column::CohortId.eq(cohort_id))
        .find_also_related(external_system::Entity)
        .all(connection)
        .await?;
    Ok(rows.into_iter().filter_map(|(link, system)| Some((system?.system_name, link.url))).collect())
}

/// The ids of a subject in external systems.
pub async fn subject_ids(ctx: &Context, connection: &impl ConnectionTrait, subject_id: i32) -> Result<BySystem, DbErr> {
    let rows = external_subject_links::Entity::visible(ctx)
        .filter(external_subject_links::Column::SubjectId.eq(subject_id))
        .find_also_related(external_system::Entity)
        .all(connection)
        .await?;
    Ok(rows.into_iter().filter_map(|(link, system)| Some((system?.system_name, link.external_id))).collect())
}

/// The ids of an experiment in external systems.
pub async fn experiment_ids(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    experiment_id: i32,
) -> Result<BySystem, DbErr> {
    let rows = external_experiment_links::Entity::visible(ctx)
        .filter(external_experiment_links::Column::ExperimentId.eq(experiment_id))
        .find_also_related(external_system::Entity)
        .all(connection)
        .await?;
    Ok(rows.into_iter().filter_map(|(link, system)| Some((system?.system_name, link.external_id))).collect())
}

pub async fn subject(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    row: subject::Model,
) -> Result<SubjectRecord, DbErr> {
    let cohort = one(connection, cohort::Entity::visible_by_id(ctx, row.cohort_id)).await?;
    Ok(SubjectRecord {
        cohort: Named { id: cohort.id, label: cohort.label },
        external_ids: subject_ids(ctx, connection, row.id).await?,
        experiments: experiments_of(ctx, connection, row.id).await?,
        row,
    })
}

/// The experiments of a subject, oldest first.
pub async fn experiments_of(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    subject_id: i32,
) -> Result<Vec<Named>, DbErr> {
    let experiments = experiments_in_use(ctx)
        .filter(experiment::Column::SubjectId.eq(subject_id))
        .order_by_asc(experiment::Column::Id);
    named(experiments, (experiment::Column::Id, experiment::Column::Label), connection).await
}

pub async fn experiment(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    row: experiment::Model,
) -> Result<ExperimentRecord, DbErr> {
    let subject = one(connection, subject::Entity::visible_by_id(ctx, row.subject_id)).await?;
    let state = one(connection, state::Entity::find_by_id(row.state_id)).await?;
    let variables = variables_of(ctx, connection, row.id).await?;
    Ok(ExperimentRecord {
        subject: Named { id: subject.id, label: subject.label },
        state: Named { id: state.id, label: state.label },
        external_ids: experiment_ids(ctx, connection, row.id).await?,
        variables: variables.into_iter().map(|(label, value)| (label, value.to_json())).collect(),
        row,
    })
}

pub async fn state(ctx: &Context, connection: &impl ConnectionTrait, row: state::Model) -> Result<StateRecord, DbErr> {
    let workflow = one(connection, workflow::Entity::find_by_id(row.workflow_id)).await?;
    let callbacks = callback::Entity::find()
        .filter(callback::Column::StateId.eq(row.id))
        .order_by_asc(callback::Column::Position)
        .order_by_asc(callback::Column::Id);
    Ok(StateRecord {
        workflow: Named { id: workflow.id, label: workflow.label },
        callbacks: named(callbacks, (callback::Column::Id, callback::Column::Label), connection).await?,
        experiments: experiments_in(ctx, connection, row.id).await?,
        row,
    })
}

/// The experiments in a state, oldest first.
pub async fn experiments_in(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    state_id: i32,
) -> Result<Vec<Named>, DbErr> {
    let experiments =
        experiments_in_use(ctx).filter(experiment::Column::StateId.eq(state_id)).order_by_asc(experiment::Column::Id);
    named(experiments, (experiment::Column::Id, experiment::Column::Label), connection).await
}

pub async fn transition(connection: &impl ConnectionTrait, row: transition::Model) -> Result<TransitionRecord, DbErr> {
    let source = one(connection, state::Entity::find_by_id(row.source_state_id)).await?;
    let destination = one(connection, state::Entity::find_by_id(row.destination_state_id)).await?;
    Ok(TransitionRecord {
        source: Named { id: source.id, label: source.label },
        destination: Named { id: destination.id, label: destination.label },
        row,
    })
}

pub async fn action(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    row: action::Model,
) -> Result<ActionRecord, DbErr> {
    let experiment = one(connection, experiment::Entity::visible_by_id(ctx, row.experiment_id)).await?;
    let executions: Vec<i32> = callback_execution::Entity::visible(ctx)
        .select_only()
        .column(callback_execution::Column::Id)
        .filter(callback_execution::Column::ActionId.eq(row.id))
        .order_by_asc(callback_execution::Column::Id)
        .into_tuple()
        .all(connection)
        .await?;
    Ok(ActionRecord { experiment: Named { id: experiment.id, label: experiment.label }, executions, row })
}

pub async fn callback(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    row: callback::Model,
    most: Option<u64>,
) -> Result<CallbackRecord, DbErr> {
    let state = one(connection, state::Entity::find_by_id(row.state_id)).await?;
    let executions = callback_execution::Entity::visible(ctx)
        .select_only()
        .column(callback_execution::Column::Id)
        .filter(callback_execution::Column::CallbackId.eq(row.id));
    let executions = match most {
        Some(most) => executions.order_by_desc(callback_execution::Column::Id).limit(most),
        None => executions.order_by_asc(callback_execution::Column::Id),
    };
    let mut executions: Vec<i32> = executions.into_tuple().all(connection).await?;
    executions.sort_unstable();
    Ok(CallbackRecord { state: Named { id: state.id, label: state.label }, executions, row })
}

pub async fn execution(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    row: callback_execution::Model,
) -> Result<ExecutionRecord, DbErr> {
    let callback_row = one(connection, callback::Entity::find_by_id(row.callback_id)).await?;
    let action_row = one(connection, action::Entity::visible_by_id(ctx, row.action_id)).await?;
    let experiment_row = one(connection, experiment::Entity::visible_by_id(ctx, action_row.experiment_id)).await?;
    let subject_row = one(connection, subject::Entity::visible_by_id(ctx, experiment_row.subject_id)).await?;
    let cohort_row = one(connection, cohort::Entity::visible_by_id(ctx, subject_row.cohort_id)).await?;
    let systems = external_system::Entity::find().all(connection).await?;
    Ok(ExecutionRecord {
        callback: callback(ctx, connection, callback_row, Some(MOST_NAMED)).await?,
        cohort: cohort(ctx, connection, cohort_row, Some(MOST_NAMED)).await?,
        subject: subject(ctx, connection, subject_row).await?,
        experiment: experiment(ctx, connection, experiment_row).await?,
        action: action(ctx, connection, action_row).await?,
        external_systems: systems.into_iter().map(|system| (system.system_name, system.url)).collect(),
        row,
    })
}

/// Scans with their types and experiments; two statements for all of them.
pub async fn scans(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    rows: Vec<scan::Model>,
) -> Result<Vec<ScanRecord>, DbErr> {
    let experiments = labels(
        connection,
        experiment::Entity::visible(ctx),
        (experiment::Column::Id, experiment::Column::Label),
        rows.iter().map(|row| row.experiment_id),
    )
    .await?;
    let scantypes = scantype::Entity::find().all(connection).await?;
    let record = |row: scan::Model| {
        let scantype = scantypes.iter().find(|scantype| scantype.id == row.scantype_id)?.clone();
        let label = experiments.get(&row.experiment_id)?.clone();
        Some(ScanRecord { id: row.id, experiment: Named { id: row.experiment_id, label }, scantype })
    };
    Ok(rows.into_iter().filter_map(record).collect())
}

/// External ids of subjects with the subjects and systems; two statements for all of them.
pub async fn subject_links(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    rows: Vec<external_subject_links::Model>,
) -> Result<Vec<LinkRecord>, DbErr> {
    let columns = (subject::Column::Id, subject::Column::Label);
    let ids = rows.iter().map(|row| row.subject_id);
    let subjects = labels(connection, subject::Entity::visible(ctx), columns, ids).await?;
    let systems = external_system::Entity::find().all(connection).await?;
    let record = |row: external_subject_links::Model| {
        let target = Named { id: row.subject_id, label: subjects.get(&row.subject_id)?.clone() };
        let system = systems.iter().find(|system| system.id == row.external_system_id)?.clone();
        Some(LinkRecord { id: row.id, target, system, external_id: row.external_id })
    };
    Ok(rows.into_iter().filter_map(record).collect())
}

/// External ids of experiments with the experiments and systems; two statements for all of them.
pub async fn experiment_links(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    rows: Vec<external_experiment_links::Model>,
) -> Result<Vec<LinkRecord>, DbErr> {
    let columns = (experiment::Column::Id, experiment::Column::Label);
    let ids = rows.iter().map(|row| row.experiment_id);
    let experiments = labels(connection, experiment::Entity::visible(ctx), columns, ids).await?;
    let systems = external_system::Entity::find().all(connection).await?;
    let record = |row: external_experiment_links::Model| {
        let target = Named { id: row.experiment_id, label: experiments.get(&row.experiment_id)?.clone() };
        let system = systems.iter().find(|system| system.id == row.external_system_id)?.clone();
        Some(LinkRecord { id: row.id, target, system, external_id: row.external_id })
    };
    Ok(rows.into_iter().filter_map(record).collect())
}

/// Number of ids in one statement: databases limit the number of values.
const CHUNK: usize = 5000;

/// Labels by id.
async fn labels<E: EntityTrait>(
    connection: &impl ConnectionTrait,
    all: Select<E>,
    columns: (E::Column, E::Column),
    ids: impl Iterator<Item = i32>,
) -> Result<BTreeMap<i32, String>, DbErr> {
    let mut ids: Vec<i32> = ids.collect();
    ids.sort_unstable();
    ids.dedup();
    let mut labels = BTreeMap::new();
    for chunk in ids.chunks(CHUNK) {
        let rows = all.clone().filter(columns.0.is_in(chunk.iter().copied()));
        labels.extend(named(rows, columns, connection).await?.into_iter().map(|row| (row.id, row.label)));
    }
    Ok(labels)
}

/// Reads a row that another row refers to, which therefore exists.
async fn one<E: EntityTrait>(connection: &impl ConnectionTrait, select: Select<E>) -> Result<E::Model, DbErr> {
    select.one(connection).await?.ok_or_else(|| DbErr::RecordNotFound("a row that is referred to".to_owned()))
}
