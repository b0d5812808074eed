//! The commit of the study's repository that runs use: handed out with claims, so that all workers run the same files.

use std::sync::{Arc, PoisonError, RwLock};

/// See the module; nothing where the files of the study do not come from a repository. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ProjectRevision(Arc<RwLock<Option<String>>>);

impl ProjectRevision {
    /// The whole name of the commit.
    #[must_use]
    pub fn get(&self) -> Option<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Claims from now on get this one.
    pub fn set(&self, commit: Option<String>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = commit;
    }
}
