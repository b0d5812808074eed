//! The connection to the database, with the same behaviour on SQLite, PostgreSQL and MariaDB/MySQL.
//!
//! Reads and writes use separate pools ([`pool`]), and every wait has a limit (E14). Writes that belong together begin
//! with [`Database::begin`]; on SQLite, which has one writer, they queue up fairly inside the process instead of
//! failing when the file is busy. A connection whose transaction failed is not used again (E15). [`Failure`] classifies
//! errors for callers.

mod clock_reset;
mod counted;
mod failure;
mod file;
mod health;
mod migrate;
mod pool;
mod snapshot;
mod time;
mod transaction;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use sea_orm::sea_query::{Expr, ExprTrait, Func, LikeExpr, SimpleExpr};
use sea_orm::{ColumnTrait, ConnectionTrait, DatabaseConnection, DbBackend, DbErr, Statement, TransactionOptions};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;

use crate::config::{DatabaseKind, DatabaseLimits, DatabaseSettings};

use counted::Counted;
use file::DatabaseFile;
use transaction::Turn;
use watch::Watch;

pub use counted::{Commits, counting_commits};
pub use failure::{Failure, is_duplicate, is_transient, is_unwritable};
pub use health::Unready;
pub use snapshot::{Reader, Snapshot};
pub use time::{clock_problems, keep_time};
pub use transaction::{Connections, Transaction, WriteTransaction};

/// The database handle, shared by everything that reads or writes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Database {
    /// The pool for reading, without the time limits of [`Connections`].
    connection: DatabaseConnection,
    reader: Reader,
    writer: Connections,
    health: DatabaseConnection,
    /// Held by the one writer of an SQLite file.
    gate: Option<Arc<Mutex<()>>>,
    /// Connections of the other databases that requests may hold for writing; a few more are reserved for maintenance.
    slots: Arc<Semaphore>,
    watch: Watch,
    settings: Arc<DatabaseSettings>,
    /// Whether the server supports skipping locked rows.
    skips_locked: bool,
    /// Allows one test of writing at a time.
    testing: Arc<Mutex<()>>,
}

/// Connections for writing that are reserved for maintenance: sweeps, heartbeats and the test of writing.
const RESERVE: u32 = 3;

impl Database {
    /// Opens the pools; the database must exist, its tables need not.
    pub async fn connect(settings: &DatabaseSettings) -> Result<Self, DbErr> {
        if let Some(file) = &settings.file {
            keep_private(file);
        }
        let watch = Watch::default();
        let pools = pool::open(settings, &watch).await?;
        if let Some(file) = settings.file.as_deref().and_then(DatabaseFile::new) {
            watch.look_at(file);
        }
        let gate = (settings.kind == DatabaseKind::Sqlite).then(|| Arc::new(Mutex::new(())));
        let writers = pool::writers(&settings.limits);
        let slots = Ord::max(writers.saturating_sub(RESERVE), 1);
        let patience = patience(settings);
        Ok(Self {
            reader: Reader::Pool(Connections::new(pools.reading.clone(), watch.clone(), patience)),
            writer: Connections::new(pools.writing, watch.clone(), patience),
            skips_locked: skips_locked(&pools.reading).await?,
            connection: pools.reading,
            health: pools.health,
            gate,
            slots: Arc::new(Semaphore::new(usize::try_from(slots).unwrap_or(1))),
            watch,
            settings: Arc::new(settings.clone()),
            testing: Arc::default(),
        })
    }

    /// For single, independent statements that read. Use [`Database::snapshot`] if several statements are read and
    /// shown together.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// For single, independent statements that write.
    #[must_use]
    pub fn writer(&self) -> &Connections {
        &self.writer
    }

    /// The kind of database.
    #[must_use]
    pub fn backend(&self) -> DbBackend {
        self.connection.get_database_backend()
    }

    /// The maximum time to wait for a lock; an unlimited wait counts as an hour.
    #[must_use]
    pub fn lock_limit(&self) -> Duration {
        let lock = self.settings.limits.lock;
        if lock.is_zero() { Duration::from_hours(1) } else { lock }
    }

    /// Whether `SKIP LOCKED` is supported. False on SQLite, which does not lock rows.
    #[must_use]
    pub fn skips_locked(&self) -> bool {
        self.skips_locked
    }

    /// Begins a transaction that will write.
    ///
    /// # Errors
    /// If this is a snapshot, if the database cannot be reached, or if too many other transactions are open for longer
    /// than [`Self::lock_limit`].
    pub async fn begin(&self) -> Result<WriteTransaction, DbErr> {
        self.check_writable()?;
        let turn = match self.gate {
            Some(_) => self.file_turn().await?,
            None => {
                let slot = timeout(self.lock_limit(), Arc::clone(&self.slots).acquire_owned()).await;
                let slot = slot.map_err(|_| failure::waited(self.lock_limit().as_secs()))?;
                Turn::Slot { _permit: slot.map_err(|error| DbErr::Custom(error.to_string()))? }
            }
        };
        self.begin_with(turn, Counted::here(&self.writer, self.lock_limit())).await
    }

