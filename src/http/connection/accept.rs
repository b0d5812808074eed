//! Accepts connections, serves each in its own task, and ends them when the server stops.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Request};
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;
use tower::ServiceExt;
use tracing::{debug, info, warn};

use crate::config::{TrustedProxies, WebSettings};

use super::phase::Connection;
use super::proxied::take_header;
use super::stream::Stream;
use super::table::{Limits, Place, Table};
use crate::http::limit::is_health;

/// Maximum bytes of the head of a request, and of each read and write.
const HEAD_BYTES: usize = 32 * 1024;

/// Maximum connections from one address that is not a trusted proxy, before its idle and silent ones are closed.
const BY_ADDRESS: usize = 256;

/// Files that the server needs in addition to its connections: the database, logs, programs.
const OTHER_FILES: usize = 256;

/// Raises the limit of open files to what the system allows, up to a maximum; many systems start programs with 1024.
///
/// Returns the number of files that may be open.
fn raise_file_limit() -> usize {
    /// Limited, so that programs that close all files they might have inherited still end quickly.
    const MOST: u64 = 65_536;
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.unwrap_or(MOST);
    let wanted = limit.maximum.unwrap_or(MOST).min(MOST);
    if wanted > current {
        match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }) {
            Ok(()) => return usize::try_from(wanted).unwrap_or(usize::MAX),
            Err(error) => warn!(%error, "raising the open file limit failed"),
        }
    }
    usize::try_from(current).unwrap_or(usize::MAX)
}

/// How a listener is served.
#[derive(Debug, Clone, Default)]
pub struct Serving {
    /// Concurrent requests.
    pub connections: usize,
    pub proxies: TrustedProxies,
    /// Whether trusted proxies speak the PROXY protocol.
    pub proxy_protocol: bool,
    /// The path prefix of all routes.
    pub prefix: String,
    /// Time for requests that have begun, when the server stops.
    pub drain: Duration,
}

impl From<&WebSettings> for Serving {
    fn from(web: &WebSettings) -> Self {
        let (proxies, prefix) = (web.proxies.clone(), web.prefix.clone());
        Self { connections: web.connections, proxies, proxy_protocol: web.proxy_protocol, prefix, drain: web.drain }
    }
}

/// Answers requests until `stop` resolves, then finishes those that have begun within the drain time.
pub async fn serve(listener: TcpListener, service: Router, how: Serving, stop: impl Future<Output = ()>) {
    let files = raise_file_limit();
    let total = (how.connections.max(256) + 64).min(files.saturating_sub(OTHER_FILES).max(64));
    let table = Table::new(Limits { total, by_address: BY_ADDRESS.min(total), most_by_address: total * 3 / 4 });
    let (tell, told) = watch::channel(false);
    let mut stop = pin!(stop);
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let is_proxy = how.proxies.trusts(peer.ip());
                    // Without a free place the connection is closed immediately: requests are in progress on all
                    // others.
                    if let Some(place) = table.enter(counted(peer.ip()), is_proxy) {
                        let client = Client { stream, peer, speaks_proxy: is_proxy && how.proxy_protocol };
                        tokio::spawn(answer(client, place, service.clone(), how.prefix.clone(), told.clone()));
                    }
                }
                Err(error) => {
                    // The client has disconnected already, or the file limit is reached.
                    debug!(%error, "accepting a connection failed");
                    if !is_of_client(&error) {
                        table.make_room();
                        sleep(Duration::from_millis(20)).await;
                    }
                }
            },
            _ = ticks.tick() => table.close_overdue(false),
        }
    }
    drop(listener);
    let _ = tell.send(true);
    drain(&table, how.drain).await;
}

/// The address under which a client is counted. For IPv6 this is the /64 network, because one client can use all of its
/// addresses.
fn counted(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        ip @ IpAddr::V4(_) => ip,
    }
}

fn is_of_client(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Waits until the last connection has ended, and no longer than `limit`.
async fn drain(table: &Table, limit: Duration) {
    let end = Instant::now() + limit;
    if table.count() > 0 {
        info!(connections = table.count(), "waiting for open requests to finish");
    }
    while table.count() > 0 {
        if Instant::now() >= end {
            warn!(connections = table.count(), "aborting requests that did not finish in time");
            return;
        }
        table.close_overdue(true);
        sleep(Duration::from_millis(20)).await;
    }
}

/// A connection that was accepted.
struct Client {
    stream: TcpStream,
    /// The other end.
    peer: SocketAddr,
    /// It may begin with a header of the PROXY protocol.
    speaks_proxy: bool,
}

/// Serves one connection to its end.
async fn answer(
    Client { mut stream, mut peer, speaks_proxy }: Client,
    place: Place,
    service: Router,
    prefix: String,
    mut stop: watch::Receiver<bool>,
) {
    let connection = Arc::clone(&place.connection);
    let _ = stream.set_nodelay(true);
    if speaks_proxy {
        tokio::select! {
            taken = take_header(&mut stream) => match taken {
                Ok(client) => peer = client.unwrap_or(peer),
                Err(error) => {
                    debug!(%error, %peer, "connection closed");
                    return;
                }
            },
            () = connection.end.notified() => return,
            _ = stop.changed() => return,
        }
    }
    let io = TokioIo::new(Stream::new(stream, Arc::clone(&connection)));
    let prefix: Arc<str> = prefix.into();
    let shared = Arc::clone(&connection);
    let handler =
        service_fn(move |request| respond(request, peer, service.clone(), Arc::clone(&prefix), Arc::clone(&shared)));
    let mut builder = http1::Builder::new();
    // The time limits of the phases are shorter; hyper's own limit covers what they might miss.
    builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_mins(2)).max_buf_size(HEAD_BYTES);
    let mut serving = pin!(builder.serve_connection(io, handler));
    let mut is_stopping = false;
    loop {
        tokio::select! {
            outcome = serving.as_mut() => {
                if let Err(error) = outcome {
                    debug!(%error, %peer, "connection ended");
                }
                return;
            }
            () = connection.end.notified() => {
                debug!(%peer, "connection closed: it exceeded its time limit, or the connection limit was reached");
                return;
            }
            _ = stop.changed(), if !is_stopping => {
                is_stopping = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}

async fn respond(
    request: hyper::Request<Incoming>,
    peer: SocketAddr,
    service: Router,
    prefix: Arc<str>,
    connection: Arc<Connection>,
) -> Result<Response, Infallible> {
    connection.begin(!request.body().is_end_stream());
    if connection.is_surplus && !is_health(request.uri().path(), &prefix) {
        connection.rest();
        let headers = [(RETRY_AFTER, "5"), (CONNECTION, "close")];
        return Ok((StatusCode::SERVICE_UNAVAILABLE, headers, "Too many connections are open.\n").into_response());
    }
    let mut request: Request = request.map(Body::new);
    request.extensions_mut().insert(ConnectInfo(peer));
    request.extensions_mut().insert(Arc::clone(&connection));
    let Ok(response) = service.oneshot(request).await;
    Ok(response.map(|body| Body::new(Answer { body, connection })))
}

/// The body of an answer; the connection is idle when it ends.
struct Answer {
    body: Body,
    connection: Arc<Connection>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.connection.rest();
    }
}
