//! The guard of a program: two processes of this binary between the worker and the program (Q8).
//!
//! The worker starts the outer guard with one end of a socket as its standard input and sends the order through it. The
//! outer guard starts the inner one in the same way, and the inner one starts the program. All three watch each other
//! through the sockets, which the kernel closes in whatever way the other end dies: when the worker or a guard has died, the
//! remaining guard kills all its descendants. Both are subreapers, so a program that daemonises itself in its own session is
//! still a descendant.
//!
//! The guards close their copies of the program's output once it has started, so that only the worker reads it to its end.

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

/// Argument that turns our own program into a guard, and the name of guards in process lists.
pub const ARGUMENT: &str = "program-guard";

/// This program, even after an upgrade has replaced its file.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Environment variable that names the attempt of a process: `{URL of the execution}#{attempt}`.
pub(super) const MARK: &str = "STUDYGOV_RUN";

/// The guard program and its arguments, if they are not the default.
static COMMAND: OnceLock<(OsString, Vec<OsString>)> = OnceLock::new();

/// Sets the program that calls [`serve`]; the default is our own with the argument [`ARGUMENT`]. For tests, whose own
/// program is the test runner. Only the first call has an effect.
pub fn use_guard(program: impl Into<OsString>, arguments: Vec<OsString>) {
    // A second call either names the same program or is too late.
    let _ = COMMAND.set((program.into(), arguments));
}

/// The user of this machine that programs run as, if it is not the worker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct As {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// A guard's order: the program to run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) argv: Vec<String>,
    /// Standard input of the program; `None` means `/dev/null`.
    pub(super) input: Option<String>,
    /// User of the program; `None` means the user of the worker.
    pub(super) user: Option<As>,
    /// Command that the guard runs after ending the program early, for example to remove a container, which is not a
    /// descendant.
    pub(super) cleanup: Vec<String>,
}

/// Message of a guard to the worker, one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Message {
    /// The program could not be started, with the reason.
    Refused(String),
    /// Exit code, or the negative signal number.
    Ended(i32),
}

/// Programs of a worker that have not ended completely, by execution and attempt.
#[derive(Debug, Clone, Default)]
pub struct Programs {
    shared: Arc<(Mutex<Counts>, Notify)>,
}

/// Number of programs per attempt.
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

    /// Waits until all programs of an attempt have ended.
    pub async fn gone(&self, execution_id: i32, attempt: i32) {
        loop {
            let changed = self.shared.1.notified();
            tokio::pin!(changed);
            // Enabled before the check, so that a change in between is not missed.
            changed.as_mut().enable();
            if self.count((execution_id, attempt)) == 0 {
                return;
            }
            changed.await;
        }
    }
}

/// A guarded program. Dropping this kills the program and all its descendants.
pub(super) struct Guarded {
    socket: BufReader<UnixStream>,
    pub(super) stdout: Option<ChildStdout>,
    pub(super) stderr: Option<ChildStderr>,
}

impl Guarded {
    /// Starts a program with exactly this environment. `attempt` is the execution and its attempt.
    ///
    /// # Errors
    /// When the guard cannot be started. A program that cannot be started is an error of [`Self::ended`].
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
        // With its own name: `pkill studygovernor` ends the worker, and then the guard ends the program.
        command.arg0(ARGUMENT).args(arguments).env_clear();
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(failed)?;
        // The command holds the other end of the socket and would keep it open.
        drop(command);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        programs.began(attempt);
        let programs = programs.clone();
        tokio::spawn(async move {
            // The exit code of the guard is irrelevant; only its end counts.
            let _ = child.wait().await;
            programs.ended(attempt);
        });
        let mut socket = UnixStream::from_std(ours).map_err(failed)?;
        let mut line = serde_json::to_string(order).map_err(|error| Failure(error.to_string()))?;
        line.push('\n');
        socket.write_all(line.as_bytes()).await.map_err(failed)?;
        Ok(Self { socket: BufReader::new(socket), stdout, stderr })
    }

    /// Waits for the end of the program; returns its exit code, or the negative number of the signal that ended it.
    ///
    /// # Errors
    /// When it could not be started, or when the guard was killed: then the program has ended, or [`end_strays`] finds it.
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
    /// The program could not be started, with the reason.
    Refused(String),
    /// The guard ended without a message.
    Lost,
}
