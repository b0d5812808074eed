//! The layers around all requests, and the listener.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY,
    TRANSFER_ENCODING, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::middleware::{Next, from_fn, from_fn_with_state, map_response};
use axum::response::Response;
use axum::routing::get;
use axum_login::AuthManagerLayerBuilder;
use http_body_util::BodyExt;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tower_http::CompressionLevel;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, NotForContentType, Predicate};
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;
use tower_sessions::cookie::SameSite;
use tower_sessions::{Expiry, SessionManagerLayer};
use tracing::{info, warn};

use crate::app::App;
use crate::context::Context;
use crate::entity::idempotency_key;
use crate::entity::kind::Origin;
use crate::mail;

use super::body::{self, Budgets, MOST_BYTES, Meter};
use super::error::is_api;
use super::limit::{Places, wait_for_place};
use super::refused::lend;
use super::session::{DatabaseSessions, by_itself, explain_failures};
use super::{Address, AuthSession, Backend, assets, health, metrics, origin, render_errors};

/// Only own resources are loaded, and text that users enter cannot run as a script.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; \
                      form-action 'self'; frame-ancestors 'none'";

/// Adds the layers around the routes of the pages and the API.
pub trait Layers {
    /// The whole service: `self` has the pages and the API, `uploads` the routes that accept files.
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
            // This applies to the cookie; the session itself expires as its row in the table says.
            .with_expiry(Expiry::OnSessionEnd);
        let auth_layer = AuthManagerLayerBuilder::new(Backend(app.accounts.clone()), session_layer).build();
        let guarded = |router: Self| {
            let known = router.layer(from_fn(know_user)).layer(auth_layer.clone()).layer(from_fn(explain_failures));
            let known = known.layer(from_fn_with_state(app.clone(), make_context));
            known.layer(origin::layer(web.external.as_deref())).layer(from_fn_with_state(app.clone(), origin::check))
        };
        let service = guarded(self)
            .route("/-/healthy", get(health::get_healthy))
            .route("/-/ready", get(health::get_ready))
            .route("/-/versions", get(health::get_versions))
            .merge(if web.metrics_listen.is_none() { metrics::routes() } else { Self::new() })
            .route("/static/{*path}", get(assets::get_asset))
            .layer(RequestBodyLimitLayer::new(MOST_BYTES))
            .layer(TimeoutLayer::with_status_code(
                StatusCode::GATEWAY_TIMEOUT,
                Duration::from_secs(web.request_timeout.max(1)),
            ));
        // Uploads have no body limit except the one of the settings; the other fields of the form are small.
        let largest = usize::try_from(app.settings.security.largest_upload).unwrap_or(usize::MAX);
        let files = guarded(uploads).layer(DefaultBodyLimit::disable());
        let service = service.merge(files.layer(RequestBodyLimitLayer::new(largest.saturating_add(1 << 20))));
        let service = match web.prefix.as_str() {
            "" => service,
            // Nested as a service, so that the prefix is answered with and without a trailing slash.
            prefix => Router::new().nest_service(prefix, service.with_state(app.clone())),
        };
        // Files of the study are sent as they are: most are compressed already, and large.
        let worth_it = DefaultPredicate::new().and(NotForContentType::const_new("application/octet-stream"));
        let request_id = HeaderName::from_static("x-request-id");
        service
            .layer(CatchPanicLayer::new())
            .layer(from_fn_with_state(Budgets::default(), body::measure))
            .layer(from_fn_with_state(app.clone(), render_errors))
            .layer(from_fn(close_after_refusal))
            // Some layers poll a body again after its end, and some streams do not support that.
            .layer(map_response(|response: Response| async { response.map(|body| Body::new(body.fuse())) }))
            .layer(CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(worth_it))
            .layer(header(CONTENT_SECURITY_POLICY, POLICY))
            .layer(header(X_CONTENT_TYPE_OPTIONS, "nosniff"))
            .layer(header(X_FRAME_OPTIONS, "DENY"))
            .layer(header(REFERRER_POLICY, "same-origin"))
            // Responses depend on the user: proxies must not store them, and browsers must revalidate them, which is
            // cheap with an entity tag.
            .layer(header(CACHE_CONTROL, "private, no-cache"))
            .layer(PropagateRequestIdLayer::new(request_id.clone()))
            .layer(TraceLayer::new_for_http().make_span_with(span))
            .layer(SetRequestIdLayer::new(request_id, MakeRequestUuid))
            .layer(from_fn_with_state(Places::new(web), wait_for_place))
            .layer(from_fn_with_state(app.clone(), render_errors))
            .with_state(app.clone())
    }
}

