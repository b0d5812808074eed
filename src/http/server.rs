//! The layers around all requests, and the listening.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, HOST, HeaderName, HeaderValue, ORIGIN,
    REFERRER_POLICY, TRANSFER_ENCODING, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_login::AuthManagerLayerBuilder;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};
use tokio::net::TcpListener;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_http::CompressionLevel;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, NotForContentType, Predicate};
use tower_http::csrf::{CsrfLayer, ProtectionError};
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;
use tower_sessions::cookie::SameSite;
use tower_sessions::{Expiry, SessionManagerLayer};
use tracing::{info, warn};

use crate::app::App;
use crate::audit::{Who, acting};
use crate::entity::idempotency_key;
use crate::entity::kind::Origin;
use crate::mail;

use super::error::is_api;
use super::refused::lend;
use super::session::{DatabaseSessions, by_itself};
use super::{Address, Backend, HttpError, assets, health, metrics, queues, render_errors};

/// Bytes that a request may have: a report with its logs, a long list. Forms have axum's own limit of 2 MiB.
pub const MOST_BYTES: usize = 16 * 1024 * 1024;

/// Nothing is loaded from elsewhere, and no text that somebody typed can run.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; \
                      form-action 'self'; frame-ancestors 'none'";

/// Puts the layers around the routes of the edges.
pub trait Layers {
    /// The whole service: `self` are the pages and the API, `uploads` what takes files.
    fn with_layers(self, uploads: Self, app: &App) -> Router;
}

impl Layers for Router<App> {
    fn with_layers(self, uploads: Self, app: &App) -> Router {
        let web = &app.settings.web;
        let sessions =
            DatabaseSessions::new(app.engine.database().clone(), app.engine.clock().clone(), &app.settings.security);
        tokio::spawn(clean_up(app.clone(), sessions.clone()));
        let path = if web.prefix.is_empty() { "/".to_owned() } else { web.prefix.clone() };
        let session_layer = SessionManagerLayer::new(sessions)
            .with_name(cookie_name(&web.instance_name, &web.project_name))
            .with_path(path)
            .with_secure(web.is_secure())
            .with_same_site(SameSite::Lax)
            // The cookie; the session itself ends as the table says.
            .with_expiry(Expiry::OnSessionEnd);
        let auth_layer = AuthManagerLayerBuilder::new(Backend(app.accounts.clone()), session_layer).build();
        let guarded = |router: Self| {
            let known = router.layer(auth_layer.clone()).layer(from_fn_with_state(app.clone(), name_actor));
            known.layer(csrf(web.external.as_deref())).layer(from_fn(tell_of_other_origin))
        };
        let service = guarded(self)
            .route("/-/healthy", get(health::get_healthy))
            .route("/-/ready", get(health::get_ready))
            .route("/-/versions", get(health::get_versions))
            .route("/-/metrics", get(metrics::get_metrics))
            .route("/-/queues", get(queues::get_queues))
            .route("/static/{*path}", get(assets::get_asset))
            .layer(RequestBodyLimitLayer::new(MOST_BYTES))
            .layer(TimeoutLayer::with_status_code(
                StatusCode::GATEWAY_TIMEOUT,
                Duration::from_secs(web.request_timeout.max(1)),
            ));
        // A file takes as long as it takes; what comes with it in the form is small.
        let largest = usize::try_from(app.settings.security.largest_upload).unwrap_or(usize::MAX);
        let files = guarded(uploads).layer(DefaultBodyLimit::disable());
        let service = service.merge(files.layer(RequestBodyLimitLayer::new(largest.saturating_add(1 << 20))));
        let service = match web.prefix.as_str() {
            "" => service,
            // As a service, so that the prefix is answered with and without a slash at its end.
            prefix => Router::new().nest_service(prefix, service.with_state(app.clone())),
        };
        // Files of the study are fetched as they are: most are compressed, and large.
        let worth_it = DefaultPredicate::new().and(NotForContentType::const_new("application/octet-stream"));
        let request_id = HeaderName::from_static("x-request-id");
        service
            .layer(CatchPanicLayer::new())
            .layer(from_fn_with_state(app.clone(), render_errors))
            .layer(from_fn(close_after_refusal))
            .layer(CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(worth_it))
            .layer(header(CONTENT_SECURITY_POLICY, POLICY))
            .layer(header(X_CONTENT_TYPE_OPTIONS, "nosniff"))
            .layer(header(X_FRAME_OPTIONS, "DENY"))
            .layer(header(REFERRER_POLICY, "same-origin"))
            // What is shown depends on who asks: nobody in between keeps it, and a browser asks again. With its tag that is cheap.
            .layer(header(CACHE_CONTROL, "private, no-cache"))
            .layer(PropagateRequestIdLayer::new(request_id.clone()))
            .layer(TraceLayer::new_for_http().make_span_with(span))
            .layer(SetRequestIdLayer::new(request_id, MakeRequestUuid))
            .layer(GlobalConcurrencyLimitLayer::new(web.connections.max(1)))
            .with_state(app.clone())
    }
}

