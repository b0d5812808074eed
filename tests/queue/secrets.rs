//! Q2: messages and stored data contain no secret of the server, and no secret of an attempt except in its own message.

use lapin::message::Delivery;
use lapin::options::{BasicGetOptions, BasicNackOptions};
use serde_json::json;
use studygovernor::entity::kind::ExecutionStatus;
use studygovernor::queue::{QueueNames, Ticket};

use super::{channel, workflow};
use crate::api::Caller;
use crate::support::{Backend, KEY, Station};

/// All texts of all tables.
async fn everything_kept(station: &Station) -> String {
    use sea_orm::{ConnectionTrait, Statement};
    let connection = station.engine.database().reader();
    let mut all = String::new();
    for table in
        ["callback_execution", "action", "worker", "dead_letter", "variable", "session", "audit_event", "outbox"]
    {
        let text = format!("SELECT row_to_json(t)::text AS text FROM \"{table}\" t");
        let rows = connection.query_all_raw(Statement::from_string(sea_orm::DbBackend::Postgres, text)).await.unwrap();
        for row in rows {
            all.push_str(&row.try_get::<String>("", "text").unwrap());
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn q2_no_secret_is_found_where_it_does_not_belong() {
    const SALT: &str = "a salt of the tests";
    const MAIL: &str = "mail-password-4711";
    let station = Station::new(Backend::Postgres).await;
    let server = station.server(&[("STUDYGOV_LOG", "debug"), ("MAIL_PASSWORD", MAIL)]);
    // It prints everything that it has, including its secret, and returns that as a value.
    let line = "env; cat /proc/$PPID/environ | tr '\\\\0' '\\\\n'; echo \"$0 $1 $2\"; echo \"__VALUES__ = {\\\"s\\\": \\\"$2\\\"}\"; echo \"$2\" >&2; exit 1";
    let callback = format!(
        "function: command, variable_map: {{kept: /values/s}}, callback_arguments: {{binary: sh, args: [-c, {}, sh, $CALLBACK_EXECUTION, $CALLBACK_SECRET], expected_return_code: null}}",
        json!(line)
    );
    station.load(&server, &workflow(&callback)).await;
    station.create(&server, "session").await;
    station.reaches(1, ExecutionStatus::Queued).await;

    // The message is read, and put back for the worker.
    let (_connection, channel) = channel(&station).await;
    let queue = QueueNames::new(&station.prefix).work("default");
    let message = channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap().unwrap();
    let Delivery { data, properties, .. } = &message.delivery;
    let text = format!("{} {properties:?}", String::from_utf8(data.clone()).unwrap());
    let ticket: Ticket = serde_json::from_slice(data).unwrap();
    assert_eq!((ticket.execution_id, ticket.attempt), (1, 1));
    assert!(ticket.url.ends_with("/api/v2/callback_executions/1"), "{}", ticket.url);
    for secret in [KEY, SALT, MAIL, "postgres://"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    message.delivery.nack(BasicNackOptions { requeue: true, ..Default::default() }).await.unwrap();

    let worker = station.worker(
        &[],
        &[("STUDYGOV_LOG", "trace,lapin=info,h2=info,hyper_util=info,reqwest=info,polling=info,async_io=info")],
    );
    let ended = station.reaches(1, ExecutionStatus::Finished).await;
    assert!(ended.run_log.unwrap().contains("sh http://"), "the program ran and said what it was given");

    let admin = Caller::admin_at(&server.url);
    let mut found = vec![("log of the server", server.log()), ("log of the worker", worker.log())];
    found.push(("database", everything_kept(&station).await));
    for path in [
        "/api/v1/callback_executions/1",
        "/api/v2/callback_executions/1",
        "/api/v2/callback_executions",
        "/api/v2/actions/1",
        "/api/v2/experiments/1",
        "/api/v2/workers",
        "/api/v2/dead_letters",
        "/api/v2/swagger.json",
        "/-/metrics",
        "/-/ready",
        "/-/versions",
        "/callback_executions/1",
        "/callback_executions?stage=all",
        "/experiments/1",
        "/workers",
        "/dead_letters",
        "/",
    ] {
        let answer = admin.get(path).await;
        found.push((path, format!("{:?} {}", answer.headers, answer.body)));
    }
    for (place, text) in found {
        assert!(!text.is_empty() || place.starts_with("/-/"), "{place}");
        for secret in [KEY, SALT, MAIL, &ticket.secret] {
            assert!(!text.contains(secret), "a secret ({secret}) in {place}: {text}");
        }
    }
}

/// A claim returns the data that the callback needs, a few kB, and nothing about the server; without the correct secret
/// it returns nothing.
#[tokio::test(flavor = "multi_thread")]
async fn q2_a_claim_is_for_who_has_the_secret_of_that_attempt() {
    let station = Station::new(Backend::Postgres).await;
    let server = station.server(&[]);
    station.load(&server, &workflow("function: sleep")).await;
    let admin = Caller::admin_at(&server.url);
    for batch in 0..3 {
        let subjects: Vec<_> =
            (0..700).map(|number| json!({ "cohort": "cohort", "label": format!("s{batch}-{number}") })).collect();
        admin.post("/api/v2/import", json!(subjects)).await.expect(200);
    }
    station.create(&server, "session").await;
    station.create(&server, "other").await;
    let ticket = Ticket::new(1, 1, &server.url, KEY);
    let claim = "/api/v2/callback_executions/1/claim";
    let body = |secret: &str, attempt: i32| json!({ "worker": "w", "attempt": attempt, "secret": secret });
    for wrong in [
        json!({ "worker": "w", "attempt": 1 }),
        body("", 1),
        body(&Ticket::new(2, 1, "", KEY).secret, 1),
        body(&Ticket::new(1, 2, "", KEY).secret, 1),
        body(&ticket.secret, 2),
    ] {
        // Not even a user with all permissions.
        admin.post(claim, wrong).await.expect(403);
    }
    admin.post(claim, json!({ "worker": " ", "attempt": 1, "secret": ticket.secret })).await.expect(400);
    admin.post(claim, body(&Ticket::new(1, 2, "", KEY).secret, 2)).await.expect(409);
    let granted = admin.post(claim, body(&ticket.secret, 1)).await.expect(200);
    assert!(granted.to_string().len() < 6000, "{}", granted.to_string().len());
    assert_eq!(granted["data"]["experiment"]["label"], "session");
    // A second claim by the same worker (the response may have been lost), and by another one.
    admin.post(claim, body(&ticket.secret, 1)).await.expect(200);
    admin.post(claim, json!({ "worker": "other", "attempt": 1, "secret": ticket.secret })).await.expect(409);
    let beat = "/api/v2/callback_executions/1/heartbeat";
    admin.post(beat, json!({ "worker": "other", "attempt": 1, "secret": ticket.secret })).await.expect(409);
    let log = "so far\n".repeat(10_000);
    let body = json!({ "worker": "w", "attempt": 1, "secret": ticket.secret, "run_log": log });
    let answer = admin.post(beat, body).await;
    assert_eq!((answer.status.as_u16(), answer.body.is_null()), (204, true), "an answer of nothing");
    assert_eq!(station.execution(1).await.run_log.unwrap().len(), log.len());
    let report = "/api/v2/callback_executions/1/report";
    let body =
        json!({ "worker": "w", "attempt": 1, "secret": ticket.secret, "success": true, "result_values": {"a": 1} });
    let (first, second) = tokio::join!(admin.post(report, body.clone()), admin.post(report, body));
    let mut statuses = [first.status.as_u16(), second.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [204, 409], "E4");
}
