//! Parses the arguments, runs the command and returns the exit code.

use std::process::ExitCode;

use studygovernor::callback::{GUARD_ARGUMENT, serve_guard};
use studygovernor::cli;
use studygovernor::config::seal_environment;
use studygovernor::workflow::condition;

/// Commands that move their secrets out of the environment: those that run callbacks, or may, and the one that runs git
/// with the login of the repository.
const KEEPS_SECRETS: [&str; 5] = ["serve", "worker", "demo", "callback", "project"];

fn main() -> ExitCode {
    // The interpreter of conditions is a separate process with hard limits: this program with another argument. Checked
    // before anything else starts.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "condition-worker") {
        return if condition::serve().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if std::env::args_os().nth(1).is_some_and(|argument| argument == GUARD_ARGUMENT) {
        // Its output is that of the guarded program, so it must not write anything of its own.
        return if serve_guard(std::env::args_os().len() > 2).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let keeps_secrets = std::env::args_os().nth(1).is_some_and(|name| KEEPS_SECRETS.iter().any(|one| name == *one));
    let sealed = if keeps_secrets { seal_environment() } else { Ok(()) };
    cli::main(sealed.err().as_ref())
}
