//! Limits for the size of request bodies and for the memory that all bodies use together.
//!
//! A body from an unknown client must be small, so that not every client that reaches the server can use up the memory.
//! As soon as a layer or an extractor has identified the user or the worker, it notifies the [`Meter`] of the request,
//! and the limit of that client applies. Large bodies, and large values that are parsed from them, are counted against
//! a budget that all requests share; a request waits for its part of the budget before it reads.
//! waits for its part before it reads.

use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep, timeout};
use tokio_stream::StreamExt;

use super::HttpError;
use super::connection::Connection;

/// Maximum bytes of a body whose sender is known: a report with its logs, a long list. Forms have axum's own limit of 2
/// MiB, uploads the limit of the settings.
pub const MOST_BYTES: usize = 16 << 20;

/// Maximum bytes of a body that may identify its sender only at its end: a worker of version 8.1 sends its secret in
/// the body.
const WORKER_BYTES: usize = 1 << 20;

/// Maximum bytes of a body from an unknown client: a login, a small report. Bodies of this size are not counted against
/// the budget.
pub const SMALL_BYTES: usize = 64 << 10;

/// An unknown client that sends nothing for this time is disconnected.
const SILENCE: Duration = Duration::from_secs(15);
/// The same for a known client.
const KNOWN_SILENCE: Duration = Duration::from_mins(1);

/// A request that gets no memory within this time is rejected.
const PATIENCE: Duration = Duration::from_secs(10);

/// Estimated memory of one JSON value, in bytes.
const VALUE_BYTES: usize = 160;

/// The sender of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Sender {
    Unknown,
    /// May show a secret in the body.
    Worker,
    Known,
}

/// Memory for the bodies of one kind of client, in KiB.
#[derive(Debug, Clone)]
struct Budget {
    bytes: Arc<Semaphore>,
    /// For parsed values. Counted separately, because a request asks for them while it still holds its bytes.
    values: Arc<Semaphore>,
    /// Maximum bytes of values in one body.
    most_values: usize,
}

impl Budget {
    fn new(bytes: usize, values: usize) -> Self {
        let semaphore = |bytes: usize| Arc::new(Semaphore::new(bytes >> 10));
        Self { bytes: semaphore(bytes), values: semaphore(values), most_values: values }
    }
}

/// The memory for all bodies of the process.
#[derive(Debug, Clone)]
pub(super) struct Budgets {
    known: Budget,
    unknown: Budget,
}

impl Default for Budgets {
    fn default() -> Self {
        Self { known: Budget::new(40 << 20, 64 << 20), unknown: Budget::new(12 << 20, 8 << 20) }
    }
}

/// Why reading a body stopped before its end.
#[derive(Debug, Clone, Copy, thiserror::Error)]
enum Stopped {
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the body stopped arriving")]
    TooSlow,
}

#[derive(Debug)]
struct Inner {
    sender: AtomicU8,
    budgets: Budgets,
    connection: Option<Arc<Connection>>,
    read: AtomicU64,
    stopped: OnceLock<Stopped>,
    held: Mutex<Vec<OwnedSemaphorePermit>>,
}

/// Counts how much a request has read and enforces its limit. One per request, stored in its extensions.
#[derive(Debug, Clone)]
pub struct Meter(Arc<Inner>);

impl Meter {
    /// Marks the sender of the request as known: a user, or a worker that has shown its secret.
    pub fn know(&self) {
        self.0.sender.store(Sender::Known as u8, Ordering::Relaxed);
        if let Some(connection) = &self.0.connection {
            connection.work();
        }
    }

