//! Cost of the product: transitions per second, lists at two sizes, a large workflow, start time and memory of the
//! server.
//!
//! `make bench`. Each number is from one run on one machine; compare ratios.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a bench stops at its first error and prints its results"
)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chrono::NaiveDateTime;
use sea_orm::ActiveValue::Set;
use sea_orm::{ConnectionTrait, EntityTrait, QueryOrder};
use studygovernor::callback::FUNCTIONS;
use studygovernor::clock::Clock;
use studygovernor::config::DatabaseSettings;
use studygovernor::context::Context;
use studygovernor::database::Database;
use studygovernor::engine::{Engine, NewExperiment, Report, Target};
use studygovernor::entity::kind::ExecutionResult;
use studygovernor::entity::{callback_execution, experiment, state, subject};
use studygovernor::study::listing::{ExperimentQuery, Totals, Window, experiments};
use studygovernor::study::{Label, register};
use studygovernor::workflow::{self, check, condition};

const WORKFLOW: &str = "
label: bench
states:
  - {label: root, transitions: [{destination: a}]}
  - {label: a, transitions: [{destination: b}, {destination: run}]}
  - {label: b, transitions: [{destination: a}]}
  - {label: run, callbacks: [{label: x, function: sleep}], transitions: [{destination: end, condition: \"callbacks['x'].result == 'success'\"}]}
  - {label: end}
";

struct Bench {
    name: &'static str,
    engine: Engine,
    ctx: Context,
}

impl Bench {
    async fn open(name: &'static str, url: &str) -> Self {
        let database = Database::connect(&DatabaseSettings::parse("bench", url).unwrap()).await.unwrap();
        database.migrate().await.unwrap();
        let definition = check(WORKFLOW, &FUNCTIONS).definition.unwrap();
        let ctx = Context::system("bench");
        workflow::load(&ctx, &database, &definition).await.unwrap();
        let engine = Engine::new(database, Clock::System);
        Self { name, engine, ctx }
    }

    async fn subject(&self) -> i32 {
        let transaction = self.engine.database().begin().await.unwrap();
        let cohort = register::cohort(&self.ctx, &*transaction, &Label::parse("bench").unwrap()).await.unwrap();
        let subject = register::subject(&self.ctx, &*transaction, cohort.id, &Label::parse("bench").unwrap(), None)
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        subject.id
    }

    async fn create(&self, count: usize) -> Vec<i32> {
        let subject_id = self.subject().await;
        let began = Instant::now();
        let mut ids = Vec::new();
        for number in 0..count {
            let new = NewExperiment {
                subject_id,
                label: Label::parse(&format!("session-{number}")).unwrap(),
                scandate: moment(),
                workflow: None,
                variables: Vec::new(),
            };
            ids.push(self.engine.create_experiment(&self.ctx, &new).await.unwrap().id);
        }
        self.print("experiments created a second, one after the other", rate(count, began.elapsed()));
        ids
    }

    fn print(&self, what: &str, value: impl std::fmt::Display) {
        eprintln!("{:9} {what:70} {value}", self.name);
    }

    /// Manual transitions a → b → a → …, from `tasks` tasks at once.
    async fn transitions(&self, ids: &[i32], tasks: usize, each: usize) {
        let began = Instant::now();
        let work = (0..tasks).map(|task| {
            let (engine, ctx) = (self.engine.clone(), self.ctx.clone());
            let ids: Vec<i32> = ids.iter().skip(task).step_by(tasks).copied().collect();
            tokio::spawn(async move {
                for step in 0..each {
                    // Each experiment alternates between both states.
                    let to = if (step / ids.len()).is_multiple_of(2) { "b" } else { "a" };
                    let target = Target::Label(to.to_owned());
                    engine.transition(&ctx, ids[step % ids.len()], &target, None, None).await.unwrap();
                }
            })
        });
        for task in work.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        self.print(&format!("transitions a second, {tasks} at a time"), rate(tasks * each, began.elapsed()));
    }

    /// Reports that complete a state, with a condition to evaluate: 16 at a time.
    async fn reports(&self) {
        let experiments = experiment::Entity::find().all(self.engine.database().reader()).await.unwrap();
        for one in &experiments {
            for to in ["a", "run"] {
                let target = Target::Label(to.to_owned());
                // Experiments that are in a already cannot move there.
                self.engine.transition(&self.ctx, one.id, &target, None, None).await.ok();
            }
        }
        let open = callback_execution::Entity::find()
            .order_by_asc(callback_execution::Column::Id)
            .all(self.engine.database().reader())
            .await
            .unwrap();
        let ids: Arc<Vec<i32>> = Arc::new(open.iter().map(|one| one.id).collect());
        let next = Arc::new(AtomicUsize::new(0));
        let began = Instant::now();
        let work = (0..16).map(|_| {
            let (engine, ctx, ids, next) = (self.engine.clone(), self.ctx.clone(), Arc::clone(&ids), Arc::clone(&next));
            tokio::spawn(async move {
                while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
                    engine.report(&ctx, *id, &Report::finished(ExecutionResult::Success)).await.unwrap();
                }
            })
        });
        for task in work.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        self.print(
            "reports with a condition and a transition a second, 16 at a time",
            rate(ids.len(), began.elapsed()),
        );
    }

    /// Inserts experiments without a history directly into the table.
    async fn fill(&self, count: usize) {
        let connection = self.engine.database().reader();
        let states = state::Entity::find().all(connection).await.unwrap();
        let subject = subject::Entity::find().one(connection).await.unwrap().unwrap();
        let there = experiment::Entity::find().all(connection).await.unwrap().len();
        let row = |number: usize| experiment::ActiveModel {
            label: Set(format!("filled-{number}")),
            scandate: Set(moment()),
            subject_id: Set(subject.id),
            workflow_id: Set(states[0].workflow_id),
            state_id: Set(states[number % states.len()].id),
            last_action_id: Set(None),
            state_since: Set(moment()),
            version: Set(1),
            ..Default::default()
        };
        for chunk in (there..count).collect::<Vec<_>>().chunks(2000) {
            let rows = chunk.iter().map(|number| row(*number));
            experiment::Entity::insert_many(rows).exec_without_returning(connection).await.unwrap();
        }
        connection.execute_unprepared("ANALYZE").await.unwrap();
    }

    /// A page of 50 experiments in one state: the first page, and one in the middle.
    async fn list(&self, size: usize) {
        let state = state::Entity::find().one(self.engine.database().reader()).await.unwrap().unwrap();
        let query = ExperimentQuery { states: Some(vec![state.id]), ..ExperimentQuery::default() };
        let totals = Totals::default();
        for (page, after) in [("first page", None), ("page in the middle", i32::try_from(size / 2).ok())] {
            let window = Window { limit: Some(50), after, ..Window::default() };
            let mut times = Vec::new();
            for _ in 0..200 {
                let began = Instant::now();
                let snapshot = self.engine.database().snapshot().await.unwrap();
                experiments(&self.ctx, &snapshot, &totals, &query, window).await.unwrap();
                times.push(began.elapsed());
            }
            times.sort();
            let text = format!("median {:.2} ms, 99 % {:.2} ms", milliseconds(times[100]), milliseconds(times[198]));
            self.print(&format!("list filtered by state, {page}, {size} experiments"), text);
        }
    }

    async fn large_workflow(&self) {
        let mut text = "label: large\nstates:\n  - {label: root, transitions: [{destination: s0}]}\n".to_owned();
        for number in 0..299 {
            text.push_str(&format!(
                "  - {{label: s{number}, callbacks: [{{label: x, function: sleep}}], transitions: [{{destination: s{}, condition: \"callbacks['x'].result == 'success'\"}}, {{destination: end}}]}}\n",
                (number + 1) % 299
            ));
        }
        text.push_str("  - {label: end}\n");
        let began = Instant::now();
        let definition = check(&text, &FUNCTIONS).definition.unwrap();
        let checked = began.elapsed();
        workflow::load(&self.ctx, self.engine.database(), &definition).await.unwrap();
        let loaded = began.elapsed();
        let drawn = Instant::now();
        let drawing = workflow::draw(&definition);
        assert_eq!(drawing.boxes.len(), 301);
        let text = format!(
            "check {:.0} ms, with load {:.0} ms, drawing {:.0} ms",
            milliseconds(checked),
            milliseconds(loaded),
            milliseconds(drawn.elapsed())
        );
        self.print("workflow of 301 states", text);
    }
}

fn moment() -> NaiveDateTime {
    "2026-01-01T00:00:00".parse().unwrap()
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn rate(count: usize, time: Duration) -> String {
    format!("{:.0}", count as f64 / time.as_secs_f64())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The server with its embedded database: time from start to first response, and memory.
async fn server(home: &Path) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/studygovernor");
    let start = |port: &str| -> Child {
        let mut command = Command::new(&program);
        command.arg("serve").current_dir(home).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command
            .env("STUDYGOV_PORT", port)
            .env("STUDYGOV_ADMIN_USERNAME", "admin")
            .env("STUDYGOV_ADMIN_PASSWORD", "admin");
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let base = format!("http://127.0.0.1:{port}");
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    for round in ["first start, with migrations", "second start"] {
        let began = Instant::now();
        let mut child = start(&port.to_string());
        while client.get(format!("{base}/-/ready")).send().await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        eprintln!("server    {round}: to the first answer {:>46} ms", began.elapsed().as_millis());
        if round == "second start" {
            let login =
                client.post(format!("{base}/login")).header("content-type", "application/x-www-form-urlencoded");
            let answer = login.body("login=admin&password=admin").send().await.unwrap();
            let cookie = answer.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
            let began = Instant::now();
            for _ in 0..10_000 {
                client
                    .get(format!("{base}/experiments"))
                    .header("cookie", &cookie)
                    .send()
                    .await
                    .unwrap()
                    .bytes()
                    .await
                    .unwrap();
            }
            eprintln!(
                "server    pages of experiments a second, one after the other {:>35}",
                rate(10_000, began.elapsed())
            );
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
            let resident = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
            eprintln!("server    memory after 10,000 requests: {resident}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

async fn measure(name: &'static str, url: &str) {
    let bench = Bench::open(name, url).await;
    let ids = bench.create(320).await;
    bench.transitions(&ids, 1, 640).await;
    bench.transitions(&ids, 16, 200).await;
    bench.reports().await;
    for size in [1_000, 100_000] {
        bench.fill(size).await;
        bench.list(size).await;
    }
    bench.large_workflow().await;
}

fn main() {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/studygovernor");
    condition::use_worker(program, vec!["condition-worker".into()]);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let home = tempfile::tempdir().unwrap();
        measure("sqlite", &format!("sqlite:///{}", home.path().join("bench.db").display())).await;
        match std::env::var("TEST_POSTGRES_URL") {
            Ok(server) => {
                let connection = sea_orm::Database::connect(&server).await.unwrap();
                let name = format!("bench_{}", std::process::id());
                connection.execute_unprepared(&format!("CREATE DATABASE {name}")).await.unwrap();
                measure("postgres", &format!("{}/{name}", server.rsplit_once('/').unwrap().0)).await;
            }
            Err(_) => eprintln!("TEST_POSTGRES_URL is not set: start this with `make bench`"),
        }
        server(home.path()).await;
    });
}
