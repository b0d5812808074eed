//! Defects of version 8.1, and the correct behaviour.

use sea_orm::EntityTrait;
use serde_json::json;
use studygovernor::engine::{EngineError, Report};
use studygovernor::entity::kind::{ExecutionResult, ExecutionStatus};
use studygovernor::entity::workflow;

use super::WORKFLOW;
use crate::support::{Backend, Study, ctx, ledger_problems};

#[tokio::test(flavor = "multi_thread")]
async fn a_state_whose_callbacks_are_all_skipped_is_not_a_dead_end() {
    let study = Study::new(Backend::Sqlite).await;
    study
        .load(
            "
label: skipping
states:
  - {label: root, transitions: [{destination: a}]}
  - {label: a, callbacks: [{label: x, function: sleep, condition: \"1 > 2\"}], transitions: [{destination: b}]}
  - {label: b}
",
        )
        .await;
    let experiment = study.create("session").await;
    assert_eq!(study.state(experiment.id).await, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_callback_of_an_earlier_state_does_not_move_the_current_one() {
    let study = Study::new(Backend::Sqlite).await;
    study.load(WORKFLOW).await;
    let experiment = study.create("session").await;
    let old = study.executions(experiment.id).await;
    study.move_to(experiment.id, "broken").await.unwrap();
    study.move_to(experiment.id, "check").await.unwrap();
    for execution in old.values() {
        let late = study.report(execution.id, &Report::finished(ExecutionResult::Success)).await;
        assert!(matches!(late, Err(EngineError::Resolved { .. })));
    }
    assert_eq!(study.state(experiment.id).await, "check");
    assert!(study.executions(experiment.id).await.values().all(|one| one.status == ExecutionStatus::Created));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_into_a_state_without_callbacks_has_an_end() {
    let study = Study::new(Backend::Sqlite).await;
    study.load(WORKFLOW).await;
    let experiment = study.create("session").await;
    study.move_to(experiment.id, "broken").await.unwrap();
    assert!(study.actions(experiment.id).await[1].end_time.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn result_values_are_a_mapping_in_conditions() {
    let study = Study::new(Backend::Sqlite).await;
    study
        .load(
            "
label: values
states:
  - {label: root, transitions: [{destination: a}]}
  - {label: a, callbacks: [{label: x, function: sleep}], transitions: [{destination: b, condition: \"callbacks['x'].result_values['list'][1]['n'] == 2\"}]}
  - {label: b}
",
        )
        .await;
    let experiment = study.create("session").await;
    let run = study.executions(experiment.id).await["x"].id;
    let values = json!({"list": [0, {"n": 2}]});
    let report = Report { result_values: Some(values), ..Report::finished(ExecutionResult::Success) };
    study.report(run, &report).await.unwrap();
    assert_eq!(study.state(experiment.id).await, "b");
}

/// Both defects of version 8.1: two callbacks that end at the same time, and four simultaneous manual transitions.
#[tokio::test(flavor = "multi_thread")]
async fn what_happens_together_happens_once() {
    let study = Study::new(Backend::Sqlite).await;
    study.load(WORKFLOW).await;
    for round in 0..12 {
        let experiment = study.create(&format!("session-{round}")).await;
        let executions = study.executions(experiment.id).await;
        let report = Report::finished(ExecutionResult::Success);
        let (one, two) =
            tokio::join!(study.report(executions["count"].id, &report), study.report(executions["notify"].id, &report));
        one.unwrap();
        two.unwrap();
        assert_eq!(study.actions(experiment.id).await.len(), 2, "round {round}");
        let (a, b, c, d) = tokio::join!(
            study.move_to(experiment.id, "work"),
            study.move_to(experiment.id, "work"),
            study.move_to(experiment.id, "work"),
            study.move_to(experiment.id, "work")
        );
        let taken = [a, b, c, d].iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(taken, 1, "round {round}");
    }
    assert!(ledger_problems(&study.engine).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_limit_is_no_timeout_and_breaks_nothing_for_others() {
    let study = Study::new(Backend::Sqlite).await;
    study
        .load(
            "
label: limits
states:
  - {label: root, transitions: [{destination: a}]}
  - label: a
    callbacks:
      - {label: null_limit, function: sleep, run_timeout: null}
      - {label: zero_limit, function: sleep, run_timeout: 0, wait_timeout: null}
      - {label: limited, function: sleep, run_timeout: 1}
    transitions: [{destination: b}]
  - {label: b}
",
        )
        .await;
    let experiment = study.create("session").await;
    let running = Report { status: Some(ExecutionStatus::Running), ..Report::default() };
    for execution in study.executions(experiment.id).await.values() {
        study.report(execution.id, &running).await.unwrap();
    }
    assert_eq!(study.engine.check_timeouts(ctx()).await.unwrap().run_timeouts, 0);
    study.clock.advance(chrono::TimeDelta::days(400));
    assert_eq!(study.engine.check_timeouts(ctx()).await.unwrap().run_timeouts, 1);
    let executions = study.executions(experiment.id).await;
    assert_eq!(executions["limited"].result, ExecutionResult::Timeout);
    assert_eq!(executions["null_limit"].status, ExecutionStatus::Running);
    assert_eq!(executions["zero_limit"].status, ExecutionStatus::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_without_exactly_one_root_with_one_exit_does_not_load() {
    let study = Study::new(Backend::Sqlite).await;
    for text in [
        "{label: none, states: [{label: a, transitions: [{destination: b}]}, {label: b, transitions: [{destination: a}]}]}",
        "{label: two, states: [{label: a, transitions: [{destination: c}]}, {label: b, transitions: [{destination: c}]}, {label: c}]}",
        "{label: exits, states: [{label: a, transitions: [{destination: b}, {destination: c}]}, {label: b}, {label: c}]}",
        "{label: alone, states: [{label: a}, {label: b, transitions: [{destination: b}]}]}",
    ] {
        let checked = studygovernor::workflow::check(text, &studygovernor::callback::FUNCTIONS);
        assert!(checked.definition.is_none(), "{text}");
    }
    assert!(workflow::Entity::find().one(study.engine.database().reader()).await.unwrap().is_none());
}
