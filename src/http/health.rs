//! What orchestrators ask: is it alive, can it work, what is it.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tracing::error;

use crate::app::App;

/// The process answers.
pub(super) async fn get_healthy() -> &'static str {
    ""
}

/// The database answers too.
pub(super) async fn get_ready(State(app): State<App>) -> Response {
    match app.engine.database().ping().await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(error) => {
            error!(%error, "the database cannot be reached");
            let body = Json(json!({ "database": "cannot be reached" }));
            (StatusCode::INTERNAL_SERVER_ERROR, body).into_response()
        }
    }
}

/// The version of the product.
pub(super) async fn get_versions() -> Json<Value> {
    let version = env!("CARGO_PKG_VERSION");
    let list: Vec<u64> = version.split('.').filter_map(|part| part.parse().ok()).collect();
    Json(json!({ "version": version, "version_list": list, "api_versions": {} }))
}
