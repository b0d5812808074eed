//! Rejects requests that a page of another origin sends in the name of a user (CSRF).

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::csrf::{CsrfLayer, ProtectionError};
use tracing::warn;

use super::HttpError;
use super::address::SeenAs;
use crate::app::App;

/// Compares the origin of a request with its host. Behind a proxy, the origin of the external URL is accepted too.
pub(super) fn layer(external: Option<&str>) -> CsrfLayer {
    let Some(external) = external else { return CsrfLayer::new() };
    CsrfLayer::new().add_trusted_origin(external).unwrap_or_else(|error| {
        warn!(%error, "the external URL is not a valid origin");
        CsrfLayer::new()
    })
}

/// Rejects origins `http://…` if users reach the server by https: [`layer`] only compares the hosts, and a page without
/// TLS can be changed by anyone on the network. Logs every rejection: it may be an attack, or a proxy that is missing
/// in the settings.
pub(super) async fn check(State(app): State<App>, request: Request, next: Next) -> Response {
    let (origin, host) = (request.headers().get(ORIGIN).cloned(), request.headers().get(HOST).cloned());
    let is_plain = origin
        .as_ref()
        .is_some_and(|origin| origin.as_bytes().get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"http://")));
    if is_plain && !request.method().is_safe() && is_https(&app, &request) {
        warn!(?origin, ?host, "rejected a request from an origin without TLS: the external URL uses https");
        return refusal();
    }
    let response = next.run(request).await;
    if response.extensions().get::<ProtectionError>().is_none() {
        return response;
    }
    warn!(
        ?origin,
        ?host,
        "rejected a cross-origin request; behind a proxy, set STUDYGOV_EXTERNAL_HOSTNAME, _PROTO and _PORT to the \
        external URL"
    );
    refusal()
}

/// Whether users reach the server by https, according to the settings or a trusted proxy.
fn is_https(app: &App, request: &Request) -> bool {
    let web = &app.settings.web;
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    web.is_secure() || SeenAs::of(request.headers(), peer, &web.proxies).proto == Some("https")
}

fn refusal() -> Response {
    let message = "The request was sent from a page with another address. If that page belongs to Study Governor, its \
        operator has to set STUDYGOV_EXTERNAL_HOSTNAME, _PROTO and _PORT to the address in your browser.";
    HttpError::NotYours(message.to_owned()).into_response()
}
