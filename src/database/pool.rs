//! The connection pools: the settings of each connection, and which connections are used again.
//!
//! Reading, writing and the health check have separate pools, so that a page does not wait for a connection while all
//! writers wait for a lock. A connection returns to its pool only if no transaction is open on it and no failure since
//! it was opened makes it unreliable ([`Watch`]).

use std::time::Duration;

use sea_orm::sqlx::pool::{PoolConnectionMetadata, PoolOptions};
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sea_orm::sqlx::{
    self, AssertSqlSafe, ConnectOptions, Connection, Executor, MySqlConnection, PgConnection,
    mysql::MySqlConnectOptions, postgres::PgConnectOptions,
};
use sea_orm::{DatabaseConnection, DbErr, RuntimeErr, SqlxMySqlConnector, SqlxPostgresConnector, SqlxSqliteConnector};
use tokio::time::timeout;

use crate::config::{DatabaseKind, DatabaseLimits, DatabaseSettings};

use super::watch::Watch;

/// Time limit for getting a free connection or opening a new one.
const ACQUIRE: Duration = Duration::from_secs(10);

/// An idle connection that does not answer within this time is considered broken.
const PING: Duration = Duration::from_secs(2);

/// A connection that was used within this time is not tested, because each test costs a round trip.
const RECENT: Duration = Duration::from_secs(1);

/// The three pools of a database. For a database in memory they are the same pool, because each connection would be a
/// separate database.
pub(super) struct Pools {
    pub(super) reading: DatabaseConnection,
    pub(super) writing: DatabaseConnection,
    /// A single connection, used only for health checks.
    pub(super) health: DatabaseConnection,
}

/// Number of connections for writing on PostgreSQL and MariaDB. An SQLite file has one writer.
pub(super) fn writers(limits: &DatabaseLimits) -> u32 {
    limits.connections.saturating_sub(1) / 2
}

/// Opens the pools with one connection for reading; the others are opened on demand.
pub(super) async fn open(settings: &DatabaseSettings, watch: &Watch) -> Result<Pools, DbErr> {
    let limits = settings.limits;
    let (reading, writing) = (limits.connections - 1 - writers(&limits), writers(&limits));
    match settings.kind {
        DatabaseKind::Sqlite => open_sqlite(settings, watch, reading).await,
        DatabaseKind::Postgres => {
            let options: PgConnectOptions = settings.url.parse().map_err(failed)?;
            let options = options.disable_statement_logging();
            let pool = |most| {
                let set = postgres_session(&limits);
                pool_of(most, watch).after_connect(move |connection: &mut PgConnection, _| {
                    let set = set.clone();
                    Box::pin(async move { connection.execute(AssertSqlSafe(set)).await.map(drop) })
                })
            };
            let first = pool(reading).connect_with(options.clone()).await.map_err(failed)?;
            let lazy =
                |most| SqlxPostgresConnector::from_sqlx_postgres_pool(pool(most).connect_lazy_with(options.clone()));
            let reading = SqlxPostgresConnector::from_sqlx_postgres_pool(first);
            Ok(Pools { reading, writing: lazy(writing), health: lazy(1) })
        }
        DatabaseKind::Mysql => {
            let options: MySqlConnectOptions = settings.url.parse().map_err(failed)?;
            let options = options.disable_statement_logging();
            let pool = |most| {
                let pool = pool_of(most, watch).after_connect(move |connection: &mut MySqlConnection, _| {
                    Box::pin(async move { prepare_mysql(connection, &limits).await })
                });
                // If the server's limit for idle transactions also applies to idle connections, the pool must close
                // them earlier.
                pool.idle_timeout(idle_time(limits.idle))
            };
            let first = pool(reading).connect_with(options.clone()).await.map_err(failed)?;
            let lazy = |most| SqlxMySqlConnector::from_sqlx_mysql_pool(pool(most).connect_lazy_with(options.clone()));
            let reading = SqlxMySqlConnector::from_sqlx_mysql_pool(first);
            Ok(Pools { reading, writing: lazy(writing), health: lazy(1) })
        }
    }
}

