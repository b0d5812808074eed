//! The schema: migration, status and deletion.
//!
//! If several servers start together, one migrates and the others wait. A server that is killed while it migrates
//! leaves no changes on PostgreSQL and SQLite, but a partial migration on MariaDB and MySQL, which commit each change
//! of a table immediately. The next start runs that migration again; its steps skip existing elements
//! (`migration::steps`).

use migration::{Migrator, MigratorTrait};
use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, Statement, TransactionOptions, TransactionTrait,
};

use super::Database;

/// Any number that nothing else on the database server uses as an advisory lock.
const MIGRATION_LOCK: i64 = 7_310_821;

/// Maximum time that a server waits for another one that migrates, in seconds.
const WAIT_FOR_ANOTHER: u32 = 120;

impl Database {
    /// Applies the missing migrations. If several servers start together, one migrates and the others wait.
    ///
    /// # Errors
    /// If a migration fails, or if tables of another program have the same names as ours: those are left unchanged.
    /// After a migration that failed or was interrupted, calling this again continues it.
    pub async fn migrate(&self) -> Result<(), DbErr> {
        self.refuse_later_version().await?;
        self.refuse_another_program().await?;
        let _turn = match &self.gate {
            Some(gate) => Some(gate.lock().await),
            None => None,
        };
        if self.backend() == DbBackend::Sqlite {
            return self.migrate_sqlite().await;
        }
        let unlimited = self.without_limits().await?;
        let outcome = match self.backend() {
            DbBackend::Postgres => unlimited.migrate_postgres().await,
            _ => unlimited.migrate_mysql().await,
        };
        unlimited.close().await;
        outcome
    }

    /// Refuses to migrate tables of a later version, which have migrations that this program does not know. Nothing
    /// would be changed anyway, but this explains why.
    async fn refuse_later_version(&self) -> Result<(), DbErr> {
        let Some(newest) = migration::migration_of_later_version(&self.connection).await? else { return Ok(()) };
        Err(DbErr::Custom(format!(
            "its tables belong to a later version of Study Governor ({newest}); install that version, or restore a backup that was made \
             before the upgrade. Nothing was changed"
        )))
    }

    /// Version 8.1 and other programs have tables of the same names; a migration must not add our tables to theirs.
    async fn refuse_another_program(&self) -> Result<(), DbErr> {
        let Some(table) = migration::table_of_another_program(&self.connection).await? else { return Ok(()) };
        Err(DbErr::Custom(format!(
            "it contains tables of another program, such as Study Governor 8.1 (for example {table}), whose data \
            cannot be migrated yet; nothing was changed, use an empty database"
        )))
    }

    /// The lock belongs to the transaction and is released when that ends, whether or not it succeeds.
    async fn migrate_postgres(&self) -> Result<(), DbErr> {
        let transaction = self.connection.begin().await?;
        transaction.execute_unprepared(&format!("SET LOCAL lock_timeout = '{WAIT_FOR_ANOTHER}s'")).await?;
        // Creating an index on a large table may take long.
        transaction.execute_unprepared("SET LOCAL statement_timeout = 0").await?;
        let lock = format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})");
        transaction.execute_unprepared(&lock).await.map_err(|error| {
            match error.to_string().contains("lock timeout") {
                true => another_server_migrates(),
                false => error,
            }
        })?;
        Migrator::up(&transaction, None).await?;
        transaction.commit().await
    }

    async fn migrate_mysql(&self) -> Result<(), DbErr> {
        let session = self.lock_mysql().await?;
        let outcome = Migrator::up(&session, None).await;
        finish_mysql(session, outcome).await
    }

    /// Opens a session of MariaDB or MySQL that holds the lock. All statements of a migration use this session: if the
    /// server is killed, the lock is released only when the running statement has ended.
    async fn lock_mysql(&self) -> Result<DatabaseTransaction, DbErr> {
        let session = self.connection.begin().await?;
        let lock = format!("SELECT GET_LOCK('studygovernor_migration_{MIGRATION_LOCK}', {WAIT_FOR_ANOTHER}) AS got");
        let row = session.query_one_raw(Statement::from_string(DbBackend::MySql, lock)).await?;
        let got: Option<i64> = row.and_then(|row| row.try_get("", "got").ok());
        if got == Some(1) { Ok(session) } else { Err(another_server_migrates()) }
    }

    /// The single writer of the file serves as the lock: a second server waits for the busy timeout and then finds
    /// nothing to do.
    async fn migrate_sqlite(&self) -> Result<(), DbErr> {
        if Migrator::get_migration_with_status_read_only(&self.connection)
            .await
            .is_ok_and(|all| all.iter().all(|one| one.status() == sea_orm_migration::MigrationStatus::Applied))
        {
            return Ok(());
        }
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(sea_orm::SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let transaction = self.connection.begin_with_options(options).await?;
        Migrator::up(&transaction, None).await?;
        transaction.commit().await
    }

    /// Lists the migrations and whether each is applied.
    ///
    /// # Errors
    /// If the database cannot be read, or its tables belong to a later version.
    pub async fn migration_status(&self) -> Result<Vec<(String, bool)>, DbErr> {
        self.refuse_later_version().await?;
        let all = Migrator::get_migration_with_status_read_only(&self.connection).await?;
        let applied = sea_orm_migration::MigrationStatus::Applied;
        Ok(all.iter().map(|one| (one.name().to_owned(), one.status() == applied)).collect())
    }

    /// Deletes all tables with their data. After an interruption, calling this again continues it.
    pub async fn clean(&self) -> Result<(), DbErr> {
        if self.backend() == DbBackend::Sqlite {
            // On one connection: other connections of the pool would still know a dropped index, and refuse to create
            // one with that name.
            let transaction = self.begin().await?;
            Migrator::down(&transaction.inner, None).await?;
            return transaction.commit().await;
        }
        let unlimited = self.without_limits().await?;
        let outcome = unlimited.clean_server().await;
        unlimited.close().await;
        outcome
    }

    async fn clean_server(&self) -> Result<(), DbErr> {
        match self.backend() {
            DbBackend::Postgres => Migrator::down(&self.connection, None).await,
            _ => {
                let session = self.lock_mysql().await?;
                let outcome = Migrator::down(&session, None).await;
                finish_mysql(session, outcome).await
            }
        }
    }
}

/// Releases the lock, also after a failure, because the session returns to the pool.
async fn finish_mysql(session: DatabaseTransaction, outcome: Result<(), DbErr>) -> Result<(), DbErr> {
    let ended = match outcome {
        // Commits the rows that were changed after the last change of a table.
        Ok(()) => session.execute_unprepared("COMMIT").await.map(|_| ()),
        Err(error) => Err(error),
    };
    let release = format!("SELECT RELEASE_LOCK('studygovernor_migration_{MIGRATION_LOCK}')");
    session.execute_unprepared(&release).await?;
    session.rollback().await?;
    ended
}

fn another_server_migrates() -> DbErr {
    DbErr::Custom("another server has been migrating the database for two minutes".to_owned())
}
