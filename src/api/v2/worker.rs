//! What workers on other machines ask: claim, heartbeat, report, release. Each shows the secret of its attempt, which it
//! has from the message that told it of the work; answers are a few kB, whatever the size of the study.

use axum::extract::State;
use axum::http::StatusCode;

use crate::api::history::{EndBody, ReleaseBody, WorkerBody};
use crate::api::input::{Body, Number};
use crate::app::App;
use crate::http::HttpError;
use crate::queue::Assignment;

fn not_yours() -> HttpError {
    HttpError::Conflict("another worker has it, or it is over".to_owned())
}

/// Takes an attempt into the worker's hands; only one worker gets it. What is answered is all that a run needs. 409 when
/// another one has it, or it is over. Good until the lease runs out; heartbeats renew it.
#[utoipa::path(post, path = "/callback_executions/{id}/claim", tag = "workers", params(("id" = i32, Path)),
    request_body = WorkerBody, security(()), responses((status = 200, body = Object)))]
pub(super) async fn claim_callback_execution(
    State(app): State<App>,
    Number(id): Number,
    Body(body): Body<WorkerBody>,
) -> Result<axum::Json<Assignment>, HttpError> {
    let (worker, _) = body.read(&app, id)?;
    let claimed = app.engine.claim(worker.held(), app.settings.callback.lease, &app.settings.web.base_url()).await?;
    claimed.map(axum::Json).ok_or_else(not_yours)
}

/// Says that the worker is alive, with the log so far. 409: stop, it is not this worker's any more.
#[utoipa::path(post, path = "/callback_executions/{id}/heartbeat", tag = "workers", params(("id" = i32, Path)),
    request_body = WorkerBody, security(()), responses((status = 204)))]
pub(super) async fn keep_callback_execution(
    State(app): State<App>,
    Number(id): Number,
    Body(body): Body<WorkerBody>,
) -> Result<StatusCode, HttpError> {
    let (worker, log) = body.read(&app, id)?;
    let kept = app.engine.keep(worker.held(), app.settings.callback.lease, log.as_deref()).await?;
    kept.then_some(StatusCode::NO_CONTENT).ok_or_else(not_yours)
}

/// Says how the run ended. 409 when that comes too late: it changes nothing then.
#[utoipa::path(post, path = "/callback_executions/{id}/report", tag = "workers", params(("id" = i32, Path)),
    request_body = EndBody, security(()), responses((status = 204)))]
pub(super) async fn conclude_callback_execution(
    State(app): State<App>,
    Number(id): Number,
    Body(body): Body<EndBody>,
) -> Result<StatusCode, HttpError> {
    let (worker, ended) = body.read(&app, id)?;
    let taken = app.engine.conclude(worker.held(), ended).await?;
    taken.then_some(StatusCode::NO_CONTENT).ok_or_else(not_yours)
}

/// Gives an attempt back unfinished, for another one that costs none.
#[utoipa::path(post, path = "/callback_executions/{id}/release", tag = "workers", params(("id" = i32, Path)),
    request_body = ReleaseBody, security(()), responses((status = 204)))]
pub(super) async fn release_callback_execution(
    State(app): State<App>,
    Number(id): Number,
    Body(body): Body<ReleaseBody>,
) -> Result<StatusCode, HttpError> {
    let (worker, reason) = body.read(&app, id)?;
    app.engine.hand_back(worker.held(), &reason).await?;
    Ok(StatusCode::NO_CONTENT)
}
