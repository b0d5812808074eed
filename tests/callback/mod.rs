//! Callbacks on the embedded pool, from the claim to the next state.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use sea_orm::EntityTrait;
use serde_json::{Value, json};
use studygovernor::callback::{Outcome, Workplace};
use studygovernor::config::{Environment, ProjectSettings};
use studygovernor::engine::{EngineError, Report};
use studygovernor::entity::callback_execution;
use studygovernor::entity::kind::{ExecutionResult, ExecutionStatus};
use studygovernor::queue::{self, Available, Ticket};
use studygovernor::worker::{Claim, Desk, DeskError, LocalDesk, Order, Pool, Verdict};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::{Backend, Study, eventually, ledger_problems, on_every_database};

/// A running pool that can be told to stop.
struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(study: &Study, concurrency: usize, grace: Duration) -> Self {
        let (stop, stopped) = watch::channel(false);
        let lease = Duration::from_secs(3);
        let desk = LocalDesk::new(study.engine.clone(), "key", "http://test/prefix", lease);
        let environment: Environment = [("STUDYGOV_PROJECT_HOME", ".")].into_iter().collect();
        let workplace = Workplace::new(&ProjectSettings::read(&environment, study.home.path()));
        let pool = Pool::new(desk, workplace, concurrency, lease, grace);
        Self { stop, task: tokio::spawn(pool.run(stopped)) }
    }

    async fn stop(self) {
        self.stop.send(true).unwrap();
        self.task.await.unwrap();
    }
}

/// Runs one callback in a state of its own, and gives its execution when it is over or waits.
async fn run(study: &Study, callback: &str) -> callback_execution::Model {
    study.load(&workflow(callback)).await;
    let experiment = study.create("session").await;
    let id = study.executions(experiment.id).await["run"].id;
    let pool = Running::start(study, 2, Duration::from_secs(1));
    let ended = eventually("the callback to end", async || {
        let execution = study.execution(id).await;
        let done = matches!(execution.status, ExecutionStatus::Finished | ExecutionStatus::Waiting);
        done.then_some(execution)
    })
    .await;
    pool.stop().await;
    ended
}

fn workflow(callback: &str) -> String {
    format!(
        "label: runs\nstates:\n  - {{label: root, transitions: [{{destination: work}}]}}\n  - label: work\n    callbacks:\n      \
         - {{label: run, {callback}}}\n    transitions: [{{destination: good, condition: \"callbacks['run'].result == 'success'\"}}, {{destination: bad}}]\n  \
         - {{label: good}}\n  - {{label: bad}}\n"
    )
}

fn values(execution: &callback_execution::Model) -> Value {
    serde_json::from_str(execution.result_values.as_deref().unwrap()).unwrap()
}

