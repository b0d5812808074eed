//! Rate limits for account e-mails and second-factor codes. Mails are limited by the IP address of the caller and by
//! the account that the caller names, whether it exists or not. Codes are limited by account, whatever the caller's IP
//! address: three of a million codes are valid at a time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::LoginError;
use super::tries::network;

/// Burst per IP address; one request is restored every three minutes.
const OF_ADDRESS: NonZeroU32 = NonZeroU32::new(20).unwrap();
/// Burst per account; one request is restored every twelve minutes.
const OF_ACCOUNT: NonZeroU32 = NonZeroU32::new(5).unwrap();

/// Codes that may be tried for an account: as a burst, and then per hour.
const CODES: NonZeroU32 = NonZeroU32::new(20).unwrap();
const CODES_AN_HOUR: NonZeroU32 = NonZeroU32::new(10).unwrap();

/// Wrong codes, as a burst and then per hour, that may be mistakes of the owner. The owner is notified of more.
const MISTAKES: NonZeroU32 = NonZeroU32::new(5).unwrap();
/// Minimum time between two mails about wrong codes.
const QUIET: Duration = Duration::from_hours(24);

/// IP addresses and accounts that are kept before those without recent requests are dropped.
const MOST_KEPT: usize = 10_000;

#[derive(Clone)]
pub(super) struct Limits {
    addresses: Arc<DefaultKeyedRateLimiter<IpAddr>>,
    accounts: Arc<DefaultKeyedRateLimiter<String>>,
    codes: Arc<DefaultKeyedRateLimiter<i32>>,
    mistakes: Arc<DefaultKeyedRateLimiter<i32>>,
    /// Accounts whose owners were notified of wrong codes.
    told: Arc<DefaultKeyedRateLimiter<i32>>,
    /// The time step of the last code that was used, by account, for when the database cannot be written.
    steps: Arc<Mutex<HashMap<i32, i32>>>,
}

impl std::fmt::Debug for Limits {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Limits(…)")
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            addresses: Arc::new(RateLimiter::keyed(Quota::per_hour(OF_ADDRESS))),
            accounts: Arc::new(RateLimiter::keyed(Quota::per_hour(OF_ACCOUNT))),
            codes: Arc::new(RateLimiter::keyed(Quota::per_hour(CODES_AN_HOUR).allow_burst(CODES))),
            mistakes: Arc::new(RateLimiter::keyed(Quota::per_hour(MISTAKES))),
            told: Arc::new(RateLimiter::keyed(Quota::with_period(QUIET).unwrap_or(Quota::per_hour(NonZeroU32::MIN)))),
            steps: Arc::default(),
        }
    }
}

impl Limits {
    /// Counts a request for a mail.
    pub(super) fn ask(&self, account: &str, address: Option<IpAddr>) -> Result<(), LoginError> {
        if self.addresses.len() > MOST_KEPT {
            self.addresses.retain_recent();
        }
        if self.accounts.len() > MOST_KEPT {
            self.accounts.retain_recent();
        }
        let now = DefaultClock::default().now();
        if let Some(address) = address {
            self.addresses.check_key(&network(address)).map_err(|not| too_many(not.wait_time_from(now)))?;
        }
        let account: String = account.trim().to_lowercase().chars().take(255).collect();
        self.accounts.check_key(&account).map_err(|not| too_many(not.wait_time_from(now)))
    }

    /// Counts a code that is tried for this account.
    pub(super) fn try_code(&self, user_id: i32) -> Result<(), LoginError> {
        let now = DefaultClock::default().now();
        self.codes.check_key(&user_id).map_err(|not| too_many(not.wait_time_from(now)))
    }

    /// Whether no code of this time step or a later one was used for the account in this process.
    pub(super) fn is_new_step(&self, user_id: i32, step: i32) -> bool {
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.get(&user_id).is_none_or(|last| *last < step)
    }

    /// Records that the code of this time step is used. Returns false if another request was first.
    pub(super) fn use_step(&self, user_id: i32, step: i32) -> bool {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = steps.get(&user_id).is_none_or(|last| *last < step);
        if is_new {
            steps.insert(user_id, step);
        }
        is_new
    }

    /// Counts a wrong code. Returns whether to notify the owner: once a day, if there are more wrong codes than
    /// mistakes explain.
    pub(super) fn is_alarming(&self, user_id: i32) -> bool {
        self.mistakes.check_key(&user_id).is_err() && self.told.check_key(&user_id).is_ok()
    }
}

fn too_many(wait: Duration) -> LoginError {
    LoginError::TooMany(wait.as_secs() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_and_an_address_have_a_limit_each() {
        let limits = Limits::default();
        let home = Some(IpAddr::from([192, 0, 2, 1]));
        for _ in 0..OF_ACCOUNT.get() {
            limits.ask("A@example.org", home).unwrap();
        }
        assert!(matches!(limits.ask("a@example.org ", None), Err(LoginError::TooMany(1..=721))));
        for other in 0..OF_ADDRESS.get() - OF_ACCOUNT.get() {
            limits.ask(&format!("{other}@example.org"), home).unwrap();
        }
        assert!(limits.ask("new@example.org", home).is_err());
        limits.ask("new@example.org", Some(IpAddr::from([192, 0, 2, 2]))).unwrap();
        let tried = (0..100).filter(|_| limits.try_code(1).is_ok()).count();
        assert_eq!(tried, 20, "of one account, from however many addresses");
        limits.try_code(2).unwrap();
        let told = (0..20).map(|_| limits.is_alarming(1)).collect::<Vec<_>>();
        assert_eq!(told.iter().position(|told| *told), Some(5), "the sixth wrong code is no longer a mistake");
        assert_eq!(told.iter().filter(|told| **told).count(), 1, "and the owner is notified once");
    }
}
