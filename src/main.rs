//! Arguments in, exit code out.

use std::process::ExitCode;

use studygovernor::callback::{GUARD_ARGUMENT, serve_guard};
use studygovernor::cli;
use studygovernor::config::seal_environment;
use studygovernor::workflow::condition;

/// Commands that run callbacks, or may, and that which runs git with the login of the repository.
const KEEPS_SECRETS: [&str; 5] = ["serve", "worker", "demo", "callback", "project"];

fn main() -> ExitCode {
    // The interpreter of conditions is a process of its own, with hard limits: this program under another argument.
    // It must be asked for before anything else has begun.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "condition-worker") {
        return if condition::serve().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if std::env::args_os().nth(1).is_some_and(|argument| argument == GUARD_ARGUMENT) {
        // Its output is that of the program that it guards: nothing of its own is written there.
        return if serve_guard(std::env::args_os().len() > 2).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let keeps_secrets = std::env::args_os().nth(1).is_some_and(|name| KEEPS_SECRETS.iter().any(|one| name == *one));
    let sealed = if keeps_secrets { seal_environment() } else { Ok(()) };
    cli::main(sealed.err().as_ref())
}
