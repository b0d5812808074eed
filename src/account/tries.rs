//! Login throttling: failed attempts are counted per user name, per IP address and per pair within a window. A successful
//! login marks the pair as trusted. The counts are in memory, per process.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::LoginError;

/// Maximum number of counts.
const MOST_KEPT: usize = 10_000;

/// Failures count for this long.
const WINDOW: Duration = Duration::from_mins(5);

/// A pair is trusted for this long after a successful login.
const TRUSTED: Duration = Duration::from_hours(24);

/// Failures in [`WINDOW`] after which logins are refused: per pair of name and IP address, per IP address, per name. The
/// limit per name is far higher, so that others cannot easily lock a user out.
const MOST_OF_PAIR: u32 = 10;
const MOST_OF_ADDRESS: u32 = 50;
const MOST_OF_NAME: u32 = 100;

/// The counts of failed logins; see the module. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Tries {
    failures: Arc<Mutex<HashMap<Cause, Failures>>>,
    /// Pairs of name and IP address with a recent successful login.
    trusted: Arc<Mutex<HashMap<Cause, Instant>>>,
}

/// The key of a count.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Cause {
    Pair(IpAddr, String),
    Address(IpAddr),
    Name(String),
}

impl Cause {
    fn all(login: &str, address: Option<IpAddr>) -> Vec<Self> {
        // Long names would exhaust the memory.
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

/// The network of an address: the owner of one IPv6 address also has the other 2^64 of its network.
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

impl Tries {
    /// The counts that a login adds to. A trusted pair counts for the pair only: neither a colleague's broken script
    /// behind the same address nor a person elsewhere who guesses at the name locks out a script that works.
    pub(super) fn causes(&self, login: &str, address: Option<IpAddr>) -> Vec<Cause> {
        let mut causes = Cause::all(login, address);
        let trusted = self.trusted.lock().unwrap_or_else(PoisonError::into_inner);
        let is_trusted = |cause: &Cause| trusted.get(cause).is_some_and(|since| since.elapsed() < TRUSTED);
        if causes.iter().any(is_trusted) {
            causes.retain(|cause| matches!(cause, Cause::Pair(..)));
        }
        causes
    }

    pub(super) fn check(&self, causes: &[Cause]) -> Result<(), LoginError> {
        check_in(&self.failures.lock().unwrap_or_else(PoisonError::into_inner), causes)
    }

    /// Counts an attempt, unless the limit is already reached.
    pub(super) fn try_one(&self, causes: &[Cause]) -> Result<(), LoginError> {
        let mut all = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        check_in(&all, causes)?;
        if all.len() + causes.len() > MOST_KEPT {
            all.retain(|_, failures| failures.since.elapsed() < WINDOW);
        }
        if all.len() + causes.len() > MOST_KEPT {
            // The map is being flooded. Low counts are dropped; names and addresses under attack are kept.
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

    /// The attempt succeeded: it is not counted, and the pair is trusted for a while.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_add_up_by_name_and_address_and_a_success_takes_them_back() {
        let tries = Tries::default();
        let address = Some(IpAddr::from([127, 0, 0, 1]));
        let try_one = |login: &str, address| tries.try_one(&tries.causes(login, address));
        for _ in 0..MOST_OF_PAIR {
            assert!(try_one("Alice", address).is_ok());
        }
        assert!(matches!(try_one("alice", address), Err(LoginError::TooMany(1..=301))));
        assert!(try_one("bob", address).is_ok(), "another name from there");
        assert!(try_one("alice", None).is_ok(), "the same name from elsewhere");
        tries.take_back(&tries.causes("alice", address));
        assert!(try_one("alice", address).is_ok());
        for name in 0..MOST_OF_ADDRESS {
            try_one(&name.to_string(), address).ok();
        }
        assert!(try_one("carol", address).is_err(), "too many from this address");
        assert!(try_one("alice", address).is_ok(), "who got in from there is not concerned");
    }

    #[test]
    fn the_addresses_of_one_network_count_together_and_filling_the_memory_lets_nobody_in() {
        let tries = Tries::default();
        let address = |host: u16| Some(IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, host]));
        for host in 0..u16::try_from(MOST_OF_PAIR).unwrap() {
            assert!(tries.try_one(&tries.causes("alice", address(host))).is_ok());
        }
        assert!(tries.try_one(&tries.causes("alice", address(99))).is_err());
        for number in 0..20_000_u32 {
            let [_, a, b, c] = number.to_be_bytes();
            tries.try_one(&tries.causes(&format!("n{number}"), Some(IpAddr::from([10, a, b, c])))).ok();
        }
        assert!(tries.failures.lock().unwrap().len() <= MOST_KEPT);
        assert!(tries.try_one(&tries.causes("alice", address(7))).is_err(), "what counted much stays");
    }
}
