//! Who logs in: a name and a password, checked at a constant cost, remembered for a moment, and refused for a while
//! after many failures.
//!
//! Checking a password takes a core for some hundredths of a second, on purpose. A script that sends it with each
//! request would spend all its time there, so a login that was right is remembered for a minute: in memory, under a hash
//! with a key that this process made up, and with the permissions of at most two seconds ago.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::user::{Given, Outcome, Shut, authenticate, find_active};
use super::{AccountError, Accounts, User};

/// A login that was right is not checked again for this long.
const REMEMBERED: Duration = Duration::from_mins(1);

/// A login that is refused is answered after this time, whatever was looked at: an old hash of the existing product takes
/// longer than a new one, and than a name that nobody has.
const REFUSED_AFTER: Duration = Duration::from_millis(600);

/// What another process changed about an account is seen after this long; what this one changed, at once.
const FRESH: Duration = Duration::from_secs(2);

/// Logins and counts of failures that are kept at most.
const MOST_KEPT: usize = 10_000;

/// Failures count for this long.
const WINDOW: Duration = Duration::from_mins(5);

/// Who got in is trusted to come again from there for this long.
const TRUSTED: Duration = Duration::from_hours(24);

/// Failures in [`WINDOW`] after which nobody is let in any more: of one name from one address, of one address, of one
/// name. The last is far higher, so that others cannot lock somebody out easily.
const MOST_OF_PAIR: u32 = 10;
const MOST_OF_ADDRESS: u32 = 50;
const MOST_OF_NAME: u32 = 100;

/// Why somebody was not let in, besides a wrong name or password.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("too many tries; try again in {0} seconds")]
    TooMany(u64),
    /// Of somebody who has given the right password.
    #[error("the account is not open yet")]
    Shut(Shut),
    #[error(transparent)]
    Account(#[from] AccountError),
}

type Key = [u8; 32];

#[derive(Clone)]
pub(super) struct Logins {
    key: Key,
    remembered: Arc<Mutex<HashMap<Key, Remembered>>>,
    failures: Arc<Mutex<HashMap<Cause, Failures>>>,
    /// Names with the addresses from which they got in.
    trusted: Arc<Mutex<HashMap<Cause, Instant>>>,
    /// The same login is checked once, however many requests come with it at the same time.
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
            failures: Arc::default(),
            trusted: Arc::default(),
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

/// Where failures come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Cause {
    Pair(IpAddr, String),
    Address(IpAddr),
    Name(String),
}

impl Cause {
    fn all(login: &str, address: Option<IpAddr>) -> Vec<Self> {
        // Long names would fill the memory.
        let name: String = login.trim().to_lowercase().chars().take(64).collect();
        let mut all = vec![Self::Name(name.clone())];
        if let Some(address) = address.map(network) {
            all.extend([Self::Pair(address, name), Self::Address(address)]);
        }
        all
    }

    fn most(&self) -> u32 {
        match self {
            Self::Pair(..) => MOST_OF_PAIR,
            Self::Address(_) => MOST_OF_ADDRESS,
            Self::Name(_) => MOST_OF_NAME,
        }
    }
}

/// Where an address belongs to: who has one IPv6 address has the other 2^64 of its network too.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let mut parts = address.segments();
            parts[4..].fill(0);
            IpAddr::from(parts)
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    since: Instant,
}

impl Logins {
    /// The same login gives the same key, in this process only; nothing leads back to the password.
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

