//! Request errors and their status. The layer around all routes renders them: JSON for the API, a page for browsers.

use std::collections::BTreeMap;

use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tower_http::request_id::RequestId;
use tracing::{error, warn};
use utoipa::ToSchema;

use crate::account::{AccountError, FormError, LoginError};
use crate::app::App;
use crate::context::Context;
use crate::database::Failure;
use crate::engine::EngineError;
use crate::study::revise::ReviseError;
use crate::view::ViewError;
use crate::workflow::WorkflowError;

/// Shown to users whose permission is limited to certain cohorts.
pub const WHOLE_STUDY: &str = "This requires access to the whole study; your role is limited to certain cohorts.";

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("{0}")]
    BadRequest(String),
    /// The problem with each field of the body or the URL.
    #[error("{}", .0.iter().map(|(field, problem)| format!("{field}: {problem}")).collect::<Vec<_>>().join("; "))]
    Invalid(BTreeMap<String, String>),
    #[error("Login required: the user name or password is missing or wrong, or the account is not active.")]
    Unauthenticated,
    #[error("This account requires a second factor. Scripts must use an API token (Your account > API tokens).")]
    TokenWanted,
    #[error("You do not have the permission '{0}'.")]
    Forbidden(&'static str),
    #[error("{0}")]
    NotYours(String),
    #[error("There is no {0}.")]
    NotFound(String),
    /// The link of an e-mail has expired, was already used, or is incomplete.
    #[error("The link has expired.")]
    LinkExpired,
    #[error("{0}")]
    Conflict(String),
    /// `If-Match` names another version than the current one.
    #[error("The resource was modified since you read it. Reload and try again.")]
    Precondition,
    #[error("{0}")]
    Unprocessable(String),
    #[error("{0}")]
    TooLarge(String),
    /// Try again after this number of seconds.
    #[error("Too many attempts. Try again in {}.", in_words(*.0))]
    TooMany(u64),
    /// The resource is in use by another request; try again after this number of seconds.
    #[error("{0}")]
    Busy(String),
    /// The request did not arrive in time.
    #[error("The request did not arrive in time.")]
    TooSlow,
    /// The server is at its limit.
    #[error("The server is busy. Try again in a moment.")]
    Overloaded,
    #[error(transparent)]
    Database(#[from] sea_orm::DbErr),
    #[error(transparent)]
    View(#[from] ViewError),
    #[error("{0}")]
    Internal(String),
    /// Nothing was changed, and the same request may succeed in a moment.
    #[error("{0}")]
    Unavailable(String),
}

/// Passed with a response to the layer that renders it.
#[derive(Debug, Clone)]
struct Told {
    message: String,
    errors: BTreeMap<String, String>,
}

/// The body of every error response. `meta` and `response` are only present with status 401 and 403, as in version 8.1.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ErrorBody {
    /// The error, in one sentence.
    #[schema(example = "There is no subject 7.")]
    pub message: String,
    /// The HTTP status.
    #[schema(example = 404)]
    pub code: u16,
    /// Errors by field. Only with status 400.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false)]
    pub errors: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta: Option<ErrorMeta>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<ErrorResponse>,
    /// Identifies the request in the log of the server. Only with status 500 and above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ErrorMeta {
    pub code: u16,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ErrorResponse {
    pub error: String,
}

/// `40 seconds`, `12 minutes`; rounded up.
fn in_words(seconds: u64) -> String {
    let many = |count: u64, unit: &str| if count == 1 { format!("1 {unit}") } else { format!("{count} {unit}s") };
    if seconds < 60 { many(seconds, "second") } else { many(seconds.div_ceil(60), "minute") }
}

impl HttpError {
    /// The thing does not exist or `ctx` may not see it. `kind` and `name` as in "subject 7".
    #[must_use]
    pub fn missing(ctx: &Context, kind: &str, name: impl std::fmt::Display) -> Self {
        Self::NotFound(format!("{kind} {name}{}", ctx.sought(kind)))
    }

    /// The HTTP status of the error.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Unauthenticated | Self::TokenWanted => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) | Self::NotYours(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) | Self::LinkExpired => StatusCode::NOT_FOUND,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::Precondition => StatusCode::PRECONDITION_FAILED,
            Self::Unprocessable(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Unavailable(_) | Self::Busy(_) | Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::Database(error) => match Failure::of(error) {
                Some(Failure::DiskFull) => StatusCode::INSUFFICIENT_STORAGE,
                Some(_) => StatusCode::SERVICE_UNAVAILABLE,
                None => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::View(_) | Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The text for the user. Details of internal errors are only logged.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::Database(error) => {
                Failure::of(error).map_or_else(String::new, |failure| failure.message().to_owned())
            }
            Self::Unavailable(_) | Self::View(_) | Self::Internal(_) => String::new(),
            error => error.to_string(),
        }
    }

    /// The number of seconds after which the same request may succeed.
    fn retry_after(&self) -> Option<u64> {
        /// A lock is released, or the server is back, within seconds; making room on a disk takes longer.
        const SOON: u64 = 5;
        const LATER: u64 = 60;
        match self {
            Self::TooMany(seconds) => Some(*seconds),
            Self::Unavailable(_) | Self::Busy(_) | Self::Overloaded => Some(SOON),
            Self::Database(error) => match Failure::of(error)? {
                // Only the user can decide whether to repeat the request.
                Failure::Uncertain | Failure::Replaced => None,
                failure if failure.is_of_writing() => Some(LATER),
                _ => Some(SOON),
            },
            _ => None,
        }
    }
}

impl From<LoginError> for HttpError {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::TooMany(seconds) => Self::TooMany(seconds),
            // The login page explains this case; everywhere else it is a failed login.
            LoginError::Waiting => Self::Unauthenticated,
            LoginError::TokenWanted => Self::TokenWanted,
            LoginError::Account(error) => error.into(),
        }
    }
}

