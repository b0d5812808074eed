//! `studygovernor project …`, and the first sync of servers and workers

use std::sync::Arc;

use clap::{Args, Subcommand};

use crate::app::App;
use crate::callback::FUNCTIONS;
use crate::clock::Clock;
use crate::config::{Environment, ProjectSync, WorkSettings};
use crate::context::Context;
use crate::project::{self, FileReport, Keeper};

use super::console::{err, out};
use super::{Failure, started_app, working_directory};

/// Fetch the study's files from its git repository (PROJECT_REPO)
#[derive(Subcommand)]
pub(super) enum Project {
    Sync(Sync),
}

/// Fetch the newest revision of the branch, put it to use, and check its workflow files
///
/// Servers follow within seconds, workers with their next callback; running callbacks go on with the files that they began with. Prints
/// the revision, and each workflow file with what became of it. The exit code is 1 when the repository cannot be read, or a workflow
/// file has an error.
#[derive(Args)]
pub(super) struct Sync {
    /// Load the workflows whose labels are new, also when STUDYGOV_PROJECT_LOAD is off
    #[arg(long, conflicts_with = "here")]
    load: bool,
    /// Only fetch it into the project home of this machine, without the database; for workers
    #[arg(long)]
    here: bool,
}

impl Project {
    pub(super) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let Self::Sync(command) = self;
        Box::pin(command.run(ctx)).await
    }
}

impl Sync {
    async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let directory = working_directory()?;
        let settings = WorkSettings::read(&Environment::load(&directory)?, &directory)?;
        let unset =
            || Failure::Usage("PROJECT_REPO: is not set; it is the address of the study's repository".to_owned());
        let own = project::Project::new(&settings.project, Clock::System).ok_or_else(unset)?;
        let (project, files) = if self.here {
            let files = own.sync_here(&FUNCTIONS).await.map_err(Failure::because)?;
            (Arc::new(own), files)
        } else {
            let app = started_app(ctx).await?;
            let mut keeper = keeper(ctx, &app).ok_or_else(unset)?;
            keeper.loads_workflows |= self.load;
            let files = keeper.sync().await.map_err(Failure::because)?;
            (keeper.project, files)
        };
        let status = project.status();
        let branch = status.branch.unwrap_or_default();
        out(&format!("revision\t{}\t{branch}", status.commit.unwrap_or_default()));
        report(&files)
    }
}

/// Prints the reports of the files; fails if a file has errors.
fn report(files: &[FileReport]) -> Result<(), Failure> {
    for file in files {
        for problem in &file.problems {
            err(&format!("{}: {problem}", file.file));
        }
        out(&format!("{}\t{}", file.file, file.words()));
    }
    match files.iter().filter(|file| file.is_refused()).count() {
        0 => Ok(()),
        1 => Err(Failure::Failed("a workflow file of the repository has errors; the revision is in use".to_owned())),
        count => Err(Failure::Failed(format!(
            "{count} workflow files of the repository have errors; the revision is in use"
        ))),
    }
}

/// For servers, and for workers on the database. `None` without a repository.
fn keeper(ctx: &Context, app: &App) -> Option<Keeper> {
    let project = Arc::clone(app.project.as_ref()?);
    let loads_workflows = project.repository().loads_workflows;
    Some(Keeper { project, engine: app.engine.clone(), functions: &FUNCTIONS, loads_workflows, ctx: ctx.clone() })
}

/// Syncs the repository according to the settings, before a server or a worker on the database starts.
pub(super) async fn start(ctx: &Context, app: &App) -> Result<Option<Keeper>, Failure> {
    let Some(keeper) = keeper(ctx, app) else { return Ok(None) };
    keeper.start().await.map_err(Failure::because)?;
    Ok(Some(keeper))
}

/// The repository of a worker without a database: synced according to the settings; each claim then names the revision
/// to use.
pub(super) async fn follow(settings: &WorkSettings) -> Result<Option<Arc<project::Project>>, Failure> {
    let Some(project) = project::Project::new(&settings.project, Clock::System) else { return Ok(None) };
    let project = project.following();
    if project.repository().sync == ProjectSync::Off {
        project.resume().await;
    } else {
        project.start().await.map_err(Failure::because)?;
    }
    Ok(Some(Arc::new(project)))
}

/// The repository, with the revision that is in use on this machine. It is synced if no revision has been used yet.
pub(super) async fn on_this_machine(settings: &WorkSettings) -> Result<Option<project::Project>, Failure> {
    let Some(project) = project::Project::new(&settings.project, Clock::System) else { return Ok(None) };
    if !project.resume().await {
        project.start().await.map_err(Failure::because)?;
    }
    Ok(Some(project))
}
