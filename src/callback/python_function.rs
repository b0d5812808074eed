//! `python_function`: calls a function of the study's Python code, in a separate process.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::process::Program;
use super::substitution::Substitution;
use super::{Failure, Outcome, Run, process, python_json, read_arguments};

#[derive(Deserialize)]
struct Arguments {
    #[serde(default)]
    package: Option<String>,
    module: String,
    function: String,
    #[serde(default = "yes")]
    pass_callback_data: bool,
    #[serde(default)]
    args: Option<Vec<Value>>,
    #[serde(default)]
    kwargs: Option<Map<String, Value>>,
    #[serde(default = "xnat")]
    xnat_external_system_name: String,
}

fn yes() -> bool {
    true
}

fn xnat() -> String {
    "XNAT".to_owned()
}

const KNOWN: [&str; 7] =
    ["package", "module", "function", "pass_callback_data", "args", "kwargs", "xnat_external_system_name"];

/// Calls the function and writes its result.
const SCRIPT: &str = include_str!("python_function.py");

/// The result that the script writes.
#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    value: Value,
    exception: Option<String>,
    traceback: Option<String>,
}

pub(super) async fn run(arguments: Map<String, Value>, run: &Run<'_>) -> Result<Outcome, Failure> {
    let arguments: Arguments = read_arguments(arguments, &KNOWN, run.log)?;
    let substitution = Substitution::new(run, &arguments.xnat_external_system_name);
    let args = substitution.value(&arguments.args.clone().unwrap_or_default().into())?;
    let kwargs = substitution.value(&arguments.kwargs.clone().unwrap_or_default().into())?;
    let mut all = Vec::new();
    if arguments.pass_callback_data {
        all.push(Value::Object(run.assignment.data.clone()));
        all.push(Value::Object(run.workplace.configuration()));
    }
    all.extend(args.as_array().cloned().unwrap_or_default());
    let asked = json!({
        "package": arguments.package,
        "module": arguments.module,
        "function": arguments.function,
        "args": all,
        "kwargs": kwargs,
    });
    let folder = tempdir(run)?;
    let answer = folder.path().join("answer.json");
    let argv = [run.workplace.python.clone(), "-u".into(), "-c".into(), SCRIPT.into(), answer.display().to_string()];
    let name = [arguments.package.as_deref(), Some(&arguments.module), Some(&arguments.function)];
    let name = name.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".");
    run.log.line(&format!("Calling Python function: {name}"));
    let program = Program { argv: argv.to_vec(), input: Some(asked.to_string()), ..Program::default() };
    let ended = process::run(program, run).await?;
    let said = std::fs::read_to_string(&answer).ok().filter(|text| !text.is_empty());
    let said =
        said.map(|text| python_json::read(&text, "return_value", run.log).and_then(serde_json::from_value::<Said>));
    let outcome = |value: Value| {
        Outcome::success(json!({
            "package": arguments.package,
            "module": arguments.module,
            "function": arguments.function,
            "args": args,
            "kwargs": kwargs,
            "return_value": value,
        }))
    };
    Ok(match said {
        None => outcome(Value::Null).but_failed(
            format!(
                "Python ended with return code {} without returning a \
                result",
                ended.return_code
            ),
            None,
        ),
        Some(Err(error)) => {
            outcome(Value::Null).but_failed(format!("cannot read the result of the function: {error}"), None)
        }
        Some(Ok(Said { exception: Some(exception), traceback, .. })) => {
            run.log.line(traceback.as_deref().unwrap_or(&exception));
            outcome(Value::Null).but_failed(exception, traceback.as_deref())
        }
        Some(Ok(Said { value, .. })) => outcome(value),
    })
}

/// A folder for this run only, owned by the user of its program; deleted with the run.
fn tempdir(run: &Run<'_>) -> Result<tempfile::TempDir, Failure> {
    let failed = |error: std::io::Error| Failure(format!("cannot create a temporary folder: {error}"));
    let folder = tempfile::Builder::new()
        .prefix("studygovernor-run-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir()
        .map_err(failed)?;
    run.workplace.hand_over(folder.path()).map_err(failed)?;
    Ok(folder)
}
