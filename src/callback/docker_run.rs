//! `docker_run`: runs a container with the worker's Docker command line, from creation to removal.
//!
//! Create and start are separate calls, so that the container's output and exit code are not mixed with those of Docker. The
//! container is removed in any case, because a killed client leaves it running.

use std::ffi::OsString;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::process::Program;
use super::substitution::Substitution;
use super::{Failure, Outcome, Run, process, read_arguments};

#[derive(Deserialize)]
struct Arguments {
    image: String,
    #[serde(default)]
    cmd: Option<Vec<Value>>,
    #[serde(default)]
    args: Option<Words>,
    #[serde(default)]
    volumes: Option<Map<String, Value>>,
    #[serde(default)]
    environment: Option<Map<String, Value>>,
    #[serde(default = "xnat")]
    xnat_external_system_name: String,
}

/// A list, or a mapping of names to values.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    List(Vec<Value>),
    Mapping(Map<String, Value>),
}

#[derive(Deserialize)]
struct Volume {
    bind: String,
    #[serde(default = "rw")]
    mode: String,
}

fn xnat() -> String {
    "XNAT".to_owned()
}

fn rw() -> String {
    "rw".to_owned()
}

const KNOWN: [&str; 6] = ["image", "cmd", "args", "volumes", "environment", "xnat_external_system_name"];

pub(super) async fn run(arguments: Map<String, Value>, run: &Run<'_>) -> Result<Outcome, Failure> {
    let arguments: Arguments = read_arguments(arguments, &KNOWN, run.log)?;
    let substitution = Substitution::new(run, &arguments.xnat_external_system_name);
    let command = command_of(&arguments, &substitution)?;
    let address = run.text("/api_uri");
    remove_earlier(address, run).await;
    let (id, attempt) = (run.assignment.execution_id, run.assignment.attempt);
    // With our own name, it can be removed before Docker has returned its id.
    let name = format!("studygovernor-{id}-{attempt}-{:08x}", rand::random::<u32>());
    let mut create: Vec<String> = ["docker", "create", "--init", "--name", &name].map(str::to_owned).to_vec();
    create.extend(["--label".to_owned(), run.workplace.owner.label()]);
    for (label, value) in [("execution", id.to_string()), ("attempt", attempt.to_string()), ("address", address.into())]
    {
        create.push("--label".to_owned());
        create.push(format!("studygovernor.{label}={value}"));
    }
    for (host, volume) in arguments.volumes.iter().flatten() {
        create.push("--mount".to_owned());
        create.push(mount(&substitution.text(host.clone())?, volume)?);
    }
    for (name, value) in arguments.environment.iter().flatten() {
        create.push("--env".to_owned());
        create.push(format!("{name}={}", substitution.apply(value)?));
    }
    if arguments.image.starts_with('-') {
        return Err(Failure(format!("callback_arguments: image: '{}' is not the name of an image", arguments.image)));
    }
    create.push(arguments.image.clone());
    create.extend(command.iter().cloned());
    run.log.line(&format!("Creating a container of {}: {command:?}", arguments.image));
    let created = process::run(tool(create, &name), run).await?;
    if created.return_code != 0 {
        let reason = created.stderr.trim().lines().last().unwrap_or("docker gave no error message").to_owned();
        return Err(Failure(format!("cannot create a container of {}: {reason}", arguments.image)));
    }
    let id = created.stdout.trim().to_owned();
    let container = Container { name: Some(name.clone()), environment: run.workplace.environment.clone() };
    let start = ["docker", "start", "--attach", id.as_str()].map(str::to_owned).to_vec();
    let ended = process::run(tool(start, &name), run).await?;
    let inspect = ["docker", "inspect", "--format", "{{.State.ExitCode}} {{.State.Error}}", id.as_str()];
    let state = process::quietly(&inspect, run).await;
    container.remove(run).await;
    // The client's exit code includes its own errors; the inspected state is the container's.
    let (code, trouble) = state.as_deref().and_then(|state| state.trim().split_once(' ')).unwrap_or(("", ""));
    let return_code = code.parse().unwrap_or(ended.return_code);
    run.log.line(&format!("Return code: {return_code}"));
    let outcome = Outcome::success(json!({
        "command": command,
        "stdout": ended.stdout,
        "stderr": ended.stderr,
        "return_code": return_code,
        "container_id": id,
    }));
    Ok(match (return_code, trouble) {
        (0, _) => outcome,
        (code, "") => outcome.but_failed(format!("the container ended with return code {code}"), None),
        (_, trouble) => outcome.but_failed(format!("the container could not be started: {trouble}"), None),
    })
}

