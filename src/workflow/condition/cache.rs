//! Compiled conditions by their text. Workflows have a few dozen conditions, each asked again for every
//! experiment, and compiling costs far more than running.
//!
//! A program is lent out, not shared: monty's is not `Sync`. Two evaluations of one text at the same time
//! therefore compile it twice, which is cheaper than waiting, and the second to return replaces the first.
//! A program whose evaluation panicked is never returned.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::sandbox::Program;

/// Entries kept. When full, everything goes: with so few conditions in use that hardly ever happens, and
/// the next round compiles them again, so keeping track of age would cost more than it saves.
const MAX_ENTRIES: usize = 512;

/// Text kept in all, because a compiled condition is about as large as its text allows it to be.
const MAX_TEXT: usize = 256 * 1024;

#[derive(Default)]
struct Cache {
    programs: HashMap<String, Program>,
    text: usize,
}

static CACHE: Mutex<Option<Cache>> = Mutex::new(None);

/// The program, if one is there; it comes with its key, to be returned with it.
pub(super) fn take(text: &str) -> Option<(String, Program)> {
    let mut guard = lock();
    let cache = guard.as_mut()?;
    let entry = cache.programs.remove_entry(text)?;
    cache.text -= text.len();
    Some(entry)
}

pub(super) fn put(text: String, program: Program) {
    let mut guard = lock();
    let cache = guard.get_or_insert_default();
    if cache.programs.len() >= MAX_ENTRIES || cache.text + text.len() > MAX_TEXT {
        *cache = Cache::default();
    }
    let length = text.len();
    if cache.programs.insert(text, program).is_none() {
        cache.text += length;
    }
}

/// Forgets everything, so that a test can measure what compiling costs.
#[cfg(test)]
pub(super) fn clear() {
    *lock() = None;
}

/// A panic while the lock was held leaves a map that is still whole, so a poisoned lock is no reason to stop.
fn lock() -> MutexGuard<'static, Option<Cache>> {
    CACHE.lock().unwrap_or_else(PoisonError::into_inner)
}
