//! Endpoints for orchestrators: liveness, readiness and versions.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::TimeDelta;
use serde_json::{Map, Value, json};
use tracing::error;

use crate::app::App;
use crate::clock::iso;
use crate::config::CallbackMethod;
use crate::database::clock_problems;
use crate::project::Project;

/// Liveness: the process answers.
pub(super) async fn get_healthy() -> &'static str {
    ""
}

/// Readiness: the database answers, and accepts changes as far as is known.
pub(super) async fn get_ready(State(app): State<App>) -> Response {
    match app.engine.database().ready(app.engine.clock().now()).await {
        Ok(()) => {
            let clock = clock_problem(&app);
            let status = if clock.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
            // Without the broker, pages still work and callbacks wait; without the repository, an older revision is
            // used. The body reports both.
            let problems = [("clock", clock), ("broker", broker_problem(&app)), ("project", project_problem(&app))];
            let problems: Map<String, Value> = problems
                .into_iter()
                .filter_map(|(name, problem)| Some((name.to_owned(), Value::String(problem?))))
                .collect();
            if problems.is_empty() {
                return status.into_response();
            }
            let mut body = json!({ "database": "ok" });
            body.as_object_mut().into_iter().for_each(|body| body.extend(problems.clone()));
            (status, Json(body)).into_response()
        }
        Err(unready) => {
            error!(%unready, "not ready: database unavailable");
            let body = Json(json!({ "database": unready.to_string() }));
            (StatusCode::INTERNAL_SERVER_ERROR, body).into_response()
        }
    }
}

/// The difference between the clocks of this machine and of the database, if it exceeds the limit.
fn clock_problem(app: &App) -> Option<String> {
    let clock = app.engine.clock().of_study()?;
    let limit = TimeDelta::from_std(app.settings.web.clock_limit).unwrap_or(TimeDelta::MAX);
    let is_far = clock.difference().is_some_and(|difference| difference.abs() > limit);
    if is_far { clock_problems(clock).into_iter().next() } else { None }
}

/// The problem with the broker. `None` if no broker is used.
pub(super) fn broker_problem(app: &App) -> Option<String> {
    (app.settings.callback.method == CallbackMethod::RabbitMq).then(|| app.broker.problem()).flatten()
}

/// Why the last update of the study's repository failed. `None` if no repository is used.
fn project_problem(app: &App) -> Option<String> {
    app.project.as_ref()?.status().problem
}

/// The version that clients see in `version` and use to decide which requests they may send. The product's own version
/// is listed separately.
const SPEAKS_LIKE: [u64; 3] = [8, 1, 0];

/// The versions of the server and its APIs, for clients.
pub(super) async fn get_versions(State(app): State<App>) -> Json<Value> {
    let prefix = &app.settings.web.prefix;
    let apis = json!({ "1.0": format!("{prefix}/api/v1/"), "2.0": format!("{prefix}/api/v2/") });
    let version = SPEAKS_LIKE.map(|part| part.to_string()).join(".");
    let mut versions = json!({
        "version": version,
        "version_list": SPEAKS_LIKE,
        "api_versions": apis,
        "product_version": env!("CARGO_PKG_VERSION"),
    });
    if let Some(project) = &app.project {
        versions["project"] = project_version(project);
    }
    Json(versions)
}

/// The revision of the study's files. The URL of the repository and its workflows are only shown to logged-in users.
pub(super) fn project_version(project: &Project) -> Value {
    let status = project.status();
    json!({
        "revision": status.revision,
        "branch": status.branch,
        "committed_at": status.committed_at,
        "synced_at": status.synced_at.map(|at| format!("{}Z", iso(at))),
        "problem": status.problem,
    })
}
