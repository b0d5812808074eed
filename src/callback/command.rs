//! `command`: a program on the `PATH` of the worker; `external_program`: a program of the project.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::process::{Program, Values};
use super::substitution::Substitution;
use super::workplace::direct_file;
use super::{Failure, Outcome, Run, RunLog, process, python_json, read_arguments};

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

/// One return code or several.
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

pub(super) async fn run(arguments: Map<String, Value>, run: &Run<'_>) -> Result<Outcome, Failure> {
    let arguments: Arguments = read_arguments(arguments, &KNOWN, run.log)?;
    let binary = arguments.binary.clone();
    call(binary, &arguments, run).await
}

pub(super) async fn run_external_program(arguments: Map<String, Value>, run: &Run<'_>) -> Result<Outcome, Failure> {
    let arguments: Arguments = read_arguments(arguments, &KNOWN, run.log)?;
    let binary = direct_file(&run.workplace.bin, &arguments.binary, "external_program", "bin")?;
    let binary = binary.into_os_string().into_string().map_err(|_| {
        Failure(
            "the name of the program is not a \
            string"
                .to_owned(),
        )
    })?;
    call(binary, &arguments, run).await
}

async fn call(binary: String, arguments: &Arguments, run: &Run<'_>) -> Result<Outcome, Failure> {
    let log = run.log;
    let substitution = Substitution::new(run, &arguments.xnat_external_system_name);
    let mut argv = vec![binary];
    for argument in arguments.args.iter().flatten() {
        argv.push(substitution.apply(argument)?);
    }
    for (key, value) in arguments.kwargs.iter().flatten() {
        argv.push(key.clone());
        argv.push(substitution.apply(value)?);
    }
    log.line(&format!("Calling command: {argv:?}"));
    let program = Program { argv: argv.clone(), ..Program::default() };
    let ended = process::run(program, run).await?;
    log.line(&format!("Return code: {}", ended.return_code));
    let is_success = match &arguments.expected_return_code {
        None => true,
        Some(ReturnCodes::One(code)) => *code == ended.return_code,
        Some(ReturnCodes::Several(codes)) => codes.is_empty() || codes.contains(&ended.return_code),
    };
    let values = read_values(ended.values, log);
    let outcome = Outcome::success(json!({
        "command": argv,
        "stdout": ended.stdout,
        "stderr": ended.stderr,
        "return_code": ended.return_code,
        "values": values.as_ref().unwrap_or(&Value::Null),
    }));
    match values {
        Err(failure) => {
            log.line(&format!("failed: {failure}"));
            Ok(outcome.but_failed(failure.0, None))
        }
        Ok(_) if is_success => Ok(outcome),
        Ok(_) => Ok(outcome.but_failed(format!("the program ended with return code {}", ended.return_code), None)),
    }
}

/// The values that a program printed.
fn read_values(line: Option<Values>, log: &RunLog) -> Result<Value, Failure> {
    match line {
        None => Ok(Value::Null),
        Some(Values::TooLong) => Err(Failure("the line __VALUES__ = … is longer than 1 MiB".to_owned())),
        Some(Values::Text(text)) => python_json::read(text.trim(), "__VALUES__", log)
            .map_err(|error| Failure(format!("the line __VALUES__ = … is not valid JSON on one line: {error}"))),
    }
}
