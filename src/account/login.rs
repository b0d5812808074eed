//! Logins by name and password: checked at a constant cost, cached briefly, and throttled after many failures.
//!
//! Checking a password takes a core for some hundredths of a second, on purpose. A script that sends its password with
//! each request would spend all its time there, so a successful login is cached for a minute: in memory, under a hash
//! with a random key of this process, and with permissions that are at most two seconds old.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::authenticate::{Given, Outcome, authenticate};
use super::tries::Tries;
use super::user::find_active;
use super::{AccountError, Accounts, User};

/// A successful login is not checked again for this time.
const REMEMBERED: Duration = Duration::from_mins(1);

/// A failed login is answered after this time, whatever was checked: an old hash of version 8.1 takes longer than a new
/// one, and than a name that does not exist.
const REFUSED_AFTER: Duration = Duration::from_millis(600);

/// Changes of an account by another process take effect after this time; changes by this one, immediately.
const FRESH: Duration = Duration::from_secs(2);

/// Maximum number of cached logins.
const MOST_KEPT: usize = 10_000;

/// Why a login failed, other than a wrong name or password.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("too many attempts; try again in {0} seconds")]
    TooMany(u64),
    /// The password is right and the address confirmed, but the account is pending.
    #[error("the account is pending approval")]
    Waiting,
    /// The password of a script is right, but the account has a second factor, or its role requires one.
    #[error("this account requires a second factor")]
    TokenWanted,
    #[error(transparent)]
    Account(#[from] AccountError),
}

type Key = [u8; 32];

#[derive(Clone)]
pub(super) struct Logins {
    key: Key,
    remembered: Arc<Mutex<HashMap<Key, Remembered>>>,
    pub(super) tries: Tries,
    /// The same login is checked once, however many requests send it at the same time.
    turns: Arc<[tokio::sync::Mutex<()>; 16]>,
}

impl std::fmt::Debug for Logins {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Logins(…)")
    }
}

impl Default for Logins {
    fn default() -> Self {
        Self {
            key: rand::random(),
            remembered: Arc::default(),
            tries: Tries::default(),
            turns: Arc::new(std::array::from_fn(|_| tokio::sync::Mutex::default())),
        }
    }
}

#[derive(Clone)]
struct Remembered {
    user: User,
    verified: Instant,
    loaded: Instant,
}

