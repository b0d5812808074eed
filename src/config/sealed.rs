//! Secrets of the environment, taken out of it.
//!
//! What a process was started with stays readable in `/proc/<pid>/environ` for every program of the same user (and in core dumps),
//! whatever the process does about it later. So a command that runs callbacks begins again: it writes its secrets into a file
//! in memory and executes itself without them, with the file as its standard input; what is executed reads the file and empties it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::OnceLock;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::programs::is_usual;
use super::secret_names::is_secret;

/// Says in the new environment that standard input has the secrets.
pub(super) const MARK: &str = "STUDYGOV_SEALED";

/// Standard input, as a file that can be opened again.
const STDIN: &str = "/proc/self/fd/0";

static SEALED: OnceLock<BTreeMap<String, String>> = OnceLock::new();

/// The secrets that were in the environment of this process.
pub(super) fn secrets() -> impl Iterator<Item = (&'static str, &'static str)> {
    SEALED.get().into_iter().flatten().map(|(name, value)| (name.as_str(), value.as_str()))
}

/// The secret that the environment variable `name` held.
#[must_use]
pub fn sealed(name: &str) -> Option<&'static str> {
    SEALED.get()?.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

/// Takes the secrets out of the environment, and keeps other programs of the same user from reading this process. `main` calls
/// this before anything else has begun, for commands that run callbacks. Does not return where it begins again.
///
/// # Errors
/// When the secrets cannot be moved; the environment is as it was then.
pub fn seal_environment() -> std::io::Result<()> {
    match std::env::var(MARK).ok().and_then(|_| unsealed()) {
        Some(secrets) => _ = SEALED.set(secrets),
        None => begin_again()?,
    }
    // Neither a core dump nor /proc/<pid>/mem gives them away.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Executes this program with the same arguments, without the secrets; returns when there are none.
fn begin_again() -> std::io::Result<()> {
    // A proxy with a login is one that programs and the libraries of this process are to find.
    let is_to_go = |name: &str, value: &str| is_secret(name, value) && !is_usual(name);
    let secrets: Vec<(OsString, OsString)> = std::env::vars_os()
        .filter(|(name, value)| is_to_go(&name.to_string_lossy(), &value.to_string_lossy()))
        .collect();
    if secrets.is_empty() {
        return Ok(());
    }
    // Where the secrets could not be read again, this would go on for ever.
    std::fs::read_link(STDIN)?;
    // A value that is no text is read by nothing here; it is taken away all the same.
    let texts = secrets.iter().filter_map(|(name, value)| Some((name.to_str()?, value.to_str()?)));
    let text = serde_json::to_string(&texts.collect::<BTreeMap<&str, &str>>())?;
    let mut file = File::from(memfd_create("settings", MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    // Under its own name and not as `exe`, for those who look for it by name.
    let program = std::env::current_exe().ok().filter(|path| path.is_file());
    let mut command = Command::new(program.unwrap_or_else(|| "/proc/self/exe".into()));
    let mut arguments = std::env::args_os();
    if let Some(own) = arguments.next() {
        command.arg0(own);
    }
    // A command that runs callbacks reads nothing from its standard input otherwise.
    command.args(arguments).stdin(file).env(MARK, "stdin");
    for (name, _) in &secrets {
        command.env_remove(name);
    }
    Err(command.exec())
}

/// Reads the file and empties it, and lets go of it.
fn unsealed() -> Option<BTreeMap<String, String>> {
    // A mark that was inherited from elsewhere says nothing about our standard input.
    std::fs::read_link(STDIN).ok().filter(|target| target.to_string_lossy().starts_with("/memfd:settings"))?;
    let mut file = File::options().read(true).write(true).open(STDIN).ok()?;
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    let secrets = serde_json::from_str(&text).ok()?;
    file.set_len(0).ok()?;
    rustix::stdio::dup2_stdin(File::open("/dev/null").ok()?).ok()?;
    Some(secrets)
}
