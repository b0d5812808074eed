//! Callbacks on the embedded pool, from the claim to the next state.

mod castor;
mod functions;
mod guard;
mod outside;
mod pool;
mod programs;
mod redirects;

use std::time::Duration;

use serde_json::Value;
use studygovernor::callback::Workplace;
use studygovernor::config::{Environment, WorkSettings};
use studygovernor::entity::callback_execution;
use studygovernor::entity::kind::ExecutionStatus;
use studygovernor::worker::{Desk, LocalDesk, LocalIntake, Pool, worker_name};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::{Backend, Study, eventually};

/// A running pool that can be stopped.
struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(study: &Study, concurrency: usize, grace: Duration) -> Self {
        Self::start_at(local_desk(study), study, concurrency, grace)
    }

    fn start_at(desk: impl Desk, study: &Study, concurrency: usize, grace: Duration) -> Self {
        Self::start_with(desk, study, concurrency, grace, &[])
    }

    /// `settings` are the settings of the worker.
    fn start_with(
        desk: impl Desk,
        study: &Study,
        concurrency: usize,
        grace: Duration,
        settings: &[(&str, &str)],
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let environment: Environment =
            [("STUDYGOV_PROJECT_HOME", ".")].into_iter().chain(settings.iter().copied()).collect();
        let workplace = Workplace::new(&WorkSettings::read(&environment, study.home.path()).unwrap());
        let pool = Pool::new(desk, workplace, &worker_name(), concurrency, grace, stopped);
        Self { stop, task: tokio::spawn(pool.run(local_intake(study, concurrency))) }
    }

    async fn stop(self) {
        self.stop.send(true).unwrap();
        self.task.await.unwrap();
    }
}

const LEASE: Duration = Duration::from_secs(3);

fn local_desk(study: &Study) -> LocalDesk {
    LocalDesk::new(study.engine.clone(), "http://test/prefix", LEASE)
}

fn local_intake(study: &Study, at_once: usize) -> LocalIntake {
    LocalIntake::new(study.engine.clone(), "key", "http://test/prefix", at_once)
}

/// Runs one callback in its own state and returns its execution when it has ended or waits.
async fn run(study: &Study, callback: &str) -> callback_execution::Model {
    run_with(study, callback, &[]).await
}

/// Like [`run`], on a worker with these settings.
async fn run_with(study: &Study, callback: &str, settings: &[(&str, &str)]) -> callback_execution::Model {
    study.load(&workflow(callback)).await;
    let experiment = study.create("session").await;
    let id = study.executions(experiment.id).await["run"].id;
    let pool = Running::start_with(local_desk(study), study, 2, Duration::from_secs(1), settings);
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

/// Whether the process does not exist, or is dead and has not been waited for by its new parent.
pub fn is_gone(pid: i32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Err(_) => true,
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')),
    }
}