/// What a request changes is changed in the name of who sent it, from where it came.
async fn name_actor(State(app): State<App>, address: Address, request: Request, next: Next) -> Response {
    let origin = if is_api(&app, &request) { Origin::Api } else { Origin::Web };
    let address = address.0.map(|address| address.to_canonical().to_string());
    // The part of a page that keeps itself up to date is called so in all templates.
    let is_by_itself = request.headers().get("hx-trigger").is_some_and(|id| id == "live");
    let answer = by_itself(is_by_itself, next.run(request));
    acting(Who::new(origin, "somebody without an account", address), answer).await
}

/// Where a large body was refused, reads on for a while before it answers, and says that the connection ends. Somebody who is
/// still sending when the connection closes sees that and not the answer; a client that was not told would send its next
/// request into the closed connection.
async fn close_after_refusal(request: Request, next: Next) -> Response {
    /// Less than this is read to its end after the answer, and the connection stays.
    const SMALL: u64 = 64 * 1024;
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let is_large = length.map_or(request.headers().contains_key(TRANSFER_ENCODING), |length| length > SMALL);
    if !is_large {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let (lent, rest) = lend(body);
    let mut response = next.run(Request::from_parts(parts, lent)).await;
    if response.status().is_client_error() {
        rest.read().await;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn span(request: &Request) -> tracing::Span {
    let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    // The path without the query: people search for labels.
    tracing::info_span!("request", method = %request.method(), path = without_secret(request.uri().path()), id)
}

/// The path of a request without the secret of a link that a mail carried.
fn without_secret(path: &str) -> &str {
    let mut ends =
        ["/confirm/", "/reset/", "/invite/"].into_iter().filter_map(|name| Some(path.find(name)? + name.len()));
    ends.next().map_or(path, |end| &path[..end])
}

fn header(name: HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
}

/// Says why a form from another origin was refused: it may be an attack, and a proxy that nobody told us of.
async fn tell_of_other_origin(request: Request, next: Next) -> Response {
    let (origin, host) = (request.headers().get(ORIGIN).cloned(), request.headers().get(HOST).cloned());
    let response = next.run(request).await;
    if response.extensions().get::<ProtectionError>().is_none() {
        return response;
    }
    warn!(
        ?origin,
        ?host,
        "a request from another origin was refused; behind a proxy, STUDYGOV_EXTERNAL_HOSTNAME, _PROTO and _PORT say under which address people come"
    );
    let message = "This was sent from a page of another address. If it was one of Study Governor, its operator has to set \
                   STUDYGOV_EXTERNAL_HOSTNAME, _PROTO and _PORT to the address in your browser.";
    HttpError::NotYours(message.to_owned()).into_response()
}

/// Behind a proxy the address that people use is an origin of ours too.
fn csrf(external: Option<&str>) -> CsrfLayer {
    let Some(external) = external else { return CsrfLayer::new() };
    CsrfLayer::new().add_trusted_origin(external).unwrap_or_else(|error| {
        warn!(%error, "the external address is no origin");
        CsrfLayer::new()
    })
}

/// One cookie an instance and project, so that two studies on one host do not log each other out.
fn cookie_name(instance: &str, project: &str) -> String {
    let plain =
        |name: &str| name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).collect::<String>();
    format!("studygovernor_{}_{}", plain(instance), plain(project))
}

/// Takes away what has had its time, every hour: sessions that ended, answers that were kept for repetitions, mails and
/// links.
async fn clean_up(app: App, sessions: DatabaseSessions) {
    loop {
        let (database, now) = (app.engine.database(), app.engine.clock().now());
        let forgotten = idempotency_key::Column::Created.lt(now - idempotency_key::KEPT);
        let keys = idempotency_key::Entity::delete_many().filter(forgotten).exec(database.reader());
        let outcomes = [sessions.delete_expired().await, keys.await.map(drop), mail::forget_old(database, now).await];
        for error in outcomes.into_iter().filter_map(Result::err) {
            warn!(%error, "cannot take away what has had its time");
        }
        tokio::time::sleep(Duration::from_hours(1)).await;
    }
}

/// Listens on the address of the settings; port 0 is any free one.
///
/// # Errors
/// A sentence with the address when somebody else has it.
pub async fn bind(app: &App) -> Result<TcpListener, String> {
    let web = &app.settings.web;
    TcpListener::bind((web.host.as_str(), web.port)).await.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => " (another program has this port: set STUDYGOV_PORT to a free one)",
            _ => "",
        };
        format!("cannot listen on {}:{}: {error}{hint}", web.host, web.port)
    })
}

/// Answers requests until `stop` resolves, then those that have begun.
///
/// # Errors
/// When listening fails.
pub async fn serve(
    listener: TcpListener,
    service: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let service = service.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).with_graceful_shutdown(stop).await
}

/// Resolves when the process is told to stop: Ctrl-C, or SIGTERM from an orchestrator.
pub async fn shutdown_signal() {
    let interrupt = tokio::signal::ctrl_c();
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
        }
        Err(error) => {
            warn!(%error, "cannot listen for SIGTERM");
            let _ = interrupt.await;
        }
    }
    info!("stopping");
}
