//! `/-/metrics` in the text format of Prometheus.
//!
//! Counters and durations belong to this process. The numbers of queued, running and waiting executions belong to the
//! whole study; they are read from the database for each request and are the same on every server.

use std::sync::OnceLock;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;

use crate::app::App;
use crate::context::Context;
use crate::http::HttpError;
use crate::mail;
use crate::study::board;

use super::health::{broker_problem, get_healthy, get_ready};
use super::queues::get_queues;
use super::{Serving, serve as serve_routes};

pub(super) static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Installs the recorder, once per process. Metrics recorded earlier are lost.
pub fn install() {
    RECORDER.get_or_init(|| {
        // Seconds: from quick message handling to pipelines that run for a day.
        let runs = [0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 4.0 * 3600.0, 24.0 * 3600.0];
        let lags = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0, 60.0];
        let builder = PrometheusBuilder::new();
        let builder = builder.set_buckets_for_metric(Matcher::Suffix("run_seconds".to_owned()), &runs);
        let builder = builder
            .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("execution_seconds".to_owned()), &runs));
        let builder = builder
            .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("lag_seconds".to_owned()), &lags));
        let handle = builder.and_then(PrometheusBuilder::install_recorder).ok();
        describe();
        handle
    });
}

/// The routes whose numbers need no login: next to the pages, or on a separate listener (`STUDYGOV_METRICS_LISTEN`)
/// that no proxy exposes.
pub(super) fn routes() -> Router<App> {
    Router::new().route("/-/metrics", get(get_metrics)).route("/-/queues", get(get_queues))
}

/// Serves metrics, queues and probes on this listener until the process ends.
pub async fn serve(listener: TcpListener, app: App) {
    let probes = Router::new().route("/-/healthy", get(get_healthy)).route("/-/ready", get(get_ready));
    serve_routes(listener, routes().merge(probes).with_state(app), Serving::default(), std::future::pending()).await;
}

fn describe() {
    describe_counter!("studygovernor_published_total", "Messages confirmed by the broker");
    describe_counter!("studygovernor_claimed_total", "Attempts claimed by workers");
    describe_counter!("studygovernor_finished_total", "Reported executions, by function and result");
    describe_counter!("studygovernor_lease_expiries_total", "Attempts whose lease expired without a heartbeat");
    describe_counter!("studygovernor_holds_total", "Experiments put on hold after too many automatic transitions");
    describe_counter!("studygovernor_condition_retries_total", "Retried evaluations of conditions");
    describe_counter!("studygovernor_timeouts_total", "Executions that timed out");
    describe_counter!("studygovernor_dead_letters_total", "Undeliverable messages");
    describe_counter!("studygovernor_runs_total", "Runs of the embedded worker, by function and outcome");
    describe_counter!("studygovernor_project_syncs_total", "Syncs of the study's repository, by result");
    describe_gauge!("studygovernor_project_problem", "Whether the last sync of the study's repository failed");
    describe_gauge!("studygovernor_worker_running", "Callbacks currently running in the embedded worker");
    describe_gauge!("studygovernor_executions", "Unfinished executions of the study, by status");
    describe_gauge!("studygovernor_mails", "Unsent e-mails of the study, by status");
    describe_gauge!(
        "studygovernor_queue_age_seconds",
        Unit::Seconds,
        "Age of the oldest runnable execution in the \
        queue"
    );
    describe_gauge!("studygovernor_relay_age_seconds", Unit::Seconds, "Age of the oldest unpublished message");
    describe_gauge!("studygovernor_audit_problems", "Audit events that cannot be sealed, and missing seals");
    describe_gauge!(
        "studygovernor_clock_difference_seconds",
        Unit::Seconds,
        "Offset of this server's clock relative to the database clock"
    );
    describe_gauge!(
        "studygovernor_clock_ahead_seconds",
        Unit::Seconds,
        "Offset of the study time relative to the database clock after that clock was changed"
    );
    describe_gauge!(
        "studygovernor_broker_up",
        "Whether this server is connected to the broker; absent if no broker \
        is configured"
    );
    describe_histogram!(
        "studygovernor_relay_lag_seconds",
        Unit::Seconds,
        "Time from the transition to the confirmed message"
    );
    describe_histogram!(
        "studygovernor_execution_seconds",
        Unit::Seconds,
        "Time from the claim to the end, by \
        function"
    );
    describe_histogram!("studygovernor_run_seconds", Unit::Seconds, "Time from the claim to the report, by function");
}

#[expect(clippy::cast_precision_loss, reason = "numbers for people")]
async fn get_metrics(State(app): State<App>) -> Result<Response, HttpError> {
    let Some(recorder) = RECORDER.get().and_then(Option::as_ref) else {
        return Err(HttpError::NotFound("metrics in this process".to_owned()));
    };
    let (ctx, now) = (&Context::system("metrics"), app.engine.clock().now());
    let load = board::load(ctx, app.engine.database().reader(), now).await?;
    for (status, count) in [("queued", load.queued), ("running", load.running), ("waiting", load.waiting)] {
        gauge!("studygovernor_executions", "status" => status).set(count as f64);
    }
    let age = |since: Option<chrono::NaiveDateTime>| {
        since.map_or(0.0, |since| (now - since).num_milliseconds().max(0) as f64 / 1000.0)
    };
    gauge!("studygovernor_queue_age_seconds").set(age(load.oldest));
    gauge!("studygovernor_relay_age_seconds").set(age(load.relay));
    let mails = mail::load(app.engine.database().reader()).await?;
    for (state, count) in [("waiting", mails.waiting), ("given_up", mails.given_up)] {
        gauge!("studygovernor_mails", "state" => state).set(count as f64);
    }
    if app.settings.callback.broker.is_some() {
        gauge!("studygovernor_broker_up").set(if broker_problem(&app).is_none() { 1.0 } else { 0.0 });
    }
    if let Some(clock) = app.engine.clock().of_study() {
        let seconds = |span: chrono::TimeDelta| span.num_milliseconds() as f64 / 1000.0;
        gauge!("studygovernor_clock_difference_seconds").set(clock.difference().map_or(0.0, seconds));
        gauge!("studygovernor_clock_ahead_seconds").set(seconds(clock.ahead()));
    }
    recorder.run_upkeep();
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], recorder.render()).into_response())
}