    /// Forgets all logins: an account or a role has changed.
    pub(super) fn forget_all(&self) {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What a login counts for. Who got in from there lately counts for the pair only: neither a colleague's broken
    /// script behind the same address nor somebody elsewhere who guesses at the name keeps a script out that works.
    pub(super) fn causes(&self, login: &str, address: Option<IpAddr>) -> Vec<Cause> {
        let mut causes = Cause::all(login, address);
        let trusted = self.trusted.lock().unwrap_or_else(PoisonError::into_inner);
        let is_trusted = |cause: &Cause| trusted.get(cause).is_some_and(|since| since.elapsed() < TRUSTED);
        if causes.iter().any(is_trusted) {
            causes.retain(|cause| matches!(cause, Cause::Pair(..)));
        }
        causes
    }

    fn check(&self, causes: &[Cause]) -> Result<(), LoginError> {
        check_in(&self.failures.lock().unwrap_or_else(PoisonError::into_inner), causes)
    }

    /// Counts a try, unless there were too many already.
    pub(super) fn try_one(&self, causes: &[Cause]) -> Result<(), LoginError> {
        let mut all = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        check_in(&all, causes)?;
        if all.len() + causes.len() > MOST_KEPT {
            all.retain(|_, failures| failures.since.elapsed() < WINDOW);
        }
        if all.len() + causes.len() > MOST_KEPT {
            // Somebody fills it on purpose. What counted little goes; names and addresses that are being guessed at stay.
            all.retain(|cause, failures| failures.count * 2 >= cause.most());
        }
        for cause in causes {
            let failures = all.entry(cause.clone()).or_insert(Failures { count: 0, since: Instant::now() });
            if failures.since.elapsed() >= WINDOW {
                *failures = Failures { count: 0, since: Instant::now() };
            }
            failures.count += 1;
        }
        Ok(())
    }

    /// The try was right: it is not counted, and who came from there is trusted for a while.
    pub(super) fn take_back(&self, causes: &[Cause]) {
        let mut all = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        for cause in causes {
            match all.get_mut(cause) {
                Some(_) if matches!(cause, Cause::Pair(..)) => drop(all.remove(cause)),
                Some(failures) => failures.count = failures.count.saturating_sub(1),
                None => {}
            }
        }
        let mut trusted = self.trusted.lock().unwrap_or_else(PoisonError::into_inner);
        if trusted.len() >= MOST_KEPT {
            trusted.retain(|_, since| since.elapsed() < TRUSTED);
        }
        if trusted.len() < MOST_KEPT {
            let pairs = causes.iter().filter(|cause| matches!(cause, Cause::Pair(..)));
            trusted.extend(pairs.map(|cause| (cause.clone(), Instant::now())));
        }
    }
}

fn check_in(all: &HashMap<Cause, Failures>, causes: &[Cause]) -> Result<(), LoginError> {
    let wait = |cause: &Cause| {
        let failures = all.get(cause)?;
        let left = WINDOW.checked_sub(failures.since.elapsed())?;
        (failures.count >= cause.most()).then_some(left.as_secs() + 1)
    };
    match causes.iter().filter_map(wait).max() {
        Some(seconds) => Err(LoginError::TooMany(seconds)),
        None => Ok(()),
    }
}

impl Accounts {
    /// The user with this name or address and password, for requests that bring them each time; a login that was
    /// right a moment ago is not checked again. `address` is where the request comes from. A password alone is not enough
    /// for who has a second factor or must have one: their scripts use tokens.
    ///
    /// # Errors
    /// [`LoginError::TooMany`] after many failures.
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
        // Before what is remembered: or a right guess would show among many wrong ones.
        self.logins.check(&self.logins.causes(login, address))?;
        let key = self.logins.key_of(login, password);
        if let Some(user) = self.recalled(&key).await? {
            return Ok(Some(user));
        }
        let turn = self.logins.turns.get(usize::from(key[0]) % 16);
        let _turn = match turn {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        // Another request with the same login may have been first.
        if let Some(user) = self.recalled(&key).await? {
            return Ok(Some(user));
        }
        let user = match self.try_login(login, password, address).await {
            // To a script it is like any other login that is refused.
            Err(LoginError::Shut(_)) => None,
            outcome => outcome?,
        };
        let user = user.filter(|user| !user.has_second_factor && !user.must_enrol);
        if let Some(user) = &user {
            let now = Instant::now();
            self.logins.remember(key, Remembered { user: user.clone(), verified: now, loaded: now });
        }
        Ok(user)
    }

