//! Hashing and checking passwords.

use std::sync::{Arc, Mutex, PoisonError, mpsc};

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha512;
use tokio::sync::oneshot;
use unicode_normalization::UnicodeNormalization;

/// A password that cannot be hashed or checked.
#[derive(Debug, thiserror::Error)]
#[error("cannot hash the password: {0}")]
pub struct PasswordError(String);

/// Hashes with Argon2id; checks those hashes and the ones of version 8.1: bcrypt over the base64 of HMAC-SHA512 with
/// `SECURITY_PASSWORD_SALT` (Flask-Security's `verify_password`).
#[derive(Clone)]
pub struct Passwords {
    salt: Arc<str>,
    /// A hash that no password matches, so that a wrong name takes as long as a wrong password.
    nobody: Arc<str>,
    threads: Threads,
}

type Work = Box<dyn FnOnce() + Send>;

/// Two threads dedicated to hashing. Each hash takes 7 MiB and a core for a moment; on the many threads for blocking
/// work, each of which retains its memory, a few wrong logins would exhaust the machine.
#[derive(Clone)]
struct Threads {
    queue: mpsc::Sender<Work>,
}

impl Threads {
    fn start() -> std::io::Result<Self> {
        let (queue, work) = mpsc::channel::<Work>();
        let work = Arc::new(Mutex::new(work));
        for _ in 0..2 {
            let work = Arc::clone(&work);
            std::thread::Builder::new().name("passwords".to_owned()).spawn(move || {
                loop {
                    // The lock is held while waiting for work, not while doing it.
                    let next = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(next) = next else { return };
                    next();
                }
            })?;
        }
        Ok(Self { queue })
    }

    /// The result of `work`; `None` if the threads have ended.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (done, outcome) = oneshot::channel();
        // The caller may have stopped waiting for the result.
        let work = Box::new(move || drop(done.send(work())));
        self.queue.send(work).ok()?;
        outcome.await.ok()
    }
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Passwords(…)")
    }
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checked {
    Wrong,
    Right,
    /// Right, and the hash is an old one that should be replaced.
    RightButOld,
}

impl Passwords {
    /// `salt` is the `SECURITY_PASSWORD_SALT` of version 8.1.
    ///
    /// # Errors
    /// If hashing does not work at all.
    pub fn new(salt: &str) -> Result<Self, PasswordError> {
        let random = STANDARD.encode(rand::random::<[u8; 32]>());
        let threads = Threads::start().map_err(|error| PasswordError(error.to_string()))?;
        Ok(Self { salt: salt.into(), nobody: hash(&random)?.into(), threads })
    }

    /// Hashes a password. Takes a noticeable time on purpose.
    ///
    /// # Errors
    /// If it cannot be hashed.
    pub async fn hash(&self, password: &str) -> Result<String, PasswordError> {
        let password = password.to_owned();
        let hashed = self.threads.run(move || hash(&password)).await;
        hashed.unwrap_or_else(|| Err(PasswordError("the server is shutting down".to_owned())))
    }

    /// Whether a password matches this stored hash.
    pub async fn fits(&self, password: &str, stored: &str) -> bool {
        self.check(password, Some(stored)).await != Checked::Wrong
    }

    /// Checks a password against a stored hash, or against one that no password matches.
    pub(super) async fn check(&self, password: &str, stored: Option<&str>) -> Checked {
        let (passwords, password) = (self.clone(), password.to_owned());
        let stored = stored.map(str::to_owned);
        let work = move || match stored {
            Some(stored) => passwords.check_now(&password, &stored),
            None => {
                passwords.check_now(&password, &passwords.nobody);
                Checked::Wrong
            }
        };
        self.threads.run(work).await.unwrap_or(Checked::Wrong)
    }

    fn check_now(&self, password: &str, stored: &str) -> Checked {
        if stored.starts_with("$2") {
            let fits = |form: &str| {
                self.legacy_input(form).is_some_and(|input| bcrypt::verify(input, stored).unwrap_or(false))
            };
            return if forms(password).any(|form| fits(&form)) { Checked::RightButOld } else { Checked::Wrong };
        }
        let Ok(parsed) = PasswordHash::new(stored) else {
            // Not a hash at all. The check takes as long as for a hash, and always fails.
            self.check_now(password, &self.nobody);
            return Checked::Wrong;
        };
        let fits = |form: &str| Argon2::default().verify_password(form.as_bytes(), &parsed).is_ok();
        if forms(password).any(|form| fits(&form)) { Checked::Right } else { Checked::Wrong }
    }

