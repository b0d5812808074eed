//! Cost of the API over HTTP, on PostgreSQL, with 16 connections and everything on one machine: lists of 50 at two
//! sizes of the study, and transitions, compared with `pgbench` running only the SQL statements of a transition.
//!
//! `make bench`. This process generates the load over plain sockets, so that it uses little of the two cores.

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

use sea_orm::ActiveValue::Set;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter};
use studygovernor::callback::FUNCTIONS;
use studygovernor::clock::Clock;
use studygovernor::config::DatabaseSettings;
use studygovernor::context::Context;
use studygovernor::database::Database;
use studygovernor::engine::{Engine, NewExperiment};
use studygovernor::entity::{experiment, state, subject};
use studygovernor::study::{Label, register};
use studygovernor::workflow::{self, check, condition};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const WORKFLOW: &str = "
label: bench
states:
  - {label: root, transitions: [{destination: a}]}
  - {label: a, transitions: [{destination: b}, {destination: run}]}
  - {label: b, transitions: [{destination: a}]}
  - {label: run, callbacks: [{label: x, function: sleep}], transitions: [{destination: end}]}
  - {label: end}
";

const CONNECTIONS: usize = 16;
const TIME: Duration = Duration::from_secs(8);

struct Server {
    child: Child,
    address: String,
}

impl Server {
    async fn start(database: &str, home: &Path) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/studygovernor"));
        command.arg("serve").current_dir(home).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command
            .env("DATABASE_URL", database)
            .env("SECRET_KEY", "a key of the bench")
            .env("SECURITY_PASSWORD_SALT", "a salt of the bench")
            .env("STUDYGOV_PORT", port.to_string())
            .env("STUDYGOV_ADMIN_USERNAME", "admin")
            .env("STUDYGOV_ADMIN_PASSWORD", "admin");
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        let address = format!("127.0.0.1:{port}");
        while TcpStream::connect(&address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Self { child, address }
    }

    fn memory(&self) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        status.lines().find(|line| line.starts_with("VmRSS")).unwrap().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A connection that sends requests and reads the responses.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::with_capacity(64 * 1024) }
    }

    /// Sends a request and returns the status of the response.
    async fn ask(&mut self, request: &[u8]) -> u16 {
        self.stream.write_all(request).await.unwrap();
        self.buffer.clear();
        loop {
            assert!(self.stream.read_buf(&mut self.buffer).await.unwrap() > 0, "the server closed the connection");
            let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            if self.buffer.len() >= end + 4 + length.parse::<usize>().unwrap() {
                return head[9..12].parse().unwrap();
            }
        }
    }
}

/// `admin:admin`.
const LOGIN: &str = "Authorization: Basic YWRtaW46YWRtaW4=";

fn get(address: &str, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{LOGIN}\r\n\r\n").into_bytes()
}

