//! Additions to version 8.1 for single resources; see also `lists` and `many`.

use reqwest::Method;
use serde_json::{Value, json};

use super::Server;
use crate::support::{Backend, Study, ledger_problems};

#[tokio::test(flavor = "multi_thread")]
async fn q6_a_long_log_is_cut_in_the_middle_and_the_report_is_taken() {
    let server = Server::study(Backend::Mariadb).await;
    server.experiment("e").await;
    let log = format!("begin{}end", "é".repeat(1_500_000));
    let body = json!({ "status": "finished", "result": "success", "run_log": log, "result_values": "{\"rating\": 3}" });
    let taken = server.admin().put("/api/v2/callback_executions/1", body).await.expect(200);
    let kept = taken["run_log"].as_str().unwrap();
    assert!(
        kept.len() < 1_100_000 && kept.starts_with("begin") && kept.ends_with("end") && kept.contains("bytes omitted")
    );
    // JSON text is accepted instead of an object, because responses contain it.
    assert_eq!(server.admin().get("/api/v2/experiments/1").await.expect(200)["variable_map"]["qc"], 3);
    for values in [json!("no json"), json!([1]), json!(7)] {
        let body = json!({ "result_values": values });
        server.admin().put("/api/v2/callback_executions/2", body).await.expect(400);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_made_to_what_was_seen_or_not_at_all() {
    let server = Server::study(Backend::Postgres).await;
    let admin = server.admin();
    server.experiment("e").await;
    server.experiment("f").await;
    for (version, run) in [("v1", "callback_executions/1"), ("v2", "callback_executions/3")] {
        for (path, one, other) in [
            ("cohorts/1", json!({ "description": "a" }), json!({ "description": "b" })),
            ("subjects/1", json!({ "date_of_birth": "1950-01-01" }), json!({ "date_of_birth": "1950-01-02" })),
            ("users/3", json!({ "name": "A" }), json!({ "name": "B" })),
            ("callbacks/3", json!({ "description": "a" }), json!({ "description": "b" })),
            ("actions/1", json!({ "return_value": "a" }), json!({ "return_value": "b" })),
            (run, json!({ "run_log": "a" }), json!({ "run_log": "b" })),
        ] {
            let path = format!("/api/{version}/{path}");
            let tag = admin.get(&path).await.header("etag").to_owned();
            assert!(tag.starts_with('"') && tag.len() > 10, "{path}: {tag}");
            let put = async |tag: &str, body: &Value| {
                admin.send(admin.request(Method::PUT, &path).header("if-match", tag).json(body)).await
            };
            let changed = put(&tag, &one).await;
            let new = changed.header("etag").to_owned();
            changed.expect(200);
            assert_ne!(new, tag, "{path}");
            put(&tag, &other).await.expect(412);
            put("\"nonsense\"", &other).await.expect(412);
            let unchanged = admin.request(Method::GET, &path).header("if-none-match", format!("\"x\", W/{new}"));
            assert_eq!(admin.send(unchanged).await.status, 304, "{path}");
            put("*", &other).await.expect(200);
            let seen = admin.request(Method::GET, &path).header("if-none-match", &new);
            admin.send(seen).await.expect(200);
        }
        let path = format!("/api/{version}/experiments/1");
        let tag = admin.get(&format!("{path}/state")).await.header("etag").to_owned();
        let to = if version == "v1" { "failed" } else { "check" };
        let put = |tag: &str| {
            let request = admin.request(Method::PUT, &format!("{path}/state")).header("if-match", tag);
            admin.send(request.json(&json!({ "state": to })))
        };
        put("\"nonsense\"").await.expect(412);
        put(&tag).await.expect(200);
        put(&tag).await.expect(412);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_explained_why_an_experiment_does_not_move() {
    let server = Server::study(Backend::Sqlite).await;
    server.experiment("e").await;
    let told = server.bob().get("/api/v2/experiments/1/explain").await.expect(200);
    assert_eq!(told["state"]["label"], "check");
    let ways = told["transitions"].as_array().unwrap();
    assert_eq!(ways.len(), 3);
    assert_eq!((&ways[0]["destination"]["label"], &ways[0]["value"]), (&json!("manual_qc"), &json!(false)));
    assert!(ways[0]["condition"].as_str().unwrap().contains("count_scans"));
    assert_eq!(
        (&ways[2]["destination"]["label"], &ways[2]["value"], &ways[2]["condition"]),
        (&json!("failed"), &json!(true), &Value::Null)
    );
    // A condition that cannot be evaluated is explained.
    let done = json!({ "status": "finished", "result": "success", "result_values": {} });
    server.admin().put("/api/v2/callback_executions/1", done).await.expect(200);
    let told = server.bob().get("/api/v2/experiments/1/explain").await.expect(200);
    assert_eq!(told["transitions"][1]["value"], true);
    server.bob().get("/api/v2/experiments/99/explain").await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn q5_executions_are_run_again_skipped_and_marked_with_a_reason() {
    let server = Server::study(Backend::Postgres).await;
    let admin = server.admin();
    server.experiment("e").await;
    let (first, second) = ("/api/v2/callback_executions/1", "/api/v2/callback_executions/2");
    for (path, body) in [
        (format!("{first}/retry"), json!({})),
        (format!("{first}/skip"), json!({ "reason": "  " })),
        (format!("{first}/mark"), json!({ "reason": "x" })),
        (format!("{first}/mark"), json!({ "reason": "x", "result": "great" })),
        (format!("{first}/mark"), json!({ "reason": "x", "result": "none" })),
    ] {
        admin.post(&path, body).await.expect(400);
    }
    server.alice().post(&format!("{first}/skip"), json!({ "reason": "x" })).await.expect(403);
    let again = admin.post(&format!("{first}/retry"), json!({ "reason": "stuck" })).await.expect(200);
    assert_eq!((&again["status"], &again["attempt"]), (&json!("queued"), &json!(2)));
    assert!(again["run_log"].as_str().unwrap().contains("by admin: stuck"));
    let skipped = admin.post(&format!("{second}/skip"), json!({ "reason": "no mail" })).await.expect(200);
    assert_eq!(skipped["status"], "skipped");
    let marked =
        admin.post(&format!("{first}/mark"), json!({ "result": "success", "reason": "seen" })).await.expect(200);
    assert_eq!((&marked["status"], &marked["result"]), (&json!("finished"), &json!("success")));
    // A marked result counts like a reported one.
    assert_eq!(admin.get("/api/v2/experiments/1/state").await.expect(200)["state"]["label"], "processing");
    admin.post(&format!("{first}/skip"), json!({ "reason": "late" })).await.expect(409);
    let listed = admin.get("/api/v2/callback_executions?status=skipped").await.expect(200);
    assert_eq!(
        (&listed["count"], &listed["callback_executions"][0]["callback"]["label"]),
        (&json!(1), &json!("notify"))
    );
    admin.get("/api/v2/callback_executions?status=lost").await.expect(400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_is_a_graph_with_numbers() {
    let server = Server::study(Backend::Sqlite).await;
    server.experiment("e1").await;
    server.experiment("e2").await;
    let graph = server.bob().get("/api/v2/workflows/1/graph").await.expect(200);
    let states = graph["states"].as_array().unwrap();
    assert_eq!((states.len(), graph["transitions"].as_array().unwrap().len()), (6, 9));
    let check = states.iter().find(|state| state["label"] == "check").unwrap();
    assert_eq!((&check["experiments"], &check["kind"]), (&json!(2), &json!("automatic")));
    assert!(
        check["width"].as_f64().unwrap() > 0.0 && graph["transitions"][0]["path"].as_str().unwrap().starts_with('M')
    );
    let picture = server.bob().get("/api/v2/workflows/1/graph.svg").await;
    assert_eq!(picture.header("content-type"), "image/svg+xml");
    let svg = picture.expect(200);
    assert!(svg.as_str().unwrap().contains("<svg") && svg.as_str().unwrap().contains("manual_qc"));
    server.bob().get("/api/v2/workflows/9/graph").await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn e10_mistakes_are_archived_with_a_reason_and_their_labels_are_free_again() {
    for backend in [Backend::Sqlite, Backend::Postgres, Backend::Mariadb] {
        let server = Server::study(backend).await;
        let admin = server.admin();
        server.experiment("e").await;
        server.alice().delete("/api/v2/experiments/1?reason=x").await.expect(403);
        admin.delete("/api/v2/experiments/1").await.expect(400);
        let gone = admin.delete("/api/v2/experiments/1?reason=wrong%20subject").await.expect(200);
        assert_eq!((&gone["archived"]["by"], &gone["archived"]["reason"]), (&json!("admin"), &json!("wrong subject")));
        assert_eq!(admin.get("/api/v2/experiments").await.expect(200)["count"], 0);
        assert_eq!(admin.get("/api/v2/experiments?archived=true").await.expect(200)["count"], 1);
        assert_eq!(admin.get("/api/v2/subjects/1").await.expect(200)["experiments"], json!([]));
        assert_eq!(admin.get("/api/v2/states/2").await.expect(200)["experiments"], json!([]));
        // Its history is kept, and it does not move.
        let history = admin.get("/api/v2/experiments/1/actions").await.expect(200);
        assert_eq!(history["count"], 1);
        let run = admin.get("/api/v2/callback_executions/1").await.expect(200);
        assert_eq!(run["status"], "skipped");
        assert!(run["run_log"].as_str().unwrap().contains("archived"));
        admin.put("/api/v2/experiments/1/state", json!({ "state": "failed" })).await.expect(409);
        admin.put("/api/v2/callback_executions/1", json!({ "status": "running" })).await.expect(409);
        admin.put("/api/v2/experiments/1/external_ids/XNAT", json!({ "external_id": "x" })).await.expect(409);
        admin.delete("/api/v2/experiments/1?reason=again").await.expect(409);
        // The correct experiment gets its label; then the wrong one cannot be restored.
        let body = json!({ "label": "e", "scandate": "2024-01-01", "subject_id": 1 });
        admin.post("/api/v2/experiments", body).await.expect(201);
        admin.post("/api/v2/experiments/1/restore", json!({})).await.expect(409);
        admin.delete("/api/v2/experiments/2?reason=both").await.expect(200);
        assert_eq!(admin.post("/api/v2/experiments/1/restore", json!({})).await.expect(200)["archived"], Value::Null);
        admin.post("/api/v2/experiments/1/restore", json!({})).await.expect(409);
        admin.post("/api/v2/callback_executions/1/retry", json!({ "reason": "back" })).await.expect(200);
        // Archiving a subject archives its experiments, and nothing can be added to it.
        let request = admin.request(Method::DELETE, "/api/v2/subjects/1").json(&json!({ "reason": "withdrew" }));
        let gone = admin.send(request).await.expect(200);
        assert_eq!((&gone["archived"]["reason"], &gone["experiments"]), (&json!("withdrew"), &json!([])));
        assert_eq!(admin.get("/api/v2/subjects").await.expect(200)["count"], 1);
        assert_eq!(admin.get("/api/v2/experiments?archived=true").await.expect(200)["count"], 2);
        let body = json!({ "label": "x", "scandate": "2024-01-01", "subject_id": 1 });
        admin.post("/api/v2/experiments", body).await.expect(409);
        admin.put("/api/v2/subjects/1", json!({ "label": "x" })).await.expect(409);
        admin.get("/api/v2/cohorts/baseline/subjects/sub-01").await.expect(404);
        admin.post("/api/v2/subjects", json!({ "label": "sub-01", "cohort_label": "baseline" })).await.expect(201);
        admin.post("/api/v2/subjects/1/restore", json!({})).await.expect(409);
        let study = Study::of(&server.database).await;
        assert_eq!(ledger_problems(&study).await, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_learn_where_the_api_is_under_a_path_prefix_and_behind_a_proxy() {
    let environment = [
        ("SCRIPT_NAME", "/studies/one"),
        ("STUDYGOV_EXTERNAL_HOSTNAME", "governor.example.org"),
        ("STUDYGOV_EXTERNAL_PROTO", "https"),
    ];
    let server = Server::with(Backend::Sqlite, &environment).await;
    let versions = server.nobody().get("/-/versions").await.expect(200);
    assert_eq!(versions["api_versions"], json!({ "1.0": "/studies/one/api/v1/", "2.0": "/studies/one/api/v2/" }));
    assert_eq!((&versions["version"], &versions["version_list"]), (&json!("8.1.0"), &json!([8, 1, 0])));
    let admin = server.admin();
    let cohort = admin.post("/api/v2/cohorts", json!({ "label": "c" })).await;
    assert_eq!(cohort.header("location"), "/studies/one/api/v2/cohorts/1");
    let subject = admin.post("/api/v2/subjects", json!({ "label": "s", "cohort_label": "c" })).await.expect(201);
    assert_eq!(subject["uri"], "/studies/one/api/v2/subjects/1");
    assert_eq!(subject["api_uri"], "https://governor.example.org/studies/one/api/v2/subjects/1");
    assert_eq!(subject["web_uri"], "https://governor.example.org/studies/one/subjects/1");
    let document = server.nobody().get("/api/v2/swagger.json").await.expect(200);
    assert_eq!(document["servers"][0]["url"], "/studies/one/api/v2");
    let page = server.nobody().get("/api/v2/swagger-initializer.js").await.expect(200);
    assert!(page.as_str().unwrap().contains("/studies/one/api/v2/swagger.json"));
    server.nobody().get("/api/v2/").await.expect(200);
}
