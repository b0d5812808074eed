//! What orchestrators ask: is it alive, can it work, what is it.

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

/// The process answers.
pub(super) async fn get_healthy() -> &'static str {
    ""
}

/// The database answers too, and accepts changes as far as is known.
pub(super) async fn get_ready(State(app): State<App>) -> Response {
    match app.engine.database().ready(app.engine.clock().now()).await {
        Ok(()) => {
            let clock = clock_problem(&app);
            let status = if clock.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
            // Pages go on without the broker, and callbacks wait; without the repository an older revision is used. The body reports it.
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

/// Why the study's repository could not be used the last time; nothing where there is none.
fn project_problem(app: &App) -> Option<String> {
    app.project.as_ref()?.status().problem
}

/// The version of the existing product that this one speaks like; clients decide by it what they may ask for. The
/// product's own version is beside it.
const SPEAKS_LIKE: [u64; 3] = [8, 1, 0];

/// Versions, for clients.
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

/// The revision of the study's files. The address of the repository, and its workflows, are for those who have logged in.
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
