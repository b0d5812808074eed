//! `studygovernor workflow …`

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use crate::callback::FUNCTIONS;
use crate::context::Context;
use crate::study::overview;
use crate::view::Templates;
use crate::workflow::{self, Definition, check, check_file, upgrade};

use super::console::{err, out};
use super::{Failure, settings, started_app};

/// Load, check and show workflows
#[derive(Subcommand)]
pub(super) enum Workflow {
    Load(Load),
    Check(Check),
    Upgrade(Upgrade),
    /// List the loaded workflows, newest first
    List,
    Show(Show),
    /// Print the JSON schema of workflow files, for editors
    Schema,
}

/// Load a workflow file under its label
#[derive(Args)]
pub(super) struct Load {
    /// Workflow file (YAML)
    file: PathBuf,
    /// Succeed without changes if the label is already loaded
    #[arg(long)]
    if_missing: bool,
}

/// Check workflow files and report all problems with line and column; exits with 1 if there are errors
#[derive(Args)]
pub(super) struct Check {
    /// Workflow files (YAML)
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Change a loaded workflow to match a file, completely or not at all
///
/// Shows the planned changes. Elements that the history refers to cannot be removed.
#[derive(Args)]
pub(super) struct Upgrade {
    /// Workflow file (YAML) with the label of the loaded workflow
    file: PathBuf,
    /// Apply the planned changes instead of only showing them
    #[arg(long)]
    apply: bool,
}

/// Draw a workflow from a file or from the database
#[derive(Args)]
#[command(visible_alias = "visualize")]
pub(super) struct Show {
    /// Workflow file, or the label or id of a loaded workflow
    source: String,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Dot)]
    format: Format,
    /// Write to this file instead of stdout
    #[arg(long, short)]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// Graphviz source
    Dot,
    /// SVG image
    Svg,
    /// JSON
    Json,
}

impl Workflow {
    pub(super) async fn run(self, ctx: &Context) -> Result<(), Failure> {
        match self {
            Self::Load(command) => command.run(ctx).await,
            Self::Check(command) => command.run(),
            Self::Upgrade(command) => command.run(ctx).await,
            Self::List => list(ctx).await,
            Self::Show(command) => command.run(ctx).await,
            Self::Schema => {
                out(check::SCHEMA.trim_end());
                Ok(())
            }
        }
    }
}

/// Reads the workflow in a file and prints every problem.
fn read(file: &Path) -> Result<Definition, Failure> {
    let bytes =
        std::fs::read(file).map_err(|error| Failure::Failed(format!("cannot read {}: {error}", file.display())))?;
    let checked = check_file(&bytes, &FUNCTIONS);
    for problem in &checked.problems {
        err(&format!("{}: {problem}", file.display()));
    }
    checked.definition.ok_or_else(|| {
        let errors = checked.errors;
        Failure::Failed(format!("{} has {errors} {}", file.display(), if errors == 1 { "error" } else { "errors" }))
    })
}

impl Load {
    async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let definition = read(&self.file)?;
        let app = started_app(ctx).await?;
        match workflow::load(ctx, app.engine.database(), &definition).await {
            Ok(row) => {
                err(&format!("workflow {} loaded with {} states", row.label, definition.states.len()));
                Ok(())
            }
            Err(workflow::WorkflowError::Exists(label)) if self.if_missing => {
                err(&format!("workflow {label} is already loaded"));
                Ok(())
            }
            Err(error @ workflow::WorkflowError::Exists(_)) => Err(Failure::Failed(format!(
                "{error} A new version requires a new label; to change the loaded one, \
                    use `upgrade`."
            ))),
            Err(error) => Err(Failure::because(error)),
        }
    }
}

impl Check {
    fn run(self) -> Result<(), Failure> {
        let mut failed = false;
        for file in &self.files {
            match read(file) {
                Ok(definition) => err(&format!(
                    "{}: workflow {} with {} states is valid",
                    file.display(),
                    definition.label,
                    definition.states.len()
                )),
                Err(Failure::Failed(message)) => {
                    err(&message);
                    failed = true;
                }
                Err(failure) => return Err(failure),
            }
        }
        if failed { Err(Failure::Told) } else { Ok(()) }
    }
}

impl Upgrade {
    async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let definition = read(&self.file)?;
        let app = started_app(ctx).await?;
        let database = app.engine.database();
        let plan = upgrade::plan(database, &definition).await.map_err(Failure::because)?;
        if plan.is_empty() {
            err(&format!("workflow {} is already up to date", definition.label));
            return Ok(());
        }
        for change in &plan.changes {
            out(change);
        }
        for obstacle in &plan.obstacles {
            err(&format!("not possible: {obstacle}"));
        }
        if !plan.obstacles.is_empty() {
            return Err(Failure::Failed(
                "elements that the history refers to cannot be removed; nothing was changed".to_owned(),
            ));
        }
        if !self.apply {
            err("dry run; use --apply to make these changes");
            return Ok(());
        }
        let done = upgrade::apply(ctx, database, &definition).await.map_err(Failure::because)?;
        err(&format!("workflow {}: {} changes applied", definition.label, done.changes.len()));
        Ok(())
    }
}

async fn list(ctx: &Context) -> Result<(), Failure> {
    let app = started_app(ctx).await?;
    let workflows = overview::workflows(ctx, app.engine.database().reader(), None).await.map_err(Failure::because)?;
    for row in workflows {
        out(&format!("{}\t{}\t{} states\t{} experiments", row.id, row.label, row.states.len(), row.experiments));
    }
    Ok(())
}

impl Show {
    async fn run(self, ctx: &Context) -> Result<(), Failure> {
        let file = Path::new(&self.source);
        let definition = if file.is_file() {
            read(file)?
        } else {
            let app = started_app(ctx).await?;
            let connection = app.engine.database().reader();
            let row = workflow::find(connection, &self.source)
                .await
                .map_err(|error| Failure::Failed(format!("{error}, and there is no such file")))?;
            workflow::read_definition(connection, &row).await.map_err(Failure::because)?
        };
        let text = match self.format {
            Format::Dot => workflow::to_dot(&definition),
            Format::Svg => {
                let settings = settings()?;
                let templates = Templates::new(&settings.web, &settings.security).map_err(Failure::because)?;
                templates.graph(&workflow::draw(&definition), &[], true).map_err(Failure::because)?
            }
            Format::Json => serde_json::to_string_pretty(&definition).map_err(Failure::because)?,
        };
        match &self.output {
            None => out(text.trim_end()),
            Some(path) => std::fs::write(path, text)
                .map_err(|error| Failure::Failed(format!("cannot write {}: {error}", path.display())))?,
        }
        Ok(())
    }
}
