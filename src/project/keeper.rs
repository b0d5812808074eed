//! Keeps the study's files up to date on servers, and on workers that use the database: syncs at the start, checks for new
//! commits as configured, and follows the revision that another server or a command has recorded.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use crate::config::ProjectSync;
use crate::context::Context;
use crate::database::Database;
use crate::engine::Engine;

use super::files::{FileReport, report_files};
use super::noted::{Noted, note, noted, stored};
use super::{Project, SyncError, pause, short};

/// Interval of reading the recorded revision.
const LOOK: Duration = Duration::from_secs(5);

/// Keeps one process's files up to date.
#[derive(Debug, Clone)]
pub struct Keeper {
    pub project: Arc<Project>,
    pub engine: Engine,
    /// The names that a callback in a workflow file may call.
    pub functions: &'static [&'static str],
    /// Whether workflows with new labels are loaded.
    pub loads_workflows: bool,
    /// Workflows are loaded with this context.
    pub ctx: Context,
}

impl Keeper {
    fn database(&self) -> &Database {
        self.engine.database()
    }

    /// Syncs before a server starts. When the repository cannot be reached, the last revision is used, and the keeper tries
    /// again.
    ///
    /// # Errors
    /// When there is no revision at all.
    pub async fn start(&self) -> Result<(), SyncError> {
        match self.project.repository().sync {
            ProjectSync::Start | ProjectSync::Interval(_) => {
                self.project.start_with(async || self.sync().await.map(|_| ())).await?;
            }
            ProjectSync::Off => self.start_without_sync().await?,
        }
        self.hand_out();
        if self.project.status().files.is_empty() {
            self.check_files().await;
        }
        Ok(())
    }

    async fn start_without_sync(&self) -> Result<(), SyncError> {
        let row = self.noted().await?;
        if let Some(commit) = self.named(&row) {
            return self.project.start_with(async || self.follow(&commit).await).await;
        }
        if self.project.resume().await {
            return Ok(());
        }
        let problem = "is off, and this machine has no revision yet: run `studygovernor project sync`";
        Err(SyncError::setting("STUDYGOV_PROJECT_SYNC", problem))
    }

    /// Finds the newest revision of the branch, activates it and records it for the other servers; then checks its workflow
    /// files.
    ///
    /// # Errors
    /// When the repository has no such revision, or it cannot be recorded. The current revision then stays active.
    pub async fn sync(&self) -> Result<Vec<FileReport>, SyncError> {
        // Another server may record one at the same time; then the repository is read again.
        for _ in 0..5 {
            let before = self.noted().await?;
            let revision = self.project.repository.newest().await?;
            let what = (self.project.repository().shown(), revision.commit.as_str());
            let is_noted = note(self.database(), &before, what, self.engine.clock().now()).await;
            if is_noted.map_err(|error| SyncError::database(&error))? {
                self.project.put_to_use(&revision).await?;
                self.hand_out();
                return Ok(self.check_files().await);
            }
        }
        Err(SyncError::passing("PROJECT_REPO", "other servers have noted other revisions at the same time"))
    }

    /// Checks the workflow files of the current revision, and loads new workflows if the settings say so.
    async fn check_files(&self) -> Vec<FileReport> {
        let Some(revision) = self.project.current() else { return Vec::new() };
        let settings = self.project.settings_at(&revision);
        match report_files(&settings, self.functions, Some((&self.ctx, self.database())), self.loads_workflows).await {
            Ok(files) => {
                self.project.note_files(files.clone());
                files
            }
            Err(error) => {
                self.project.fail(&SyncError::database(&error));
                Vec::new()
            }
        }
    }

    async fn noted(&self) -> Result<Noted, SyncError> {
        noted(self.database()).await.map_err(|error| SyncError::database(&error))
    }

    /// The recorded commit, if it is from the configured repository.
    fn named(&self, row: &Noted) -> Option<String> {
        let own = stored(self.project.repository().shown());
        row.as_ref().filter(|row| row.repository == own).map(|row| row.commit_name.clone())
    }

    /// Activates the revision that another server has recorded.
    async fn follow(&self, commit: &str) -> Result<(), SyncError> {
        let revision = self.project.repository.revision(commit).await?;
        self.project.put_to_use(&revision).await?;
        self.hand_out();
        self.check_files().await;
        Ok(())
    }

    /// Makes claims name the current revision.
    fn hand_out(&self) {
        self.engine.revision().set(self.project.current().map(|revision| revision.commit));
    }
}

/// Keeps the current revision up to date until `stop`.
pub async fn keep(keeper: Keeper, mut stop: watch::Receiver<bool>) {
    // Replaces the context of the command that started it.
    let keeper = Keeper { ctx: Context::system("project"), ..keeper };
    let project = &keeper.project;
    let (mut tries, mut follow_tries) = (0, 0);
    let began = Instant::now();
    // A failed sync at the start is retried.
    let is_behind = project.status().problem.is_some() && project.repository().sync != ProjectSync::Off;
    let mut next = if is_behind { Some(began + pause(0)) } else { interval(project).map(|every| began + every) };
    let mut next_look = began + LOOK;
    loop {
        let at = next.map_or(next_look, |next| next.min(next_look));
        tokio::select! {
            () = sleep_until(at) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let work = async {
            if next.is_some_and(|next| next <= Instant::now()) {
                match keeper.sync().await {
                    Ok(_) => {
                        tries = 0;
                        next = interval(project).map(|every| Instant::now() + every);
                    }
                    Err(error) => {
                        project.fail(&error);
                        debug!(tries, "the project is synced again in a while");
                        next = Some(Instant::now() + pause(tries));
                        tries += 1;
                    }
                }
            }
            if next_look <= Instant::now() {
                next_look = Instant::now() + look(&keeper, &mut follow_tries).await;
            }
        };
        tokio::select! {
            () = work => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

fn interval(project: &Project) -> Option<Duration> {
    match project.repository().sync {
        ProjectSync::Interval(every) => Some(every),
        ProjectSync::Start | ProjectSync::Off => None,
    }
}

/// Follows the recorded revision; returns the time until the next check.
async fn look(keeper: &Keeper, tries: &mut u32) -> Duration {
    let row = match keeper.noted().await {
        Ok(row) => row,
        Err(error) => {
            debug!(%error, "cannot look which revision is noted");
            return LOOK;
        }
    };
    let current = keeper.project.current().map(|revision| revision.commit);
    let Some(commit) = keeper.named(&row).filter(|commit| Some(commit) != current.as_ref()) else {
        *tries = 0;
        return LOOK;
    };
    match keeper.follow(&commit).await {
        Ok(()) => {
            *tries = 0;
            LOOK
        }
        Err(error) => {
            warn!(commit = short(&commit), "the revision that the study uses cannot be used here yet");
            keeper.project.fail(&error);
            *tries += 1;
            LOOK.max(pause(*tries))
        }
    }
}
