//! E14, Q4, E8: a server that stops while it holds a row lock, as a paused machine does, does not block the other
//! servers.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use studygovernor::entity::kind::ExecutionStatus;

use crate::support::{Backend, Caller, Program, Station, eventually, studygovernor};

const WORKFLOW: &str = "label: frozen
states:
- label: root
  transitions: [{destination: running}]
- label: running
  callbacks:
  - {label: long, function: sleep, callback_arguments: {seconds: 600}}
  transitions: [{destination: done}]
- label: done
";

/// Number of experiments; the first one is locked.
const EXPERIMENTS: i32 = 5;

fn server(station: &Station, environment: &[(&str, &str)]) -> Program {
    let mut command = studygovernor(station.home.path(), &["serve"]);
    command
        .env("DATABASE_URL", &station.database)
        .env("SECRET_KEY", "a key of the tests")
        .env("SECURITY_PASSWORD_SALT", "a salt of the tests")
        .env("STUDYGOV_ADMIN_USERNAME", "admin")
        .env("STUDYGOV_ADMIN_EMAIL", "admin@example.com")
        .env("STUDYGOV_ADMIN_PASSWORD", "admin")
        .env("STUDYGOV_WORKER_CONCURRENCY", "8")
        .env("STUDYGOV_LEASE_SECONDS", "2")
        .env("STUDYGOV_DATABASE_LOCK_SECONDS", "1")
        .env("STUDYGOV_DATABASE_IDLE_SECONDS", "15")
        // Requests that block for longer on a slow machine must not fail this test.
        .env("GUNICORN_TIMEOUT", "300")
        .envs(environment.iter().copied());
    Program::start(command)
}

fn signal(program: &Program, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(program.id()).unwrap()).unwrap(), signal).unwrap();
}

async fn is_stopped(program: &Program) {
    eventually("the server to stand still", async || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", program.id())).unwrap();
        stat.rsplit(')').next().unwrap().trim_start().starts_with('T').then_some(())
    })
    .await;
}

async fn move_first(caller: Caller) -> (StatusCode, String, Value) {
    let request = caller.request(Method::PUT, "/api/v2/experiments/1/state").json(&json!({ "state": "done" }));
    let answer = caller.send(request.timeout(Duration::from_mins(2))).await;
    (answer.status, answer.header("retry-after").to_owned(), answer.body)
}

async fn a_frozen_server_holds_up_nothing_else(backend: Backend) {
    let station = Station::new(backend).await;
    let frozen = server(&station, &[("STUDYGOV_FAULT", "freeze-before-commit:1")]);
    station.load(&frozen, WORKFLOW).await;
    for number in 0..EXPERIMENTS {
        station.create(&frozen, &format!("session-{number}")).await;
    }
    for id in 1..=EXPERIMENTS {
        station.reaches(id, ExecutionStatus::Running).await;
    }
    let other = server(&station, &[]);
    let admin = Caller::admin_at(&other.url);
    // So that the following requests do not begin with a check of the password.
    admin.get("/api/v2/experiments").await.expect(200);
    // It starts the transition, locks the row, and stops before the commit.
    let moving = tokio::spawn(move_first(Caller::admin_at(&frozen.url)));
    is_stopped(&frozen).await;
    let clicks: Vec<_> = (0..20).map(|_| tokio::spawn(move_first(admin.clone()))).collect();
    for _ in 0..20 {
        admin.get("/api/v2/experiments").await.expect(200);
        admin.get("/-/ready").await.expect(200);
    }
    for click in clicks {
        let (status, retry_after, body) = click.await.unwrap();
        assert_eq!(status, 503, "{body}");
        assert_eq!(retry_after, "5");
        assert!(body["message"].as_str().unwrap().contains("Try again in a few seconds"), "{body}");
    }
    // The leases of the frozen server expire: first those of the experiments that are not locked, then the locked one,
    // whose lock the database releases.
    for id in (1..=EXPERIMENTS).rev() {
        eventually(&format!("execution {id} to be run by the other server"), async || {
            let row = station.execution(id).await;
            (row.attempt == 2 && row.status == ExecutionStatus::Running).then_some(())
        })
        .await;
    }
    signal(&frozen, Signal::CONT);
    let (status, _, body) = moving.await.unwrap();
    assert_eq!(status, 503, "{body}");
    assert!(body["message"].as_str().unwrap().contains("Check whether it was saved"), "{body}");
    let first = admin.get("/api/v2/experiments/1/state").await.expect(200);
    assert_eq!(first["state"]["label"], "running", "{first}");
    // It works again without a restart.
    eventually("the frozen server to work again", async || {
        let (status, _, _) = move_first(Caller::admin_at(&frozen.url)).await;
        (status == 200).then_some(())
    })
    .await;
    assert_eq!(station.execution(1).await.status, ExecutionStatus::Skipped);
}

#[tokio::test(flavor = "multi_thread")]
async fn e14_q4_e8_a_frozen_server_holds_up_nothing_else_on_postgres() {
    a_frozen_server_holds_up_nothing_else(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e14_q4_e8_a_frozen_server_holds_up_nothing_else_on_mariadb() {
    a_frozen_server_holds_up_nothing_else(Backend::Mariadb).await;
}
