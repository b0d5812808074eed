//! `castor` against a stand-in for Castor EDC, XNAT and TaskManager, based on their known behaviour (`functions.md`:
//! paging, 201 and 422, conflicts, repeated measurements).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use studygovernor::entity::callback_execution::Model;
use studygovernor::entity::kind::ExecutionResult;

use super::outside::{run_again, serve, systems};
use super::{running_study, values};
use crate::support::Study;

#[derive(Default)]
struct Kept {
    participants: Vec<String>,
    /// By field id.
    points: BTreeMap<String, String>,
    /// Id and name, and the points by field id.
    instances: Vec<(String, String, BTreeMap<String, String>)>,
    /// Bodies of writes, with their paths.
    writes: Vec<(String, Value)>,
    /// The field that Castor does not accept.
    refused: Option<&'static str>,
    files: BTreeMap<&'static str, Value>,
    pages: usize,
}

type Shared = State<Arc<Mutex<Kept>>>;

fn page(kept: &mut Kept, query: &BTreeMap<String, String>, key: &str, rows: &[Value]) -> Response {
    assert_eq!(query["page_size"], "500");
    kept.pages += 1;
    let number: usize = query["page"].parse().unwrap();
    let of_page: Vec<Value> = rows.iter().skip((number - 1) * 500).take(500).cloned().collect();
    axum::Json(json!({ "_embedded": { key: of_page }, "page": number, "page_size": 500, "page_count": rows.len().div_ceil(500).max(1), "total_items": rows.len() })).into_response()
}

const FIELDS: [(&str, &str, &str, &str); 7] = [
    ("F1", "age", "", "numeric"),
    ("F2", "", "Has Lesion", "radio"),
    ("F3", "lesions_count", "", "numeric"),
    ("F4", "lesions", "", "repeated_measures"),
    ("F5", "size", "", "numeric"),
    ("F6", "scanned_on", "", "string"),
    ("F7", "tip_x", "", "numeric"),
];

async fn api(
    State(kept): Shared,
    Path(path): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let mut kept = kept.lock().unwrap();
    assert_eq!(headers["authorization"], "Bearer token-1");
    match path.as_str() {
        "study" => page(
            &mut kept,
            &query,
            "study",
            &[json!({ "study_id": "ST0", "name": "Other" }), json!({ "study_id": "ST", "name": "Our Study" })],
        ),
        "study/ST/site" => page(&mut kept, &query, "sites", &[json!({ "id": "SI", "name": "Our Site" })]),
        "study/ST/visit" => page(&mut kept, &query, "visits", &[json!({ "id": "VI", "visit_name": "Baseline" })]),
        "study/ST/field" => {
            // More than one page; our fields are on the second.
            let mut rows: Vec<Value> = (0..600).map(|n| json!({ "id": format!("X{n}"), "field_variable_name": format!("x{n}"), "field_label": null, "field_type": "string", "report_id": "" })).collect();
            rows.extend(FIELDS.map(|(id, name, label, kind)| json!({ "id": id, "field_variable_name": name, "field_label": label, "field_type": kind, "report_id": "RE" })));
            page(&mut kept, &query, "fields", &rows)
        }
        "study/ST/participant/subject/data-points/study" if kept.points.is_empty() => {
            StatusCode::NOT_FOUND.into_response()
        }
        "study/ST/participant/subject/data-points/study" => {
            let rows: Vec<Value> =
                kept.points.iter().map(|(id, value)| json!({ "field_id": id, "field_value": value })).collect();
            page(&mut kept, &query, "items", &rows)
        }
        "study/ST/participant/subject/repeating-data-instance" => {
            let rows: Vec<Value> =
                kept.instances.iter().map(|(id, name, _)| json!({ "id": id, "name": name })).collect();
            page(&mut kept, &query, "repeatingDataInstance", &rows)
        }
        other => match other.strip_prefix("study/ST/participant/subject/data-point/repeating-data/") {
            Some(id) => {
                let points = kept.instances.iter().find(|(one, ..)| one == id).unwrap().2.clone();
                let name = |id: &str| FIELDS.iter().find(|field| field.0 == id).unwrap().1;
                let rows: Vec<Value> = points
                    .iter()
                    .map(|(id, value)| json!({ "field_variable_name": name(id), "value": value }))
                    .collect();
                page(&mut kept, &query, "RepeatingDataDataPoints", &rows)
            }
            None => panic!("GET {other}"),
        },
    }
}

