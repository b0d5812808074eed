//! A pool of callbacks that run at the same time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use crate::callback::{self, Outcome, RunLog, Workplace};
use crate::queue::{Assignment, Ticket};

use super::desk::{Claim, Desk, Order, Verdict};

/// Takes what waits at a desk and runs it, so many at a time.
pub struct Pool<D> {
    desk: Arc<D>,
    workplace: Arc<Workplace>,
    name: Arc<str>,
    concurrency: usize,
    lease: Duration,
    grace: Duration,
}

/// How a run came to its end.
enum End {
    Done(Outcome),
    /// The desk said stop: nothing is to be reported.
    Lost,
    /// The worker stops and could not wait any longer.
    OutOfTime,
}

impl<D: Desk> Pool<D> {
    /// A claim is good for `lease`; a pool that stops gives its runs `grace` to end.
    pub fn new(desk: D, workplace: Workplace, concurrency: usize, lease: Duration, grace: Duration) -> Self {
        Self {
            desk: Arc::new(desk),
            workplace: Arc::new(workplace),
            name: worker_name().into(),
            concurrency,
            lease,
            grace,
        }
    }

    /// Runs until `stop` becomes true; then takes nothing new, waits for what runs, and gives back what does not end.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        info!(worker = %self.name, concurrency = self.concurrency, "running callbacks");
        let pool = Arc::new(self);
        let places = Arc::new(Semaphore::new(pool.concurrency));
        let mut runs = JoinSet::new();
        while !*stop.borrow() {
            let started = pool.start_waiting(&places, &mut runs, &stop).await;
            while runs.try_join_next().is_some() {}
            if started {
                continue;
            }
            // A second: what became available by itself (delays, other servers) is not announced.
            tokio::select! {
                () = pool.desk.news() => {}
                Some(_) = runs.join_next(), if !runs.is_empty() => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                changed = stop.changed() => if changed.is_err() { break },
            }
        }
        while runs.join_next().await.is_some() {}
        info!(worker = %pool.name, "stopped");
    }

    /// Starts what waits, as far as there are places. Whether something was started.
    async fn start_waiting(
        self: &Arc<Self>,
        places: &Arc<Semaphore>,
        runs: &mut JoinSet<()>,
        stop: &watch::Receiver<bool>,
    ) -> bool {
        let free = places.available_permits();
        if free == 0 {
            return false;
        }
        let tickets = match self.desk.waiting(u64::try_from(free).unwrap_or(1)).await {
            Ok(tickets) => tickets,
            Err(error) => {
                warn!(%error, "cannot ask for work");
                return false;
            }
        };
        let mut started = false;
        for ticket in tickets {
            let Ok(place) = Arc::clone(places).try_acquire_owned() else { break };
            match self.desk.claim(&ticket, &self.name).await {
                Ok(Claim::Granted(assignment)) => {
                    started = true;
                    runs.spawn(Arc::clone(self).work(ticket, *assignment, place, stop.clone()));
                }
                Ok(Claim::Refused) => debug!(execution = ticket.execution_id, "somebody else has it"),
                Err(error) => warn!(execution = ticket.execution_id, %error, "cannot claim"),
            }
        }
        started
    }

    /// One attempt from the claim to the report.
    async fn work(
        self: Arc<Self>,
        ticket: Ticket,
        assignment: Assignment,
        _place: OwnedSemaphorePermit,
        stop: watch::Receiver<bool>,
    ) {
        info!(execution = ticket.execution_id, attempt = ticket.attempt, function = %assignment.function, "running");
        let log = RunLog::hiding(&ticket.secret);
        let stopping = stop.clone();
        let end = {
            let run = callback::run(&assignment, &ticket.secret, &self.workplace, &log);
            tokio::select! {
                // Who stops a service may signal its programs too; that is no failure of theirs.
                outcome = run => if *stopping.borrow() && was_killed(&outcome) { End::OutOfTime } else { End::Done(outcome) },
                end = self.keep(&ticket, &log, stop) => end,
            }
            // Here the run is dropped, and with it its process group is gone.
        };
        match end {
            End::Done(outcome) => self.report(&ticket, &outcome, &log, assignment.wait_timeout > 0).await,
            End::Lost => warn!(execution = ticket.execution_id, attempt = ticket.attempt, "told to stop"),
            End::OutOfTime => {
                let released = self.desk.release(&ticket, &self.name, "the worker was stopped").await;
                if let Err(error) = released {
                    error!(execution = ticket.execution_id, %error, "cannot give back; the lease will run out");
                }
            }
        }
    }

    /// Sends heartbeats until the run is not wanted any more. A desk that cannot be asked is asked again: the run goes
    /// on, and its report decides.
    async fn keep(&self, ticket: &Ticket, log: &RunLog, mut stop: watch::Receiver<bool>) -> End {
        let beat_every = (self.lease / 3).max(Duration::from_millis(100));
        let look_every = beat_every.min(Duration::from_secs(1));
        let mut seen = 0;
        let mut last_beat = tokio::time::Instant::now();
        let mut stops_at = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep(look_every) => {}
                // A sender that is gone has told to stop as well.
                _ = stop.wait_for(|stop| *stop), if stops_at.is_none() => {
                    stops_at = Some(tokio::time::Instant::now() + self.grace);
                }
            }
            if stops_at.is_some_and(|at| at <= tokio::time::Instant::now()) {
                return End::OutOfTime;
            }
            let changes = log.changes();
            if changes == seen && last_beat.elapsed() < beat_every {
                continue;
            }
            let news = (changes != seen).then(|| log.text());
            // A connection that hangs must not keep the worker from stopping.
            match timeout(beat_every, self.desk.beat(ticket, &self.name, news)).await {
                Ok(Ok(Order::Continue)) => (seen, last_beat) = (changes, tokio::time::Instant::now()),
                Ok(Ok(Order::Stop)) => return End::Lost,
                Ok(Err(error)) => warn!(execution = ticket.execution_id, %error, "cannot send a heartbeat"),
                Err(_) => warn!(execution = ticket.execution_id, "a heartbeat was not answered in time"),
            }
        }
    }

    /// Reports until the desk has said yes or no: what was done for hours is not thrown away for a broken connection.
    async fn report(&self, ticket: &Ticket, outcome: &Outcome, log: &RunLog, wait: bool) {
        for tries in 0..200 {
            match self.desk.report(ticket, &self.name, outcome, log.text(), wait).await {
                Ok(Verdict::Accepted) => {
                    info!(execution = ticket.execution_id, success = outcome.is_success, "reported");
                    return;
                }
                Ok(Verdict::Refused) => {
                    warn!(execution = ticket.execution_id, attempt = ticket.attempt, "the report came too late");
                    return;
                }
                Err(error) => warn!(execution = ticket.execution_id, %error, "cannot report; trying again"),
            }
            // The claim is kept while the report waits, or another worker would do it all again.
            if let Ok(Ok(Order::Stop)) = timeout(self.lease, self.desk.beat(ticket, &self.name, None)).await {
                warn!(execution = ticket.execution_id, "told to stop before the report was taken");
                return;
            }
            // 0.1 s, 0.2 s, 0.4 s, … at most a third of the lease.
            tokio::time::sleep(Duration::from_millis(100 << tries.min(7)).min(self.lease / 3)).await;
        }
        error!(execution = ticket.execution_id, "the report was not taken; another attempt will be made");
    }
}

/// Whether a signal ended the program: its return code is the number of the signal, negative.
fn was_killed(outcome: &Outcome) -> bool {
    outcome.values.get("return_code").and_then(serde_json::Value::as_i64).is_some_and(|code| code < 0)
}

/// `host:process:random`, so that two workers are never taken for one.
fn worker_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host: String = host.chars().take(80).collect();
    format!("{host}:{}:{:08x}", std::process::id(), rand::random::<u32>())
}
