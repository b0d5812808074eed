//! Interrupted migrations that are run again, on the three databases.

use std::collections::{BTreeSet, HashSet};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use migration::{Migrator, MigratorTrait, TABLES};
use sea_orm::sea_query::{Alias, Asterisk, Expr, Query, SimpleExpr};
use sea_orm::{
    ConnectOptions, ConnectionTrait, DatabaseConnection, DbBackend, DbErr, EntityTrait, FromQueryResult, JsonValue,
    Statement, TransactionOptions, TransactionTrait,
};
use studygovernor::database::Database;
use studygovernor::entity::callback_execution;

use crate::support::{Backend, Program, Said, Study, on_every_database, studygovernor};

on_every_database! {
    the_list_of_tables_is_complete;
}

/// The schema level at which the data of the study is written.
const LEVEL_WITH_DATA: usize = 5;

/// The panic payload of a stopped migration.
struct Stopped;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// Statements after which a migration has been stopped.
type Stops = Arc<Mutex<HashSet<String>>>;

async fn connect(url: &str) -> DatabaseConnection {
    let mut options = ConnectOptions::new(url);
    options.sqlx_logging(false).max_connections(1);
    sea_orm::Database::connect(options).await.unwrap()
}

fn changes_something(sql: &str) -> bool {
    let is_list = sql.starts_with("CREATE TABLE IF NOT EXISTS") && sql.contains("seaql_migrations");
    let begins = ["CREATE", "ALTER", "DROP", "INSERT", "UPDATE", "DELETE"].iter().any(|verb| sql.starts_with(verb));
    begins && !is_list
}

