//! The study's files from a git repository: the branch is read → its commit fetched → checked out into its own folder →
//! activated → replaced by a newer one, and deleted when no run uses it.
//!
//! [`Project`] is the repository in one process: the folder of its files, and the last error. The [`keeper`](keep) of a
//! server checks for new commits and records the current one in the database; other servers follow it. A run uses the commit
//! named by its claim, on any machine. See `docs/decisions/0031-the-studys-repository.md`.

mod checkout;
mod files;
mod git;
mod keeper;
mod noted;
mod remote;
mod status;

use std::time::Duration;

pub use checkout::Revision;
pub use files::{FileReport, FileState, report_files};
pub use keeper::{Keeper, keep};
pub use noted::{Noted, noted};
pub use status::{Project, ProjectStatus};

/// Why a revision is unavailable: one sentence with the name of the setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {problem}")]
pub struct SyncError {
    variable: &'static str,
    problem: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A retry may succeed.
    Passing,
    /// The setting or the repository must be changed.
    Setting,
    /// The repository has no such commit.
    Missing,
}

impl SyncError {
    fn passing(variable: &'static str, problem: impl Into<String>) -> Self {
        Self { variable, problem: problem.into(), kind: Kind::Passing }
    }

    fn setting(variable: &'static str, problem: impl Into<String>) -> Self {
        Self { variable, problem: problem.into(), kind: Kind::Setting }
    }

    fn missing(variable: &'static str, problem: impl Into<String>) -> Self {
        Self { variable, problem: problem.into(), kind: Kind::Missing }
    }

    /// The database failed, not the repository.
    fn database(error: &sea_orm::DbErr) -> Self {
        Self::passing("PROJECT_REPO", format!("the revision in use cannot be read or noted in the database: {error}"))
    }

    /// Whether a retry may succeed.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        self.kind == Kind::Passing
    }

    /// Whether the repository has no such commit.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.kind == Kind::Missing
    }
}

/// Pause before a retry: 1 s, 2 s, 4 s, … at most a minute.
#[must_use]
pub fn pause(tries: u32) -> Duration {
    Duration::from_secs(1 << tries.min(6)).min(Duration::from_mins(1))
}

/// The short hash of a commit, for messages and pages.
#[must_use]
pub fn short(commit: &str) -> &str {
    commit.get(..10).unwrap_or(commit)
}