fn put(address: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("PUT {path} HTTP/1.1\r\nHost: {address}\r\n{LOGIN}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// Opens [`CONNECTIONS`] connections. For [`TIME`], each sends the request that `next` returns for its number and step.
async fn load(what: &str, server: &Server, next: impl Fn(usize, usize) -> Vec<u8> + Clone + Send + 'static) -> f64 {
    let done = Arc::new(AtomicUsize::new(0));
    // Check the login once in advance, so that this is not measured.
    Connection::open(&server.address).await.ask(&get(&server.address, "/api/v2/scantypes")).await;
    let began = Instant::now();
    let work = (0..CONNECTIONS).map(|number| {
        let (address, next, done) = (server.address.clone(), next.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            let mut connection = Connection::open(&address).await;
            let mut times = Vec::new();
            let mut step = 0;
            while began.elapsed() < TIME {
                let request = next(number, step);
                let asked = Instant::now();
                let status = connection.ask(&request).await;
                assert!((200..300).contains(&status), "{status}");
                times.push(asked.elapsed());
                done.fetch_add(1, Ordering::Relaxed);
                step += 1;
            }
            times
        })
    });
    let mut times = Vec::new();
    for task in work.collect::<Vec<_>>() {
        times.extend(task.await.unwrap());
    }
    times.sort();
    let count = u32::try_from(done.load(Ordering::Relaxed)).unwrap();
    let rate = f64::from(count) / began.elapsed().as_secs_f64();
    let at = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1000.0;
    eprintln!("{what:66} {rate:6.0} a second, median {:.2} ms, 99 % {:.2} ms", at(50), at(99));
    rate
}

/// The latency of a single connection.
async fn alone(what: &str, server: &Server, path: &str) {
    let mut connection = Connection::open(&server.address).await;
    let request = get(&server.address, path);
    let mut times = Vec::new();
    for _ in 0..1000 {
        let asked = Instant::now();
        assert_eq!(connection.ask(&request).await, 200);
        times.push(asked.elapsed());
    }
    times.sort();
    let at = |index: usize| times[index].as_secs_f64() * 1000.0;
    eprintln!("{what:66} median {:.2} ms, 99 % {:.2} ms", at(500), at(990));
}

fn moment() -> chrono::NaiveDateTime {
    "2026-01-01T00:00:00".parse().unwrap()
}

async fn fill(database: &Database, count: usize) {
    let connection = database.reader();
    let states = state::Entity::find().all(connection).await.unwrap();
    let subject = subject::Entity::find().one(connection).await.unwrap().unwrap();
    let there = experiment::Entity::find().all(connection).await.unwrap().len();
    let row = |number: usize| experiment::ActiveModel {
        label: Set(format!("filled-{number}")),
        scandate: Set(moment()),
        subject_id: Set(subject.id),
        workflow_id: Set(states[0].workflow_id),
        state_id: Set(states[number % states.len()].id),
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

/// Row lock, action and update only, with the same number of clients: the best that the database can do.
fn pgbench(database: &str, home: &Path, ids: &[i32], transition_id: i32) -> f64 {
    let script = format!(
        "\\set id random({}, {})\nBEGIN;\nSELECT * FROM experiment WHERE id = :id FOR UPDATE;\n\
         INSERT INTO action (success, start_time, transition_id, experiment_id, origin) \
         VALUES (false, now(), {transition_id}, :id, 'cli') RETURNING id;\n\
         UPDATE experiment SET state_since = now(), version = version + 1 WHERE id = :id;\nCOMMIT;\n",
        ids[0],
        ids[ids.len() - 1],
    );
    let file = home.join("bare.sql");
    std::fs::write(&file, script).unwrap();
    let program = std::fs::read_dir("/usr/lib/postgresql").unwrap().flatten().map(|one| one.path().join("bin/pgbench"));
    let program = program.filter(|path| path.exists()).max().unwrap();
    let output = Command::new(program)
        .args(["-n", "-M", "prepared", "-c", "16", "-j", "2", "-T", "8", "-f"])
        .arg(&file)
        .arg(database)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.starts_with("tps = ")).unwrap_or_else(|| panic!("{output:?}"));
    line["tps = ".len()..].split(' ').next().unwrap().parse().unwrap()
}

async fn measure(url: &str, home: &Path) {
    let database = Database::connect(&DatabaseSettings::parse("bench", url).unwrap()).await.unwrap();
    database.migrate().await.unwrap();
    let ctx = Context::system("bench");
    workflow::load(&ctx, &database, &check(WORKFLOW, &FUNCTIONS).definition.unwrap()).await.unwrap();
    let engine = Engine::new(database.clone(), Clock::System);
    let transaction = database.begin().await.unwrap();
    let cohort = register::cohort(&ctx, &*transaction, &Label::parse("bench").unwrap()).await.unwrap();
    let subject =
        register::subject(&ctx, &*transaction, cohort.id, &Label::parse("bench").unwrap(), None).await.unwrap();
    transaction.commit().await.unwrap();
    let mut ids = Vec::new();
    for number in 0..320 {
        let new = NewExperiment {
            subject_id: subject.id,
            label: Label::parse(&format!("session-{number}")).unwrap(),
            scandate: moment(),
            workflow: None,
            variables: Vec::new(),
        };
        ids.push(engine.create_experiment(&ctx, &new).await.unwrap().id);
    }
    for size in [1_000, 100_000] {
        fill(&database, size).await;
        let server = Server::start(url, home).await;
        for (what, path) in [
            ("a page of 50", "/api/v2/experiments?limit=50"),
            ("a page of 50 in one state", "/api/v2/experiments?limit=50&state=a"),
        ] {
            Connection::open(&server.address).await.ask(&get(&server.address, path)).await;
            alone(&format!("{what} of {size}, one caller"), &server, path).await;
            let request = get(&server.address, path);
            load(&format!("{what} of {size}, 16 connections"), &server, move |_, _| request.clone()).await;
        }
        if size > 1000 {
            let began = Instant::now();
            Connection::open(&server.address).await.ask(&get(&server.address, "/api/v2/experiments")).await;
            eprintln!("all {size} experiments in one answer: {} ms", began.elapsed().as_millis());
            eprintln!("memory of the server after that: {}", server.memory());
        }
    }
    let server = Server::start(url, home).await;
    let (address, all) = (server.address.clone(), ids.clone());
    let ours = load("PUT …/state, 16 connections", &server, move |number, step| {
        let own: Vec<i32> = all.iter().skip(number).step_by(CONNECTIONS).copied().collect();
        let to = if (step / own.len()).is_multiple_of(2) { "b" } else { "a" };
        put(
            &address,
            &format!("/api/v2/experiments/{}/state", own[step % own.len()]),
            &format!("{{\"state\": \"{to}\"}}"),
        )
    })
    .await;
    drop(server);
    let transition = studygovernor::entity::transition::Entity::find()
        .filter(studygovernor::entity::transition::Column::Condition.is_null())
        .one(database.reader())
        .await
        .unwrap()
        .unwrap();
    let (url, home, ids) = (url.to_owned(), home.to_owned(), ids.clone());
    let bare = tokio::task::spawn_blocking(move || pgbench(&url, &home, &ids, transition.id)).await.unwrap();
    eprintln!(
        "pgbench with the bare statements, 16 clients: {bare:.0} a second; ours is {:.0} % of it",
        ours / bare * 100.0
    );
}

fn main() {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/studygovernor");
    condition::use_worker(program, vec!["condition-worker".into()]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let Ok(server) = std::env::var("TEST_POSTGRES_URL") else {
            eprintln!("TEST_POSTGRES_URL is not set: start this with `make bench`");
            return;
        };
        let home = tempfile::tempdir().unwrap();
        let connection = sea_orm::Database::connect(&server).await.unwrap();
        let name = format!("bench_api_{}", std::process::id());
        connection.execute_unprepared(&format!("CREATE DATABASE {name}")).await.unwrap();
        measure(&format!("{}/{name}", server.rsplit_once('/').unwrap().0), home.path()).await;
    });
}
