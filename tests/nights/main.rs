//! Random failures: processes killed, the broker killed, the database restarted, connections cut, slowed down and held
//! open, processes stopped at failpoints, condition workers killed, the disk of the database full. Afterwards every
//! experiment must be in its expected state.
//!
//! A round is generated from a seed, which is printed; `SOAK_SEED` repeats it. A separate binary, because it stops the
//! servers that the other tests use: cargo runs one binary after the other. `make soak` runs it for a given time.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

#[path = "../support/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    clippy::unused_self,
    reason = "shared with the other tests, which use the rest of it"
)]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sea_orm::{ConnectionTrait, EntityTrait};
use studygovernor::engine::NewExperiment;
use studygovernor::entity::kind::{ExecutionResult, ExecutionStatus};
use studygovernor::entity::{action, experiment, state};
use studygovernor::queue::{QueueNames, declare_queue};
use studygovernor::study::Label;
use tokio::sync::Mutex;

use support::{Backend, Program, Proxy, SetClock, SmallDisk, Station, create_database, ctx, ledger_problems, moment};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// The tests of this binary stop servers that they share, so they run one at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Experiments of a round, and executions of each experiment.
const EXPERIMENTS: usize = 40;
const EXECUTIONS: usize = 7;

/// The failpoints of servers and workers.
const SERVER_POINTS: [&str; 7] = [
    "before-commit",
    "after-commit",
    "before-publish",
    "after-publish",
    "before-claim",
    "after-claim",
    "before-report",
];
const WORKER_POINTS: [&str; 2] = ["after-run", "after-report"];

/// Each callback writes a line with its execution and its attempt; some take a moment, so that failures hit them while
/// they run.
fn workflow(effects: &str) -> String {
    let callback = |label: &str, seconds: &str| {
        format!(
            "      - {{label: {label}, function: command, retries: 50, retry_delay: 0, callback_arguments: {{binary: sh, args: [-c, \
             \"sleep {seconds}; echo $STUDYGOV_EXECUTION_ID $STUDYGOV_ATTEMPT >> {effects}\"]}}}}\n"
        )
    };
    format!(
        "label: night\nstates:\n  - {{label: root, transitions: [{{destination: first}}]}}\n  - label: first\n    callbacks:\n{}{}{}    \
         transitions: [{{destination: second, condition: \"callbacks['a'].result == 'success'\"}}]\n  - label: second\n    callbacks:\n{}{}    \
         transitions: [{{destination: third}}]\n  - label: third\n    callbacks:\n{}{}    transitions: [{{destination: end}}]\n  - {{label: end}}\n",
        callback("a", "0"),
        callback("b", "0.2"),
        callback("c", "0"),
        callback("d", "0.5"),
        callback("e", "0"),
        callback("f", "0.1"),
        callback("g", "0"),
    )
}

/// One of the processes of the study, restarted whenever it has ended.
struct Kept {
    name: String,
    program: Option<Program>,
    /// The failpoint at which it stops next time.
    fault: Option<String>,
    deaths: usize,
}

struct Night {
    station: Station,
    ports: [String; 2],
    servers: Vec<Kept>,
    workers: Vec<Kept>,
    /// The clocks of the servers' machines.
    clocks: [SetClock; 2],
    /// Servers to broker, workers to broker, first worker to the first server.
    proxies: [Proxy; 3],
    /// The disk of the database; `None` where mounting is not permitted.
    disk: Option<Disk>,
    done: BTreeMap<&'static str, usize>,
}

/// A small disk with the tables of the study.
struct Disk {
    small: Arc<SmallDisk>,
    tablespace: String,
}

impl Disk {
    /// With enough space for a round, and a database on it.
    async fn with_database() -> Option<(Self, String)> {
        let small = SmallDisk::new(96)?;
        let database = create_database("TEST_POSTGRES_URL").await;
        let (_, name) = database.rsplit_once('/').unwrap();
        let tablespace = format!("disk_of_{name}");
        let folder = small.folder_of_postgres();
        administer(&[
            &format!("CREATE TABLESPACE {tablespace} LOCATION '{}'", folder.display()),
            &format!("ALTER DATABASE {name} SET TABLESPACE {tablespace}"),
        ])
        .await;
        Some((Self { small: Arc::new(small), tablespace }, database))
    }

