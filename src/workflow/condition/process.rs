//! The one worker process: started when first needed, kept between evaluations, replaced when it ended.
//!
//! One is enough: an evaluation takes microseconds, and one at a time also bounds what all of them take together.
//!
//! An answer counts only when the worker gave one. A worker that was killed, stopped or not given the processor says nothing
//! about the condition, so the question is asked again. A limit that the expression reached in the worker (processor time,
//! memory, stack) counts when it was reached twice.

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

/// Processor time that an answer may take. Far beyond the sandbox's own limit, which stops nearly everything and leaves the
/// worker alive: this is for the single step that it cannot interrupt, such as a product of huge numbers.
const MAX_PROCESSOR: Duration = Duration::from_millis(500);

/// How often a worker that has not answered is looked at.
const SLICE: Duration = Duration::from_millis(50);

/// A worker that uses no processor for so long without an answer is replaced: its machine's attention may come back, but a
/// frozen process does not say whether it will.
const MAX_STILL: Duration = Duration::from_secs(3);

/// How often a worker may be seen stopped during one question.
const MOST_STOPS: u32 = 40;

/// This program, even after an upgrade has replaced its file.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// The program and its arguments, when they are not the usual ones.
static COMMAND: OnceLock<(OsString, Vec<OsString>)> = OnceLock::new();

static WORKER: Mutex<Option<Worker>> = Mutex::new(None);

struct Worker {
    child: Child,
    socket: UnixStream,
    /// What the runtime says before it gives up: out of memory, out of stack.
    last_words: Option<ChildStderr>,
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

/// The process that answers now, if there is one. For tests, which do to it what a machine may do.
#[must_use]
pub fn worker_id() -> Option<u32> {
    WORKER.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|worker| worker.child.id())
}

/// Why there is no answer.
enum Lost {
    /// The expression reached a limit.
    Limit(EvaluationError),
    /// Something that has nothing to do with the expression.
    Outside(String),
}

/// Asks until there is an answer, for at most `patience`.
///
/// # Errors
/// [`EvaluationError::Unavailable`] when there was none in that time, with the reason of the last try.
pub(super) fn ask(question: &Question, patience: Duration) -> Result<Evaluated, EvaluationError> {
    // A poisoned lock holds no worker: it was taken out by whoever panicked.
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
        // The first times at once: a worker that was killed by chance is there again in a moment.
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

/// A worker may have been ended from outside, by the kernel or by hand, and that is not the next question's fault.
fn alive(mut worker: Worker) -> Option<Worker> {
    matches!(worker.child.try_wait(), Ok(None)).then_some(worker)
}

/// Why an exchange has no end.
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
    // Read as it comes: a length that lies must not make us reserve what it says.
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

/// Looks at a worker that has not answered yet.
struct Watch {
    process: u32,
    until: Instant,
    began: Duration,
    /// Processor time when it last went up, and when that was.
    seen: (Duration, Instant),
    /// How often it was seen stopped.
    stops: u32,
}

impl Watch {
    fn begin(worker: &Worker, until: Instant) -> Self {
        let process = worker.child.id();
        let began = look(process).map(|(_, used)| used).unwrap_or_default();
        Self { process, until, began, seen: (began, Instant::now()), stops: 0 }
    }

    /// Whether to wait on after an error of the socket: yes for a slice of time that ran out, as long as the worker works.
    fn bear(&mut self, error: io::Error) -> Result<(), Silence> {
        match error.kind() {
            ErrorKind::Interrupted => return Ok(()),
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {}
            _ => return Err(Silence::Closed(error)),
        }
        let outside = |why: &str| Err(Silence::Lost(Lost::Outside(why.to_owned())));
        // Gone from the list of processes: the socket will say so.
        let Some((state, used)) = look(self.process) else { return Ok(()) };
        if state == 'T' {
            // Stopped by a signal. It is ours, so it is told to go on; one that is stopped again each time is replaced.
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

/// The state of a process and the processor time that it has used, to a hundredth of a second.
fn look(process: u32) -> Option<(char, Duration)> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name stands in parentheses and may have any character in it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let mut times = fields.skip(10).map_while(|field| field.parse::<u64>().ok());
    let ticks = times.next()? + times.next()?;
    Some((state, Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second())))
}

impl Worker {
    /// What ended it. Only what the worker says itself, or a fault of memory, is the expression's doing: any other signal
    /// came from outside.
    fn ended(mut self, error: &io::Error) -> Lost {
        // A socket that is closed means that it ends; if it does not, it is ended.
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
    // It may use the processor for as long as the machine takes to load a program.
    watch.began = Duration::MAX;
    match exchange::<()>(&mut worker, &[], &mut watch) {
        Ok(()) => Ok(worker),
        Err(Silence::Lost(lost)) => Err(lost),
        Err(Silence::Closed(error)) => match worker.ended(&error) {
            // Before any question nothing is an expression's doing.
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

/// How our own program becomes a worker.
const WORKER_ARGUMENTS: &[&str] = &["condition-worker"];
