//! Runs a program without a shell: standard input only if given, a restricted environment, and a guard that ends it with the
//! run and with the worker (Q7, Q8).

use std::ffi::OsString;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;

use super::guard::{Guarded, MARK, Order, Unguarded, end_strays, hint};
use super::log::{Kept, MOST};
use super::{Failure, Run, RunLog};

/// How a program ended.
pub(super) struct Ended {
    /// As in Python: the exit code, or the negative signal number.
    pub(super) return_code: i32,
    pub(super) stdout: String,
    pub(super) stderr: String,
    /// Text after `__VALUES__ = ` at the beginning of a line of standard output.
    pub(super) values: Option<Values>,
}

/// The line of values that a program printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Values {
    Text(String),
    /// Longer than the limit of a log.
    TooLong,
}

/// A program to run.
#[derive(Debug, Default)]
pub(super) struct Program {
    pub(super) argv: Vec<String>,
    /// Its standard input.
    pub(super) input: Option<String>,
    /// Environment variables in addition to those that every program gets.
    pub(super) variables: Vec<(String, String)>,
    /// Run by the guard after it had to end the program: cleans up what is not a descendant of the program.
    pub(super) cleanup: Vec<String>,
    /// A tool of ours, which always runs as the user of the worker.
    pub(super) is_own_tool: bool,
}

/// Runs a program to its end and logs its output at once. Its environment contains the labels in
/// `STUDYGOV_EXPERIMENT_LABEL`, `STUDYGOV_SUBJECT_LABEL` and `STUDYGOV_COHORT_LABEL`, and the run in `STUDYGOV_EXECUTION_ID`
/// and `STUDYGOV_ATTEMPT`.
///
/// # Errors
/// When it cannot be started, or its guard was killed.
pub(super) async fn run(program: Program, run: &Run<'_>) -> Result<Ended, Failure> {
    let Run { assignment, workplace, secret, log } = *run;
    let Some(binary) = program.argv.first().cloned() else { return Err(Failure("nothing to run".to_owned())) };
    let address = run.text("/api_uri").to_owned();
    let attempt = assignment.attempt;
    if attempt > 1 {
        end_strays_of(address.clone(), attempt - 1).await;
    }
    let environment = environment(&program, run);
    let order = Order {
        argv: program.argv,
        input: program.input,
        user: workplace.user.filter(|_| !program.is_own_tool),
        cleanup: program.cleanup,
    };
    let key = (assignment.execution_id, attempt);
    let mut guarded = Guarded::start(&order, &environment, &workplace.programs, key).await?;
    let (stdout, stderr) = (guarded.stdout.take(), guarded.stderr.take());
    let (out, error_output) = (Arc::new(Mutex::new(Output::default())), Arc::new(Mutex::new(Output::default())));
    let reading = async { tokio::join!(read(stdout, &out, log), read(stderr, &error_output, log)) };
    tokio::pin!(reading);
    let ended = tokio::select! {
        ended = guarded.ended() => {
            // Its last output may still be in the pipe, and a process in the background may hold the pipe open forever.
            if timeout(LAST_WORDS, &mut reading).await.is_err() {
                log.line("The program has ended, but a process that it started still holds its output; not waiting \
                    for it.");
            }
            ended
        }
        _ = &mut reading => guarded.ended().await,
    };
    let return_code = match ended {
        Ok(code) => code,
        Err(Unguarded::Refused(reason)) => return Err(Failure(reason)),
        Err(Unguarded::Lost) => {
            end_strays_of(address, attempt).await;
            let reason = "its guard process was killed, which also ended the program";
            return Err(Failure(format!("lost track of {binary}: {reason}")));
        }
    };
    if let Some(hint) = hint(&binary, return_code) {
        log.line(&hint);
    }
    let (out, error_output) = (taken(&out), taken(&error_output));
    Ok(Ended {
        return_code,
        stdout: out.kept.text(secret),
        stderr: error_output.kept.text(secret),
        values: out.values.found,
    })
}

async fn end_strays_of(address: String, last: i32) {
    if !address.is_empty() {
        // A panic there must not prevent the run.
        let _ = tokio::task::spawn_blocking(move || end_strays(&address, last)).await;
    }
}

