//! The condition worker process: started when first needed, reused for later evaluations, replaced when it has ended.
//!
//! One process is enough: an evaluation takes microseconds, and evaluating one at a time also bounds their total cost.
//!
//! A result counts only if the worker reported it. A worker that was killed, stopped or starved says nothing about the condition, so the
//! evaluation is repeated. A limit that the expression reached in the worker (processor time, memory, stack) counts when it was reached
//! twice.

use std::{
    ffi::OsString,
    io::{self, ErrorKind, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream, unix::process::ExitStatusExt},
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;

use super::{
    Evaluated, EvaluationError,
    sandbox::REACHED,
    worker::{Answer, Question, Verdict, packed},
};

/// Maximum processor time of an answer. It is far beyond the sandbox's own limit, which stops nearly all expressions and leaves the worker
/// alive; this limit stops a single step that the sandbox cannot interrupt, such as a product of huge numbers.
const MAX_PROCESSOR: Duration = Duration::from_millis(500);

/// Interval at which a worker that has not answered is checked.
const SLICE: Duration = Duration::from_millis(50);

/// A worker that uses no processor time for this long without answering is replaced: a busy machine may schedule it again, but a frozen
/// process would never answer.
const MAX_STILL: Duration = Duration::from_secs(3);

/// Maximum number of times that a worker may be found stopped during one question.
const MOST_STOPS: u32 = 40;

/// The path of this program, which stays valid after an upgrade has replaced the file.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// A program and arguments to use instead of the usual ones.
static COMMAND: OnceLock<(OsString, Vec<OsString>)> = OnceLock::new();

static WORKER: Mutex<Option<Worker>> = Mutex::new(None);

struct Worker {
    child: Child,
    socket: UnixStream,
    /// The error output of the runtime before it aborts: out of memory, out of stack.
    last_words: Option<ChildStderr>,
}

impl Drop for Worker {
    /// Kills the process and waits for it, so that no zombie remains. Both calls fail only if it has ended already.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sets the program that calls [`serve`](super::serve); the default is this program with the argument `condition-worker`. Tests need it,
/// because their own program is the test runner. Only the first call has an effect.
pub fn use_worker(program: impl Into<OsString>, arguments: Vec<OsString>) {
    // A second call names the same program, or is too late to matter.
    let _ = COMMAND.set((program.into(), arguments));
}

/// The id of the present worker process. For tests that kill or stop it.
#[must_use]
pub fn worker_id() -> Option<u32> {
    WORKER.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|worker| worker.child.id())
}

/// Reason why there is no answer.
enum Lost {
    /// The expression reached a limit.
    Limit(EvaluationError),
    /// The cause has nothing to do with the expression.
    Outside(String),
}

/// Sends the question until there is an answer, for at most `patience`.
///
/// # Errors
/// [`EvaluationError::Unavailable`] if there was no answer in that time, with the reason of the last try.
pub(super) fn ask(question: &Question, patience: Duration) -> Result<Evaluated, EvaluationError> {
    // A poisoned lock holds no worker: the thread that panicked had taken it out.
    let mut slot = WORKER.lock().unwrap_or_else(PoisonError::into_inner);
    let until = Instant::now() + patience;
    let (mut spent, mut reached, mut losses) = (Duration::ZERO, 0, 0);
    loop {
        let why = match try_once(&mut slot, question, until) {
            Ok(answer) => {
                spent += answer.spent;
                match answer.verdict {
                    Verdict::Evaluated(outcome) => return Ok(Evaluated { outcome, spent }),
                    Verdict::Starved => "the machine is too busy".to_owned(),
                }
            }
            Err(Lost::Limit(error)) => {
                spent += MAX_PROCESSOR;
                reached += 1;
                if reached >= REACHED {
                    return Ok(Evaluated { outcome: Err(error), spent });
                }
                continue;
            }
            Err(Lost::Outside(why)) => why,
        };
        metrics::counter!("studygovernor_condition_retries_total").increment(1);
        tracing::debug!(why, "no response for a condition; retrying");
        if Instant::now() >= until {
            tracing::warn!(why, "evaluating a condition timed out");
            return Err(EvaluationError::Unavailable(why));
        }
        losses += 1;
        // The first retries follow at once: a worker that was killed by chance is soon replaced.
        std::thread::sleep(Duration::from_millis(10) * u32::saturating_sub(losses, 3).min(20));
    }
}

fn try_once(slot: &mut Option<Worker>, question: &Question, until: Instant) -> Result<Answer, Lost> {
    let outside = |error: io::Error| Lost::Outside(error.to_string());
    let mut worker = match slot.take().and_then(alive) {
        Some(worker) => worker,
        None => start(until)?,
    };
    let message = packed(question).map_err(outside)?;
    let mut watch = Watch::begin(&worker, until);
    match exchange(&mut worker, &message, &mut watch) {
        Ok(answer) => {
            *slot = Some(worker);
            Ok(answer)
        }
        Err(Silence::Lost(lost)) => Err(lost),
        Err(Silence::Closed(error)) => Err(worker.ended(&error)),
    }
}

/// Discards a worker that has ended between two questions, killed by the kernel or an administrator: the next question is not to blame.
fn alive(mut worker: Worker) -> Option<Worker> {
    matches!(worker.child.try_wait(), Ok(None)).then_some(worker)
}

/// Reason why an exchange was not completed.
enum Silence {
    Lost(Lost),
    Closed(io::Error),
}

fn exchange<T: DeserializeOwned>(worker: &mut Worker, message: &[u8], watch: &mut Watch) -> Result<T, Silence> {
    let mut rest = message;
    while !rest.is_empty() {
        match worker.socket.write(rest) {
            Ok(written) => rest = &rest[written..],
            Err(error) => watch.bear(error)?,
        }
    }
    let mut length = [0; 4];
    fill(worker, &mut length, watch)?;
    let mut body = Vec::new();
    let mut left = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    // Allocates while reading: a wrong length must not reserve that much memory.
    while left > 0 {
        let mut chunk = vec![0; left.min(64 * 1024)];
        fill(worker, &mut chunk, watch)?;
        left -= chunk.len();
        body.extend(chunk);
    }
    postcard::from_bytes(&body).map_err(|error| Silence::Lost(Lost::Outside(error.to_string())))
}

fn fill(worker: &mut Worker, buffer: &mut [u8], watch: &mut Watch) -> Result<(), Silence> {
    let mut filled = 0;
    while filled < buffer.len() {
        match worker.socket.read(&mut buffer[filled..]) {
            Ok(0) => return Err(Silence::Closed(ErrorKind::UnexpectedEof.into())),
            Ok(count) => filled += count,
            Err(error) => watch.bear(error)?,
        }
    }
    Ok(())
}

/// Observes a worker that has not answered yet.
struct Watch {
    process: u32,
    until: Instant,
    began: Duration,
    /// The processor time when it last increased, and the time of that.
    seen: (Duration, Instant),
    /// Number of times that it was found stopped.
    stops: u32,
}

impl Watch {
    fn begin(worker: &Worker, until: Instant) -> Self {
        let process = worker.child.id();
        let began = look(process).map(|(_, used)| used).unwrap_or_default();
        Self { process, until, began, seen: (began, Instant::now()), stops: 0 }
    }

    /// Whether to continue to wait after an error of the socket: yes after an expired slice, as long as the worker makes progress.
    fn bear(&mut self, error: io::Error) -> Result<(), Silence> {
        match error.kind() {
            ErrorKind::Interrupted => return Ok(()),
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {}
            _ => return Err(Silence::Closed(error)),
        }
        let outside = |why: &str| Err(Silence::Lost(Lost::Outside(why.to_owned())));
        // The process has ended; the socket will report it.
        let Some((state, used)) = look(self.process) else { return Ok(()) };
        if state == 'T' {
            // It was stopped by a signal, so it is resumed; a worker that is stopped again each time is replaced.
            self.stops += 1;
            if self.stops > MOST_STOPS {
                return outside("the condition process is killed repeatedly");
            }
            if let Some(process) = i32::try_from(self.process).ok().and_then(Pid::from_raw) {
                let _ = kill_process(process, Signal::CONT);
            }
        }
        if used.saturating_sub(self.began) >= MAX_PROCESSOR {
            return Err(Silence::Lost(Lost::Limit(EvaluationError::TooSlow)));
        }
        if used > self.seen.0 {
            self.seen = (used, Instant::now());
        }
        if self.seen.1.elapsed() >= MAX_STILL || Instant::now() >= self.until {
            return outside("the condition process is making no progress");
        }
        Ok(())
    }
}

/// The state of a process and its processor time, to a hundredth of a second.
fn look(process: u32) -> Option<(char, Duration)> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name is in parentheses and may contain any character.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let mut times = fields.skip(10).map_while(|field| field.parse::<u64>().ok());
    let ticks = times.next()? + times.next()?;
    Some((state, Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second())))
}

