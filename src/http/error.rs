//! One error, one status; the layer around all routes gives it its form: a page for the browser.

use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tower_http::request_id::RequestId;
use tracing::error;

use crate::app::App;
use crate::engine::EngineError;
use crate::view::ViewError;
use crate::workflow::WorkflowError;

/// Why a request was not answered as asked.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("{0}")]
    BadRequest(String),
    #[error("You do not have the permission '{0}'.")]
    Forbidden(&'static str),
    #[error("There is no {0}.")]
    NotFound(String),
    #[error("{0}")]
    Conflict(String),
    #[error(transparent)]
    Database(#[from] sea_orm::DbErr),
    #[error(transparent)]
    View(#[from] ViewError),
    #[error("{0}")]
    Internal(String),
}

/// Travels with a response to the layer that renders it.
#[derive(Debug, Clone)]
struct Told {
    message: String,
}

impl HttpError {
    /// The status that says it.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::Database(_) | Self::View(_) | Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<EngineError> for HttpError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::NotFound { kind, id } => Self::NotFound(format!("{kind} {id}")),
            EngineError::StateNotFound { requested } => Self::NotFound(format!("state '{requested}' in this workflow")),
            EngineError::Workflow(WorkflowError::Unknown(label)) => Self::NotFound(format!("workflow '{label}'")),
            EngineError::Database(error) | EngineError::Workflow(WorkflowError::Database(error)) => {
                Self::Database(error)
            }
            EngineError::NoInterpreter(_) => Self::Internal(error.to_string()),
            EngineError::NoTransition { .. }
            | EngineError::ConditionNotMet { .. }
            | EngineError::Resolved { .. }
            | EngineError::StaleAttempt { .. }
            | EngineError::StepBack { .. }
            | EngineError::MovedOn
            | EngineError::Duplicate { .. }
            | EngineError::NoWorkflow
            | EngineError::NoRoot(_)
            | EngineError::Workflow(WorkflowError::Exists(_) | WorkflowError::InUse(_)) => {
                Self::Conflict(error.to_string())
            }
        }
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut response = status.into_response();
        // What went wrong inside is for the log, where it is handled, and not for the page.
        let message = if status.is_server_error() { String::new() } else { self.to_string() };
        response.extensions_mut().insert(Told { message });
        if status.is_server_error() {
            error!(error = %self, "a request failed");
        }
        response
    }
}

#[derive(Serialize)]
struct Context {
    status: u16,
    title: String,
    message: String,
    request_id: String,
    is_fragment: bool,
}

/// Gives every error the form of a page, those of the router and the extractors too.
pub async fn render_errors(State(app): State<App>, request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok()).map(str::to_owned);
    let is_fragment = is_fragment(request.headers());
    let is_head = request.method() == Method::HEAD;
    let response = next.run(request).await;
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) || has_own_body(&response) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let message = match parts.extensions.get::<Told>() {
        Some(told) => told.message.clone(),
        // The extractors say in plain text which part of the address or the form they could not read.
        None => axum::body::to_bytes(body, 4096)
            .await
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default(),
    };
    let context = Context {
        status: status.as_u16(),
        title: title(status).to_owned(),
        message: if status.is_server_error() { String::new() } else { message },
        request_id: id.unwrap_or_default(),
        is_fragment,
    };
    let page = app.templates.page("error.html", &context).unwrap_or_else(|error| {
        error!(%error, "the error page failed");
        title(status).to_owned()
    });
    let mut page = (status, axum::response::Html(if is_head { String::new() } else { page })).into_response();
    for (name, value) in &parts.headers {
        if !["content-type", "content-length"].contains(&name.as_str()) {
            page.headers_mut().append(name, value.clone());
        }
    }
    page
}

fn has_own_body(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    kind.starts_with(b"text/html") || kind.starts_with(b"application/json")
}

/// Whether htmx asks for a part of a page.
pub(crate) fn is_fragment(headers: &HeaderMap) -> bool {
    headers.contains_key("hx-request") && !headers.contains_key("hx-boosted")
}

fn title(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => "That could not be understood",
        StatusCode::UNAUTHORIZED => "Please log in",
        StatusCode::FORBIDDEN => "Not permitted",
        StatusCode::NOT_FOUND => "Not found",
        StatusCode::METHOD_NOT_ALLOWED => "That cannot be done here",
        StatusCode::CONFLICT => "That is not possible any more",
        StatusCode::PAYLOAD_TOO_LARGE => "That is too large",
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => "That took too long",
        status if status.is_server_error() => "Something went wrong here",
        _ => "That did not work",
    }
}
