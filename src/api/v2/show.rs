//! Representations of v2: nested summaries with ids and URIs.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::account::RoleRecord;
use crate::api::lookup::moment;
use crate::api::output::{Addresses, list_of};
use crate::entity::{callback, external_system, role, scantype, user};
use crate::study::dossier;
use crate::study::listing::{ActionRow, Named};
use crate::study::record::{
    ActionRecord, CallbackRecord, CohortRecord, ExecutionRecord, ExperimentRecord, LinkRecord, ScanRecord, StateRecord,
    SubjectRecord, TransitionRecord,
};

/// Id, label and URI.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Summary {
    #[schema(example = 1)]
    pub id: i32,
    #[schema(example = "sub-01")]
    pub label: String,
    #[schema(example = "/api/v2/subjects/1")]
    pub uri: String,
}

/// Id and URI of a resource without a label.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Pointer {
    #[schema(example = 1)]
    pub id: i32,
    #[schema(example = "/api/v2/transitions/1")]
    pub uri: String,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct ActionSummary {
    #[schema(example = 1)]
    pub id: i32,
    pub success: bool,
    /// YAML: each transition that was evaluated, its condition and its value.
    pub return_value: Option<String>,
    #[schema(example = "/api/v2/actions/1")]
    pub uri: String,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct UserSummary {
    #[schema(example = 2)]
    pub id: i32,
    #[schema(example = "alice")]
    pub username: String,
    #[schema(example = "Alice Rater")]
    pub name: String,
    #[schema(example = "/api/v2/users/2")]
    pub uri: String,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct RoleSummary {
    #[schema(example = 1)]
    pub id: i32,
    #[schema(example = "admin")]
    pub name: String,
    #[schema(example = "/api/v2/roles/1")]
    pub uri: String,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct ExternalSystem {
    #[schema(example = 1)]
    pub id: i32,
    #[schema(example = "/api/v2/external_systems/1")]
    pub uri: String,
    #[schema(example = "https://xnat.example.com/")]
    pub url: String,
    #[schema(example = "XNAT")]
    pub system_name: String,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Scantype {
    #[schema(example = 1)]
    pub id: i32,
    #[schema(example = "/api/v2/scantypes/1")]
    pub uri: String,
    #[schema(example = "MR")]
    pub modality: String,
    #[schema(example = "T1w")]
    pub protocol: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Cohort {
    #[schema(example = 1)]
    pub id: i32,
    #[schema(example = "baseline")]
    pub label: String,
    #[schema(example = "/api/v2/cohorts/1")]
    pub uri: String,
    pub description: Option<String>,
    /// By the name of the external system.
    pub external_urls: BTreeMap<String, String>,
    pub subjects: Vec<Summary>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Subject {
    #[schema(example = 1)]
    pub id: i32,
    #[schema(example = "sub-01")]
    pub label: String,
    #[schema(example = "/api/v2/subjects/1")]
    pub uri: String,
    #[schema(example = "http://127.0.0.1:8000/api/v2/subjects/1")]
    pub api_uri: String,
    #[schema(example = "http://127.0.0.1:8000/subjects/1")]
    pub web_uri: String,
    pub cohort: Summary,
    #[schema(example = "1950-02-03")]
    pub date_of_birth: Option<String>,
    /// By the name of the external system.
    pub external_ids: BTreeMap<String, String>,
    pub experiments: Vec<Summary>,
    /// When, by whom and why it was archived; null if it is in use.
    pub archived: Option<Archived>,
}

/// When, by whom and why it was archived.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Archived {
    pub at: Option<String>,
    #[schema(example = "alice")]
    pub by: Option<String>,
    #[schema(example = "scanned twice by mistake")]
    pub reason: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Experiment {
    #[schema(example = 1)]
    pub id: i32,
    #[schema(example = "sub-01_ses-1")]
    pub label: String,
    #[schema(example = "/api/v2/experiments/1")]
    pub uri: String,
    #[schema(example = "http://127.0.0.1:8000/api/v2/experiments/1")]
    pub api_uri: String,
    #[schema(example = "http://127.0.0.1:8000/experiments/1")]
    pub web_uri: String,
    pub subject: Summary,
    #[schema(example = "2024-03-01T10:00:00")]
    pub scandate: String,
    pub state: Summary,
    /// When it entered its state.
    #[schema(example = "2024-03-02T08:00:00")]
    pub state_since: String,
    pub workflow: Pointer,
    /// By the name of the external system.
    pub external_ids: BTreeMap<String, String>,
    /// Variables by name; values of any type.
    pub variable_map: BTreeMap<String, Value>,
    /// When, by whom and why it was archived; null if it is in use.
    pub archived: Option<Archived>,
    /// Since when and why its automatic transitions are paused: it made too many within a minute. Null if it is not on
    /// hold.
    pub held: Option<Held>,
}

/// Why and since when an experiment is on hold.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Held {
    #[schema(example = "2024-03-02T08:00:00")]
    pub since: String,
    #[schema(example = "It made 100 automatic transitions within a minute.")]
    pub reason: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct State {
    #[schema(example = 2)]
    pub id: i32,
    #[schema(example = "check")]
    pub label: String,
    #[schema(example = "/api/v2/states/2")]
    pub uri: String,
    /// URIs of the callbacks, in their order.
    #[schema(example = json!(["/api/v2/callbacks/1"]))]
    pub callbacks: Vec<String>,
    pub freetext: Option<String>,
    pub workflow: Summary,
    pub experiments: Vec<Summary>,
    /// URI of the first callback, for the Python client.
    pub callback: Option<String>,
    /// Always null; required by the Python client.
    #[schema(value_type = Option<i32>)]
    pub lifespan: Option<i32>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Transition {
    #[schema(example = 1)]
    pub id: i32,
    #[schema(example = "/api/v2/transitions/1")]
    pub uri: String,
    pub destination_state: Summary,
    pub source_state: Summary,
    #[schema(example = "callbacks['count_scans'].result == 'success'")]
    pub condition: Option<String>,
    /// The same value, under the name that the Python client uses.
    pub conditions: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Action {
    #[schema(example = 1)]
    pub id: i32,
    #[schema(example = "/api/v2/actions/1")]
    pub uri: String,
    #[schema(example = "http://127.0.0.1:8000/api/v2/actions/1")]
    pub api_uri: String,
    #[schema(example = "http://127.0.0.1:8000/actions/1")]
    pub web_uri: String,
    pub experiment: Summary,
    pub transition: Pointer,
    pub executions: Vec<Pointer>,
    /// Whether all its callbacks were resolved and the next step was determined.
    pub success: bool,
    /// YAML: each transition that was evaluated, its condition and its value.
    pub return_value: Option<String>,
    /// The note of the user who moved it manually.
    pub freetext: Option<String>,
    #[schema(example = "2024-03-01T10:00:00")]
    pub start_time: String,
    pub end_time: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the field\'s name in the API")]
pub(super) struct Callback {
    #[schema(example = "/api/v2/callbacks/1")]
    pub uri: String,
    pub state: Summary,
    #[schema(example = "count_scans")]
    pub label: String,
    /// At most the newest 1000 in the record of an execution.
    pub executions: Vec<Pointer>,
    #[schema(example = "sleep")]
    pub function: String,
    /// YAML.
    #[schema(example = "seconds: 0\n")]
    pub callback_arguments: Option<String>,
    /// Minutes.
    pub run_timeout: Option<i32>,
    /// Minutes.
    pub wait_timeout: Option<i32>,
    /// Seconds.
    pub initial_delay: i32,
    pub description: Option<String>,
    pub condition: Option<String>,
    #[schema(example = 1)]
    pub id: i32,
    /// Number of retries after a failed run.
    pub retries: i32,
    /// Seconds before the first retry.
    pub retry_delay: i32,
    /// YAML: variable → JSON pointer into the result values.
    pub variable_map: Option<String>,
}

/// All data that a callback may need when it runs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Execution {
    #[schema(example = 1)]
    pub id: i32,
    #[schema(example = "/api/v2/callback_executions/1")]
    pub uri: String,
    #[schema(example = "http://127.0.0.1:8000/api/v2/callback_executions/1")]
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
    #[schema(example = "{\"rating\": \"unsure\"}")]
    pub result_values: Option<String>,
    #[schema(example = "2024-03-01T10:00:00")]
    pub created: String,
    pub run_start: Option<String>,
    pub wait_start: Option<String>,
    pub finished: Option<String>,
    /// Counts from 1.
    #[schema(example = 1)]
    pub attempt: i32,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Scan {
    #[schema(example = 1)]
    pub id: i32,
    #[schema(example = "/api/v2/scans/1")]
    pub uri: String,
    pub experiment: Summary,
    pub scantype: Scantype,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SubjectLink {
    #[schema(example = 1)]
    pub id: i32,
    #[schema(example = "/api/v2/external_subject_links/1")]
    pub uri: String,
    pub subject: Summary,
    pub external_system: ExternalSystem,
    #[schema(example = "XNAT_S00001")]
    pub external_id: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ExperimentLink {
    #[schema(example = 1)]
    pub id: i32,
    #[schema(example = "/api/v2/external_experiment_links/1")]
    pub uri: String,
    pub experiment: Summary,
    pub external_system: ExternalSystem,
    #[schema(example = "XNAT_E00001")]
    pub external_id: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct User {
    #[schema(example = 2)]
    pub id: i32,
    #[schema(example = "alice")]
    pub username: String,
    #[schema(example = "/api/v2/users/2")]
    pub uri: String,
    #[schema(example = "Alice Rater")]
    pub name: String,
    pub active: bool,
    #[schema(example = "alice@example.com")]
    pub email: String,
    #[schema(example = "2024-03-01T10:00:00")]
    pub create_time: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Role {
    #[schema(example = 1)]
    pub id: i32,
    #[schema(example = "admin")]
    pub name: String,
    #[schema(example = "/api/v2/roles/1")]
    pub uri: String,
    pub description: Option<String>,
    #[schema(example = "2024-03-01T10:00:00")]
    pub update_datetime: String,
    #[schema(example = json!(["sample_add", "user_read"]))]
    pub permissions: Vec<String>,
}

list_of! {
    CohortList { cohorts: Summary }
    SubjectList { subjects: Summary }
    ExperimentList { experiments: Summary }
    WorkflowList { workflows: Summary }
    StateList { states: Summary }
    CallbackList { callbacks: Summary }
    TransitionList { transitions: Pointer }
    ActionList { actions: ActionSummary }
    ScanList { scans: Scan }
    ScantypeList { scantypes: Scantype }
    ExternalSystemList { external_systems: ExternalSystem }
    SubjectLinkList { external_subject_links: SubjectLink }
    ExperimentLinkList { external_experiment_links: ExperimentLink }
    UserList { users: UserSummary }
    RoleList { roles: RoleSummary }
}

/// Renders v2 with the URLs that the caller sees.
impl Addresses {
    pub(super) fn v2(&self, kind: &str, id: i32) -> String {
        self.path(&format!("/api/v2/{kind}/{id}"))
    }

    pub(super) fn summary(&self, kind: &str, named: Named) -> Summary {
        Summary { uri: self.v2(kind, named.id), id: named.id, label: named.label }
    }

    pub(super) fn summaries(&self, kind: &str, all: Vec<Named>) -> Vec<Summary> {
        all.into_iter().map(|named| self.summary(kind, named)).collect()
    }

    pub(super) fn pointer(&self, kind: &str, id: i32) -> Pointer {
        Pointer { id, uri: self.v2(kind, id) }
    }

    fn pointers(&self, kind: &str, ids: Vec<i32>) -> Vec<Pointer> {
        ids.into_iter().map(|id| self.pointer(kind, id)).collect()
    }

    pub(super) fn cohort(&self, record: CohortRecord) -> Cohort {
        Cohort {
            uri: self.v2("cohorts", record.row.id),
            id: record.row.id,
            label: record.row.label,
            description: record.row.description,
            external_urls: record.external_urls,
            subjects: self.summaries("subjects", record.subjects),
        }
    }

    pub(super) fn subject(&self, record: SubjectRecord) -> Subject {
        let id = record.row.id;
        Subject {
            id,
            uri: self.v2("subjects", id),
            api_uri: self.absolute(&format!("/api/v2/subjects/{id}")),
            web_uri: self.absolute(&format!("/subjects/{id}")),
            cohort: self.summary("cohorts", record.cohort),
            date_of_birth: record.row.date_of_birth.map(|date| date.to_string()),
            external_ids: record.external_ids,
            experiments: self.summaries("experiments", record.experiments),
            archived: archived(
                record.row.archive_id,
                record.row.archived_at,
                record.row.archived_by,
                record.row.archived_reason,
            ),
            label: record.row.label,
        }
    }

    pub(super) fn experiment(&self, record: ExperimentRecord) -> Experiment {
        let row = record.row;
        let id = row.id;
        Experiment {
            id,
            held: dossier::Held::of(&row).map(|held| Held { since: moment(held.since), reason: held.reason }),
            uri: self.v2("experiments", id),
            api_uri: self.absolute(&format!("/api/v2/experiments/{id}")),
            web_uri: self.absolute(&format!("/experiments/{id}")),
            subject: self.summary("subjects", record.subject),
            scandate: moment(row.scandate),
            state: self.summary("states", record.state),
            state_since: moment(row.state_since),
            workflow: self.pointer("workflows", row.workflow_id),
            external_ids: record.external_ids,
            variable_map: record.variables,
            archived: archived(row.archive_id, row.archived_at, row.archived_by, row.archived_reason),
            label: row.label,
        }
    }

    pub(super) fn state(&self, record: StateRecord) -> State {
        let callbacks: Vec<String> = record.callbacks.iter().map(|one| self.v2("callbacks", one.id)).collect();
        State {
            uri: self.v2("states", record.row.id),
            id: record.row.id,
            label: record.row.label,
            freetext: record.row.freetext,
            workflow: self.summary("workflows", record.workflow),
            experiments: self.summaries("experiments", record.experiments),
            callback: callbacks.first().cloned(),
            callbacks,
            lifespan: None,
        }
    }

    pub(super) fn transition(&self, record: TransitionRecord) -> Transition {
        Transition {
            id: record.row.id,
            uri: self.v2("transitions", record.row.id),
            destination_state: self.summary("states", record.destination),
            source_state: self.summary("states", record.source),
            conditions: record.row.condition.clone(),
            condition: record.row.condition,
        }
    }

    pub(super) fn action_summary(&self, row: ActionRow) -> ActionSummary {
        let uri = self.v2("actions", row.id);
        ActionSummary { id: row.id, success: row.success, return_value: row.return_value, uri }
    }

    pub(super) fn action(&self, record: ActionRecord) -> Action {
        let row = record.row;
        Action {
            id: row.id,
            uri: self.v2("actions", row.id),
            api_uri: self.absolute(&format!("/api/v2/actions/{}", row.id)),
            web_uri: self.absolute(&format!("/actions/{}", row.id)),
            experiment: self.summary("experiments", record.experiment),
            transition: self.pointer("transitions", row.transition_id),
            executions: self.pointers("callback_executions", record.executions),
            success: row.success,
            return_value: row.return_value,
            freetext: row.freetext,
            start_time: moment(row.start_time),
            end_time: row.end_time.map(moment),
        }
    }

    pub(super) fn callback(&self, record: CallbackRecord) -> Callback {
        let callback::Model {
            id, label, function, callback_arguments, variable_map, run_timeout, wait_timeout, ..
        } = record.row;
        Callback {
            uri: self.v2("callbacks", id),
            state: self.summary("states", record.state),
            label,
            executions: self.pointers("callback_executions", record.executions),
            function,
            callback_arguments,
            run_timeout,
            wait_timeout,
            initial_delay: record.row.initial_delay,
            description: record.row.description,
            condition: record.row.condition,
            id,
            retries: record.row.retries,
            retry_delay: record.row.retry_delay,
            variable_map,
        }
    }

    pub(super) fn execution(&self, record: ExecutionRecord) -> Execution {
        let row = record.row;
        Execution {
            id: row.id,
            uri: self.v2("callback_executions", row.id),
            api_uri: self.absolute(&format!("/api/v2/callback_executions/{}", row.id)),
            // The page of the action shows the run in its context.
            web_uri: self.absolute(&format!("/actions/{}", row.action_id)),
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
            attempt: row.attempt,
        }
    }

    pub(super) fn external_system(&self, row: external_system::Model) -> ExternalSystem {
        ExternalSystem {
            uri: self.v2("external_systems", row.id),
            id: row.id,
            url: row.url,
            system_name: row.system_name,
        }
    }

    pub(super) fn scantype(&self, row: scantype::Model) -> Scantype {
        Scantype { uri: self.v2("scantypes", row.id), id: row.id, modality: row.modality, protocol: row.protocol }
    }

    pub(super) fn scan(&self, record: ScanRecord) -> Scan {
        Scan {
            id: record.id,
            uri: self.v2("scans", record.id),
            experiment: self.summary("experiments", record.experiment),
            scantype: self.scantype(record.scantype),
        }
    }

    pub(super) fn subject_link(&self, record: LinkRecord) -> SubjectLink {
        SubjectLink {
            id: record.id,
            uri: self.v2("external_subject_links", record.id),
            subject: self.summary("subjects", record.target),
            external_system: self.external_system(record.system),
            external_id: record.external_id,
        }
    }

    pub(super) fn experiment_link(&self, record: LinkRecord) -> ExperimentLink {
        ExperimentLink {
            id: record.id,
            uri: self.v2("external_experiment_links", record.id),
            experiment: self.summary("experiments", record.target),
            external_system: self.external_system(record.system),
            external_id: record.external_id,
        }
    }

    pub(super) fn user_summary(&self, row: user::Model) -> UserSummary {
        UserSummary { uri: self.v2("users", row.id), id: row.id, username: row.username, name: row.name }
    }

    pub(super) fn user(&self, row: user::Model) -> User {
        User {
            uri: self.v2("users", row.id),
            id: row.id,
            username: row.username,
            name: row.name,
            active: row.active,
            email: row.email,
            create_time: moment(row.create_time),
        }
    }

    pub(super) fn role_summary(&self, row: role::Model) -> RoleSummary {
        RoleSummary { uri: self.v2("roles", row.id), id: row.id, name: row.name }
    }

    pub(super) fn role(&self, row: role::Model) -> Role {
        let RoleRecord { row, permissions } = row.into();
        Role {
            uri: self.v2("roles", row.id),
            id: row.id,
            name: row.name,
            description: row.description,
            update_datetime: moment(row.update_datetime),
            permissions: permissions.into_iter().map(|one| one.name().to_owned()).collect(),
        }
    }
}

fn archived(
    archive_id: i32,
    at: Option<chrono::NaiveDateTime>,
    by: Option<String>,
    reason: Option<String>,
) -> Option<Archived> {
    (archive_id != 0).then(|| Archived { at: at.map(moment), by, reason })
}
