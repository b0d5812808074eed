//! `studygovernor user …`

use std::collections::BTreeSet;
use std::io::{BufRead, IsTerminal};

use clap::{Args, Subcommand};

use crate::account::{NewUser, UserChanges};
use crate::context::Context;

use super::console::err;
use super::{Failure, started_app};

/// Manage accounts
#[derive(Subcommand)]
pub(super) enum User {
    Create(Create),
    Password(Password),
}

/// Create an account (reads the password from stdin)
#[derive(Args)]
pub(super) struct Create {
    /// User name
    username: String,
    /// E-mail address [default: USERNAME@localhost]
    #[arg(long)]
    email: Option<String>,
    /// Full name [default: the user name]
    #[arg(long)]
    name: Option<String>,
    /// Role; can be given several times
    #[arg(long = "role", value_name = "ROLE", default_value = "user")]
    roles: Vec<String>,
    /// Create the account inactive, pending approval
    #[arg(long)]
    inactive: bool,
}

/// Set a new password for an account (reads it from stdin)
///
/// Ends all sessions and revokes all tokens and links of the account. Use this when e-mail is not available or an
/// administrator is locked out.
#[derive(Args)]
pub(super) struct Password {
    /// User name or e-mail address
    login: String,
    /// Also activate the account
    #[arg(long)]
    activate: bool,
}

impl User {
    pub(super) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Create(create) => create.run(ctx).await,
            Self::Password(password) => password.run(ctx).await,
        }
    }
}

impl Password {
    async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let app = started_app(ctx).await?;
        let found = app.accounts.by_login(&self.login).await.map_err(Failure::because)?;
        let Some(row) = found else { return Err(Failure::Failed(format!("unknown user '{}'", self.login))) };
        let password = read_password()?;
        let own = [row.username.as_str(), row.name.as_str(), row.email.as_str()];
        if let Some(problem) = app.accounts.judge(&password, &own).problem {
            err(&format!("warning: this password {problem}"));
        }
        let active = self.activate.then_some(true);
        let changes = UserChanges { password: Some(password), active, ..UserChanges::default() };
        let row = app.accounts.update(ctx, row.id, changes, |_| true).await.map_err(Failure::because)?;
        let then = if row.active { "can now log in" } else { "is not active; use --activate to activate the account" };
        err(&format!("password set; {} {then}", row.username));
        Ok(())
    }
}

impl Create {
    async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let app = started_app(ctx).await?;
        let password = read_password()?;
        let new = NewUser {
            name: self.name.unwrap_or_else(|| self.username.clone()),
            email: self.email.unwrap_or_else(|| format!("{}@localhost", self.username)),
            username: self.username.clone(),
            password: password.clone(),
            active: !self.inactive,
            roles: self.roles,
            cohorts: BTreeSet::new(),
        };
        let own = [new.username.as_str(), new.name.as_str(), new.email.as_str()];
        if let Some(problem) = app.accounts.judge(&password, &own).problem {
            err(&format!("warning: this password {problem}"));
        }
        app.accounts.create(ctx, &new).await.map_err(Failure::because)?;
        let then = if new.active {
            "can now log in"
        } else {
            "can log in after an administrator activates the \
            account"
        };
        err(&format!("{} {then}", new.username));
        Ok(())
    }
}

/// Reads a line from stdin. Passwords are not arguments: other users of the machine can see those, and shells store
/// them.
fn read_password() -> Result<String, Failure> {
    let line = if std::io::stdin().is_terminal() {
        let typed = rpassword::prompt_password("Password (hidden): ").map_err(Failure::because)?;
        // The input is hidden, so typing errors go unnoticed.
        if rpassword::prompt_password("Repeat password: ").map_err(Failure::because)? != typed {
            return Err(Failure::Usage("the passwords do not match".to_owned()));
        }
        typed
    } else {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map_err(Failure::because)?;
        line
    };
    let password = line.trim_end_matches(['\r', '\n']).to_owned();
    if password.is_empty() {
        return Err(Failure::Usage("no password on stdin".to_owned()));
    }
    Ok(password)
}
