//! The key that signs events: write access to the database alone is not enough to forge one.

use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sea_orm::DbErr;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::content::Parts;

/// A key for signatures of events, derived from a server's `SECRET_KEY`.
#[derive(Clone)]
pub struct Key {
    /// Identifies the key and reveals nothing about it.
    id: String,
    key: Vec<u8>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Key({})", self.id)
    }
}

/// The result of checking a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signature {
    Sound,
    /// The event differs from the signed one, or a program without the key wrote it.
    Forged,
    /// The event was signed with another key.
    OtherKey,
}

static KEY: OnceLock<Key> = OnceLock::new();

/// Sets the key of this process. The first call counts: a process works for one study.
pub fn use_key(secret_key: &str) {
    let _ = KEY.set(Key::new(secret_key));
}

/// The key of this process.
///
/// # Errors
/// If no key was set: an event without a signature would be taken for a forged one.
pub(super) fn current() -> Result<&'static Key, DbErr> {
    KEY.get().ok_or_else(|| DbErr::Custom("this process has no key for the audit log".to_owned()))
}

impl Key {
    /// Derives the key from a `SECRET_KEY`.
    #[must_use]
    pub fn new(secret_key: &str) -> Self {
        let derive = |purpose: &str| hmac(secret_key.as_bytes(), |mac| mac.update(purpose.as_bytes()));
        let id: String =
            URL_SAFE_NO_PAD.encode(derive("study governor: name of the audit key")).chars().take(8).collect();
        Self { id, key: derive("study governor: audit key") }
    }

    /// Identifies the key, in eight letters.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The signature of an event: id of the key, a nonce, HMAC-SHA256 over the nonce and the event.
    pub(super) fn sign(&self, event: &impl Parts) -> String {
        let nonce = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 12]>());
        let signature = self.signature(&nonce, event);
        format!("{}:{nonce}:{signature}", self.id)
    }

    /// Checks the signature of an event.
    pub(super) fn check(&self, signature: &str, event: &impl Parts) -> Signature {
        let Some((id, rest)) = signature.split_once(':') else { return Signature::Forged };
        if id != self.id {
            return Signature::OtherKey;
        }
        let Some((nonce, found)) = rest.split_once(':') else { return Signature::Forged };
        let wanted = self.signature(nonce, event);
        if bool::from(wanted.as_bytes().ct_eq(found.as_bytes())) { Signature::Sound } else { Signature::Forged }
    }

    fn signature(&self, nonce: &str, event: &impl Parts) -> String {
        let bytes = hmac(&self.key, |mac| {
            let mut add = |part: &[u8]| mac.update(part);
            super::content::write(&mut add, Some(nonce));
            event.parts(&mut |part| super::content::write(&mut add, part));
        });
        URL_SAFE_NO_PAD.encode(bytes)
    }
}

fn hmac(key: &[u8], feed: impl FnOnce(&mut Hmac<Sha256>)) -> Vec<u8> {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    feed(&mut mac);
    mac.finalize().into_bytes().to_vec()
}
