//! The audit log: events are recorded with each change, chained, searchable, and protected against undetected changes.

mod pages;

use std::process::Output;

use reqwest::StatusCode;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder};
use serde_json::{Value, json};
use studygovernor::audit::{self, Event, Head, Key, Wrong};
use studygovernor::context::Context;
use studygovernor::engine::Target;
use studygovernor::entity::kind::Origin;
use studygovernor::entity::{audit_event, audit_seal};

use crate::api::Server;
use crate::support::{Backend, Said, Study, ctx, eventually, on_every_database, studygovernor};
use crate::web::{Browser, Demo};

on_every_database! {
    a_changed_or_missing_row_is_found;
    what_was_not_done_is_not_recorded;
    several_servers_seal_at_once_and_the_chain_is_whole;
    what_the_database_alone_writes_is_not_believed;
    removed_events_are_missed_when_the_chain_is_made_again;
}

async fn events(study: &Study) -> Vec<audit_event::Model> {
    let all = audit_event::Entity::find().order_by_asc(audit_event::Column::Id);
    all.all(study.engine.database().reader()).await.unwrap()
}

async fn wrong(study: &Study, head: Option<&Head>) -> Vec<Wrong> {
    audit::verify(study.engine.database(), head, &[]).await.unwrap().wrong
}

async fn a_changed_or_missing_row_is_found(study: Study) {
    let (database, connection) = (study.engine.database(), study.engine.database().reader());
    for number in 1..=6 {
        let event = Event::new("update", "cohort", number, format!("cohort {number}"));
        audit::record(ctx(), connection, event.after(json!({ "n": number })).because("a test")).await.unwrap();
    }
    assert_eq!(audit::seal(database).await.unwrap().count, 6);
    assert_eq!(audit::seal(database).await.unwrap().count, 0);
    let sound = audit::verify(database, None, &[]).await.unwrap();
    assert_eq!((sound.events, sound.wrong.len()), (6, 0));
    let head: Head = sound.head.unwrap().to_string().parse().unwrap();
    assert!(wrong(&study, Some(&head)).await.is_empty());

    let ids: Vec<i32> = events(&study).await.iter().map(|event| event.id).collect();
    let execute = async |text: String| {
        connection.execute_unprepared(&text).await.unwrap();
    };
    // Each field that an attacker might want to change.
    for (column, other, own) in [
        ("who", "'another user'", "'tester'"),
        ("reason", "'another'", "'a test'"),
        ("verb", "'create'", "'update'"),
        ("subject_id", "99", "2"),
        ("address", "'127.0.0.9'", "NULL"),
        ("origin", "'web'", "'cli'"),
    ] {
        let id = ids[1];
        execute(format!("UPDATE audit_event SET {column} = {other} WHERE id = {id}")).await;
        assert_eq!(wrong(&study, None).await, [Wrong::Changed { seq: 2, event_id: id }], "{column}");
        execute(format!("UPDATE audit_event SET {column} = {own} WHERE id = {id}")).await;
    }
    assert!(wrong(&study, None).await.is_empty());

    execute(format!("DELETE FROM audit_event WHERE id = {}", ids[2])).await;
    assert_eq!(wrong(&study, None).await, [Wrong::Missing { seq: 3, event_id: ids[2] }]);
    execute(format!("DELETE FROM audit_seal WHERE event_id = {}", ids[2])).await;
    let found = wrong(&study, None).await;
    assert!(found.contains(&Wrong::Gap(3)), "{found:?}");
    // A valid event that lost its place is not sealed again.
    execute(format!("DELETE FROM audit_seal WHERE event_id = {}", ids[4])).await;
    assert_eq!(audit::verify(database, None, &[]).await.unwrap().unsealed, [ids[4]]);
    // The end was removed: this can only be detected with a stored head.
    execute(format!("DELETE FROM audit_seal WHERE event_id = {}", ids[5])).await;
    execute(format!("DELETE FROM audit_event WHERE id = {}", ids[5])).await;
    assert!(wrong(&study, Some(&head)).await.contains(&Wrong::Shorter(head.clone())));
}

