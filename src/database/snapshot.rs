//! Consistent reads (E13).
//!
//! Without a snapshot, a response that is built from several statements could combine data from before and after the
//! commit of another transaction. A [`Snapshot`] is a read-only transaction in which every statement sees the same
//! state: `REPEATABLE READ` on PostgreSQL and MariaDB, a deferred transaction in WAL mode on SQLite. The state is that
//! of its first statement. It takes no lock and does not wait for writers; on SQLite it does not use the gate of the
//! writers.
//!
//! A snapshot holds a connection of the pool: drop it before rendering templates or waiting for anything else, and do
//! not request a second connection while holding it.

use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::{
    AccessMode, ConnectionTrait, DbBackend, DbErr, ExecResult, IsolationLevel, QueryResult, Statement,
    TransactionOptions,
};

use crate::fault;

use super::{Connections, Database, Transaction};

/// Executes reads: on any connection of the pool, possibly another one for each statement, or on the connection of a
/// snapshot.
#[derive(Clone, Debug)]
pub enum Reader {
    Pool(Connections),
    Snapshot(Arc<Transaction>),
}

/// Evaluates an expression with the connection of either variant.
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

/// The database at one moment; see the module. Ends when the last clone is dropped.
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
    /// The database whose [`Database::reader`] is this snapshot, for code that takes a database. It refuses to write.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// [`Database::change`] before the snapshot began: totals that are counted in the snapshot are at least as new.
    #[must_use]
    pub fn change(&self) -> u64 {
        self.change
    }
}

impl Database {
    /// Begins a snapshot. If this database is a snapshot already, the same one is returned.
    pub async fn snapshot(&self) -> Result<Snapshot, DbErr> {
        let change = self.change();
        let connections = match self.reader() {
            Reader::Pool(connections) => connections.clone(),
            Reader::Snapshot(_) => return Ok(Snapshot { database: self.clone(), change }),
        };
        // In a separate task: if the caller is cancelled between the first statements, the pool would get back a
        // connection whose next transaction, of any request, is read-only.
        let begun = tokio::spawn(async move { begin(&connections).await }).await;
        let transaction = begun.map_err(|error| DbErr::Custom(format!("cannot begin a snapshot: {error}")))??;
        let database = Self { reader: Reader::Snapshot(Arc::new(transaction)), ..self.clone() };
        Ok(Snapshot { database, change })
    }

    /// # Errors
    /// If this is a snapshot.
    pub(super) fn check_writable(&self) -> Result<(), DbErr> {
        match self.reader() {
            Reader::Pool(_) => Ok(()),
            Reader::Snapshot(_) => Err(DbErr::Custom("a snapshot is read-only".to_owned())),
        }
    }
}

async fn begin(connections: &Connections) -> Result<Transaction, DbErr> {
    match connections.get_database_backend() {
        // One statement for both settings; the driver would send two.
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
        // Deferred, the default of SQLite: it does not take the lock of a writer.
        _ => connections.begin(TransactionOptions::default()).await,
    }
}
