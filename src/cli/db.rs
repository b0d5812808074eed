//! `studygovernor db …`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use sea_orm::{ConnectionTrait, DbBackend, Statement};

use crate::app::StartError;
use crate::config::DatabaseKind;

use super::console::{err, out};
use super::{Failure, connected_app};

/// Migrate, back up and empty the database
#[derive(Subcommand)]
pub(super) enum Db {
    /// Apply pending migrations (the server does this automatically at startup)
    Migrate,
    /// List the migrations and whether they are applied; exits with 1 if any is pending
    Status,
    Backup(Backup),
    Clean(Clean),
}

/// Copy the embedded SQLite database to a new file, even while a server is running
///
/// The copy is a consistent snapshot. For PostgreSQL and MariaDB use pg_dump or mariadb-dump, see docs/guide/backup.md.
#[derive(Args)]
pub(super) struct Backup {
    /// The new file, readable only by its owner
    file: PathBuf,
}

/// Drop all tables and their data
#[derive(Args)]
pub(super) struct Clean {
    /// Confirm; all data will be lost
    #[arg(long)]
    yes: bool,
}

impl Db {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Migrate => migrate().await,
            Self::Status => status().await,
            Self::Backup(backup) => backup.run().await,
            Self::Clean(clean) => clean.run().await,
        }
    }
}

async fn migrate() -> Result<(), Failure> {
    let app = connected_app().await?;
    let database = app.engine.database();
    let before = database.migration_status().await.map_err(StartError::Migration)?;
    database.migrate().await.map_err(StartError::Migration)?;
    let pending = before.iter().filter(|(_, applied)| !applied).count();
    err(&format!("{}: {pending} migrations applied", app.settings.database.shown()));
    Ok(())
}

async fn status() -> Result<(), Failure> {
    let app = connected_app().await?;
    let status = app.engine.database().migration_status().await.map_err(StartError::Migration)?;
    for (name, applied) in &status {
        out(&format!("{} {name}", if *applied { "applied" } else { "pending" }));
    }
    if status.iter().all(|(_, applied)| *applied) { Ok(()) } else { Err(Failure::Told) }
}

impl Backup {
    async fn run(self) -> Result<(), Failure> {
        let app = connected_app().await?;
        let tool = match app.settings.database.kind {
            DatabaseKind::Sqlite => None,
            DatabaseKind::Postgres => Some("pg_dump"),
            DatabaseKind::Mysql => Some("mariadb-dump --single-transaction"),
        };
        if let Some(tool) = tool {
            return Err(Failure::Usage(format!("only SQLite databases can be copied; use {tool} for this one")));
        }
        let shown = self.file.display();
        let failed = |error: &dyn std::fmt::Display| Failure::Failed(format!("cannot write {shown}: {error}"));
        let Some(name) = self.file.to_str() else { return Err(failed(&"the file name is not valid UTF-8")) };
        // Created in advance, readable only by its owner; SQLite accepts an existing file if it is empty.
        let mut options = std::fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.write(true).create_new(true).open(&self.file).map_err(|error| failed(&error))?;
        let statement = Statement::from_sql_and_values(DbBackend::Sqlite, "VACUUM INTO ?", [name.into()]);
        if let Err(error) = app.engine.database().reader().execute_raw(statement).await {
            drop(std::fs::remove_file(&self.file));
            return Err(failed(&error));
        }
        err(&format!("copied {} to {shown}", app.settings.database.shown()));
        Ok(())
    }
}

impl Clean {
    async fn run(self) -> Result<(), Failure> {
        let app = connected_app().await?;
        let shown = app.settings.database.shown();
        if !self.yes {
            return Err(Failure::Usage(format!("this deletes all data in {shown}; use --yes to confirm")));
        }
        app.engine.database().clean().await.map_err(Failure::because)?;
        err(&format!("{shown} is now empty"));
        Ok(())
    }
}
