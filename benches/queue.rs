//! Callbacks through the broker: executions published and run per second, delay from a transition to the message,
//! memory, and statements. Uses the release binary as server and worker, with PostgreSQL and RabbitMQ on the same
//! machine.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a bench stops at its first error"
)]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, Statement};
use studygovernor::callback::FUNCTIONS;
use studygovernor::clock::Clock;
use studygovernor::config::DatabaseSettings;
use studygovernor::context::Context;
use studygovernor::database::Database;
use studygovernor::engine::{Engine, NewExperiment};
use studygovernor::entity::callback_execution::{Column, Entity};
use studygovernor::entity::kind::ExecutionStatus;
use studygovernor::study::{Label, register};
use studygovernor::workflow;

const WORKFLOW: &str = "label: bench\nstates:\n  - {label: root, transitions: [{destination: a}]}\n  - {label: a, callbacks: [{label: x, function: sleep}], transitions: [{destination: b}]}\n  - {label: b, callbacks: [{label: x, function: sleep}], transitions: [{destination: end}]}\n  - {label: end}\n";

const EXPERIMENTS: usize = 3000;

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn program(
    database: &str,
    broker: &str,
    prefix: &str,
    home: &std::path::Path,
    port: u16,
    arguments: &[&str],
) -> Program {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/release/studygovernor"));
    command.args(arguments).current_dir(home).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.env("STUDYGOV_LOG", "warn").env("STUDYGOV_BROKER_PREFIX", prefix).env("STUDYGOV_XNAT_PROJECT", "bench");
    if arguments[0] == "serve" {
        command
            .env("DATABASE_URL", database)
            .env("SECRET_KEY", "a key of the bench")
            .env("SECURITY_PASSWORD_SALT", "salt");
        command.env("STUDYGOV_CALLBACK_METHOD", "rabbitmq").env("STUDYGOV_PORT", port.to_string());
        command.env("STUDYGOV_ADMIN_USERNAME", "admin").env("STUDYGOV_ADMIN_PASSWORD", "a password of the bench");
    }
    command.env("STUDYGOV_BROKER", broker);
    Program(command.spawn().unwrap())
}

async fn count(engine: &Engine, statuses: &[ExecutionStatus]) -> u64 {
    let all = Entity::find().filter(Column::Status.is_in(statuses.iter().copied()));
    all.count(engine.database().reader()).await.unwrap()
}

