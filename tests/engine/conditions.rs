//! E9 with the engine: problems of the process that evaluates conditions never cause a wrong transition, and slow
//! conditions do not block other work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};
use studygovernor::engine::Report;
use studygovernor::entity::kind::{ExecutionResult, ExecutionStatus};
use studygovernor::import::{Session, register_session};
use studygovernor::study::Label;

use crate::support::{Caller, Program, Study, ctx, eventually, on_every_database, studygovernor};

on_every_database! {
    e9_slow_conditions_have_one_budget_and_are_evaluated_without_the_lock;
    e9_imports_evaluate_slow_conditions_without_the_lock;
}

/// Alternates between the states a and b as long as the condition is true; moves to `wrong` if it counted as false.
const TRUE: &str = "
label: truth
states:
  - {label: root, transitions: [{destination: a}]}
  - label: a
    callbacks: [{label: x, function: sleep, callback_arguments: {seconds: 3600}, condition: \"len(experiment.label) > 0\"}]
    transitions: [{destination: b, condition: \"callbacks['x'].result == 'success' and sum(range(300)) == 44850\"}, {destination: wrong}]
  - label: b
    callbacks: [{label: x, function: sleep, callback_arguments: {seconds: 3600}, condition: \"experiment.state == 'b'\"}]
    transitions: [{destination: a, condition: \"callbacks['x'].result == 'success' and sum(range(300)) == 44850\"}, {destination: wrong}]
  - {label: wrong}
";

/// The condition workers that a process has started.
fn workers_of(server: u32) -> Vec<Pid> {
    let children = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let process: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()?;
        let command = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        (parent == server && command.contains("condition-worker")).then_some(process)
    });
    children.filter_map(Pid::from_raw).collect()
}

/// A real server is stopped while reports arrive, as by systemd and a terminal (a signal to the whole group and to each
/// of its processes), and started again; in between, its evaluator is killed and stopped at random. Every acknowledged
/// report is in the history, and no experiment ever takes the transition that requires a false condition.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn e9_no_wrong_transition_when_the_evaluator_is_killed_or_the_whole_group_is_stopped() {
    use std::os::unix::process::CommandExt;

    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("w.yaml"), TRUE).unwrap();
    let loaded = studygovernor(home.path(), &["workflow", "load", "w.yaml"]).output().unwrap();
    assert!(loaded.status.success(), "{loaded:?}");
    let start = || {
        let mut command = studygovernor(home.path(), &["serve"]);
        command.env("STUDYGOV_TRANSITIONS_PER_MINUTE", "0").env("STUDYGOV_WORKER_CONCURRENCY", "1");
        command.env("STUDYGOV_ADMIN_USERNAME", "admin").env("STUDYGOV_ADMIN_EMAIL", "admin@example.com");
        command.env("STUDYGOV_ADMIN_PASSWORD", "admin").process_group(0);
        Program::start(command)
    };
    let mut server = start();
    let sessions: Vec<Value> =
        (0..4).map(|number| json!({"label": format!("e{number}"), "scandate": "2024-01-01"})).collect();
    let import = json!([{"cohort": "c", "label": "s", "experiments": sessions}]);
    Caller::admin_at(&server.url).post("/api/v2/import", import).await.expect(200);

    let mut moved = 0;
    for life in 0..2 {
        let done = AtomicBool::new(false);
        let caller = Caller::admin_at(&server.url);
        let process = server.id();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // The first server process is disturbed all the time, the others only at their end.
                for (turn, what) in
                    [Signal::KILL, Signal::STOP, Signal::TERM, Signal::KILL].into_iter().cycle().enumerate()
                {
                    if done.load(Ordering::Relaxed) || life > 0 {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(3 + turn as u64 * 7 % 40));
                    for worker in workers_of(process) {
                        let _ = kill_process(worker, what);
                    }
                }
            });
            let group = Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
            moved += tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(report_until(
                    &caller,
                    if life == 0 { 120 } else { 40 },
                    || {
                        if life > 0 {
                            // All at once, as with KillMode=control-group: the evaluator is in its own session, and
                            // gets the signal too.
                            let workers = workers_of(process);
                            let _ = kill_process_group(group, Signal::TERM);
                            for worker in workers {
                                let _ = kill_process(worker, Signal::TERM);
                            }
                        }
                    },
                ))
            });
            done.store(true, Ordering::Relaxed);
        });
        if life > 0 {
            let left = workers_of(process);
            let stopped = || std::future::ready((!server.is_running()).then_some(()));
            eventually("the server to stop", stopped).await;
            // Its evaluator ends with it.
            let gone = |pid: &Pid| !std::path::Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists();
            eventually("its evaluator to end", || std::future::ready(left.iter().all(gone).then_some(()))).await;
            server = start();
        }
        let caller = Caller::admin_at(&server.url);
        for id in 1..=4 {
            let state =
                caller.get(&format!("/api/v2/experiments/{id}/state")).await.expect(200)["state"]["label"].clone();
            assert_ne!(state, "wrong", "experiment {id} in life {life}");
        }
    }
    assert!(moved >= 120, "{moved} reports were answered");
}

