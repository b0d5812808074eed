//! Snapshots on the three databases (E13).

use sea_orm::{EntityTrait, PaginatorTrait};
use studygovernor::entity::cohort;

use crate::support::{Study, on_every_database};

on_every_database! {
    e13_a_snapshot_stays_as_it_was;
    e13_a_snapshot_that_was_given_up_leaves_no_trace;
}

async fn e13_a_snapshot_stays_as_it_was(study: Study) {
    let database = study.engine.database();
    let count = async |connection: &_| cohort::Entity::find().count(connection).await.unwrap();
    let snapshot = database.snapshot().await.unwrap();
    assert_eq!(count(&snapshot).await, 0);
    // It does not block writers, and they do not block it.
    study.subject("first").await;
    assert_eq!(count(&snapshot).await, 0, "as it was");
    assert_eq!(count(&snapshot.database().snapshot().await.unwrap()).await, 0, "the same moment");
    assert_eq!(count(&database.snapshot().await.unwrap()).await, 1, "another moment");
    assert!(snapshot.database().begin().await.is_err(), "it is for reading");
    assert!(snapshot.change() < database.change());
    drop(snapshot);
    // More than the number of connections.
    for _ in 0..40 {
        assert_eq!(count(&database.snapshot().await.unwrap()).await, 1);
    }
}

/// If a caller is cancelled while a snapshot begins, its connection can still be used for writing.
async fn e13_a_snapshot_that_was_given_up_leaves_no_trace(study: Study) {
    let database = study.engine.database();
    for number in 0..100_u64 {
        let database = database.clone();
        let reading = tokio::spawn(async move {
            let snapshot = database.snapshot().await.unwrap();
            cohort::Entity::find().count(&snapshot).await
        });
        for _ in 0..number % 7 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(std::time::Duration::from_micros(number * 20)).await;
        reading.abort();
    }
    study.subject("first").await;
    let labels: Vec<String> = (0..32).map(|number| format!("subject {number}")).collect();
    let written = labels.iter().map(|label| study.subject(label));
    futures_util::future::join_all(written).await;
}