    /// Fills the disk for some time.
    fn fill(&self, time: Duration) {
        self.small.fill();
        let small = Arc::clone(&self.small);
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            small.free();
        });
    }

    /// Drops the database first; otherwise the server would miss the files of a database that it still knows.
    async fn drop_with(self, database: &str) {
        let (_, name) = database.rsplit_once('/').unwrap();
        administer(&[&format!("DROP DATABASE {name} WITH (FORCE)"), &format!("DROP TABLESPACE {}", self.tablespace)])
            .await;
    }
}

impl Drop for Night {
    fn drop(&mut self) {
        // A failed round: the tables remain as long as the database server knows them.
        std::mem::forget(self.disk.take());
    }
}

/// Executes statements as the administrator of the database server.
async fn administer(statements: &[&str]) {
    let server = std::env::var("TEST_POSTGRES_URL").expect("run the tests with `make test`");
    let connection = sea_orm::Database::connect(&server).await.unwrap();
    for statement in statements {
        connection.execute_unprepared(statement).await.unwrap();
    }
    connection.close().await.unwrap();
}

fn port() -> String {
    // Below the ports that clients get; otherwise another process could use the port while the server is down.
    let mut random = rand::rng();
    loop {
        let port = random.random_range(10_000..30_000_u16);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port.to_string();
        }
    }
}

impl Night {
    async fn begin() -> Self {
        let (disk, mut station) = match Disk::with_database().await {
            Some((disk, database)) => (Some(disk), Station::on(tempfile::tempdir().unwrap(), database).await),
            None => (None, Station::new(Backend::Postgres).await),
        };
        let direct = station.broker.clone();
        let ports = [port(), port()];
        let first_server = format!("http://127.0.0.1:{}", ports[0]);
        let proxies = [Proxy::to(&direct).await, Proxy::to(&direct).await, Proxy::to(&first_server).await];
        station.broker = proxies[0].address(&direct);
        let kept = |name: &str| Kept { name: name.to_owned(), program: None, fault: None, deaths: 0 };
        let servers = vec![kept("server 0"), kept("server 1")];
        let workers = vec![kept("worker 0"), kept("worker 1")];
        let clocks = [0, 1].map(|_| SetClock::new(station.home.path()));
        let mut night = Self { station, ports, servers, workers, clocks, proxies, disk, done: BTreeMap::new() };
        for which in 0..2 {
            night.start_server(which);
            night.start_worker(which);
        }
        night
    }

    fn start_server(&mut self, which: usize) {
        let fault = self.servers[which].fault.take().unwrap_or_default();
        let mut environment = vec![
            ("STUDYGOV_PORT", self.ports[which].as_str()),
            ("STUDYGOV_LEASE_SECONDS", "2"),
            ("STUDYGOV_REPUBLISH_SECONDS", "2"),
            ("STUDYGOV_DATABASE_LOCK_SECONDS", "1"),
            ("STUDYGOV_DATABASE_IDLE_SECONDS", "3"),
            ("STUDYGOV_FAULT", fault.as_str()),
        ];
        environment.extend(self.clocks[which].environment());
        self.servers[which].program = Some(self.station.server(&environment));
    }

    fn start_worker(&mut self, which: usize) {
        let fault = self.workers[which].fault.take().unwrap_or_default();
        let server = self.proxies[2].address(&format!("http://127.0.0.1:{}/", self.ports[0]));
        let server = server.trim_end_matches('/');
        let arguments: &[&str] =
            if which == 0 { &["--concurrency", "8", "--server", server] } else { &["--concurrency", "8"] };
        let broker = self.proxies[1].address(&self.station.broker);
        let environment = [("STUDYGOV_BROKER", broker.as_str()), ("STUDYGOV_FAULT", fault.as_str())];
        let command = self.station.worker_command(arguments, &environment);
        self.workers[which].program = Some(Program::start_until(command, "running callbacks"));
    }

    /// Restarts processes that have ended.
    fn look_after(&mut self) {
        for which in 0..2 {
            for is_server in [true, false] {
                let kept = if is_server { &mut self.servers[which] } else { &mut self.workers[which] };
                if kept.program.as_mut().is_some_and(Program::is_running) {
                    continue;
                }
                kept.deaths += 1;
                kept.program = None;
                if is_server { self.start_server(which) } else { self.start_worker(which) }
            }
        }
    }

    fn kill(&mut self, is_server: bool, which: usize, fault: Option<String>) {
        let kept = if is_server { &mut self.servers[which] } else { &mut self.workers[which] };
        kept.fault = fault;
        if let Some(program) = kept.program.take() {
            program.kill();
        }
    }