/// Reports success for each running execution, with four callers, until `most` reports were accepted or the server has
/// stopped; calls `midway` after half of them.
async fn report_until(caller: &Caller, most: usize, midway: impl Fn()) -> usize {
    let taken = std::sync::atomic::AtomicUsize::new(0);
    let halfway = AtomicBool::new(false);
    let one = async |id: i32| {
        let began = Instant::now();
        while taken.load(Ordering::Relaxed) < most && began.elapsed() < Duration::from_mins(2) {
            let path = format!("/api/v2/experiments/{id}/actions");
            let Some(actions) = ask(caller, &path).await else { return };
            let Some(last) =
                actions["actions"].as_array().and_then(|all| all.last()).and_then(|last| last["uri"].as_str())
            else {
                continue;
            };
            let Some(action) = ask(caller, last).await else { return };
            let Some(execution) = action["executions"].as_array().and_then(|all| all.first()) else {
                continue;
            };
            let Some(uri) = execution.as_str().or_else(|| execution["uri"].as_str()) else { continue };
            let body = json!({"status": "finished", "result": "success"});
            let request = caller.request(reqwest::Method::PUT, uri).json(&body);
            match request.send().await {
                Ok(answer) if answer.status().is_success() => {
                    let count = taken.fetch_add(1, Ordering::Relaxed) + 1;
                    if count >= most / 2 && !halfway.swap(true, Ordering::Relaxed) {
                        midway();
                    }
                }
                // 409: another report was first. 503: nothing was decided, and the report is repeated.
                Ok(answer) => assert!(matches!(answer.status().as_u16(), 409 | 503), "{}", answer.status()),
                Err(_) => return,
            }
        }
    };
    tokio::join!(one(1), one(2), one(3), one(4));
    taken.into_inner()
}

/// The response of a server that may have stopped.
async fn ask(caller: &Caller, path: &str) -> Option<Value> {
    let answer = caller.request(reqwest::Method::GET, path).send().await.ok()?;
    answer.json().await.ok()
}

