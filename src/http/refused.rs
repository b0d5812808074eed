//! Drains the rest of a rejected request body.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use tokio::time::timeout;
use tokio_stream::{Stream, StreamExt};

/// Limits of draining, in bytes and time. A client that sends more, or more slowly, is disconnected.
const MOST_READ: usize = 64 << 20;
const LONGEST: Duration = Duration::from_secs(10);

/// Splits a body into one for the handler and the remains that are left when the handler drops it.
pub(super) fn lend(body: Body) -> (Body, Remains) {
    let remains = Remains(Arc::new(Mutex::new(body.into_data_stream())));
    (Body::from_stream(remains.clone().fuse()), remains)
}

/// See [`lend`].
#[derive(Clone)]
pub(super) struct Remains(Arc<Mutex<BodyDataStream>>);

impl Stream for Remains {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *body).poll_next(context)
    }
}

impl Remains {
    /// Reads and discards the rest, within the limits.
    pub(super) async fn read(mut self) {
        let mut left = MOST_READ;
        let reading = async {
            while let Some(Ok(bytes)) = self.next().await {
                if bytes.len() > left {
                    return;
                }
                left -= bytes.len();
            }
        };
        let _ = timeout(LONGEST, reading).await;
    }
}
