//! People: an account is made → logs in → does what its roles permit → is deactivated, never deleted.
//!
//! [`Accounts`] is the door: who somebody is ([`Accounts::verify`], [`Accounts::log_in`], [`Accounts::bearer`]), and
//! every change of accounts, roles and tokens.

mod login;
mod manage;
mod password;
mod permission;
mod token;
mod user;

use crate::clock::Clock;
use crate::database::Database;

pub use login::LoginError;
pub use manage::{RoleRecord, UserChanges, has_admin, record_reset, replace_roles, revoke_tokens};
pub use password::{PasswordError, Passwords};
pub use permission::Permission;
pub use token::{NewToken, Token};
pub use user::{AccountError, NewUser, User, ensure_admin, ensure_roles};

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Accounts {
    database: Database,
    passwords: Passwords,
    clock: Clock,
    logins: login::Logins,
}

impl Accounts {
    #[must_use]
    pub fn new(database: Database, passwords: Passwords, clock: Clock) -> Self {
        Self { database, passwords, clock, logins: login::Logins::default() }
    }

    #[must_use]
    pub fn passwords(&self) -> &Passwords {
        &self.passwords
    }
}