/// Records `count` events, sealed one by one, so that each refers to the end of the chain before it.
async fn chain(study: &Study, count: i32) -> Vec<i32> {
    for number in 1..=count {
        audit::record(ctx(), study.engine.database().reader(), Event::new("update", "cohort", number, "c"))
            .await
            .unwrap();
        assert_eq!(audit::seal(study.engine.database()).await.unwrap().count, 1);
    }
    events(study).await.iter().map(|event| event.id).collect()
}

const COLUMNS: &str =
    "at, user_id, who, origin, address, verb, subject_type, subject_id, subject_name, experiment_id, reason, head";

async fn what_the_database_alone_writes_is_not_believed(study: Study) {
    let (database, connection) = (study.engine.database(), study.engine.database().reader());
    let ids = chain(&study, 4).await;
    let execute = async |text: String| {
        connection.execute_unprepared(&text).await.unwrap();
    };
    let newest = async || events(&study).await.last().unwrap().id;
    // A row like the others: without a signature, with the signature of another row, and with an invented one.
    let copied = format!("INSERT INTO audit_event ({COLUMNS}) SELECT {COLUMNS} FROM audit_event WHERE id = {}", ids[3]);
    execute(copied).await;
    let bare = newest().await;
    let signed = format!("{COLUMNS}, signature");
    execute(format!("INSERT INTO audit_event ({signed}) SELECT {signed} FROM audit_event WHERE id = {}", ids[2])).await;
    let copy = newest().await;
    execute(format!(
        "INSERT INTO audit_event ({signed}) SELECT {COLUMNS}, 'abcdefgh:nonce:hash' FROM audit_event WHERE id = {}",
        ids[1]
    ))
    .await;
    let other_key = newest().await;
    let wrong_before = wrong(&study, None).await;
    assert!(wrong_before.contains(&Wrong::Forged(bare)), "{wrong_before:?}");
    assert!(wrong_before.contains(&Wrong::Copied { event_id: copy, of: ids[2] }), "{wrong_before:?}");
    assert!(wrong_before.contains(&Wrong::OtherKey { id: "abcdefgh".to_owned(), count: 1 }), "{wrong_before:?}");
    // Verifying changes nothing, and the server does not seal events that it did not sign.
    assert_eq!(wrong(&study, None).await, wrong_before);
    let sealed = audit::seal(database).await.unwrap();
    assert_eq!((sealed.forged.as_slice(), sealed.missing), (&[bare][..], None), "{other_key}");
    assert!(wrong(&study, None).await.contains(&Wrong::Forged(bare)));
    // The attacker also creates the seal: the hash is not secret, but the signature is.
    execute(format!("UPDATE audit_event SET who = 'mallory' WHERE id = {}", ids[0])).await;
    let found = wrong(&study, None).await;
    assert!(found.contains(&Wrong::Changed { seq: 1, event_id: ids[0] }), "{found:?}");
}

async fn removed_events_are_missed_when_the_chain_is_made_again(study: Study) {
    let (database, connection) = (study.engine.database(), study.engine.database().reader());
    let ids = chain(&study, 8).await;
    let execute = async |text: String| {
        connection.execute_unprepared(&text).await.unwrap();
    };
    // Event 4 is removed with all seals from its place on, so that the server would chain the rest again.
    execute(format!("DELETE FROM audit_event WHERE id = {}", ids[3])).await;
    execute("DELETE FROM audit_seal WHERE seq >= 4".to_owned()).await;
    let sealed = audit::seal(database).await.unwrap();
    assert_eq!((sealed.count, sealed.missing.map(|head| head.seq)), (0, Some(7)), "seals were removed: a person looks");
    let found = wrong(&study, None).await;
    assert!(
        found.iter().any(|one| matches!(one, Wrong::Replaced { event_id, .. } if *event_id == ids[4])),
        "{found:?}"
    );
    // A user has decided to continue: the loss is still reported.
    assert_eq!(audit::seal_again(database).await.unwrap().count, 4);
    let found = wrong(&study, None).await;
    assert!(
        found.iter().any(|one| matches!(one, Wrong::Replaced { event_id, .. } if *event_id == ids[4])),
        "{found:?}"
    );
    // Without the loss, the later events are sealed as usual.
    audit::record(ctx(), connection, Event::new("update", "cohort", 9, "c")).await.unwrap();
    assert_eq!(audit::seal(database).await.unwrap().count, 1);
    // Events that were signed with another key are neither trusted nor reported as forged.
    let old = Key::new("another key");
    assert_ne!(old.id(), Key::new("a key of the tests").id());
}

