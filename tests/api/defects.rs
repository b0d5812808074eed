//! Defects of version 8.1 (`client.md` of the development kit), and the correct behaviour for each.

use reqwest::Method;
use sea_orm::EntityTrait;
use serde_json::{Value, json};

use super::{Server, WORKFLOW};
use crate::support::{Backend, Study, ledger_problems};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_already_is_a_conflict_that_says_so() {
    let server = Server::study(Backend::Postgres).await;
    let admin = server.admin();
    server.experiment("e").await;
    let user = json!({ "username": "alice", "password": "x-x-x-x-x-x", "name": "A", "email": "other@example.com" });
    for (path, body, words) in [
        ("/api/v2/cohorts", json!({ "label": "baseline" }), "'baseline'"),
        ("/api/v2/subjects", json!({ "label": "sub-01", "cohort_label": "baseline" }), "'sub-01'"),
        ("/api/v2/experiments", json!({ "label": "e", "scandate": "2024-01-01", "subject_id": 1 }), "'e'"),
        ("/api/v2/users", user, "already"),
    ] {
        let told = admin.post(path, body).await.expect(409);
        assert!(told["message"].as_str().unwrap().contains(words), "{told}");
    }
    let told = admin.put("/api/v2/subjects/2", json!({ "label": "sub-01" })).await.expect(409);
    assert!(told["message"].as_str().unwrap().contains("'sub-01'"), "{told}");
    admin.put("/api/v2/cohorts/1", json!({ "label": "baseline" })).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_by_field() {
    let server = Server::study(Backend::Sqlite).await;
    let admin = server.admin();
    let long = "x".repeat(101);
    for (path, body, fields) in [
        ("/api/v2/cohorts", json!({ "label": long }), vec!["label"]),
        ("/api/v2/cohorts", json!({ "label": "a\u{0}b" }), vec!["label"]),
        (
            "/api/v2/subjects",
            json!({ "label": long, "date_of_birth": "31-12-1948" }),
            vec!["cohort_label", "date_of_birth", "label"],
        ),
        ("/api/v2/experiments", json!({ "scandate": "yesterday" }), vec!["label", "scandate", "subject_id"]),
        ("/api/v2/users", json!({ "username": "y" }), vec!["email", "name", "password"]),
        (
            "/api/v2/users",
            json!({ "username": "y", "name": "", "email": "y@example.com", "password": "p" }),
            vec!["name"],
        ),
        ("/api/v2/scans", json!({}), vec!["experiment_id", "scantype_protocol"]),
        ("/api/v2/subjects/1/external_ids", json!({ "external_ids": ["x"] }), vec!["external_ids"]),
    ] {
        let told = admin.post(path, body).await.expect(400);
        let found: Vec<&str> = told["errors"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(found, fields, "{told}");
        assert!(told["message"].is_string() && told["code"] == 400);
    }
    for path in [
        "/api/v2/subjects?offset=-1",
        "/api/v2/experiments?limit=many",
        "/api/v2/experiments?order=colour",
        "/api/v2/experiments?order=label&after=3",
        "/api/v2/experiments?scandate_from=soon",
    ] {
        let told = admin.get(path).await.expect(400);
        assert_eq!(told["errors"].as_object().unwrap().len(), 1, "{path}: {told}");
    }
    admin.get("/api/v2/experiments?subject_id=abc").await.expect(404);
    let many: Vec<String> = (0..11).map(|number| format!("variable.v{number}=1")).collect();
    admin.get(&format!("/api/v2/experiments?{}", many.join("&"))).await.expect(400);
    for body in ["", "[]", "\"x\"", "{", "null", "[1"] {
        let request = admin.request(Method::POST, "/api/v2/cohorts").body(body);
        admin.send(request.header("content-type", "application/json")).await.expect(400);
    }
    let deep = format!("{{\"label\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    admin.send(admin.request(Method::POST, "/api/v2/cohorts").body(deep)).await.expect(400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_needs_no_birth_date_and_a_cohort_keeps_its_description() {
    let server = Server::study(Backend::Mariadb).await;
    let admin = server.admin();
    let subject =
        admin.post("/api/v2/subjects", json!({ "label": "s", "cohort_label": "baseline", "date_of_birth": null }));
    assert_eq!(subject.await.expect(201)["date_of_birth"], Value::Null);
    admin.put("/api/v2/cohorts/1", json!({ "description": "First visit" })).await.expect(200);
    assert_eq!(admin.get("/api/v1/cohorts/1").await.expect(200)["description"], "First visit");
    let kept = admin.put("/api/v2/cohorts/1", json!({ "label": "visit_1" })).await.expect(200);
    assert_eq!((&kept["label"], &kept["description"]), (&json!("visit_1"), &json!("First visit")));
    admin.put("/api/v2/cohorts/1", json!({ "description": null })).await.expect(200);
    assert_eq!(admin.get("/api/v2/cohorts/1").await.expect(200)["description"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn external_ids_and_addresses_can_be_taken_away() {
    for backend in [Backend::Sqlite, Backend::Postgres, Backend::Mariadb] {
        let server = Server::study(backend).await;
        let admin = server.admin();
        server.experiment("e").await;
        for (place, body, field) in [
            ("/api/v2/cohorts/1/external_urls", json!({ "external_url": "https://x" }), "external_urls"),
            ("/api/v2/subjects/1/external_ids", json!({ "external_id": "S1" }), "external_ids"),
            ("/api/v2/experiments/1/external_ids", json!({ "external_id": "E1" }), "external_ids"),
        ] {
            let path = format!("{place}/XNAT");
            let set = admin.put(&path, body.clone()).await.expect(201);
            assert_eq!(set[field]["XNAT"], *body.as_object().unwrap().values().next().unwrap());
            server.alice().delete(&path).await.expect(403);
            assert_eq!(admin.delete(&path).await.expect(200)[field], json!({}));
            admin.delete(&path).await.expect(404);
            admin.delete(&format!("{place}/NOPE")).await.expect(404);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_is_found_by_its_id_and_an_action_changes_without_success() {
    let server = Server::study(Backend::Sqlite).await;
    let admin = server.admin();
    let role = admin.get("/api/v2/roles/2").await.expect(200);
    assert_eq!((&role["name"], &role["uri"]), (&json!("superuser"), &json!("/api/v2/roles/2")));
    server.experiment("e").await;
    let changed = admin.put("/api/v2/actions/1", json!({ "return_value": "seen" })).await.expect(200);
    assert_eq!((&changed["return_value"], &changed["success"]), (&json!("seen"), &json!(false)));
    let changed = admin.put("/api/v2/actions/1", json!({ "success": true })).await.expect(200);
    assert_eq!((&changed["return_value"], &changed["success"]), (&json!("seen"), &json!(true)));
    server.alice().put("/api/v2/actions/1", json!({ "success": false })).await.expect(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_is_changed_by_administrators_and_in_the_named_fields_only() {
    let server = Server::study(Backend::Sqlite).await;
    let admin = server.admin();
    let before = admin.get("/api/v2/callbacks/1").await.expect(200);
    let body = json!({ "function": "command", "callback_arguments": "{command: rm}" });
    for caller in [server.alice(), server.bob()] {
        caller.put("/api/v2/callbacks/1", body.clone()).await.expect(403);
        caller.put("/api/v1/callbacks/1", body.clone()).await.expect(403);
    }
    assert_eq!(admin.get("/api/v2/callbacks/1").await.expect(200), before);
    let after = admin.put("/api/v2/callbacks/1", json!({ "run_timeout": 77 })).await.expect(200);
    for (name, value) in before.as_object().unwrap() {
        let wanted = if name == "run_timeout" { &json!(77) } else { value };
        assert_eq!(&after[name], wanted, "{name}");
    }
    let cleared = admin.put("/api/v1/callbacks/2", json!({ "condition": null, "run_timeout": null })).await.expect(200);
    assert_eq!((&cleared["condition"], &cleared["run_timeout"]), (&Value::Null, &Value::Null));
    for (body, field) in [
        (json!({ "function": "no_such_function" }), "function"),
        (json!({ "condition": "import os" }), "condition"),
        (json!({ "callback_arguments": "[1, 2]" }), "callback_arguments"),
        (json!({ "callback_arguments": "{a: [" }), "callback_arguments"),
        (json!({ "run_timeout": -1 }), "run_timeout"),
        (json!({ "label": "" }), "label"),
    ] {
        let told = admin.put("/api/v2/callbacks/1", body).await.expect(400);
        assert!(told["errors"].get(field).is_some(), "{told}");
    }
    admin.put("/api/v2/callbacks/2", json!({ "label": "count_scans" })).await.expect(409);
    let mapping = admin.put("/api/v2/callbacks/1", json!({ "callback_arguments": { "seconds": 1 } })).await.expect(200);
    assert_eq!(mapping["callback_arguments"], "seconds: 1\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_set_is_hashed_and_ends_the_old_one_at_once() {
    let server = Server::study(Backend::Sqlite).await;
    let admin = server.admin();
    server.alice().get("/api/v2/cohorts").await.expect(200);
    admin.put("/api/v2/users/2", json!({ "password": "another-password" })).await.expect(200);
    server.alice().get("/api/v2/cohorts").await.expect(401);
    server.basic("ALICE@example.com", "another-password").get("/api/v2/cohorts").await.expect(200);
    let settings = studygovernor::config::DatabaseSettings::parse("DATABASE_URL", &server.database).unwrap();
    let database = studygovernor::database::Database::connect(&settings).await.unwrap();
    for user in studygovernor::entity::user::Entity::find().all(database.reader()).await.unwrap() {
        assert!(user.password.starts_with("$argon2id$"), "{}", user.username);
    }
    admin.put("/api/v2/users/2", json!({ "active": false })).await.expect(200);
    server.basic("alice", "another-password").get("/api/v2/cohorts").await.expect(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn timeouts_are_not_for_everybody_and_lists_are_in_order_with_totals() {
    let server = Server::study(Backend::Postgres).await;
    for caller in [server.alice(), server.bob()] {
        caller.post("/api/v2/service/check_timeouts", json!({})).await.expect(403);
        caller.post("/api/v1/service/check_timeouts", json!({})).await.expect(403);
    }
    for number in 0..7 {
        server.experiment(&format!("e{number}")).await;
    }
    let bob = server.bob();
    let nothing = bob.get("/api/v2/experiments?limit=0").await.expect(200);
    assert_eq!((&nothing["experiments"], &nothing["count"], &nothing["limit"]), (&json!([]), &json!(7), &json!(0)));
    let some = bob.get("/api/v2/experiments?offset=2&limit=3").await.expect(200);
    let ids: Vec<i64> = some["experiments"].as_array().unwrap().iter().map(|one| one["id"].as_i64().unwrap()).collect();
    assert_eq!(ids, [3, 4, 5]);
    assert_eq!((&some["count"], &some["offset"], &some["limit"]), (&json!(7), &json!(2), &json!(3)));
    assert_eq!(bob.get("/api/v1/experiments?offset=5").await.expect(200)["experiments"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn times_with_an_offset_are_kept_as_utc() {
    let server = Server::study(Backend::Mariadb).await;
    let body = json!({ "label": "e", "scandate": "2024-03-01T10:00:00+02:00", "subject_id": 1 });
    assert_eq!(server.admin().post("/api/v2/experiments", body).await.expect(201)["scandate"], "2024-03-01T08:00:00");
    let found = server.bob().get("/api/v2/experiments?scandate=2024-03-01T09:00:00%2B01:00").await.expect(200);
    assert_eq!(found["count"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_that_two_workflows_have_is_no_mystery() {
    let server = Server::study(Backend::Sqlite).await;
    let admin = server.admin();
    server.experiment("old").await;
    let second = WORKFLOW.replace("imaging_qc_2024", "imaging_qc_2025");
    admin.post("/api/v2/service/config/import-workflow", json!({ "workflow_definition": second })).await.expect(201);
    server.experiment("new").await;
    let both = admin.get("/api/v2/experiments?state=check").await.expect(200);
    assert_eq!(both["count"], 2, "of both workflows");
    let one = admin.get("/api/v2/experiments?state=check&workflow=imaging_qc_2025").await.expect(200);
    assert_eq!(one["experiments"][0]["label"], "new");
    let told = admin.get("/api/v1/states/check").await.expect(409);
    assert!(told["message"].as_str().unwrap().contains("2, 8"), "{told}");
    // With the workflow in the path, each label is unambiguous.
    admin.get("/api/v2/workflows/imaging_qc_2025/states/check").await.expect(200);
    admin.get("/api/v2/workflows/2/states/check").await.expect(200);
}

/// Sends the same changes at the same time and returns their statuses.
async fn at_once(caller: &super::Caller, requests: Vec<(String, Value)>) -> Vec<u16> {
    let mut all = tokio::task::JoinSet::new();
    for (path, body) in requests {
        let caller = caller.clone();
        all.spawn(async move { caller.put(&path, body).await.status.as_u16() });
    }
    all.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn e4_two_reports_and_four_transitions_at_once_end_in_one_each() {
    for backend in [Backend::Sqlite, Backend::Postgres, Backend::Mariadb] {
        let server = Server::study(backend).await;
        let admin = server.admin();
        for round in 0..5 {
            let experiment = server.experiment(&format!("e{round}")).await["id"].as_i64().unwrap();
            let actions = admin.get(&format!("/api/v2/experiments/{experiment}/actions")).await.expect(200);
            let action = admin.get(actions["actions"][0]["uri"].as_str().unwrap()).await.expect(200);
            let runs = action["executions"].as_array().unwrap();
            let body = json!({ "status": "finished", "result": "success", "result_values": { "rating": "unsure" } });
            // Both executions are reported twice.
            let reports = (0..4).map(|index| (runs[index % 2]["uri"].as_str().unwrap().to_owned(), body.clone()));
            let statuses = at_once(&admin, reports.collect()).await;
            assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 2, "{statuses:?}");
            assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 2, "{statuses:?}");
            let state = format!("/api/v2/experiments/{experiment}/state");
            assert_eq!(admin.get(&state).await.expect(200)["state"]["label"], "manual_qc");
            let moves = vec![(state.clone(), json!({ "state": "processing" })); 4];
            let statuses = at_once(&server.alice(), moves).await;
            assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
            assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 3, "{statuses:?}");
        }
        let study = Study::of(&server.database).await;
        assert_eq!(ledger_problems(&study).await, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e6_a_late_report_moves_nothing_and_a_condition_that_raises_stops_nothing() {
    let server = Server::empty(Backend::Postgres).await;
    let admin = server.admin();
    let workflow = "label: w\nstates:\n- {label: r, transitions: [{destination: a}]}\n\
        - {label: a, callbacks: [{label: c, function: sleep}], transitions: [{destination: b, condition: '1 / 0 == 1'}, \
        {destination: d, condition: 'experiment.variables.get(\"go\") == 1'}, {destination: e}]}\n\
        - {label: b}\n- {label: d}\n- {label: e, transitions: [{destination: a}]}\n";
    admin.post("/api/v2/service/config/import-workflow", json!({ "workflow_definition": workflow })).await.expect(201);
    admin.post("/api/v2/cohorts", json!({ "label": "baseline" })).await.expect(201);
    admin.post("/api/v2/subjects", json!({ "label": "s", "cohort_label": "baseline" })).await.expect(201);
    server.experiment("e").await;
    admin.put("/api/v2/experiments/1/state", json!({ "state": "e" })).await.expect(200);
    admin.put("/api/v2/callback_executions/1", json!({ "status": "finished", "result": "success" })).await.expect(409);
    assert_eq!(admin.get("/api/v2/experiments/1/state").await.expect(200)["state"]["label"], "e");
    admin.put("/api/v2/experiments/1/state", json!({ "state": "a" })).await.expect(200);
    admin.put("/api/v2/callback_executions/2", json!({ "status": "finished", "result": "success" })).await.expect(200);
    assert_eq!(admin.get("/api/v2/experiments/1/state").await.expect(200)["state"]["label"], "e");
    let actions = admin.get("/api/v2/experiments/1/actions").await.expect(200);
    let told = actions["actions"][2]["return_value"].as_str().unwrap();
    assert!(told.contains("ZeroDivisionError"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn workflows_that_cannot_work_are_refused_with_every_problem() {
    let server = Server::empty(Backend::Sqlite).await;
    let broken = "label: w\nstates:\n- {label: a, transitions: [{destination: nowhere}]}\n- {label: b, callbacks: [{label: c, function: fly}]}\n";
    let body = json!({ "workflow_definition": broken });
    let told = server.admin().post("/api/v2/service/config/import-workflow", body).await.expect(400);
    let problems = told["errors"]["workflow_definition"].as_str().unwrap();
    for words in ["nowhere", "fly", "line 3", "line 4"] {
        assert!(problems.contains(words), "{problems}");
    }
    assert_eq!(server.admin().get("/api/v2/workflows").await.expect(200)["count"], 0);
    for text in ["a: [b", "[]", "users: [{username: x}]", "roles: [{name: r, permissions: [fly]}]", "colours: []"] {
        let body = json!({ "config_definition": text });
        server.admin().post("/api/v2/service/config/import-config", body).await.expect(400);
    }
    assert_eq!(server.admin().get("/api/v2/users").await.expect(200)["count"], 1);
}
