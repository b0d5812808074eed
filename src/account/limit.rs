//! How often somebody may ask for a mail: by the address that they come from, and by the account that they name, whether
//! there is such an account or not.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::LoginError;
use super::login::network;

/// At once; one more comes back each three minutes.
const OF_ADDRESS: NonZeroU32 = NonZeroU32::new(20).unwrap();
/// At once; one more comes back each twelve minutes.
const OF_ACCOUNT: NonZeroU32 = NonZeroU32::new(5).unwrap();

/// Addresses and accounts that are remembered before those that have not asked lately are forgotten.
const MOST_KEPT: usize = 10_000;

#[derive(Clone)]
pub(super) struct Limits {
    addresses: Arc<DefaultKeyedRateLimiter<IpAddr>>,
    accounts: Arc<DefaultKeyedRateLimiter<String>>,
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
        }
    }
}

impl Limits {
    /// Counts one that asks.
    pub(super) fn ask(&self, account: &str, address: Option<IpAddr>) -> Result<(), LoginError> {
        if self.addresses.len() > MOST_KEPT {
            self.addresses.retain_recent();
        }
        if self.accounts.len() > MOST_KEPT {
            self.accounts.retain_recent();
        }
        let now = DefaultClock::default().now();
        let too_many = |wait: std::time::Duration| LoginError::TooMany(wait.as_secs() + 1);
        if let Some(address) = address {
            self.addresses.check_key(&network(address)).map_err(|not| too_many(not.wait_time_from(now)))?;
        }
        let account: String = account.trim().to_lowercase().chars().take(255).collect();
        self.accounts.check_key(&account).map_err(|not| too_many(not.wait_time_from(now)))
    }
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
    }
}
