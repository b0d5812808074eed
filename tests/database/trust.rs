//! E15: a connection whose transaction failed is not used again, and a failed statement never ends in a successful
//! commit.

use sea_orm::{ConnectionTrait, EntityTrait, PaginatorTrait, Statement};
use studygovernor::database::{Database, Failure, Unready};
use studygovernor::entity::cohort;

use crate::support::{Backend, Study, moment, on_every_database};

on_every_database! {
    e15_a_transaction_with_a_failed_statement_is_not_committed;
    e14_every_connection_has_the_limits_and_the_isolation;
}

/// The error is ignored, as a caller might do; PostgreSQL would report success for the commit and roll back.
async fn e15_a_transaction_with_a_failed_statement_is_not_committed(study: Study) {
    let database = study.engine.database();
    let insert = |label: &str| format!("INSERT INTO cohort (label) VALUES ('{label}')");
    let transaction = database.begin().await.unwrap();
    transaction.execute_unprepared(&insert("first")).await.unwrap();
    transaction.execute_unprepared("INSERT INTO nowhere (label) VALUES (1)").await.unwrap_err();
    transaction.execute_unprepared(&insert("second")).await.unwrap_err();
    transaction.commit().await.unwrap_err();
    assert_eq!(cohort::Entity::find().count(database.reader()).await.unwrap(), 0);
    let before = database.change();
    let transaction = database.begin().await.unwrap();
    transaction.execute_unprepared(&insert("third")).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(database.change(), before + 1, "a commit that failed is none");
    let other = Database::connect(&study.settings).await.unwrap();
    assert_eq!(cohort::Entity::find().count(other.reader()).await.unwrap(), 1);
}

/// Checks all connections of a pool at once: a setting of the first one only would be detected.
async fn e14_every_connection_has_the_limits_and_the_isolation(study: Study) {
    let database = study.engine.database();
    let backend = database.backend();
    let (sql, wanted) = match backend {
        sea_orm::DbBackend::Postgres => (
            "SELECT current_setting('lock_timeout') || ' ' || current_setting('idle_in_transaction_session_timeout') || ' ' \
             || current_setting('statement_timeout') AS found FROM pg_sleep(0.3)",
            "5s 15s 1min",
        ),
        sea_orm::DbBackend::MySql => (
            "SELECT CONCAT_WS(' ', @@innodb_lock_wait_timeout, @@idle_transaction_timeout, @@max_statement_time, \
             @@tx_isolation) AS found FROM (SELECT SLEEP(0.3)) AS pause",
            "5 15 60.000000 READ-COMMITTED",
        ),
        _ => ("SELECT timeout || '' AS found FROM pragma_busy_timeout", "10000"),
    };
    let asks = (0..8).map(|_| {
        let connection = database.reader().clone();
        tokio::spawn(async move {
            let row = connection.query_one_raw(Statement::from_string(backend, sql)).await.unwrap().unwrap();
            row.try_get::<String>("", "found").unwrap()
        })
    });
    for ask in asks.collect::<Vec<_>>() {
        assert_eq!(ask.await.unwrap(), wanted);
    }
}

/// The file may not grow, as on a full disk. SQLite then ends the transaction automatically, and the driver did not
/// notice: it treated every later transaction as part of the ended one, reported success for its commit, and wrote
/// nothing.
#[tokio::test(flavor = "multi_thread")]
async fn e15_sqlite_writes_again_after_the_disk_was_full() {
    let study = Study::new(Backend::Sqlite).await;
    let database = study.engine.database();
    let large = |number: usize| {
        format!("INSERT INTO cohort (label, description) VALUES ('large-{number}', hex(randomblob(4000000)))")
    };
    for round in 0..3 {
        database.writer().execute_unprepared("PRAGMA max_page_count = 300").await.unwrap();
        let transaction = database.begin().await.unwrap();
        let error = transaction.execute_unprepared(&large(round)).await.unwrap_err();
        assert_eq!(Failure::of(&error), Some(Failure::DiskFull), "{error}");
        drop(transaction);
        for number in 0..3 {
            let transaction = database.begin().await.unwrap();
            let insert = format!("INSERT INTO cohort (label) VALUES ('small-{round}-{number}')");
            transaction.execute_unprepared(&insert).await.unwrap();
            transaction.commit().await.unwrap();
        }
        let other = Database::connect(&study.settings).await.unwrap();
        assert_eq!(cohort::Entity::find().count(other.reader()).await.unwrap(), (round as u64 + 1) * 3);
    }
    // The connection that may not grow the file is closed, so that space is available again.
    assert_eq!(database.ready(moment("2026-03-01T08:00:00")).await, Ok(()));
}

