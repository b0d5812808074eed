//! Background maintenance of callback executions: timeouts (E8) and lost workers (Q4).

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::clock::StudyClock;
use crate::context::Context;
use crate::engine::Engine;

/// Pause between two sweeps.
const PAUSE: Duration = Duration::from_secs(1);

/// If this process or the database is stalled for longer than this, heartbeats may not have been stored.
const STALL: Duration = Duration::from_secs(4);

/// Checks for overdue and lost executions every second until `stop`. Any number of servers may do this.
///
/// After the database was unavailable, this process was stalled, or its clock was set, no lease expires before each worker
/// had time for a heartbeat, one `lease` long. A sweep that takes long because it has much to do is not a stall.
pub async fn sweep(engine: Engine, lease: Duration, mut stop: watch::Receiver<bool>) {
    let (stalled, was_stalled) = watch::channel(Instant::now());
    tokio::select! {
        () = watch_for_stalls(stalled) => {}
        () = sweep_until_stopped(&engine, lease, &was_stalled) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// Detects stalls of this process, such as a stopped process or a sleeping machine.
async fn watch_for_stalls(stalled: watch::Sender<Instant>) {
    loop {
        let before = Instant::now();
        tokio::time::sleep(PAUSE).await;
        if before.elapsed() > STALL {
            stalled.send_replace(Instant::now());
        }
    }
}

/// `stalled` is the last time at which heartbeats could not be received; at first, the start of this server.
async fn sweep_until_stopped(engine: &Engine, lease: Duration, stalled: &watch::Receiver<Instant>) {
    // Last time at which the database did not respond.
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
