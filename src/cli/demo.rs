//! `studygovernor demo`

use std::path::{Path, PathBuf};

use clap::Args;
use rust_embed::Embed;

use crate::app::App;
use crate::callback::FUNCTIONS;
use crate::clock::Clock;
use crate::config::table::{
    APPLICATION_ROOT, SCRIPT_NAME, STUDYGOV_ADMIN_PASSWORD, STUDYGOV_ADMIN_USERNAME, STUDYGOV_EXTERNAL_HOSTNAME,
    STUDYGOV_HOST, STUDYGOV_PORT,
};
use crate::config::{Environment, Settings};
use crate::context::Context;
use crate::entity::kind::Origin;
use crate::import::{self, bids};
use crate::study::Label;
use crate::workflow;

use super::console::{err, progress};
use super::{Failure, serve, settings, working_directory};

/// Run the server with an example study: a real dataset of 16 participants and 32 sessions, in a quality-control
/// workflow
///
/// All data is stored in one folder, which can be deleted to remove the study. Log in as admin with the password admin,
/// unless STUDYGOV_ADMIN_USERNAME and STUDYGOV_ADMIN_PASSWORD are set.
#[derive(Args)]
pub(super) struct Demo {
    /// Folder for the example study
    #[arg(long, default_value = "demo")]
    home: PathBuf,
    /// Prepare the folder and exit without starting the server
    #[arg(long)]
    prepare_only: bool,
    /// Load the example into the configured study, with its files in the project home, and exit
    #[arg(long, conflicts_with_all = ["home", "prepare_only"])]
    load: bool,
}

#[derive(Embed)]
#[folder = "examples/faces/"]
struct Example;

impl Demo {
    pub(super) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let directory = working_directory()?;
        if self.load {
            let settings = settings()?;
            let home = settings.project.home.clone();
            unpack(&home)?;
            return prepare(ctx, &settings, &home).await;
        }
        let home = directory.join(&self.home);
        unpack(&home)?;
        let settings = Settings::read(&environment(&directory, &home)?, &directory)?;
        prepare(ctx, &settings, &home).await?;
        if self.prepare_only {
            return Ok(());
        }
        let web = &settings.web;
        let admin = settings.admin.as_ref().map_or("", |admin| admin.username.as_str());
        err(&format!("Open http://{}:{}{}/ and log in as {admin}.", web.host, web.port, web.prefix));
        Box::pin(serve::serve(ctx, settings)).await
    }
}

/// The environment, with the example's folder as project home and admin/admin as the default account. The demo never
/// uses another database.
fn environment(directory: &Path, home: &Path) -> Result<Environment, Failure> {
    let given = Environment::load(directory)?;
    let own = [STUDYGOV_HOST, STUDYGOV_PORT, SCRIPT_NAME, APPLICATION_ROOT, STUDYGOV_EXTERNAL_HOSTNAME];
    let mut entries: Vec<(String, String)> = vec![
        ("STUDYGOV_PROJECT_HOME".to_owned(), home.display().to_string()),
        ("STUDYGOV_XNAT_PROJECT".to_owned(), "faces".to_owned()),
        ("STUDYGOV_PROJECT_NAME".to_owned(), "faces".to_owned()),
        ("STUDYGOV_ADMIN_USERNAME".to_owned(), given.text_or(STUDYGOV_ADMIN_USERNAME, "admin")),
        ("STUDYGOV_ADMIN_PASSWORD".to_owned(), given.text_or(STUDYGOV_ADMIN_PASSWORD, "admin")),
    ];
    entries.extend(own.iter().filter_map(|name| Some((name.to_string(), given.get(*name)?.to_owned()))));
    Ok(entries.into_iter().collect())
}

/// Writes the files of the example that do not exist yet.
fn unpack(home: &Path) -> Result<(), Failure> {
    for name in Example::iter() {
        let (Some(file), Some(path)) = (Example::get(&name), place(home, &name)) else { continue };
        if path.exists() {
            continue;
        }
        let failed = |error: std::io::Error| Failure::Failed(format!("cannot write {}: {error}", path.display()));
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        std::fs::write(&path, &file.data).map_err(failed)?;
        if name.starts_with("bin/") {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
        }
    }
    Ok(())
}

/// The path of a file of the example in the project home.
fn place(home: &Path, name: &str) -> Option<PathBuf> {
    Some(match name.split_once('/') {
        Some(("bin", _)) => home.join(name),
        Some(("ds000117", _)) => home.join("data").join(name),
        None if name == "workflow.yaml" => home.join("workflows").join(name),
        None if name == "README.md" => home.join(name),
        _ => return None,
    })
}

/// Loads the workflow and imports the data set, unless that was done before.
async fn prepare(ctx: &Context, settings: &Settings, home: &Path) -> Result<(), Failure> {
    let app = App::start(ctx, settings.clone(), Clock::study()).await?;
    let file = home.join("workflows/workflow.yaml");
    let text = std::fs::read_to_string(&file)
        .map_err(|error| Failure::Failed(format!("cannot read {}: {error}", file.display())))?;
    let checked = workflow::check(&text, &FUNCTIONS);
    let Some(definition) = checked.definition else {
        return Err(Failure::Failed(format!(
            "{} has errors; run `studygovernor workflow check` to list them",
            file.display()
        )));
    };
    match workflow::load(ctx, app.engine.database(), &definition).await {
        Ok(_) | Err(workflow::WorkflowError::Exists(_)) => {}
        Err(error) => return Err(Failure::because(error)),
    }
    let options = bids::Options {
        cohort: Label::parse("faces").map_err(Failure::because)?,
        workflow: Some(definition.label),
        date_of_birth_default: None,
        scan_date_default: None,
    };
    let intake = bids::read(&home.join("data/ds000117"), &options).map_err(Failure::because)?;
    let ctx = &ctx.in_history_as("import", Origin::Import);
    let bar = progress(intake.sessions.len(), "experiments");
    let summary = import::write(ctx, &app.engine, &intake.sessions, false, |count| bar.inc(count as u64)).await;
    bar.finish_and_clear();
    let summary = summary.map_err(Failure::because)?;
    err(&format!(
        "The example study is in {}: {} sessions added, {} already present.",
        home.display(),
        summary.experiments,
        summary.known
    ));
    Ok(())
}
