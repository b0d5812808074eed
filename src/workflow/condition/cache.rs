//! Caches data about a condition by its text. Workflows have a few dozen conditions, each evaluated for every experiment, and compiling
//! costs more than running.

use std::collections::HashMap;

/// Maximum number of entries. A full cache is emptied: with so few conditions in use that hardly ever happens, and compiling them again
/// costs less than tracking their age.
const MAX_ENTRIES: usize = 512;

/// Maximum length of all cached texts, because an entry needs about as much memory as its text may cause.
const MAX_TEXT: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct Cache<T> {
    entries: HashMap<Box<str>, T>,
    text: usize,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { entries: HashMap::new(), text: 0 }
    }
}

impl<T> Cache<T> {
    pub(super) fn get(&self, text: &str) -> Option<&T> {
        self.entries.get(text)
    }

    pub(super) fn put(&mut self, text: &str, value: T) {
        if self.entries.len() >= MAX_ENTRIES || self.text + text.len() > MAX_TEXT {
            *self = Self::default();
        }
        if self.entries.insert(text.into(), value).is_none() {
            self.text += text.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded() {
        let mut cache = Cache::default();
        for n in 0..2_000 {
            cache.put(&n.to_string(), n);
            assert_eq!(cache.get(&n.to_string()), Some(&n));
            assert!(cache.entries.len() <= MAX_ENTRIES);
        }
        for n in 0..100 {
            cache.put(&n.to_string().repeat(9_000), n);
            assert!(cache.text <= MAX_TEXT);
        }
    }
}
