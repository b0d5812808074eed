//! For any sequence of events, the engine behaves like a small model (proptest).
//!
//! The model follows [`super::WORKFLOW`] in memory, in a few lines and without a database. Each run applies a sequence
//! of events to both and compares them; at its end the ledger is checked.

use chrono::TimeDelta;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use studygovernor::engine::{Intervention, Report};
use studygovernor::entity::kind::{ExecutionResult, ExecutionStatus};

use super::WORKFLOW;
use crate::support::{Backend, Study, ctx, ledger_problems};

/// An event. Numbers select one of the existing elements.
#[derive(Debug, Clone)]
enum Event {
    Create,
    /// A report about an execution, possibly an old one.
    Finish {
        execution: usize,
        success: bool,
    },
    /// The same report by two callers at once.
    FinishTwice {
        execution: usize,
        success: bool,
    },
    /// All open executions of an experiment are reported at the same time.
    FinishTogether {
        experiment: usize,
        success: bool,
    },
    Run {
        execution: usize,
    },
    Wait {
        execution: usize,
    },
    Skip {
        execution: usize,
    },
    Move {
        experiment: usize,
        state: usize,
    },
    PassTime {
        minutes: i64,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let pick = 0_usize..64;
    prop_oneof![
        2 => Just(Event::Create),
        6 => (pick.clone(), any::<bool>()).prop_map(|(execution, success)| Event::Finish { execution, success }),
        2 => (pick.clone(), any::<bool>()).prop_map(|(execution, success)| Event::FinishTwice { execution, success }),
        3 => (pick.clone(), any::<bool>()).prop_map(|(experiment, success)| Event::FinishTogether { experiment, success }),
        2 => pick.clone().prop_map(|execution| Event::Run { execution }),
        1 => pick.clone().prop_map(|execution| Event::Wait { execution }),
        2 => pick.clone().prop_map(|execution| Event::Skip { execution }),
        5 => (pick.clone(), 0_usize..STATES.len()).prop_map(|(experiment, state)| Event::Move { experiment, state }),
        2 => (1_i64..50).prop_map(|minutes| Event::PassTime { minutes }),
    ]
}

const STATES: [&str; 6] = ["root", "check", "review", "work", "done", "broken"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Created,
    Running,
    Waiting,
    Over,
}

#[derive(Debug, Clone)]
struct Run {
    id: i32,
    experiment: usize,
    callback: &'static str,
    status: Status,
    success: bool,
    timed_out: bool,
    deadline: Option<i64>,
}

#[derive(Debug, Clone)]
struct Experiment {
    id: i32,
    state: &'static str,
    /// Indices of the runs of the last action.
    current: Vec<usize>,
    actions: usize,
}

/// The expected state.
#[derive(Debug, Default)]
struct Model {
    experiments: Vec<Experiment>,
    runs: Vec<Run>,
    minute: i64,
}

impl Model {
    /// Enters a state; its runs get their ids later, from the database.
    fn enter(&mut self, experiment: usize, state: &'static str) {
        let callbacks: &[&'static str] = match state {
            "check" => &["count", "notify"],
            "work" => &["pipeline"],
            _ => &[],
        };
        let first = self.runs.len();
        self.runs.extend(callbacks.iter().map(|callback| Run {
            id: 0,
            experiment,
            callback,
            status: Status::Created,
            success: false,
            timed_out: false,
            deadline: None,
        }));
        let entry = &mut self.experiments[experiment];
        entry.state = state;
        entry.current = (first..first + callbacks.len()).collect();
        entry.actions += 1;
    }

    /// Whether the report is accepted.
    fn resolve(&mut self, run: usize, success: bool, timed_out: bool) -> bool {
        if self.runs[run].status == Status::Over {
            return false;
        }
        self.runs[run].status = Status::Over;
        self.runs[run].success = success;
        self.runs[run].timed_out = timed_out;
        self.follow(self.runs[run].experiment);
        true
    }