    /// Whether a layer or an extractor has identified the sender.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.sender() == Sender::Known
    }

    /// Notes that the body may identify its sender.
    pub fn expect_secret(&self) {
        let (unknown, worker) = (Sender::Unknown as u8, Sender::Worker as u8);
        let _ = self.0.sender.compare_exchange(unknown, worker, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn sender(&self) -> Sender {
        match self.0.sender.load(Ordering::Relaxed) {
            0 => Sender::Unknown,
            1 => Sender::Worker,
            _ => Sender::Known,
        }
    }

    /// Maximum bytes that [`read`] accepts.
    fn most(&self) -> usize {
        match self.sender() {
            Sender::Unknown => SMALL_BYTES,
            Sender::Worker => WORKER_BYTES,
            Sender::Known => MOST_BYTES,
        }
    }

    fn budget(&self) -> &Budget {
        if self.sender() == Sender::Known { &self.0.budgets.known } else { &self.0.budgets.unknown }
    }

    /// Reserves memory for `bytes` until the request ends.
    async fn hold(&self, budget: &Arc<Semaphore>, bytes: usize) -> Result<(), HttpError> {
        let wanted = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let permit = timeout(PATIENCE, Arc::clone(budget).acquire_many_owned(wanted)).await;
        let permit = permit.ok().and_then(Result::ok).ok_or(HttpError::Overloaded)?;
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner).push(permit);
        Ok(())
    }

    fn holds_nothing(&self) -> bool {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

fn too_large(most: usize) -> HttpError {
    let hint = if most < MOST_BYTES { " A larger body requires a login." } else { "" };
    HttpError::TooLarge(format!("The body is larger than {most} bytes.{hint}"))
}

fn length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The whole body of a request, within the limit of its sender.
///
/// # Errors
/// 413 if the body is too large, 503 if no memory is available for it, 408 or 400 if it does not arrive completely.
pub async fn read(parts: &Parts, body: Body) -> Result<Bytes, HttpError> {
    let meter = parts.extensions.get::<Meter>();
    let most = meter.map_or(MOST_BYTES, Meter::most);
    let announced = length(&parts.headers);
    if announced.is_some_and(|length| length > most) {
        return Err(too_large(most));
    }
    let expected = announced.unwrap_or(most);
    // A body that a layer has read and put back is already counted.
    if let Some(meter) = meter.filter(|meter| expected > SMALL_BYTES && meter.holds_nothing()) {
        meter.hold(&meter.budget().bytes, expected).await?;
    }
    let mut stream = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| HttpError::BadRequest(format!("The body could not be read: {error}.")))?;
        if bytes.len() + chunk.len() > most {
            return Err(too_large(most));
        }
        if bytes.is_empty() {
            bytes.reserve_exact(announced.unwrap_or(chunk.len()));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.into())
}

/// Reserves memory for the values of the JSON in `text` until the request ends.
///
/// # Errors
/// 413 if there are more values than one request may have, 503 if no memory is available for them.
pub async fn hold_values(meter: Option<&Meter>, text: &[u8]) -> Result<(), HttpError> {
    let Some(meter) = meter else { return Ok(()) };
    let bytes = count_values(text) * VALUE_BYTES;
    let budget = meter.budget();
    if bytes > budget.most_values {
        let most = budget.most_values / VALUE_BYTES;
        return Err(HttpError::TooLarge(format!("The body has more than {most} values; send it in several requests.")));
    }
    if bytes > SMALL_BYTES { meter.hold(&budget.values, bytes).await } else { Ok(()) }
}

/// Upper bound of the number of values: each value but the first in a list or an object follows a comma or an opening
/// bracket.
fn count_values(text: &[u8]) -> usize {
    let (mut count, mut is_text, mut is_escaped) = (1, false, false);
    for byte in text {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            b',' | b'[' | b'{' if !is_text => count += 1,
            _ => {}
        }
    }
    count
}

/// Measures the body of each request and reports why it was not read to its end.
pub(super) async fn measure(State(budgets): State<Budgets>, mut request: Request, next: Next) -> Response {
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    let meter = Meter(Arc::new(Inner {
        sender: AtomicU8::new(Sender::Unknown as u8),
        budgets,
        connection,
        read: AtomicU64::new(0),
        stopped: OnceLock::new(),
        held: Mutex::default(),
    }));
    request.extensions_mut().insert(meter.clone());
    let measured = meter.clone();
    let request = request.map(|inner| Body::new(Measured { inner, meter: measured, silence: None }));
    let response = next.run(request).await;
    // The error that an extractor makes of a truncated body is not the cause.
    match meter.0.stopped.get() {
        Some(Stopped::TooLarge(most)) if response.status().is_client_error() => too_large(*most).into_response(),
        Some(Stopped::TooSlow) if !response.status().is_success() => HttpError::TooSlow.into_response(),
        _ => response,
    }
}

/// The body of a request.
struct Measured {
    inner: Body,
    meter: Meter,
    /// Runs while nothing arrives.
    silence: Option<Pin<Box<Sleep>>>,
}

impl Measured {
    fn stop(&self, reason: Stopped) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let _ = self.meter.0.stopped.set(reason);
        Poll::Ready(Some(Err(axum::Error::new(reason))))
    }
}

impl HttpBody for Measured {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(reason) = self.meter.0.stopped.get() {
            return Poll::Ready(Some(Err(axum::Error::new(*reason))));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) else {
            let limit = if self.meter.sender() == Sender::Known { KNOWN_SILENCE } else { SILENCE };
            let silence = self.silence.get_or_insert_with(|| Box::pin(sleep(limit)));
            return match silence.as_mut().poll(context) {
                Poll::Ready(()) => self.stop(Stopped::TooSlow),
                Poll::Pending => Poll::Pending,
            };
        };
        self.silence = None;
        let Some(Ok(frame)) = frame else {
            if let Some(connection) = &self.meter.0.connection {
                connection.work();
            }
            return Poll::Ready(frame);
        };
        let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
        let read = self.meter.0.read.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let most = self.meter.most();
        // If the sender is known, the limits of the routes apply.
        if self.meter.sender() != Sender::Known && read > most as u64 {
            return self.stop(Stopped::TooLarge(most));
        }
        if self.inner.is_end_stream()
            && let Some(connection) = &self.meter.0.connection
        {
            connection.work();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_and_text_is_not() {
        assert_eq!(count_values(b"{}"), 2);
        assert_eq!(count_values(br#"{"a": [1, 2, 3], "b": "x,[{\",", "c": null}"#), 7);
        assert_eq!(count_values(br#""a\\",["b"]"#), 3);
    }
}
