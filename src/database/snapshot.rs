//! Reading at one moment (E13).
//!
//! An answer that is put together from several statements would otherwise show the first half as it was before another
//! transaction's commit and the second half as it is after it. A [`Snapshot`] is a read-only transaction of which every
//! statement sees the same state: `REPEATABLE READ` on PostgreSQL and MariaDB, a deferred transaction in WAL mode on
//! SQLite. The moment is that of its first statement. It takes no lock and waits for no writer; on SQLite it passes by
//! the gate of the writers.
//!
//! It holds a connection of the pool: drop it before templates are rendered or anything else is waited for, and ask for
//! no second connection while it is held.

use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::{
    AccessMode, ConnectionTrait, DbBackend, DbErr, ExecResult, IsolationLevel, QueryResult, Statement,
    TransactionOptions,
};

use crate::fault;

use super::{Connections, Database, Transaction};

/// What reads: any connection of the pool, another one for each statement, or the one of a snapshot.
#[derive(Clone, Debug)]
pub enum Reader {
    Pool(Connections),
    Snapshot(Arc<Transaction>),
}

/// Runs an expression on whichever connection it is.
macro_rules! on {
    ($reader:expr, $connection:ident => $do:expr) => {
        match $reader {
            Reader::Pool($connection) => $do,
            Reader::Snapshot($connection) => {
                let $connection = &**$connection;
                $do
            }
        }
    };
}

#[async_trait]
impl ConnectionTrait for Reader {
    fn get_database_backend(&self) -> DbBackend {
        on!(self, connection => connection.get_database_backend())
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        on!(self, connection => connection.execute_raw(statement).await)
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        on!(self, connection => connection.execute_unprepared(sql).await)
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        fault::before_read(&statement.sql).await;
        on!(self, connection => connection.query_one_raw(statement).await)
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        fault::before_read(&statement.sql).await;
        on!(self, connection => connection.query_all_raw(statement).await)
    }
}

/// The database as it was at one moment; see the module. Ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Snapshot {
    database: Database,
    change: u64,
}

#[async_trait]
impl ConnectionTrait for Snapshot {
    fn get_database_backend(&self) -> DbBackend {
        self.database.reader().get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.database.reader().execute_raw(statement).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.database.reader().execute_unprepared(sql).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.database.reader().query_one_raw(statement).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.database.reader().query_all_raw(statement).await
    }
}

impl Snapshot {
    /// The database whose [`Database::reader`] is this snapshot, for what is built on a database. It refuses to write.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// [`Database::change`] as it was before the snapshot began: what is counted in it is at least as new.
    #[must_use]
    pub fn change(&self) -> u64 {
        self.change
    }
}

impl Database {
    /// Begins to read at one moment. Of a database that reads at one moment already, the same one.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn snapshot(&self) -> Result<Snapshot, DbErr> {
        let change = self.change();
        let connections = match self.reader() {
            Reader::Pool(connections) => connections.clone(),
            Reader::Snapshot(_) => return Ok(Snapshot { database: self.clone(), change }),
        };
        // In a task of its own: a caller that goes away between the statements of the beginning would leave a connection
        // whose next transaction, of whatever request, is read-only.
        let begun = tokio::spawn(async move { begin(&connections).await }).await;
        let transaction = begun.map_err(|error| DbErr::Custom(format!("cannot begin a snapshot: {error}")))??;
        let database = Self { reader: Reader::Snapshot(Arc::new(transaction)), ..self.clone() };
        Ok(Snapshot { database, change })
    }

    /// # Errors
    /// When it is a snapshot.
    pub(super) fn check_writable(&self) -> Result<(), DbErr> {
        match self.reader() {
            Reader::Pool(_) => Ok(()),
            Reader::Snapshot(_) => Err(DbErr::Custom("a snapshot is read-only".to_owned())),
        }
    }
}

async fn begin(connections: &Connections) -> Result<Transaction, DbErr> {
    match connections.get_database_backend() {
        // Both in one statement; the driver would send two.
        DbBackend::Postgres => {
            let transaction = connections.begin(TransactionOptions::default()).await?;
            transaction.execute_unprepared("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
            Ok(transaction)
        }
        DbBackend::MySql => {
            let options = TransactionOptions {
                isolation_level: Some(IsolationLevel::RepeatableRead),
                access_mode: Some(AccessMode::ReadOnly),
                ..TransactionOptions::default()
            };
            connections.begin(options).await
        }
        // Deferred, as SQLite begins them: it takes no lock of a writer.
        _ => connections.begin(TransactionOptions::default()).await,
    }
}
