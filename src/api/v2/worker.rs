//! Workers and dead letters for users; and requests of workers on other machines: claim, heartbeat, report, release.
//! Each request contains the secret of its attempt, which the worker has from the message; answers are a few kB,
//! whatever the size of the study. A secret that was checked is valid for its execution, in every cohort.

use axum::extract::State;
use axum::http::StatusCode;

use serde::Serialize;
use utoipa::ToSchema;

use crate::api::access::{Everywhere, May};
use crate::api::input::{Body, Number};
use crate::api::lookup::moment;
use crate::api::output::{Addresses, Extent, ListAddress, ListAnswer, WindowQuery, Windowed, list_of};
use crate::api::worker::{EndBody, HeaderAttempt, ReleaseBody, WorkerBody};
use crate::app::App;
use crate::context::Context;
use crate::entity::dead_letter;
use crate::http::HttpError;
use crate::http::needs::ActionUpdate;
use crate::queue::Assignment;
use crate::study::{board, listing};

use super::show::Pointer;

fn not_yours() -> HttpError {
    HttpError::Conflict("claimed by another worker or already finished".to_owned())
}

/// Claims an attempt. Only one worker succeeds. The response contains everything needed to run it. Responds with 409 if
/// it is claimed by another worker or already finished. The claim is valid until its lease expires; heartbeats renew
/// it.
#[utoipa::path(post, path = "/callback_executions/{id}/claim", tag = "workers", params(("id" = i32, Path)),
    request_body = WorkerBody, security(()), responses((status = 200, body = Object)))]
pub(super) async fn claim_callback_execution(
    State(app): State<App>,
    ctx: Context,
    Number(id): Number,
    shown: HeaderAttempt,
    Body(body): Body<WorkerBody>,
) -> Result<axum::Json<Assignment>, HttpError> {
    let (worker, _) = body.read(&app, id, &shown)?;
    let claimed = app
        .engine
        .claim(&ctx.seeing_everything(), worker.held(), app.settings.callback.lease, &app.settings.web.base_url())
        .await?;
    claimed.map(axum::Json).ok_or_else(not_yours)
}

/// Renews the lease of an attempt and stores the log so far. 409 means that the worker has lost the attempt and must
/// stop.
#[utoipa::path(post, path = "/callback_executions/{id}/heartbeat", tag = "workers", params(("id" = i32, Path)),
    request_body = WorkerBody, security(()), responses((status = 204)))]
pub(super) async fn keep_callback_execution(
    State(app): State<App>,
    Number(id): Number,
    shown: HeaderAttempt,
    Body(body): Body<WorkerBody>,
) -> Result<StatusCode, HttpError> {
    let (worker, log) = body.read(&app, id, &shown)?;
    let kept = app.engine.keep(worker.held(), app.settings.callback.lease, log.as_deref()).await?;
    kept.then_some(StatusCode::NO_CONTENT).ok_or_else(not_yours)
}

/// Reports the outcome of a run. Responds with 409, and changes nothing, if the report is too late.
#[utoipa::path(post, path = "/callback_executions/{id}/report", tag = "workers", params(("id" = i32, Path)),
    request_body = EndBody, security(()), responses((status = 204)))]
pub(super) async fn conclude_callback_execution(
    State(app): State<App>,
    ctx: Context,
    Number(id): Number,
    shown: HeaderAttempt,
    Body(body): Body<EndBody>,
) -> Result<StatusCode, HttpError> {
    let (worker, ended) = body.read(&app, id, &shown)?;
    let taken = app.engine.conclude(&ctx.seeing_everything(), worker.held(), ended).await?;
    taken.then_some(StatusCode::NO_CONTENT).ok_or_else(not_yours)
}

/// Releases an unfinished attempt so that it can be retried without counting as a failure.
#[utoipa::path(post, path = "/callback_executions/{id}/release", tag = "workers", params(("id" = i32, Path)),
    request_body = ReleaseBody, security(()), responses((status = 204)))]