impl From<AccountError> for HttpError {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::Invalid { field, problem } => Self::Invalid(BTreeMap::from([(field.to_owned(), problem)])),
            AccountError::UnknownRole(_) => Self::Invalid(BTreeMap::from([("roles".to_owned(), error.to_string())])),
            AccountError::Exists | AccountError::LastAdmin | AccountError::LastScope => {
                Self::Conflict(error.to_string())
            }
            AccountError::Unknown => Self::NotFound("such user".to_owned()),
            AccountError::Changed => Self::Precondition,
            AccountError::NotWithToken => Self::NotYours(error.to_string()),
            AccountError::Password(error) => Self::Internal(error.to_string()),
            AccountError::Database(error) => Self::Database(error),
        }
    }
}

impl From<FormError> for HttpError {
    fn from(error: FormError) -> Self {
        match error {
            FormError::Problems(problems) => {
                Self::Invalid(problems.into_iter().map(|(field, problem)| (field.to_owned(), problem)).collect())
            }
            FormError::Link => Self::LinkExpired,
            FormError::Login(error) => error.into(),
        }
    }
}

impl From<ReviseError> for HttpError {
    fn from(error: ReviseError) -> Self {
        match error {
            ReviseError::NotFound { kind, reference, sought } => Self::NotFound(format!("{kind} {reference}{sought}")),
            ReviseError::Duplicate { .. } | ReviseError::Archived { .. } => Self::Conflict(error.to_string()),
            ReviseError::Changed(_) => Self::Precondition,
            ReviseError::WholeStudy => Self::NotYours(WHOLE_STUDY.to_owned()),
            ReviseError::Database(error) => Self::Database(error),
        }
    }
}

impl From<EngineError> for HttpError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::NotFound { kind, id, sought } => Self::NotFound(format!("{kind} {id}{sought}")),
            EngineError::StateNotFound { requested } => Self::NotFound(format!("state '{requested}' in this workflow")),
            EngineError::Workflow(WorkflowError::Unknown(label)) => Self::NotFound(format!("workflow '{label}'")),
            EngineError::Database(error) | EngineError::Workflow(WorkflowError::Database(error)) => {
                Self::Database(error)
            }
            EngineError::Busy { experiment_id } => Self::Busy(format!(
                "Experiment {experiment_id} is being changed by another request or server, so nothing was changed. \
                Try again in a few seconds."
            )),
            EngineError::NoInterpreter(_) | EngineError::Elsewhere(_) => Self::Unavailable(error.to_string()),
            EngineError::NoTransition { .. }
            | EngineError::ConditionNotMet { .. }
            | EngineError::Resolved { .. }
            | EngineError::StaleAttempt { .. }
            | EngineError::StepBack { .. }
            | EngineError::MovedOn
            | EngineError::Duplicate { .. }
            | EngineError::DuplicateSubject { .. }
            | EngineError::OtherModality { .. }
            | EngineError::Archived { .. }
            | EngineError::NotArchived { .. }
            | EngineError::NotHeld(_)
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
        let message = self.message();
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        let errors = if let Self::Invalid(errors) = &self { errors.clone() } else { BTreeMap::new() };
        response.extensions_mut().insert(Told { message, errors });
        if matches!(self, Self::Overloaded) {
            warn!("request rejected: the server is overloaded");
        } else if status.is_server_error() {
            error!(error = %self, "request failed");
        }
        response
    }
}