async fn running_study() -> Study {
    Study::new(Backend::Sqlite).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sleep_sleeps_and_hands_back_the_rest() {
    let study = running_study().await;
    let ended = run(&study, "function: sleep, callback_arguments: {seconds: 0, colour: blue}").await;
    let wanted = json!({"sleep_duration": 0, "extra_kwargs": {"colour": "blue"}, "__success__": true});
    assert_eq!(values(&ended), wanted);
    assert_eq!(study.state(1).await, "good");
}

#[tokio::test(flavor = "multi_thread")]
async fn command_runs_a_program_with_substitutions_and_values() {
    let study = running_study().await;
    let script = r#"echo "args: $*"; echo oops >&2; cat; printf '__VALUES__ = {"n": 3}\n'; echo "label $STUDYGOV_EXPERIMENT_LABEL""#;
    let ended = run(
        &study,
        &format!(
            "function: command, callback_arguments: {{binary: sh, args: [-c, {}, name, $EXPERIMENT, $SUBJECT, $CALLBACK_EXECUTION, $CALLBACK_SECRET, 5, true], kwargs: {{--key: $EXPERIMENT}}}}",
            json!(script)
        ),
    )
    .await;
    let values = values(&ended);
    assert_eq!(values["return_code"], 0, "{values}");
    assert_eq!(values["values"], json!({"n": 3}));
    assert_eq!(values["stderr"], "oops\n");
    let stdout = values["stdout"].as_str().unwrap();
    let api = "http://test/prefix/api/v2";
    let arguments = format!(
        "args: {api}/experiments/1 {api}/subjects/1 {api}/callback_executions/1 *** 5 True --key {api}/experiments/1\n"
    );
    assert!(stdout.starts_with(&arguments), "{stdout}");
    assert!(stdout.contains("label session"), "{stdout}");
    assert!(ended.run_log.unwrap().contains("oops"));
    // Q2: the secret went to the program, and is nowhere else.
    let secret = queue::execution_secret("key", 1, 1);
    let row = format!("{:?}", study.execution(1).await);
    assert!(!row.contains(&secret));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_fails_is_a_failed_run_with_the_reason() {
    for (callback, result, words) in [
        ("function: command, callback_arguments: {binary: no-such-program}", "failed", "cannot run no-such-program"),
        ("function: command, callback_arguments: {binary: \"false\"}", "failed", "return code 1"),
        ("function: command, callback_arguments: {binary: \"false\", expected_return_code: 1}", "success", ""),
        ("function: command, callback_arguments: {binary: \"false\", expected_return_code: [0, 1]}", "success", ""),
        ("function: command, callback_arguments: {binary: \"false\", expected_return_code: null}", "success", ""),
        ("function: command, callback_arguments: {binary: sh, args: [-c, \"kill -9 $$\"]}", "failed", "return code -9"),
        ("function: command, callback_arguments: {args: [x]}", "failed", "missing field `binary`"),
        ("function: command, callback_arguments: {binary: echo, args: [$XNAT]}", "failed", "no external system 'XNAT'"),
        (
            "function: command, callback_arguments: {binary: echo, args: [\"__VALUES__ = {\"]}",
            "failed",
            "not one line of JSON",
        ),
        ("function: sleep, callback_arguments: {seconds: long}", "failed", "'long' is not a number"),
        (
            "function: external_program, callback_arguments: {binary: ../outside}",
            "failed",
            "directly in the project's bin",
        ),
        ("function: external_program, callback_arguments: {binary: absent.sh}", "failed", "cannot run"),
        ("function: castor, callback_arguments: {}", "failed", "'castor' is not in this version"),
    ] {
        let study = running_study().await;
        std::fs::create_dir(study.home.path().join("bin")).unwrap();
        let ended = run(&study, callback).await;
        assert_eq!(ended.result.to_string(), result, "{callback}: {ended:?}");
        let values = values(&ended);
        assert_eq!(values["__success__"], result == "success");
        assert!(values["__exception__"].as_str().unwrap_or("").contains(words), "{callback}: {values}");
        assert_eq!(study.state(1).await, if result == "success" { "good" } else { "bad" });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q6_values_are_found_in_output_that_is_too_long_to_keep() {
    let study = running_study().await;
    let noise = "head -c 1500000 /dev/zero | tr '\\0' x; echo";
    let script = format!("{noise}; echo '__VALUES__ = {{\"n\": 5}}'; {noise}");
    let ended =
        run(&study, &format!("function: command, callback_arguments: {{binary: sh, args: [-c, {}]}}", json!(script)))
            .await;
    let values = values(&ended);
    assert_eq!(values["values"], json!({"n": 5}));
    assert!(values["stdout"].as_str().unwrap().contains("bytes left out"));
    assert!(ended.run_log.unwrap().len() < 1_100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn q7_what_a_program_leaves_in_the_background_is_not_waited_for() {
    let study = running_study().await;
    let ended =
        run(&study, "function: command, callback_arguments: {binary: sh, args: [-c, \"sleep 1000 & echo $!\"]}").await;
    assert_eq!(ended.result, ExecutionResult::Success);
    let left: i32 = values(&ended)["stdout"].as_str().unwrap().trim().parse().unwrap();
    eventually("it to be gone", async || is_gone(left).then_some(())).await;
    assert!(ended.run_log.unwrap().contains("left something running"));
}

#[tokio::test(flavor = "multi_thread")]
async fn external_program_runs_what_is_in_the_projects_bin() {
    let study = running_study().await;
    let bin = study.home.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    write_script(&bin.join("hello.sh"), "#!/bin/sh\necho \"hello $1\"\n");
    let ended =
        run(&study, "function: external_program, callback_arguments: {binary: hello.sh, args: [world], unknown: 1}")
            .await;
    assert_eq!(values(&ended)["stdout"], "hello world\n");
    assert!(ended.run_log.unwrap().contains("argument unknown is not known"));
}

fn write_script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_with_a_wait_stage_waits_until_somebody_finishes_it() {
    let study = running_study().await;
    let waiting = run(&study, "function: sleep, wait_timeout: 10").await;
    assert_eq!((waiting.status, waiting.result), (ExecutionStatus::Waiting, ExecutionResult::None));
    assert_eq!(waiting.leased_until, None);
    assert!(waiting.deadline.is_some());
    study.succeed(waiting.id).await;
    assert_eq!(study.state(1).await, "good");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_initial_delay_is_part_of_the_run() {
    let study = running_study().await;
    study.load(&workflow("function: sleep, initial_delay: 2")).await;
    let experiment = study.create("session").await;
    let id = study.executions(experiment.id).await["run"].id;
    let began = std::time::Instant::now();
    let pool = Running::start(&study, 1, Duration::from_secs(1));
    eventually("the claim", async || (study.execution(id).await.status == ExecutionStatus::Running).then_some(()))
        .await;
    eventually("the end", async || study.execution(id).await.status.is_resolved().then_some(())).await;
    assert!(began.elapsed() >= Duration::from_secs(2));
    pool.stop().await;
}

/// Q6 and Q7: the log is there while it runs; a transition by hand kills the process group.
#[tokio::test(flavor = "multi_thread")]
async fn q6_q7_logs_arrive_while_it_runs_and_a_cancel_kills_the_whole_group() {
    let study = running_study().await;
    let callback =
        "function: command, callback_arguments: {binary: sh, args: [-c, \"sleep 1000 & echo child $!; wait\"]}";
    study.load(&workflow(callback)).await;
    let experiment = study.create("session").await;
    let id = study.executions(experiment.id).await["run"].id;
    let pool = Running::start(&study, 1, Duration::from_secs(1));
    let child: i32 = eventually("the log", async || {
        let log = study.execution(id).await.run_log?;
        log.lines().find_map(|line| line.strip_prefix("child ")?.parse().ok())
    })
    .await;
    let pid = rustix::process::Pid::from_raw(child).unwrap();
    assert!(rustix::process::test_kill_process(pid).is_ok());
    study.move_to(experiment.id, "bad").await.unwrap();
    eventually("the child to be gone", async || is_gone(child).then_some(())).await;
    assert_eq!(study.execution(id).await.status, ExecutionStatus::Skipped);
    assert!(study.execution(id).await.run_log.unwrap().contains("cancelled by tester"));
    pool.stop().await;
}

/// Not there, or dead and not yet waited for by whoever inherited it.
fn is_gone(pid: i32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Err(_) => true,
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q5_a_failure_is_tried_again_and_then_it_has_failed() {
    let study = running_study().await;
    let file = study.home.path().join("attempts");
    let callback = format!(
        "function: command, retries: 2, callback_arguments: {{binary: sh, args: [-c, \"echo x >> {}; false\"]}}",
        file.display()
    );
    let ended = run(&study, &callback).await;
    assert_eq!((ended.result, ended.attempt, ended.failures), (ExecutionResult::Failed, 3, 2));
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 3);
    let log = ended.run_log.unwrap();
    assert_eq!(log.matches("Calling command").count(), 3, "{log}");
    assert!(log.contains("=== attempt 2 ===") && log.contains("=== attempt 3 ==="), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn q7_a_pool_that_stops_gives_back_what_does_not_end() {
    let study = running_study().await;
    study.load(&workflow("function: sleep, callback_arguments: {seconds: 1000}")).await;
    let experiment = study.create("session").await;
    let id = study.executions(experiment.id).await["run"].id;
    let pool = Running::start(&study, 1, Duration::from_millis(200));
    eventually("the claim", async || (study.execution(id).await.status == ExecutionStatus::Running).then_some(()))
        .await;
    pool.stop().await;
    let back = study.execution(id).await;
    assert_eq!((back.status, back.attempt, back.leased_until), (ExecutionStatus::Queued, 2, None));
    assert_eq!(back.max_attempts, 4, "a stop in good order costs no attempt");
    assert!(back.run_log.unwrap().contains("the worker was stopped"));
}

/// A desk that cannot take the first reports, as when its database restarts.
struct Flaky {
    desk: LocalDesk,
    failures: AtomicUsize,
    beats_after_a_failure: Arc<AtomicUsize>,
}

impl Desk for Flaky {
    async fn waiting(&self, limit: u64) -> Result<Vec<Ticket>, DeskError> {
        self.desk.waiting(limit).await
    }

    async fn news(&self) {
        self.desk.news().await;
    }

    async fn claim(&self, ticket: &Ticket, worker: &str) -> Result<Claim, DeskError> {
        self.desk.claim(ticket, worker).await
    }

    async fn beat(&self, ticket: &Ticket, worker: &str, log: Option<String>) -> Result<Order, DeskError> {
        if self.failures.load(Ordering::SeqCst) > 0 {
            self.beats_after_a_failure.fetch_add(1, Ordering::SeqCst);
        }
        self.desk.beat(ticket, worker, log).await
    }

    async fn report(
        &self,
        ticket: &Ticket,
        worker: &str,
        outcome: &Outcome,
        log: String,
        wait: bool,
    ) -> Result<Verdict, DeskError> {
        if self.failures.fetch_add(1, Ordering::SeqCst) < 3 {
            return Err(DeskError("the database is restarting".to_owned()));
        }
        self.desk.report(ticket, worker, outcome, log, wait).await
    }

    async fn release(&self, ticket: &Ticket, worker: &str, why: &str) -> Result<(), DeskError> {
        self.desk.release(ticket, worker, why).await
    }
}

/// Q4: what was done is reported again and again, and the claim is kept meanwhile, so that nobody does it a second time.
#[tokio::test(flavor = "multi_thread")]
async fn q4_a_report_that_cannot_be_taken_is_made_again_and_keeps_its_claim() {
    let study = running_study().await;
    study.load(&workflow("function: sleep")).await;
    let experiment = study.create("session").await;
    let id = study.executions(experiment.id).await["run"].id;
    let lease = Duration::from_secs(3);
    let beats = Arc::new(AtomicUsize::new(0));
    let desk = Flaky {
        desk: LocalDesk::new(study.engine.clone(), "key", "http://test", lease),
        failures: AtomicUsize::new(0),
        beats_after_a_failure: Arc::clone(&beats),
    };
    let environment = Environment::default();
    let workplace = Workplace::new(&ProjectSettings::read(&environment, study.home.path()));
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(Pool::new(desk, workplace, 1, lease, Duration::from_secs(1)).run(stopped));
    eventually("the report to be taken", async || study.execution(id).await.status.is_resolved().then_some(())).await;
    let ended = study.execution(id).await;
    assert_eq!((ended.result, ended.attempt), (ExecutionResult::Success, 1));
    assert!(beats.load(Ordering::SeqCst) >= 3, "the claim was kept between the reports");
    stop.send(true).unwrap();
    task.await.unwrap();
}

on_every_database! {
    q3_two_pools_never_run_the_same_attempt;
    q4_a_lost_worker_is_replaced_until_the_attempts_are_used;
}

/// Q3: each callback appends a line with its execution; with two pools there is one line each.
async fn q3_two_pools_never_run_the_same_attempt(study: Study) {
    let file = study.home.path().join("effects");
    let callback = format!(
        "function: command, callback_arguments: {{binary: sh, args: [-c, \"echo $1 >> {}\", x, $CALLBACK_EXECUTION]}}",
        file.display()
    );
    study.load(&workflow(&callback)).await;
    for number in 0..40 {
        study.create(&format!("session-{number}")).await;
    }
    let pools = [Running::start(&study, 8, Duration::from_secs(5)), Running::start(&study, 8, Duration::from_secs(5))];
    eventually("all to end", async || {
        let executions = callback_execution::Entity::find().all(study.engine.database().reader()).await.unwrap();
        executions.iter().all(|one| one.status == ExecutionStatus::Finished).then_some(())
    })
    .await;
    for pool in pools {
        pool.stop().await;
    }
    let text = std::fs::read_to_string(&file).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!((lines.len(), text.lines().count()), (40, 40));
    let problems = ledger_problems(&study.engine).await;
    assert!(problems.is_empty(), "{problems:#?}");
}

/// Q4: the clock passes the lease; the next attempt begins, the old one has nothing to say.
async fn q4_a_lost_worker_is_replaced_until_the_attempts_are_used(study: Study) {
    study.load(&workflow("function: sleep, run_timeout: null")).await;
    let experiment = study.create("session").await;
    let id = study.executions(experiment.id).await["run"].id;
    let desk = LocalDesk::new(study.engine.clone(), "key", "http://test", Duration::from_secs(15));
    for attempt in 1..=3 {
        let [ticket] = &desk.waiting(10).await.unwrap()[..] else { panic!("nothing waits at attempt {attempt}") };
        assert_eq!((ticket.execution_id, ticket.attempt), (id, attempt));
        assert!(matches!(desk.claim(ticket, "worker").await.unwrap(), Claim::Granted(_)));
        assert!(matches!(desk.claim(ticket, "other").await.unwrap(), Claim::Refused));
        study.clock.advance(TimeDelta::seconds(10));
        assert_eq!(desk.beat(ticket, "worker", Some("alive\n".to_owned())).await.unwrap(), Order::Continue);
        assert_eq!(desk.beat(ticket, "other", None).await.unwrap(), Order::Stop);
        study.clock.advance(TimeDelta::seconds(10));
        assert_eq!(study.engine.check_leases().await.unwrap(), 0);
        study.clock.advance(TimeDelta::seconds(10));
        let (first, second) = tokio::join!(study.engine.check_leases(), study.engine.check_leases());
        assert_eq!(first.unwrap() + second.unwrap(), 1);
        assert_eq!(desk.beat(ticket, "worker", None).await.unwrap(), Order::Stop);
        let late = Report { attempt: Some(attempt), ..Report::finished(ExecutionResult::Success) };
        let refused = study.report(id, &late).await;
        assert!(matches!(refused, Err(EngineError::StaleAttempt { .. } | EngineError::Resolved { .. })));
    }
    let lost = study.execution(id).await;
    assert_eq!((lost.status, lost.result), (ExecutionStatus::Finished, ExecutionResult::Failed));
    assert!(lost.run_log.unwrap().contains("that was the last of 3 attempts"));
    assert_eq!(study.state(experiment.id).await, "bad");
    assert!(
        !queue::claim(
            study.engine.database().reader(),
            Available { id, attempt: 3 },
            "worker",
            study.clock.now(),
            TimeDelta::seconds(1),
            None
        )
        .await
        .unwrap()
    );
}