/// A Docker call with a guard that removes the container when the call must be ended, because the run is cancelled or the
/// worker was killed (Q8).
fn tool(argv: Vec<String>, container: &str) -> Program {
    Program { argv, cleanup: remove(container), is_own_tool: true, ..Program::default() }
}

fn remove(container: &str) -> Vec<String> {
    ["docker", "rm", "--force", "--volumes", container].map(str::to_owned).to_vec()
}

/// Removes containers of earlier attempts that remained after a power cut or a killed guard.
async fn remove_earlier(address: &str, run: &Run<'_>) {
    if run.assignment.attempt <= 1 || address.is_empty() {
        return;
    }
    let filter = format!("label=studygovernor.address={address}");
    let found = process::quietly(&["docker", "ps", "--all", "--quiet", "--filter", &filter], run).await;
    for id in found.iter().flat_map(|ids| ids.split_whitespace()) {
        run.log.line(&format!("Removing the container {id} of an earlier attempt"));
        process::quietly(&["docker", "rm", "--force", "--volumes", id], run).await;
    }
}

/// `cmd`, then `args`: a list unchanged, a mapping as each name with its value.
fn command_of(arguments: &Arguments, substitution: &Substitution<'_>) -> Result<Vec<String>, Failure> {
    let mut command = Vec::new();
    for word in arguments.cmd.iter().flatten() {
        command.push(substitution.apply(word)?);
    }
    match &arguments.args {
        None => {}
        Some(Words::List(words)) => {
            for word in words {
                command.push(substitution.apply(word)?);
            }
        }
        Some(Words::Mapping(words)) => {
            for (name, value) in words {
                command.push(name.clone());
                command.push(substitution.apply(value)?);
            }
        }
    }
    Ok(command)
}

/// A folder of the host, mounted in the container. A missing folder is an error; Docker would create an empty one that
/// belongs to root.
fn mount(host: &str, volume: &Value) -> Result<String, Failure> {
    let volume = match volume {
        Value::String(bind) => Volume { bind: bind.clone(), mode: rw() },
        other => serde_json::from_value(other.clone())
            .map_err(|error| Failure(format!("callback_arguments: volumes: {host}: {error}")))?,
    };
    let read_only = match volume.mode.as_str() {
        "rw" => "",
        "ro" => ",readonly",
        other => return Err(Failure(format!("callback_arguments: volumes: {host}: mode '{other}' is not rw or ro"))),
    };
    if !host.starts_with('/') || !volume.bind.starts_with('/') {
        return Err(Failure(format!("callback_arguments: volumes: {host} and {} must be absolute paths", volume.bind)));
    }
    if host.contains([',', '"']) || volume.bind.contains([',', '"']) {
        return Err(Failure(format!("callback_arguments: volumes: {host}: paths must not contain commas or quotes")));
    }
    Ok(format!("type=bind,source={host},target={}{read_only}", volume.bind))
}

/// A container that is removed when this is dropped, even if it is running (Q7).
struct Container {
    name: Option<String>,
    environment: Vec<(OsString, OsString)>,
}

impl Container {
    async fn remove(mut self, run: &Run<'_>) {
        if let Some(name) = self.name.take() {
            process::quietly(&["docker", "rm", "--force", "--volumes", &name], run).await;
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let Some(name) = self.name.take() else { return };
        let environment = std::mem::take(&mut self.environment);
        // The run was cancelled, so no task can wait for this. The guard does the same, but between two calls there is no
        // guard.
        std::thread::spawn(move || {
            let mut command = std::process::Command::new("docker");
            command.args(["rm", "--force", "--volumes", &name]).env_clear().envs(environment);
            command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
            if !command.stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success()) {
                tracing::warn!(container = name, "removing a container failed");
            }
        });
    }
}