pub(super) async fn release_callback_execution(
    State(app): State<App>,
    ctx: Context,
    Number(id): Number,
    shown: HeaderAttempt,
    Body(body): Body<ReleaseBody>,
) -> Result<StatusCode, HttpError> {
    let (worker, reason) = body.read(&app, id, &shown)?;
    app.engine.hand_back(&ctx.seeing_everything(), worker.held(), &reason).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A process that runs callbacks.
#[derive(Serialize, ToSchema)]
pub(super) struct WorkerSummary {
    #[schema(example = "node7:4711:0a1b2c3d")]
    name: String,
    /// `embedded` in a server, or separate, using the `database` or the `broker`.
    #[schema(example = "broker")]
    kind: String,
    queues: Vec<String>,
    #[schema(example = 4)]
    concurrency: i32,
    version: String,
    started_at: String,
    seen_at: String,
    stopped_at: Option<String>,
    /// The worker has stopped, or has not reported for a minute.
    is_gone: bool,
    /// The callback executions that it runs.
    running: Vec<Pointer>,
}

/// A list of workers.
#[derive(Serialize, ToSchema)]
pub(super) struct WorkerList {
    workers: Vec<WorkerSummary>,
    count: usize,
}

/// Workers that reported in the last 24 hours or are running a callback.
#[utoipa::path(get, path = "/workers", tag = "workers", security(("login" = ["action_update"])),
    responses((status = 200, body = WorkerList)))]
pub(super) async fn list_workers(
    State(app): State<App>,
    May { caller, .. }: May<ActionUpdate>,
    addresses: Addresses,
) -> Result<axum::Json<WorkerList>, HttpError> {
    let ctx = &caller.ctx;
    let now = app.engine.clock().now();
    let rows = board::workers(ctx, &app.snapshot().await?, now - chrono::TimeDelta::days(1), now).await?;
    let workers = rows.into_iter().map(|row| WorkerSummary {
        name: row.name,
        kind: row.kind,
        queues: row.queues.split(", ").filter(|queue| !queue.is_empty()).map(str::to_owned).collect(),
        concurrency: row.concurrency,
        version: row.version,
        started_at: moment(row.started_at),
        seen_at: moment(row.seen_at),
        stopped_at: row.stopped_at.map(moment),
        is_gone: row.is_gone,
        running: row.running.iter().map(|one| addresses.pointer("callback_executions", one.id)).collect(),
    });
    let workers: Vec<WorkerSummary> = workers.collect();
    Ok(axum::Json(WorkerList { count: workers.len(), workers }))
}

/// A message that the broker could not deliver or that no worker could read.
#[derive(Serialize, ToSchema)]
pub(super) struct DeadLetter {
    #[schema(example = 1)]
    id: i32,
    at: String,
    /// The queue of the undeliverable message.
    #[schema(example = "studygovernor.queue.default")]
    queue: String,
    /// The reason given by the broker.
    #[schema(example = "rejected")]
    reason: String,
    execution: Option<Pointer>,
    attempt: Option<i32>,
    /// The readable part of the message, without its secret.
    body: String,
}

list_of! {
    DeadLetterList { dead_letters: DeadLetter }
}

/// Undeliverable messages. No work is lost: a callback that is not claimed is published again.
#[utoipa::path(get, path = "/dead_letters", tag = "workers", params(WindowQuery),
    security(("login" = ["action_update"])), responses((status = 200, body = DeadLetterList)))]
pub(super) async fn list_dead_letters(
    State(app): State<App>,
    Everywhere { caller, .. }: Everywhere<ActionUpdate>,
    addresses: Addresses,
    address: ListAddress,
    Windowed(window): Windowed,
) -> Result<ListAnswer<DeadLetterList>, HttpError> {
    let ctx = &caller.ctx;
    let listed = listing::dead_letters(ctx, &app.snapshot().await?, &app.totals, window).await?;
    let extent = Extent::of(window, &listed, |row| row.id);
    let row = |row: dead_letter::Model| DeadLetter {
        id: row.id,
        at: moment(row.at),
        queue: row.queue,
        reason: row.reason,
        execution: row.execution_id.map(|id| addresses.pointer("callback_executions", id)),
        attempt: row.attempt,
        body: row.body,
    };
    let rows = listed.rows.into_iter().map(row).collect();
    Ok(address.answer(&extent, DeadLetterList::new(rows, &extent)))
}
