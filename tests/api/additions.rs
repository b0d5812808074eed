//! What is new beside the existing product.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Server, WORKFLOW};
use crate::support::{Backend, Study, ledger_problems};

fn labels(list: &Value, field: &str) -> Vec<String> {
    list[field].as_array().unwrap().iter().map(|one| one["label"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn experiments_are_filtered_ordered_and_counted() {
    for backend in [Backend::Sqlite, Backend::Postgres, Backend::Mariadb] {
        let server = Server::study(backend).await;
        let admin = server.admin();
        let second = WORKFLOW.replace("imaging_qc_2024", "other");
        admin
            .post("/api/v2/service/config/import-workflow", json!({ "workflow_definition": second }))
            .await
            .expect(201);
        admin.post("/api/v2/cohorts", json!({ "label": "followup" })).await.expect(201);
        admin.post("/api/v2/subjects", json!({ "label": "sub-01", "cohort_label": "followup" })).await.expect(201);
        let import = json!([
            { "cohort": "baseline", "label": "sub-01", "experiments": [
                { "label": "A_1", "scandate": "2024-01-01", "workflow": "imaging_qc_2024", "variables": { "age": 31, "hand": "left", "ok": true } },
                { "label": "b%2", "scandate": "2024-02-01", "workflow": "imaging_qc_2024", "variables": { "age": 64.5, "hand": "right" } } ] },
            { "cohort": "followup", "label": "sub-01", "experiments": [
                { "label": "c_3", "scandate": "2024-03-01", "workflow": "other", "variables": { "hand": "left" } } ] },
        ]);
        let taken = admin.post("/api/v2/import", import).await.expect(200);
        assert_eq!((&taken["experiments"], &taken["errors"]), (&json!(3), &json!(0)), "{taken}");
        admin
            .put("/api/v2/callback_executions/1", json!({ "status": "finished", "result": "failed" }))
            .await
            .expect(200);
        admin.put("/api/v2/callback_executions/2", json!({ "status": "skipped" })).await.expect(200);
        for (query, wanted) in [
            ("", vec!["A_1", "b%2", "c_3"]),
            ("cohort=baseline", vec!["A_1", "b%2"]),
            ("cohort=2", vec!["c_3"]),
            ("workflow=other", vec!["c_3"]),
            ("workflow=/api/v2/workflows/1", vec!["A_1", "b%2"]),
            ("subject=1", vec!["A_1", "b%2"]),
            ("subject_id=3", vec!["c_3"]),
            ("state=check", vec!["b%2", "c_3"]),
            ("state=check&workflow=imaging_qc_2024", vec!["b%2"]),
            ("state=6", vec!["A_1"]),
            ("label=_", vec!["A_1", "c_3"]),
            ("label=a_", vec!["A_1"]),
            ("label=%25", vec!["b%2"]),
            ("scandate_from=2024-01-15&scandate_to=2024-02-01", vec!["b%2"]),
            ("scandate=2024-03-01T00:00:00", vec!["c_3"]),
            ("state_since_from=2020-01-01&state_since_to=2020-12-31", vec![]),
            ("state_since_from=2020-01-01", vec!["A_1", "b%2", "c_3"]),
            ("variable.hand=left", vec!["A_1", "c_3"]),
            ("variable.hand=left&variable.age=31", vec!["A_1"]),
            ("variable.age=64.50", vec!["b%2"]),
            ("variable.ok=true", vec!["A_1"]),
            ("variable.nothing=1", vec![]),
            ("order=-scandate", vec!["c_3", "b%2", "A_1"]),
            ("order=label&limit=1&offset=1", vec!["b%2"]),
            ("order=-id&limit=2", vec!["c_3", "b%2"]),
            ("after=1&limit=1", vec!["b%2"]),
        ] {
            for version in ["v1", "v2"] {
                let list = server.bob().get(&format!("/api/{version}/experiments?{query}")).await.expect(200);
                let rows = list["experiments"].as_array().unwrap().len();
                assert_eq!(rows, wanted.len(), "{backend:?} {version} {query}: {list}");
                if version == "v2" {
                    assert_eq!(labels(&list, "experiments"), wanted, "{backend:?} {query}");
                }
                if !query.contains("limit") {
                    assert_eq!(list["count"], wanted.len(), "{query}");
                }
            }
        }
        assert_eq!(server.bob().get("/api/v2/experiments?order=label&limit=1").await.expect(200)["count"], 3);
        server.bob().get("/api/v2/experiments?cohort=nowhere").await.expect(404);
    }
}

/// Follows the links of a list from its first page to its last.
#[tokio::test(flavor = "multi_thread")]
async fn lists_link_to_their_neighbours() {
    let server = Server::study(Backend::Postgres).await;
    let subjects: Vec<Value> =
        (0..25).map(|number| json!({ "cohort": "baseline", "label": format!("many-{number:02}") })).collect();
    server.admin().post("/api/v2/import", json!(subjects)).await.expect(200);
    let bob = server.bob();
    for first in ["/api/v2/subjects?limit=10&label=many", "/api/v1/subjects?limit=10"] {
        let (mut path, mut seen, mut pages) = (first.to_owned(), 0, 0);
        loop {
            let answer = bob.get(&path).await;
            let links: Vec<String> =
                answer.headers.get_all("link").iter().map(|link| link.to_str().unwrap().to_owned()).collect();
            let list = answer.expect(200);
            seen += list["subjects"].as_array().unwrap().len();
            pages += 1;
            assert_eq!(list["count"], if first.contains("many") { 25 } else { 27 });
            let next = links.iter().find(|link| link.ends_with("rel=\"next\""));
            let Some(next) = next else { break };
            assert!(next.contains("after="), "a page costs what the first one does: {next}");
            path = next[1..next.find('>').unwrap()].to_owned();
        }
        assert_eq!((seen, pages), if first.contains("many") { (25, 3) } else { (27, 3) });
    }
    let answer = bob.get("/api/v2/experiments?order=label&limit=5&offset=5").await;
    let links: Vec<&str> = answer.headers.get_all("link").iter().map(|link| link.to_str().unwrap()).collect();
    assert!(links.iter().any(|link| link.contains("offset=0") && link.ends_with("rel=\"prev\"")), "{links:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_are_right_after_every_change() {
    let server = Server::study(Backend::Postgres).await;
    let bob = server.bob();
    for number in 1..=10 {
        server.experiment(&format!("e{number}")).await;
        assert_eq!(bob.get("/api/v2/experiments?limit=1").await.expect(200)["count"], number);
        assert_eq!(bob.get("/api/v2/experiments?limit=1&state=check").await.expect(200)["count"], number);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_experiments_move_in_one_request_each_by_itself() {
    let server = Server::study(Backend::Sqlite).await;
    for number in 1..=3 {
        server.experiment(&format!("e{number}")).await;
    }
    let alice = server.alice();
    alice.put("/api/v2/experiments/2/state", json!({ "state": "failed" })).await.expect(200);
    let body = json!({ "experiments": [1, 2, 99, 3], "state": "failed", "freetext": "scanner was broken" });
    server.bob().post("/api/v2/experiments/bulk/transition", body.clone()).await.expect(403);
    let done = alice.post("/api/v2/experiments/bulk/transition", body).await.expect(200);
    assert_eq!((&done["succeeded"], &done["failed"]), (&json!(2), &json!(2)));
    let results = done["results"].as_array().unwrap();
    let success: Vec<bool> = results.iter().map(|one| one["success"].as_bool().unwrap()).collect();
    assert_eq!(success, [true, false, false, true]);
    assert_eq!(results[1]["error"]["errorclass"], "NoValidTransitionError");
    assert_eq!(results[1]["state"]["label"], "failed");
    assert_eq!(results[2]["state"], Value::Null);
    let history = alice.get("/api/v2/experiments/3/actions").await.expect(200);
    let last = alice.get(history["actions"][1]["uri"].as_str().unwrap()).await.expect(200);
    assert_eq!(last["freetext"], "scanner was broken");
    for body in [
        json!({}),
        json!({ "experiments": "all", "state": "failed" }),
        json!({ "experiments": vec![1; 1001], "state": "x" }),
    ] {
        alice.post("/api/v2/experiments/bulk/transition", body).await.expect(400);
    }
    let study = Study::of(&server.database).await;
    assert_eq!(ledger_problems(&study).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_may_come_again_and_what_is_wrong_keeps_nothing_else_out() {
    let server = Server::study(Backend::Mariadb).await;
    let admin = server.admin();
    let list = json!([
        { "cohort": "new", "label": "s1", "date_of_birth": "1950-01-01", "external_ids": { "XNAT": "S1" }, "experiments": [
            { "label": "e1", "scandate": "2024-01-01T10:00:00", "scans": [{ "modality": "MR", "protocol": "T1w" }],
              "external_ids": { "XNAT": "E1" }, "variables": { "age": 74 } },
            { "label": "e2", "scandate": "soon" },
            { "label": "e3", "scandate": "2024-01-01", "workflow": "no such" } ] },
        { "cohort": "new", "label": "s2" },
        { "label": "s3" },
        { "cohort": "new", "label": "s4", "date_of_birth": "tomorrow" },
        { "cohort": "new", "label": "s6", "external_ids": { "XNATT": "1" } },
        "s5",
    ]);
    let first = admin.post("/api/v2/import", list.clone()).await.expect(200);
    assert_eq!(
        (&first["subjects"], &first["experiments"], &first["errors"]),
        (&json!(2), &json!(1), &json!(6)),
        "{first}"
    );
    assert!(first["results"][0]["experiments"][1]["error"].as_str().unwrap().contains("scandate"));
    assert!(first["results"][0]["experiments"][2]["error"].as_str().unwrap().contains("no such"));
    assert!(first["results"][2]["error"].as_str().unwrap().contains("cohort"));
    let second = admin.post("/api/v2/import", list.clone()).await.expect(200);
    assert_eq!((&second["subjects"], &second["experiments"], &second["errors"]), (&json!(0), &json!(0), &json!(6)));
    assert_eq!(
        second["results"][0]["experiments"][0]["experiment"],
        first["results"][0]["experiments"][0]["experiment"]
    );
    let experiment = admin.get("/api/v2/cohorts/new/subjects/s1/experiments/e1").await.expect(200);
    assert_eq!(experiment["external_ids"], json!({ "XNAT": "E1" }));
    assert_eq!(experiment["variable_map"], json!({ "age": 74 }));
    assert_eq!(admin.get("/api/v2/scans").await.expect(200)["count"], 1);
    // What was archived stays archived.
    let uri = first["results"][0]["experiments"][0]["experiment"]["uri"].as_str().unwrap();
    admin.delete(&format!("{uri}?reason=wrong")).await.expect(200);
    let third = admin.post("/api/v2/import", list.clone()).await.expect(200);
    assert_eq!((&third["experiments"], &third["errors"]), (&json!(0), &json!(6)));
    let s2 = first["results"][1]["subject"]["uri"].as_str().unwrap();
    admin.delete(&format!("{s2}?reason=wrong")).await.expect(200);
    assert_eq!(admin.post("/api/v2/import", list).await.expect(200)["subjects"], 0);
    admin.post("/api/v2/import", json!({ "cohort": "new" })).await.expect(400);
    server.bob().post("/api/v2/import", json!([])).await.expect(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_again_is_done_once() {
    for backend in [Backend::Sqlite, Backend::Postgres, Backend::Mariadb] {
        let server = Server::study(backend).await;
        let admin = server.admin();
        let send = async |key: &str, label: &str| {
            let request = admin.request(Method::POST, "/api/v2/cohorts").header("idempotency-key", key);
            admin.send(request.json(&json!({ "label": label }))).await
        };
        let first = send("k1", "once").await;
        assert_eq!(first.header("idempotency-replayed"), "");
        let first = first.expect(201);
        let again = send("k1", "once").await;
        assert_eq!((again.header("idempotency-replayed"), again.header("location")), ("true", "/api/v2/cohorts/2"));
        assert_eq!(again.expect(201), first);
        send("k1", "other").await.expect(422);
        send("k2", "once").await.expect(409);
        send("k2", "once").await.expect(409);
        // Of another user it is another key.
        let request = server.alice().request(Method::POST, "/api/v2/cohorts").header("idempotency-key", "k1");
        server.alice().send(request.json(&json!({ "label": "of_alice" }))).await.expect(201);
        // What is refused for who asks may be asked again.
        let bob = server.bob();
        let request = || {
            bob.request(Method::POST, "/api/v2/cohorts").header("idempotency-key", "k3").json(&json!({ "label": "b" }))
        };
        bob.send(request()).await.expect(403);
        admin.put("/api/v2/users/bob/roles/superuser", json!({})).await.expect(200);
        bob.send(request()).await.expect(201);
        assert_eq!(admin.get("/api/v2/cohorts").await.expect(200)["count"], 4);
        // At the same moment: one does it, the others get its answer or come again.
        let statuses = tokio::join!(send("k4", "race"), send("k4", "race"), send("k4", "race"));
        for answer in [statuses.0, statuses.1, statuses.2] {
            let replayed = answer.header("idempotency-replayed") == "true";
            let told = answer.body["message"].as_str().unwrap_or_default().to_owned();
            assert!(answer.status == 201 || (answer.status == 409 && told.contains("worked on")), "{replayed} {told}");
        }
        assert_eq!(admin.get("/api/v2/cohorts").await.expect(200)["count"], 5);
        send(&"k".repeat(256), "long").await.expect(400);
        // A token sees nothing of what its owner was answered otherwise, and secrets are not kept for repetitions.
        let key =
            |path: &str, body: Value| admin.request(Method::POST, path).header("idempotency-key", "k5").json(&body);
        let token = admin.send(key("/api/v2/tokens", json!({ "label": "t", "permissions": [] }))).await.expect(201);
        let another = admin.send(key("/api/v2/tokens", json!({ "label": "t", "permissions": [] }))).await.expect(201);
        assert_ne!(token["token"], another["token"]);
        admin.send(key("/api/v2/cohorts", json!({ "label": "mine" }))).await.expect(201);
        let limited = server.bearer(token["token"].as_str().unwrap());
        let request = limited.request(Method::POST, "/api/v2/cohorts").header("idempotency-key", "k5");
        limited.send(request.json(&json!({ "label": "mine" }))).await.expect(403);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_when_the_caller_goes_away_and_its_answer_waits() {
    let server = Server::study(Backend::Sqlite).await;
    let admin = server.admin();
    let subjects: Vec<Value> = (0..150).map(|number| json!({ "cohort": "c", "label": format!("s{number}") })).collect();
    let request = || admin.request(Method::POST, "/api/v2/import").header("idempotency-key", "cut").json(&subjects);
    let cut = request().timeout(std::time::Duration::from_millis(30)).send().await;
    assert!(cut.is_err_and(|error| error.is_timeout()), "it was done before it could be cut");
    let answer = crate::support::eventually("the answer of the first request", async || {
        let answer = admin.send(request()).await;
        (answer.status != 409).then_some(answer)
    })
    .await;
    assert_eq!(answer.header("idempotency-replayed"), "true");
    assert_eq!(answer.expect(200)["subjects"], 150);
}

#[tokio::test(flavor = "multi_thread")]
async fn q6_a_long_log_is_cut_in_the_middle_and_the_report_is_taken() {
    let server = Server::study(Backend::Mariadb).await;
    server.experiment("e").await;
    let log = format!("begin{}end", "é".repeat(1_500_000));
    let body = json!({ "status": "finished", "result": "success", "run_log": log, "result_values": "{\"rating\": 3}" });
    let taken = server.admin().put("/api/v2/callback_executions/1", body).await.expect(200);
    let kept = taken["run_log"].as_str().unwrap();
    assert!(kept.len() < 1_100_000 && kept.starts_with("begin") && kept.ends_with("end") && kept.contains("left out"));
    // A text of JSON is as good as the object in it: answers have it so.
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
async fn a_caller_gets_the_fields_that_it_wants() {
    let server = Server::study(Backend::Sqlite).await;
    let bob = server.bob();
    let get = async |mask: &str, path: &str| bob.send(bob.request(Method::GET, path).header("x-fields", mask)).await;
    assert_eq!(
        get("{label,cohort{uri}}", "/api/v2/subjects/1").await.expect(200),
        json!({
            "label": "sub-01", "cohort": { "uri": "/api/v2/cohorts/1" }
        })
    );
    assert_eq!(
        get("subjects{id}", "/api/v2/subjects").await.expect(200),
        json!({ "subjects": [{ "id": 1 }, { "id": 2 }] })
    );
    get("{label", "/api/v2/subjects/1").await.expect(400);
    get("{label}", "/api/v2/subjects/99").await.expect(404);
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
    // A condition that cannot be evaluated says why.
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
    // What was marked counts as if it had been reported.
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
        // Its history stays, and it does not move.
        let history = admin.get("/api/v2/experiments/1/actions").await.expect(200);
        assert_eq!(history["count"], 1);
        let run = admin.get("/api/v2/callback_executions/1").await.expect(200);
        assert_eq!(run["status"], "skipped");
        assert!(run["run_log"].as_str().unwrap().contains("archived"));
        admin.put("/api/v2/experiments/1/state", json!({ "state": "failed" })).await.expect(409);
        admin.put("/api/v2/callback_executions/1", json!({ "status": "running" })).await.expect(409);
        admin.put("/api/v2/experiments/1/external_ids/XNAT", json!({ "external_id": "x" })).await.expect(409);
        admin.delete("/api/v2/experiments/1?reason=again").await.expect(409);
        // The right one takes its label; then the wrong one cannot come back.
        let body = json!({ "label": "e", "scandate": "2024-01-01", "subject_id": 1 });
        admin.post("/api/v2/experiments", body).await.expect(201);
        admin.post("/api/v2/experiments/1/restore", json!({})).await.expect(409);
        admin.delete("/api/v2/experiments/2?reason=both").await.expect(200);
        assert_eq!(admin.post("/api/v2/experiments/1/restore", json!({})).await.expect(200)["archived"], Value::Null);
        admin.post("/api/v2/experiments/1/restore", json!({})).await.expect(409);
        admin.post("/api/v2/callback_executions/1/retry", json!({ "reason": "back" })).await.expect(200);
        // A subject goes with its experiments, and nothing is added to it.
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
