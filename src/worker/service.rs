//! What a server does about callbacks by itself: timeouts (E8) and workers that were lost (Q4).

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::engine::Engine;

/// Looks for late and lost executions every second until `stop`. Any number of servers may do this.
///
/// After a time in which the database could not be asked, or the machine slept, no worker is taken for lost before it
/// had a `lease` to be heard of again: it could not send its heartbeats either.
pub async fn sweep(engine: Engine, lease: Duration, mut stop: watch::Receiver<bool>) {
    let mut last = Instant::now();
    // As a server that was away: whoever ran something could not say so.
    let mut leases_from = last + lease;
    loop {
        if last.elapsed() > Duration::from_secs(4) {
            leases_from = Instant::now() + lease;
        }
        last = Instant::now();
        match engine.check_timeouts().await {
            Ok(counts) if counts.run_timeouts + counts.wait_timeouts > 0 => {
                info!(run = counts.run_timeouts, wait = counts.wait_timeouts, "timeouts");
            }
            Ok(_) => {}
            Err(error) => {
                warn!(%error, "cannot check timeouts");
                leases_from = Instant::now() + lease;
            }
        }
        let checked = if Instant::now() < leases_from { Ok(0) } else { engine.check_leases().await };
        match checked {
            Ok(0) => {}
            Ok(count) => warn!(count, "workers were lost; their callbacks are dispatched again"),
            Err(error) => {
                warn!(%error, "cannot check leases");
                leases_from = Instant::now() + lease;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}
