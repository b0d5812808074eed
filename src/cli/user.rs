//! `studygovernor user …`

use std::collections::BTreeSet;
use std::io::{BufRead, IsTerminal};

use clap::{Args, Subcommand};

use crate::account::NewUser;

use super::console::err;
use super::{Failure, started_app};

/// Look after accounts
#[derive(Subcommand)]
pub(super) enum User {
    Create(Create),
}

/// Make an active account; the password is read from the standard input
#[derive(Args)]
pub(super) struct Create {
    /// The name to log in with
    username: String,
    /// E-mail address [default: the name at localhost]
    #[arg(long)]
    email: Option<String>,
    /// The person's name [default: the name to log in with]
    #[arg(long)]
    name: Option<String>,
    /// A role; may be given several times
    #[arg(long = "role", value_name = "ROLE", default_value = "user")]
    roles: Vec<String>,
}

impl User {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Self::Create(create) = self;
        create.run().await
    }
}

impl Create {
    async fn run(self) -> Result<(), Failure> {
        let app = started_app().await?;
        let password = read_password()?;
        if password.chars().count() < 12 {
            err("warning: this password is short; 12 characters are hard to guess");
        }
        let new = NewUser {
            name: self.name.unwrap_or_else(|| self.username.clone()),
            email: self.email.unwrap_or_else(|| format!("{}@localhost", self.username)),
            username: self.username,
            password,
            active: true,
            roles: self.roles,
            cohorts: BTreeSet::new(),
        };
        app.accounts.create(&new).await.map_err(Failure::because)?;
        err(&format!("{} can log in now", new.username));
        Ok(())
    }
}

/// A line of the standard input. Not an argument: those are seen by everybody on the machine and kept by the shell.
fn read_password() -> Result<String, Failure> {
    if std::io::stdin().is_terminal() {
        err("Password (it is shown while you type):");
    }
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(Failure::because)?;
    let password = line.trim_end_matches(['\r', '\n']).to_owned();
    if password.is_empty() {
        return Err(Failure::Usage("no password on the standard input".to_owned()));
    }
    Ok(password)
}