async fn migrate(connection: &DatabaseConnection, direction: Direction) -> Result<(), DbErr> {
    let step = Some(1);
    if connection.get_database_backend() == DbBackend::MySql {
        return match direction {
            Direction::Up => Migrator::up(connection, step).await,
            Direction::Down => Migrator::down(connection, step).await,
        };
    }
    // The stopped session may hold the lock of the file for a moment: this waits for it.
    let options = TransactionOptions {
        sqlite_transaction_mode: Some(sea_orm::SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    };
    let transaction = connection.begin_with_options(options).await?;
    match direction {
        Direction::Up => Migrator::up(&transaction, step).await?,
        Direction::Down => Migrator::down(&transaction, step).await?,
    }
    transaction.commit().await
}

/// Runs one migration and stops it after the first statement at which none was stopped before: its session ends there,
/// like that of a killed process. Returns whether it was stopped.
async fn is_stopped(url: &str, direction: Direction, stops: &Stops) -> bool {
    let mut connection = connect(url).await;
    let stops = Arc::clone(stops);
    connection.set_metric_callback(move |info| {
        let statement = info.statement.to_string();
        if !info.failed && changes_something(&statement) && stops.lock().unwrap().insert(statement) {
            std::panic::resume_unwind(Box::new(Stopped));
        }
    });
    match tokio::spawn(async move { migrate(&connection, direction).await }).await {
        Ok(outcome) => {
            outcome.unwrap();
            false
        }
        Err(error) => {
            assert!(error.into_panic().is::<Stopped>(), "the migration panicked");
            true
        }
    }
}

/// The complete schema as text, for comparisons.
async fn schema(url: &str) -> BTreeSet<String> {
    let connection = connect(url).await;
    let backend = connection.get_database_backend();
    let lines = async |sql: &str| -> Vec<String> {
        let rows = connection.query_all_raw(Statement::from_string(backend, sql)).await.unwrap();
        rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
    };
    let found = match backend {
        DbBackend::Postgres => {
            let mut found = lines(
                "SELECT concat_ws(' ', table_name, ordinal_position, column_name, data_type, character_maximum_length, is_nullable, \
                 column_default) FROM information_schema.columns WHERE table_schema = 'public'",
            )
            .await;
            found.extend(lines("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'").await);
            let constraints = "SELECT concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(oid)) FROM pg_constraint \
                               WHERE connamespace = 'public'::regnamespace";
            found.extend(lines(constraints).await);
            found
        }
        DbBackend::MySql => {
            let mut found = Vec::new();
            let tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = database()";
            for table in lines(tables).await {
                let shown = Statement::from_string(backend, format!("SHOW CREATE TABLE `{table}`"));
                let row = connection.query_one_raw(shown).await.unwrap().unwrap();
                let shown: String = row.try_get_by_index(1).unwrap();
                // The next id depends on the rows, not on the schema.
                let parts: Vec<&str> = shown.split(' ').filter(|part| !part.starts_with("AUTO_INCREMENT=")).collect();
                found.push(parts.join(" "));
            }
            found
        }
        _ => lines("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'").await,
    };
    found.into_iter().collect()
}

/// All rows of the study.
async fn rows(url: &str) -> BTreeSet<String> {
    let connection = connect(url).await;
    let mut found = BTreeSet::new();
    for table in TABLES {
        let statement = Query::select().column(Asterisk).from(*table).to_owned();
        let statement = connection.get_database_backend().build(&statement);
        let rows = JsonValue::find_by_statement(statement).all(&connection).await.unwrap();
        found.extend(rows.into_iter().map(|row| format!("{table} {row}")));
    }
    found
}

/// A small study in the schema of [`LEVEL_WITH_DATA`].
async fn write_data(url: &str) {
    let connection = connect(url).await;
    let insert = async |table: &'static str, row: &[(&'static str, SimpleExpr)]| {
        let mut statement = Query::insert();
        statement.into_table(table).columns(row.iter().map(|(column, _)| Alias::new(*column)));
        statement.values_panic(row.iter().map(|(_, value)| value.clone()));
        connection.execute(&statement).await.unwrap();
    };
    let text = |text: &str| Expr::value(text.to_owned());
    let number = |number: i32| Expr::value(number);
    let at = || Expr::value(crate::support::moment("2026-01-02T03:04:05"));
    insert("workflow", &[("label", text("w"))]).await;
    for label in ["root", "end"] {
        insert("state", &[("label", text(label)), ("workflow_id", number(1))]).await;
    }
    insert("transition", &[("source_state_id", number(1)), ("destination_state_id", number(2))]).await;
    for label in ["a", "b", "c"] {
        insert("callback", &[("state_id", number(2)), ("label", text(label)), ("function", text("sleep"))]).await;
    }
    insert("cohort", &[("label", text("cohort"))]).await;
    for label in ["one", "two"] {
        insert("subject", &[("label", text(label)), ("cohort_id", number(1))]).await;
    }
    let experiment = |subject: i32| {
        [
            ("label", text("session")),
            ("scandate", at()),
            ("subject_id", number(subject)),
            ("workflow_id", number(1)),
            ("state_id", number(2)),
            ("state_since", at()),
        ]
    };
    insert("experiment", &experiment(1)).await;
    insert("experiment", &experiment(2)).await;
    let action =
        [("start_time", at()), ("transition_id", number(1)), ("experiment_id", number(1)), ("origin", text("cli"))];
    insert("action", &action).await;
    for (callback, status) in [(1, "created"), (2, "queued"), (3, "finished")] {
        let execution = [
            ("callback_id", number(callback)),
            ("action_id", number(1)),
            ("status", text(status)),
            ("result", text("none")),
            ("created", at()),
            ("available_at", at()),
        ];
        insert("callback_execution", &execution).await;
    }
    insert("session", &[("id", text("s")), ("data", text("{}")), ("expires_at", at())]).await;
    insert("role", &[("name", text("reader")), ("update_datetime", at())]).await;
}

/// The number of applied migrations.
async fn level_of(url: &str) -> usize {
    Migrator::get_applied_migrations(&connect(url).await).await.unwrap().len()
}

