//! The connection to the database, alike on SQLite, PostgreSQL and MariaDB/MySQL.
//!
//! Reads take any connection of the pool. Writes that belong together begin with [`Database::begin`]; on SQLite,
//! which has one writer, they queue up fairly inside the process instead of failing when the file is busy.

mod migrate;
mod snapshot;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sea_orm::sea_query::{Expr, ExprTrait, Func, LikeExpr, SimpleExpr};
use sea_orm::{
    ColumnTrait, ConnectOptions, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr,
    TransactionOptions, TransactionTrait,
};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::config::{DatabaseKind, DatabaseSettings};

pub use snapshot::{Reader, Snapshot};

/// Shared by everything that reads or writes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Database {
    connection: DatabaseConnection,
    reader: Reader,
    /// Held by the one writer of an SQLite file.
    gate: Option<Arc<Mutex<()>>>,
    /// Goes up with each commit of this process.
    changes: Arc<AtomicU64>,
}

/// A transaction that writes. Dropped without [`WriteTransaction::commit`] it changes nothing.
pub struct WriteTransaction {
    transaction: DatabaseTransaction,
    // After `transaction`: a dropped transaction rolls back before the next writer is let in.
    _turn: Option<OwnedMutexGuard<()>>,
    changes: Arc<AtomicU64>,
}

impl std::ops::Deref for WriteTransaction {
    type Target = DatabaseTransaction;

    fn deref(&self) -> &DatabaseTransaction {
        &self.transaction
    }
}

impl WriteTransaction {
    /// Makes the changes permanent and visible.
    ///
    /// # Errors
    /// When the database cannot; nothing has changed then.
    pub async fn commit(self) -> Result<(), DbErr> {
        let outcome = self.transaction.commit().await;
        self.changes.fetch_add(1, Ordering::Release);
        outcome
    }
}

impl Database {
    /// Opens the pool; the database must be there, its tables need not.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn connect(settings: &DatabaseSettings) -> Result<Self, DbErr> {
        let mut options = ConnectOptions::new(&settings.url);
        options
            .sqlx_logging(false)
            .connect_timeout(Duration::from_secs(5))
            .acquire_timeout(Duration::from_secs(10))
            // One that was used a moment ago is there; asking each time costs a round trip a statement.
            .test_before_acquire_if_idle_for(Duration::from_secs(1))
            .max_connections(16);
        match settings.kind {
            DatabaseKind::Sqlite => {
                if settings.file.is_none() {
                    // Each connection to `:memory:` is a database of its own.
                    options
                        .max_connections(1)
                        .min_connections(1)
                        .idle_timeout(None::<Duration>)
                        .max_lifetime(None::<Duration>);
                }
                if let Some(file) = &settings.file {
                    keep_private(file);
                }
                options.map_sqlx_sqlite_opts(|options| {
                    options
                        .foreign_keys(true)
                        .journal_mode(sea_orm::sqlx::sqlite::SqliteJournalMode::Wal)
                        .synchronous(sea_orm::sqlx::sqlite::SqliteSynchronous::Normal)
                        .busy_timeout(Duration::from_secs(30))
                });
            }
            // Every transaction begins with a lock; what it reads afterwards must be what is there after the wait,
            // not what was there before it.
            DatabaseKind::Mysql => {
                options.after_connect(|connection| {
                    Box::pin(async move {
                        connection
                            .execute_unprepared("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
                            .await
                            .map(|_| ())
                    })
                });
            }
            DatabaseKind::Postgres => {}
        }
        let gate = (settings.kind == DatabaseKind::Sqlite).then(|| Arc::new(Mutex::new(())));
        let connection = sea_orm::Database::connect(options).await?;
        Ok(Self { reader: Reader::Pool(connection.clone()), connection, gate, changes: Arc::default() })
    }

    /// For single statements that stand alone. What is read with several and shown together is read with
    /// [`Database::snapshot`].
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Which of the three it is.
    #[must_use]
    pub fn backend(&self) -> DbBackend {
        self.connection.get_database_backend()
    }

    /// Begins a transaction that will write.
    ///
    /// # Errors
    /// When the database cannot be reached, or this is a snapshot.
    pub async fn begin(&self) -> Result<WriteTransaction, DbErr> {
        self.check_writable()?;
        let turn = match &self.gate {
            Some(gate) => Some(Arc::clone(gate).lock_owned().await),
            None => None,
        };
        let options = TransactionOptions {
            // A transaction that reads first and writes later could not be upgraded while another one writes.
            sqlite_transaction_mode: Some(sea_orm::SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let transaction = self.connection.begin_with_options(options).await?;
        Ok(WriteTransaction { transaction, _turn: turn, changes: Arc::clone(&self.changes) })
    }

    /// A number that is another one after anything was written through [`Self::begin`] in this process.
    #[must_use]
    pub fn change(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), DbErr> {
        self.connection.execute_unprepared("SELECT 1").await.map(|_| ())
    }
}

/// Makes a new database file so that only its owner reads it: names, birth dates and hashes are in it. SQLite gives the
/// files beside it the same mode.
fn keep_private(file: &std::path::Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // One that is there keeps the mode that somebody gave it; one that cannot be made is told of when it is opened.
        drop(std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file));
    }
}

/// Whether a transaction lost against another one through no fault of its own and may simply be done again:
/// a deadlock or a lock that was not had in time.
#[must_use]
pub fn is_transient(error: &DbErr) -> bool {
    // What it referred to was taken away meanwhile: what is there now may do.
    if matches!(error.sql_err(), Some(sea_orm::SqlErr::ForeignKeyConstraintViolation(_))) {
        return true;
    }
    let text = error.to_string();
    ["deadlock", "Deadlock", "could not serialize", "Lock wait timeout", "database is locked", "Record has changed"]
        .iter()
        .any(|sign| text.contains(sign))
}

/// Whether a unique constraint refused the row.
#[must_use]
pub fn is_duplicate(error: &DbErr) -> bool {
    matches!(error.sql_err(), Some(sea_orm::SqlErr::UniqueConstraintViolation(_)))
}

/// A text as `lower()` of a database may give it: in PostgreSQL and MariaDB of all letters, in SQLite of a to z only. What is the same
/// on the first two is found on the third when it is written in small letters, or as it is kept.
#[must_use]
pub fn folded(text: &str) -> [String; 2] {
    let text = text.trim().replace('\0', "\u{fffd}");
    [text.to_lowercase(), text.to_ascii_lowercase()]
}

/// That a text contains another one, in any case, alike on the three databases. `%` and `_` in what people type are just characters.
#[must_use]
pub fn contains(column: impl ColumnTrait, text: &str) -> SimpleExpr {
    let like = |text: &str| {
        let escaped = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        let pattern = LikeExpr::new(format!("%{escaped}%")).escape('\\');
        Expr::expr(Func::lower(Expr::col(column.as_column_ref()))).like(pattern)
    };
    // Not trimmed: a blank may be what is looked for.
    let text = text.replace('\0', "\u{fffd}");
    let (small, kept) = (text.to_lowercase(), text.to_ascii_lowercase());
    if small == kept { like(&small) } else { like(&small).or(like(&kept)) }
}
