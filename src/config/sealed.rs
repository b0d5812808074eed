//! Removes secrets from the environment of the process.
//!
//! The initial environment of a process stays readable in `/proc/<pid>/environ` for all programs of the same user (and in core dumps),
//! even if the process changes it later. A command that runs callbacks therefore executes itself again: it writes its secrets to a
//! file in memory and starts without them, with the file as standard input. The new process reads the file and empties it.

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

/// Marks in the new environment that standard input contains the secrets.
pub(super) const MARK: &str = "STUDYGOV_SEALED";

/// Standard input, as a path that can be opened again.
const STDIN: &str = "/proc/self/fd/0";

static SEALED: OnceLock<BTreeMap<String, String>> = OnceLock::new();

/// The secrets that were removed from the environment.
pub(super) fn secrets() -> impl Iterator<Item = (&'static str, &'static str)> {
    SEALED.get().into_iter().flatten().map(|(name, value)| (name.as_str(), value.as_str()))
}

/// The secret that was removed from the environment variable `name`.
#[must_use]
pub fn sealed(name: &str) -> Option<&'static str> {
    SEALED.get()?.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

/// Removes the secrets from the environment and prevents other programs of the same user from reading this process's memory. `main`
/// calls this first, for commands that run callbacks. Does not return if the program executes itself again.
///
/// # Errors
/// When the secrets cannot be moved; the environment is unchanged then.
pub fn seal_environment() -> std::io::Result<()> {
    match std::env::var(MARK).ok().and_then(|_| unsealed()) {
        Some(secrets) => _ = SEALED.set(secrets),
        None => begin_again()?,
    }
    // Keeps the secrets out of core dumps and /proc/<pid>/mem.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Executes this program again with the same arguments but without the secrets; returns if there are no secrets.
fn begin_again() -> std::io::Result<()> {
    // Programs and the libraries of this process need proxy variables, even those with a login.
    let is_to_go = |name: &str, value: &str| is_secret(name, value) && !is_usual(name);
    let secrets: Vec<(OsString, OsString)> = std::env::vars_os()
        .filter(|(name, value)| is_to_go(&name.to_string_lossy(), &value.to_string_lossy()))
        .collect();
    if secrets.is_empty() {
        return Ok(());
    }
    // If the secrets could not be read again, the program would execute itself endlessly.
    std::fs::read_link(STDIN)?;
    // A value that is not Unicode is removed too, but not passed on, because no setting reads it.
    let texts = secrets.iter().filter_map(|(name, value)| Some((name.to_str()?, value.to_str()?)));
    let text = serde_json::to_string(&texts.collect::<BTreeMap<&str, &str>>())?;
    let mut file = File::from(memfd_create("settings", MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    // The process keeps its own name instead of `exe`, so that operators find it by name.
    let program = std::env::current_exe().ok().filter(|path| path.is_file());
    let mut command = Command::new(program.unwrap_or_else(|| "/proc/self/exe".into()));
    let mut arguments = std::env::args_os();
    if let Some(own) = arguments.next() {
        command.arg0(own);
    }
    // Commands that run callbacks do not use standard input for anything else.
    command.args(arguments).stdin(file).env(MARK, "stdin");
    for (name, _) in &secrets {
        command.env_remove(name);
    }
    Err(command.exec())
}

/// Reads and empties the file on standard input, and replaces it with `/dev/null`.
fn unsealed() -> Option<BTreeMap<String, String>> {
    // An inherited mark does not mean that this process's standard input contains secrets.
    std::fs::read_link(STDIN).ok().filter(|target| target.to_string_lossy().starts_with("/memfd:settings"))?;
    let mut file = File::options().read(true).write(true).open(STDIN).ok()?;
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    let secrets = serde_json::from_str(&text).ok()?;
    file.set_len(0).ok()?;
    rustix::stdio::dup2_stdin(File::open("/dev/null").ok()?).ok()?;
    Some(secrets)
}