    /// Causes one failure. Returns the time to wait before the next.
    async fn go_wrong(&mut self, random: &mut StdRng) -> Duration {
        let which = random.random_range(0..2);
        let what = match random.random_range(0..160) {
            0..20 => {
                self.kill(true, which, None);
                "server killed"
            }
            20..40 => {
                self.kill(false, which, None);
                "worker killed"
            }
            40..60 => {
                let point = SERVER_POINTS[random.random_range(0..SERVER_POINTS.len())];
                let times = random.random_range(1..15);
                self.kill(true, which, Some(format!("{point}:{times}")));
                "server to stop at a point"
            }
            60..70 => {
                let point = WORKER_POINTS[random.random_range(0..WORKER_POINTS.len())];
                let times = random.random_range(1..8);
                self.kill(false, which, Some(format!("{point}:{times}")));
                "worker to stop at a point"
            }
            70..82 => {
                let proxy = &self.proxies[random.random_range(0..3)];
                proxy.cut();
                tokio::time::sleep(Duration::from_millis(random.random_range(50..1500))).await;
                proxy.mend();
                "connections cut"
            }
            82..90 => {
                let proxy = &self.proxies[random.random_range(0..3)];
                proxy.delay(Duration::from_millis(random.random_range(20..300)));
                tokio::time::sleep(Duration::from_secs(1)).await;
                proxy.delay(Duration::ZERO);
                "connections slow"
            }
            // It keeps its connections and their locks, like a paused machine.
            100..115 => {
                if let Some(server) = &self.servers[which].program {
                    pause(server.id(), Duration::from_millis(random.random_range(500..6000)));
                }
                "server stopped and continued"
            }
            115..125 => {
                let hours = random.random_range(-2..=2);
                self.clocks[which].set(hours * 3600);
                "clock set"
            }
            125..140 => match kill_evaluators(self.servers[which].program.as_ref()) {
                0 => "no evaluator to kill",
                _ => "evaluator killed",
            },
            140..150 => {
                hold_connections(&self.ports[which], Duration::from_millis(random.random_range(1000..3000)));
                "connections held"
            }
            150..160 if self.disk.is_some() => {
                let time = Duration::from_millis(random.random_range(500..2500));
                self.disk.iter().for_each(|disk| disk.fill(time));
                "disk full"
            }
            90..95 if !self.done.contains_key("broker killed") => {
                restart("TEST_RABBITMQ", "KILL");
                "broker killed"
            }
            _ if !self.done.contains_key("database restarted") => {
                restart("TEST_POSTGRES", "INT");
                "database restarted"
            }
            _ => "nothing",
        };
        *self.done.entry(what).or_default() += 1;
        Duration::from_millis(random.random_range(100..900))
    }

    /// The number of experiments that have not reached their end; `None` if the database does not answer.
    async fn left(&self) -> Option<usize> {
        let connection = self.station.engine.database().reader();
        let states = state::Entity::find().all(connection).await.ok()?;
        let end = states.iter().find(|state| state.label == "end")?.id;
        let all = experiment::Entity::find().all(connection).await.ok()?;
        Some(all.iter().filter(|one| one.state_id != end).count())
    }
}

/// Kills the processes in which a server evaluates conditions; returns their number.
fn kill_evaluators(server: Option<&Program>) -> usize {
    use rustix::process::{Pid, Signal, kill_process};
    let Some(server) = server.map(Program::id) else { return 0 };
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_evaluator = |id: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        let command = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        parent == Some(server) && String::from_utf8_lossy(&command).contains("condition-worker")
    };
    let evaluators = ids.filter(is_evaluator).filter_map(Pid::from_raw);
    evaluators.filter(|id| kill_process(*id, Signal::KILL).is_ok()).count()
}

/// Opens hundreds of connections to a server that send nothing, half a head or half a body, and holds them for this
/// time.
fn hold_connections(port: &str, time: Duration) {
    const HELD: usize = 300;
    let address = format!("127.0.0.1:{port}");
    let body =
        "POST /api/v2/callback_executions/1/report HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n{\"worker\":";
    let said = ["", "GET /experiments HTTP/1.1\r\nHost: x\r\nCook", body];
    for number in 0..HELD {
        let address = address.clone();
        tokio::spawn(async move {
            // The server may be down, or refuse that many connections.
            let Ok(mut connection) = TcpStream::connect(address).await else { return };
            connection.write_all(said[number % said.len()].as_bytes()).await.ok();
            tokio::time::sleep(time).await;
        });
    }
}

