//! Limits the number of concurrent requests. Health checks never wait for other requests.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::HttpError;
use crate::config::WebSettings;

/// The places for concurrent requests.
#[derive(Clone)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    /// A request that waits longer than this is rejected.
    patience: Duration,
    prefix: Arc<str>,
}

impl Places {
    pub(super) fn new(web: &WebSettings) -> Self {
        Self {
            free: Arc::new(Semaphore::new(web.connections.clamp(1, Semaphore::MAX_PERMITS))),
            patience: Duration::from_secs(web.request_timeout.max(1)),
            prefix: web.prefix.as_str().into(),
        }
    }
}

/// Whether the request comes from an orchestrator or a monitor.
pub(super) fn is_health(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|path| path.starts_with("/-/"))
}

/// Waits for a free place. Answers 503 if none becomes free in time.
pub(super) async fn wait_for_place(State(places): State<Places>, request: Request, next: Next) -> Response {
    if is_health(request.uri().path(), &places.prefix) {
        return next.run(request).await;
    }
    match timeout(places.patience, places.free.acquire()).await {
        Ok(Ok(_place)) => next.run(request).await,
        Ok(Err(_)) | Err(_) => HttpError::Overloaded.into_response(),
    }
}
