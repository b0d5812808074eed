//! People: an account is made → logs in → does what its roles permit → is deactivated, never deleted.
//!
//! [`Accounts`] is the door: who somebody is ([`Accounts::verify`], [`Accounts::log_in`], [`Accounts::bearer`]), and
//! every change of accounts, roles and tokens.

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

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Accounts {
    database: Database,
    passwords: Passwords,
    clock: Clock,
    logins: login::Logins,
    limits: limit::Limits,
    rules: Arc<Rules>,
}

/// What accounts are held to, and what their second factors are made with.
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

    /// The same accounts, read at one moment; nothing is changed with them.
    #[must_use]
    pub fn at(&self, snapshot: &Snapshot) -> Self {
        Self { database: snapshot.database().clone(), ..self.clone() }
    }

    #[must_use]
    pub fn passwords(&self) -> &Passwords {
        &self.passwords
    }
}
