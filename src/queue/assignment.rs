//! Payload of a successful claim: a few kB, regardless of the size of the cohort.

use chrono::{NaiveDate, NaiveDateTime};
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, FromQueryResult, JoinType, QuerySelect};
use sea_orm::{Condition, RelationDef, RelationTrait};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::clock::iso;
use crate::context::Context;
use crate::entity::kind::ExecutionStatus;
use crate::entity::{
    action, callback, callback_execution, cohort, experiment, external_cohort_urls, external_experiment_links,
    external_subject_links, external_system, state, subject,
};
use crate::study::variable::variables_of;

/// Everything that a worker needs to run one attempt of one execution, without the server's own secrets (Q2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    pub execution_id: i32,
    pub attempt: i32,
    pub function: String,
    /// YAML text of a mapping.
    pub arguments: String,
    /// Seconds to wait before the run.
    pub initial_delay: u32,
    /// Minutes in which a person or script may finish it after a successful run; 0 means no wait stage.
    pub wait_timeout: u32,
    /// Lifetime of the claim without a heartbeat, in milliseconds.
    pub lease_ms: u64,
    /// The commit of the study repository whose files the run uses; `None` without a repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_revision: Option<String>,
    /// Data about the execution for the function, with the names of `GET /api/v2/callback_executions/{id}`; lists that grow
    /// with the study are left out.
    pub data: Map<String, Value>,
}

/// An execution with all related rows, read in one statement.
#[derive(FromQueryResult)]
pub struct Loaded {
    id: i32,
    attempt: i32,
    pub status: ExecutionStatus,
    created: NaiveDateTime,
    callback_id: i32,
    callback_label: String,
    function: String,
    callback_arguments: Option<String>,
    pub run_timeout: Option<i32>,
    wait_timeout: Option<i32>,
    initial_delay: i32,
    description: Option<String>,
    condition: Option<String>,
    variable_map: Option<String>,
    action_id: i32,
    transition_id: i32,
    freetext: Option<String>,
    start_time: NaiveDateTime,
    experiment_id: i32,
    experiment_label: String,
    scandate: NaiveDateTime,
    state_since: NaiveDateTime,
    workflow_id: i32,
    state_id: i32,
    state_label: String,
    subject_id: i32,
    subject_label: String,
    date_of_birth: Option<NaiveDate>,
    cohort_id: i32,
    cohort_label: String,
    cohort_description: Option<String>,
}

impl Loaded {
    /// Reads the execution with its callback, its action, and the experiment, subject and cohort of that.
    pub async fn find(connection: &impl ConnectionTrait, execution_id: i32) -> Result<Option<Self>, DbErr> {
        use callback_execution::Column;
        callback_execution::Entity::find_by_id(execution_id)
            .select_only()
            .columns([
                Column::Id,
                Column::Attempt,
                Column::Status,
                Column::Created,
                Column::CallbackId,
                Column::ActionId,
            ])
            .column_as(callback::Column::Label, "callback_label")
            .columns([callback::Column::Function, callback::Column::CallbackArguments, callback::Column::RunTimeout])
            .columns([callback::Column::WaitTimeout, callback::Column::InitialDelay, callback::Column::Description])
            .columns([callback::Column::Condition, callback::Column::VariableMap])
            .columns([action::Column::TransitionId, action::Column::ExperimentId])
            .columns([action::Column::Freetext, action::Column::StartTime])
            .column_as(experiment::Column::Label, "experiment_label")
            .columns([experiment::Column::Scandate, experiment::Column::StateSince])
            .columns([experiment::Column::WorkflowId, experiment::Column::StateId, experiment::Column::SubjectId])
            .column_as(state::Column::Label, "state_label")
            .column_as(subject::Column::Label, "subject_label")
            .columns([subject::Column::DateOfBirth, subject::Column::CohortId])
            .column_as(cohort::Column::Label, "cohort_label")
            .column_as(cohort::Column::Description, "cohort_description")
            .join(JoinType::InnerJoin, callback_execution::Relation::Callback.def())
            .join(JoinType::InnerJoin, callback_execution::Relation::Action.def())
            .join(JoinType::InnerJoin, action::Relation::Experiment.def())
            .join(JoinType::InnerJoin, experiment::Relation::State.def())
            .join(JoinType::InnerJoin, experiment::Relation::Subject.def())
            .join(JoinType::InnerJoin, subject::Relation::Cohort.def())
            .into_model::<Self>()
            .one(connection)
            .await
    }