async fn what_was_not_done_is_not_recorded(study: Study) {
    study.load("label: w\nstates:\n  - {label: r, transitions: [{destination: s}]}\n  - {label: s, transitions: [{destination: e}]}\n  - {label: e}\n").await;
    let experiment = study.create("e").await;
    let before = events(&study).await.len();
    study.move_to(experiment.id, "nowhere").await.unwrap_err();
    study.try_create("e").await.unwrap_err();
    study.engine.restore_experiment(ctx(), experiment.id).await.unwrap_err();
    assert_eq!(events(&study).await.len(), before);
    let worker = Context::request(Origin::Api, "192.0.2.7".parse().ok()).seeing_everything();
    study.engine.transition(&worker, experiment.id, &Target::Label("e".to_owned()), None, None).await.unwrap();
    study.engine.archive_experiment(&worker, experiment.id, "a double").await.unwrap();
    let all = events(&study).await;
    let [moved, archived] = &all[before..] else { panic!("{all:?}") };
    assert_eq!((moved.verb.as_str(), archived.verb.as_str()), ("transition", "archive"));
    assert_eq!(
        (moved.before.as_deref(), moved.after.as_deref()),
        (Some("{\"state\":\"s\"}"), Some("{\"state\":\"e\"}"))
    );
    assert_eq!((archived.who.as_str(), archived.address.as_deref()), ("anonymous user", Some("192.0.2.7")));
    assert_eq!((archived.reason.as_deref(), archived.experiment_id), (Some("a double"), Some(experiment.id)));
}

async fn several_servers_seal_at_once_and_the_chain_is_whole(study: Study) {
    let database = study.engine.database().clone();
    let writers = (0..4).map(|writer| {
        let database = database.clone();
        tokio::spawn(async move {
            for number in 0..25 {
                let transaction = database.begin().await.unwrap();
                let event = Event::new("update", "cohort", number, format!("{writer}"));
                audit::record(ctx(), &*transaction, event).await.unwrap();
                tokio::task::yield_now().await;
                transaction.commit().await.unwrap();
            }
        })
    });
    let sealers = (0..3).map(|_| {
        let database = database.clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                audit::seal(&database).await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
    });
    for task in writers.chain(sealers).collect::<Vec<_>>() {
        task.await.unwrap();
    }
    audit::seal(&database).await.unwrap();
    let verified = audit::verify(&database, None, &[]).await.unwrap();
    assert_eq!((verified.events, &verified.wrong), (100, &Vec::new()));
    assert_eq!(audit_seal::Entity::find().count(database.reader()).await.unwrap(), 100);
}

fn verify(server: &Server, arguments: &[&str]) -> Output {
    let mut command = studygovernor(server.home.path(), &[&["audit", "verify"], arguments].concat());
    command
        .env("DATABASE_URL", &server.database)
        .env("SECRET_KEY", "a key of the tests")
        .env("SECURITY_PASSWORD_SALT", "a salt of the tests");
    command.output().unwrap()
}

