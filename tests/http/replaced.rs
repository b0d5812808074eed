//! The file of an SQLite database is replaced under a running server, for example by restoring a backup.

use std::fs;
use std::path::Path;

use sea_orm::ConnectionTrait;
use serde_json::{Value, json};

use crate::api::Server;
use crate::support::{Backend, Caller};

/// A copy of the database file as it is now, without its log.
fn back_up(server: &Server) -> std::path::PathBuf {
    let backup = server.home.path().join("backup.db");
    fs::copy(server.home.path().join("study.db"), &backup).unwrap();
    backup
}

/// Like another process on the same file.
async fn sql(server: &Server, text: &str) {
    let file = server.home.path().join("study.db");
    let database = sea_orm::Database::connect(format!("sqlite://{}", file.display())).await.unwrap();
    database.execute_unprepared(text).await.unwrap();
    database.close().await.unwrap();
}

async fn add(admin: &Caller, from: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for number in from..from + 3 {
        let answer = admin.post("/api/v2/cohorts", json!({ "label": format!("cohort {number}") })).await;
        if answer.status == 503 {
            assert!(answer.body["message"].as_str().unwrap().contains("restart the server"), "{}", answer.body);
        }
        statuses.push(answer.status.as_u16());
    }
    statuses
}

async fn refuses(how: impl Fn(&Path, &Path)) {
    let server = Server::study(Backend::Sqlite).await;
    let admin = server.admin();
    let backup = back_up(&server);
    assert_eq!(add(&admin, 0).await, [201, 201, 201]);
    // Makes the file differ from its backup, because SQLite moves pages from its log only now and then. Before that,
    // copying a backup over the file would change nothing.
    let subjects: Vec<Value> =
        (0..900).map(|number| json!({ "cohort": "many", "label": format!("{number} {}", "x".repeat(150)) })).collect();
    admin.post("/api/v2/import", json!(subjects)).await.expect(200);
    sql(&server, "PRAGMA wal_checkpoint(TRUNCATE)").await;
    admin.get("/-/ready").await.expect(200);
    how(&backup, &server.home.path().join("study.db"));
    assert_eq!(add(&admin, 3).await, [503, 503, 503]);
    let ready = admin.get("/-/ready").await.expect(500);
    assert!(ready["database"].as_str().unwrap().contains("replaced"), "{ready}");
    admin.get("/-/healthy").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_moved_over_it_is_not_written() {
    refuses(|backup, file| fs::rename(backup, file).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_copied_over_it_is_not_written() {
    refuses(|backup, file| {
        fs::copy(backup, file).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_removed_is_not_written() {
    refuses(|_, file| fs::remove_file(file).unwrap()).await;
}

/// Changes by SQLite itself and by other processes on the file are not a replacement.
#[tokio::test(flavor = "multi_thread")]
async fn another_process_and_a_vacuum_are_no_replacement() {
    let server = Server::study(Backend::Sqlite).await;
    let admin = server.admin();
    assert_eq!(add(&admin, 0).await, [201, 201, 201]);
    sql(&server, "CREATE TABLE filler AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT i, hex(randomblob(50)) AS t FROM n").await;
    sql(&server, "PRAGMA wal_checkpoint(TRUNCATE)").await;
    assert_eq!(add(&admin, 3).await, [201, 201, 201]);
    sql(&server, "DROP TABLE filler").await;
    sql(&server, "VACUUM").await;
    sql(&server, "PRAGMA wal_checkpoint(TRUNCATE)").await;
    assert_eq!(add(&admin, 6).await, [201, 201, 201]);
    admin.get("/-/ready").await.expect(200);
}