fn points_of(body: &Value) -> Vec<(String, String)> {
    let reason = "Imported via StudyGovernor callback http://test/prefix/actions/";
    assert!(body["common"]["change_reason"].as_str().unwrap().starts_with(reason), "{body}");
    assert_eq!(body["common"]["confirmed_changes"], true);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let entries = body["data"].as_array().unwrap();
    assert!(entries.iter().all(|entry| entry["confirmed_changes"] == true));
    entries.iter().map(|entry| (text(&entry["field_id"]), text(&entry["field_value"]))).collect()
}

async fn write(
    State(kept): Shared,
    Path(path): Path<String>,
    headers: HeaderMap,
    axum::Json(body): axum::Json<Value>,
) -> Response {
    let mut kept = kept.lock().unwrap();
    assert_eq!(headers["authorization"], "Bearer token-1");
    kept.writes.push((path.clone(), body.clone()));
    match path.as_str() {
        "study/ST/participant" => {
            assert_eq!(body, json!({ "participant_id": "subject", "site_id": "SI" }));
            let label = body["participant_id"].as_str().unwrap().to_owned();
            if kept.participants.contains(&label) {
                return StatusCode::UNPROCESSABLE_ENTITY.into_response();
            }
            kept.participants.push(label);
            StatusCode::CREATED.into_response()
        }
        "study/ST/participant/subject/data-points/study" => {
            let points = points_of(&body);
            let refused = points.iter().filter(|(id, _)| Some(id.as_str()) == kept.refused).count();
            kept.points.extend(points);
            (StatusCode::CREATED, axum::Json(json!({ "total_failed": refused, "failed": [] }))).into_response()
        }
        "study/ST/participant/subject/repeating-data-instance" => {
            assert_eq!((&body["repeating_data_id"], &body["parent_id"]), (&json!("RE"), &json!("VI")));
            let id = format!("IN{}", kept.instances.len());
            let name = body["repeating_data_name_custom"].as_str().unwrap().to_owned();
            kept.instances.push((id.clone(), name, BTreeMap::new()));
            (StatusCode::CREATED, axum::Json(json!({ "id": id }))).into_response()
        }
        other => {
            let id = other.strip_prefix("study/ST/participant/subject/data-points/repeating-data-instance/").unwrap();
            assert!(body["data"].as_array().unwrap().iter().all(|entry| entry["instance_id"] == id));
            let points = points_of(&body);
            kept.instances.iter_mut().find(|(one, ..)| one == id).unwrap().2.extend(points);
            StatusCode::CREATED.into_response()
        }
    }
}

const TEMPLATE: &str = "template_name: reading\nqa_fields:\n  tabs:\n    control: TabsWidget\n    content:\n      first:\n        years: {control: TextWidget}\n        Lesion: {control: CheckBox}\n        unknown: {control: TextWidget}\n  tip: {control: MarkerEdit}\n  lesions:\n    control: ListingWidget\n    content:\n      size: {control: TextWidget}\n";
const SECOND: &str = "qa_fields:\n  years: {control: TextWidget}\n";

fn routes(kept: &Arc<Mutex<Kept>>) -> Router {
    let login = async |axum::Json(body): axum::Json<Value>| match body
        == json!({ "grant_type": "client_credentials", "client_id": "client", "client_secret": "castor-secret" })
    {
        true => axum::Json(json!({ "access_token": "token-1" })).into_response(),
        false => (StatusCode::BAD_REQUEST, axum::Json(json!({ "error_description": "who is that" }))).into_response(),
    };
    let template = async |Path(name): Path<String>| match name.as_str() {
        "reading" => axum::Json(json!({ "content": TEMPLATE })).into_response(),
        "second" => axum::Json(json!({ "content": SECOND })).into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    };
    let list = async |State(kept): Shared| {
        let rows: Vec<Value> = kept.lock().unwrap().files.keys().map(|name| json!({ "Name": name })).collect();
        axum::Json(json!({ "ResultSet": { "Result": rows } }))
    };
    let file = async |State(kept): Shared, Path((_, name)): Path<(String, String)>| {
        let kept = kept.lock().unwrap();
        kept.files
            .get(name.as_str())
            .map_or(StatusCode::NOT_FOUND.into_response(), |file| axum::Json(file.clone()).into_response())
    };
    Router::new()
        .route("/oauth/token", post(login))
        .route("/api/v1/task_templates/{name}", get(template))
        .route("/api/{*path}", get(api).post(write))
        .route("/data/archive/subjects/XNAT_S1/experiments/{id}/resources/FIELDS/files", get(list))
        .route("/data/archive/subjects/XNAT_S1/experiments/{id}/resources/FIELDS/files/{name}", get(file))
        .with_state(Arc::clone(kept))
}

