//! `send_mail`: sends an e-mail about an experiment.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::config::mail_addresses;
use crate::mail::{Letter, Posted};

use super::{Failure, Outcome, Run, read_arguments};

#[derive(Deserialize)]
struct Arguments {
    subject: String,
    body: String,
    /// Replaces the recipients of `STUDYGOV_EMAIL_TO`.
    #[serde(default)]
    to: Option<Recipients>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Recipients {
    One(String),
    Several(Vec<String>),
}

const KNOWN: [&str; 3] = ["subject", "body", "to"];

pub(super) async fn run(arguments: Map<String, Value>, run: &Run<'_>) -> Result<Outcome, Failure> {
    let arguments: Arguments = read_arguments(arguments, &KNOWN, run.log)?;
    let mail = &run.workplace.mail;
    let to: Vec<String> = match arguments.to {
        None => mail.settings().to.clone(),
        Some(Recipients::One(text)) => mail_addresses(&text),
        Some(Recipients::Several(list)) => list.iter().flat_map(|text| mail_addresses(text)).collect(),
    };
    if to.is_empty() {
        return Err(Failure(
            "the e-mail has no recipient: specify 'to', or set STUDYGOV_EMAIL_TO for the worker".to_owned(),
        ));
    }
    let subject = fill(&arguments.subject, run)?;
    let subject = match mail.settings().prefix.as_str() {
        "" => subject,
        prefix => format!("{prefix} {subject}"),
    };
    let body = fill(&arguments.body, run)?;
    run.log.line(&format!("Sending e-mail to {}: {subject}", to.join(", ")));
    let letter = Letter { to: to.clone(), subject: subject.clone(), body: body.clone(), html: None };
    match mail.send(&letter).await.map_err(|error| Failure(error.to_string()))? {
        Posted::Sent => run.log.line("The mail server accepted it."),
        Posted::Kept(file) => {
            run.log.line(&format!(
                "No mail server is configured (MAIL_SERVER); the e-mail was written to \
                {}",
                file.display()
            ));
        }
    }
    Ok(Outcome::success(json!({
        "sender": mail.settings().from,
        "recipient": to.join(", "),
        "subject": subject,
        "body": body,
    })))
}

/// Inserts the fields of the experiment and its action into a text; a double brace stands for one.
fn fill(text: &str, run: &Run<'_>) -> Result<String, Failure> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        filled.push_str(before);
        if let Some(after) = from.strip_prefix("{{").or_else(|| from.strip_prefix("}}")) {
            filled.push_str(&from[..1]);
            rest = after;
            continue;
        }
        let Some((name, after)) = from.strip_prefix('{').and_then(|inner| inner.split_once('}')) else {
            return Err(Failure(
                "a single brace in the text of the e-mail; write it twice for a literal \
                brace"
                    .to_owned(),
            ));
        };
        filled.push_str(match name.trim() {
            "experiment" => run.text("/experiment/label"),
            "experiment_url" => run.text("/experiment/web_uri"),
            "experiment_api_url" => run.text("/experiment/api_uri"),
            "action_url" => run.text("/action/web_uri"),
            "action_api_url" => run.text("/action/api_uri"),
            "subject" => run.text("/subject/label"),
            other => {
                return Err(Failure(format!(
                    "the text of the e-mail contains {{{other}}}, which is not a known \
                field"
                )));
            }
        });
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}
