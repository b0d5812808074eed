//! How many requests are answered at the same time. Health checks never wait for the others.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::HttpError;
use crate::config::WebSettings;

/// Places for requests.
#[derive(Clone)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    /// A request that waited for so long is refused.
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

/// Whether an orchestrator or a monitor asks.
pub(super) fn is_health(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|path| path.starts_with("/-/"))
}

/// Waits for a place. A request that gets none in time is answered 503.
pub(super) async fn wait_for_place(State(places): State<Places>, request: Request, next: Next) -> Response {
    if is_health(request.uri().path(), &places.prefix) {
        return next.run(request).await;
    }
    match timeout(places.patience, places.free.acquire()).await {
        Ok(Ok(_place)) => next.run(request).await,
        Ok(Err(_)) | Err(_) => HttpError::Overloaded.into_response(),
    }
}