    fn follow(&mut self, experiment: usize) {
        let current = self.experiments[experiment].current.clone();
        let run = |callback: &str| current.iter().map(|index| &self.runs[*index]).find(|run| run.callback == callback);
        if current.is_empty() || current.iter().any(|index| self.runs[*index].status != Status::Over) {
            return;
        }
        let next = match self.experiments[experiment].state {
            "check" if run("count").is_some_and(|run| run.success) => Some("review"),
            "check" => Some("broken"),
            "work" if run("pipeline").is_some_and(|run| run.success) => Some("done"),
            "work" if run("pipeline").is_some_and(|run| run.timed_out) => Some("broken"),
            _ => None,
        };
        if let Some(next) = next {
            self.enter(experiment, next);
        }
    }

    /// Whether a manual transition is possible; `qc` is never set here, so its condition is never true.
    fn move_by_hand(&mut self, experiment: usize, state: &'static str) -> bool {
        let entry = &self.experiments[experiment];
        let run =
            |callback: &str| entry.current.iter().map(|index| &self.runs[*index]).find(|run| run.callback == callback);
        let succeeded = |callback: &str| run(callback).is_some_and(|run| run.success);
        let possible = match (entry.state, state) {
            ("check", "review") => succeeded("count"),
            ("check", "broken") | ("review", "work") | ("broken", "check") => true,
            ("work", "done") => succeeded("pipeline"),
            ("work", "broken") => run("pipeline").is_some_and(|run| run.timed_out),
            _ => false,
        };
        if possible {
            for index in self.experiments[experiment].current.clone() {
                self.runs[index].status = Status::Over;
            }
            self.enter(experiment, state);
        }
        possible
    }
}

struct Play {
    study: Study,
    model: Model,
}

impl Play {
    /// Applies one event to both sides.
    async fn play(&mut self, event: &Event) -> Result<(), TestCaseError> {
        match *event {
            Event::Create => self.create().await,
            Event::Finish { execution, success } => {
                let Some(run) = self.pick_run(execution) else { return Ok(()) };
                let expected = self.model.resolve(run, success, false);
                let taken = self.study.report(self.model.runs[run].id, &finished(success)).await.is_ok();
                prop_assert_eq!(taken, expected, "{:?}", event);
            }
            Event::FinishTwice { execution, success } => {
                let Some(run) = self.pick_run(execution) else { return Ok(()) };
                let expected = self.model.resolve(run, success, false);
                let (id, report) = (self.model.runs[run].id, finished(success));
                let (one, two) = tokio::join!(self.study.report(id, &report), self.study.report(id, &report));
                prop_assert_eq!(usize::from(one.is_ok()) + usize::from(two.is_ok()), usize::from(expected));
            }
            Event::FinishTogether { experiment, success } => {
                let Some(experiment) = pick(experiment, self.model.experiments.len()) else { return Ok(()) };
                let open: Vec<usize> = self.model.experiments[experiment].current.clone();
                let open: Vec<usize> =
                    open.into_iter().filter(|run| self.model.runs[*run].status != Status::Over).collect();
                let reports = open.iter().map(|run| {
                    let (engine, id) = (self.study.engine.clone(), self.model.runs[*run].id);
                    tokio::spawn(async move { engine.report(ctx(), id, &finished(success)).await.is_ok() })
                });
                for report in reports.collect::<Vec<_>>() {
                    prop_assert!(report.await.unwrap());
                }
                for run in open {
                    self.model.resolve(run, success, false);
                }
            }
            Event::Run { execution } => {
                let Some(run) = self.pick_run(execution) else { return Ok(()) };
                self.step(run, Status::Running).await?;
            }
            Event::Wait { execution } => {
                let Some(run) = self.pick_run(execution) else { return Ok(()) };
                self.step(run, Status::Waiting).await?;
            }
            Event::Skip { execution } => {
                let Some(run) = self.pick_run(execution) else { return Ok(()) };
                let is_current = self.model.experiments[self.model.runs[run].experiment].current.contains(&run);
                let expected = is_current && self.model.resolve(run, false, false);
                let id = self.model.runs[run].id;
                let done = self.study.engine.intervene(ctx(), id, Intervention::Skip, "tested").await.is_ok();
                prop_assert_eq!(done, expected, "{:?}", event);
            }
            Event::Move { experiment, state } => {
                let Some(experiment) = pick(experiment, self.model.experiments.len()) else { return Ok(()) };
                let expected = self.model.move_by_hand(experiment, STATES[state]);
                let moved = self.study.move_to(self.model.experiments[experiment].id, STATES[state]).await.is_ok();
                prop_assert_eq!(moved, expected, "{:?}", event);
            }
            Event::PassTime { minutes } => {
                self.model.minute += minutes;
                self.study.clock.advance(TimeDelta::minutes(minutes));
                self.study.engine.check_timeouts(ctx()).await.unwrap();
                let late =
                    |run: &Run| run.status != Status::Over && run.deadline.is_some_and(|at| at <= self.model.minute);
                for run in (0..self.model.runs.len()).filter(|run| late(&self.model.runs[*run])).collect::<Vec<_>>() {
                    self.model.resolve(run, false, true);
                }
            }
        }
        self.learn_ids().await;
        self.compare().await
    }