#[derive(Serialize)]
struct ErrorPage {
    status: u16,
    title: String,
    message: String,
    request_id: String,
    is_fragment: bool,
}

/// Renders an error as the body of the API, including errors of the router and the extractors. Used by the API's own
/// routes; errors of the layers around them (body too large, timeout) are passed here by [`render_errors`].
pub async fn json_error(response: Response, request_id: Option<String>) -> Response {
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) || has_own_body(&response) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let (message, errors) = match parts.extensions.remove::<Told>() {
        Some(told) => (told.message, told.errors),
        // The text of a layer may contain internal details.
        None if status.is_server_error() => (String::new(), BTreeMap::new()),
        None => (plain_text(body).await, BTreeMap::new()),
    };
    let message = if message.is_empty() { title(status).to_owned() } else { message };
    let like_before = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    let body = ErrorBody {
        meta: like_before.then(|| ErrorMeta { code: status.as_u16() }),
        response: like_before.then(|| ErrorResponse { error: said_before(status).to_owned() }),
        code: status.as_u16(),
        request_id: request_id.filter(|_| status.is_server_error()),
        message,
        errors,
    };
    let mut response = (status, axum::Json(body)).into_response();
    keep_headers(&parts.headers, &mut response);
    response
}

/// The texts of version 8.1, which scripts may check.
fn said_before(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "You are not authenticated. Please supply the correct credentials.",
        _ => "You do not have permission to view this resource.",
    }
}

async fn plain_text(body: axum::body::Body) -> String {
    let bytes = axum::body::to_bytes(body, 4096).await.unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn keep_headers(headers: &HeaderMap, response: &mut Response) {
    for (name, value) in headers {
        if name != CONTENT_TYPE && name != CONTENT_LENGTH {
            response.headers_mut().append(name, value.clone());
        }
    }
}

/// Renders every error, including errors of the router and the extractors.
pub async fn render_errors(State(app): State<App>, request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok()).map(str::to_owned);
    let is_fragment = is_fragment(request.headers());
    let is_head = request.method() == Method::HEAD;
    let is_api = is_api(&app, &request);
    let response = next.run(request).await;
    if is_api {
        return json_error(response, id).await;
    }
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) || has_own_body(&response) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let message = match parts.extensions.get::<Told>() {
        Some(told) => told.message.clone(),
        None if status == StatusCode::PAYLOAD_TOO_LARGE => "The request body is too large.".to_owned(),
        None if status.is_server_error() => String::new(),
        // The extractors explain in plain text which part of the URL or the form they could not read.
        None => plain_text(body).await,
    };
    let context = ErrorPage {
        status: status.as_u16(),
        title: title(status).to_owned(),
        message,
        request_id: id.unwrap_or_default(),
        is_fragment,
    };
    let page = app.templates.page("error.html", &context).unwrap_or_else(|error| {
        error!(%error, "rendering the error page failed");
        title(status).to_owned()
    });
    let mut page = (status, axum::response::Html(if is_head { String::new() } else { page })).into_response();
    keep_headers(&parts.headers, &mut page);
    page
}

/// Whether a request belongs to the API; otherwise to the pages.
pub(super) fn is_api(app: &App, request: &Request) -> bool {
    let path = request.uri().path();
    path.strip_prefix(&app.settings.web.prefix).unwrap_or(path).starts_with("/api/")
}

fn has_own_body(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    kind.starts_with(b"text/html") || kind.starts_with(b"application/json")
}

/// Whether htmx requests a part of a page.
pub(crate) fn is_fragment(headers: &HeaderMap) -> bool {
    // Going back in the history of htmx requests the whole page.
    let is_whole = headers.contains_key("hx-boosted") || headers.contains_key("hx-history-restore-request");
    headers.contains_key("hx-request") && !is_whole
}

fn title(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => "Invalid request",
        StatusCode::UNAUTHORIZED => "Login required",
        StatusCode::FORBIDDEN => "Permission denied",
        StatusCode::NOT_FOUND => "Not found",
        StatusCode::METHOD_NOT_ALLOWED => "Method not allowed",
        StatusCode::CONFLICT => "Conflict",
        StatusCode::PAYLOAD_TOO_LARGE => "Request too large",
        StatusCode::TOO_MANY_REQUESTS => "Too many attempts",
        StatusCode::PRECONDITION_FAILED => "Modified in the meantime",
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => "Request timed out",
        StatusCode::SERVICE_UNAVAILABLE => "Temporarily unavailable",
        StatusCode::INSUFFICIENT_STORAGE => "The disk is full",
        status if status.is_server_error() => "Internal server error",
        _ => "Request failed",
    }
}