/// Every kind of change through the API is recorded with its actor.
#[tokio::test(flavor = "multi_thread")]
async fn every_change_over_the_api_is_recorded_with_who_made_it() {
    let server = Server::study(Backend::Postgres).await;
    let (admin, alice) = (server.admin(), server.alice());
    server.experiment("e").await;
    let study = Study::of(&server.database).await;
    let count = async || audit_event::Entity::find().count(study.database().reader()).await.unwrap();
    let newest = async || {
        let all = audit_event::Entity::find().order_by_desc(audit_event::Column::Id);
        all.one(study.database().reader()).await.unwrap().unwrap()
    };
    let config = "/api/v2/service/config/import-config";
    let configuration = |text: &str| json!({ "config_definition": text });
    // Request, status, recorded event.
    let changes: Vec<(&str, &str, Value, u16, &str, &str)> = vec![
        ("POST", "/api/v2/cohorts", json!({ "label": "x" }), 201, "create", "cohort"),
        ("PUT", "/api/v2/cohorts/2", json!({ "label": "y" }), 200, "update", "cohort"),
        ("POST", "/api/v2/subjects", json!({ "label": "s", "cohort_label": "y" }), 201, "create", "subject"),
        ("PUT", "/api/v2/subjects/3", json!({ "label": "t" }), 200, "update", "subject"),
        ("PUT", "/api/v2/users/2", json!({ "name": "Alice B" }), 200, "update", "user"),
        ("PUT", "/api/v2/users/2", json!({ "password": "another long one" }), 200, "update", "user"),
        ("PUT", "/api/v2/users/bob/roles/superuser", json!({}), 200, "give_role", "user"),
        ("DELETE", "/api/v2/users/bob/roles/superuser", json!({}), 200, "take_role", "user"),
        ("POST", "/api/v2/tokens", json!({ "label": "nightly" }), 201, "create", "token"),
        ("DELETE", "/api/v2/tokens/1", json!({}), 200, "revoke", "token"),
        ("PUT", "/api/v2/callbacks/1", json!({ "run_timeout": 7 }), 200, "update", "callback"),
        ("POST", "/api/v2/callback_executions/1/retry", json!({ "reason": "stuck" }), 200, "intervene", "experiment"),
        // Reports by users are recorded; reports by workers are in the history.
        (
            "PUT",
            "/api/v2/callback_executions/2",
            json!({ "status": "running", "run_log": "by hand" }),
            200,
            "report",
            "callback_execution",
        ),
        ("PUT", "/api/v2/actions/1", json!({ "return_value": "a note" }), 200, "annotate", "action"),
        ("PUT", "/api/v2/experiments/1/external_ids/XNAT", json!({ "external_id": "X1" }), 201, "link", "experiment"),
        ("DELETE", "/api/v2/experiments/1/external_ids/XNAT", json!({}), 200, "unlink", "experiment"),
        ("PUT", "/api/v2/subjects/1/external_ids/XNAT", json!({ "external_id": "S1" }), 201, "link", "subject"),
        ("PUT", "/api/v2/cohorts/1/external_urls/XNAT", json!({ "external_url": "https://x" }), 201, "link", "cohort"),
        (
            "POST",
            "/api/v2/scans",
            json!({ "scantype_protocol": "T1w", "experiment_id": 1 }),
            201,
            "add_scan",
            "experiment",
        ),
        (
            "PUT",
            config,
            configuration("external_systems: [{system_name: XNAT, url: \"https://new\"}]"),
            200,
            "update",
            "external_system",
        ),
        ("PUT", config, configuration("scantypes: [{modality: PT, protocol: T1w}]"), 200, "update", "scantype"),
        ("PUT", config, configuration("roles: [{name: rater, permissions: [sample_add]}]"), 200, "create", "role"),
        ("PUT", config, configuration("roles: [{name: rater, permissions: [user_read]}]"), 200, "update", "role"),
        ("DELETE", "/api/v2/experiments/1?reason=double", json!({}), 200, "archive", "experiment"),
        ("POST", "/api/v2/experiments/1/restore", json!({}), 200, "restore", "experiment"),
    ];
    for (method, path, body, status, verb, kind) in changes {
        let before = count().await;
        let request = admin.request(method.parse().unwrap(), path).json(&body);
        admin.send(request).await.expect(status);
        assert_eq!(count().await, before + 1, "{method} {path}");
        let event = newest().await;
        assert_eq!((event.verb.as_str(), event.subject_type.as_str()), (verb, kind), "{method} {path}");
        assert_eq!((event.who.as_str(), event.user_id, event.origin), ("admin", Some(1), Origin::Api));
        assert_eq!(event.address.as_deref(), Some("127.0.0.1"));
        let text = format!("{event:?}");
        assert!(!text.contains("another long one") && !text.contains("$argon2") && !text.contains("sgov_"), "{text}");
    }
    // Work that continues after its caller has disconnected is recorded with the caller too.
    let request = admin.request(reqwest::Method::POST, "/api/v2/cohorts").header("idempotency-key", "once");
    admin.send(request.json(&json!({ "label": "kept" }))).await.expect(201);
    let event = newest().await;
    assert_eq!((event.who.as_str(), event.origin, event.subject_name.as_str()), ("admin", Origin::Api, "kept"));
    // Refused requests, and requests that change nothing, are not recorded.
    let before = count().await;
    alice.put("/api/v2/users/3", json!({ "name": "x" })).await.expect(401);
    server.bob().post("/api/v2/cohorts", json!({ "label": "z" })).await.expect(403);
    admin.put("/api/v2/cohorts/2", json!({ "label": "y" })).await.expect(200);
    admin.post("/api/v2/cohorts", json!({ "label": "y" })).await.expect(409);
    assert_eq!(count().await, before);

    // The server seals automatically; the command finds no problem at first, and then the change in the database.
    eventually("all events to be sealed", async || {
        let sealed = audit_seal::Entity::find().count(study.database().reader()).await.unwrap();
        (sealed == before).then_some(())
    })
    .await;
    let said = verify(&server, &[]);
    assert_eq!(said.status.code(), Some(0), "{}", said.err());
    let text = said.out();
    let head = text.trim().rsplit(' ').next().unwrap().to_owned();
    assert_eq!(verify(&server, &["--head", &head]).status.code(), Some(0));
    assert_eq!(verify(&server, &["--head", "nonsense"]).status.code(), Some(2));
    let forged = head.replace(|c: char| c.is_ascii_lowercase(), "x");
    assert_eq!(verify(&server, &["--head", &forged]).status.code(), Some(1));
    let forge = "UPDATE audit_event SET who = 'mallory' WHERE verb = 'give_role'";
    study.database().reader().execute_unprepared(forge).await.unwrap();
    let said = verify(&server, &[]);
    assert_eq!(said.status.code(), Some(1));
    assert!(said.err().contains("was changed"), "{}", said.err());
}

