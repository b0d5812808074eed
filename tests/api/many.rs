//! Bulk operations, and repeated requests.

use reqwest::Method;
use serde_json::{Value, json};

use super::Server;
use crate::support::{Backend, Study, ledger_problems};

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
    // An archived experiment remains archived.
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
        // The same key of another user is a different key.
        let request = server.alice().request(Method::POST, "/api/v2/cohorts").header("idempotency-key", "k1");
        server.alice().send(request.json(&json!({ "label": "of_alice" }))).await.expect(201);
        // A request that was refused because of its caller may be repeated.
        let bob = server.bob();
        let request = || {
            bob.request(Method::POST, "/api/v2/cohorts").header("idempotency-key", "k3").json(&json!({ "label": "b" }))
        };
        bob.send(request()).await.expect(403);
        admin.put("/api/v2/users/bob/roles/superuser", json!({})).await.expect(200);
        bob.send(request()).await.expect(201);
        assert_eq!(admin.get("/api/v2/cohorts").await.expect(200)["count"], 4);
        // At the same time: one is executed, the others get its response or have to retry.
        let statuses = tokio::join!(send("k4", "race"), send("k4", "race"), send("k4", "race"));
        for answer in [statuses.0, statuses.1, statuses.2] {
            let replayed = answer.header("idempotency-replayed") == "true";
            let told = answer.body["message"].as_str().unwrap_or_default().to_owned();
            assert!(
                answer.status == 201 || (answer.status == 409 && told.contains("in progress")),
                "{replayed} {told}"
            );
        }
        assert_eq!(admin.get("/api/v2/cohorts").await.expect(200)["count"], 5);
        send(&"k".repeat(256), "long").await.expect(400);
        // A token does not get the response of its owner's request, and secrets are not stored for repetitions.
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
    let subjects: Vec<Value> =
        (0..1000).map(|number| json!({ "cohort": "c", "label": format!("s{number}") })).collect();
    let request = || admin.request(Method::POST, "/api/v2/import").header("idempotency-key", "cut").json(&subjects);
    let there = async || admin.get("/api/v2/subjects?limit=1").await.expect(200)["count"].as_u64().unwrap();
    let before = there().await;
    let sent = tokio::spawn(request().send());
    crate::support::eventually("the first subjects of the request", async || (there().await > before).then_some(()))
        .await;
    sent.abort();
    assert!(sent.await.is_err_and(|error| error.is_cancelled()), "it was done before it could be cut");
    let answer = crate::support::eventually("the answer of the first request", async || {
        let answer = admin.send(request()).await;
        (answer.status != 409).then_some(answer)
    })
    .await;
    assert_eq!(answer.header("idempotency-replayed"), "true");
    assert_eq!(answer.expect(200)["subjects"], 1000);
}