/// Maximum idle time of a connection of MariaDB or MySQL.
fn idle_time(idle: Duration) -> Duration {
    let usual = Duration::from_mins(10);
    if idle.is_zero() { usual } else { (idle / 2).min(usual) }
}

async fn open_sqlite(settings: &DatabaseSettings, watch: &Watch, reading: u32) -> Result<Pools, DbErr> {
    let lock = if settings.limits.lock.is_zero() { Duration::from_hours(1) } else { settings.limits.lock };
    let options = match &settings.file {
        // Not as a URL, where `?` and `%` have a special meaning that they do not have in file names.
        Some(file) => SqliteConnectOptions::new().filename(file).create_if_missing(true),
        None => settings.url.parse().map_err(failed)?,
    };
    let options = options
        .disable_statement_logging()
        .foreign_keys(true)
        .journal_mode(SqliteJournalMode::Wal)
        // A commit is on disk before it is answered, as on the other databases.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(lock);
    if settings.file.is_none() {
        let pool = pool_of(1, watch).min_connections(1).idle_timeout(None).max_lifetime(None);
        let pool = pool.connect_with(options).await.map_err(failed)?;
        let only = SqlxSqliteConnector::from_sqlx_sqlite_pool(pool);
        return Ok(Pools { reading: only.clone(), writing: only.clone(), health: only });
    }
    let first = pool_of(reading, watch).connect_with(options.clone()).await.map_err(failed)?;
    // A single statement waits here for the preceding transaction, so the limit is the one for locks.
    let wait = ACQUIRE.max(lock);
    let one = || pool_of(1, watch).acquire_timeout(wait).connect_lazy_with(options.clone());
    Ok(Pools {
        reading: SqlxSqliteConnector::from_sqlx_sqlite_pool(first),
        writing: SqlxSqliteConnector::from_sqlx_sqlite_pool(one()),
        health: SqlxSqliteConnector::from_sqlx_sqlite_pool(one()),
    })
}

fn failed(error: sqlx::Error) -> DbErr {
    DbErr::Conn(RuntimeErr::SqlxError(error.into()))
}

/// A pool whose connections are tested before use and checked after it.
fn pool_of<DB: sqlx::Database>(most: u32, watch: &Watch) -> PoolOptions<DB> {
    let (before, after) = (watch.clone(), watch.clone());
    PoolOptions::new()
        .max_connections(most)
        .acquire_timeout(ACQUIRE)
        .test_before_acquire(false)
        .before_acquire(move |connection, about| {
            let watch = before.clone();
            Box::pin(async move { is_usable::<DB>(connection, &about, &watch).await })
        })
        .after_release(move |connection, about| {
            let watch = after.clone();
            Box::pin(async move { is_clean::<DB>(connection, &about, &watch).await })
        })
}

/// Whether an idle connection still works. An error closes it without the usual shutdown, which would not reach a dead
/// peer.
async fn is_usable<DB: sqlx::Database>(
    connection: &mut DB::Connection,
    about: &PoolConnectionMetadata,
    watch: &Watch,
) -> Result<bool, sqlx::Error> {
    if !watch.trusts(about.age) {
        return Ok(false);
    }
    if about.idle_for > RECENT && timeout(PING, connection.ping()).await.map_or(true, |answer| answer.is_err()) {
        // The other connections are as old, and testing each of them would take as long.
        watch.distrust();
        return Ok(false);
    }
    Ok(true)
}