/// An import records each imported resource.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_is_recorded_thing_by_thing() {
    let server = Server::study(Backend::Mariadb).await;
    let admin = server.admin();
    let study = Study::of(&server.database).await;
    let all = audit_event::Entity::find().order_by_desc(audit_event::Column::Id);
    let before = all.one(study.database().reader()).await.unwrap().unwrap().id;
    let scans = json!([{ "modality": "MR", "protocol": "T1w" }, { "modality": "MR", "protocol": "T1w" }]);
    let session =
        json!([{ "label": "new", "scandate": "2024-03-01", "scans": scans, "external_ids": { "XNAT": "X9" } }]);
    let body =
        json!([{ "cohort": "baseline", "label": "brought", "external_ids": { "XNAT": "S9" }, "experiments": session }]);
    admin.post("/api/v2/import", body).await.expect(200);
    let brought = audit_event::Entity::find().filter(audit_event::Column::Id.gt(before));
    let brought = brought.order_by_asc(audit_event::Column::Id).all(study.database().reader()).await.unwrap();
    let mut told: Vec<(&str, &str)> =
        brought.iter().map(|event| (event.verb.as_str(), event.subject_type.as_str())).collect();
    told.sort_unstable();
    assert_eq!(
        told,
        [
            ("add_scan", "experiment"),
            ("create", "experiment"),
            ("create", "subject"),
            ("link", "experiment"),
            ("link", "subject")
        ],
        "{brought:?}"
    );
}