struct Case {
    study: Study,
    kept: Arc<Mutex<Kept>>,
    netrc: String,
}

impl Case {
    async fn new() -> Self {
        let kept = Arc::new(Mutex::new(Kept::default()));
        let server = serve(routes(&kept)).await;
        let study = running_study().await;
        systems(&study, &format!("{server}/")).await;
        let netrc = study.home.path().join("netrc");
        let host = server.trim_start_matches("http://");
        std::fs::write(&netrc, format!("machine {host} login client password castor-secret\n")).unwrap();
        let case = Self { netrc: netrc.to_str().unwrap().to_owned(), study, kept };
        case.file("fields.json", json!({ "tabs": { "years": 1 } }));
        case.file("fields_2024-01-01T00:00:00.json", json!({ "tabs": { "years": 2 } }));
        case.file(
            "fields_2024-03-01T10:00:00.json",
            json!({ "tabs": { "years": 71, "Lesion": true, "unknown": "x" }, "tip": [{ "pos": [1.5, 2, 3] }], "lesions": [{ "size": 3 }, { "size": 4 }] }),
        );
        case
    }

    fn file(&self, name: &'static str, content: Value) {
        self.kept.lock().unwrap().files.insert(name, content);
    }

    async fn run(&self, more: &str) -> Model {
        let common = "castor_study_name: Our Study, castor_site_name: Our Site, castor_visit_name: Baseline, translation_map: {years: age, Lesion: has_lesion}";
        let callback = format!("function: castor, callback_arguments: {{{common}, {more}}}");
        run_again(&self.study, &callback, &[("NETRC", self.netrc.as_str())]).await
    }
}

const USUAL: &str = "field_files: 'resources/FIELDS/files/fields{timestamp}.json', templates: reading, extra_variable_map: {scanned_on: /experiment/scandate, absent: /nothing}";

