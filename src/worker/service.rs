//! What a server does about callbacks by itself: timeouts (E8) and workers that were lost (Q4).

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::clock::StudyClock;
use crate::context::Context;
use crate::engine::Engine;

/// Between two sweeps.
const PAUSE: Duration = Duration::from_secs(1);

/// A process or a database that stood still for longer than this kept heartbeats from being stored.
const STALL: Duration = Duration::from_secs(4);

/// Looks for late and lost executions every second until `stop`. Any number of servers may do this.
///
/// After a time in which the database did not answer, this process stood still, or its time was moved, no worker is taken for lost before it had a
/// `lease` to send a heartbeat: it could not be stored before. A sweep that has much to do is not such a time.
pub async fn sweep(engine: Engine, lease: Duration, mut stop: watch::Receiver<bool>) {
    let (stalled, was_stalled) = watch::channel(Instant::now());
    tokio::select! {
        () = watch_for_stalls(stalled) => {}
        () = sweep_until_stopped(&engine, lease, &was_stalled) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// Notes when this process stood still, as a stopped process and a sleeping machine do.
async fn watch_for_stalls(stalled: watch::Sender<Instant>) {
    loop {
        let before = Instant::now();
        tokio::time::sleep(PAUSE).await;
        if before.elapsed() > STALL {
            stalled.send_replace(Instant::now());
        }
    }
}

/// `stalled` is when workers could not be heard of for the last time; at first, the start of this server.
async fn sweep_until_stopped(engine: &Engine, lease: Duration, stalled: &watch::Receiver<Instant>) {
    // When the database did not answer for the last time.
    let mut silent = Instant::now();
    let (timeouts, leases) = (Context::system("timeout"), Context::system("lease"));
    let moves = || engine.clock().of_study().map_or(0, StudyClock::moves);
    let mut moves_before = moves();
    loop {
        let asked = Instant::now();
        let answers = engine.database().ping().await.is_ok();
        let was_moved = std::mem::replace(&mut moves_before, moves()) != moves_before;
        if !answers || was_moved || asked.elapsed() > STALL {
            silent = Instant::now();
        }
        match engine.check_timeouts(&timeouts).await {
            Ok(counts) if counts.run_timeouts + counts.wait_timeouts > 0 => {
                info!(run = counts.run_timeouts, wait = counts.wait_timeouts, "timeouts");
            }
            Ok(_) => {}
            Err(error) => warn!(%error, "checking timeouts failed"),
        }
        let heard_since = silent.max(*stalled.borrow());
        let checked = if heard_since.elapsed() < lease { Ok(0) } else { engine.check_leases(&leases).await };
        match checked {
            Ok(0) => {}
            Ok(count) => warn!(count, "leases expired; requeued executions"),
            Err(error) => warn!(%error, "checking leases failed"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
