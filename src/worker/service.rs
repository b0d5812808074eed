//! What a server does about callbacks by itself: timeouts (E8) and workers that were lost (Q4).

use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use crate::engine::Engine;

/// Looks for late and lost executions every second until `stop`. Any number of servers may do this.
pub async fn sweep(engine: Engine, mut stop: watch::Receiver<bool>) {
    loop {
        match engine.check_timeouts().await {
            Ok(counts) if counts.run_timeouts + counts.wait_timeouts > 0 => {
                info!(run = counts.run_timeouts, wait = counts.wait_timeouts, "timeouts");
            }
            Ok(_) => {}
            Err(error) => warn!(%error, "cannot check timeouts"),
        }
        match engine.check_leases().await {
            Ok(0) => {}
            Ok(count) => warn!(count, "workers were lost; their callbacks are dispatched again"),
            Err(error) => warn!(%error, "cannot check leases"),
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}