/// Sixty conditions that each run to their limit share the budget of one step, and another experiment is changed
/// meanwhile. Transitions behind a condition that was not evaluated are not taken.
async fn e9_slow_conditions_have_one_budget_and_are_evaluated_without_the_lock(study: Study) {
    let mut text = "
label: slow
states:
  - {label: root, transitions: [{destination: a}]}
  - label: a
    callbacks: [{label: x, function: sleep}]
    transitions:
"
    .to_owned();
    for number in 0..60 {
        text.push_str(&format!("      - {{destination: b, condition: \"sum(range(10**12 + {number})) == 1\"}}\n"));
    }
    text.push_str("      - {destination: c}\n  - {label: b}\n  - {label: c}\n");
    study.load(&text).await;
    let slow = study.create("slow").await.id;
    let other = study.create("other").await.id;
    let execution = study.executions(slow).await["x"].id;
    let quick = study.executions(other).await["x"].id;
    let done = AtomicBool::new(false);
    let mut waits = Vec::new();
    let report = async {
        study.report(execution, &Report::finished(ExecutionResult::Success)).await.unwrap();
        done.store(true, Ordering::Relaxed);
    };
    let writing = async {
        while !done.load(Ordering::Relaxed) {
            let began = Instant::now();
            let log = Report { run_log: Some("line".to_owned()), ..Report::default() };
            study.report(quick, &log).await.unwrap();
            waits.push(began.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::join!(report, writing);
    // If the lock had been held throughout, the first of these would have waited until the end on SQLite.
    assert!(waits.len() >= 8, "{waits:?}");

    assert_eq!(study.state(slow).await, "a", "the last transition stands behind conditions that were not evaluated");
    let action = study.actions(slow).await.pop().unwrap();
    let evaluations = studygovernor::workflow::yaml::parse_value(action.return_value.as_deref().unwrap()).unwrap();
    let evaluations = evaluations.as_array().unwrap();
    let said = |words: &str| {
        evaluations.iter().filter(|one| one["error"].as_str().is_some_and(|error| error.contains(words))).count()
    };
    assert_eq!((evaluations.len(), said("took longer than 50 ms") + said("not evaluated")), (61, 61));
    assert!(said("took longer than 50 ms") >= 2 && said("not evaluated") >= 2, "{evaluations:?}");
    assert_eq!(evaluations[60]["test_result"], Value::Null, "it was not tried");
    // Manually, the transition without a condition can be taken.
    study.move_to(slow, "c").await.unwrap();
}

/// The first state of the imported experiment has conditions that each run to their limit; another experiment is
/// changed meanwhile.
async fn e9_imports_evaluate_slow_conditions_without_the_lock(study: Study) {
    study.load("label: quick\nstates:\n  - {label: root, transitions: [{destination: a}]}\n  - {label: a, callbacks: [{label: x, function: sleep}], transitions: [{destination: b}]}\n  - {label: b}\n").await;
    let other = study.create("other").await.id;
    let quick = study.executions(other).await["x"].id;
    let mut text = "label: slow\nstates:\n  - {label: root, transitions: [{destination: a}]}\n  - label: a\n    transitions: [{destination: b}]\n    callbacks:\n"
        .to_owned();
    for number in 0..4 {
        let condition = format!("sum(range(10**12 + {number})) == 1");
        text.push_str(&format!("      - {{label: c{number}, function: sleep, condition: \"{condition}\"}}\n"));
    }
    text.push_str(
        "      - {label: last, function: sleep, condition: \"experiment.label == 'slow-1'\"}\n  - {label: b}\n",
    );
    study.load(&text).await;
    let session = |number: usize| Session {
        place: format!("line {number}"),
        cohort: Label::parse("cohort").unwrap(),
        subject: Label::parse("imported").unwrap(),
        date_of_birth: None,
        experiment: Label::parse(&format!("slow-{number}")).unwrap(),
        scandate: crate::support::moment("2026-01-01T12:00:00"),
        workflow: Some("slow".to_owned()),
        variables: Vec::new(),
        scans: Vec::new(),
        external_ids: Vec::new(),
    };
    let done = AtomicBool::new(false);
    let mut writes = 0;
    let import = async {
        let outcome = register_session(ctx(), &study.engine, &session(1)).await.unwrap();
        done.store(true, Ordering::Relaxed);
        outcome
    };
    let writing = async {
        while !done.load(Ordering::Relaxed) {
            let log = Report { run_log: Some("line".to_owned()), ..Report::default() };
            study.report(quick, &log).await.unwrap();
            writes += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (outcome, ()) = tokio::join!(import, writing);
    // If the lock had been held throughout, the second of these would have waited until the end on SQLite.
    assert!(writes >= 4, "{writes}");
    let experiment = outcome.experiment.unwrap();
    assert!(experiment.is_new);
    let executions = study.executions(experiment.id).await;
    let history: Vec<_> = study.actions(experiment.id).await.into_iter().map(|action| action.return_value).collect();
    assert_eq!(executions.len(), 5, "{history:?}");
    let skipped = executions.values().filter(|one| one.status == ExecutionStatus::Skipped).count();
    assert_eq!((skipped, executions["last"].status), (4, ExecutionStatus::Created));
}

/// If no evaluator answers, a report changes nothing and is accepted later.
#[tokio::test(flavor = "multi_thread")]
async fn e9_a_report_waits_while_nothing_can_be_evaluated() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("w.yaml"), TRUE).unwrap();
    assert!(studygovernor(home.path(), &["workflow", "load", "w.yaml"]).output().unwrap().status.success());
    let mut command = studygovernor(home.path(), &["serve"]);
    command.env("STUDYGOV_ADMIN_USERNAME", "admin").env("STUDYGOV_ADMIN_EMAIL", "admin@example.com");
    command.env("STUDYGOV_ADMIN_PASSWORD", "admin");
    let server = Program::start(command);
    let admin = Caller::admin_at(&server.url);
    let import = json!([{"cohort": "c", "label": "s", "experiments": [{"label": "e", "scandate": "2024-01-01"}]}]);
    admin.post("/api/v2/import", import).await.expect(200);
    // Every worker is killed as soon as it exists, for longer than the engine waits.
    let done = AtomicBool::new(false);
    let process = server.id();
    let report = json!({"status": "finished", "result": "success"});
    let answer = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for worker in workers_of(process) {
                    let _ = kill_process(worker, Signal::KILL);
                }
            }
        });
        let answer = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(admin.put("/api/v2/callback_executions/1", report.clone()))
        });
        done.store(true, Ordering::Relaxed);
        answer
    });
    if answer.status.as_u16() == 503 {
        let state = admin.get("/api/v2/experiments/1/state").await.expect(200)["state"]["label"].clone();
        assert_eq!(state, "a", "nothing was decided");
        assert!(!answer.header("retry-after").is_empty());
        admin.put("/api/v2/callback_executions/1", report).await.expect(200);
    } else {
        // A worker was faster than the loop that kills it.
        assert_eq!(answer.status.as_u16(), 200);
    }
    let state = admin.get("/api/v2/experiments/1/state").await.expect(200)["state"]["label"].clone();
    assert_eq!(state, "b");
}
