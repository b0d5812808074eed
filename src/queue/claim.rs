//! Claims, leases and heartbeats in the database (Q3).

use chrono::{NaiveDateTime, TimeDelta};
use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect,
};
use serde_json::{Map, Value, json};

use crate::entity::callback_execution::{Column, Entity};
use crate::entity::kind::ExecutionStatus;
use crate::entity::{action, callback, callback_execution, cohort, experiment, external_system, subject};

use super::Assignment;

/// An execution that may be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromQueryResult)]
pub struct Available {
    pub id: i32,
    pub attempt: i32,
}

/// The executions that wait for a worker, those that wait longest first.
///
/// # Errors
/// When the database cannot be read.
pub async fn available(
    connection: &impl ConnectionTrait,
    now: NaiveDateTime,
    limit: u64,
) -> Result<Vec<Available>, DbErr> {
    Entity::find()
        .select_only()
        .columns([Column::Id, Column::Attempt])
        .filter(Column::Status.is_in(ExecutionStatus::CLAIMABLE))
        .filter(Column::AvailableAt.lte(now))
        .order_by_asc(Column::AvailableAt)
        .order_by_asc(Column::Id)
        .limit(limit)
        .into_model::<Available>()
        .all(connection)
        .await
}

/// Takes an attempt for `worker` until `now + lease`. False when it is taken, over, or another attempt by now.
///
/// # Errors
/// When the database cannot be written.
pub async fn claim(
    connection: &impl ConnectionTrait,
    wanted: Available,
    worker: &str,
    now: NaiveDateTime,
    lease: TimeDelta,
    run_timeout: Option<i32>,
) -> Result<bool, DbErr> {
    let deadline =
        run_timeout.filter(|minutes| *minutes > 0).map(|minutes| now + TimeDelta::minutes(i64::from(minutes)));
    let claimed = Entity::update_many()
        .col_expr(Column::Status, Expr::value(ExecutionStatus::Running))
        .col_expr(Column::Worker, Expr::value(worker))
        .col_expr(Column::RunStart, Expr::value(now))
        .col_expr(Column::LeasedUntil, Expr::value(now + lease))
        .col_expr(Column::Deadline, Expr::value(deadline))
        .filter(Column::Id.eq(wanted.id))
        .filter(Column::Attempt.eq(wanted.attempt))
        .filter(Column::Status.is_in(ExecutionStatus::CLAIMABLE))
        .exec(connection)
        .await?;
    Ok(claimed.rows_affected == 1)
}

/// Keeps a claim for another `lease`, and takes the log so far in. False when the claim is lost: cancelled, timed
/// out, or given to another worker.
///
/// # Errors
/// When the database cannot be written.
pub async fn beat(
    connection: &impl ConnectionTrait,
    claimed: Available,
    worker: &str,
    until: NaiveDateTime,
    run_log: Option<String>,
) -> Result<bool, DbErr> {
    let mut statement = Entity::update_many().col_expr(Column::LeasedUntil, Expr::value(until));
    if let Some(log) = run_log {
        statement = statement.col_expr(Column::RunLog, Expr::value(log));
    }
    let kept = statement
        .filter(Column::Id.eq(claimed.id))
        .filter(Column::Attempt.eq(claimed.attempt))
        .filter(Column::Status.eq(ExecutionStatus::Running))
        .filter(Column::Worker.eq(worker))
        .exec(connection)
        .await?;
    Ok(kept.rows_affected == 1)
}

/// What the worker of an execution needs. `base_url` begins the addresses in it. A few kB, whatever the size of the
/// cohort.
///
/// # Errors
/// When the database cannot be read.
pub async fn load_assignment(
    connection: &impl ConnectionTrait,
    execution_id: i32,
    base_url: &str,
) -> Result<Option<(callback_execution::Model, callback::Model, Assignment)>, DbErr> {
    let found = Entity::find_by_id(execution_id).find_also_related(callback::Entity).one(connection).await?;
    let Some((execution, Some(callback))) = found else { return Ok(None) };
    let found =
        action::Entity::find_by_id(execution.action_id).find_also_related(experiment::Entity).one(connection).await?;
    let Some((_, Some(experiment))) = found else { return Ok(None) };
    let found =
        subject::Entity::find_by_id(experiment.subject_id).find_also_related(cohort::Entity).one(connection).await?;
    let Some((subject, Some(cohort))) = found else { return Ok(None) };
    let systems = external_system::Entity::find().all(connection).await?;
    let systems: Map<String, Value> =
        systems.into_iter().map(|system| (system.system_name, Value::String(system.url))).collect();
    let api = |kind: &str, id: i32| format!("{base_url}/api/v2/{kind}/{id}");
    let action_url = format!("{base_url}/actions/{}", execution.action_id);
    let data = json!({
        "id": execution.id,
        "api_uri": api("callback_executions", execution.id),
        "web_uri": &action_url,
        "experiment": {
            "id": experiment.id,
            "label": experiment.label,
            "scandate": experiment.scandate,
            "api_uri": api("experiments", experiment.id),
            "web_uri": format!("{base_url}/experiments/{}", experiment.id),
        },
        "subject": {
            "id": subject.id,
            "label": subject.label,
            "date_of_birth": subject.date_of_birth,
            "api_uri": api("subjects", subject.id),
            "web_uri": format!("{base_url}/subjects/{}", subject.id),
        },
        "cohort": { "id": cohort.id, "label": cohort.label },
        "action": { "id": execution.action_id, "api_uri": api("actions", execution.action_id), "web_uri": action_url },
        "callback": { "label": callback.label, "function": callback.function },
        "external_systems": systems,
    });
    let Value::Object(data) = data else { return Ok(None) };
    let assignment = Assignment {
        execution_id: execution.id,
        attempt: execution.attempt,
        function: callback.function.clone(),
        arguments: callback.callback_arguments.clone().unwrap_or_default(),
        initial_delay: u32::try_from(callback.initial_delay).unwrap_or(0),
        wait_timeout: callback.wait_timeout.and_then(|minutes| u32::try_from(minutes).ok()).unwrap_or(0),
        data,
    };
    Ok(Some((execution, callback, assignment)))
}