/// Stops a process with SIGSTOP and continues it after this time.
fn pause(id: u32, time: Duration) {
    use rustix::process::{Pid, Signal, kill_process};
    let process = Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
    kill_process(process, Signal::STOP).ok();
    tokio::spawn(async move {
        tokio::time::sleep(time).await;
        // It may have been killed meanwhile.
        kill_process(process, Signal::CONT).ok();
    });
}

/// Stops a server with `signal` and starts it again with its launcher, on the same port and data.
fn restart(variable: &str, signal: &str) {
    let value = |name: &str| std::env::var(format!("{variable}_{name}")).expect("run the tests with `make test`");
    let pid = std::fs::read_to_string(value("PID")).unwrap();
    let pid = pid.lines().next().unwrap().trim().to_owned();
    assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
    while std::path::Path::new(&format!("/proc/{pid}/cmdline")).exists()
        && std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|text| !text.is_empty())
    {
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut launcher = Command::new(value("START"));
    let mut server = launcher.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // Waits for the process; otherwise it would appear to be alive after the next kill.
    std::thread::spawn(move || server.wait());
}

async fn round(seed: u64) -> BTreeMap<&'static str, usize> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut night = Night::begin().await;
    let effects = night.station.home.path().join("effects");
    let first = night.servers[0].program.as_ref().unwrap();
    night.station.load(first, &workflow(effects.to_str().unwrap())).await;
    for number in 0..EXPERIMENTS {
        let new = NewExperiment {
            subject_id: 1,
            label: Label::parse(&format!("session-{number}")).unwrap(),
            scandate: moment("2026-01-01T12:00:00"),
            workflow: None,
            variables: Vec::new(),
        };
        night.station.engine.create_experiment(ctx(), &new).await.unwrap();
    }
    let began = Instant::now();
    let trouble_ends = began + Duration::from_secs(6);
    loop {
        if Instant::now() < trouble_ends {
            let pause = night.go_wrong(&mut random).await;
            tokio::time::sleep(pause).await;
        } else {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        night.look_after();
        if Instant::now() >= trouble_ends && night.left().await == Some(0) {
            break;
        }
        if began.elapsed() > Duration::from_mins(3) {
            let open = night.station.executions().await;
            let open: Vec<_> = open.iter().filter(|one| !one.status.is_resolved()).take(5).collect();
            let mut logs = String::new();
            for kept in night.servers.iter().chain(&night.workers) {
                let log = kept.program.as_ref().map(Program::log).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(15).collect();
                logs.push_str(&format!(
                    "--- {}\n{}\n",
                    kept.name,
                    tail.into_iter().rev().collect::<Vec<_>>().join("\n")
                ));
            }
            panic!("seed {seed}: {:?} left after three minutes: {open:#?}\n{logs}", night.left().await);
        }
    }
    check(&night, &effects, seed).await;
    let deaths = night.servers.iter().chain(&night.workers).map(|kept| kept.deaths).sum();
    night.done.insert("deaths in all", deaths);
    let done = std::mem::take(&mut night.done);
    if let Some(disk) = night.disk.take() {
        let database = night.station.database.clone();
        drop(night);
        disk.drop_with(&database).await;
    }
    done
}

/// Checks the final state of a round.
async fn check(night: &Night, effects: &std::path::Path, seed: u64) {
    let engine = &night.station.engine;
    let problems = ledger_problems(engine).await;
    assert!(problems.is_empty(), "seed {seed}: {problems:#?}");
    let executions = night.station.executions().await;
    assert_eq!(executions.len(), EXPERIMENTS * EXECUTIONS, "seed {seed}: each callback was asked for once");
    let text = std::fs::read_to_string(effects).unwrap();
    let lines: BTreeSet<(i32, i32)> = text
        .lines()
        .map(|line| {
            let (execution, attempt) = line.split_once(' ').unwrap();
            (execution.parse().unwrap(), attempt.parse().unwrap())
        })
        .collect();
    for one in &executions {
        assert_eq!(
            (one.status, one.result),
            (ExecutionStatus::Finished, ExecutionResult::Success),
            "seed {seed}: {one:?}"
        );
        assert_eq!(one.relay_at, None, "seed {seed}: nothing is left to dispatch");
        assert!(lines.contains(&(one.id, one.attempt)), "seed {seed}: the result that counts has its effect: {one:?}");
    }
    let actions = action::Entity::find().all(engine.database().reader()).await.unwrap();
    assert_eq!(actions.len(), EXPERIMENTS * 4, "seed {seed}: one transition each");
}

