//! `/-/queues`: the number of workers that each queue needs, for autoscalers (KEDA's `metrics-api`).
//!
//! Needs no login, like `/-/metrics`: it shows only names of queues and numbers.

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use crate::app::App;
use crate::context::Context;
use crate::queue::DEFAULT_QUEUE;
use crate::study::queue_load::{QueueLoad, queue_loads};

use super::HttpError;

#[derive(Debug, Deserialize)]
pub(super) struct Parameters {
    queue: Option<String>,
    /// Executions that one worker runs at the same time; at most 1000.
    concurrency: Option<u64>,
}

/// The load of the queue that `?queue=` names (zero when it has no work), or of all queues as `{"queues": […]}`.
pub(super) async fn get_queues(
    State(app): State<App>,
    Query(parameters): Query<Parameters>,
) -> Result<Response, HttpError> {
    let ctx = &Context::system("autoscaler");
    if parameters.concurrency.is_some_and(|concurrency| !(1..=1000).contains(&concurrency)) {
        return Err(HttpError::BadRequest("concurrency: must be a number from 1 to 1000".to_owned()));
    }
    let otherwise = u64::try_from(app.settings.callback.concurrency).unwrap_or(1);
    let (connection, now) = (app.engine.database().reader(), app.engine.clock().now());
    let loads = queue_loads(ctx, connection, now, DEFAULT_QUEUE, parameters.concurrency, otherwise).await?;
    let Some(queue) = parameters.queue else { return Ok(Json(json!({ "queues": loads })).into_response()) };
    let concurrency = parameters.concurrency.unwrap_or(otherwise).max(1);
    let idle = || QueueLoad { queue: queue.clone(), queued: 0, running: 0, concurrency, wanted: 0 };
    Ok(Json(loads.into_iter().find(|load| load.queue == queue).unwrap_or_else(idle)).into_response())
}
