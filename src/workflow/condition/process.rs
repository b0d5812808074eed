//! The one worker process: started when first needed, kept between evaluations, replaced when it ended.
//!
//! One is enough: an evaluation takes microseconds, and one at a time also bounds what all of them take together.

use std::{
    ffi::OsString,
    io::{self, ErrorKind},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use super::{
    EvaluationError,
    worker::{Answer, Question, receive, send},
};

/// How long an answer may take. Far beyond the sandbox's own limit, which stops nearly everything and leaves the
/// worker alive: this is for the single step that it cannot interrupt, such as a product of huge numbers.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a worker may take to say that it is ready; a busy machine may need some of it.
const START: Duration = Duration::from_secs(10);

/// This program, even after an upgrade has replaced its file.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// The program and its arguments, when they are not the usual ones.
static COMMAND: OnceLock<(OsString, Vec<OsString>)> = OnceLock::new();

static WORKER: Mutex<Option<Worker>> = Mutex::new(None);

struct Worker {
    child: Child,
    socket: UnixStream,
}

impl Drop for Worker {
    /// Ended and waited for, so that nothing is left of it. Either fails only when it has ended already.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Says which program calls [`serve`](super::serve); without this it is our own, with the argument
/// `condition-worker`. For tests, whose own program is the test runner. The first call counts.
pub fn use_worker(program: impl Into<OsString>, arguments: Vec<OsString>) {
    // A second call names the same program, or comes too late to matter.
    let _ = COMMAND.set((program.into(), arguments));
}

/// Asks the worker. The outer error means that there is no answer, and that the worker is gone.
pub(super) fn ask(question: &Question) -> Result<Answer, EvaluationError> {
    // A poisoned lock holds no worker: it was taken out by whoever panicked.
    let mut slot = WORKER.lock().unwrap_or_else(PoisonError::into_inner);
    let mut worker = match slot.take().and_then(alive) {
        Some(worker) => worker,
        None => start().map_err(|error| EvaluationError::Unavailable(error.to_string()))?,
    };
    let answer =
        send(&mut worker.socket, question).and_then(|()| receive(&mut worker.socket)).map_err(|error| lost(&error))?;
    *slot = Some(worker);
    Ok(answer)
}

/// A worker may have been ended from outside, by the kernel or by hand, and that is not the next question's fault.
fn alive(mut worker: Worker) -> Option<Worker> {
    matches!(worker.child.try_wait(), Ok(None)).then_some(worker)
}

/// Late, or ended by itself: then it ran out of memory, or out of stack.
fn lost(error: &io::Error) -> EvaluationError {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => EvaluationError::TooSlow,
        _ => EvaluationError::TooLarge,
    }
}

fn start() -> io::Result<Worker> {
    let (socket, theirs) = UnixStream::pair()?;
    socket.set_read_timeout(Some(START))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let child =
        command().env_clear().stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let mut worker = Worker { child, socket };
    receive::<()>(&mut worker.socket)?;
    worker.socket.set_read_timeout(Some(PATIENCE))?;
    Ok(worker)
}

fn command() -> Command {
    let usual = || (THIS_PROGRAM.into(), WORKER_ARGUMENTS.iter().map(Into::into).collect());
    let (program, arguments) = COMMAND.get_or_init(usual);
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// How our own program becomes a worker.
const WORKER_ARGUMENTS: &[&str] = &["condition-worker"];
