//! Roles limited to certain cohorts: their users cannot see or change anything else, in any page, list, count, search
//! or response.
//!
//! Everything in the hidden cohort contains one word. All pages, whole and as fragments, and all reading operations of
//! both versions of the API are requested for every id; no response may contain the word. An administrator who requests
//! the same finds it everywhere, so it would have been detected.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};
use studygovernor::queue::execution_secret;

use super::routes::table;
use super::{GOOD, House, Visitor};
use crate::api::{CONFIGURATION, Caller, WORKFLOW};
use crate::support::Backend;

/// Part of everything in the hidden cohort.
pub(super) const HIDDEN: &str = "hushhush";

/// Higher than any id of these tests.
const MOST_IDS: usize = 9;

/// Parameters of lists; a list rejects or ignores the ones that it does not know.
const QUERIES: [&str; 11] = [
    "limit=1",
    "offset=1",
    "after=0&limit=3",
    "archived=true",
    "label=hush",
    "cohort=1",
    "subject=1",
    "order=label",
    "status=finished",
    "result=failed",
    "callback=1",
];

/// All permissions, for study data and everything else: a role with all of them.
const ALL: &str = "action_update,sample_state_update,sample_add,sample_update,sample_delete,user_read,user_read_all,\
                   user_update_all,user_add,user_delete,roles_manage,upload_data";

/// A study with two cohorts; the hidden one is created first. Each has one subject with an experiment whose first
/// callback failed, an archived experiment, scans, links, and all kinds of texts.
pub(super) async fn two_cohorts(backend: Backend) -> House {
    two_cohorts_with(backend, &[]).await
}

/// The same, with this environment for the server.
pub(super) async fn two_cohorts_with(backend: Backend, environment: &[(&str, &str)]) -> House {
    let house = House::new(backend, environment).await;
    let api = house.server.admin();
    let body = json!({ "config_definition": CONFIGURATION });
    api.post("/api/v2/service/config/import-config", body).await.expect(201);
    let roles = json!({ "roles": [{ "name": "keeper", "description": "everything", "permissions": ALL }] });
    let body = json!({ "config_definition": roles.to_string() });
    api.post("/api/v2/service/config/import-config", body).await.expect(201);
    api.post("/api/v2/service/config/import-workflow", json!({ "workflow_definition": WORKFLOW })).await.expect(201);
    for (id, word) in [(1, HIDDEN), (2, "plain")] {
        let label = |kind: &str| format!("{word}-{kind}");
        api.post("/api/v2/cohorts", json!({ "label": label("cohort"), "description": label("text") }))
            .await
            .expect(201);
        let urls = json!({ "external_urls": { "XNAT": format!("https://{word}.example.com/") } });
        api.post(&format!("/api/v2/cohorts/{id}/external_urls"), urls).await.expect(201);
        let subject = json!({ "label": label("subject"), "cohort_label": label("cohort") });
        api.post("/api/v2/subjects", subject).await.expect(201);
        let ids = json!({ "external_ids": { "XNAT": label("XS") } });
        api.post(&format!("/api/v2/subjects/{id}/external_ids"), ids).await.expect(201);
        for number in [1, 2] {
            let label = label(&format!("experiment-{number}"));
            let experiment = json!({ "label": label, "scandate": "2024-03-01T10:00:00", "subject_id": id });
            let made = api.post("/api/v2/experiments", experiment).await.expect(201);
            let at = made["uri"].as_str().unwrap().to_owned();
            let ids = json!({ "external_ids": { "XNAT": format!("{label}-XE") } });
            api.post(&format!("{at}/external_ids"), ids).await.expect(201);
            let scan = json!({ "scantype_protocol": "T1w", "experiment_id": made["id"] });
            api.post("/api/v2/scans", scan).await.expect(201);
            if number == 2 {
                api.delete(&format!("{at}?reason={word}-reason")).await.expect(200);
            }
        }
        // The first experiment: two callbacks of the state, the first of which fails with a long text.
        let first = api.get(&format!("/api/v2/experiments/{}/actions", 2 * id - 1)).await.expect(200);
        let run = |number: i32| format!("/api/v2/callback_executions/{}", 4 * id - 4 + number);
        let report = json!({ "status": "finished", "result": "failed", "run_log": label("log"), "result_log": label("result"),
                             "result_values": { "extra": { "n": label("value") } } });
        api.put(&run(1), report).await.expect(200);
        let note = json!({ "return_value": label("note") });
        api.put(first["actions"][0]["uri"].as_str().unwrap(), note).await.expect(200);
        api.put(&run(2), json!({ "run_log": label("running") })).await.expect(200);
    }
    house
}

