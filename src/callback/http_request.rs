//! `http_request`: sends an HTTP request to any system.

use std::time::Duration;

use reqwest::{Method, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::substitution::Substitution;
use super::web::{Web, beginning, redirect_of, send, shown, text};
use super::{Failure, Outcome, Run, RunLog, python_json, read_arguments};

#[derive(Deserialize)]
struct Arguments {
    #[serde(default = "get")]
    method: String,
    url: String,
    #[serde(default)]
    headers: Option<Map<String, Value>>,
    #[serde(default)]
    json: Option<Value>,
    #[serde(default)]
    body: Option<String>,
    /// One status or several; the default is any 2xx.
    #[serde(default)]
    expected_status: Option<Statuses>,
    /// Seconds.
    #[serde(default)]
    timeout: Option<f64>,
    #[serde(default = "xnat")]
    xnat_external_system_name: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Statuses {
    One(u16),
    Several(Vec<u16>),
}

fn get() -> String {
    "GET".to_owned()
}

fn xnat() -> String {
    "XNAT".to_owned()
}

const KNOWN: [&str; 8] =
    ["method", "url", "headers", "json", "body", "expected_status", "timeout", "xnat_external_system_name"];

/// Default timeout of a request, in seconds.
const USUAL: f64 = 60.0;

pub(super) async fn run(arguments: Map<String, Value>, run: &Run<'_>) -> Result<Outcome, Failure> {
    let arguments: Arguments = read_arguments(arguments, &KNOWN, run.log)?;
    if arguments.json.is_some() && arguments.body.is_some() {
        return Err(Failure("callback_arguments: json and body cannot be combined".to_owned()));
    }
    let substitution = Substitution::new(run, &arguments.xnat_external_system_name);
    let limit = Duration::try_from_secs_f64(arguments.timeout.unwrap_or(USUAL))
        .map_err(|_| Failure("callback_arguments: timeout is not a number of seconds".to_owned()))?;
    let method = Method::from_bytes(arguments.method.to_ascii_uppercase().as_bytes())
        .map_err(|_| Failure(format!("callback_arguments: '{}' is not an HTTP method", arguments.method)))?;
    let url = substitution.text(arguments.url.clone())?;
    let web = Web::new(run, limit)?;
    let own_login = arguments.headers.iter().flatten().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
    let request = if own_login { web.plain(method.clone(), &url)? } else { web.request(method.clone(), &url)? };
    let mut request = request;
    for (name, value) in arguments.headers.iter().flatten() {
        request = request.header(name, substitution.apply(value)?);
    }
    if let Some(value) = &arguments.json {
        request = request.json(&substitution.value(value)?);
    }
    if let Some(body) = &arguments.body {
        request = request.body(substitution.text(body.clone())?);
    }
    let what = format!("{method} {}", shown(&url));
    run.log.line(&what);
    let answer = send(request, &what).await?;
    let answer = follow(answer, &method, arguments.expected_status.as_ref(), &web, run.log).await?;
    let status = answer.status().as_u16();
    let headers: Map<String, Value> = answer
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned().into()))
        .collect();
    let body = text(answer, &what).await?;
    run.log.line(&format!("returned status {status}, {} bytes", body.len()));
    let is_expected = is_expected(arguments.expected_status.as_ref(), status);
    let reason = format!("{what} returned status {status}: {}", beginning(&body));
    let body =
        python_json::read(&body, "body", run.log).unwrap_or_else(|_| Value::String(body.replace('\0', "\u{fffd}")));
    let outcome = Outcome::success(json!({ "status": status, "headers": headers, "body": body }));
    Ok(if is_expected { outcome } else { outcome.but_failed(reason, None) })
}

fn is_expected(wanted: Option<&Statuses>, status: u16) -> bool {
    match wanted {
        None => (200..300).contains(&status),
        Some(Statuses::One(one)) => *one == status,
        Some(Statuses::Several(several)) => several.contains(&status),
    }
}

/// Follows redirects to other origins without the workflow's headers, login and body. A redirect status that the workflow
/// expects is not followed.
///
/// # Errors
/// When the body would have to be sent to another origin, or after too many redirects.
async fn follow(
    mut answer: Response,
    method: &Method,
    wanted: Option<&Statuses>,
    web: &Web<'_>,
    log: &RunLog,
) -> Result<Response, Failure> {
    const MOST: usize = 10;
    let mut method = method.clone();
    for _ in 0..MOST {
        let status = answer.status().as_u16();
        let Some(target) = redirect_of(&answer).filter(|_| wanted.is_none() || !is_expected(wanted, status)) else {
            return Ok(answer);
        };
        let origin = target.origin().ascii_serialization();
        // As browsers do: 307 and 308 repeat the request, the other statuses become a GET.
        let is_again = matches!(status, 307 | 308);
        if is_again && !matches!(method, Method::GET | Method::HEAD) {
            let reason = format!(
                "the response redirects to {origin}, another origin, to which the request is not \
                sent"
            );
            return Err(Failure(format!("{method}: {reason} (status {status})")));
        }
        if method != Method::HEAD {
            method = Method::GET;
        }
        log.line(&format!("redirected to {origin}, another origin: {method} without headers, login and body"));
        let target = target.to_string();
        answer = send(web.plain(method.clone(), &target)?, &format!("{method} {}", shown(&target))).await?;
    }
    Err(Failure(format!("more than {MOST} redirects to other origins")))
}
