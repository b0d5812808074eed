//! The JSON API: versions 1 and 2 as in version 8.1, extended only by additions.
//!
//! A request: authenticated ([`access`]) → parsed, with all errors reported at once ([`input`]) → its references are
//! resolved ([`lookup`]) → a verb of another module does it ([`sample`], [`state`], [`link`], [`history`], [`people`])
//! → rendered in the format of `v1` or `v2` ([`output`]).

#![allow(unused_qualifications, reason = "what utoipa's attributes expand to")]

mod access;
mod document;
mod explorer;
mod filter;
mod history;
mod idempotency;
mod input;
mod link;
mod lookup;
mod mask;
mod output;
mod people;
mod rights;
mod sample;
mod state;
mod v1;
mod v2;
mod worker;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::header::{CONTENT_LENGTH, ETAG, IF_NONE_MATCH};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde_json::Value;
use tower_http::request_id::RequestId;
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::http::{HttpError, MOST_BYTES, SMALL_BYTES, json_error};

/// Both versions, with their descriptions and their explorers.
pub fn routes(app: &App) -> Router<App> {
    Router::new()
        .merge(version(app, "1", v1::routes()))
        .merge(version(app, "2", v2::routes()))
        .route("/api/{*path}", any(nothing_here).layer(from_fn(errors_as_json)))
}

/// The OpenAPI description of a version, as it is served with this path prefix.
#[must_use]
pub fn description(version: &str, prefix: &str) -> Value {
    let routes = if version == "1" { v1::routes() } else { v2::routes() };
    document::finish(routes.into_openapi(), version, prefix)
}

fn version(app: &App, number: &'static str, routes: OpenApiRouter<App>) -> Router<App> {
    let (routes, description) = routes.split_for_parts();
    let document = document::finish(description, number, &app.settings.web.prefix);
    let rights = rights::Rights::of(number, &document);
    let explorer = explorer::routes(app, number, &document);
    Router::new()
        .nest(&format!("/api/v{number}"), routes)
        .merge(explorer)
        // From the inside: errors get their body, idempotency keys see it, masks are applied last.
        .layer(from_fn(errors_as_json))
        .layer(from_fn_with_state((app.clone(), rights), idempotency::once))
        .layer(from_fn(not_modified))
        .layer(from_fn(mask::mask_fields))
        .layer(from_fn(errors_as_json))
        .layer(from_fn(read_small_bodies))
        .layer(DefaultBodyLimit::max(MOST_BYTES))
}

/// Reads a small body before anything is decided. Rejecting a request without reading its body would close the
/// connection, and the next request of a script on it would fail without a visible reason.
async fn read_small_bodies(request: Request, next: Next) -> Response {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_none_or(|length| length == 0 || length > SMALL_BYTES) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    match to_bytes(body, usize::MAX).await {
        Ok(bytes) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Err(_) => StatusCode::BAD_REQUEST.into_response(),
    }
}

async fn nothing_here() -> HttpError {
    HttpError::NotFound("resource at this address".to_owned())
}

async fn errors_as_json(request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok()).map(str::to_owned);
    json_error(next.run(request).await, id).await
}

/// 304 if the caller already has the current representation.
async fn not_modified(request: Request, next: Next) -> Response {
    let asked = (request.method() == Method::GET || request.method() == Method::HEAD)
        .then(|| request.headers().clone())
        .filter(|headers| headers.contains_key(IF_NONE_MATCH));
    let response = next.run(request).await;
    let Some(headers) = asked.filter(|_| response.status() == StatusCode::OK) else { return response };
    match response.headers().get(ETAG).cloned() {
        Some(tag) if output::names_tag(&headers, IF_NONE_MATCH, &tag) => {
            (StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response()
        }
        _ => response,
    }
}
