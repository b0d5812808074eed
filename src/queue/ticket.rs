//! Messages to workers, with the secret of one attempt of one execution (Q2).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// Message body, as JSON: identifies one attempt of one execution.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    pub execution_id: i32,
    /// URL of the execution in the API.
    pub url: String,
    pub attempt: i32,
    /// Valid for this execution and attempt only.
    pub secret: String,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Ticket({}, attempt {})", self.execution_id, self.attempt)
    }
}

impl Ticket {
    /// A message with its secret. `base_url` is the beginning of this server's URLs.
    #[must_use]
    pub fn new(execution_id: i32, attempt: i32, base_url: &str, secret_key: &str) -> Self {
        Self {
            execution_id,
            url: format!("{base_url}/api/v2/callback_executions/{execution_id}"),
            attempt,
            secret: execution_secret(secret_key, execution_id, attempt),
        }
    }
}

/// Derives the secret, which is never stored.
#[must_use]
pub fn execution_secret(secret_key: &str, execution_id: i32, attempt: i32) -> String {
    // HMAC accepts keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret_key.as_bytes()) else { return String::new() };
    mac.update(format!("callback execution {execution_id} attempt {attempt}").as_bytes());
    URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
}

/// Whether `given` is the secret, compared in constant time.
#[must_use]
pub fn is_execution_secret(secret_key: &str, execution_id: i32, attempt: i32, given: &str) -> bool {
    let wanted = execution_secret(secret_key, execution_id, attempt);
    !wanted.is_empty() && bool::from(wanted.as_bytes().ct_eq(given.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q2_a_secret_is_good_for_one_attempt_of_one_execution() {
        let secret = execution_secret("key", 7, 1);
        assert!(is_execution_secret("key", 7, 1, &secret));
        assert!(!is_execution_secret("key", 7, 2, &secret));
        assert!(!is_execution_secret("key", 8, 1, &secret));
        assert!(!is_execution_secret("other", 7, 1, &secret));
        assert!(!is_execution_secret("key", 7, 1, ""));
        let ticket = Ticket::new(7, 1, "http://test", "key");
        assert_eq!(ticket.secret, secret);
        assert!(!format!("{ticket:?}").contains(&secret));
    }
}