/// A small change that still fits does not end the problem; a test that writes as much as a report does.
#[tokio::test(flavor = "multi_thread")]
async fn e15_a_full_disk_is_not_ready_until_a_report_has_room() {
    let study = Study::new(Backend::Sqlite).await;
    let database = study.engine.database();
    let now = moment("2026-03-01T08:00:00");
    assert_eq!(database.ready(now).await, Ok(()));
    let limit = async || {
        let pages = "PRAGMA max_page_count = 300";
        database.writer().execute_unprepared(pages).await.unwrap();
    };
    limit().await;
    let large = "INSERT INTO cohort (label, description) VALUES ('large', hex(randomblob(4000000)))";
    let error = database.writer().execute_unprepared(large).await.unwrap_err();
    assert_eq!(Failure::of(&error), Some(Failure::DiskFull));
    let small = "INSERT INTO cohort (label) VALUES ('small')";
    database.writer().execute_unprepared(small).await.unwrap();
    limit().await;
    assert_eq!(database.ready(now).await, Err(Unready::DiskFull));
    database.writer().execute_unprepared("PRAGMA max_page_count = 100000").await.unwrap();
    assert_eq!(database.ready(now).await, Ok(()));
    let sessions = studygovernor::entity::session::Entity::find().count(database.reader()).await.unwrap();
    assert_eq!(sessions, 0, "the test leaves nothing");
}

/// The sessions end in the middle of a transaction, as when the server is restarted: none of its changes exist
/// afterwards, the error allows a retry, and the next transaction and the next read succeed immediately.
async fn e15_a_transaction_whose_session_ended_can_be_repeated(study: Study) {
    let database = study.engine.database();
    let insert = async |transaction: &studygovernor::database::WriteTransaction| {
        transaction.execute_unprepared("INSERT INTO cohort (label) VALUES ('c')").await
    };
    for is_commit in [false, true] {
        let transaction = database.begin().await.unwrap();
        insert(&transaction).await.unwrap();
        end_sessions(&study).await;
        if is_commit {
            let error = transaction.commit().await.unwrap_err();
            assert_eq!(Failure::of(&error), Some(Failure::Uncertain), "{error}");
        } else {
            let error = insert(&transaction).await.unwrap_err();
            assert!(studygovernor::database::is_transient(&error), "{error}");
            transaction.commit().await.unwrap_err();
        }
        assert_eq!(cohort::Entity::find().count(database.reader()).await.unwrap(), 0);
    }
    end_sessions(&study).await;
    let transaction = database.begin().await.unwrap();
    insert(&transaction).await.unwrap();
    transaction.commit().await.unwrap();
    end_sessions(&study).await;
    assert_eq!(cohort::Entity::find().count(database.reader()).await.unwrap(), 1);
}

/// Ends all sessions of this study at its database server.
async fn end_sessions(study: &Study) {
    let name = study.settings.url.rsplit('/').next().unwrap();
    let is_postgres = study.engine.database().backend() == sea_orm::DbBackend::Postgres;
    let url = std::env::var(if is_postgres { "TEST_POSTGRES_URL" } else { "TEST_MARIADB_URL" }).unwrap();
    let server = sea_orm::Database::connect(url).await.unwrap();
    if is_postgres {
        let end = format!("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{name}'");
        server.execute_unprepared(&end).await.unwrap();
    } else {
        let find = format!("SELECT id FROM information_schema.processlist WHERE db = '{name}'");
        for row in server.query_all_raw(Statement::from_string(sea_orm::DbBackend::MySql, find)).await.unwrap() {
            let id: i64 = row.try_get("", "id").unwrap();
            // The session may have ended meanwhile.
            server.execute_unprepared(&format!("KILL CONNECTION {id}")).await.ok();
        }
    }
    server.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn e15_a_transaction_whose_session_ended_can_be_repeated_on_postgres() {
    e15_a_transaction_whose_session_ended_can_be_repeated(Study::new(Backend::Postgres).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e15_a_transaction_whose_session_ended_can_be_repeated_on_mariadb() {
    e15_a_transaction_whose_session_ended_can_be_repeated(Study::new(Backend::Mariadb).await).await;
}

/// PostgreSQL becomes a standby and is promoted again: connections from one role are not used in the other.
#[tokio::test(flavor = "multi_thread")]
async fn e15_a_database_that_was_read_only_is_written_again() {
    let study = Study::new(Backend::Postgres).await;
    let database = study.engine.database();
    let now = moment("2026-03-01T08:00:00");
    let name = study.settings.url.rsplit('/').next().unwrap();
    let server = sea_orm::Database::connect(std::env::var("TEST_POSTGRES_URL").unwrap()).await.unwrap();
    let write = async || {
        let transaction = database.begin().await?;
        transaction.execute_unprepared("INSERT INTO cohort (label) VALUES ('c')").await?;
        transaction.commit().await
    };
    server.execute_unprepared(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await.unwrap();
    end_sessions(&study).await;
    // Ended sessions are replaced without an error: their reads are repeated.
    assert_eq!(cohort::Entity::find().count(database.reader()).await.unwrap(), 0);
    let error = write().await.unwrap_err();
    assert_eq!(Failure::of(&error), Some(Failure::ReadOnly), "{error}");
    assert_eq!(database.ready(now).await, Err(Unready::ReadOnly));
    server.execute_unprepared(&format!("ALTER DATABASE {name} RESET default_transaction_read_only")).await.unwrap();
    write().await.unwrap();
    assert_eq!(database.ready(now).await, Ok(()));
}
