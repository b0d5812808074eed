//! The workflow files of a revision: checked, compared with the loaded workflows, and loaded on request.

use std::path::{Path, PathBuf};

use sea_orm::DbErr;
use serde::Serialize;
use tracing::{info, warn};

use crate::config::ProjectSettings;
use crate::context::Context;
use crate::database::Database;
use crate::workflow::{self, Checked, Definition, WorkflowError, check_file, upgrade};

/// A workflow file of a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// Its path in the study's folder, for example `workflows/qc.yaml`.
    pub file: String,
    /// The label of its workflow, if the file has no errors.
    pub label: Option<String>,
    pub state: FileState,
    /// Its errors and warnings, with line and column, and the reason if it could not be loaded.
    pub problems: Vec<String>,
}

/// The result of checking a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileState {
    /// It has errors.
    Refused,
    /// It has no errors; without the database, this machine does not know whether it is loaded.
    Checked,
    /// No workflow has its label.
    New,
    /// It was loaded by this check.
    Loaded,
    /// The workflow with its label is the same.
    Same,
    /// The workflow with its label differs; `studygovernor workflow upgrade` would change it.
    Differs,
}

impl FileReport {
    /// Whether it has errors.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.state == FileState::Refused
    }

    /// The result, as text.
    #[must_use]
    pub fn words(&self) -> String {
        let label = self.label.as_deref().unwrap_or_default();
        match self.state {
            FileState::Refused => "has errors and is not used".to_owned(),
            FileState::Checked => format!("workflow {label} has no errors"),
            FileState::New => format!("workflow {label} is new and not loaded"),
            FileState::Loaded => format!("workflow {label} is loaded"),
            FileState::Same => format!("workflow {label} is loaded and the same"),
            FileState::Differs => format!("workflow {label} is loaded and differs from the file"),
        }
    }
}

/// Checks all workflow files of a project and compares them with the database; with `load`, new workflows are loaded, each
/// completely or not at all. `functions` are the names that a callback may call. Problems are logged.
pub async fn report_files(
    project: &ProjectSettings,
    functions: &'static [&'static str],
    database: Option<(&Context, &Database)>,
    load: bool,
) -> Result<Vec<FileReport>, DbErr> {
    let (home, folder) = (project.home.clone(), project.workflows.clone());
    // Checking a large file takes seconds.
    let checked = tokio::task::spawn_blocking(move || check_all(&home, &folder, functions)).await;
    let checked = checked.map_err(|error| DbErr::Custom(format!("the check of the workflow files failed: {error}")))?;
    let mut reports = Vec::new();
    for (file, checked) in checked {
        let problems = checked.problems.iter().map(ToString::to_string).collect();
        let label = checked.definition.as_ref().map(|definition| definition.label.clone());
        let state = if label.is_some() { FileState::Checked } else { FileState::Refused };
        let mut report = FileReport { file, label, state, problems };
        if let (Some((ctx, database)), Some(definition)) = (database, &checked.definition) {
            compare(ctx, &mut report, database, definition, load).await?;
        }
        log(&report);
        reports.push(report);
    }
    Ok(reports)
}

fn log(report: &FileReport) {
    for problem in &report.problems {
        warn!("{}: {problem}", report.file);
    }
    match report.state {
        FileState::Refused | FileState::Differs => warn!("{}: {}", report.file, report.words()),
        _ => info!("{}: {}", report.file, report.words()),
    }
}

async fn compare(
    ctx: &Context,
    report: &mut FileReport,
    database: &Database,
    definition: &Definition,
    load: bool,
) -> Result<(), DbErr> {
    report.state = match upgrade::plan(database, definition).await {
        Ok(plan) if plan.is_empty() => FileState::Same,
        Ok(_) => FileState::Differs,
        Err(WorkflowError::Database(error)) => return Err(error),
        Err(_) if !load => FileState::New,
        Err(_) => match workflow::load(ctx, database, definition).await {
            Ok(_) => FileState::Loaded,
            // Another server has just loaded it, or another file has the same label.
            Err(WorkflowError::Exists(_)) => FileState::Differs,
            Err(WorkflowError::Database(error)) => return Err(error),
            Err(error) => {
                report.problems.push(error.to_string());
                FileState::New
            }
        },
    };
    Ok(())
}

/// Checks the files in order of their names; paths are relative to `home`.
fn check_all(home: &Path, folder: &Path, functions: &[&str]) -> Vec<(String, Checked)> {
    let mut paths: Vec<PathBuf> = folder
        .read_dir()
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| is_ours(path, home))
        .collect();
    paths.sort_unstable();
    let mut checked = Vec::new();
    for path in paths {
        let shown = path.strip_prefix(home).unwrap_or(&path).display().to_string();
        match std::fs::read(&path) {
            Ok(bytes) => checked.push((shown, check_file(&bytes, functions))),
            Err(error) => warn!("{shown}: cannot be read: {error}"),
        }
    }
    checked
}

/// Whether this is a YAML file, and not a link to a file outside the study's folder.
fn is_ours(path: &Path, home: &Path) -> bool {
    let is_yaml = path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
    let is_inside = || match (path.canonicalize(), path.symlink_metadata()) {
        (Ok(real), Ok(entry)) => real.is_file() && (!entry.is_symlink() || real.starts_with(home)),
        _ => false,
    };
    is_yaml && is_inside()
}
