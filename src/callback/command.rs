//! `command`: a program on the `PATH` of the worker; `external_program`: a program of the project.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::queue::Assignment;

use super::substitution::Substitution;
use super::{Failure, Outcome, RunLog, Workplace, process, read_arguments};

#[derive(Deserialize)]
struct Arguments {
    binary: String,
    #[serde(default)]
    args: Option<Vec<Value>>,
    #[serde(default)]
    kwargs: Option<Map<String, Value>>,
    #[serde(default = "zero")]
    expected_return_code: Option<ReturnCodes>,
    #[serde(default = "xnat")]
    xnat_external_system_name: String,
}

/// One code or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum ReturnCodes {
    One(i32),
    Several(Vec<i32>),
}

#[expect(clippy::unnecessary_wraps, reason = "serde asks for the type of the field")]
fn zero() -> Option<ReturnCodes> {
    Some(ReturnCodes::One(0))
}

fn xnat() -> String {
    "XNAT".to_owned()
}

const KNOWN: [&str; 5] = ["binary", "args", "kwargs", "expected_return_code", "xnat_external_system_name"];

pub(super) async fn run(
    arguments: Map<String, Value>,
    assignment: &Assignment,
    secret: &str,
    workplace: &Workplace,
    log: &RunLog,
) -> Result<Outcome, Failure> {
    let arguments: Arguments = read_arguments(arguments, &KNOWN, log)?;
    let binary = arguments.binary.clone();
    call(binary, &arguments, assignment, secret, workplace, log).await
}

pub(super) async fn run_external_program(
    arguments: Map<String, Value>,
    assignment: &Assignment,
    secret: &str,
    workplace: &Workplace,
    log: &RunLog,
) -> Result<Outcome, Failure> {
    let arguments: Arguments = read_arguments(arguments, &KNOWN, log)?;
    let binary = project_binary(&workplace.bin, &arguments.binary)?;
    call(binary, &arguments, assignment, secret, workplace, log).await
}

/// The file `name` directly in the folder of programs; dots, links and paths that lead elsewhere are refused.
fn project_binary(bin: &Path, name: &str) -> Result<String, Failure> {
    let refused =
        || Failure(format!("external_program runs only what is directly in the project's bin: '{name}' is not"));
    let mut components = Path::new(name).components();
    let plain = matches!(components.next(), Some(std::path::Component::Normal(part)) if part == name);
    if !plain || components.next().is_some() {
        return Err(refused());
    }
    let absent = |what: &Path, error: std::io::Error| Failure(format!("cannot run {}: {error}", what.display()));
    let folder = bin.canonicalize().map_err(|error| absent(bin, error))?;
    let file = folder.join(name);
    let real = file.canonicalize().map_err(|error| absent(&file, error))?;
    if real.parent() != Some(folder.as_path()) || !real.is_file() {
        return Err(refused());
    }
    real.into_os_string().into_string().map_err(|_| refused())
}

async fn call(
    binary: String,
    arguments: &Arguments,
    assignment: &Assignment,
    secret: &str,
    workplace: &Workplace,
    log: &RunLog,
) -> Result<Outcome, Failure> {
    let substitution = Substitution::new(assignment, secret, &arguments.xnat_external_system_name);
    let mut argv = vec![binary];
    for argument in arguments.args.iter().flatten() {
        argv.push(substitution.apply(argument)?);
    }
    for (key, value) in arguments.kwargs.iter().flatten() {
        argv.push(key.clone());
        argv.push(substitution.apply(value)?);
    }
    log.line(&format!("Calling command: {argv:?}"));
    let ended = process::run(&argv, assignment, workplace, secret, log).await?;
    log.line(&format!("Return code: {}", ended.return_code));
    let is_success = match &arguments.expected_return_code {
        None => true,
        Some(ReturnCodes::One(code)) => *code == ended.return_code,
        Some(ReturnCodes::Several(codes)) => codes.is_empty() || codes.contains(&ended.return_code),
    };
    let values = read_values(ended.values.as_deref())?;
    let result = json!({
        "command": argv,
        "stdout": ended.stdout,
        "stderr": ended.stderr,
        "return_code": ended.return_code,
        "values": values,
    });
    let mut values = if let Value::Object(values) = result { values } else { Map::new() };
    if !is_success {
        let reason = format!("the program ended with return code {}", ended.return_code);
        values.insert("__exception__".to_owned(), reason.into());
        values.insert("__traceback__".to_owned(), Value::Null);
    }
    Ok(Outcome { is_success, values })
}

/// The values that a program handed back.
fn read_values(line: Option<&str>) -> Result<Value, Failure> {
    match line {
        None => Ok(Value::Null),
        Some(text) => serde_json::from_str(text.trim())
            .map_err(|error| Failure(format!("the line __VALUES__ = … is not one line of JSON: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_directly_in_the_folder_is_run() {
        let home = tempfile::tempdir().unwrap();
        let bin = home.path().join("bin");
        std::fs::create_dir_all(bin.join("inner")).unwrap();
        std::fs::write(bin.join("good.sh"), "").unwrap();
        std::fs::write(bin.join("inner/deep.sh"), "").unwrap();
        std::fs::write(home.path().join("outside.sh"), "").unwrap();
        std::os::unix::fs::symlink(home.path().join("outside.sh"), bin.join("link.sh")).unwrap();
        std::os::unix::fs::symlink(bin.join("good.sh"), bin.join("alias.sh")).unwrap();
        assert!(project_binary(&bin, "good.sh").is_ok());
        assert!(project_binary(&bin, "alias.sh").is_ok());
        for name in [
            "../outside.sh",
            "inner/deep.sh",
            "/bin/sh",
            "link.sh",
            "..",
            ".",
            "",
            "./good.sh",
            "good.sh/",
            "inner",
            "absent",
        ] {
            assert!(project_binary(&bin, name).is_err(), "{name}");
        }
    }
}
