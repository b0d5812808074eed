//! `python_function`: a function of the study's own Python code, in a process of its own.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::substitution::Substitution;
use super::{Failure, Outcome, Run, process, read_arguments};

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

/// Calls the function and says what came of it.
const SCRIPT: &str = include_str!("python_function.py");

/// What the script says.
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
    let folder = tempdir()?;
    let answer = folder.path().join("answer.json");
    let argv = [run.workplace.python.clone(), "-u".into(), "-c".into(), SCRIPT.into(), answer.display().to_string()];
    let name = [arguments.package.as_deref(), Some(&arguments.module), Some(&arguments.function)];
    let name = name.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".");
    run.log.line(&format!("Calling Python function: {name}"));
    let ended = process::run(&argv, Some(asked.to_string().into_bytes()), &[], run).await?;
    let said = std::fs::read_to_string(&answer).ok().and_then(|text| serde_json::from_str::<Said>(&text).ok());
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
        None => outcome(Value::Null)
            .but_failed(format!("Python ended with return code {} and without an answer", ended.return_code), None),
        Some(Said { exception: Some(exception), traceback, .. }) => {
            run.log.line(traceback.as_deref().unwrap_or(&exception));
            outcome(Value::Null).but_failed(exception, traceback.as_deref())
        }
        Some(Said { value, .. }) => outcome(value),
    })
}

/// A folder of this run alone, gone with it.
pub(super) fn tempdir() -> Result<tempfile::TempDir, Failure> {
    tempfile::Builder::new()
        .prefix("studygovernor-run-")
        .tempdir()
        .map_err(|error| Failure(format!("no temporary folder can be made: {error}")))
}