    /// The user with this name or address and password, checked now; none when there is nobody like that.
    ///
    /// # Errors
    /// [`LoginError::TooMany`] after many failures; [`LoginError::Shut`] for who is right and not let in.
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
        let causes = self.logins.causes(login, address);
        // Counted before the password is looked at: of many at the same moment no more than the limit are tried.
        self.logins.try_one(&causes)?;
        let given = Given { login, password, address };
        let security = &self.rules.security;
        match authenticate(&self.database, &self.passwords, security, &given, self.clock.now()).await? {
            Outcome::In(user) => {
                self.logins.take_back(&causes);
                Ok(Some(*user))
            }
            Outcome::Shut(why) => Err(LoginError::Shut(why)),
            Outcome::Out | Outcome::Replaced => Ok(None),
        }
    }

    /// The user of a remembered login, if nothing about the account has changed that ends it.
    async fn recalled(&self, key: &Key) -> Result<Option<User>, LoginError> {
        let Some(entry) = self.logins.recall(key) else { return Ok(None) };
        if entry.loaded.elapsed() < FRESH {
            return Ok(Some(entry.user));
        }
        let loaded = Instant::now();
        let user = self.find_active(entry.user.id).await.map_err(AccountError::Database)?;
        let user = user.filter(|user| user.uniquifier == entry.user.uniquifier);
        let user = user.filter(|user| !user.has_second_factor && !user.must_enrol);
        match &user {
            Some(user) => {
                self.logins.remember(*key, Remembered { user: user.clone(), verified: entry.verified, loaded });
            }
            None => self.logins.forget(key),
        }
        Ok(user)
    }

    /// The user with this id, active or not, with what the roles permit.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn find(&self, id: i32) -> Result<Option<User>, sea_orm::DbErr> {
        super::user::find(self.database.reader(), id).await
    }

    /// The active user with this id.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn find_active(&self, id: i32) -> Result<Option<User>, sea_orm::DbErr> {
        find_active(self.database.reader(), id).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_add_up_by_name_and_address_and_a_success_takes_them_back() {
        let logins = Logins::default();
        let address = Some(IpAddr::from([127, 0, 0, 1]));
        let try_one = |login: &str, address| logins.try_one(&logins.causes(login, address));
        for _ in 0..MOST_OF_PAIR {
            assert!(try_one("Alice", address).is_ok());
        }
        assert!(matches!(try_one("alice", address), Err(LoginError::TooMany(1..=301))));
        assert!(try_one("bob", address).is_ok(), "another name from there");
        assert!(try_one("alice", None).is_ok(), "the same name from elsewhere");
        logins.take_back(&logins.causes("alice", address));
        assert!(try_one("alice", address).is_ok());
        for name in 0..MOST_OF_ADDRESS {
            try_one(&name.to_string(), address).ok();
        }
        assert!(try_one("carol", address).is_err(), "too many from this address");
        assert!(try_one("alice", address).is_ok(), "who got in from there is not concerned");
    }

    #[test]
    fn the_addresses_of_one_network_count_together_and_filling_the_memory_lets_nobody_in() {
        let logins = Logins::default();
        let address = |host: u16| Some(IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, host]));
        for host in 0..u16::try_from(MOST_OF_PAIR).unwrap() {
            assert!(logins.try_one(&logins.causes("alice", address(host))).is_ok());
        }
        assert!(logins.try_one(&logins.causes("alice", address(99))).is_err());
        for number in 0..20_000_u32 {
            let [_, a, b, c] = number.to_be_bytes();
            logins.try_one(&logins.causes(&format!("n{number}"), Some(IpAddr::from([10, a, b, c])))).ok();
        }
        assert!(logins.failures.lock().unwrap().len() <= MOST_KEPT);
        assert!(logins.try_one(&logins.causes("alice", address(7))).is_err(), "what counted much stays");
    }

    #[test]
    fn a_remembered_login_is_under_a_key_of_this_process() {
        let (one, other) = (Logins::default(), Logins::default());
        assert_eq!(one.key_of("a", "bc"), one.key_of("a", "bc"));
        assert_ne!(one.key_of("a", "bc"), one.key_of("ab", "c"));
        assert_ne!(one.key_of("a", "bc"), other.key_of("a", "bc"));
    }
}