/// Acts like another server that redeclares queues, slowly, once the broker is back.
async fn renews_queues(broker: &str, names: &QueueNames) -> lapin::Connection {
    let connection = support::eventually("the broker to be back", async || {
        studygovernor::queue::connect(broker, "another server").await.ok()
    })
    .await;
    let channel = connection.create_channel().await.unwrap();
    let options = lapin::options::QueueDeclareOptions { exclusive: true, ..Default::default() };
    channel.queue_declare(names.renewal().into(), options, lapin::types::FieldTable::default()).await.unwrap();
    connection
}

/// Q4: if RabbitMQ is killed just after a queue was declared, it has the queue afterwards but can never use it. The
/// server detects that and redeclares the queue, without manual intervention. Only one of several servers does so,
/// because deleting a queue just after it was declared damages more of the broker than that queue.
#[tokio::test(flavor = "multi_thread")]
async fn q4_queues_that_the_broker_cannot_use_any_more_are_declared_anew() {
    let _alone = ALONE.lock().await;
    let station = Station::new(Backend::Postgres).await;
    // No other client uses the broker while it restarts, so its errors are about the queues.
    let names = QueueNames::new(&station.prefix);
    let connection = studygovernor::queue::connect(&station.broker, "a test").await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    declare_queue(&channel, &names, "default").await.unwrap();
    declare_queue(&channel, &names, "other").await.unwrap();
    restart("TEST_RABBITMQ", "KILL");
    let other_server = renews_queues(&station.broker, &names).await;
    let servers = [(); 2].map(|()| station.server(&[("STUDYGOV_REPUBLISH_SECONDS", "2")]));
    let [server, _] = &servers;
    station.load(server, &workflow(station.home.path().join("effects").to_str().unwrap())).await;
    let worker = station.worker(&["--queue", "default", "--queue", "other"], &[]);
    station.create(server, "session").await;
    let logs = || servers.iter().map(Program::log).collect::<String>();
    support::eventually("the servers to wait for the one that declares queues anew", async || {
        logs().contains("another server is repairing queues").then_some(())
    })
    .await;
    assert!(!logs().contains("it was deleted and redeclared"), "{}", logs());
    other_server.close(200, "done".into()).await.unwrap();
    let patience = Duration::from_mins(3);
    let began = Instant::now();
    while station.executions().await.iter().filter(|one| one.status == ExecutionStatus::Finished).count() < EXECUTIONS {
        assert!(began.elapsed() < patience, "{}\n{}", logs(), worker.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    say(&format!("queues declared anew after {:.1} s", began.elapsed().as_secs_f64()));
    let logs = logs();
    let renewed: Vec<&str> = logs.lines().filter(|line| line.contains("it was deleted and redeclared")).collect();
    assert!(!renewed.is_empty(), "{logs}");
    for queue in [names.work("default"), names.work("other"), names.dead()] {
        let times = renewed.iter().filter(|line| line.contains(&format!("queue=\"{queue}\""))).count();
        assert!(times <= 1, "{queue} was declared anew {times} times: {logs}");
    }
}

/// E4, Q1, Q3 and Q4 together, under random failures.
#[tokio::test(flavor = "multi_thread")]
async fn e4_q1_q3_q4_in_the_morning_every_experiment_is_where_it_should_be() {
    let _alone = ALONE.lock().await;
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (first, rounds) = (number("SOAK_SEED", rand::random::<u32>().into()), number("SOAK_ROUNDS", 10));
    let ends =
        std::env::var("SOAK_SECONDS").ok().map(|text| Instant::now() + Duration::from_secs(text.parse().unwrap()));
    let mut sums: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut done = 0;
    while ends.map_or(done < rounds, |ends| Instant::now() < ends) {
        let seed = first + done;
        let began = Instant::now();
        say(&format!("round {done}, seed {seed}"));
        for (what, count) in round(seed).await {
            *sums.entry(what).or_default() += count;
        }
        say(&format!("round {done}, seed {seed}: sound after {:.1} s", began.elapsed().as_secs_f64()));
        done += 1;
    }
    let executions = usize::try_from(done).unwrap() * EXPERIMENTS * EXECUTIONS;
    say(&format!("{done} rounds from seed {first}, {executions} executions: {sums:#?}"));
}

/// Progress messages for users who watch the test.
#[expect(clippy::print_stdout, reason = "a long test that says nothing looks like one that hangs")]
fn say(line: &str) {
    println!("{line}");
}
