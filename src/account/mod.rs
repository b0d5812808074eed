//! Accounts: an account is created → its user logs in → does what the roles permit → the account is deactivated, never
//! deleted.
//!
//! [`Accounts`] is the entry point for authentication ([`Accounts::verify`], [`Accounts::log_in`],
//! [`Accounts::bearer`]) and for every change of accounts, roles and tokens.

mod admission;
mod authenticate;
mod correction;
mod directory;
mod first;
mod limit;
mod login;
mod mailing;
mod manage;
mod password;
mod permission;
mod recovery;
mod registration;
mod role;
mod scope;
mod second_factor;
mod session;
mod strength;
mod token;
mod tries;
mod user;

use std::sync::Arc;

use crate::clock::Clock;
use crate::config::SecuritySettings;
use crate::database::{Database, Snapshot};

pub use directory::{AccountKey, AccountPlace, AccountState, Found, Wanted};
pub use first::{ensure_admin, ensure_roles};
pub use login::LoginError;
pub use mailing::{Failure, Mailing, Progress, Recipients, Written};
pub use manage::{Reset, RoleRecord, UserChanges, declined, end_access, has_admin, record_reset, replace_roles};
pub use password::{PasswordError, Passwords};
pub use permission::Permission;
pub use recovery::may_recover;
pub use registration::{Chosen, FormError, Problems, Registration, is_invited};
pub use role::RoleForm;
pub use scope::RoleCohorts;
pub use second_factor::Enrolment;
pub use session::Session;
pub use strength::Strength;
pub use token::{NewToken, Token};
pub use user::{AccountError, NewUser, User, check_unique};

/// Accounts, roles and tokens; see the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Accounts {
    database: Database,
    passwords: Passwords,
    clock: Clock,
    logins: login::Logins,
    limits: limit::Limits,
    rules: Arc<Rules>,
}

/// The rules for accounts and the values from which second factors are created.
pub struct Rules {
    pub security: SecuritySettings,
    pub secret_key: String,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Rules(…)")
    }
}

impl Accounts {
    #[must_use]
    pub fn new(database: Database, passwords: Passwords, clock: Clock, rules: Rules) -> Self {
        let (logins, limits) = (login::Logins::default(), limit::Limits::default());
        Self { database, passwords, clock, logins, limits, rules: Arc::new(rules) }
    }

    /// The same accounts, read from a snapshot; for reading only.
    #[must_use]
    pub fn at(&self, snapshot: &Snapshot) -> Self {
        Self { database: snapshot.database().clone(), ..self.clone() }
    }

    #[must_use]
    pub fn passwords(&self) -> &Passwords {
        &self.passwords
    }
}
