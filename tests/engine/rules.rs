//! E1 to E10.

use chrono::TimeDelta;
use sea_orm::EntityTrait;
use serde_json::json;
use studygovernor::engine::{EngineError, Intervention, Report, Target, TimeoutCounts};
use studygovernor::entity::kind::{ExecutionResult, ExecutionStatus, Origin};
use studygovernor::entity::variable;
use studygovernor::study::variable::{VariableValue, set_variables, variables_of};

use super::WORKFLOW;
use crate::support::{Study, ctx, ledger_problems, on_every_database};

on_every_database! {
    e2_a_transition_writes_everything_at_once;
    e3_the_next_step_follows_the_last_report;
    e3_when_nothing_holds_it_stays_and_says_why;
    e4_a_second_report_is_refused_and_changes_nothing;
    e5_an_experiment_begins_at_the_root_of_the_newest_workflow;
    e6_a_transition_by_hand_cancels_what_was_running;
    e7_variables_are_set_from_result_values;
    e7_every_database_takes_the_same_values;
    e8_what_is_past_its_time_times_out;
    e9_a_condition_that_fails_is_false_and_is_shown;
    e10_a_chain_of_skipped_states_ends_and_loses_nothing;
    q5_people_skip_mark_and_retry;
}

async fn e2_a_transition_writes_everything_at_once(study: Study) {
    study.load(WORKFLOW).await;
    let experiment = study.create("session").await;
    assert_eq!(study.state(experiment.id).await, "check");
    let executions = study.executions(experiment.id).await;
    assert_eq!(executions["count"].status, ExecutionStatus::Created);
    assert_eq!(executions["notify"].status, ExecutionStatus::Created);
    let pilot = study.create("pilot").await;
    let executions = study.executions(pilot.id).await;
    assert_eq!(executions["notify"].status, ExecutionStatus::Skipped);
    assert_eq!(executions["notify"].finished, None);
    let actions = study.actions(experiment.id).await;
    assert_eq!((actions.len(), actions[0].origin, actions[0].end_time), (1, Origin::Cli, None));
    assert_eq!(study.experiment(experiment.id).await.version, 1);
}

async fn e3_the_next_step_follows_the_last_report(study: Study) {
    study.load(WORKFLOW).await;
    let experiment = study.create("session").await;
    let executions = study.executions(experiment.id).await;
    study.succeed(executions["count"].id).await;
    assert_eq!(study.state(experiment.id).await, "check");
    study.clock.advance(TimeDelta::minutes(1));
    study.succeed(executions["notify"].id).await;
    assert_eq!(study.state(experiment.id).await, "review");
    let actions = study.actions(experiment.id).await;
    assert!(actions[0].success);
    assert_eq!(actions[0].end_time, Some(study.clock.now()));
    let text = actions[0].return_value.clone().unwrap();
    let evaluation = studygovernor::workflow::yaml::parse_value(&text).unwrap();
    assert_eq!(evaluation[0]["destination"], "review");
    assert_eq!(evaluation[0]["test_result"], true);
    assert_eq!(evaluation[1]["test_result"], json!(null));
    assert!(ledger_problems(&study.engine).await.is_empty());
}

async fn e3_when_nothing_holds_it_stays_and_says_why(study: Study) {
    study.load(WORKFLOW).await;
    let experiment = study.create("session").await;
    for execution in study.executions(experiment.id).await.values() {
        study.succeed(execution.id).await;
    }
    study.move_to(experiment.id, "work").await.unwrap();
    let pipeline = study.executions(experiment.id).await["pipeline"].id;
    study.report(pipeline, &Report::finished(ExecutionResult::Failed)).await.unwrap();
    assert_eq!(study.state(experiment.id).await, "work");
    let action = study.actions(experiment.id).await.pop().unwrap();
    assert!(action.success && action.end_time.is_some());
    let evaluation = studygovernor::workflow::yaml::parse_value(&action.return_value.unwrap()).unwrap();
    assert_eq!((&evaluation[0]["test_result"], &evaluation[1]["test_result"]), (&json!(false), &json!(false)));
    assert!(ledger_problems(&study.engine).await.is_empty());
}

