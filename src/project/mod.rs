//! The study's files from a git repository: a branch is looked at → its commit fetched → checked out into a folder of its own → put to
//! use → replaced by a newer one, and deleted when nothing runs from it.
//!
//! [`Project`] is the repository as one process sees it: where the files are now, and the last error. The [`keeper`](keep) of a server looks
//! for new commits and notes in the database which one the study uses; other servers follow it. A run uses the commit that is handed
//! out with its claim, on whichever machine. See `docs/decisions/0031-the-studys-repository.md`.

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

/// Why there is no such revision: a sentence with the name of the setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {problem}")]
pub struct SyncError {
    variable: &'static str,
    problem: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It may work in a moment.
    Passing,
    /// It works when the setting or the repository is another one.
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

    /// Whether the same may work in a moment.
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

/// 1 s, 2 s, 4 s, … at most a minute.
#[must_use]
pub fn pause(tries: u32) -> Duration {
    Duration::from_secs(1 << tries.min(6)).min(Duration::from_mins(1))
}

/// The letters of a commit that people read.
#[must_use]
pub fn short(commit: &str) -> &str {
    commit.get(..10).unwrap_or(commit)
}
