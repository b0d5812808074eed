//! The condition worker: this program in another process, which reads questions from its standard input, a socket, and writes the answers
//! to it. It has no environment and a low memory limit.
//!
//! Life of a worker: it leaves the session of the server and ignores the signals that stop a service → sets its limits → reports that it
//! is ready → answers one question at a time → ends when the socket closes. So it works until the end of the server's drain and ends with
//! the server. If it is killed during a question, the question is repeated.

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

/// Address space of a worker beyond that of the program itself. Facts and compiled conditions need a few megabytes.
const MAX_MEMORY: u64 = 192 * 1024 * 1024;

/// A condition to evaluate.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Question {
    pub(super) text: String,
    /// The values of `experiment` and `callbacks`.
    pub(super) inputs: Vec<MontyObject>,
    pub(super) now: NaiveDateTime,
}

/// Seconds of processor time after which the kernel kills a worker whose server was killed during a question. A living server ends it much
/// earlier.
const MAX_ORPHANED: u64 = 10;

/// The answer to a question.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) verdict: Verdict,
    /// Processor time of the evaluation.
    pub(super) spent: Duration,
}

/// The result of a question.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Verdict {
    Evaluated(Result<bool, EvaluationError>),
    /// The machine was so busy, or this process stopped for so much time, that there is no result.
    Starved,
}

/// Serves until standard input closes. `main` calls this first if the program was started as a worker (`condition-worker`).
///
/// # Errors
/// Standard input is not a socket, or the limits cannot be set.
pub fn serve() -> io::Result<()> {
    // Fails only for the leader of a process group, as when started in a shell; then there is no session to leave.
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

/// Stopping a service may signal its whole process group or control group; the server continues for its drain and needs answers until its
/// end. The handlers belong to the returned runtime; nothing runs in it.
fn ignore_signals() -> io::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let inside = runtime.enter();
    let stopping = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::quit()];
    for kind in stopping.into_iter().chain([SignalKind::user_defined1(), SignalKind::user_defined2()]) {
        // Once registered, a handler replaces the default for the lifetime of the process.
        drop(signal(kind)?);
    }
    drop(inside);
    Ok(runtime)
}

/// Processor time of this process so far. A limit on it does not depend on the load of the machine.
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

/// Limits the memory: an allocation beyond the limit fails, and ends this process before others run out of memory.
fn limit() -> io::Result<()> {
    let pages: u64 =
        fs::read_to_string("/proc/self/statm")?.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    most(Resource::As, pages * page + MAX_MEMORY, Some(pages * page + MAX_MEMORY))?;
    // The end of a worker is expected, and a core file would contain the facts.
    most(Resource::Core, 0, Some(0))
}

/// Lowers a soft limit to `wanted`, as far as the hard one allows, and the hard limit to `hard` if given.
fn most(resource: Resource, wanted: u64, hard: Option<u64>) -> io::Result<()> {
    let maximum = getrlimit(resource).maximum;
    let within = |wanted: u64| Some(maximum.map_or(wanted, |maximum| maximum.min(wanted)));
    let limit = Rlimit { current: within(wanted), maximum: hard.map_or(maximum, within) };
    Ok(setrlimit(resource, limit)?)
}

/// The wire format of a message: four bytes of length, then postcard.
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
    // Allocates while reading: a wrong length must not reserve that much memory.
    let mut body = Vec::new();
    let length = u64::from(u32::from_le_bytes(length));
    socket.take(length).read_to_end(&mut body)?;
    postcard::from_bytes(&body).map_err(io::Error::other)
}
