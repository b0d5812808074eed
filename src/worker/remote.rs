//! The engine over HTTP, for workers on other machines. They authenticate only with the secret of the attempt.

use std::time::Duration;

use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};

use crate::callback::Outcome;
use crate::queue::Ticket;

use super::desk::{Claim, Desk, DeskError, Order, Verdict};

/// The engine of a server, called over HTTP.
#[derive(Debug, Clone)]
pub struct RemoteDesk {
    client: Client,
    /// URL of the server as this worker reaches it, if it differs from the one in messages.
    server: Option<String>,
}

impl RemoteDesk {
    /// `server` is like `https://studies.example.org/prefix`; without it the URL in each message is used.
    ///
    /// # Errors
    /// One sentence, when TLS is unavailable.
    pub fn new(server: Option<&str>) -> Result<Self, String> {
        let client = Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .timeout(Duration::from_mins(1))
            // Redirects are not followed, so the secret goes only to the URL in the message.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("studygovernor-worker/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { client, server: server.map(|server| server.trim_end_matches('/').to_owned()) })
    }

    async fn post(&self, ticket: &Ticket, verb: &str, mut body: Value) -> Result<Response, DeskError> {
        let base = match &self.server {
            Some(server) => format!("{server}/api/v2/callback_executions/{}", ticket.execution_id),
            None => ticket.url.clone(),
        };
        if let Value::Object(entries) = &mut body {
            entries.insert("attempt".to_owned(), ticket.attempt.into());
            entries.insert("secret".to_owned(), ticket.secret.clone().into());
        }
        // The server checks these headers before it reads the body.
        let request = self.client.post(format!("{base}/{verb}")).json(&body);
        let request = request.header("X-Callback-Secret", &ticket.secret).header("X-Callback-Attempt", ticket.attempt);
        let sent = request.send().await;
        sent.map_err(|error| DeskError::Unreachable(with_cause(&error)))
    }
}

/// A network error with its causes: the outer message says only that sending failed.
fn with_cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// The error for a response that neither grants nor refuses: unreachable if a retry may succeed, else unacceptable.
async fn no_answer(answer: Response) -> DeskError {
    let status = answer.status();
    let passing = status.is_server_error()
        || status.is_redirection()
        // 404 comes from a proxy whose server is down; a server answers 403 for its own executions.
        || matches!(status, StatusCode::NOT_FOUND | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
    let body = answer.text().await.unwrap_or_default();
    let message = serde_json::from_str::<Value>(&body).ok();
    let message = message.as_ref().and_then(|body| body["message"].as_str()).unwrap_or_default();
    let text = format!("the server returned {status}: {message}");
    if passing { DeskError::Unreachable(text) } else { DeskError::Unacceptable(text) }
}

impl Desk for RemoteDesk {
    async fn claim(&self, ticket: &Ticket, worker: &str) -> Result<Claim, DeskError> {
        let answer = self.post(ticket, "claim", json!({ "worker": worker })).await?;
        match answer.status() {
            StatusCode::OK => {
                let assignment = answer.json().await.map_err(|error| DeskError::Unreachable(with_cause(&error)))?;
                Ok(Claim::Granted(Box::new(assignment)))
            }
            StatusCode::CONFLICT => Ok(Claim::Refused),
            _ => Err(no_answer(answer).await),
        }
    }

    async fn beat(&self, ticket: &Ticket, worker: &str, log: Option<String>) -> Result<Order, DeskError> {
        let answer = self.post(ticket, "heartbeat", json!({ "worker": worker, "run_log": log })).await?;
        match answer.status() {
            StatusCode::NO_CONTENT => Ok(Order::Continue),
            StatusCode::CONFLICT => Ok(Order::Stop),
            _ => Err(no_answer(answer).await),
        }
    }

    async fn report(
        &self,
        ticket: &Ticket,
        worker: &str,
        outcome: &Outcome,
        log: String,
        waits: bool,
    ) -> Result<Verdict, DeskError> {
        let body = json!({
            "worker": worker,
            "success": outcome.is_success,
            "waits": waits,
            "run_log": log,
            "result_values": outcome.values,
        });
        let answer = self.post(ticket, "report", body).await?;
        match answer.status() {
            StatusCode::NO_CONTENT => Ok(Verdict::Accepted),
            StatusCode::CONFLICT => Ok(Verdict::Refused),
            _ => Err(no_answer(answer).await),
        }
    }

    async fn release(&self, ticket: &Ticket, worker: &str, why: &str) -> Result<(), DeskError> {
        let answer = self.post(ticket, "release", json!({ "worker": worker, "reason": why })).await?;
        match answer.status() {
            StatusCode::NO_CONTENT | StatusCode::CONFLICT => Ok(()),
            _ => Err(no_answer(answer).await),
        }
    }
}