async fn e4_a_second_report_is_refused_and_changes_nothing(study: Study) {
    study.load(WORKFLOW).await;
    let experiment = study.create("session").await;
    let count = study.executions(experiment.id).await["count"].id;
    study.succeed(count).await;
    let before = study.execution(count).await;
    study.clock.advance(TimeDelta::minutes(5));
    for late in [
        Report::finished(ExecutionResult::Failed),
        Report { status: Some(ExecutionStatus::Running), ..Report::default() },
        Report { run_log: Some("late".to_owned()), ..Report::default() },
    ] {
        let refused = study.report(count, &late).await;
        assert!(matches!(refused, Err(EngineError::Resolved { .. })), "{refused:?}");
    }
    assert_eq!(study.execution(count).await, before);
    let notify = study.executions(experiment.id).await["notify"].id;
    let stale = Report { attempt: Some(7), ..Report::finished(ExecutionResult::Success) };
    assert!(matches!(study.report(notify, &stale).await, Err(EngineError::StaleAttempt { .. })));
    assert!(matches!(study.report(4711, &stale).await, Err(EngineError::NotFound { .. })));
}

async fn e5_an_experiment_begins_at_the_root_of_the_newest_workflow(study: Study) {
    assert!(matches!(study.try_create("early").await, Err(EngineError::NoWorkflow)));
    study.load(WORKFLOW).await;
    study.load(&WORKFLOW.replace("tested_1", "tested_2")).await;
    let experiment = study.create("session").await;
    let newest = studygovernor::workflow::find(study.engine.database().reader(), "tested_2").await.unwrap();
    assert_eq!(experiment.workflow_id, newest.id);
    assert_eq!(study.actions(experiment.id).await.len(), 1);
    assert!(matches!(study.try_create("session").await, Err(EngineError::Duplicate { .. })));
    assert!(ledger_problems(&study.engine).await.is_empty());
}

async fn e6_a_transition_by_hand_cancels_what_was_running(study: Study) {
    study.load(WORKFLOW).await;
    let experiment = study.create("session").await;
    let executions = study.executions(experiment.id).await;
    let running = Report { status: Some(ExecutionStatus::Running), ..Report::default() };
    study.report(executions["count"].id, &running).await.unwrap();
    let refused = study.move_to(experiment.id, "review").await;
    assert!(matches!(refused, Err(EngineError::ConditionNotMet { .. })), "{refused:?}");
    assert!(matches!(study.move_to(experiment.id, "done").await, Err(EngineError::NoTransition { .. })));
    assert!(matches!(study.move_to(experiment.id, "nowhere").await, Err(EngineError::StateNotFound { .. })));
    assert_eq!(study.execution(executions["count"].id).await.status, ExecutionStatus::Running);

    study.move_to(experiment.id, "broken").await.unwrap();
    let cancelled = study.execution(executions["count"].id).await;
    assert_eq!(cancelled.status, ExecutionStatus::Skipped);
    assert!(cancelled.run_log.unwrap().contains("cancelled by tester"));
    let late = study.report(executions["count"].id, &Report::finished(ExecutionResult::Success)).await;
    assert!(matches!(late, Err(EngineError::Resolved { .. })));
    assert_eq!(study.state(experiment.id).await, "broken");
    let seen = study.experiment(experiment.id).await.version;
    study.move_to(experiment.id, "check").await.unwrap();
    let target = Target::Label("broken".to_owned());
    let stale = study.engine.transition(ctx(), experiment.id, &target, Some("why"), Some(seen)).await;
    assert!(matches!(stale, Err(EngineError::MovedOn)), "{stale:?}");
    assert!(ledger_problems(&study.engine).await.is_empty());
}

async fn e7_variables_are_set_from_result_values(study: Study) {
    study.load(WORKFLOW).await;
    let experiment = study.create("session").await;
    let count = study.executions(experiment.id).await["count"].id;
    let values = json!({"extra": {"n": 7}});
    let report = Report { result_values: Some(values), ..Report::finished(ExecutionResult::Success) };
    study.report(count, &report).await.unwrap();
    let variables = variables_of(ctx(), study.engine.database().reader(), experiment.id).await.unwrap();
    let wanted = [("n", VariableValue::Int(7)), ("qc", VariableValue::None)];
    assert_eq!(variables, wanted.map(|(label, value)| (label.to_owned(), value)).to_vec());

    let failed = study.create("other").await;
    let count = study.executions(failed.id).await["count"].id;
    let report = Report { result_values: Some(json!({"rating": "x"})), ..Report::finished(ExecutionResult::Failed) };
    study.report(count, &report).await.unwrap();
    assert_eq!(variable::Entity::find().all(study.engine.database().reader()).await.unwrap().len(), 2);
}