#[tokio::test(flavor = "multi_thread")]
async fn castor_gets_what_raters_filled_in_once() {
    let case = Case::new().await;
    let ended = case.run(USUAL).await;
    let first = values(&ended);
    assert_eq!(ended.result, ExecutionResult::Success, "{first} {:?}", ended.run_log);
    assert_eq!(
        (&first["study_id"], &first["site_id"], &first["participant_id"]),
        (&json!("ST"), &json!("SI"), &json!("subject"))
    );
    assert_eq!((&first["participant_existed"], &first["data_inserted"]), (&json!(false), &json!({ "reading": true })));
    assert_eq!(first["field_files"], json!(["resources/FIELDS/files/fields{timestamp}.json"]));
    {
        let kept = case.kept.lock().unwrap();
        let point = |id: &str| kept.points.get(id).map(String::as_str);
        assert_eq!(
            (point("F1"), point("F2"), point("F3")),
            (Some("71"), Some("true"), Some("2")),
            "of the newest file"
        );
        assert_eq!((point("F6"), point("F7"), point("F4")), (Some("2026-01-01T12:00:00"), Some("1.5"), None));
        let instances: Vec<_> =
            kept.instances.iter().map(|(_, name, points)| (name.as_str(), points["F5"].as_str())).collect();
        assert_eq!(instances, [("subject-lesions-0", "3"), ("subject-lesions-1", "4")]);
        assert!(kept.pages > 5, "the fields are on two pages");
    }
    // A second run: everything exists, so nothing is sent.
    let writes = case.kept.lock().unwrap().writes.len();
    let again = values(&case.run(USUAL).await);
    assert_eq!((&again["participant_existed"], &again["data_inserted"]), (&json!(true), &json!({ "reading": false })));
    assert_eq!(case.kept.lock().unwrap().writes.len(), writes + 1, "only the participant was asked for");
    assert!(!ended.run_log.unwrap().contains("castor-secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn castor_goes_on_where_a_run_broke_off() {
    let case = Case::new().await;
    case.run(USUAL).await;
    {
        // As if the first run had ended between its writes.
        let mut kept = case.kept.lock().unwrap();
        kept.points.remove("F2");
        kept.instances.pop();
        kept.instances[0].2.clear();
    }
    let ended = values(&case.run(USUAL).await);
    assert_eq!(ended["data_inserted"], json!({ "reading": true }), "{ended}");
    let kept = case.kept.lock().unwrap();
    assert_eq!(kept.points["F2"], "true");
    assert_eq!(
        (kept.instances.len(), kept.instances[0].2["F5"].as_str(), kept.instances[1].2["F5"].as_str()),
        (2, "3", "4")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn castor_refuses_what_conflicts_and_keeps_what_was_done_before() {
    let case = Case::new().await;
    case.file("second.json", json!({ "years": 72 }));
    let two = "field_files: ['resources/FIELDS/files/fields{timestamp}.json', resources/FIELDS/files/second.json], templates: [reading, second]";
    let ended = case.run(two).await;
    let ended = (ended.result, values(&ended));
    assert_eq!(ended.0, ExecutionResult::Failed);
    assert_eq!(ended.1["data_inserted"], json!({ "reading": true }), "what was done before is told");
    let said = ended.1["__exception__"].as_str().unwrap();
    assert!(said.contains("template second") && said.contains("conflicts") && said.contains("age"), "{said}");
    // 71 and 71.0 are the same.
    case.file("second.json", json!({ "years": 71.0 }));
    assert_eq!(values(&case.run(two).await)["data_inserted"], json!({ "reading": false, "second": false }));
    case.kept.lock().unwrap().instances[1].2.insert("F5".to_owned(), "9".to_owned());
    let said = values(&case.run(USUAL).await)["__exception__"].as_str().unwrap().to_owned();
    assert!(said.contains("subject-lesions-1 conflicts") && said.contains("size"), "{said}");
    // A write that Castor accepts but does not store is not a success.
    let case = Case::new().await;
    case.kept.lock().unwrap().refused = Some("F1");
    let said = values(&case.run(USUAL).await)["__exception__"].as_str().unwrap().to_owned();
    assert!(said.contains("rejected 1 values"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn castor_writes_nothing_before_everything_is_found() {
    let case = Case::new().await;
    let file = "field_files: 'resources/FIELDS/files/fields{timestamp}.json'";
    for (arguments, reason) in [
        (
            "field_files: 'resources/FIELDS/files/other{timestamp}.json', templates: reading".to_owned(),
            "has no file other<moment>.json; available:",
        ),
        ("field_files: resources/FIELDS/absent.json, templates: reading".to_owned(), "does not contain /files/"),
        (format!("{file}, templates: absent"), "status 404"),
        (format!("{file}, templates: [reading, second]"), "1 field_files and 2 templates"),
        (format!("{file}, templates: reading, castor_visit_name: Never"), "has no visit 'Never'"),
        (format!("{file}, templates: reading, castor_study_name: Never"), "has no study 'Never'"),
        (format!("{file}, templates: reading, extra_variable_map: {{a: no_pointer}}"), "is not a JSON pointer"),
        (format!("{file}, templates: reading, castor_external_system_name: NONE"), "unknown external system 'NONE'"),
    ] {
        let ended = run_with_names(&case, &arguments).await;
        assert_eq!(ended.result, ExecutionResult::Failed);
        let values = values(&ended);
        let said = values["__exception__"].as_str().unwrap();
        assert!(said.contains(reason), "{said}");
    }
    assert!(case.kept.lock().unwrap().writes.is_empty());
}

/// Uses the default names for missing arguments.
async fn run_with_names(case: &Case, arguments: &str) -> Model {
    let mut all = arguments.to_owned();
    for (name, value) in
        [("castor_study_name", "Our Study"), ("castor_site_name", "Our Site"), ("castor_visit_name", "Baseline")]
    {
        if !all.contains(name) {
            all.push_str(&format!(", {name}: {value}"));
        }
    }
    run_again(
        &case.study,
        &format!("function: castor, callback_arguments: {{{all}}}"),
        &[("NETRC", case.netrc.as_str())],
    )
    .await
}