    fn legacy_input(&self, password: &str) -> Option<String> {
        let mut mac = Hmac::<Sha512>::new_from_slice(self.salt.as_bytes()).ok()?;
        mac.update(password.as_bytes());
        Some(STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// The forms in which a password may have been hashed. Different machines encode the same letter as one character or as
/// two: Flask-Security normalized passwords from forms to NFKD (`SECURITY_PASSWORD_NORMALIZE_FORM`), but not those from
/// scripts and files.
fn forms(password: &str) -> impl Iterator<Item = String> {
    let normal = normal(password);
    let other = (normal != password).then(|| password.to_owned());
    std::iter::once(normal).chain(other)
}

fn normal(password: &str) -> String {
    password.nfkd().collect()
}

/// Argon2id with 7 MiB and five iterations: as hard to guess as with 19 MiB and two iterations (OWASP Password Storage
/// Cheat Sheet), and it suits a small server.
fn hash(password: &str) -> Result<String, PasswordError> {
    let parameters = Params::new(7 * 1024, 5, 1, None).map_err(|error| PasswordError(error.to_string()))?;
    let hashed =
        Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters).hash_password(normal(password).as_bytes());
    hashed.map(|hash| hash.to_string()).map_err(|error| PasswordError(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Generated with passlib 1.7.4 (bcrypt 4.0.1), rounds 4:
    /// `bcrypt.hash(base64.b64encode(hmac.new(b"pepper", b"correct horse", "sha512").digest()))`.
    const LEGACY: &str = "$2b$04$sk8mRv7no1AG/mvjl4bD..GCld0K3gIPxrTO2dPS8XzInaz19z5cW";

    /// Generated with `flask_security.hash_password` of Flask-Security-Too 4.1.3 (passlib 1.7.4, bcrypt 3.2.0), the
    /// versions of version 8.1, with `SECURITY_PASSWORD_SALT = "a salt of the tests"`: the first with its default of 12
    /// rounds.
    const OF_FLASK_SECURITY: [(&str, &str); 3] = [
        ("correct horse", "$2b$12$2/LZ8ZJKgpdDS.clYBEb6.uPHQckrJz9FfaHQFaX/bnF2f1hJufL2"),
        ("correct horse", "$2b$05$1kX1MsZ8W6a6BgkhUqJPQe.HHUqB/mmnwk7cJReUM0IVEyAJW58Ye"),
        ("Schöne Grüße, 東京", "$2b$05$5xZANvfRfSgB2gp3LW80mei4StX40QTgILoWioGj5KIP3XkHv/R3e"),
    ];
    /// The same for `Grüße-aus-Köln-42` as a form normalizes it (`_password_util.validate`).
    const OF_A_FORM: &str = "$2b$05$T4EAxipZ8G/kzGZ1ejKXGOkUHy8p/63bif4payuxv87PFzsa4ohw6";
    /// For 200 times `x`: bcrypt alone would use only 72 bytes.
    const OF_A_LONG_ONE: &str = "$2b$05$cn4C9oytwqoE39PCD/P0subnNsUHpcIPVAvliV55E4Ta5reJGFg2q";

    #[tokio::test]
    async fn hashes_of_flask_security_are_checked() {
        let passwords = Passwords::new("a salt of the tests").unwrap();
        for (password, hash) in OF_FLASK_SECURITY {
            assert_eq!(passwords.check(password, Some(hash)).await, Checked::RightButOld, "{password}");
            let other = format!("{password} ");
            assert_eq!(passwords.check(&other, Some(hash)).await, Checked::Wrong, "{password}");
        }
        assert_eq!(passwords.check(&"x".repeat(200), Some(OF_A_LONG_ONE)).await, Checked::RightButOld);
        assert_eq!(passwords.check(&"x".repeat(199), Some(OF_A_LONG_ONE)).await, Checked::Wrong);
        assert_eq!(passwords.check(&"x".repeat(72), Some(OF_A_LONG_ONE)).await, Checked::Wrong);
    }

    #[tokio::test]
    async fn letters_are_the_same_however_they_are_typed() {
        let passwords = Passwords::new("a salt of the tests").unwrap();
        let typed = "Grüße-aus-Köln-42";
        let in_parts: String = typed.nfkd().collect();
        assert_ne!(typed, in_parts);
        for form in [typed, &in_parts] {
            assert_eq!(passwords.check(form, Some(OF_A_FORM)).await, Checked::RightButOld);
            let new = passwords.hash(form).await.unwrap();
            for other in [typed, &in_parts] {
                assert_eq!(passwords.check(other, Some(&new)).await, Checked::Right);
            }
            assert_eq!(passwords.check("Grusse-aus-Koln-42", Some(&new)).await, Checked::Wrong);
        }
    }

    #[tokio::test]
    async fn both_kinds_of_hashes_are_checked() {
        let passwords = Passwords::new("pepper").unwrap();
        let hash = passwords.hash("correct horse").await.unwrap();
        assert!(hash.starts_with("$argon2id$"));
        assert_eq!(passwords.check("correct horse", Some(&hash)).await, Checked::Right);
        assert_eq!(passwords.check("wrong horse", Some(&hash)).await, Checked::Wrong);
        assert_eq!(passwords.check("correct horse", Some(LEGACY)).await, Checked::RightButOld);
        assert_eq!(passwords.check("wrong horse", Some(LEGACY)).await, Checked::Wrong);
        assert_eq!(Passwords::new("salt").unwrap().check("correct horse", Some(LEGACY)).await, Checked::Wrong);
        assert_eq!(passwords.check("correct horse", Some("correct horse")).await, Checked::Wrong);
        assert_eq!(passwords.check("correct horse", None).await, Checked::Wrong);
    }
}
