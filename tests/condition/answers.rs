//! E9: a condition counts as false only if it was evaluated.
//!
//! There is one worker per process, and these tests disturb it; so each runs in its own process.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use studygovernor::workflow::condition::{evaluate_within, worker_id};

use super::*;

/// Runs one of the tests below in its own process.
fn alone(name: &str) {
    let me = std::env::current_exe().unwrap();
    let name = format!("condition::answers::{name}");
    let output = Command::new(me).args(["--exact", &name, "--ignored", "--nocapture"]).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn e9_a_worker_that_is_killed_stopped_or_signalled_gives_no_wrong_answer() {
    alone("mistreated");
}

#[test]
fn e9_the_worker_is_in_a_session_of_its_own_and_ignores_what_stops_a_service() {
    alone("signalled");
}

#[test]
fn e9_only_its_own_limits_are_a_conditions_error() {
    alone("limited");
}

#[test]
fn e9_no_answer_is_an_error_of_its_own() {
    alone("nothing_answers");
}

fn signal(process: u32, signal: Signal) {
    // It may have ended in between.
    let _ = kill_process(Pid::from_raw(i32::try_from(process).unwrap()).unwrap(), signal);
}

/// Whatever happens to the worker, a true condition never becomes false, and a false one never true.
#[test]
#[ignore = "runs alone"]
fn mistreated() {
    let facts = facts();
    evaluate("1 == 1", &facts).unwrap();
    let (done, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let signals =
                [Signal::KILL, Signal::TERM, Signal::STOP, Signal::HUP, Signal::INT, Signal::ABORT, Signal::QUIT];
            for (pause, what) in (0..).zip(signals.into_iter().cycle()) {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                // At a different moment of an evaluation each time.
                std::thread::sleep(Duration::from_micros(200 + pause * 977 % 9_000));
                if let Some(process) = worker_id() {
                    signal(process, what);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        // At least this number of both, however fast the machine is.
        let mut number = 0;
        while number < 1_500 || sent.load(Ordering::Relaxed) < 100 {
            let text = format!("sum(range(200)) == {}", 19_900 + number % 2);
            let answer = evaluate_within(&text, &facts, Duration::from_mins(2)).map(|evaluated| evaluated.outcome);
            assert_eq!(answer, Ok(Ok(number % 2 == 0)), "evaluation {number}");
            number += 1;
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// Signals that stop a service, sent by the terminal or to the group or control group, do not end the worker.
#[test]
#[ignore = "runs alone"]
fn signalled() {
    let facts = facts();
    // The machine may end it; repeat until it was the same process throughout.
    for _ in 0..200 {
        evaluate("1 == 1", &facts).unwrap();
        let Some(process) = worker_id() else { continue };
        let pid = Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
        let Ok(session) = rustix::process::getsid(Some(pid)) else { continue };
        assert_eq!(session, pid, "it is the leader of its own session");
        for what in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
            signal(process, what);
        }
        evaluate("2 == 2", &facts).unwrap();
        if worker_id() == Some(process) {
            return;
        }
    }
    panic!("it never stayed the same");
}

/// The limit applies to processor time: being stopped for longer does not count, but using more does.
#[test]
#[ignore = "runs alone"]
fn limited() {
    let facts = facts();
    let slow = evaluate("sum(range(10**12))", &facts);
    assert_eq!(slow, Err(EvaluationError::TooSlow));
    assert_eq!(
        evaluate("pow(3, 10**100000, 10**100000)", &facts).unwrap_err().to_string().split(':').next(),
        Some("NameError")
    );
    let product = evaluate("10**300000 // 3**300000 < 0 or [x for x in range(10**9)]", &facts);
    assert!(matches!(product, Err(EvaluationError::TooSlow | EvaluationError::TooLarge)), "{product:?}");
    // Stopped in the middle, repeatedly, for longer than the limit.
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if let Some(process) = worker_id() {
                    signal(process, Signal::STOP);
                    std::thread::sleep(Duration::from_millis(30));
                    signal(process, Signal::CONT);
                }
                std::thread::sleep(Duration::from_millis(15));
            }
        });
        for _ in 0..60 {
            let answer = evaluate_within("sum(range(5_000)) == 12_497_500", &facts, Duration::from_mins(2));
            assert_eq!(answer.map(|evaluated| evaluated.outcome), Ok(Ok(true)));
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// If no process can evaluate a condition, nothing is decided.
#[test]
#[ignore = "runs alone"]
fn nothing_answers() {
    studygovernor::workflow::condition::use_worker("/bin/true", Vec::new());
    let mut facts = Facts { callbacks: BTreeMap::new(), ..bare_facts() };
    facts.now = at(2024, 3, 31, 10);
    let began = std::time::Instant::now();
    let answer = evaluate_within("1 == 1", &facts, Duration::from_secs(1));
    assert!(matches!(answer, Err(EvaluationError::Unavailable(_))), "{answer:?}");
    assert!(began.elapsed() >= Duration::from_secs(1), "it was asked for as long as there was patience");
}
