//! The commit of the study repository that runs use. Claims contain it, so that all workers run the same files.

use std::sync::{Arc, PoisonError, RwLock};

/// The current commit; `None` if the study's files are not in a repository. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ProjectRevision(Arc<RwLock<Option<String>>>);

impl ProjectRevision {
    /// The full hash of the commit.
    #[must_use]
    pub fn get(&self) -> Option<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the commit for all later claims.
    pub fn set(&self, commit: Option<String>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = commit;
    }
}
