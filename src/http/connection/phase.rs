//! The phase of one connection.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Time limit for the head of a request, from its first byte or from the start of the connection.
const HEAD: Duration = Duration::from_secs(15);
/// Time limit for the next request on a connection. Proxies keep their connections for a minute or less.
const IDLE: Duration = Duration::from_secs(75);
/// Time limit for the rest of a head or body from an unknown client while the server stops.
const STOPPING: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing has arrived yet.
    New,
    /// The head of a request is arriving.
    Head,
    /// The body of a request from an unknown client is arriving.
    Receiving,
    /// The request is complete, or comes from a known user or worker.
    Working,
    /// The answer is sent; another request may follow.
    Idle,
}

/// One connection, shared by its task, its requests and the table of connections.
#[derive(Debug)]
pub(in crate::http) struct Connection {
    pub(super) ip: IpAddr,
    /// More connections are open than the limit allows: only health checks are answered on this one.
    pub(super) is_surplus: bool,
    state: Mutex<(Phase, Instant)>,
    /// Ends the connection.
    pub(super) end: Notify,
}

impl Connection {
    pub(super) fn new(ip: IpAddr, is_surplus: bool) -> Self {
        Self { ip, is_surplus, state: Mutex::new((Phase::New, Instant::now())), end: Notify::new() }
    }

    pub(super) fn phase(&self) -> (Phase, Instant) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, next: impl FnOnce(Phase) -> Option<Phase>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(phase) = next(state.0) {
            *state = (phase, Instant::now());
        }
    }

    /// Called when bytes arrive.
    pub(super) fn read(&self) {
        self.change(|phase| matches!(phase, Phase::New | Phase::Idle).then_some(Phase::Head));
    }

    /// Called when a request begins.
    pub(super) fn begin(&self, has_body: bool) {
        self.change(|_| Some(if has_body { Phase::Receiving } else { Phase::Working }));
    }

    /// Called when the body of the request is complete or its sender is known.
    pub(in crate::http) fn work(&self) {
        self.change(|phase| (phase == Phase::Receiving).then_some(Phase::Working));
    }

    /// Called when the response has been handed over.
    pub(super) fn rest(&self) {
        self.change(|_| Some(Phase::Idle));
    }

    /// Whether the client has exceeded the time limit of this phase.
    pub(super) fn is_overdue(&self, now: Instant, is_stopping: bool) -> bool {
        let (phase, since) = self.phase();
        let limit = match phase {
            Phase::New | Phase::Head | Phase::Receiving if is_stopping => STOPPING,
            Phase::New | Phase::Head => HEAD,
            Phase::Idle => IDLE,
            // Requests have their own limits.
            Phase::Receiving | Phase::Working => return false,
        };
        now.duration_since(since) > limit
    }

    /// The order in which connections are closed when there are too many: first those that have sent no complete
    /// request, then idle ones. `None` while a request is in progress.
    pub(super) fn rank(&self, now: Instant) -> Option<(u8, Instant)> {
        /// A client on a slow line has sent its request within this time.
        const YOUNG: Duration = Duration::from_secs(2);
        let (phase, since) = self.phase();
        match phase {
            Phase::Working => None,
            Phase::Idle => Some((1, since)),
            _ if now.duration_since(since) > YOUNG => Some((0, since)),
            _ => Some((2, since)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_is_worked_for_is_never_closed_for_another_one() {
        let connection = Connection::new(IpAddr::from([127, 0, 0, 1]), false);
        let later = Instant::now() + Duration::from_mins(10);
        assert!(connection.is_overdue(later, false) && connection.rank(later).is_some());
        connection.read();
        assert!(connection.is_overdue(later, false));
        connection.begin(true);
        assert!(connection.rank(later).is_some() && connection.is_overdue(later, true));
        connection.work();
        assert!(connection.rank(later).is_none() && !connection.is_overdue(later, true));
        connection.rest();
        assert!(connection.rank(later).is_some() && connection.is_overdue(later, false));
        connection.read();
        assert_eq!(connection.phase().0, Phase::Head);
    }
}