impl House {
    /// Gives a role for these cohorts only.
    pub(super) async fn scope(&self, user: &str, role: &str, cohorts: &Value) -> Value {
        let path = format!("/api/v2/users/{user}/roles/{role}/cohorts");
        self.server.admin().put(&path, json!({ "cohorts": cohorts })).await.expect(200)
    }
}

/// One request: for a page, a part of a page, or the API.
pub(super) struct Question {
    path: String,
    is_part: bool,
    is_api: bool,
}

impl Question {
    pub(super) fn name(&self) -> String {
        format!("{}{}", self.path, if self.is_part { " (part)" } else { "" })
    }

    /// Returns the status and the text of the response.
    pub(super) async fn ask(&self, visitor: &Visitor, api: &Caller) -> (u16, String) {
        if self.is_api {
            let answer = api.get(&self.path).await;
            return (answer.status.as_u16(), answer.body.to_string());
        }
        let request = visitor.request(Method::GET, &self.path);
        let request = if self.is_part { request.header("hx-request", "true") } else { request };
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
}

/// All that can be read: the pages, with `parts` their fragments too, and both versions of the API, for every id.
pub(super) async fn questions(api: &Caller, parts: bool) -> Vec<Question> {
    let ids = |path: &str| -> Vec<String> {
        match path.contains('{') {
            false => vec![path.to_owned()],
            true => (1..=MOST_IDS)
                .map(|id| {
                    let mut path = path.to_owned();
                    while let (Some(begin), Some(end)) = (path.find('{'), path.find('}')) {
                        path.replace_range(begin..=end, &id.to_string());
                    }
                    path
                })
                .collect(),
        }
    };
    let mut paths: Vec<String> =
        table().await.iter().filter(|one| one.method == "GET").map(|one| one.path.to_owned()).collect();
    paths.extend(
        [
            "/experiments?q=hush",
            "/experiments?cohort=1",
            "/experiments?state={id}",
            "/subjects?q=hush",
            "/subjects?cohort=1",
            "/cohorts/1?q=hush",
            "/callback_executions?stage=failed",
            "/callback_executions?function=send_mail",
            "/experiments?above=0",
            "/experiments?below=100",
        ]
        .map(str::to_owned),
    );
    let mut all = Vec::new();
    for path in paths.iter().flat_map(|path| ids(path)) {
        for is_part in [false, true].into_iter().take(1 + usize::from(parts)) {
            all.push(Question { path: path.clone(), is_part, is_api: false });
        }
    }
    for version in ["v1", "v2"] {
        let document = api.get(&format!("/api/{version}/swagger.json")).await.expect(200);
        let mut paths: Vec<String> = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            if item.get("get").is_some() {
                paths.push(path.clone());
                // Lists, with each of the parameters.
                if !path.contains('{') {
                    paths.extend(QUERIES.iter().map(|query| format!("{path}?{query}")));
                }
            }
        }
        let paths = paths.iter().flat_map(|path| ids(path)).map(|path| format!("/api/{version}{path}"));
        all.extend(paths.map(|path| Question { path, is_part: false, is_api: true }));
    }
    all
}

/// Sends all requests and returns the responses by request.
async fn everything(visitor: &Visitor, api: &Caller, parts: bool) -> BTreeMap<String, (u16, String)> {
    let mut answers = BTreeMap::new();
    for question in questions(api, parts).await {
        answers.insert(question.name(), question.ask(visitor, api).await);
    }
    answers
}

