//! The small listener of a worker (`STUDYGOV_WORKER_LISTEN`): `/-/healthy`, `/-/versions` and `/-/metrics`.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::project::Project;

use super::health::project_version;
use super::metrics::RECORDER;
use super::{Serving, serve};

/// A worker whose main loop has not run for this long is not healthy.
const LONGEST: Duration = Duration::from_mins(1);

/// Listens at `address` (`host:port`, or `:port` for all addresses of the machine), which is the value of `setting`.
///
/// # Errors
/// A sentence with the name of the setting.
pub async fn bind_beside(setting: &str, address: &str) -> Result<TcpListener, String> {
    let full = if address.starts_with(':') { format!("0.0.0.0{address}") } else { address.to_owned() };
    TcpListener::bind(full.as_str())
        .await
        .map_err(|error| format!("{setting}: cannot listen on '{address}' (expected host:port or :port): {error}"))
}

/// Serves until it is dropped. `age` returns the time since the main loop last ran; `project` is the repository of the
/// study's files.
pub async fn serve_worker(
    listener: TcpListener,
    age: impl Fn() -> Duration + Clone + Send + Sync + 'static,
    project: Option<Arc<Project>>,
) {
    let healthy = move || async move {
        let age = age();
        if age < LONGEST {
            return StatusCode::OK.into_response();
        }
        let text = format!("the main loop has been blocked for {} seconds\n", age.as_secs());
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    };
    let routes = Router::new()
        .route("/-/healthy", get(healthy.clone()))
        .route("/-/ready", get(healthy))
        .route("/-/versions", get(move || async move { get_versions(project.as_deref()) }))
        .route("/-/metrics", get(get_metrics));
    serve(listener, routes, Serving::default(), std::future::pending()).await;
}

fn get_versions(project: Option<&Project>) -> Json<Value> {
    let mut versions = json!({ "product_version": env!("CARGO_PKG_VERSION") });
    if let Some(project) = project {
        versions["project"] = project_version(project);
    }
    Json(versions)
}

async fn get_metrics() -> Response {
    match RECORDER.get().and_then(Option::as_ref) {
        Some(recorder) => {
            recorder.run_upkeep();
            ([(CONTENT_TYPE, "text/plain; version=0.0.4")], recorder.render()).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_that_hangs_is_not_healthy() {
        rustls::crypto::ring::default_provider().install_default().ok();
        for (age, status) in [(1, 200), (61, 503)] {
            let listener = bind_beside("SETTING", "127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/-/healthy", listener.local_addr().unwrap());
            let serving = tokio::spawn(serve_worker(listener, move || Duration::from_secs(age), None));
            assert_eq!(reqwest::get(url).await.unwrap().status().as_u16(), status);
            serving.abort();
        }
        assert!(bind_beside("SETTING", "nonsense").await.unwrap_err().starts_with("SETTING: cannot listen on "));
    }
}