/// Migrates level by level, and writes the data of the study at its level.
async fn go_up(url: &str, stops: Option<&Stops>) {
    for level in 0..Migrator::migrations().len() {
        if level == LEVEL_WITH_DATA {
            write_data(url).await;
        }
        match stops {
            // The last stop is after the migration was recorded as applied.
            Some(stops) => while level_of(url).await == level && is_stopped(url, Direction::Up, stops).await {},
            None => migrate(&connect(url).await, Direction::Up).await.unwrap(),
        }
    }
}

/// A migration that is stopped after each statement, up and down, has the same result as one that was never stopped.
async fn a_migration_that_is_stopped_anywhere_is_run_again(backend: Backend) {
    let (study, other) = (Study::empty(backend).await, Study::empty(backend).await);
    let url = &study.settings.url;
    go_up(&other.settings.url, None).await;

    let stops = Stops::default();
    go_up(url, Some(&stops)).await;
    let count = stops.lock().unwrap().len();
    assert!(count > 100, "it was stopped only {count} times");
    let (expected, found) = (schema(&other.settings.url).await, schema(url).await);
    assert_eq!(found, expected);
    assert_eq!(rows(url).await, rows(&other.settings.url).await);
    let queued = callback_execution::Entity::find_by_id(2).one(&connect(url).await).await.unwrap().unwrap();
    assert_eq!(queued.relay_at, Some(queued.available_at));

    let stops = Stops::default();
    for _ in 0..Migrator::migrations().len() {
        while is_stopped(url, Direction::Down, &stops).await {}
    }
    assert!(stops.lock().unwrap().len() > 50, "it was stopped too rarely on the way down");
    let left = schema(url).await;
    assert!(left.iter().all(|line| line.contains("seaql_migrations")), "{left:#?}");
    Database::connect(&study.settings).await.unwrap().migrate().await.unwrap();
    assert_eq!(schema(url).await, expected, "and up again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_is_stopped_anywhere_is_run_again_on_sqlite() {
    a_migration_that_is_stopped_anywhere_is_run_again(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_is_stopped_anywhere_is_run_again_on_postgres() {
    a_migration_that_is_stopped_anywhere_is_run_again(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_is_stopped_anywhere_is_run_again_on_mariadb() {
    a_migration_that_is_stopped_anywhere_is_run_again(Backend::Mariadb).await;
}

/// The progress of a start, seen from outside: indexes of MariaDB, locks of PostgreSQL, files of SQLite.
async fn progress(backend: Backend, study: &Study, connection: &DatabaseConnection) -> i64 {
    let sql = match backend {
        Backend::Sqlite => return study.home.path().read_dir().unwrap().count().try_into().unwrap(),
        Backend::Postgres => {
            "SELECT count(*) FROM pg_locks WHERE database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        }
        Backend::Mariadb => "SELECT count(*) FROM information_schema.statistics WHERE table_schema = database()",
    };
    let statement = Statement::from_string(connection.get_database_backend(), sql);
    connection.query_one_raw(statement).await.unwrap().unwrap().try_get_by_index(0).unwrap()
}

/// The first start of a server is killed several times, each time a little later; then it succeeds.
async fn a_first_start_that_is_killed_is_repeated(backend: Backend) {
    let study = Study::empty(backend).await;
    let url = study.settings.url.clone();
    let connection = connect(&url).await;
    let address = match backend {
        Backend::Sqlite => format!("sqlite:///{}", study.home.path().join("study.db").display()),
        _ => url.clone(),
    };
    let command = |arguments: &[&str]| {
        let mut command = studygovernor(study.home.path(), arguments);
        command.env("DATABASE_URL", &address).env("SECRET_KEY", "a key of the tests");
        command.env("SECURITY_PASSWORD_SALT", "a salt of the tests");
        command
    };
    let mut killed = 0;
    // On the other two databases, a migration is invisible before it is committed.
    let distances: &[i64] = if backend == Backend::Mariadb { &[1, 4, 12, 25] } else { &[1, 1] };
    for further in distances {
        let seen = progress(backend, &study, &connection).await;
        let mut child = command(&["serve"]).env("STUDYGOV_PORT", "0").stderr(Stdio::null()).spawn().unwrap();
        let began = Instant::now();
        while progress(backend, &study, &connection).await < seen + further
            && began.elapsed() < Duration::from_secs(2)
            && child.try_wait().unwrap().is_none()
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        killed += u32::from(child.try_wait().unwrap().is_none());
        child.kill().ok();
        child.wait().unwrap();
    }
    assert!(killed > 0, "it was never killed");
    let output = command(&["db", "migrate"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", output.err());
    let other = Study::new(backend).await;
    assert_eq!(schema(&url).await, schema(&other.settings.url).await);
    drop(Program::start(command(&["serve"])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_that_is_killed_is_repeated_on_sqlite() {
    a_first_start_that_is_killed_is_repeated(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_that_is_killed_is_repeated_on_postgres() {
    a_first_start_that_is_killed_is_repeated(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_that_is_killed_is_repeated_on_mariadb() {
    a_first_start_that_is_killed_is_repeated(Backend::Mariadb).await;
}

/// The program uses this list to distinguish its tables from those of another program.
async fn the_list_of_tables_is_complete(study: Study) {
    let shown = schema(&study.settings.url).await.into_iter().collect::<Vec<_>>().join("\n");
    for table in TABLES {
        assert!(shown.contains(table), "{table} is in migration::TABLES and not in the database");
    }
    let backend = study.engine.database().backend();
    let sql = match backend {
        DbBackend::Postgres => "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public'",
        DbBackend::MySql => "SELECT table_name FROM information_schema.tables WHERE table_schema = database()",
        _ => "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
    };
    let statement = Statement::from_string(backend, sql);
    for row in study.engine.database().reader().query_all_raw(statement).await.unwrap() {
        let table: String = row.try_get_by_index(0).unwrap();
        assert!(table == "seaql_migrations" || TABLES.contains(&table.as_str()), "{table} is not in migration::TABLES");
    }
}

/// Tables of another program are refused and left unchanged, also if an earlier start has left its list of migrations.
async fn tables_of_another_program_are_refused(backend: Backend) {
    let list = "CREATE TABLE seaql_migrations (version VARCHAR(255) PRIMARY KEY, applied_at BIGINT NOT NULL)";
    let cohort = "CREATE TABLE cohort (id INTEGER PRIMARY KEY, label VARCHAR(100) NOT NULL)";
    let session = "CREATE TABLE session (id INTEGER PRIMARY KEY)";
    // The same columns as ours.
    let workflow = "CREATE TABLE workflow (id INTEGER PRIMARY KEY, label VARCHAR(100) NOT NULL)";
    let other_columns = "CREATE TABLE workflow (id INTEGER PRIMARY KEY)";
    for (tables, refused) in [
        (vec![session], "tables of another program"),
        (vec![workflow], "tables of another program"),
        (vec![list, workflow, cohort], "tables of another program"),
        (vec![list, other_columns], "the table workflow exists with other columns"),
    ] {
        let study = Study::empty(backend).await;
        let connection = connect(&study.settings.url).await;
        for table in &tables {
            connection.execute_unprepared(table).await.unwrap();
        }
        let before = schema(&study.settings.url).await;
        let error = study.engine.database().migrate().await.unwrap_err().to_string();
        assert!(error.contains(refused), "{error}");
        assert_eq!(schema(&study.settings.url).await, before, "nothing was changed");
    }
    // Unrelated tables of other programs do not matter.
    let study = Study::empty(backend).await;
    let connection = connect(&study.settings.url).await;
    connection.execute_unprepared("CREATE TABLE spatial_ref_sys (id INTEGER PRIMARY KEY)").await.unwrap();
    study.engine.database().migrate().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_another_program_are_refused_on_sqlite() {
    tables_of_another_program_are_refused(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_another_program_are_refused_on_postgres() {
    tables_of_another_program_are_refused(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_another_program_are_refused_on_mariadb() {
    tables_of_another_program_are_refused(Backend::Mariadb).await;
}
