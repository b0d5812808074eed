//! Q8: the program of a callback ends with its attempt, with all processes that it has started, however the worker
//! ends.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use studygovernor::entity::kind::{ExecutionResult, ExecutionStatus};

use super::{Running, is_gone, run, running_study, values, workflow};
use crate::support::{Backend, Program, Station, Study, eventually};

/// A program that starts others in every way that hides them: in their own session, orphaned twice, with an empty
/// environment. The second attempt reports which of them still exist when it begins. `folder` contains a list of all of
/// them.
fn program(folder: &Path) -> String {
    let folder = folder.display();
    let line = format!(
        "cd {folder}; if [ $STUDYGOV_ATTEMPT -gt 1 ]; then for p in $(cat pids); do \
         if grep -q '^State:.[^ZX]' /proc/$p/status 2>/dev/null; then echo beside $p >>log; fi; done; echo again >>log; exit 0; fi; \
         setsid sh -c 'echo $$ >>pids; exec sleep 1000' >/dev/null 2>&1 & \
         (setsid sh -c '(setsid sh -c \"echo \\$\\$ >>pids; exec sleep 1000\" >/dev/null 2>&1 &)' &); \
         sh -c 'trap \"\" TERM HUP INT; echo $$ >>pids; sleep 1000; sleep 1000' & \
         env -i /bin/sh -c 'echo $$ >>pids; exec sleep 1000' & \
         echo $$ >>pids; echo $PPID >guard; while [ ! -e finish ]; do sleep 0.1; done"
    );
    format!("function: command, callback_arguments: {{binary: sh, args: [-c, {}]}}", json!(line))
}

/// Waits for all processes of the program and returns their ids.
async fn started(folder: &Path) -> Vec<i32> {
    eventually("the program and what it starts", async || {
        let text = std::fs::read_to_string(folder.join("pids")).ok()?;
        let found: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
        (found.len() == 5 && folder.join("guard").metadata().is_ok_and(|data| data.len() > 1)).then_some(found)
    })
    .await
}

async fn all_gone(ids: &[i32]) {
    eventually("the programs to be gone", async || ids.iter().all(|id| is_gone(*id)).then_some(())).await;
}

fn signal(id: i32, signal: Signal) {
    kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
}

fn parent(id: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The inner guard of the program, and the outer one.
fn guards(folder: &Path) -> (i32, i32) {
    let inner: i32 = std::fs::read_to_string(folder.join("guard")).unwrap().trim().parse().unwrap();
    (inner, parent(inner))
}

fn log(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("log")).unwrap_or_default()
}

/// Checks that the second attempt has run, and that no process of the first one was still running.
async fn second_attempt(station: &Station, folder: &Path) {
    let ended = station.reaches(1, ExecutionStatus::Finished).await;
    assert_eq!((ended.result, ended.attempt), (ExecutionResult::Success, 2), "{:?}", ended.run_log);
    assert_eq!(log(folder), "again\n");
}

const SHORT: [(&str, &str); 1] = [("STUDYGOV_LEASE_SECONDS", "2")];

/// A server that runs callbacks itself is killed.
#[tokio::test(flavor = "multi_thread")]
async fn q8_programs_of_a_killed_server_end_before_the_second_attempt_begins() {
    let station = Station::new(Backend::Sqlite).await;
    let folder = tempfile::tempdir().unwrap();
    let local = [SHORT[0], ("STUDYGOV_CALLBACK_METHOD", "local")];
    let server = station.server(&local);
    station.load(&server, &workflow(&program(folder.path()))).await;
    station.create(&server, "session").await;
    let ids = started(folder.path()).await;
    server.kill();
    let _second = station.server(&local);
    second_attempt(&station, folder.path()).await;
    all_gone(&ids).await;
}

/// A separate worker is killed; then once more together with one of the guards.
#[tokio::test(flavor = "multi_thread")]
async fn q8_programs_of_a_killed_worker_end_before_the_second_attempt_begins() {
    for with_guard in [None, Some(true), Some(false)] {
        let station = Station::new(Backend::Sqlite).await;
        let folder = tempfile::tempdir().unwrap();
        let server = station.server(&SHORT);
        station.load(&server, &workflow(&program(folder.path()))).await;
        let worker = station.worker(&[], &[]);
        station.create(&server, "session").await;
        let ids = started(folder.path()).await;
        let (inner, outer) = guards(folder.path());
        if let Some(is_inner) = with_guard {
            signal(if is_inner { inner } else { outer }, Signal::KILL);
        }
        worker.kill();
        let _second: Program = station.worker(&[], &[]);
        second_attempt(&station, folder.path()).await;
        all_gone(&ids).await;
        all_gone(&[inner, outer]).await;
    }
}