impl Logins {
    /// The same login yields the same key, in this process only; the password cannot be derived from it.
    fn key_of(&self, login: &str, password: &str) -> Key {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.key) else { return rand::random() };
        mac.update(&(login.len() as u64).to_le_bytes());
        mac.update(login.as_bytes());
        mac.update(password.as_bytes());
        mac.finalize().into_bytes().into()
    }

    fn recall(&self, key: &Key) -> Option<Remembered> {
        let mut all = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.get(key).cloned()?;
        if found.verified.elapsed() < REMEMBERED {
            return Some(found);
        }
        all.remove(key);
        None
    }

    fn remember(&self, key: Key, entry: Remembered) {
        let mut all = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST_KEPT {
            all.retain(|_, entry| entry.verified.elapsed() < REMEMBERED);
        }
        if all.len() < MOST_KEPT {
            all.insert(key, entry);
        }
    }

    fn forget(&self, key: &Key) {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// Drops all cached logins because an account or a role has changed.
    pub(super) fn forget_all(&self) {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Accounts {
    /// The user with this name or address and password, for requests that send them each time; a recent successful
    /// login is not checked again. `address` is where the request comes from. A password alone is not enough for users
    /// who have a second factor or must have one: their scripts use tokens.
    ///
    /// # Errors
    /// [`LoginError::TooMany`] after many failures, [`LoginError::TokenWanted`].
    pub async fn verify(
        &self,
        login: &str,
        password: &str,
        address: Option<IpAddr>,
    ) -> Result<Option<User>, LoginError> {
        let began = tokio::time::Instant::now();
        let found = self.verify_now(login, password, address).await?;
        if found.is_none() {
            tokio::time::sleep_until(began + REFUSED_AFTER).await;
        }
        Ok(found)
    }

    async fn verify_now(
        &self,
        login: &str,
        password: &str,
        address: Option<IpAddr>,
    ) -> Result<Option<User>, LoginError> {
        // Checked before the cache: otherwise a right guess would stand out among many wrong ones.
        self.logins.tries.check(&self.logins.tries.causes(login, address))?;
        let key = self.logins.key_of(login, password);
        if let Some(user) = self.recalled(&key).await? {
            return Ok(Some(user));
        }
        let turn = self.logins.turns.get(usize::from(key[0]) % 16);
        let _turn = match turn {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        // A concurrent request with the same login may have been first.
        if let Some(user) = self.recalled(&key).await? {
            return Ok(Some(user));
        }
        let user = match self.try_login(login, password, address).await {
            // Scripts get the same answer as for any other failed login.
            Err(LoginError::Waiting) => None,
            outcome => outcome?,
        };
        if user.as_ref().is_some_and(|user| !may_come_with_password_alone(user)) {
            return Err(LoginError::TokenWanted);
        }
        if let Some(user) = &user {
            let now = Instant::now();
            self.logins.remember(key, Remembered { user: user.clone(), verified: now, loaded: now });
        }
        Ok(user)
    }

    /// The user with this name or address and password, checked now; `None` if there is no such user.
    ///
    /// # Errors
    /// [`LoginError::TooMany`] after many failures; [`LoginError::Waiting`] if the password is right and the account is
    /// pending.
    pub async fn log_in(
        &self,
        login: &str,
        password: &str,
        address: Option<IpAddr>,
    ) -> Result<Option<User>, LoginError> {
        let began = tokio::time::Instant::now();
        let found = self.try_login(login, password, address).await;
        if !matches!(found, Ok(Some(_)) | Err(LoginError::TooMany(_))) {
            tokio::time::sleep_until(began + REFUSED_AFTER).await;
        }
        found
    }

    async fn try_login(
        &self,
        login: &str,
        password: &str,
        address: Option<IpAddr>,
    ) -> Result<Option<User>, LoginError> {
        let causes = self.logins.tries.causes(login, address);
        // Counted before the password is checked, so that concurrent attempts cannot exceed the limit.
        self.logins.tries.try_one(&causes)?;
        let given = Given { login, password, address };
        let security = &self.rules.security;
        match authenticate(&self.database, &self.passwords, security, &given, self.clock.now()).await? {
            Outcome::In(user) => {
                self.logins.tries.take_back(&causes);
                Ok(Some(*user))
            }
            Outcome::Waiting => Err(LoginError::Waiting),
            Outcome::Out | Outcome::Replaced => Ok(None),
        }
    }

    /// The user of a cached login, unless a change of the account has ended it.
    async fn recalled(&self, key: &Key) -> Result<Option<User>, LoginError> {
        let Some(entry) = self.logins.recall(key) else { return Ok(None) };
        if entry.loaded.elapsed() < FRESH {
            return Ok(Some(entry.user));
        }
        let loaded = Instant::now();
        let user = self.find_active(entry.user.id).await.map_err(AccountError::Database)?;
        let user = user.filter(|user| user.uniquifier == entry.user.uniquifier);
        let user = user.filter(may_come_with_password_alone);
        match &user {
            Some(user) => {
                self.logins.remember(*key, Remembered { user: user.clone(), verified: entry.verified, loaded });
            }
            None => self.logins.forget(key),
        }
        Ok(user)
    }

    /// The user with this id, active or not, with the permissions of the roles.
    pub async fn find(&self, id: i32) -> Result<Option<User>, sea_orm::DbErr> {
        super::user::find(self.database.reader(), id).await
    }

    /// The active user with this id.
    pub async fn find_active(&self, id: i32) -> Result<Option<User>, sea_orm::DbErr> {
        find_active(self.database.reader(), id).await
    }
}

fn may_come_with_password_alone(user: &User) -> bool {
    !user.has_second_factor && !user.must_enrol
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remembered_login_is_under_a_key_of_this_process() {
        let (one, other) = (Logins::default(), Logins::default());
        assert_eq!(one.key_of("a", "bc"), one.key_of("a", "bc"));
        assert_ne!(one.key_of("a", "bc"), one.key_of("ab", "c"));
        assert_ne!(one.key_of("a", "bc"), other.key_of("a", "bc"));
    }
}
