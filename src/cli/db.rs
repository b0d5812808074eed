//! `studygovernor db …`

use clap::{Args, Subcommand};

use super::console::{err, out};
use super::{Failure, connected_app};

/// Look after the database
#[derive(Subcommand)]
pub(super) enum Db {
    /// Bring the tables up to date (the server does this by itself at its start)
    Migrate,
    /// Say which migrations are applied; exit code 1 when some are not
    Status,
    Clean(Clean),
}

/// Take all tables away, with everything in them
#[derive(Args)]
pub(super) struct Clean {
    /// Really do it: everything is lost
    #[arg(long)]
    yes: bool,
}

impl Db {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Migrate => migrate().await,
            Self::Status => status().await,
            Self::Clean(clean) => clean.run().await,
        }
    }
}

async fn migrate() -> Result<(), Failure> {
    let app = connected_app().await?;
    let database = app.engine.database();
    let before = database.migration_status().await.map_err(Failure::because)?;
    database.migrate().await.map_err(Failure::because)?;
    let pending = before.iter().filter(|(_, applied)| !applied).count();
    err(&format!("{}: {pending} migrations applied", app.settings.database.shown()));
    Ok(())
}

async fn status() -> Result<(), Failure> {
    let app = connected_app().await?;
    let status = app.engine.database().migration_status().await.map_err(Failure::because)?;
    for (name, applied) in &status {
        out(&format!("{} {name}", if *applied { "applied" } else { "pending" }));
    }
    if status.iter().all(|(_, applied)| *applied) { Ok(()) } else { Err(Failure::Told) }
}

impl Clean {
    async fn run(self) -> Result<(), Failure> {
        let app = connected_app().await?;
        let shown = app.settings.database.shown();
        if !self.yes {
            return Err(Failure::Usage(format!("this takes everything out of {shown}; say --yes to do it")));
        }
        app.engine.database().clean().await.map_err(Failure::because)?;
        err(&format!("{shown} is empty now"));
        Ok(())
    }
}
