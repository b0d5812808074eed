//! The worker: this same program in another process, which reads questions from its standard input, a socket,
//! and writes the answers back to it. It has no environment, and less memory than it could do harm with.
//!
//! Its life: leaves the session of the server and ignores the signals that stop a service → limits itself → says it is ready →
//! answers, one question at a time → ends when the socket closes, so it outlives the server's drain and not the server.
//! Killed in the middle, it costs an answer that is asked for again.

use std::{
    fs,
    io::{self, Read, Write, stdin},
    os::{fd::AsFd, unix::net::UnixStream},
    time::Duration,
};

use chrono::NaiveDateTime;
use monty_types::MontyObject;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, setsid};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    EvaluationError,
    cache::Cache,
    sandbox::{self, Program},
};

/// Address space that a worker may take beyond what the program takes for itself. Facts and compiled conditions
/// need a few megabytes.
const MAX_MEMORY: u64 = 192 * 1024 * 1024;

/// One condition to be evaluated.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Question {
    pub(super) text: String,
    /// The values of `experiment` and `callbacks`.
    pub(super) inputs: Vec<MontyObject>,
    pub(super) now: NaiveDateTime,
}

/// Seconds of processor time after which the kernel ends a worker whose question nobody waits for: one whose server was
/// killed in the middle of it. While there is a server, that server ends it much earlier.
const MAX_ORPHANED: u64 = 10;

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) verdict: Verdict,
    /// Processor time that it took.
    pub(super) spent: Duration,
}

/// What came of a question.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Verdict {
    Evaluated(Result<bool, EvaluationError>),
    /// The machine was so busy, or this process stopped so long, that nothing can be said.
    Starved,
}

/// Serves until standard input closes. `main` calls this, before anything else, when it was started as the
/// worker (`condition-worker`).
///
/// # Errors
/// When standard input is not the socket it should be, or the limits cannot be set.
pub fn serve() -> io::Result<()> {
    // It fails only for the leader of a group, as when it was started by hand; then there is nothing to leave.
    let _ = setsid();
    let signals = ignore_signals()?;
    limit()?;
    let mut socket = UnixStream::from(stdin().as_fd().try_clone_to_owned()?);
    let mut programs = Cache::default();
    send(&mut socket, &())?;
    while let Ok(question) = receive::<Question>(&mut socket) {
        let began = processor_time();
        most(Resource::Cpu, began.as_secs() + MAX_ORPHANED, None)?;
        let verdict = answer(&mut programs, &question);
        send(&mut socket, &Answer { verdict, spent: processor_time().saturating_sub(began) })?;
    }
    drop(signals);
    Ok(())
}

/// Who stops a service may signal its whole group, or everything in its control group; the server goes on for its drain and
/// needs answers until its end. The runtime is what the handlers belong to; nothing runs in it.
fn ignore_signals() -> io::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let inside = runtime.enter();
    let stopping = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::quit()];
    for kind in stopping.into_iter().chain([SignalKind::user_defined1(), SignalKind::user_defined2()]) {
        // Registered once, a handler stays in place of the default for as long as the process lives.
        drop(signal(kind)?);
    }
    drop(inside);
    Ok(runtime)
}

/// Processor time of this process so far: a limit on it does not depend on what else the machine does.
pub(super) fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn answer(programs: &mut Cache<Program>, question: &Question) -> Verdict {
    if programs.get(&question.text).is_none() {
        match sandbox::compile(&question.text) {
            Ok(program) => programs.put(&question.text, program),
            Err(error) => return Verdict::Evaluated(Err(error.into())),
        }
    }
    match programs.get(&question.text) {
        Some(program) => sandbox::run(program, &question.inputs, question.now),
        None => Verdict::Evaluated(Err(EvaluationError::Broken("lost its program".into()))),
    }
}

/// An allocation beyond the limit fails, and so ends this process instead of crowding the others out.
fn limit() -> io::Result<()> {
    let pages: u64 =
        fs::read_to_string("/proc/self/statm")?.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    most(Resource::As, pages * page + MAX_MEMORY, Some(pages * page + MAX_MEMORY))?;
    // A worker that ends this way is no news, and a core file would hold the facts.
    most(Resource::Core, 0, Some(0))
}

/// Lowers a limit, as far as the hard one allows; with `hard` that one too.
fn most(resource: Resource, wanted: u64, hard: Option<u64>) -> io::Result<()> {
    let maximum = getrlimit(resource).maximum;
    let within = |wanted: u64| Some(maximum.map_or(wanted, |maximum| maximum.min(wanted)));
    let limit = Rlimit { current: within(wanted), maximum: hard.map_or(maximum, within) };
    Ok(setrlimit(resource, limit)?)
}

/// A message as it travels: four bytes of length, then postcard.
pub(super) fn packed(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let body = postcard::to_stdvec(message).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    Ok([&length.to_le_bytes()[..], &body].concat())
}

/// Writes a message.
fn send(socket: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    socket.write_all(&packed(message)?)
}

/// Reads a message.
fn receive<T: DeserializeOwned>(socket: &mut UnixStream) -> io::Result<T> {
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    // Read as it comes: a length that lies must not make us reserve what it says.
    let mut body = Vec::new();
    let length = u64::from(u32::from_le_bytes(length));
    socket.take(length).read_to_end(&mut body)?;
    postcard::from_bytes(&body).map_err(io::Error::other)
}