async fn until(what: impl AsyncFn() -> bool) -> Duration {
    let began = Instant::now();
    while !what().await {
        assert!(began.elapsed() < Duration::from_mins(5));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    began.elapsed()
}

async fn create(engine: &Engine, label: &str) {
    let new = NewExperiment {
        subject_id: 1,
        label: Label::parse(label).unwrap(),
        scandate: "2026-01-01T12:00:00".parse().unwrap(),
        workflow: None,
        variables: Vec::new(),
    };
    engine.create_experiment(&Context::system("bench"), &new).await.unwrap();
}

async fn number(engine: &Engine, query: &str) -> f64 {
    let statement = Statement::from_string(sea_orm::DbBackend::Postgres, query);
    let row = engine.database().reader().query_one_raw(statement).await.unwrap().unwrap();
    row.try_get::<f64>("", "n").unwrap_or(f64::NAN)
}

#[tokio::main]
async fn main() {
    let server = std::env::var("TEST_POSTGRES_URL").unwrap();
    let broker = std::env::var("TEST_RABBITMQ_URL").unwrap();
    let name = format!("bench_{}", uuid::Uuid::new_v4().simple());
    let connection = sea_orm::Database::connect(&server).await.unwrap();
    connection.execute_unprepared(&format!("CREATE DATABASE {name}")).await.unwrap();
    let url = format!("{}/{name}", server.rsplit_once('/').unwrap().0);
    let settings = DatabaseSettings::parse("bench", &url).unwrap();
    let engine = Engine::new(Database::connect(&settings).await.unwrap(), Clock::System);
    engine.database().migrate().await.unwrap();
    engine.database().reader().execute_unprepared("CREATE EXTENSION IF NOT EXISTS pg_stat_statements").await.unwrap();
    let ctx = Context::system("bench");
    let definition = workflow::check(WORKFLOW, &FUNCTIONS).definition.unwrap();
    workflow::load(&ctx, engine.database(), &definition).await.unwrap();
    let transaction = engine.database().begin().await.unwrap();
    let cohort = register::cohort(&ctx, &*transaction, &Label::parse("c").unwrap()).await.unwrap();
    register::subject(&ctx, &*transaction, cohort.id, &Label::parse("s").unwrap(), None).await.unwrap();
    transaction.commit().await.unwrap();
    for number in 0..EXPERIMENTS {
        create(&engine, &format!("e{number}")).await;
    }
    let home = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let start = |arguments: &[&str]| program(&url, &broker, &name, home.path(), port, arguments);
    let _server = start(&["serve"]);
    let began = until(async || count(&engine, &[ExecutionStatus::Queued]).await > 0).await;
    let published = until(async || count(&engine, &[ExecutionStatus::Created]).await == 0).await;
    println!(
        "published: {:.0}/s (first after {:.2} s)",
        EXPERIMENTS as f64 / published.as_secs_f64().max(0.02),
        began.as_secs_f64()
    );

    engine.database().reader().execute_unprepared("SELECT pg_stat_statements_reset()").await.unwrap();
    let worker = start(&["worker", "--concurrency", "32"]);
    let open = [ExecutionStatus::Created, ExecutionStatus::Queued, ExecutionStatus::Running];
    let ran = until(async || count(&engine, &open).await == 0).await;
    let total = 2 * EXPERIMENTS;
    println!(
        "callbacks (sleep 0): {:.0}/s, {total} in {:.1} s, with one worker of 32",
        total as f64 / ran.as_secs_f64(),
        ran.as_secs_f64()
    );
    let own = format!(
        "SELECT sum(calls)::float8 / {total} AS n FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = '{name}'"
    );
    println!("statements a callback, from its message to the next transition: {:.1}", number(&engine, &own).await);
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.0.id())).unwrap();
    let kb = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map_or("", str::trim).to_owned();
    println!("worker resident: {} (of its own {})", kb("VmRSS:"), kb("RssAnon:"));

    // Half of the target rate (300): experiments that a script creates one by one, two callbacks each.
    let rate = 75.0;
    let last = number(&engine, "SELECT max(id)::float8 AS n FROM callback_execution").await;
    rustls::crypto::ring::default_provider().install_default().ok();
    let (client, address) = (reqwest::Client::new(), format!("http://127.0.0.1:{port}/api/v2/experiments"));
    let mut scripts = tokio::task::JoinSet::new();
    let mut pace = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
    for number in 0..1000 {
        pace.tick().await;
        let body =
            serde_json::json!({ "label": format!("late{number}"), "scandate": "2026-01-01T12:00:00", "subject_id": 1 });
        let request = client.post(&address).basic_auth("admin", Some("a password of the bench")).json(&body);
        scripts.spawn(async move { assert_eq!(request.send().await.unwrap().status(), 201) });
    }
    while scripts.join_next().await.is_some() {}
    until(async || count(&engine, &open).await == 0).await;
    for (name, state) in [("first", "a"), ("next, after a report", "b")] {
        let lag = |quantile: f64| {
            format!(
                "SELECT percentile_cont({quantile}) WITHIN GROUP (ORDER BY extract(epoch FROM e.published_at - e.available_at))::float8 * 1000 AS n \
             FROM callback_execution e JOIN callback c ON c.id = e.callback_id JOIN state s ON s.id = c.state_id \
             WHERE e.id > {last} AND s.label = '{state}' AND e.published_at IS NOT NULL"
            )
        };
        let (half, most) = (number(&engine, &lag(0.5)).await, number(&engine, &lag(0.95)).await);
        println!(
            "transition to confirmed message ({name}), at {:.0} callbacks/s: median {half:.1} ms, 95 % {most:.1} ms",
            rate * 2.0
        );
    }
}
