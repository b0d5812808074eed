//! Removal of stray containers, which no attempt uses.
//!
//! A container is removed by its run, or by the guard of its Docker call. When the worker and its guards are killed together
//! (a power cut, a killed process group, a worker that ends between two Docker calls), the container remains, created or
//! running. So each container has a label that identifies the process that created it. Workers look for containers whose
//! process has ended when they start, and every few minutes.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::Workplace;

/// Name of the label with the [`Owner`].
const LABEL: &str = "studygovernor.owner";

/// Limit for one call of Docker.
const PATIENCE: Duration = Duration::from_secs(30);

/// The process that created a container, identified as uniquely as possible without other machines, several of which may
/// share one Docker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    host: String,
    /// Changes with each boot of the machine.
    boot: String,
    /// The namespace of the process id.
    namespace: String,
    process: String,
    /// Start time of the process, because ids are reused.
    began: String,
    /// Distinguishes several pools in one process.
    pool: String,
}

impl Owner {
    /// This process, for one pool. Empty parts, as on systems without `/proc`, never match.
    pub(super) fn new() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let id = std::process::id();
        let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        Self {
            host: rustix::system::uname().nodename().to_string_lossy().replace('|', "-"),
            boot: read("/proc/sys/kernel/random/boot_id"),
            namespace: namespace.to_string_lossy().into_owned(),
            process: id.to_string(),
            began: began(&id.to_string()).unwrap_or_default(),
            pool: format!("{:08x}", rand::random::<u32>()),
        }
    }

    /// `NAME=VALUE`, for `docker create --label`.
    pub(super) fn label(&self) -> String {
        let Self { host, boot, namespace, process, began, pool } = self;
        format!("{LABEL}={host}|{boot}|{namespace}|{process}|{began}|{pool}")
    }

    fn read(value: &str) -> Option<Self> {
        let mut parts = value.split('|').map(str::to_owned);
        let mut part = || parts.next().filter(|part| !part.is_empty());
        Some(Self { host: part()?, boot: part()?, namespace: part()?, process: part()?, began: part()?, pool: part()? })
    }

    /// Whether the process is known to have ended, as seen by `observer`. A process of another machine or container is
    /// assumed to run.
    fn has_ended(&self, observer: &Self) -> bool {
        if self.host != observer.host {
            return false;
        }
        // The machine has been rebooted.
        if self.boot != observer.boot {
            return true;
        }
        self.namespace == observer.namespace && began(&self.process).is_none_or(|began| began != self.began)
    }
}

/// Start time of a process, in ticks since boot; `None` when it has ended.
fn began(process: &str) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // After the name in brackets: state, parent, …; the start time is the twentieth field.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    (!matches!(state, "Z" | "X")).then(|| fields.nth(18).map(str::to_owned))?
}

/// Removes the containers whose process has ended, and those of this worker whose attempt is not running according to
/// `is_running`. Returns whether Docker is available.
pub(crate) async fn remove_stray_containers(workplace: &Workplace, is_running: impl Fn(i32, i32) -> bool) -> bool {
    let filter = format!("label={LABEL}");
    let format = format!(
        "{{{{.ID}}}} {{{{.Label \"studygovernor.execution\"}}}} {{{{.Label \"studygovernor.attempt\"}}}} {{{{.Label \"{LABEL}\"}}}}"
    );
    let list = ["ps", "--all", "--no-trunc", "--filter", &filter, "--format", &format];
    let output = match docker(workplace, &list).await {
        Ok(output) => output,
        Err(error) => {
            debug!(%error, "no containers can be listed");
            return error.kind() != std::io::ErrorKind::NotFound;
        }
    };
    for line in output.lines() {
        let Some(found) = Found::read(line) else { continue };
        let is_own = found.owner == workplace.owner;
        let is_stray =
            if is_own { !is_running(found.execution, found.attempt) } else { found.owner.has_ended(&workplace.owner) };
        if is_stray {
            let (container, execution) = (found.id, found.execution);
            warn!(container, execution, "the container of an attempt that has ended is removed");
            if let Err(error) = docker(workplace, &["rm", "--force", "--volumes", container]).await {
                debug!(%error, container, "it cannot be removed");
            }
        }
    }
    true
}

/// A line of the container list.
struct Found<'a> {
    id: &'a str,
    execution: i32,
    attempt: i32,
    owner: Owner,
}

impl<'a> Found<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let mut words = line.split(' ');
        let (id, execution, attempt) = (words.next()?, words.next()?, words.next()?);
        let owner = Owner::read(words.next()?)?;
        Some(Self { id, execution: execution.parse().ok()?, attempt: attempt.parse().ok()?, owner })
    }
}

/// The output of a Docker call.
async fn docker(workplace: &Workplace, arguments: &[&str]) -> std::io::Result<String> {
    let mut command = Command::new("docker");
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command.env_clear().envs(workplace.environment.iter().map(|(name, value)| (name, value)));
    let output = timeout(PATIENCE, command.output()).await.map_err(|_| std::io::ErrorKind::TimedOut)??;
    if !output.status.success() {
        return Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_processes_that_have_ended_lose_their_containers() {
        let own = Owner::new();
        let label = own.label();
        assert_eq!(Owner::read(label.strip_prefix("studygovernor.owner=").unwrap()), Some(own.clone()));
        let with = |change: fn(&mut Owner)| {
            let mut other = own.clone();
            change(&mut other);
            other.has_ended(&own)
        };
        assert!(!with(|_| {}));
        assert!(!with(|other| other.pool = "another".to_owned()), "another pool of this process");
        assert!(with(|other| other.began = "1".to_owned()), "the id was given again");
        assert!(with(|other| other.process = "4194305".to_owned()), "no process has this id");
        assert!(with(|other| other.boot = "before".to_owned()));
        for change in [
            |other: &mut Owner| other.host = "another".to_owned(),
            |other: &mut Owner| (other.namespace, other.began) = ("pid:[1]".to_owned(), "1".to_owned()),
            |other: &mut Owner| (other.host, other.boot) = ("another".to_owned(), "before".to_owned()),
        ] {
            assert!(!with(change), "it may run");
        }
        assert_eq!(Owner::read("host|boot||1|2|3"), None);
    }
}
