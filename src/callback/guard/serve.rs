//! The guard process: reads its order, runs the program, and ends when its standard input closes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, Write, stdin};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{WaitOptions, WaitStatus, getpid, set_child_subreaper, setsid, wait};
use tokio::signal::unix::{SignalKind, signal};

use super::tree::kill_descendants;
use super::{ARGUMENT, Message, Order, THIS_PROGRAM, explain};

/// Second argument of the inner guard.
const INNER: &str = "inner";

/// Limit for one run of the cleanup command.
const CLEANUP: Duration = Duration::from_mins(1);

/// Guards one program until standard input closes. `main` calls this first when the process was started as a guard
/// ([`ARGUMENT`]). `is_inner` is true when that argument is followed by another one.
///
/// # Errors
/// When standard input is not the expected socket, or the process cannot become a guard.
pub fn serve(is_inner: bool) -> io::Result<()> {
    // Signals that are sent to `studygovernor` by name must not reach the guards, which end when the worker does.
    let _ = std::fs::write("/proc/self/comm", ARGUMENT);
    // Fails for the leader of a process group, such as the outer guard, which then has no terminal either.
    let _ = setsid();
    set_child_subreaper(Some(getpid()))?;
    ignore_signals()?;
    let above = UnixStream::from(stdin().as_fd().try_clone_to_owned()?);
    let mut lines = BufReader::new(above.try_clone()?);
    let mut text = String::new();
    lines.read_line(&mut text)?;
    let order: Order = serde_json::from_str(&text)?;
    let guard = Guard { above, is_over: Arc::default(), cleanup: order.cleanup.clone() };
    let watching = guard.try_clone()?;
    std::thread::spawn(move || {
        // No more data is sent: this returns when the other end closes.
        let _ = io::copy(&mut lines, &mut io::sink());
        watching.end();
    });
    if is_inner {
        guard.run(&order)
    } else {
        guard.relay(&text)?;
    }
    guard.end()
}

/// A service manager that stops a worker signals all its processes; programs may continue until the grace period ends.
fn ignore_signals() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _entered = runtime.enter();
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::quit()] {
        // The handler remains when the stream is dropped. Programs start with the default handlers.
        drop(signal(kind)?);
    }
    Ok(())
}

struct Guard {
    /// Socket to the worker, or to the outer guard.
    above: UnixStream,
    /// The program ended before the guard had to end it, or was never started.
    is_over: Arc<AtomicBool>,
    cleanup: Vec<String>,
}

/// Held by the thread that ends the process.
static ENDING: Mutex<()> = Mutex::new(());

impl Guard {
    fn try_clone(&self) -> io::Result<Self> {
        let above = self.above.try_clone()?;
        Ok(Self { above, is_over: Arc::clone(&self.is_over), cleanup: self.cleanup.clone() })
    }

    /// The outer guard: starts the inner one and forwards its messages until it ends.
    ///
    /// # Errors
    /// When the inner guard cannot be started.
    fn relay(&self, order: &str) -> io::Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(THIS_PROGRAM);
        command.arg0(ARGUMENT).args([ARGUMENT, INNER]).stdin(OwnedFd::from(theirs));
        command.spawn()?;
        drop(command);
        let_go_of_output();
        (&ours).write_all(order.as_bytes())?;
        for line in BufReader::new(ours).lines().map_while(Result::ok) {
            self.pass_on(&line);
        }
        // The inner guard ended; its descendants now belong to this process.
        Ok(())
    }

    /// The inner guard: runs the program, and waits for all its descendants.
    fn run(&self, order: &Order) -> ! {
        let started = start(order);
        let_go_of_output();
        let program = match started {
            Ok(id) => id,
            Err(reason) => {
                self.report(&Message::Refused(reason));
                park()
            }
        };
        loop {
            match wait(WaitOptions::empty()) {
                Ok(Some((id, status))) if id.as_raw_nonzero().get() == program => {
                    self.report(&Message::Ended(return_code(status)));
                }
                // An orphaned descendant has ended.
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                // There are no descendants left.
                Err(_) => park(),
            }
        }
    }

    fn report(&self, message: &Message) {
        self.pass_on(&serde_json::to_string(message).unwrap_or_default());
    }

    /// If writing fails, the other end has closed, and the other thread ends this process.
    fn pass_on(&self, line: &str) {
        self.is_over.store(true, Ordering::SeqCst);
        let _ = (&self.above).write_all(format!("{line}\n").as_bytes());
    }

    /// Kills all descendants of this process, then exits.
    fn end(&self) -> ! {
        let _ending = ENDING.lock().unwrap_or_else(PoisonError::into_inner);
        kill_descendants();
        if !self.is_over.load(Ordering::SeqCst) {
            clean_up(&self.cleanup);
        }
        std::process::exit(0)
    }
}

/// Waits until the other thread ends the process.
fn park() -> ! {
    loop {
        std::thread::park();
    }
}

/// Closes the guard's copies of the output, so that the output ends with the program.
fn let_go_of_output() {
    // Without /dev/null the worker waits a little longer for the end of the output, and logs that.
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

/// Starts the program in its own process group.
fn start(order: &Order) -> Result<i32, String> {
    let Some((binary, arguments)) = order.argv.split_first() else { return Err("nothing to run".to_owned()) };
    let stdin = match &order.input {
        None => Stdio::null(),
        Some(text) => input(text).map_err(|error| format!("cannot run {binary}: cannot create its input: {error}"))?,
    };
    let mut command = Command::new(binary);
    command.args(arguments).stdin(stdin).process_group(0);
    if let Some(user) = order.user {
        command.uid(user.uid).gid(user.gid);
    }
    match command.spawn() {
        // Its end is awaited together with that of all other descendants.
        Ok(child) => i32::try_from(child.id()).map_err(|error| error.to_string()),
        Err(error) => Err(format!("cannot run {binary}: {}", explain::reason(binary, &error))),
    }
}

/// A file in memory: it reads like a pipe, and a program that does not read all of it blocks nothing.
fn input(text: &str) -> io::Result<Stdio> {
    let mut file = File::from(memfd_create("input", MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file.into())
}

fn return_code(status: WaitStatus) -> i32 {
    status.exit_status().or_else(|| status.terminating_signal().map(|number| -number)).unwrap_or(-1)
}

/// Runs the command and repeats it after a pause: a container that Docker is just starting cannot be removed yet.
fn clean_up(command: &[String]) {
    let Some((binary, arguments)) = command.split_first() else { return };
    for pause in [0, 500, 2_000] {
        std::thread::sleep(Duration::from_millis(pause));
        let mut command = Command::new(binary);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(mut child) = command.spawn() else { return };
        let begun = Instant::now();
        loop {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return,
                Ok(None) if begun.elapsed() < CLEANUP => std::thread::sleep(Duration::from_millis(20)),
                // An error: another thread of this process has already waited for it.
                _ => break,
            }
        }
    }
}
