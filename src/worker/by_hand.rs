//! Runs one execution manually: reads it from the API, runs it here, reports to the API. For repairs, and for testing
//! functions.

use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Map, Value, json};
use url::Url;

use crate::callback::{self, Outcome, RunLog, Workplace};
use crate::queue::Assignment;

/// Runs the execution at this URL of the API. Authenticates with `secret`, that of its attempt, or else with the login that
/// this machine has for the host.
///
/// # Errors
/// One sentence: the execution cannot be read, is already resolved, or the report is rejected.
pub async fn run_by_hand(
    address: &Url,
    secret: Option<&str>,
    workplace: &Workplace,
) -> Result<(Outcome, String), String> {
    // Redirects to another origin are not followed, so the secret goes only to the named server.
    let client = Client::builder().timeout(Duration::from_mins(1)).redirect(callback::within_origin());
    let client = client.build().map_err(|error| error.to_string())?;
    let (login, problems) = workplace.login(address);
    for problem in &problems {
        tracing::warn!("{problem}");
    }
    let request = |method: Method, body: Value| -> RequestBuilder {
        let request = client.request(method, address.clone());
        match (secret, login.clone()) {
            (Some(secret), _) => {
                let mut body = body;
                body["secret"] = secret.into();
                request.header("X-Callback-Secret", secret).json(&body)
            }
            (None, Some((name, password))) => request.basic_auth(name, Some(password)).json(&body),
            (None, None) => request.json(&body),
        }
    };
    let record = answer(request(Method::GET, json!({}))).await?;
    let assignment = assignment(&record)?;
    answer(request(Method::PUT, json!({ "status": "running" }))).await?;
    let log = RunLog::hiding(secret.unwrap_or_default());
    let outcome = callback::run(&assignment, secret.unwrap_or_default(), workplace, &log).await;
    let (status, result) = match (outcome.is_success, assignment.wait_timeout > 0) {
        (false, _) => ("finished", "failed"),
        (true, false) => ("finished", "success"),
        (true, true) => ("waiting", "none"),
    };
    let report = json!({ "status": status, "result": result, "run_log": log.text(), "result_values": outcome.values });
    answer(request(Method::PUT, report)).await?;
    Ok((outcome, log.text()))
}

async fn answer(request: RequestBuilder) -> Result<Value, String> {
    let answer = request.send().await.map_err(|error| error.to_string())?;
    let status = answer.status();
    let body: Value = answer.json().await.unwrap_or_default();
    if status.is_success() {
        return Ok(body);
    }
    Err(format!("the server returned {status}: {}", body["message"].as_str().unwrap_or("no reason given")))
}

/// The job to run, from the execution resource of API version 2.
fn assignment(record: &Value) -> Result<Assignment, String> {
    let text = |pointer: &str| record.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |pointer: &str| record.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let small = |pointer: &str| u32::try_from(number(pointer)).unwrap_or(0);
    let status = text("/status");
    if status == "finished" || status == "skipped" {
        return Err(format!("it is already {status}; retry it first, on its page or through the API"));
    }
    let function = text("/callback/function");
    let id = i32::try_from(number("/id")).unwrap_or(0);
    if function.is_empty() || id == 0 {
        return Err("not the URL of a callback execution in version 2 of the API".to_owned());
    }
    Ok(Assignment {
        execution_id: id,
        attempt: i32::try_from(number("/attempt")).unwrap_or(1),
        function,
        arguments: text("/callback/callback_arguments"),
        initial_delay: small("/callback/initial_delay"),
        wait_timeout: small("/callback/wait_timeout"),
        lease_ms: 0,
        project_revision: None,
        data: record.as_object().cloned().unwrap_or_else(Map::new),
    })
}
