//! Representations of v1: references are URIs.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::account::RoleRecord;
use crate::api::lookup::moment;
use crate::api::output::{Addresses, list_of};
use crate::entity::{external_system, role, scantype, user};
use crate::study::listing::Named;
use crate::study::record::{
    ActionRecord, CallbackRecord, CohortRecord, ExecutionRecord, ExperimentRecord, LinkRecord, ScanRecord, StateRecord,
    SubjectRecord, TransitionRecord,
};

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Cohort {
    #[schema(example = "/api/v1/cohorts/1")]
    pub uri: String,
    #[schema(example = "baseline")]
    pub label: String,
    pub description: Option<String>,
    /// By the name of the external system.
    pub external_urls: BTreeMap<String, String>,
    /// URIs.
    #[schema(example = json!(["/api/v1/subjects/1"]))]
    pub subjects: Vec<String>,
    pub id: i32,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Subject {
    #[schema(example = "/api/v1/subjects/1")]
    pub uri: String,
    #[schema(example = "http://127.0.0.1:8000/api/v1/subjects/1")]
    pub api_uri: String,
    #[schema(example = "http://127.0.0.1:8000/subjects/1")]
    pub web_uri: String,
    /// URI.
    #[schema(example = "/api/v1/cohorts/1")]
    pub cohort: String,
    #[schema(example = "sub-01")]
    pub label: String,
    #[schema(example = "1950-02-03")]
    pub date_of_birth: Option<String>,
    /// By the name of the external system.
    pub external_ids: BTreeMap<String, String>,
    /// URIs.
    #[schema(example = json!(["/api/v1/experiments/1"]))]
    pub experiments: Vec<String>,
    pub id: i32,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Experiment {
    #[schema(example = "/api/v1/experiments/1")]
    pub uri: String,
    #[schema(example = "http://127.0.0.1:8000/api/v1/experiments/1")]
    pub api_uri: String,
    #[schema(example = "http://127.0.0.1:8000/experiments/1")]
    pub web_uri: String,
    /// URI.
    #[schema(example = "/api/v1/subjects/1")]
    pub subject: String,
    #[schema(example = "sub-01_ses-1")]
    pub label: String,
    #[schema(example = "2024-03-01T10:00:00")]
    pub scandate: String,
    /// URI of the experiment state.
    #[schema(example = "/api/v1/experiments/1/state")]
    pub state: String,
    /// By the name of the external system.
    pub external_ids: BTreeMap<String, String>,
    /// Variables by name; values of any type.
    pub variable_map: BTreeMap<String, Value>,
    pub id: i32,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Workflow {
    #[schema(example = "/api/v1/workflows/1")]
    pub uri: String,
    #[schema(example = "imaging_qc_2024")]
    pub label: String,
    pub id: i32,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct State {
    #[schema(example = "/api/v1/states/2")]
    pub uri: String,
    #[schema(example = "check")]
    pub label: String,
    /// URIs, in their order.
    #[schema(example = json!(["/api/v1/callbacks/1"]))]
    pub callbacks: Vec<String>,
    pub freetext: Option<String>,
    /// URI.
    #[schema(example = "/api/v1/workflows/1")]
    pub workflow: String,
    /// URI of the list of experiments in the state.
    #[schema(example = "/api/v1/states/2/experiments")]
    pub experiments: String,
    /// URI of the first callback, for the Python client.
    pub callback: Option<String>,
    /// Always null; required by the Python client.
    pub lifespan: Option<i32>,
    pub id: i32,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Transition {
    #[schema(example = "/api/v1/transitions/1")]
    pub uri: String,
    /// URI.
    #[schema(example = "/api/v1/states/2")]
    pub destination_state: String,
    /// URI.
    #[schema(example = "/api/v1/states/1")]
    pub source_state: String,
    pub condition: Option<String>,
    /// The same value, under the name that the Python client uses.
    pub conditions: Option<String>,
    pub id: i32,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Action {
    #[schema(example = "/api/v1/actions/1")]
    pub uri: String,
    #[schema(example = "http://127.0.0.1:8000/api/v1/actions/1")]
    pub api_uri: String,
    #[schema(example = "http://127.0.0.1:8000/actions/1")]
    pub web_uri: String,
    /// URI.
    #[schema(example = "/api/v1/experiments/1")]
    pub experiment: String,
    /// URI.
    #[schema(example = "/api/v1/transitions/1")]
    pub transition: String,
    /// URIs.
    #[schema(example = json!(["/api/v1/callback_executions/1"]))]
    pub executions: Vec<String>,
    /// Whether all its callbacks were resolved and the next step was determined.
    pub success: bool,
    /// YAML: each transition that was evaluated, its condition and its value.
    pub return_value: Option<String>,
    /// The note of the user who moved it manually.
    pub freetext: Option<String>,
    #[schema(example = "2024-03-01T10:00:00")]
    pub start_time: String,
    pub end_time: Option<String>,
    pub id: i32,
}

#[derive(Debug, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the field\'s name in the API")]
pub(super) struct Callback {
    #[schema(example = "/api/v1/callbacks/1")]
    pub uri: String,
    /// URI.
    #[schema(example = "/api/v1/states/2")]
    pub state: String,
    #[schema(example = "count_scans")]
    pub label: String,
    /// URIs; at most the newest 1000 in the record of an execution.
    #[schema(example = json!(["/api/v1/callback_executions/1"]))]
    pub executions: Vec<String>,
    #[schema(example = "sleep")]
    pub function: String,
    /// YAML.
    pub callback_arguments: Option<String>,
    /// Minutes.
    pub run_timeout: Option<i32>,
    /// Minutes.
    pub wait_timeout: Option<i32>,
    /// Seconds.
    pub initial_delay: i32,
    pub description: Option<String>,
    pub condition: Option<String>,
    pub id: i32,
}

/// All data that a callback may need when it runs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Execution {
    #[schema(example = "/api/v1/callback_executions/1")]
    pub uri: String,
    #[schema(example = "http://127.0.0.1:8000/api/v1/callback_executions/1")]
    pub api_uri: String,
    #[schema(example = "http://127.0.0.1:8000/actions/1")]
    pub web_uri: String,
    pub callback: Callback,
    /// With at most the newest 1000 of its subjects.
    pub cohort: Cohort,
    pub subject: Subject,
    pub experiment: Experiment,
    pub action: Action,
    /// URLs by name.
    pub external_systems: BTreeMap<String, String>,
    #[schema(example = "finished")]
    pub status: String,
    #[schema(example = "success")]
    pub result: String,
    pub run_log: Option<String>,
    pub result_log: Option<String>,
    /// The same value, under the name that the Python client uses.
    pub wait_log: Option<String>,
    /// JSON text.
    pub result_values: Option<String>,
    #[schema(example = "2024-03-01T10:00:00")]
    pub created: String,
    pub run_start: Option<String>,
    pub wait_start: Option<String>,
    pub finished: Option<String>,
    pub id: i32,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ExternalSystem {
    #[schema(example = "/api/v1/external_systems/1")]
    pub uri: String,
    #[schema(example = "https://xnat.example.com/")]
    pub url: String,
    #[schema(example = "XNAT")]
    pub system_name: String,
    pub id: i32,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Scantype {
    #[schema(example = "/api/v1/scantypes/1")]
    pub uri: String,
    #[schema(example = "MR")]
    pub modality: String,
    #[schema(example = "T1w")]
    pub protocol: String,
    pub id: i32,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Scan {
    #[schema(example = "/api/v1/scans/1")]
    pub uri: String,
    /// URI.
    #[schema(example = "/api/v1/scantypes/1")]
    pub scantype: String,
    /// URI.
    #[schema(example = "/api/v1/experiments/1")]
    pub experiment: String,
    pub id: i32,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SubjectLink {
    #[schema(example = "/api/v1/external_subject_links/1")]
    pub uri: String,
    /// URI.
    #[schema(example = "/api/v1/subjects/1")]
    pub subject: String,
    /// URI.
    #[schema(example = "/api/v1/external_systems/1")]
    pub external_system: String,
    #[schema(example = "XNAT_S00001")]
    pub external_id: String,
    pub id: i32,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ExperimentLink {
    #[schema(example = "/api/v1/external_experiment_links/1")]
    pub uri: String,
    /// URI.
    #[schema(example = "/api/v1/experiments/1")]
    pub experiment: String,
    /// URI.
    #[schema(example = "/api/v1/external_systems/1")]
    pub external_system: String,
    #[schema(example = "XNAT_E00001")]
    pub external_id: String,
    pub id: i32,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct User {
    #[schema(example = "alice")]
    pub username: String,
    #[schema(example = "/api/v1/users/2")]
    pub uri: String,
    #[schema(example = "Alice Rater")]
    pub name: String,
    pub active: bool,
    #[schema(example = "alice@example.com")]
    pub email: String,
    #[schema(example = "2024-03-01T10:00:00")]
    pub create_time: String,
    pub id: i32,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Role {
    #[schema(example = "admin")]
    pub name: String,
    pub description: Option<String>,
    #[schema(example = "2024-03-01T10:00:00")]
    pub update_datetime: String,
    #[schema(example = json!(["sample_add", "user_read"]))]
    pub permissions: Vec<String>,
    #[schema(example = "/api/v1/roles/1")]
    pub uri: String,
    pub id: i32,
}

list_of! {
    CohortList { cohorts: String }
    SubjectList { subjects: String }
    ExperimentList { experiments: String }
    WorkflowList { workflows: String }
    StateList { states: String }
    CallbackList { callbacks: String }
    TransitionList { transitions: String }
    ActionList { actions: String }
    ScanList { scans: String }
    ScantypeList { scantypes: String }
    ExternalSystemList { external_systems: String }
    SubjectLinkList { external_subject_links: String }
    ExperimentLinkList { external_experiment_links: String }
    UserList { users: String }
    RoleList { roles: String }
}

/// The same renderer as that of v2, with other URLs.
#[derive(Debug, Clone)]
pub(super) struct V1(pub Addresses);

impl V1 {
    pub(super) fn uri(&self, kind: &str, id: i32) -> String {
        self.0.path(&format!("/api/v1/{kind}/{id}"))
    }

    fn api_uri(&self, kind: &str, id: i32) -> String {
        self.0.absolute(&format!("/api/v1/{kind}/{id}"))
    }

    pub(super) fn uris(&self, kind: &str, all: &[Named]) -> Vec<String> {
        all.iter().map(|named| self.uri(kind, named.id)).collect()
    }

    pub(super) fn cohort(&self, record: CohortRecord) -> Cohort {
        Cohort {
            uri: self.uri("cohorts", record.row.id),
            label: record.row.label,
            description: record.row.description,
            external_urls: record.external_urls,
            subjects: self.uris("subjects", &record.subjects),
            id: record.row.id,
        }
    }

    pub(super) fn subject(&self, record: SubjectRecord) -> Subject {
        let id = record.row.id;
        Subject {
            uri: self.uri("subjects", id),
            api_uri: self.api_uri("subjects", id),
            web_uri: self.0.absolute(&format!("/subjects/{id}")),
            cohort: self.uri("cohorts", record.cohort.id),
            label: record.row.label,
            date_of_birth: record.row.date_of_birth.map(|date| date.to_string()),
            external_ids: record.external_ids,
            experiments: self.uris("experiments", &record.experiments),
            id,
        }
    }

    pub(super) fn experiment(&self, record: ExperimentRecord) -> Experiment {
        let id = record.row.id;
        Experiment {
            uri: self.uri("experiments", id),
            api_uri: self.api_uri("experiments", id),
            web_uri: self.0.absolute(&format!("/experiments/{id}")),
            subject: self.uri("subjects", record.subject.id),
            label: record.row.label,
            scandate: moment(record.row.scandate),
            state: self.0.path(&format!("/api/v1/experiments/{id}/state")),
            external_ids: record.external_ids,
            variable_map: record.variables,
            id,
        }
    }

    pub(super) fn workflow(&self, row: crate::entity::workflow::Model) -> Workflow {
        Workflow { uri: self.uri("workflows", row.id), label: row.label, id: row.id }
    }

    pub(super) fn state(&self, record: StateRecord) -> State {
        let callbacks = self.uris("callbacks", &record.callbacks);
        let id = record.row.id;
        State {
            uri: self.uri("states", id),
            label: record.row.label,
            callback: callbacks.first().cloned(),
            callbacks,
            freetext: record.row.freetext,
            workflow: self.uri("workflows", record.workflow.id),
            experiments: self.0.path(&format!("/api/v1/states/{id}/experiments")),
            lifespan: None,
            id,
        }
    }

    pub(super) fn transition(&self, record: TransitionRecord) -> Transition {
        Transition {
            uri: self.uri("transitions", record.row.id),
            destination_state: self.uri("states", record.destination.id),
            source_state: self.uri("states", record.source.id),
            conditions: record.row.condition.clone(),
            condition: record.row.condition,
            id: record.row.id,
        }
    }

    pub(super) fn action(&self, record: ActionRecord) -> Action {
        let row = record.row;
        Action {
            uri: self.uri("actions", row.id),
            api_uri: self.api_uri("actions", row.id),
            web_uri: self.0.absolute(&format!("/actions/{}", row.id)),
            experiment: self.uri("experiments", record.experiment.id),
            transition: self.uri("transitions", row.transition_id),
            executions: record.executions.into_iter().map(|id| self.uri("callback_executions", id)).collect(),
            success: row.success,
            return_value: row.return_value,
            freetext: row.freetext,
            start_time: moment(row.start_time),
            end_time: row.end_time.map(moment),
            id: row.id,
        }
    }

    pub(super) fn callback(&self, record: CallbackRecord) -> Callback {
        let row = record.row;
        Callback {
            uri: self.uri("callbacks", row.id),
            state: self.uri("states", record.state.id),
            label: row.label,
            executions: record.executions.into_iter().map(|id| self.uri("callback_executions", id)).collect(),
            function: row.function,
            callback_arguments: row.callback_arguments,
            run_timeout: row.run_timeout,
            wait_timeout: row.wait_timeout,
            initial_delay: row.initial_delay,
            description: row.description,
            condition: row.condition,
            id: row.id,
        }
    }

    pub(super) fn execution(&self, record: ExecutionRecord) -> Execution {
        let row = record.row;
        Execution {
            uri: self.uri("callback_executions", row.id),
            api_uri: self.api_uri("callback_executions", row.id),
            // The page of the action shows the run in its context.
            web_uri: self.0.absolute(&format!("/actions/{}", row.action_id)),
            callback: self.callback(record.callback),
            cohort: self.cohort(record.cohort),
            subject: self.subject(record.subject),
            experiment: self.experiment(record.experiment),
            action: self.action(record.action),
            external_systems: record.external_systems,
            status: row.status.to_string(),
            result: row.result.to_string(),
            run_log: row.run_log,
            wait_log: row.result_log.clone(),
            result_log: row.result_log,
            result_values: row.result_values,
            created: moment(row.created),
            run_start: row.run_start.map(moment),
            wait_start: row.wait_start.map(moment),
            finished: row.finished.map(moment),
            id: row.id,
        }
    }

    pub(super) fn external_system(&self, row: external_system::Model) -> ExternalSystem {
        ExternalSystem {
            uri: self.uri("external_systems", row.id),
            url: row.url,
            system_name: row.system_name,
            id: row.id,
        }
    }

    pub(super) fn scantype(&self, row: scantype::Model) -> Scantype {
        Scantype { uri: self.uri("scantypes", row.id), modality: row.modality, protocol: row.protocol, id: row.id }
    }

    pub(super) fn scan(&self, record: &ScanRecord) -> Scan {
        Scan {
            uri: self.uri("scans", record.id),
            scantype: self.uri("scantypes", record.scantype.id),
            experiment: self.uri("experiments", record.experiment.id),
            id: record.id,
        }
    }

    pub(super) fn subject_link(&self, record: LinkRecord) -> SubjectLink {
        SubjectLink {
            uri: self.uri("external_subject_links", record.id),
            subject: self.uri("subjects", record.target.id),
            external_system: self.uri("external_systems", record.system.id),
            external_id: record.external_id,
            id: record.id,
        }
    }

    pub(super) fn experiment_link(&self, record: LinkRecord) -> ExperimentLink {
        ExperimentLink {
            uri: self.uri("external_experiment_links", record.id),
            experiment: self.uri("experiments", record.target.id),
            external_system: self.uri("external_systems", record.system.id),
            external_id: record.external_id,
            id: record.id,
        }
    }

    pub(super) fn user(&self, row: user::Model) -> User {
        User {
            username: row.username,
            uri: self.uri("users", row.id),
            name: row.name,
            active: row.active,
            email: row.email,
            create_time: moment(row.create_time),
            id: row.id,
        }
    }

    pub(super) fn role(&self, row: role::Model) -> Role {
        let RoleRecord { row, permissions } = row.into();
        Role {
            name: row.name,
            description: row.description,
            update_datetime: moment(row.update_datetime),
            permissions: permissions.into_iter().map(|one| one.name().to_owned()).collect(),
            uri: self.uri("roles", row.id),
            id: row.id,
        }
    }
}