/// Values that one database accepts and another refuses: null characters, duplicate labels, labels that differ only in
/// case.
async fn e7_every_database_takes_the_same_values(study: Study) {
    study.load(WORKFLOW).await;
    let experiment = study.create("session").await;
    let count = study.executions(experiment.id).await["count"].id;
    let values = json!({"extra": {"n": "a\0b"}, "rating": ["\0"]});
    let report = Report {
        result_values: Some(values),
        run_log: Some("a\0b".to_owned()),
        ..Report::finished(ExecutionResult::Success)
    };
    study.report(count, &report).await.unwrap();
    let connection = study.engine.database().reader();
    let variables = variables_of(ctx(), connection, experiment.id).await.unwrap();
    assert_eq!(variables[0].1, VariableValue::Str("a\u{fffd}b".to_owned()));
    let twice = [("x", 1), ("X", 2), ("x", 3)].map(|(label, value)| (label.to_owned(), VariableValue::Int(value)));
    set_variables(connection, experiment.id, &twice).await.unwrap();
    let variables = variables_of(ctx(), connection, experiment.id).await.unwrap();
    assert!(variables.contains(&("x".to_owned(), VariableValue::Int(3))), "{variables:?}");
    assert!(variables.contains(&("X".to_owned(), VariableValue::Int(2))), "{variables:?}");
    assert_ne!(study.subject("AB1").await, study.subject("ab1").await);
    study.create("SESSION").await;
}

async fn e8_what_is_past_its_time_times_out(study: Study) {
    study.load(WORKFLOW).await;
    let experiment = study.create("session").await;
    let executions = study.executions(experiment.id).await;
    let running = Report { status: Some(ExecutionStatus::Running), ..Report::default() };
    study.report(executions["count"].id, &running).await.unwrap();
    study.succeed(executions["notify"].id).await;
    study.clock.advance(TimeDelta::minutes(9));
    assert_eq!(study.engine.check_timeouts(ctx()).await.unwrap(), TimeoutCounts::default());
    study.clock.advance(TimeDelta::minutes(2));
    let (first, second) = tokio::join!(study.engine.check_timeouts(ctx()), study.engine.check_timeouts(ctx()));
    assert_eq!(first.unwrap().run_timeouts + second.unwrap().run_timeouts, 1);
    let late = study.execution(executions["count"].id).await;
    assert_eq!((late.status, late.result), (ExecutionStatus::Finished, ExecutionResult::Timeout));
    assert!(late.run_log.unwrap().contains("timeout: running for longer than 10 minutes"));
    assert_eq!(study.state(experiment.id).await, "broken");

    // A waiting execution times out after its own limit, and the next state has callbacks.
    study.move_to(experiment.id, "check").await.unwrap();
    for execution in study.executions(experiment.id).await.values() {
        study.succeed(execution.id).await;
    }
    study.move_to(experiment.id, "work").await.unwrap();
    let pipeline = study.executions(experiment.id).await["pipeline"].id;
    let waiting = Report { status: Some(ExecutionStatus::Waiting), ..Report::default() };
    study.report(pipeline, &waiting).await.unwrap();
    study.clock.advance(TimeDelta::minutes(61));
    let counts = study.engine.check_timeouts(ctx()).await.unwrap();
    assert_eq!((counts.run_timeouts, counts.wait_timeouts), (0, 1));
    assert_eq!(study.state(experiment.id).await, "broken");
    assert!(ledger_problems(&study.engine).await.is_empty());
}