/// Whether a connection may return to its pool: a transaction may be open on it, for example after a failed rollback.
/// SQLite ends a transaction automatically when the disk is full; the driver then treats the next transaction as part
/// of the ended one and would never commit it.
async fn is_clean<DB: sqlx::Database>(
    connection: &mut DB::Connection,
    about: &PoolConnectionMetadata,
    watch: &Watch,
) -> Result<bool, sqlx::Error> {
    if connection.is_in_transaction() {
        // A rollback may be in progress; the answer follows after it.
        timeout(PING, connection.ping()).await.map_err(|_| sqlx::Error::PoolTimedOut)??;
    }
    Ok(watch.trusts(about.age) && !connection.is_in_transaction())
}

/// Sets the limits in a session of PostgreSQL. Settings that a server does not know are skipped.
fn postgres_session(limits: &DatabaseLimits) -> String {
    let milliseconds = |limit: Duration| limit.as_millis();
    let network = limits.network.as_secs();
    let mut wanted = vec![
        ("lock_timeout", milliseconds(limits.lock)),
        ("idle_in_transaction_session_timeout", milliseconds(limits.idle)),
        ("statement_timeout", milliseconds(limits.statement)),
    ];
    if network > 0 {
        // The server probes a silent peer up to three times, beginning after half of the time.
        let interval = u128::from((network / 6).max(1));
        wanted.extend([
            ("tcp_keepalives_idle", u128::from((network / 2).max(1))),
            ("tcp_keepalives_interval", interval),
            ("tcp_keepalives_count", 3),
            ("tcp_user_timeout", milliseconds(limits.network)),
        ]);
    }
    let values: Vec<String> = wanted.iter().map(|(name, value)| format!("('{name}', '{value}')")).collect();
    format!(
        "SELECT set_config(known.name, wanted.value, false) FROM pg_catalog.pg_settings AS known \
         JOIN (VALUES {}) AS wanted (name, value) ON wanted.name = known.name",
        values.join(", ")
    )
}

/// Sets isolation and limits in a session of MariaDB or MySQL.
async fn prepare_mysql(connection: &mut MySqlConnection, limits: &DatabaseLimits) -> Result<(), sqlx::Error> {
    // Every transaction begins with a lock; its later reads must see the state after the wait for the lock, not before
    // it.
    connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
    for alternatives in mysql_session(limits) {
        for set in alternatives {
            match connection.execute(AssertSqlSafe(set)).await {
                Ok(_) => break,
                // MariaDB, MySQL and their versions know different settings; the next alternative does the same.
                Err(error) if is_unknown_variable(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Statements that set the limits; the first statement of each group that the server knows is used.
fn mysql_session(limits: &DatabaseLimits) -> Vec<Vec<String>> {
    let mut groups = Vec::new();
    let seconds = |limit: Duration| limit.as_secs();
    if !limits.lock.is_zero() {
        let lock = seconds(limits.lock);
        groups.push(vec![format!("SET SESSION innodb_lock_wait_timeout = {lock}, SESSION lock_wait_timeout = {lock}")]);
    }
    if !limits.idle.is_zero() {
        let idle = seconds(limits.idle);
        groups.push(vec![
            format!("SET SESSION idle_transaction_timeout = {idle}"),
            format!("SET SESSION wait_timeout = {idle}"),
        ]);
    }
    if !limits.statement.is_zero() {
        groups.push(vec![
            format!("SET SESSION max_statement_time = {}", seconds(limits.statement)),
            format!("SET SESSION max_execution_time = {}", limits.statement.as_millis()),
        ]);
    }
    if !limits.network.is_zero() {
        let network = seconds(limits.network);
        groups.push(vec![format!("SET SESSION net_read_timeout = {network}, SESSION net_write_timeout = {network}")]);
    }
    groups
}

fn is_unknown_variable(error: &sqlx::Error) -> bool {
    const UNKNOWN_SYSTEM_VARIABLE: u16 = 1193;
    let number = error.as_database_error().and_then(|error| {
        error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>().map(sqlx::mysql::MySqlDatabaseError::number)
    });
    number == Some(UNKNOWN_SYSTEM_VARIABLE)
}