    /// Like [`Self::begin`], on one of the connections that are reserved for maintenance.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub async fn begin_maintenance(&self) -> Result<WriteTransaction, DbErr> {
        let turn = if self.gate.is_some() { self.file_turn().await? } else { Turn::Reserve };
        self.begin_with(turn, None).await
    }

    async fn file_turn(&self) -> Result<Turn, DbErr> {
        let Some(gate) = &self.gate else { return Ok(Turn::Reserve) };
        // The writers ahead in the queue may each wait for another process.
        let limit = self.lock_limit() * 2;
        let guard = timeout(limit, Arc::clone(gate).lock_owned()).await;
        guard.map(|guard| Turn::File { _guard: guard }).map_err(|_| failure::waited(limit.as_secs()))
    }

    async fn begin_with(&self, turn: Turn, counted: Option<Counted>) -> Result<WriteTransaction, DbErr> {
        self.watch.check_file()?;
        let options = TransactionOptions {
            // A deferred transaction that reads first and writes later could not be upgraded while another one writes.
            sqlite_transaction_mode: Some(sea_orm::SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        Ok(WriteTransaction::new(self.writer.begin(options).await?, turn, counted))
    }

    /// Checks that the database answers.
    pub async fn ping(&self) -> Result<(), DbErr> {
        self.reader.execute_unprepared("SELECT 1").await.map(|_| ())
    }

    /// A number that changes whenever anything was written through [`Self::begin`] in this process.
    #[must_use]
    pub fn change(&self) -> u64 {
        self.watch.changes()
    }

    /// The same database on separate connections without time limits.
    async fn without_limits(&self) -> Result<Self, DbErr> {
        let none = Duration::ZERO;
        let limits = DatabaseLimits { lock: none, idle: none, statement: none, ..self.settings.limits };
        Self::connect(&DatabaseSettings { limits, ..(*self.settings).clone() }).await
    }

    /// Closes the pools. Connections in use are closed when they are released.
    async fn close(self) {
        self.writer.close().await;
        for pool in [self.connection, self.health] {
            // Only fails for other kinds of connections.
            let _ = pool.close().await;
        }
    }
}

/// Creates a new database file that only its owner can read: it contains names, birth dates and hashes. SQLite gives
/// its additional files the same mode.
fn keep_private(file: &std::path::Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // An existing file keeps its mode; a file that cannot be created causes an error when it is opened.
        drop(std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file));
    }
}

/// Client-side limit for the answer to a statement: somewhat longer than the server's limit, so that the server can
/// report the reason.
fn patience(settings: &DatabaseSettings) -> Option<Duration> {
    const MARGIN: Duration = Duration::from_secs(15);
    let statement = settings.limits.statement;
    (!statement.is_zero() && settings.kind != DatabaseKind::Sqlite).then(|| statement + MARGIN)
}

/// Whether the server supports `SKIP LOCKED`: PostgreSQL, MySQL 8 and MariaDB 10.6 do.
async fn skips_locked(connection: &DatabaseConnection) -> Result<bool, DbErr> {
    match connection.get_database_backend() {
        DbBackend::Sqlite => return Ok(false),
        DbBackend::MySql => {}
        _ => return Ok(true),
    }
    let query = Statement::from_string(DbBackend::MySql, "SELECT VERSION() AS version");
    let row = connection.query_one_raw(query).await?;
    let version: String = row.map(|row| row.try_get("", "version")).transpose()?.unwrap_or_default();
    Ok(is_new_enough(&version))
}

/// `version` is, for example, `8.0.36` or `10.11.6-MariaDB-0+deb12u1`.
fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split(|sign: char| !sign.is_ascii_digit()).filter_map(|part| part.parse::<u32>().ok());
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version.contains("MariaDB") { found >= (10, 6) } else { found >= (8, 0) }
}

/// Both texts that `lower()` may return: PostgreSQL and MariaDB convert all letters, SQLite only a to z. Texts that are
/// equal on the first two are found on SQLite if they are written in lower case, or exactly as stored.
#[must_use]
pub fn folded(text: &str) -> [String; 2] {
    let text = text.trim().replace('\0', "\u{fffd}");
    [text.to_lowercase(), text.to_ascii_lowercase()]
}

/// Condition that a column contains a text, ignoring case, with the same behaviour on all three databases. `%` and `_`
/// in the text have no special meaning.
#[must_use]
pub fn contains(column: impl ColumnTrait, text: &str) -> SimpleExpr {
    let like = |text: &str| {
        let escaped = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        let pattern = LikeExpr::new(format!("%{escaped}%")).escape('\\');
        Expr::expr(Func::lower(Expr::col(column.as_column_ref()))).like(pattern)
    };
    // Not trimmed: the user may search for a blank.
    let text = text.replace('\0', "\u{fffd}");
    let (small, kept) = (text.to_lowercase(), text.to_ascii_lowercase());
    if small == kept { like(&small) } else { like(&small).or(like(&kept)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_skip_locked_rows_are_known_by_their_version() {
        for (version, wanted) in
            [("8.0.36", true), ("5.7.44-log", false), ("10.11.6-MariaDB-0+deb12u1", true), ("10.5.23-MariaDB", false)]
        {
            assert_eq!(is_new_enough(version), wanted, "{version}");
        }
    }
}
