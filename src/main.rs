//! Arguments in, exit code out.

use std::process::ExitCode;

use studygovernor::cli;
use studygovernor::workflow::condition;

fn main() -> ExitCode {
    // The interpreter of conditions is a process of its own, with hard limits: this program under another argument.
    // It must be asked for before anything else has begun.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "condition-worker") {
        return if condition::serve().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    cli::main()
}
