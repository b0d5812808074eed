//! State of the study's repository in one process.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use chrono::NaiveDateTime;
use metrics::{counter, gauge};
use serde::Serialize;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::clock::Clock;
use crate::config::{ProjectSettings, RepositorySettings};

use super::checkout::Revision;
use super::files::{FileReport, report_files};
use super::remote::Repository;
use super::{SyncError, pause, short};

/// Time for which a process without a revision tries to get one before it ends.
const PATIENCE: Duration = Duration::from_secs(10);

/// The study's repository in one process.
#[derive(Debug)]
pub struct Project {
    settings: ProjectSettings,
    pub(super) repository: Repository,
    clock: Clock,
    /// Uses the revisions that servers name, and does not check for new ones.
    is_follower: bool,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Revision>,
    synced_at: Option<NaiveDateTime>,
    problem: Option<String>,
    files: Vec<FileReport>,
}

/// Status for pages and the API, without secrets.
#[derive(Debug, Clone, Serialize)]
pub struct ProjectStatus {
    /// The URL without a login.
    pub repository: String,
    /// The current revision: the full hash of its commit, and the short one.
    pub commit: Option<String>,
    pub revision: Option<String>,
    pub branch: Option<String>,
    /// Commit time, with an offset from UTC.
    pub committed_at: Option<String>,
    /// Time of the last successful sync, in UTC.
    pub synced_at: Option<NaiveDateTime>,
    /// Error of the last attempt.
    pub problem: Option<String>,
    /// The workflow files of the revision.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileReport>,
}

impl Project {
    /// The repository from the settings, without accessing it; `None` if none is configured.
    #[must_use]
    pub fn new(settings: &ProjectSettings, clock: Clock) -> Option<Self> {
        let repository = Repository::new(settings.repository.as_ref()?);
        Some(Self { settings: settings.clone(), repository, clock, is_follower: false, state: RwLock::default() })
    }

    /// For a worker without the database: it uses the revision that a server named last.
    #[must_use]
    pub fn following(self) -> Self {
        Self { is_follower: true, ..self }
    }

    /// The settings of the repository.
    #[must_use]
    pub fn repository(&self) -> &RepositorySettings {
        &self.repository.settings
    }

    /// The settings of the study's files, with the folders of a revision.
    #[must_use]
    pub fn settings_at(&self, revision: &Revision) -> ProjectSettings {
        self.settings.in_folder(&revision.folder)
    }

    /// The current revision.
    #[must_use]
    pub fn current(&self) -> Option<Revision> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).current.clone()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// The revision for a run: the one that the server names, or else the current one.
    ///
    /// # Errors
    /// When it is neither on this machine nor can be fetched.
    pub async fn revision(&self, commit: Option<&str>) -> Result<Revision, SyncError> {
        let current = self.current();
        let known = match (commit, current) {
            (None, Some(current)) => Some(current),
            (Some(commit), Some(current)) if commit == current.commit => Some(current),
            _ => None,
        };
        if let Some(known) = known {
            if self.is_follower {
                self.change(|state| state.problem = None);
            }
            return Ok(known);
        }
        let found = match commit {
            Some(commit) => self.repository.revision(commit).await,
            None => self.repository.newest().await,
        };
        match &found {
            Ok(revision) if self.is_follower => self.put_to_use(revision).await?,
            Ok(_) => {}
            Err(error) => self.fail(error),
        }
        found
    }

    /// Makes a revision current; runs in progress keep theirs.
    ///
    /// # Errors
    /// When the project home is not writable.
    pub(super) async fn put_to_use(&self, revision: &Revision) -> Result<(), SyncError> {
        if let Err(error) = self.repository.use_revision(revision).await {
            self.fail(&error);
            return Err(error);
        }
        if self.current().is_none_or(|current| current.commit != revision.commit) {
            let (revision, branch) = (short(&revision.commit), &revision.reference);
            info!(revision, branch, repository = self.repository().shown(), "the project's files are of this revision");
        }
        let now = self.clock.now();
        self.change(|state| {
            state.current = Some(revision.clone());
            state.synced_at = Some(now);
            state.problem = None;
        });
        counter!("studygovernor_project_syncs_total", "result" => "success").increment(1);
        gauge!("studygovernor_project_problem").set(0);
        Ok(())
    }

    /// Records an error; it is logged once.
    pub(super) fn fail(&self, error: &SyncError) {
        let text = error.to_string();
        let mut is_new = true;
        self.change(|state| {
            is_new = state.problem.as_ref() != Some(&text);
            state.problem = Some(text.clone());
        });
        if is_new {
            warn!("the project's repository cannot be used: {text}");
        }
        counter!("studygovernor_project_syncs_total", "result" => "failed").increment(1);
        gauge!("studygovernor_project_problem").set(1);
    }

    /// Records the result of checking the workflow files.
    pub fn note_files(&self, files: Vec<FileReport>) {
        self.change(|state| state.files = files);
    }

    /// Activates the last revision that was current on this machine; returns `false` if there is none.
    pub async fn resume(&self) -> bool {
        let Some(revision) = self.repository.current().await else { return false };
        let (revision_name, branch) = (short(&revision.commit), &revision.reference);
        info!(revision = revision_name, branch, "the project's files are of the revision that was used last");
        self.change(|state| state.current = Some(revision.clone()));
        true
    }

    /// Activates the newest revision on this machine and checks its workflow files. `functions` are the names that a
    /// callback may call.
    ///
    /// # Errors
    /// When the repository cannot be read, or the project home is not writable.
    pub async fn sync_here(&self, functions: &'static [&'static str]) -> Result<Vec<FileReport>, SyncError> {
        let revision = self.repository.newest().await?;
        self.put_to_use(&revision).await?;
        let files = report_files(&self.settings_at(&revision), functions, None, false).await;
        files.map_err(|error| SyncError::database(&error))
    }

    /// Syncs when a worker starts. A failed fetch is retried for a while; then an older revision is used.
    ///
    /// # Errors
    /// When there is no revision at all.
    pub async fn start(&self) -> Result<(), SyncError> {
        self.start_with(async || {
            let revision = self.repository.newest().await?;
            self.put_to_use(&revision).await
        })
        .await
    }

    /// As [`Self::start`], with another sync function.
    pub(super) async fn start_with(&self, sync: impl AsyncFn() -> Result<(), SyncError>) -> Result<(), SyncError> {
        let (began, mut tries) = (Instant::now(), 0);
        let error = loop {
            match sync().await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    self.fail(&error);
                    if !error.is_passing()
                        || began.elapsed() + pause(tries) > PATIENCE
                        || self.repository.shelf.current().is_some()
                    {
                        break error;
                    }
                }
            }
            sleep(pause(tries)).await;
            tries += 1;
        };
        if self.resume().await { Ok(()) } else { Err(error) }
    }

    /// The current status, for pages and the API.
    #[must_use]
    pub fn status(&self) -> ProjectStatus {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let current = state.current.as_ref();
        let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        ProjectStatus {
            repository: self.repository().shown().to_owned(),
            commit: current.map(|one| one.commit.clone()),
            revision: current.map(|one| short(&one.commit).to_owned()),
            branch: current.and_then(|one| given(&one.reference)),
            committed_at: current.and_then(|one| given(&one.committed_at)),
            synced_at: state.synced_at,
            problem: state.problem.clone(),
            files: state.files.clone(),
        }
    }
}