async fn begun(study: &Study, folder: &Path, more: &str) -> (i32, Vec<i32>, Running) {
    study.load(&workflow(&format!("{}{more}", program(folder)))).await;
    let experiment = study.create("session").await;
    let id = study.executions(experiment.id).await["run"].id;
    let pool = Running::start(study, 1, Duration::from_secs(1));
    (id, started(folder).await, pool)
}

/// The worker lives and guards are killed: either of them, or both.
#[tokio::test(flavor = "multi_thread")]
async fn q8_a_killed_guard_ends_its_program_and_the_attempt() {
    for (kills_inner, kills_outer) in [(true, false), (false, true), (true, true)] {
        let study = running_study().await;
        let folder = tempfile::tempdir().unwrap();
        let (id, ids, pool) = begun(&study, folder.path(), ", retries: 1").await;
        let (inner, outer) = guards(folder.path());
        // Stopped first, so that neither can react to the end of the other.
        let chosen: Vec<i32> =
            [(inner, kills_inner), (outer, kills_outer)].iter().filter(|one| one.1).map(|one| one.0).collect();
        chosen.iter().for_each(|guard| signal(*guard, Signal::STOP));
        chosen.iter().for_each(|guard| signal(*guard, Signal::KILL));
        let ended = eventually("the second attempt", async || {
            Some(study.execution(id).await).filter(|one| one.status == ExecutionStatus::Finished)
        })
        .await;
        assert_eq!((ended.result, ended.attempt), (ExecutionResult::Success, 2), "{:?}", ended.run_log);
        assert!(ended.run_log.unwrap().contains("its guard process was killed"));
        if kills_inner && kills_outer {
            // One of them has an empty environment, and no guard is left that knows it: the guide describes this.
            let (beside, rest): (Vec<i32>, Vec<i32>) = ids.iter().partition(|id| !is_gone(**id));
            assert!(beside.len() <= 1 && rest.len() >= 4, "{beside:?}");
            beside.iter().for_each(|id| signal(*id, Signal::KILL));
        } else {
            all_gone(&ids).await;
            assert_eq!(log(folder.path()), "again\n");
        }
        pool.stop().await;
    }
}

/// Q7 and Q8: a manual cancel ends all processes, including those that have left the process group. A service manager
/// that signals all processes of a worker ends no guard, and therefore no program.
#[tokio::test(flavor = "multi_thread")]
async fn q7_a_cancel_ends_what_has_left_the_process_group_and_a_signal_to_the_guards_does_not() {
    let study = running_study().await;
    let folder = tempfile::tempdir().unwrap();
    let (id, ids, pool) = begun(&study, folder.path(), "").await;
    let (inner, outer) = guards(folder.path());
    for guard in [inner, outer] {
        for kind in [Signal::TERM, Signal::INT, Signal::HUP] {
            signal(guard, kind);
        }
    }
    study.move_to(1, "bad").await.unwrap();
    all_gone(&ids).await;
    all_gone(&[inner, outer]).await;
    assert_eq!(study.execution(id).await.status, ExecutionStatus::Skipped);
    pool.stop().await;

    let study = running_study().await;
    let folder = tempfile::tempdir().unwrap();
    let (id, ids, pool) = begun(&study, folder.path(), "").await;
    let (inner, outer) = guards(folder.path());
    for guard in [inner, outer] {
        signal(guard, Signal::TERM);
    }
    std::fs::write(folder.path().join("finish"), "").unwrap();
    let ended = eventually("the end", async || {
        Some(study.execution(id).await).filter(|one| one.status == ExecutionStatus::Finished)
    })
    .await;
    assert_eq!(ended.result, ExecutionResult::Success, "{:?}", ended.run_log);
    // Ending leaves nothing in the background either.
    assert!(ids.iter().all(|id| is_gone(*id)), "they are gone before the report");
    pool.stop().await;
}

/// The guards pass on the exit code, the signal, the input and the output of a program unchanged.
#[tokio::test(flavor = "multi_thread")]
async fn q8_a_guard_changes_nothing_about_the_program() {
    for (line, code, out) in [
        ("exit 7", 7, ""),
        ("kill -TERM $$", -15, ""),
        ("kill -KILL $$", -9, ""),
        ("cat; echo in: $?; ps -o pgid= -p $$ | tr -d ' ' | sed s/$$/own/", 0, "in: 0\nown\n"),
        ("(sleep 0.3; echo late) & echo early", 0, "early\nlate\n"),
        ("trap '' CHLD; true; echo done", 0, "done\n"),
    ] {
        let study = running_study().await;
        let callback = format!(
            "function: command, callback_arguments: {{binary: sh, args: [-c, {}], expected_return_code: null}}",
            json!(line)
        );
        let values = values(&run(&study, &callback).await);
        assert_eq!((&values["return_code"], &values["stdout"]), (&json!(code), &json!(out)), "{line}: {values}");
    }
}
