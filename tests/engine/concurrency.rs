//! Concurrency, on a real PostgreSQL (and the two other databases).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sea_orm::EntityTrait;
use studygovernor::engine::{Engine, EngineError, Report};
use studygovernor::entity::callback_execution;
use studygovernor::entity::kind::ExecutionResult;

use super::WORKFLOW;
use crate::support::{Study, ctx, ledger_problems, on_every_database};

on_every_database! {
    e1_e4_32_tasks_report_on_the_same_50_experiments_each_report_twice;
    e1_two_servers_create_report_and_move_at_once;
}

/// Each of 32 tasks reports both executions of 50 experiments twice: 6,400 reports, of which 100 count.
async fn e1_e4_32_tasks_report_on_the_same_50_experiments_each_report_twice(study: Study) {
    study.load(WORKFLOW).await;
    for number in 0..50 {
        study.create(&format!("session-{number}")).await;
    }
    let executions = callback_execution::Entity::find().all(study.engine.database().reader()).await.unwrap();
    let ids: Arc<Vec<i32>> = Arc::new(executions.iter().map(|one| one.id).collect());
    assert_eq!(ids.len(), 100);
    let (accepted, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let tasks = (0..32).map(|task| {
        let (engine, ids) = (study.engine.clone(), Arc::clone(&ids));
        let (accepted, refused) = (Arc::clone(&accepted), Arc::clone(&refused));
        tokio::spawn(async move {
            let report = Report::finished(ExecutionResult::Success);
            // Each task in its own order, so that tasks meet at every execution.
            for step in 0..ids.len() * 2 {
                let id = ids[(step * 7 + task * 13) % ids.len()];
                match engine.report(ctx(), id, &report).await {
                    Ok(_) => accepted.fetch_add(1, Ordering::Relaxed),
                    Err(EngineError::Resolved { .. }) => refused.fetch_add(1, Ordering::Relaxed),
                    Err(error) => panic!("{error}"),
                };
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(accepted.load(Ordering::Relaxed), 100);
    assert_eq!(refused.load(Ordering::Relaxed), 6_300);
    let problems = ledger_problems(&study.engine).await;
    assert!(problems.is_empty(), "{problems:#?}");
    for number in 1..=50 {
        assert_eq!(study.actions(number).await.len(), 2);
        assert_eq!(study.state(number).await, "review");
    }
}

/// Two engines on one database, like two servers.
async fn e1_two_servers_create_report_and_move_at_once(study: Study) {
    study.load(WORKFLOW).await;
    let database = studygovernor::database::Database::connect(&study.settings).await.unwrap();
    let other = Engine::new(database, study.clock.clone());
    let experiment = study.create("session").await;
    let executions = study.executions(experiment.id).await;
    let report = Report::finished(ExecutionResult::Success);
    let (a, b, c) = tokio::join!(
        study.engine.report(ctx(), executions["count"].id, &report),
        other.report(ctx(), executions["count"].id, &report),
        other.report(ctx(), executions["notify"].id, &report),
    );
    assert_eq!(usize::from(a.is_ok()) + usize::from(b.is_ok()), 1);
    c.unwrap();
    assert_eq!(study.state(experiment.id).await, "review");
    let (first, second) = tokio::join!(study.try_create("twice"), study.try_create("twice"));
    assert_eq!(usize::from(first.is_ok()) + usize::from(second.is_ok()), 1);
    assert!(ledger_problems(&study.engine).await.is_empty());
}
