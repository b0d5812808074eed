//! Claims, leases, heartbeats, retries and stops, independent of the callback function (Q3 to Q7).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use sea_orm::EntityTrait;
use studygovernor::callback::Outcome;
use studygovernor::engine::{EngineError, Report};
use studygovernor::entity::callback_execution;
use studygovernor::entity::kind::{ExecutionResult, ExecutionStatus};
use studygovernor::queue::{self, Available, Ticket};
use studygovernor::worker::{Claim, Desk, DeskError, LocalDesk, Order, Verdict};

use super::{Running, is_gone, local_desk, run, running_study, workflow};
use crate::support::{Study, ctx, eventually, ledger_problems, on_every_database};

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

/// Q6 and Q7: the log is available while the callback runs; a manual transition kills the process group.
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
    let pool = Running::start(&study, 1, Duration::from_secs(3));
    eventually("the claim", async || (study.execution(id).await.status == ExecutionStatus::Running).then_some(()))
        .await;
    pool.stop().await;
    let back = study.execution(id).await;
    assert_eq!((back.status, back.attempt, back.leased_until), (ExecutionStatus::Queued, 2, None));
    assert_eq!(back.max_attempts, 4, "a stop in good order costs no attempt");
    assert!(back.run_log.unwrap().contains("the worker was stopped"));
}

/// A desk that fails for the first reports, as when its database restarts.
struct Flaky {
    desk: LocalDesk,
    failures: AtomicUsize,
    beats_after_a_failure: Arc<AtomicUsize>,
}

impl Desk for Flaky {
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
            return Err(DeskError::Unreachable("the database is restarting".to_owned()));
        }
        self.desk.report(ticket, worker, outcome, log, wait).await
    }

    async fn release(&self, ticket: &Ticket, worker: &str, why: &str) -> Result<(), DeskError> {
        self.desk.release(ticket, worker, why).await
    }
}

/// Q4: the report is repeated and the claim is kept meanwhile, so that the work is not done twice.
#[tokio::test(flavor = "multi_thread")]
async fn q4_a_report_that_cannot_be_taken_is_made_again_and_keeps_its_claim() {
    let study = running_study().await;
    study.load(&workflow("function: sleep")).await;
    let experiment = study.create("session").await;
    let id = study.executions(experiment.id).await["run"].id;
    let beats = Arc::new(AtomicUsize::new(0));
    let desk =
        Flaky { desk: local_desk(&study), failures: AtomicUsize::new(0), beats_after_a_failure: Arc::clone(&beats) };
    let pool = Running::start_at(desk, &study, 1, Duration::from_secs(1));
    eventually("the report to be taken", async || study.execution(id).await.status.is_resolved().then_some(())).await;
    let ended = study.execution(id).await;
    assert_eq!((ended.result, ended.attempt), (ExecutionResult::Success, 1));
    assert!(beats.load(Ordering::SeqCst) >= 3, "the claim was kept between the reports");
    pool.stop().await;
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

/// Q4: the clock passes the end of the lease; the next attempt begins, and the old one can no longer report.
async fn q4_a_lost_worker_is_replaced_until_the_attempts_are_used(study: Study) {
    study.load(&workflow("function: sleep, run_timeout: null")).await;
    let experiment = study.create("session").await;
    let id = study.executions(experiment.id).await["run"].id;
    let desk = LocalDesk::new(study.engine.clone(), "http://test", Duration::from_secs(15));
    for attempt in 1..=3 {
        let waiting = queue::available(study.engine.database().reader(), study.clock.now(), 10).await.unwrap();
        assert_eq!(waiting, [Available { id, attempt }]);
        let ticket = &Ticket::new(id, attempt, "http://test", "key");
        assert!(matches!(desk.claim(ticket, "worker").await.unwrap(), Claim::Granted(_)));
        assert!(matches!(desk.claim(ticket, "other").await.unwrap(), Claim::Refused));
        study.clock.advance(TimeDelta::seconds(10));
        assert_eq!(desk.beat(ticket, "worker", Some("alive\n".to_owned())).await.unwrap(), Order::Continue);
        assert_eq!(desk.beat(ticket, "other", None).await.unwrap(), Order::Stop);
        study.clock.advance(TimeDelta::seconds(10));
        assert_eq!(study.engine.check_leases(ctx()).await.unwrap(), 0);
        study.clock.advance(TimeDelta::seconds(10));
        let (first, second) = tokio::join!(study.engine.check_leases(ctx()), study.engine.check_leases(ctx()));
        assert_eq!(first.unwrap() + second.unwrap(), 1);
        assert_eq!(desk.beat(ticket, "worker", None).await.unwrap(), Order::Stop);
        let late = Report { attempt: Some(attempt), ..Report::finished(ExecutionResult::Success) };
        let refused = study.report(id, &late).await;
        assert!(matches!(refused, Err(EngineError::StaleAttempt { .. } | EngineError::Resolved { .. })));
    }
    let lost = study.execution(id).await;
    assert_eq!((lost.status, lost.result), (ExecutionStatus::Finished, ExecutionResult::Failed));
    assert!(lost.run_log.unwrap().contains("this was the last of 3 attempts"));
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
