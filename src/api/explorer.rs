//! The OpenAPI description (`swagger.json`) and Swagger UI, from the binary.

use std::sync::Arc;

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use serde_json::Value;
use utoipa_swagger_ui::{Config, serve};

use crate::app::App;
use crate::http::HttpError;

/// Files of Swagger UI that its page loads.
const FILES: [&str; 8] = [
    "index.css",
    "swagger-ui.css",
    "swagger-ui-bundle.js",
    "swagger-ui-standalone-preset.js",
    "swagger-initializer.js",
    "favicon-16x16.png",
    "favicon-32x32.png",
    "oauth2-redirect.html",
];

pub(super) fn routes(app: &App, version: &'static str, document: &Value) -> Router<App> {
    let text: Arc<str> = document.to_string().into();
    let address = format!("{}/api/v{version}/swagger.json", app.settings.web.prefix);
    let config = Arc::new(
        Config::from(address).validator_url("none").doc_expansion("none").display_operation_id(true).filter(true),
    );
    let description = move || {
        let text = Arc::clone(&text);
        async move { ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], text.to_string()) }
    };
    let index = Arc::clone(&config);
    let base = format!("/api/v{version}");
    let to_index = Redirect::permanent(&format!("{}{base}/", app.settings.web.prefix));
    let routes = Router::new()
        .route(&format!("{base}/swagger.json"), get(description))
        .route(&base, get(move || async move { to_index }))
        .route(&format!("{base}/"), get(move || async move { file("index.html", index) }));
    FILES.into_iter().fold(routes, |routes, name| {
        let config = Arc::clone(&config);
        routes.route(&format!("{base}/{name}"), get(move || async move { file(name, config) }))
    })
}

fn file(name: &str, config: Arc<Config<'static>>) -> Result<Response, HttpError> {
    let found = serve(name, config).map_err(|error| HttpError::Internal(error.to_string()))?;
    let found = found.ok_or_else(|| HttpError::NotFound(format!("file '{name}'")))?;
    let mut response = found.bytes.into_owned().into_response();
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&found.content_type) {
        headers.insert(CONTENT_TYPE, value);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
    if found.gzpipped {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}