/// Whole numbers of any size are preserved by every operation; a protocol has one modality; differences are reported.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_keeps_whole_numbers_whole_and_says_what_differs() {
    for backend in [Backend::Sqlite, Backend::Postgres, Backend::Mariadb] {
        let server = Server::study(backend).await;
        let admin = server.admin();
        // As text: macros of Rust do not support numbers of this size.
        let list = |scandate: &str, uid: &str| -> Value {
            let text = r#"[{"cohort": "c", "label": "p1", "date_of_birth": "1950-01-01", "experiments": [
                {"label": "ct1", "scandate": "2024-01-01", "scans": [{"modality": "CT", "protocol": "Head"}]},
                {"label": "mr1", "scandate": "2024-01-02", "scans": [{"modality": "MR", "protocol": "Head"}]},
                {"label": "e1", "scandate": "DATE", "variables": {"uid": UID, "deep": {"list": [UID, -UID]}, "half": 0.5}}]}]"#;
            serde_json::from_str(&text.replace("DATE", scandate).replace("UID", uid)).unwrap()
        };
        let uid = "12345678901234567890123";
        let first = admin.post("/api/v2/import", list("2024-01-01", uid)).await.expect(200);
        assert_eq!((&first["experiments"], &first["errors"]), (&json!(2), &json!(1)), "{first}");
        let refused = first["results"][0]["experiments"][1]["error"].as_str().unwrap();
        assert!(refused.contains("'Head' already has the modality CT, not MR"), "{refused}");
        let kept = admin.get("/api/v2/cohorts/c/subjects/p1/experiments/e1").await.expect(200);
        let wanted = format!(r#"{{"deep":{{"list":[{uid},-{uid}]}},"half":0.5,"uid":{uid}}}"#);
        assert_eq!(kept["variable_map"].to_string(), wanted);

        let again = admin.post("/api/v2/import", list("2024-01-01", uid)).await.expect(200);
        assert_eq!(again["results"][0]["experiments"][2]["differences"], json!([]));
        let changed = list("2024-02-02", "98765432109876543210987");
        for _ in 0..2 {
            let again = admin.post("/api/v2/import", changed.clone()).await.expect(200);
            let told = again["results"][0]["experiments"][2]["differences"].as_array().unwrap();
            let fields: Vec<&str> = told.iter().map(|one| one["field"].as_str().unwrap()).collect();
            assert_eq!(fields, ["scan_date", "var:deep", "var:uid"], "{again}");
            assert_eq!((&told[2]["stored"], &told[2]["given"]), (&json!(uid), &json!("98765432109876543210987")));
        }
        let born = json!([{ "cohort": "c", "label": "p1", "date_of_birth": "1951-01-01" }]);
        let again = admin.post("/api/v2/import", born).await.expect(200);
        let wanted = json!([{ "field": "date_of_birth", "stored": "1950-01-01", "given": "1951-01-01" }]);
        assert_eq!(again["results"][0]["differences"], wanted);
    }
}

/// A stored response is not repeated after its caller has lost the permission.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_not_repeated_to_who_may_not_do_it_any_more() {
    let server = Server::study(Backend::Sqlite).await;
    let (admin, alice) = (server.admin(), server.alice());
    let ask = async |caller: &crate::support::Caller, path: &str, body: &Value| {
        caller.send(caller.request(Method::POST, path).header("idempotency-key", format!("k {path}")).json(body)).await
    };
    let experiment = json!({ "label": "e", "scandate": "2024-03-01", "subject_id": 1 });
    let requests = [("/api/v2/experiments", experiment), ("/api/v1/cohorts", json!({ "label": "second" }))];
    for (path, body) in &requests {
        let key = |caller: &crate::support::Caller| {
            caller.request(Method::POST, path).header("idempotency-key", *path).json(body)
        };
        let first = alice.send(key(&alice)).await.expect(201);
        let again = alice.send(key(&alice)).await;
        assert_eq!(again.header("idempotency-replayed"), "true");
        assert_eq!(again.expect(201), first);
        // The key of another caller is a different key.
        assert_ne!(admin.send(key(&admin)).await.header("idempotency-replayed"), "true");
    }
    admin.delete("/api/v2/users/alice/roles/superuser").await.expect(200);
    admin.put("/api/v2/users/alice/roles/user", json!({})).await.expect(200);
    for (path, body) in &requests {
        let key = alice.request(Method::POST, path).header("idempotency-key", *path).json(body);
        let refused = alice.send(key).await;
        assert_eq!(refused.header("idempotency-replayed"), "");
        refused.expect(403);
    }
    // A new request is refused too, and its response is not stored.
    ask(&alice, "/api/v2/cohorts", &json!({ "label": "third" })).await.expect(403);
    admin.put("/api/v2/users/alice/roles/superuser", json!({})).await.expect(200);
    ask(&alice, "/api/v2/cohorts", &json!({ "label": "third" })).await.expect(201);
    for (path, body) in &requests {
        let key = alice.request(Method::POST, path).header("idempotency-key", *path).json(body);
        assert_eq!(alice.send(key).await.header("idempotency-replayed"), "true");
    }
    // Only for administrators.
    let workflow = json!({ "config_definition": "scantypes: [{modality: MR, protocol: T9}]" });
    let import = "/api/v2/service/config/import-config";
    ask(&alice, import, &workflow).await.expect(403);
    admin.put("/api/v2/users/alice/roles/admin", json!({})).await.expect(200);
    ask(&alice, import, &workflow).await.expect(201);
    admin.delete("/api/v2/users/alice/roles/admin").await.expect(200);
    ask(&alice, import, &workflow).await.expect(403);
}