    async fn create(&mut self) {
        let label = format!("session-{}", self.model.experiments.len());
        let created = self.study.create(&label).await;
        self.model.experiments.push(Experiment { id: created.id, state: "root", current: Vec::new(), actions: 0 });
        self.model.enter(self.model.experiments.len() - 1, "check");
    }

    /// A step forward is accepted, a step back is refused; the deadline begins with the stage.
    async fn step(&mut self, run: usize, to: Status) -> Result<(), TestCaseError> {
        let now = self.model.minute;
        let entry = &mut self.model.runs[run];
        let expected = match (entry.status, to) {
            (Status::Over, _) | (Status::Waiting, Status::Running) => false,
            (_, Status::Running) => {
                entry.deadline = Some(
                    now + match entry.callback {
                        "count" => 10,
                        "pipeline" => 30,
                        _ => 60,
                    },
                );
                true
            }
            _ => {
                entry.deadline = (entry.callback == "pipeline").then_some(now + 60);
                true
            }
        };
        if expected {
            entry.status = to;
        }
        let status = if to == Status::Running { ExecutionStatus::Running } else { ExecutionStatus::Waiting };
        let report = Report { status: Some(status), ..Report::default() };
        let taken = self.study.report(self.model.runs[run].id, &report).await.is_ok();
        prop_assert_eq!(taken, expected);
        Ok(())
    }

    fn pick_run(&self, number: usize) -> Option<usize> {
        pick(number, self.model.runs.len())
    }

    /// Reads the ids of new runs.
    async fn learn_ids(&mut self) {
        for index in 0..self.model.runs.len() {
            if self.model.runs[index].id == 0 {
                let experiment = self.model.experiments[self.model.runs[index].experiment].id;
                let executions = self.study.executions(experiment).await;
                if let Some(execution) = executions.get(self.model.runs[index].callback) {
                    self.model.runs[index].id = execution.id;
                }
            }
        }
    }

    async fn compare(&self) -> Result<(), TestCaseError> {
        for experiment in &self.model.experiments {
            prop_assert_eq!(self.study.state(experiment.id).await, experiment.state);
            prop_assert_eq!(self.study.actions(experiment.id).await.len(), experiment.actions);
        }
        Ok(())
    }
}

fn finished(success: bool) -> Report {
    Report::finished(if success { ExecutionResult::Success } else { ExecutionResult::Failed })
}

fn pick(number: usize, count: usize) -> Option<usize> {
    (count > 0).then(|| number % count)
}

fn plays_like_the_model(backend: Backend, cases: u32) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut runner =
        TestRunner::new(Config { cases, max_shrink_iters: 60, failure_persistence: None, ..Config::default() });
    let played = runner.run(&vec(event(), 10..40), |events| {
        runtime.block_on(async {
            let study = Study::new(backend).await;
            study.load(WORKFLOW).await;
            let mut play = Play { study, model: Model::default() };
            for event in &events {
                play.play(event).await?;
            }
            let problems = ledger_problems(&play.study.engine).await;
            prop_assert!(problems.is_empty(), "{:#?}", problems);
            Ok(())
        })
    });
    if let Err(error) = played {
        panic!("{error}");
    }
}

#[test]
fn e1_to_e8_like_the_model_on_sqlite() {
    plays_like_the_model(Backend::Sqlite, 48);
}

#[test]
fn e1_to_e8_like_the_model_on_postgres() {
    plays_like_the_model(Backend::Postgres, 24);
}

#[test]
fn e1_to_e8_like_the_model_on_mariadb() {
    plays_like_the_model(Backend::Mariadb, 12);
}
