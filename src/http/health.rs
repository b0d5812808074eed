//! What orchestrators ask: is it alive, can it work, what is it.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::TimeDelta;
use serde_json::{Value, json};
use tracing::error;

use crate::app::App;
use crate::config::CallbackMethod;
use crate::database::clock_problems;

/// The process answers.
pub(super) async fn get_healthy() -> &'static str {
    ""
}

/// The database answers too, and accepts changes as far as is known.
pub(super) async fn get_ready(State(app): State<App>) -> Response {
    match app.engine.database().ready(app.engine.clock().now()).await {
        Ok(()) => match (clock_problem(&app), broker_problem(&app)) {
            (Some(problem), _) => {
                let body = Json(json!({ "database": "ok", "clock": problem }));
                (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
            }
            // Pages go on without the broker, and what is to be run waits; the body reports it.
            (None, Some(problem)) => Json(json!({ "database": "ok", "broker": problem })).into_response(),
            (None, None) => StatusCode::OK.into_response(),
        },
        Err(unready) => {
            error!(%unready, "not ready: database unavailable");
            let body = Json(json!({ "database": unready.to_string() }));
            (StatusCode::INTERNAL_SERVER_ERROR, body).into_response()
        }
    }
}

/// How far the clock of this machine is from the database's, when that is more than the limit.
fn clock_problem(app: &App) -> Option<String> {
    let clock = app.engine.clock().of_study()?;
    let limit = TimeDelta::from_std(app.settings.web.clock_limit).unwrap_or(TimeDelta::MAX);
    let is_far = clock.difference().is_some_and(|difference| difference.abs() > limit);
    if is_far { clock_problems(clock).into_iter().next() } else { None }
}

/// What is wrong with the broker; nothing where there is none.
pub(super) fn broker_problem(app: &App) -> Option<String> {
    (app.settings.callback.method == CallbackMethod::RabbitMq).then(|| app.broker.problem()).flatten()
}

/// The version of the existing product that this one speaks like; clients decide by it what they may ask for. The
/// product's own version is beside it.
const SPEAKS_LIKE: [u64; 3] = [8, 1, 0];

/// Versions, for clients.
pub(super) async fn get_versions(State(app): State<App>) -> Json<Value> {
    let prefix = &app.settings.web.prefix;
    let apis = json!({ "1.0": format!("{prefix}/api/v1/"), "2.0": format!("{prefix}/api/v2/") });
    let version = SPEAKS_LIKE.map(|part| part.to_string()).join(".");
    Json(json!({
        "version": version,
        "version_list": SPEAKS_LIKE,
        "api_versions": apis,
        "product_version": env!("CARGO_PKG_VERSION"),
    }))
}