impl Worker {
    /// The cause of its end. Only a message of the worker itself or a memory fault is due to the expression; any other signal came from
    /// outside.
    fn ended(mut self, error: &io::Error) -> Lost {
        // A closed socket means that the process is ending; if it does not end, it is killed.
        let status = self.child.try_wait().ok().flatten().or_else(|| {
            std::thread::sleep(Duration::from_millis(20));
            let _ = self.child.kill();
            self.child.wait().ok()
        });
        let mut words = String::new();
        if let Some(last) = self.last_words.take() {
            let _ = last.take(4096).read_to_string(&mut words);
        }
        status.map_or_else(|| Lost::Outside(error.to_string()), |status| cause(status, &words))
    }
}

fn cause(status: ExitStatus, words: &str) -> Lost {
    const ABORTED: i32 = Signal::ABORT.as_raw();
    const SEGMENT: i32 = Signal::SEGV.as_raw();
    const BUS: i32 = Signal::BUS.as_raw();
    const PROCESSOR: i32 = Signal::XCPU.as_raw();
    match status.signal() {
        Some(PROCESSOR) => Lost::Limit(EvaluationError::TooSlow),
        Some(SEGMENT | BUS) => Lost::Limit(EvaluationError::TooLarge),
        Some(ABORTED) if words.contains("memory allocation") || words.contains("overflowed its stack") => {
            Lost::Limit(EvaluationError::TooLarge)
        }
        _ if words.contains("panicked") => {
            let first = words.lines().next().unwrap_or_default();
            Lost::Limit(EvaluationError::Broken(super::syntax::one_line(first)))
        }
        Some(signal) => Lost::Outside(format!("the condition process was killed by signal {signal}")),
        None => Lost::Outside(format!("the condition process exited: {status}")),
    }
}