/// Whether a response shows something of the hidden cohort, whose resources have these ids.
pub(super) fn shows_hidden(status: u16, text: &str, hidden: &[(&'static str, i64)]) -> bool {
    // A search text of the user is shown in its field.
    let text = text.replace("value=\"hush\"", "");
    // Ids count too: most lists of the first version contain only URIs.
    text.contains(HIDDEN) || status == 200 && hidden.iter().any(|(kind, id)| refers_to(&text, kind, *id))
}

async fn nothing_of_another_cohort_is_seen(backend: Backend) {
    let house = two_cohorts(backend).await;
    house.add("rita", &["user"]).await;
    let given = house.scope("rita", "keeper", &json!(["plain-cohort"])).await;
    assert_eq!((&given["has_role"], &given["cohorts"][0]["label"]), (&json!(true), &json!("plain-cohort")));
    let (rita, api) = (Visitor::logged_in(house.url(), "rita", GOOD).await, house.server.basic("rita", GOOD));
    let (admin, all) = (house.admin().await, house.server.admin());

    // The responses come from the same code on all databases; the statements may differ.
    let is_first = backend == Backend::Sqlite;
    let seen = everything(&rita, &api, is_first).await;
    let hidden = hidden_ids(&all).await;
    assert!(hidden.len() >= 12, "{hidden:?}");
    for (asked, (status, text)) in &seen {
        assert!(*status < 500, "{asked}: {status} {text}");
        assert!(!shows_hidden(*status, text, &hidden), "{asked} shows what is hidden: {text}");
    }
    let with = |word: &str, all: &BTreeMap<String, (u16, String)>| {
        all.iter()
            .filter(|(_, (status, text))| *status == 200 && text.contains(word))
            .map(|(asked, _)| asked.clone())
            .collect::<Vec<_>>()
    };
    // The search would have been detected: the administrator finds the word wherever rita finds the word of her cohort.
    let plain = with("plain-", &seen).len();
    assert!(plain > 100, "{plain}");
    if is_first {
        let hidden = with(HIDDEN, &everything(&admin, &all, true).await).len();
        assert!(hidden >= plain, "{plain} and {hidden}");
    }

    // Numbers only count what she can see.
    for (path, wanted) in [
        ("cohorts", 1),
        ("subjects", 1),
        ("experiments", 1),
        ("actions", 2),
        ("callback_executions", 4),
        ("scans", 1),
        ("external_subject_links", 1),
        ("external_experiment_links", 1),
    ] {
        let versions: &[&str] = if path == "callback_executions" { &["v2"] } else { &["v1", "v2"] };
        for version in versions {
            for query in ["", "?limit=1"] {
                // The cached total of another user who asked a moment before must not be used.
                all.get(&format!("/api/{version}/{path}{query}")).await.expect(200);
                let path = format!("/api/{version}/{path}{query}");
                let list = api.get(&path).await.expect(200);
                assert_eq!(list["count"], wanted, "{path}: {list}");
            }
        }
    }
    let home = rita.get("/").await.shows(200, "plain-experiment-1");
    assert!(!home.text.contains("<b>2</b>"), "{}", home.text);
    // Archived experiments are not shown either, though their actions are the newest.
    assert!(!home.text.contains("plain-experiment-2"), "{}", home.text);
    // By label, they do not seem to exist.
    for path in [
        "cohorts/by-label/hushhush-cohort",
        "cohorts/hushhush-cohort/subjects",
        "cohorts/hushhush-cohort/subjects/hushhush-subject",
        "cohorts/hushhush-cohort/subjects/hushhush-subject/experiments",
        "cohorts/hushhush-cohort/subjects/hushhush-subject/experiments/hushhush-experiment-1",
    ] {
        let refused = api.get(&format!("/api/v2/{path}")).await.expect(404);
        assert_eq!(
            refused["message"],
            "There is no cohort 'hushhush-cohort' in the cohorts to which your role is limited."
        );
    }
    for path in
        ["cohorts/hushhush-cohort", "subjects/hushhush-subject", "experiments/hushhush-experiment-1?filter_field=label"]
    {
        api.get(&format!("/api/v1/{path}")).await.expect(404);
    }
    // Permissions for the whole study are not included.
    for path in [
        "/users",
        "/users/1",
        "/roles",
        "/mail",
        "/audit",
        "/audit.csv",
        "/upload_data",
        "/dead_letters",
        "/configuration",
    ] {
        rita.get(path).await.shows(403, if path == "/configuration" { "admin" } else { "access to the whole study" });
    }
    rita.get("/account").await.shows(200, "Visible cohorts</dt><dd>plain-cohort<");
    api.post("/api/v2/cohorts", json!({ "label": "mine" })).await.expect(403);
    let token = api.post("/api/v2/tokens", json!({ "label": "t" })).await.expect(201);
    let token = house.server.bearer(token["token"].as_str().unwrap());
    assert_eq!(token.get("/api/v2/cohorts").await.expect(200)["count"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_another_cohort_is_seen_on_sqlite() {
    nothing_of_another_cohort_is_seen(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_another_cohort_is_seen_on_postgres() {
    nothing_of_another_cohort_is_seen(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_another_cohort_is_seen_on_mariadb() {
    nothing_of_another_cohort_is_seen(Backend::Mariadb).await;
}

/// All resources of the hidden cohort, by kind and id.
pub(super) async fn hidden_ids(admin: &Caller) -> Vec<(&'static str, i64)> {
    let mut ids =
        vec![("cohorts", 1), ("subjects", 1), ("experiments", 1), ("experiments", 2), ("scans", 1), ("scans", 2)];
    for experiment in [1, 2] {
        let actions = admin.get(&format!("/api/v2/experiments/{experiment}/actions")).await.expect(200);
        for action in actions["actions"].as_array().unwrap() {
            let id =
                action["id"].as_i64().or_else(|| action["uri"].as_str()?.rsplit('/').next()?.parse().ok()).unwrap();
            ids.push(("actions", id));
            let action = admin.get(&format!("/api/v2/actions/{id}")).await.expect(200);
            for execution in action["executions"].as_array().unwrap() {
                let uri = execution["uri"].as_str().unwrap();
                ids.push(("callback_executions", uri.rsplit('/').next().unwrap().parse().unwrap()));
            }
        }
    }
    ids
}

/// Whether a text contains a URL that ends with this kind and id.
fn refers_to(text: &str, kind: &str, id: i64) -> bool {
    let address = format!("/{kind}/{id}");
    text.match_indices(&address).any(|(at, _)| !text[at + address.len()..].starts_with(|c: char| c.is_ascii_digit()))
}

/// Everything that the administrator reads of the hidden cohort.
async fn hidden_things(admin: &Caller) -> Vec<Value> {
    let mut things = Vec::new();
    for path in [
        "cohorts/1",
        "cohorts/1/external_urls",
        "subjects/1",
        "subjects/1/external_ids",
        "experiments/1",
        "experiments/2",
        "experiments/1/actions",
        "experiments/1/external_ids",
        "actions/1",
        "callback_executions/1",
        "callback_executions/2",
        "callback_executions/3",
        "scans",
        "cohorts",
        "subjects?limit=100",
    ] {
        let mut thing = admin.get(&format!("/api/v2/{path}")).await.expect(200);
        // It names the executions of all experiments.
        thing.as_object_mut().unwrap().remove("callback");
        things.push(thing);
    }
    things
}

/// Every change over the API of resources in the hidden cohort, or of resources that would be moved there.
pub(super) fn changes_of_hidden_things() -> Vec<(Method, &'static str, Value)> {
    let urls = json!({ "external_urls": { "XNAT": "https://x.example.com" } });
    let ids = json!({ "external_ids": { "XNAT": "x" } });
    let reason = json!({ "reason": "r" });
    let subject = json!({ "label": "x", "cohort_label": "hushhush-cohort" });
    let experiment = json!({ "label": "x", "scandate": "2024-03-01", "subject_id": 1 });
    let link = |field: &str| json!({ field: 1, "external_system_name": "XNAT", "external_id": "x" });
    let scan = json!({ "scantype_protocol": "T1w", "experiment_id": 1 });
    vec![
        (Method::PUT, "cohorts/1", json!({ "label": "x" })),
        (Method::POST, "cohorts/1/external_urls", urls),
        (Method::PUT, "cohorts/1/external_urls/XNAT", json!({ "external_url": "https://x.example.com" })),
        (Method::DELETE, "cohorts/1/external_urls/XNAT", json!({})),
        (Method::POST, "subjects", subject),
        (Method::POST, "subjects", json!({ "label": "x", "cohort_label": "1" })),
        (Method::PUT, "subjects/1", json!({ "label": "x" })),
        // Moving resources there is refused too.
        (Method::PUT, "subjects/2", json!({ "cohort_label": "hushhush-cohort" })),
        (Method::DELETE, "subjects/1?reason=r", json!({})),
        (Method::POST, "subjects/1/restore", json!({})),
        (Method::POST, "subjects/1/external_ids", ids.clone()),
        (Method::PUT, "subjects/1/external_ids/XNAT", json!({ "external_id": "x" })),
        (Method::DELETE, "subjects/1/external_ids/XNAT", json!({})),
        (Method::POST, "experiments", experiment),
        (Method::PUT, "experiments/1/state", json!({ "state": "manual_qc" })),
        (Method::DELETE, "experiments/1?reason=r", json!({})),
        (Method::POST, "experiments/2/restore", json!({})),
        (Method::POST, "experiments/1/release", json!({})),
        (Method::POST, "experiments/1/external_ids", ids),
        (Method::PUT, "experiments/1/external_ids/XNAT", json!({ "external_id": "x" })),
        (Method::DELETE, "experiments/1/external_ids/XNAT", json!({})),
        (Method::POST, "external_subject_links", link("subject_id")),
        (Method::PUT, "external_subject_links", link("subject_id")),
        (Method::POST, "external_experiment_links", link("experiment_id")),
        (Method::PUT, "external_experiment_links", link("experiment_id")),
        (Method::POST, "scans", scan),
        (Method::PUT, "actions/1", json!({ "return_value": "x" })),
        (Method::PUT, "callback_executions/1", json!({ "status": "finished", "result": "success" })),
        (Method::PUT, "callback_executions/2", json!({ "run_log": "x" })),
        (Method::POST, "callback_executions/1/retry", reason.clone()),
        (Method::POST, "callback_executions/2/skip", reason),
        (Method::POST, "callback_executions/2/mark", json!({ "result": "success", "reason": "r" })),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_another_cohort_is_touched() {
    for backend in [Backend::Sqlite, Backend::Postgres, Backend::Mariadb] {
        let house = two_cohorts(backend).await;
        house.add("rita", &["user"]).await;
        house.scope("rita", "keeper", &json!([2])).await;
        let (rita, api) = (Visitor::logged_in(house.url(), "rita", GOOD).await, house.server.basic("rita", GOOD));
        let admin = house.server.admin();
        let before = hidden_things(&admin).await;
        for (method, path, body) in changes_of_hidden_things() {
            for version in ["v1", "v2"] {
                let full = format!("/api/{version}/{path}");
                let answer = api.send(api.request(method.clone(), &full).json(&body)).await;
                // Operations that v1 does not have are 404 or 405 anyway.
                assert!(
                    matches!(answer.status.as_u16(), 404 | 405),
                    "{method} {full}: {} {}",
                    answer.status,
                    answer.body
                );
                if version == "v2" {
                    assert_eq!(answer.status, 404, "{method} {full}: {}", answer.body);
                }
            }
        }
        for (path, form) in [
            ("/experiments/1/transition", vec![("state", "3"), ("version", "1")]),
            ("/callback_executions/2/intervene", vec![("what", "skip"), ("reason", "r")]),
        ] {
            rita.post(path, &form).await.shows(404, "in the cohorts to which your role is limited");
        }
        let form = [("id", "2"), ("id", "6"), ("what", "skip"), ("reason", "r")];
        rita.post("/callback_executions/intervene", &form)
            .await
            .shows(200, "in the cohorts to which your role is limited");
        // One by one: hers are moved, the others do not seem to exist.
        let body = json!({ "experiments": [1, 3], "state": "check" });
        let bulk = api.post("/api/v2/experiments/bulk/transition", body).await.expect(200);
        assert_eq!(
            bulk["results"][0]["error"]["message"],
            "There is no experiment 1 in the cohorts to which your role is limited."
        );
        assert_eq!((&bulk["failed"], &bulk["results"][1]["state"]["label"]), (&json!(1), &json!("check")), "{bulk}");
        let session = |label: &str| json!([{ "label": label, "scandate": "2024-03-01" }]);
        let import = json!([
            { "cohort": "hushhush-cohort", "label": "x", "experiments": session("x") },
            { "cohort": "hushhush-cohort", "label": "hushhush-subject", "experiments": session("x") },
            { "cohort": "new", "label": "x" },
            { "cohort": "plain-cohort", "label": "plain-subject", "experiments": session("y") },
        ]);
        let imported = api.post("/api/v2/import", import).await.expect(200);
        assert_eq!(
            (&imported["errors"], &imported["experiments"], &imported["subjects"]),
            (&json!(3), &json!(1), &json!(0)),
            "{imported}"
        );
        // The secret of an attempt is valid everywhere, even with a login that would not be sufficient; without it, as
        // above.
        let path = "/api/v2/callback_executions/4";
        let report = json!({ "result_log": "from a worker" });
        api.put(path, report.clone()).await.expect(404);
        let secret = execution_secret("a key of the tests", 4, 1);
        let mut with_secret = report;
        with_secret["secret"] = json!(secret);
        // The execution ended when its experiment was archived: 409, not 404.
        api.put(path, with_secret.clone()).await.expect(409);
        with_secret["secret"] = json!(execution_secret("a key of the tests", 3, 1));
        api.put(path, with_secret).await.expect(404);
        // Operations on the whole study, and new labels, whose refusal would reveal the labels of others.
        api.post("/api/v2/service/check_timeouts", json!({})).await.expect(403);
        for label in ["hushhush-cohort", "free"] {
            for version in ["v1", "v2"] {
                let refused =
                    api.put(&format!("/api/{version}/cohorts/2"), json!({ "label": label })).await.expect(403);
                assert!(refused["message"].as_str().unwrap().contains("the whole study"), "{refused}");
            }
        }
        api.put("/api/v2/cohorts/2", json!({ "label": "plain-cohort", "description": "hers" })).await.expect(200);
        let scans = |protocol: &str| {
            let scans = json!([{ "modality": "MR", "protocol": protocol }]);
            let session = json!([{ "label": format!("with {protocol}"), "scandate": "2024-03-01", "scans": scans }]);
            json!([{ "cohort": "plain-cohort", "label": "plain-subject", "experiments": session }])
        };
        let imported = api.post("/api/v2/import", scans("T9")).await.expect(200);
        assert_eq!(
            imported["results"][0]["experiments"][0]["error"],
            "unknown scantype 'T9', and you are not allowed to create it"
        );
        assert_eq!(api.post("/api/v2/import", scans("T1w")).await.expect(200)["experiments"], 1);
        // Resources that all users share are not searched in other cohorts.
        let scan = json!({ "scantype_protocol": "T9", "experiment_id": 3 });
        let refused = api.post("/api/v2/scans", scan).await.expect(404);
        assert!(refused["message"].as_str().unwrap().ends_with("'T9'."), "{refused}");
        let after = hidden_things(&admin).await;
        for (before, after) in before.iter().zip(&after).take(12) {
            assert_eq!(before, after);
        }
        assert_eq!((&after[13]["count"], &after[14]["count"]), (&json!(2), &json!(2)));
    }
}
