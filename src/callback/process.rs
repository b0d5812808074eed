//! Running a program: no shell, no standard input unless it is given one, a process group of its own that dies with the run (Q7).

use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use super::log::{Kept, MOST, clean};
use super::{Failure, Run, RunLog};

/// How a program ended.
pub(super) struct Ended {
    /// As Python has it: the exit code, or minus the number of the signal.
    pub(super) return_code: i32,
    pub(super) stdout: String,
    pub(super) stderr: String,
    /// What follows `__VALUES__ = ` at the beginning of a line of its standard output, however long that was.
    pub(super) values: Option<String>,
}

/// A running process group; dropped, it is killed. So a cancelled run leaves nothing behind.
struct Group {
    child: Child,
    id: Option<rustix::process::Pid>,
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            // It may have ended by itself; then there is nothing to kill, which is what we want.
            let _ = rustix::process::kill_process_group(id, rustix::process::Signal::KILL);
        }
    }
}

/// Runs `argv` to its end, with `input` on its standard input and these `variables` besides those of the worker; what it
/// writes goes to the log at once. It finds the labels of what it is about in
/// `STUDYGOV_EXPERIMENT_LABEL`, `STUDYGOV_SUBJECT_LABEL` and `STUDYGOV_COHORT_LABEL`, and which run it is in
/// `STUDYGOV_EXECUTION_ID` and `STUDYGOV_ATTEMPT`.
///
/// # Errors
/// When it cannot be started.
pub(super) async fn run(
    argv: &[String],
    input: Option<Vec<u8>>,
    variables: &[(String, String)],
    run: &Run<'_>,
) -> Result<Ended, Failure> {
    let Run { assignment, workplace, secret, log } = *run;
    let Some((binary, arguments)) = argv.split_first() else { return Err(Failure("nothing to run".to_owned())) };
    let mut command = Command::new(binary);
    command.args(arguments).stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    for name in &workplace.hidden_variables {
        command.env_remove(name);
    }
    command.envs(workplace.variables.iter().map(|(name, value)| (name, value)));
    for kind in ["experiment", "subject", "cohort"] {
        let label = assignment.data.get(kind).and_then(|one| one.get("label")).and_then(|label| label.as_str());
        command.env(format!("STUDYGOV_{}_LABEL", kind.to_uppercase()), label.unwrap_or_default());
    }
    command.env("STUDYGOV_EXECUTION_ID", assignment.execution_id.to_string());
    command.env("STUDYGOV_ATTEMPT", assignment.attempt.to_string());
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    let child = command.spawn().map_err(|error| Failure(format!("cannot run {binary}: {error}")))?;
    let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    let mut group = Group { child, id };
    let (stdout, stderr) = (group.child.stdout.take(), group.child.stderr.take());
    let (out, error_output) = (Arc::new(Mutex::new(Output::default())), Arc::new(Mutex::new(Output::default())));
    let writing = write(group.child.stdin.take(), input);
    let reading = async { tokio::join!(read(stdout, &out, log), read(stderr, &error_output, log), writing) };
    tokio::pin!(reading);
    let status = tokio::select! {
        status = group.child.wait() => {
            // What it wrote last is on its way. What it left in the background may hold its output open for ever.
            if timeout(LAST_WORDS, &mut reading).await.is_err() {
                log.line("The program has ended and left something running that still has its output; not waited for.");
            }
            status
        }
        _ = &mut reading => group.child.wait().await,
    };
    let status = status.map_err(|error| Failure(format!("lost sight of {binary}: {error}")))?;
    let (out, error_output) = (taken(&out), taken(&error_output));
    Ok(Ended {
        return_code: return_code(status),
        stdout: clean(&out.kept.text(), secret),
        stderr: clean(&error_output.kept.text(), secret),
        values: out.values.found,
    })
}

/// How long the output of a program that has ended is waited for.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What a program wrote to one of its outputs.
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

/// Looks for the line of values while the output passes by: the text that is kept may have lost it.
#[derive(Default)]
struct ValuesLine {
    line: Vec<u8>,
    found: Option<String>,
}

impl ValuesLine {
    const BEGINNING: &[u8] = b"__VALUES__ = ";

    fn push(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            // A line that begins differently is not kept; one of values may be as long as a log.
            let begins = self.line.len().min(Self::BEGINNING.len());
            if self.line[..begins] == Self::BEGINNING[..begins] && self.line.len() < MOST {
                self.line.extend_from_slice(part);
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
            self.found = Some(String::from_utf8_lossy(values).into_owned());
        }
        self.line.clear();
    }
}

/// A program that does not read its input to the end has not failed for that.
async fn write(stream: Option<ChildStdin>, input: Option<Vec<u8>>) {
    if let (Some(mut stream), Some(input)) = (stream, input) {
        let _ = stream.write_all(&input).await;
    }
}

async fn read(stream: Option<impl AsyncRead + Unpin>, output: &Mutex<Output>, log: &RunLog) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; 16 * 1024];
    // An error of a pipe is its end.
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

fn return_code(status: ExitStatus) -> i32 {
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    status.code().or_else(|| signal.map(|number| -number)).unwrap_or(-1)
}

/// What a small command of our own says, when it ends well; for what belongs to a run and is none of its output.
pub(super) async fn quietly(argv: &[&str]) -> Option<String> {
    let (binary, arguments) = argv.split_first()?;
    let mut command = Command::new(binary);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = timeout(Duration::from_secs(30), command.output()).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
