//! Statements with a time limit: single statements, and those of a transaction that writes.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult, QueryResult, Statement,
    TransactionOptions, TransactionTrait,
};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit};
use tokio::time::timeout;

use super::counted::Counted;
use super::failure::{Failure, is_constraint, is_unanswered, no_answer, uncertain};
use super::watch::Watch;

/// Runs `work` for at most `patience`. The server's own limit for statements is shorter; this one is for a server that
/// does not answer at all.
pub(super) async fn answered<T>(
    patience: Option<Duration>,
    work: impl Future<Output = Result<T, DbErr>>,
) -> Result<T, DbErr> {
    let Some(patience) = patience else { return work.await };
    timeout(patience, work).await.unwrap_or_else(|_| Err(no_answer(patience.as_secs())))
}

/// A pool of connections for single statements.
#[derive(Clone, Debug)]
pub struct Connections {
    pool: DatabaseConnection,
    watch: Watch,
    patience: Option<Duration>,
}

impl Connections {
    pub(super) fn new(pool: DatabaseConnection, watch: Watch, patience: Option<Duration>) -> Self {
        Self { pool, watch, patience }
    }

    /// Begins a transaction. If the connection is broken, for example after a restart of the server, another one is
    /// tried.
    pub(super) async fn begin(&self, options: TransactionOptions) -> Result<Transaction, DbErr> {
        let mut tries = 1;
        loop {
            match answered(self.patience, self.pool.begin_with_options(options)).await {
                Ok(inner) => return Ok(Transaction::new(inner, self.watch.clone(), self.patience)),
                Err(error) => {
                    self.watch.note(&error);
                    if Failure::of(&error) != Some(Failure::Lost) || tries == 3 {
                        return Err(error);
                    }
                    tries += 1;
                }
            }
        }
    }

    /// Closes the pool; a connection in use is closed when it is released.
    pub(super) async fn close(self) {
        // Only fails for other kinds of connections.
        let _ = self.pool.close().await;
    }

    /// Runs a statement. If the connection is broken, for example after a restart of the server, statements that only
    /// read are repeated once.
    async fn run<T, F>(&self, only_reads: bool, mut statement: impl FnMut() -> F) -> Result<T, DbErr>
    where
        F: Future<Output = Result<T, DbErr>>,
    {
        let mut outcome = answered(self.patience, statement()).await;
        if let Err(error) = &outcome {
            self.watch.note(error);
            if only_reads && Failure::of(error) == Some(Failure::Lost) {
                outcome = answered(self.patience, statement()).await;
                outcome.as_ref().err().inspect(|error| self.watch.note(error));
            }
        }
        outcome
    }
}

/// Whether a statement changes nothing and may be repeated.
fn only_reads(statement: &Statement) -> bool {
    let start = statement.sql.trim_start().get(..6).unwrap_or_default();
    start.eq_ignore_ascii_case("select")
}

#[async_trait]
impl ConnectionTrait for Connections {
    fn get_database_backend(&self) -> DbBackend {
        self.pool.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.run(false, || self.pool.execute_raw(statement.clone())).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.run(false, || self.pool.execute_unprepared(sql)).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.run(only_reads(&statement), || self.pool.query_one_raw(statement.clone())).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.run(only_reads(&statement), || self.pool.query_all_raw(statement.clone())).await
    }
}

/// The statements of a transaction.
#[derive(Debug)]
pub struct Transaction {
    pub(super) inner: DatabaseTransaction,
    watch: Watch,
    patience: Option<Duration>,
    /// The error of a statement after which the database has rolled back the transaction.
    failed: Mutex<Option<DbErr>>,
}

impl Transaction {
    fn new(inner: DatabaseTransaction, watch: Watch, patience: Option<Duration>) -> Self {
        Self { inner, watch, patience, failed: Mutex::default() }
    }

    async fn run<T>(&self, statement: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
        // MariaDB and SQLite would commit each further statement separately.
        if let Some(error) = self.failure() {
            return Err(error);
        }
        let outcome = answered(self.patience, statement).await;
        if let Err(error) = &outcome {
            self.watch.note(error);
            // PostgreSQL accepts further statements only after a rollback; the others also do so after a row that a
            // constraint rejected.
            let goes_on = is_constraint(error) && self.inner.get_database_backend() != DbBackend::Postgres;
            if !goes_on {
                *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
            }
        }
        outcome
    }

    fn failure(&self) -> Option<DbErr> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl ConnectionTrait for Transaction {
    fn get_database_backend(&self) -> DbBackend {
        self.inner.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.run(self.inner.execute_raw(statement)).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.run(self.inner.execute_unprepared(sql)).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.run(self.inner.query_one_raw(statement)).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.run(self.inner.query_all_raw(statement)).await
    }
}

/// Permission to write, released when the transaction ends.
#[derive(Debug)]
pub(super) enum Turn {
    /// The single writer of an SQLite file.
    File { _guard: OwnedMutexGuard<()> },
    /// One of the connections for requests.
    Slot { _permit: OwnedSemaphorePermit },
    /// One of the connections that are reserved for maintenance.
    Reserve,
}

/// A transaction that writes. If it is dropped without [`WriteTransaction::commit`], nothing is changed.
#[derive(Debug)]
pub struct WriteTransaction {
    statements: Transaction,
    // Dropped after `statements`: a dropped transaction begins its rollback before the next writer starts.
    turn: Turn,
    counted: Option<Counted>,
}

impl std::ops::Deref for WriteTransaction {
    type Target = Transaction;

    fn deref(&self) -> &Transaction {
        &self.statements
    }
}

impl WriteTransaction {
    pub(super) fn new(statements: Transaction, turn: Turn, counted: Option<Counted>) -> Self {
        Self { statements, turn, counted }
    }

    /// Makes the changes permanent and visible.
    ///
    /// # Errors
    /// If the commit fails. Nothing was changed then, except after [`Failure::Uncertain`]. That error is not returned
    /// if commits are counted ([`super::counting_commits`]) and the database can be reached soon afterwards: then the
    /// outcome is looked up.
    pub async fn commit(self) -> Result<(), DbErr> {
        // PostgreSQL reports success for a commit after a failed statement, but rolls back.
        if let Some(error) = self.statements.failure() {
            return Err(error);
        }
        let Self { statements, turn, counted } = self;
        if let Some(counted) = &counted {
            counted.count(&statements).await?;
        }
        let Transaction { inner, watch, patience, .. } = statements;
        let Err(error) = answered(patience, inner.commit()).await else {
            watch.committed();
            if let Some(counted) = &counted {
                counted.succeeded();
            }
            return Ok(());
        };
        let is_unknown = Failure::of(&error) == Some(Failure::Lost) || is_unanswered(&error);
        watch.distrust();
        if !is_unknown {
            watch.note(&error);
            return Err(error);
        }
        watch.note(&uncertain(&error));
        watch.may_have_changed();
        // Other writers may continue while the outcome is looked up.
        drop(turn);
        let Some(counted) = counted else { return Err(uncertain(&error)) };
        match counted.look_up().await {
            Some(true) => {
                watch.committed();
                counted.succeeded();
                Ok(())
            }
            Some(false) => Err(error),
            None => Err(uncertain(&error)),
        }
    }
}
