//! The guard of a program: this same binary in two processes between the worker and the program (Q8).
//!
//! The worker starts the outer guard with one end of a socket as its standard input and sends the order through it. The outer
//! guard starts the inner one in the same way, and the inner one starts the program. All three watch each other through the
//! sockets, which the kernel closes however their other end dies: when the worker or one of the guards is gone, the guard that
//! is left kills everything that descends from it. Both are subreapers, so a program that daemonises itself, with a session
//! of its own, is still a descendant.
//!
//! The guards keep the output of the program open only until it is started; what the program writes goes to the worker alone.

mod explain;
mod serve;
mod strays;
mod tree;

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::process::Stdio;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{ChildStderr, ChildStdout, Command};
use tokio::sync::Notify;

use super::Failure;

pub(super) use explain::hint;
pub use serve::serve;
pub(super) use strays::end_strays;

/// How our own program becomes a guard, and how guards are called in lists of processes.
pub const ARGUMENT: &str = "program-guard";

/// This program, even after an upgrade has replaced its file.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Names the attempt that a process belongs to, in its environment: `{address of the execution}#{attempt}`.
pub(super) const MARK: &str = "STUDYGOV_RUN";

/// The program and its arguments, when they are not the usual ones.
static COMMAND: OnceLock<(OsString, Vec<OsString>)> = OnceLock::new();

/// Sets which program calls [`serve`]; without this it is our own, with the argument [`ARGUMENT`]. For tests, whose own
/// program is the test runner. The first call counts.
pub fn use_guard(program: impl Into<OsString>, arguments: Vec<OsString>) {
    // A second call names the same program, or comes too late to matter.
    let _ = COMMAND.set((program.into(), arguments));
}

/// Another user of this machine, as whom programs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct As {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// What a guard is to run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) argv: Vec<String>,
    /// The standard input of the program; nothing is `/dev/null`.
    pub(super) input: Option<String>,
    /// The user of the program; nothing is that of the worker.
    pub(super) user: Option<As>,
    /// A command that the guard runs after it had to end the program, as for a container, which is not a descendant.
    pub(super) cleanup: Vec<String>,
}

/// What a guard reports to the worker, a line of JSON each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Message {
    /// It could not be started, and why.
    Refused(String),
    /// Its exit code, or minus the number of the signal.
    Ended(i32),
}

/// The programs of a worker that are not gone yet, by execution and attempt.
#[derive(Debug, Clone, Default)]
pub struct Programs {
    shared: Arc<(Mutex<Counts>, Notify)>,
}

/// How many programs each attempt has.
type Counts = HashMap<(i32, i32), usize>;

impl Programs {
    fn count(&self, attempt: (i32, i32)) -> usize {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).get(&attempt).copied().unwrap_or(0)
    }

    fn began(&self, attempt: (i32, i32)) {
        *self.shared.0.lock().unwrap_or_else(PoisonError::into_inner).entry(attempt).or_default() += 1;
    }

    fn ended(&self, attempt: (i32, i32)) {
        let mut counts = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&attempt) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&attempt);
            }
        }
        drop(counts);
        self.shared.1.notify_waiters();
    }

    /// Waits until nothing is left of the programs of an attempt.
    pub async fn gone(&self, execution_id: i32, attempt: i32) {
        loop {
            let changed = self.shared.1.notified();
            tokio::pin!(changed);
            // Before the look: a change in between is not missed.
            changed.as_mut().enable();
            if self.count((execution_id, attempt)) == 0 {
                return;
            }
            changed.await;
        }
    }
}

/// A guarded program. Dropped, the program ends with everything that it has started.
pub(super) struct Guarded {
    socket: BufReader<UnixStream>,
    pub(super) stdout: Option<ChildStdout>,
    pub(super) stderr: Option<ChildStderr>,
}

impl Guarded {
    /// Starts a program with this environment and no other. `attempt` is the execution and its attempt.
    ///
    /// # Errors
    /// When there is no guard. A program that cannot be started is an error of [`Self::ended`].
    pub(super) async fn start(
        order: &Order,
        environment: &[(OsString, OsString)],
        programs: &Programs,
        attempt: (i32, i32),
    ) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure(format!("cannot start the guard process of the program: {error}"));
        let (ours, theirs) = StdStream::pair().map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        let usual = || (THIS_PROGRAM.into(), vec![ARGUMENT.into()]);
        let (program, arguments) = COMMAND.get_or_init(usual);
        let mut command = Command::new(program);
        // Under a name of its own: `pkill studygovernor` ends the worker, and the guard ends the program.
        command.arg0(ARGUMENT).args(arguments).env_clear();
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(failed)?;
        // The command holds the other end of the socket, and would keep it from closing.
        drop(command);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        programs.began(attempt);
        let programs = programs.clone();
        tokio::spawn(async move {
            // Its exit code says nothing; what counts is that it is gone.
            let _ = child.wait().await;
            programs.ended(attempt);
        });
        let mut socket = UnixStream::from_std(ours).map_err(failed)?;
        let mut line = serde_json::to_string(order).map_err(|error| Failure(error.to_string()))?;
        line.push('\n');
        socket.write_all(line.as_bytes()).await.map_err(failed)?;
        Ok(Self { socket: BufReader::new(socket), stdout, stderr })
    }

    /// Waits for the end of the program: its exit code, or minus the number of the signal that ended it.
    ///
    /// # Errors
    /// When it could not be started, and when the guard was killed: then nothing is left of the program, or
    /// [`end_strays`] finds it.
    pub(super) async fn ended(&mut self) -> Result<i32, Unguarded> {
        let mut line = String::new();
        let count = self.socket.read_line(&mut line).await.unwrap_or(0);
        if count == 0 {
            return Err(Unguarded::Lost);
        }
        match serde_json::from_str(&line) {
            Ok(Message::Ended(code)) => Ok(code),
            Ok(Message::Refused(reason)) => Err(Unguarded::Refused(reason)),
            Err(_) => Err(Unguarded::Lost),
        }
    }
}

/// Why there is no exit code.
pub(super) enum Unguarded {
    /// The program could not be started, and why.
    Refused(String),
    /// The guard is gone without a word.
    Lost,
}