fn start(until: Instant) -> Result<Worker, Lost> {
    let outside = |error: io::Error| Lost::Outside(format!("cannot start the condition process: {error}"));
    let mut worker = spawn().map_err(outside)?;
    let mut watch = Watch::begin(&worker, until);
    // Loading the program may take any amount of processor time.
    watch.began = Duration::MAX;
    match exchange::<()>(&mut worker, &[], &mut watch) {
        Ok(()) => Ok(worker),
        Err(Silence::Lost(lost)) => Err(lost),
        Err(Silence::Closed(error)) => match worker.ended(&error) {
            // Before the first question, no failure is due to an expression.
            Lost::Limit(error) => Err(Lost::Outside(format!("cannot start the condition process: {error}"))),
            lost @ Lost::Outside(_) => Err(lost),
        },
    }
}

fn spawn() -> io::Result<Worker> {
    let (socket, theirs) = UnixStream::pair()?;
    socket.set_read_timeout(Some(SLICE))?;
    socket.set_write_timeout(Some(SLICE))?;
    let mut command = command();
    command.env_clear().stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let last_words = child.stderr.take();
    Ok(Worker { child, socket, last_words })
}

fn command() -> Command {
    let usual = || (THIS_PROGRAM.into(), WORKER_ARGUMENTS.iter().map(Into::into).collect());
    let (program, arguments) = COMMAND.get_or_init(usual);
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// The arguments with which this program becomes a worker.
const WORKER_ARGUMENTS: &[&str] = &["condition-worker"];