    /// Whether this attempt still waits for a worker.
    #[must_use]
    pub fn is_claimable(&self, attempt: i32) -> bool {
        self.attempt == attempt && ExecutionStatus::CLAIMABLE.contains(&self.status)
    }

    /// Whether a worker runs this attempt.
    #[must_use]
    pub fn is_running(&self, attempt: i32) -> bool {
        self.attempt == attempt && self.status == ExecutionStatus::Running
    }

    /// Builds the payload for the worker. `connection` must read the snapshot that this was loaded from; `base_url` begins
    /// the URLs in it.
    pub async fn assignment(
        self,
        ctx: &Context,
        connection: &impl ConnectionTrait,
        base_url: &str,
        lease: std::time::Duration,
    ) -> Result<Assignment, DbErr> {
        let outside = outside(connection, &self).await?;
        let variables = variables_of(ctx, connection, self.experiment_id).await?;
        let variables: Map<String, Value> =
            variables.into_iter().map(|(label, value)| (label, value.to_json())).collect();
        Ok(Assignment {
            execution_id: self.id,
            attempt: self.attempt,
            function: self.function.clone(),
            arguments: self.callback_arguments.clone().unwrap_or_default(),
            initial_delay: u32::try_from(self.initial_delay).unwrap_or(0),
            wait_timeout: self.wait_timeout.and_then(|minutes| u32::try_from(minutes).ok()).unwrap_or(0),
            lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
            project_revision: None,
            data: self.data(base_url, &outside, &variables),
        })
    }

    fn data(self, base_url: &str, outside: &Outside, variables: &Map<String, Value>) -> Map<String, Value> {
        // URLs for workers are absolute; each `uri` has no server name, as in the API.
        let api = |kind: &str, id: i32| format!("{base_url}/api/v2/{kind}/{id}");
        let prefix = url::Url::parse(base_url).map(|url| url.path().trim_end_matches('/').to_owned());
        let prefix = prefix.unwrap_or_default();
        let uri = |kind: &str, id: i32| format!("{prefix}/api/v2/{kind}/{id}");
        let summary = |kind: &str, id: i32, label: &str| json!({ "id": id, "label": label, "uri": uri(kind, id) });
        let pointer = |kind: &str, id: i32| json!({ "id": id, "uri": uri(kind, id) });
        let action_page = format!("{base_url}/actions/{}", self.action_id);
        let experiment = summary("experiments", self.experiment_id, &self.experiment_label);
        let subject = summary("subjects", self.subject_id, &self.subject_label);
        let state = summary("states", self.state_id, &self.state_label);
        let data = json!({
            "id": self.id,
            "uri": uri("callback_executions", self.id),
            "api_uri": api("callback_executions", self.id),
            "web_uri": &action_page,
            "attempt": self.attempt,
            "created": iso(self.created),
            "callback": {
                "id": self.callback_id,
                "uri": uri("callbacks", self.callback_id),
                "label": self.callback_label,
                "function": self.function,
                "callback_arguments": self.callback_arguments,
                "run_timeout": self.run_timeout,
                "wait_timeout": self.wait_timeout,
                "initial_delay": self.initial_delay,
                "description": self.description,
                "condition": self.condition,
                "variable_map": self.variable_map,
                "state": &state,
            },
            "cohort": {
                "id": self.cohort_id,
                "label": self.cohort_label,
                "uri": uri("cohorts", self.cohort_id),
                "description": self.cohort_description,
                "external_urls": outside.cohort_urls,
            },
            "subject": {
                "id": self.subject_id,
                "label": self.subject_label,
                "uri": uri("subjects", self.subject_id),
                "api_uri": api("subjects", self.subject_id),
                "web_uri": format!("{base_url}/subjects/{}", self.subject_id),
                "cohort": summary("cohorts", self.cohort_id, &self.cohort_label),
                "date_of_birth": self.date_of_birth,
                "external_ids": outside.subject_ids,
            },
            "experiment": {
                "id": self.experiment_id,
                "label": self.experiment_label,
                "uri": uri("experiments", self.experiment_id),
                "api_uri": api("experiments", self.experiment_id),
                "web_uri": format!("{base_url}/experiments/{}", self.experiment_id),
                "subject": subject,
                "scandate": iso(self.scandate),
                "state": state,
                "state_since": iso(self.state_since),
                "workflow": pointer("workflows", self.workflow_id),
                "external_ids": outside.experiment_ids,
                "variable_map": variables,
            },
            "action": {
                "id": self.action_id,
                "uri": uri("actions", self.action_id),
                "api_uri": api("actions", self.action_id),
                "web_uri": action_page,
                "experiment": experiment,
                "transition": pointer("transitions", self.transition_id),
                "freetext": self.freetext,
                "start_time": iso(self.start_time),
            },
            "external_systems": outside.systems,
        });
        if let Value::Object(data) = data { data } else { Map::new() }
    }
}

