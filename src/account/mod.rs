//! People: an account is made → logs in → does what its roles permit → is deactivated, never deleted.

mod password;
mod permission;
mod user;

pub use password::{PasswordError, Passwords};
pub use permission::Permission;
pub use user::{AccountError, NewUser, User, authenticate, create, ensure_admin, ensure_roles, find_active};
