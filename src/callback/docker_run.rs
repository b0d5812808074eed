//! `docker_run`: a container, from its creation to its removal, by the command line of Docker on the worker.
//!
//! Created and started in two steps, because then the container's own output and exit code come back unmixed with those of
//! Docker; removed whatever happens, because a client that is killed leaves its container running.

use serde::Deserialize;
use serde_json::{Map, Value, json};

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

/// A list, or names with their values.
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
    let mut create: Vec<String> = ["docker", "create", "--init", "--label"].map(str::to_owned).to_vec();
    create.push(format!("studygovernor.execution={}", run.assignment.execution_id));
    for (host, volume) in arguments.volumes.iter().flatten() {
        create.push("--mount".to_owned());
        create.push(mount(&substitution.text(host.clone())?, volume)?);
    }
    for (name, value) in arguments.environment.iter().flatten() {
        create.push("--env".to_owned());
        create.push(format!("{name}={}", substitution.apply(value)?));
    }
    create.push(arguments.image.clone());
    create.extend(command.iter().cloned());
    run.log.line(&format!("Creating a container of {}: {command:?}", arguments.image));
    let created = process::run(&create, None, &[], run).await?;
    if created.return_code != 0 {
        let reason = created.stderr.trim().lines().last().unwrap_or("docker said nothing").to_owned();
        return Err(Failure(format!("no container of {} can be made: {reason}", arguments.image)));
    }
    let id = created.stdout.trim().to_owned();
    let container = Container { id: Some(id.clone()) };
    let start = ["docker", "start", "--attach", id.as_str()].map(str::to_owned);
    let ended = process::run(&start, None, &[], run).await?;
    let inspect = ["docker", "inspect", "--format", "{{.State.ExitCode}} {{.State.Error}}", id.as_str()];
    let state = process::quietly(&inspect).await;
    container.remove().await;
    // What the client says is its own trouble too; the state is the container's.
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

/// `cmd`, then `args`: a list as it is, a mapping as each name with its value.
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

/// A folder of the host in the container. One that is not there is refused; Docker would make an empty one of root's.
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
        return Err(Failure(format!("callback_arguments: volumes: {host}: no commas and quotes in paths")));
    }
    Ok(format!("type=bind,source={host},target={}{read_only}", volume.bind))
}

/// A container that is removed when this is dropped, running or not (Q7).
struct Container {
    id: Option<String>,
}

impl Container {
    async fn remove(mut self) {
        if let Some(id) = self.id.take() {
            process::quietly(&["docker", "rm", "--force", "--volumes", &id]).await;
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        // The run was cancelled: there is nobody left to wait, so a thread does.
        std::thread::spawn(move || {
            let mut command = std::process::Command::new("docker");
            command.args(["rm", "--force", "--volumes", &id]);
            command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
            if !command.stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success()) {
                tracing::warn!(container = id, "a container cannot be removed");
            }
        });
    }
}