/// The complete environment of a program: variables that the settings allow, the project's folders, and the run.
fn environment(program: &Program, run: &Run<'_>) -> Vec<(OsString, OsString)> {
    let Run { assignment, workplace, .. } = *run;
    let mut environment = workplace.environment.clone();
    let mut set = |name: &str, value: &str| environment.push((name.into(), value.into()));
    for (name, value) in &workplace.variables {
        set(name, value);
    }
    for kind in ["experiment", "subject", "cohort"] {
        let label = assignment.data.get(kind).and_then(|one| one.get("label")).and_then(|label| label.as_str());
        set(&format!("STUDYGOV_{}_LABEL", kind.to_uppercase()), label.unwrap_or_default());
    }
    set("STUDYGOV_EXECUTION_ID", &assignment.execution_id.to_string());
    set("STUDYGOV_ATTEMPT", &assignment.attempt.to_string());
    set(MARK, &format!("{}#{}", run.text("/api_uri"), assignment.attempt));
    for (name, value) in &program.variables {
        set(name, value);
    }
    environment
}

/// Limit for waiting for the output of a program that has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Output that a program wrote to one stream.
#[derive(Default)]
struct Output {
    kept: Kept,
    values: ValuesLine,
}

fn taken(output: &Mutex<Output>) -> Output {
    let mut output = std::mem::take(&mut *output.lock().unwrap_or_else(PoisonError::into_inner));
    output.values.end_line();
    output
}

/// Searches for the line of values while output is written, because the stored text may no longer contain it.
#[derive(Default)]
struct ValuesLine {
    line: Vec<u8>,
    is_too_long: bool,
    found: Option<Values>,
}

impl ValuesLine {
    const BEGINNING: &[u8] = b"__VALUES__ = ";

    fn push(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            // Only a line with this beginning is stored; a line of values may be as long as a log.
            let begins = self.line.len().min(Self::BEGINNING.len());
            if self.line[..begins] == Self::BEGINNING[..begins] {
                let room = (MOST + Self::BEGINNING.len()).saturating_sub(self.line.len());
                self.is_too_long |= part.trim_ascii_end().len() > room;
                self.line.extend_from_slice(&part[..part.len().min(room)]);
            }
            if part.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        if self.found.is_none()
            && let Some(values) = self.line.strip_prefix(Self::BEGINNING)
        {
            let text = || Values::Text(String::from_utf8_lossy(values).into_owned());
            self.found = Some(if self.is_too_long { Values::TooLong } else { text() });
        }
        self.line.clear();
        self.is_too_long = false;
    }
}

async fn read(stream: Option<impl AsyncRead + Unpin>, output: &Mutex<Output>, log: &RunLog) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; 16 * 1024];
    // A read error of a pipe means its end.
    while let Ok(count) = stream.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        log.push(&buffer[..count]);
        let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
        output.kept.push(&buffer[..count]);
        output.values.push(&buffer[..count]);
    }
}

/// The output of a small command of our own, if it succeeds; for commands whose output does not belong to the run.
pub(super) async fn quietly(argv: &[&str], run: &Run<'_>) -> Option<String> {
    let (binary, arguments) = argv.split_first()?;
    let mut command = Command::new(binary);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    command.env_clear().envs(run.workplace.environment.iter().map(|(name, value)| (name, value)));
    let output = timeout(Duration::from_secs(30), command.output()).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(output: &str, at_once: usize) -> Option<Values> {
        let mut line = ValuesLine::default();
        output.as_bytes().chunks(at_once).for_each(|part| line.push(part));
        line.end_line();
        line.found
    }

    #[test]
    fn the_line_of_values_is_found_whole_or_known_to_be_too_long() {
        let text = |text: &str| Some(Values::Text(text.to_owned()));
        for at_once in [1, 7, 4096] {
            assert_eq!(found("a\n__VALUES__ = {\"n\": 1}\n__VALUES__ = 2\n", at_once), text("{\"n\": 1}\n"));
            assert_eq!(found("__VALUES__ = 1", at_once), text("1"));
            assert_eq!(found(" __VALUES__ = 1\n__VALUES__=2\n", at_once), None);
        }
        let longest = format!("\"{}\"", "x".repeat(MOST - 2));
        for end in ["\n", "\r\n", ""] {
            let line = format!("__VALUES__ = {longest}{end}");
            assert!(matches!(found(&line, 16 * 1024), Some(Values::Text(text)) if text.trim_end() == longest));
            let line = format!("__VALUES__ = {longest}x{end}");
            assert_eq!(found(&line, 16 * 1024), Some(Values::TooLong));
        }
        assert_eq!(found(&format!("__VALUES__ = {longest}xx\nnoise\n"), 1000), Some(Values::TooLong));
    }
}