/// Applies the limits of a known user to the body of the request.
async fn know_user(session: AuthSession, request: Request, next: Next) -> Response {
    if let Some(meter) = request.extensions().get::<Meter>().filter(|_| session.user.is_some()) {
        meter.know();
    }
    next.run(request).await
}

/// Creates the context of a request, before the user is known: see [`Context::request`].
async fn make_context(State(app): State<App>, address: Address, mut request: Request, next: Next) -> Response {
    let origin = if is_api(&app, &request) { Origin::Api } else { Origin::Web };
    let ctx = Context::request(origin, address.0.map(|address| address.to_canonical()));
    request.extensions_mut().insert(ctx);
    // In all templates, the part of a page that refreshes automatically has this id.
    let is_by_itself = request.headers().get("hx-trigger").is_some_and(|id| id == "live");
    by_itself(is_by_itself, next.run(request)).await
}

/// If a large body was rejected, reads on for a while before answering, and closes the connection. A client that is
/// still sending when the connection closes does not see the response; a client that does not know of the close would
/// send its next request into the closed connection.
async fn close_after_refusal(request: Request, next: Next) -> Response {
    /// A smaller body is read to its end after the response, and the connection is kept.
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
    // The path without the query, which may contain labels that users search for.
    tracing::info_span!("request", method = %request.method(), path = without_secret(request.uri().path()), id)
}

/// The path of a request without the secret of an e-mail link.
fn without_secret(path: &str) -> &str {
    let mut ends =
        ["/confirm/", "/reset/", "/invite/"].into_iter().filter_map(|name| Some(path.find(name)? + name.len()));
    ends.next().map_or(path, |end| &path[..end])
}

fn header(name: HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
}

/// One cookie per instance and project, so that two studies on one host do not log each other out.
fn cookie_name(instance: &str, project: &str) -> String {
    let plain =
        |name: &str| name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).collect::<String>();
    format!("studygovernor_{}_{}", plain(instance), plain(project))
}

/// Hourly clean-up of expired rows: sessions, stored responses of idempotent requests, mails and links.
async fn clean_up(app: App, sessions: DatabaseSessions) {
    loop {
        let (database, now) = (app.engine.database(), app.engine.clock().now());
        let forgotten = idempotency_key::Column::Created.lt(now - idempotency_key::KEPT);
        let keys = idempotency_key::Entity::delete_many().filter(forgotten).exec(database.reader());
        let outcomes = [sessions.delete_expired().await, keys.await.map(drop), mail::forget_old(database, now).await];
        for error in outcomes.into_iter().filter_map(Result::err) {
            warn!(%error, "clean-up failed");
        }
        tokio::time::sleep(Duration::from_hours(1)).await;
    }
}

/// Listens on the address of the settings; port 0 means any free one.
///
/// # Errors
/// A sentence with the address, for example if the port is in use.
pub async fn bind(app: &App) -> Result<TcpListener, String> {
    let web = &app.settings.web;
    listen(&web.host, web.port).await.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                " (the port is in use by another program; set STUDYGOV_PORT to a free one)"
            }
            std::io::ErrorKind::PermissionDenied => {
                " (ports below 1024 require a privilege; set STUDYGOV_PORT to another one)"
            }
            _ => " (STUDYGOV_HOST must be an address of this machine)",
        };
        format!("cannot listen on {}:{}: {error}{hint}", web.host, web.port)
    })
}

/// Listens on the first usable address of `host`.
async fn listen(host: &str, port: u16) -> std::io::Result<TcpListener> {
    /// Maximum connections waiting to be accepted. If the backlog is full, clients retry only after a second.
    const WAITING: u32 = 4096;
    let mut outcome = Err(std::io::Error::new(std::io::ErrorKind::NotFound, "the host name has no IP address"));
    for address in tokio::net::lookup_host((host, port)).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        outcome = socket.bind(address).and_then(|()| socket.listen(WAITING));
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// Resolves when the process must stop: Ctrl-C, or SIGTERM from an orchestrator. The signals no longer end the process
/// as soon as this function is called, not only when its future is awaited.
pub fn shutdown_signal() -> impl Future<Output = ()> + Send + 'static {
    let signals = [SignalKind::interrupt(), SignalKind::terminate()].map(|kind| {
        let listening = signal(kind);
        listening.inspect_err(|error| warn!(%error, "cannot listen for a signal")).ok()
    });
    async move {
        let [interrupt, terminate] = signals.map(received);
        tokio::select! {
            () = interrupt => {}
            () = terminate => {}
        }
        info!("stopping");
    }
}

/// Resolves when the signal arrives; never if its handler could not be installed.
async fn received(signal: Option<Signal>) {
    match signal {
        Some(mut signal) => {
            let _ = signal.recv().await;
        }
        None => std::future::pending().await,
    }
}
