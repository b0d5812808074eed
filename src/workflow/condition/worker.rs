//! The worker: this same program in another process, which reads questions from its standard input, a socket,
//! and writes the answers back to it. It has no environment, and less memory than it could do harm with.
//!
//! Its life: limits itself → says it is ready → answers, one question at a time → ends when the socket closes,
//! so it never outlives who started it; or is killed in the middle, which costs nobody anything.

use std::{
    fs,
    io::{self, Read, Write, stdin},
    os::{fd::AsFd, unix::net::UnixStream},
};

use chrono::NaiveDateTime;
use monty_types::MontyObject;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

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

/// What comes back.
pub(super) type Answer = Result<bool, EvaluationError>;

/// Serves until standard input closes. `main` calls this, before anything else, when it was started as the
/// worker (`condition-worker`).
///
/// # Errors
/// When standard input is not the socket it should be, or the limits cannot be set.
pub fn serve() -> io::Result<()> {
    limit()?;
    let mut socket = UnixStream::from(stdin().as_fd().try_clone_to_owned()?);
    let mut programs = Cache::default();
    send(&mut socket, &())?;
    while let Ok(question) = receive::<Question>(&mut socket) {
        send(&mut socket, &answer(&mut programs, &question))?;
    }
    Ok(())
}

fn answer(programs: &mut Cache<Program>, question: &Question) -> Answer {
    if programs.get(&question.text).is_none() {
        programs.put(&question.text, sandbox::compile(&question.text)?);
    }
    let program = programs.get(&question.text).ok_or_else(|| EvaluationError::Broken("lost its program".into()))?;
    sandbox::run(program, &question.inputs, question.now)
}

/// An allocation beyond the limit fails, and so ends this process instead of crowding the others out.
fn limit() -> io::Result<()> {
    let pages: u64 =
        fs::read_to_string("/proc/self/statm")?.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    let most = |resource, wanted: u64| {
        let hard = getrlimit(resource).maximum;
        let limit = Some(hard.map_or(wanted, |hard| hard.min(wanted)));
        setrlimit(resource, Rlimit { current: limit, maximum: limit })
    };
    most(Resource::As, pages * page + MAX_MEMORY)?;
    // A worker that ends this way is no news, and a core file would hold the facts.
    most(Resource::Core, 0)?;
    Ok(())
}

/// Writes a message: four bytes of length, then postcard.
pub(super) fn send(socket: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    let body = postcard::to_stdvec(message).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    socket.write_all(&[&length.to_le_bytes()[..], &body].concat())
}

/// Reads a message.
pub(super) fn receive<T: DeserializeOwned>(socket: &mut UnixStream) -> io::Result<T> {
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    // Read as it comes: a length that lies must not make us reserve what it says.
    let mut body = Vec::new();
    let length = u64::from(u32::from_le_bytes(length));
    socket.take(length).read_to_end(&mut body)?;
    postcard::from_bytes(&body).map_err(io::Error::other)
}