async fn e9_a_condition_that_fails_is_false_and_is_shown(study: Study) {
    study
        .load(
            "
label: conditions
states:
  - {label: root, transitions: [{destination: a}]}
  - label: a
    callbacks:
      - {label: run, function: sleep}
      - {label: never, function: sleep, condition: \"experiment.variables['absent'] > 1\"}
    transitions:
      - {destination: b, condition: \"callbacks['run'].result_values['absent'] == 1\"}
      - {destination: b, condition: \"sum(range(10**12)) > 0\"}
      - {destination: c, condition: \"callbacks['run'].result_values['n'] == 1\"}
  - label: b
  - label: c
",
        )
        .await;
    let experiment = study.create("session").await;
    let executions = study.executions(experiment.id).await;
    assert_eq!(executions["never"].status, ExecutionStatus::Skipped);
    assert!(executions["never"].run_log.as_deref().unwrap().contains("KeyError"));
    let report = Report { result_values: Some(json!({"n": 1})), ..Report::finished(ExecutionResult::Success) };
    study.report(executions["run"].id, &report).await.unwrap();
    assert_eq!(study.state(experiment.id).await, "c");
    let text = study.actions(experiment.id).await[0].return_value.clone().unwrap();
    let evaluation = studygovernor::workflow::yaml::parse_value(&text).unwrap();
    assert_eq!((&evaluation[0]["test_result"], &evaluation[0]["error"]), (&json!(false), &json!("KeyError: 'absent'")));
    assert!(evaluation[1]["error"].as_str().unwrap().contains("took longer"), "{text}");
    assert_eq!(evaluation[2]["test_result"], true);
}

async fn e10_a_chain_of_skipped_states_ends_and_loses_nothing(mut study: Study) {
    // With a limit it would be put on hold (E12).
    study.engine = study.engine.clone().with_transition_limit(0);
    study
        .load(
            "
label: circle
states:
  - {label: root, transitions: [{destination: a}]}
  - {label: a, callbacks: [{label: x, function: sleep, condition: 'False'}], transitions: [{destination: b}]}
  - {label: b, callbacks: [{label: x, function: sleep, condition: 'False'}], transitions: [{destination: a}, {destination: end}]}
  - {label: end}
",
        )
        .await;
    let experiment = study.create("session").await;
    let actions = study.actions(experiment.id).await;
    assert_eq!(actions.len(), 101);
    assert!(actions[100].return_value.as_deref().unwrap().starts_with("# Stopped after"));
    assert!(ledger_problems(&study.engine).await.is_empty());
}

async fn q5_people_skip_mark_and_retry(study: Study) {
    study.load(WORKFLOW).await;
    let experiment = study.create("session").await;
    let executions = study.executions(experiment.id).await;
    let (count, notify) = (executions["count"].id, executions["notify"].id);
    let skipped = study.engine.intervene(ctx(), notify, Intervention::Skip, "not needed").await.unwrap();
    assert_eq!(skipped.status, ExecutionStatus::Skipped);
    assert!(skipped.run_log.unwrap().contains("skipped by tester: not needed"));
    let retried = study.engine.intervene(ctx(), count, Intervention::Retry, "again").await.unwrap();
    assert_eq!((retried.status, retried.attempt), (ExecutionStatus::Queued, 2));
    let old = Report { attempt: Some(1), ..Report::finished(ExecutionResult::Success) };
    assert!(matches!(study.report(count, &old).await, Err(EngineError::StaleAttempt { .. })));
    let mark = Intervention::Mark(ExecutionResult::Failed);
    study.engine.intervene(ctx(), count, mark, "is broken").await.unwrap();
    assert_eq!(study.state(experiment.id).await, "broken");
    let moved_on = study.engine.intervene(ctx(), count, Intervention::Retry, "again").await;
    assert!(matches!(moved_on, Err(EngineError::MovedOn)));

    // A result that a user marks as success sets its variables (E7).
    study.move_to(experiment.id, "check").await.unwrap();
    let marked = study.executions(experiment.id).await["count"].id;
    let waiting = Report {
        status: Some(ExecutionStatus::Waiting),
        result_values: Some(json!({"extra": {"n": 12}})),
        ..Report::default()
    };
    study.report(marked, &waiting).await.unwrap();
    let mark = Intervention::Mark(ExecutionResult::Success);
    study.engine.intervene(ctx(), marked, mark, "looked at it").await.unwrap();
    let variables = variables_of(ctx(), study.engine.database().reader(), experiment.id).await.unwrap();
    assert!(variables.contains(&("n".to_owned(), VariableValue::Int(12))), "{variables:?}");
    study.move_to(experiment.id, "review").await.unwrap();
    study.move_to(experiment.id, "work").await.unwrap();
    let pipeline = study.executions(experiment.id).await["pipeline"].id;
    study.engine.intervene(ctx(), pipeline, Intervention::Mark(ExecutionResult::Timeout), "gone").await.unwrap();

    // A failed execution without a possible transition can be retried.
    study.move_to(experiment.id, "check").await.unwrap();
    for execution in study.executions(experiment.id).await.values() {
        study.succeed(execution.id).await;
    }
    study.move_to(experiment.id, "work").await.unwrap();
    let pipeline = study.executions(experiment.id).await["pipeline"].id;
    study.report(pipeline, &Report::finished(ExecutionResult::Failed)).await.unwrap();
    study.engine.intervene(ctx(), pipeline, Intervention::Retry, "the disk was full").await.unwrap();
    study.succeed(pipeline).await;
    assert_eq!(study.state(experiment.id).await, "done");
    assert!(ledger_problems(&study.engine).await.is_empty());
}