/// On the page, as a table, and on the page of the experiment: for users with the permission.
#[tokio::test(flavor = "multi_thread")]
async fn people_find_who_did_what() {
    let demo = Demo::start(&[]);
    let admin = demo.admin().await;
    demo.settled(&admin).await;
    demo.add_user("rater", "user");
    demo.add_user("reader", "superuser");
    let mut reader = demo.browser();
    reader.log_in("reader", "a long password").await;
    let (_, list) = reader.get("/experiments").await;
    let to_read = find_manual(&reader, &list).await;
    let (_, page) = reader.get(&format!("/experiments/{to_read}")).await;
    let way = between(&page, "name=\"state\" value=\"", "\"");
    let version = between(&page, "name=\"version\" value=\"", "\"");
    let note = "<script>alert(1)</script> & more";
    let (status, _, _) = reader
        .post(&format!("/experiments/{to_read}/transition"), &[("state", way), ("version", version), ("note", note)])
        .await;
    assert!(status.is_redirection(), "{status}");

    let (status, page) = admin.get("/audit?verb=transition").await;
    assert_eq!(status, StatusCode::OK);
    assert!(page.contains("<strong>reader</strong>") && page.contains("from 127.0.0.1"), "{page}");
    assert!(page.contains("&lt;script&gt;") && !page.contains("<script>alert"), "{page}");
    // Ignoring case, and without wildcards.
    assert!(admin.get("/audit?who=READ").await.1.contains("<strong>reader</strong>"));
    assert!(admin.get("/audit?who=r_ader").await.1.contains("No matching events"));
    let (_, none) = admin.get("/audit?who=somebody+else").await;
    assert!(none.contains("No matching events"));
    let (_, cli) = admin.get("/audit?kind=user&origin=cli&name=rater").await;
    assert!(cli.contains("<strong>") && cli.contains("rater") && !cli.contains("<strong>reader"));
    let (status, table) = admin.get("/audit.csv?verb=transition&who=reader").await;
    assert_eq!(status, StatusCode::OK);
    let rows: Vec<csv::StringRecord> =
        csv::Reader::from_reader(table.as_bytes()).records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 1, "{table}");
    assert_eq!((&rows[0][3], &rows[0][6], &rows[0][13]), ("reader", "transition", note));
    let (status, _) = admin.get("/audit?since=yesterday").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);

    let (_, page) = reader.get(&format!("/experiments/{to_read}")).await;
    assert!(page.contains("Change log"), "{page}");
    assert!(page.contains("<strong>reader</strong>") && !page.contains("from 127.0.0.1"));
    for path in ["/audit", "/audit.csv"] {
        assert_eq!(reader.get(path).await.0, StatusCode::FORBIDDEN);
        assert!(demo.browser().get(path).await.0.is_redirection());
    }
    assert!(!reader.get("/").await.1.contains("/audit"));
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    text.split_once(begin).and_then(|(_, rest)| rest.split_once(end)).map_or("", |(inner, _)| inner)
}

/// An experiment of the list that waits for a manual decision.
async fn find_manual(browser: &Browser, list: &str) -> i32 {
    let mut ids: Vec<i32> = list
        .match_indices("/experiments/")
        .filter_map(|(at, found)| between(&list[at..], found, "\"").parse().ok())
        .collect();
    ids.dedup();
    for id in ids {
        if browser.get(&format!("/experiments/{id}")).await.1.contains("name=\"state\" value=\"") {
            return id;
        }
    }
    panic!("nothing is to be done by hand in {list}");
}
