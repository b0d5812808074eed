//! A server that waits until another program has migrated the tables (`STUDYGOV_MIGRATE=wait`).
//!
//! It is alive but not ready, and reports the current and the required version of the tables.

use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, HeaderValue, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;
use tower_http::set_header::SetResponseHeaderLayer;
use tracing::{info, warn};

use crate::app::{App, Tables};

use super::{Serving, serve};

/// Pause between two checks.
const PAUSE: Duration = Duration::from_secs(1);

/// Answers on `listener` until the tables are up to date (returns true) or `stop` resolves.
///
/// # Errors
/// If the listener cannot be used.
pub async fn wait_for_tables(
    app: &App,
    listener: &TcpListener,
    stop: impl Future<Output = ()>,
) -> std::io::Result<bool> {
    let mut said = None;
    // Uses the same socket, so that clients that connect during the switch are answered by one server or the other.
    let own = std::os::fd::AsFd::as_fd(listener).try_clone_to_owned()?;
    let own = TcpListener::from_std(std::net::TcpListener::from(own))?;
    let answering = serve(own, routes(app), Serving::from(&app.settings.web), std::future::pending());
    let looking = async {
        loop {
            match app.tables().await {
                Ok(Tables::UpToDate) => return,
                Ok(tables) => {
                    let sentence = tables.to_string();
                    if said.as_ref() != Some(&sentence) {
                        info!("waiting for the database schema: {sentence}");
                        said = Some(sentence);
                    }
                }
                Err(error) => warn!(%error, "checking the database schema failed; will retry"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::select! {
        () = looking => Ok(true),
        () = stop => Ok(false),
        () = answering => Ok(false),
    }
}

fn routes(app: &App) -> Router {
    let (app, prefix) = (app.clone(), app.settings.web.prefix.clone());
    let ready = get(|| async move {
        let problem = app.tables().await.map_or_else(|_| "cannot be reached".to_owned(), |tables| tables.to_string());
        (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "database": problem }))).into_response()
    });
    let routes = Router::new().route("/-/healthy", get(async || "")).route("/-/ready", ready).fallback(not_yet);
    let routes = if prefix.is_empty() { routes } else { Router::new().nest(&prefix, routes).fallback(not_yet) };
    // Otherwise a kept connection would still be answered from here when the server is ready.
    routes.layer(SetResponseHeaderLayer::overriding(CONNECTION, HeaderValue::from_static("close")))
}

async fn not_yet() -> Response {
    let text = "Study Governor is waiting for its database to be migrated. Try again in a moment.\n";
    (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "5")], text).into_response()
}