/// External ids and URLs of the cohort, subject and experiment, by the name of the system.
#[derive(Default)]
struct Outside {
    systems: Map<String, Value>,
    cohort_urls: Map<String, Value>,
    subject_ids: Map<String, Value>,
    experiment_ids: Map<String, Value>,
}

#[derive(FromQueryResult)]
struct OutsideRow {
    system_name: String,
    url: String,
    cohort_url: Option<String>,
    subject_external_id: Option<String>,
    experiment_external_id: Option<String>,
}

async fn outside(connection: &impl ConnectionTrait, loaded: &Loaded) -> Result<Outside, DbErr> {
    let (cohort_id, subject_id, experiment_id) = (loaded.cohort_id, loaded.subject_id, loaded.experiment_id);
    // Only the links of this row: a condition on the join keeps systems without a link.
    let only = |link: RelationDef, own: Condition| {
        link.rev().condition_type(sea_orm::sea_query::ConditionType::All).on_condition(move |_, _| own.clone())
    };
    let rows = external_system::Entity::find()
        .select_only()
        .columns([external_system::Column::SystemName, external_system::Column::Url])
        .column_as(external_cohort_urls::Column::Url, "cohort_url")
        .column_as(external_subject_links::Column::ExternalId, "subject_external_id")
        .column_as(external_experiment_links::Column::ExternalId, "experiment_external_id")
        .join(
            JoinType::LeftJoin,
            only(
                external_cohort_urls::Relation::ExternalSystem.def(),
                Condition::all().add(external_cohort_urls::Column::CohortId.eq(cohort_id)),
            ),
        )
        .join(
            JoinType::LeftJoin,
            only(
                external_subject_links::Relation::ExternalSystem.def(),
                Condition::all().add(external_subject_links::Column::SubjectId.eq(subject_id)),
            ),
        )
        .join(
            JoinType::LeftJoin,
            only(
                external_experiment_links::Relation::ExternalSystem.def(),
                Condition::all().add(external_experiment_links::Column::ExperimentId.eq(experiment_id)),
            ),
        )
        .into_model::<OutsideRow>()
        .all(connection)
        .await?;
    let mut outside = Outside::default();
    for row in rows {
        for (known, value) in [
            (&mut outside.systems, Some(row.url)),
            (&mut outside.cohort_urls, row.cohort_url),
            (&mut outside.subject_ids, row.subject_external_id),
            (&mut outside.experiment_ids, row.experiment_external_id),
        ] {
            if let Some(value) = value {
                known.insert(row.system_name.clone(), value.into());
            }
        }
    }
    Ok(outside)
}
