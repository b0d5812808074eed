//! The command line, one file per subcommand. Data goes to stdout, messages to stderr.
//!
//! Exit codes: 0 success, 1 failure, 2 wrong arguments or settings.

mod audit;
mod callback;
mod completions;
mod console;
mod db;
mod demo;
mod health;
mod import;
mod kubernetes;
mod log;
mod project;
mod secrets;
mod serve;
mod show_settings;
mod user;
mod worker;
mod workflow;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::app::{App, StartError};
use crate::clock::Clock;
use crate::config::{Environment, SettingError, Settings};
use crate::context::Context;
use console::err;

/// Workflow governance for imaging studies: the state, the callbacks and the history of every scan session.
///
/// Settings come from environment variables and a file .env in the working directory.
#[derive(Parser)]
#[command(name = "studygovernor", version, propagate_version = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Serve),
    Worker(worker::Worker),
    #[command(subcommand)]
    Callback(callback::Callback),
    #[command(subcommand)]
    Db(db::Db),
    #[command(subcommand)]
    Workflow(workflow::Workflow),
    #[command(subcommand)]
    Project(project::Project),
    #[command(subcommand)]
    Import(import::Import),
    #[command(subcommand)]
    User(user::User),
    #[command(subcommand)]
    Audit(audit::Audit),
    Demo(demo::Demo),
    Health(health::Health),
    #[command(subcommand)]
    Kubernetes(kubernetes::Kubernetes),
    #[command(subcommand)]
    Secrets(secrets::Secrets),
    Settings(show_settings::ShowSettings),
    Completions(completions::Completions),
    Manual(completions::Manual),
}

/// Why a command failed.
enum Failure {
    /// Arguments or settings are wrong.
    Usage(String),
    /// The command failed.
    Failed(String),
    /// The command failed and has already printed everything about it.
    Told,
}

impl From<SettingError> for Failure {
    fn from(error: SettingError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Failure {
    /// For `map_err`.
    fn because(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Runs the command of the arguments. `unsealed` is the reason why the secrets could not be removed from the
/// environment.
#[must_use]
pub fn main(unsealed: Option<&std::io::Error>) -> ExitCode {
    let arguments = Arguments::parse();
    // An environment that cannot be read is reported by the command that needs it.
    let environment = std::env::current_dir().ok().and_then(|directory| Environment::load(&directory).ok());
    let log = match log::start(&environment.unwrap_or_default()) {
        Ok(log) => log,
        Err(error) => {
            err(&format!("error: {error}"));
            return ExitCode::from(2);
        }
    };
    if let Some(error) = unsealed {
        tracing::warn!(%error, "secrets cannot be removed from the environment of this process; other programs of the \
            same user can read them");
    }
    // One TLS provider for the whole program; the only possible error is that it is already installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            err(&format!("error: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let person =
        std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "the command line".to_owned());
    let outcome = runtime.block_on(run(&Context::command_line(&person), arguments.command));
    // First the log, which explains the error that is printed next.
    log.finish();
    match outcome {
        Ok(()) => match console::lost() {
            None => ExitCode::SUCCESS,
            Some(reason) => {
                err(&format!("error: cannot write to stdout: {reason}"));
                ExitCode::FAILURE
            }
        },
        Err(Failure::Told) => ExitCode::FAILURE,
        Err(Failure::Failed(message)) => {
            err(&format!("error: {message}"));
            ExitCode::FAILURE
        }
        Err(Failure::Usage(message)) => {
            err(&format!("error: {message}"));
            ExitCode::from(2)
        }
    }
}

async fn run(ctx: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(command) => Box::pin(command.run(ctx)).await,
        Command::Worker(command) => command.run(ctx).await,
        Command::Callback(command) => command.run().await,
        Command::Db(command) => command.run().await,
        Command::Workflow(command) => command.run(ctx).await,
        Command::Project(command) => Box::pin(command.run(ctx)).await,
        Command::Import(command) => Box::pin(command.run(ctx)).await,
        Command::User(command) => Box::pin(command.run(ctx)).await,
        Command::Audit(command) => Box::pin(command.run(ctx)).await,
        Command::Demo(command) => Box::pin(command.run(ctx)).await,
        Command::Health(command) => command.run().await,
        Command::Kubernetes(command) => command.run().await,
        Command::Secrets(command) => command.run(),
        Command::Settings(command) => command.run(),
        Command::Completions(command) => command.run(),
        Command::Manual(command) => command.run(),
    }
}

fn working_directory() -> Result<PathBuf, Failure> {
    std::env::current_dir().map_err(|error| Failure::Failed(format!("the working directory does not exist: {error}")))
}

/// Reads the settings from the environment. Doubtful settings are logged, wrong ones end the command.
fn settings() -> Result<Settings, Failure> {
    let directory = working_directory()?;
    let settings = Settings::read(&Environment::load(&directory)?, &directory)?;
    Ok(settings)
}

fn warn_about(settings: &Settings) {
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
}

/// For commands that work on the study: connects and migrates the tables.
async fn started_app(ctx: &Context) -> Result<App, Failure> {
    Ok(App::start(ctx, settings()?, Clock::study()).await?)
}

/// For commands that manage the database itself.
async fn connected_app() -> Result<App, Failure> {
    Ok(App::connect(settings()?, Clock::study()).await?)
}
