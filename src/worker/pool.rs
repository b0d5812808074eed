//! A pool of callbacks that run at the same time.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{counter, gauge, histogram};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error, info, warn};

use crate::callback::{self, Outcome, RunLog, Workplace};
use crate::fault;
use crate::project::{self, Project, Revision};
use crate::queue::{Assignment, Ticket};

use super::desk::{Claim, Desk, DeskError, Order, Verdict};
use super::intake::{Intake, Letter, Offer};
use super::pulse::Pulse;

/// Claims and runs the attempts that it receives, with limited concurrency.
pub struct Pool<D> {
    desk: D,
    workplace: Workplace,
    /// The repository that contains the files of the study.
    project: Option<Arc<Project>>,
    name: Arc<str>,
    concurrency: usize,
    grace: Duration,
    /// Attempts that this pool is processing: a message that is delivered twice does not start a run twice.
    in_hand: Mutex<HashSet<(i32, i32)>>,
    stop: watch::Receiver<bool>,
    pulse: Arc<Pulse>,
}

/// Limit for waiting until killed programs have ended: removing a container takes a while.
const END_OF_PROGRAMS: Duration = Duration::from_secs(10);

/// Interval between sweeps for containers that attempts have left behind.
const BETWEEN_SWEEPS: Duration = Duration::from_mins(5);

/// How a run ended.
enum End {
    Done(Outcome),
    /// The engine answered a heartbeat with stop: nothing is reported.
    Lost,
    /// The worker stops, and its grace period has ended.
    OutOfTime,
    /// The files of the run are unavailable; the next attempt may get another revision.
    WithoutFiles(String),
}

/// Time for which a full pool holds the attempts that it has received.
const PATIENCE: Duration = Duration::from_secs(2);

impl<D: Desk> Pool<D> {
    /// Stops when `stop` becomes true, and gives its runs `grace` to end. `name` must be unique among the workers.
    pub fn new(
        desk: D,
        workplace: Workplace,
        name: &str,
        concurrency: usize,
        grace: Duration,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let (in_hand, pulse) = (Mutex::default(), Arc::default());
        Self { desk, workplace, project: None, name: name.into(), concurrency, grace, in_hand, stop, pulse }
    }

    /// Sets the repository; each run uses the files of one of its revisions.
    #[must_use]
    pub fn with_project(self, project: Option<Arc<Project>>) -> Self {
        Self { project, ..self }
    }

    /// Shows whether the main loop is still running.
    pub fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.pulse)
    }

    /// Runs until `stop`; then takes nothing new, waits for the runs, and releases those that do not end in time.
    pub async fn run(self, mut intake: impl Intake) {
        info!(worker = %self.name, concurrency = self.concurrency, "running callbacks");
        let pool = Arc::new(self);
        let sweeping = tokio::spawn(Arc::clone(&pool).sweep_containers());
        let places = Arc::new(Semaphore::new(pool.concurrency));
        let mut runs = JoinSet::new();
        let mut stop = pool.stop.clone();
        let stopped = async { _ = stop.wait_for(|stop| *stop).await };
        tokio::pin!(stopped);
        loop {
            while runs.try_join_next().is_some() {}
            let place = tokio::select! {
                place = pool.pulse.during(pool.free_place(&places, &mut intake)) => place,
                () = &mut stopped => break,
            };
            let offer = tokio::select! {
                offer = pool.pulse.during(intake.next()) => offer,
                () = &mut stopped => break,
            };
            if let (Some(offer), Some(place)) = (offer, place) {
                runs.spawn(Arc::clone(&pool).take(offer, place));
            }
        }
        // Attempts that were received and not taken are left to other workers.
        intake.full().await;
        drop(intake);
        while runs.join_next().await.is_some() {}
        sweeping.abort();
        info!(worker = %pool.name, "stopped");
    }

    /// Removes containers that attempts have left behind, now and every few minutes, while Docker is available.
    async fn sweep_containers(self: Arc<Self>) {
        let is_running = |execution_id: i32, attempt: i32| {
            self.in_hand.lock().unwrap_or_else(PoisonError::into_inner).contains(&(execution_id, attempt))
        };
        while callback::remove_stray_containers(&self.workplace, is_running).await {
            sleep(BETWEEN_SWEEPS).await;
        }
    }

    async fn free_place(&self, places: &Arc<Semaphore>, intake: &mut impl Intake) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = timeout(PATIENCE, Arc::clone(places).acquire_owned()).await {
            return place.ok();
        }
        intake.full().await;
        Arc::clone(places).acquire_owned().await.ok()
    }

    /// Processes an attempt, from the offer to its end.
    async fn take<L: Letter>(self: Arc<Self>, offer: Offer<L>, _place: OwnedSemaphorePermit) {
        let Offer { ticket, letter } = offer;
        let Some(_in_hand) = InHand::new(&self.in_hand, &ticket) else {
            debug!(execution = ticket.execution_id, "already running here");
            return letter.decided().await;
        };
        let claim = match self.claim(&ticket).await {
            Some(Ok(claim)) => claim,
            Some(Err(reason)) => {
                warn!(execution = ticket.execution_id, reason, "claim rejected");
                return letter.undeliverable().await;
            }
            None => return,
        };
        // Acknowledged before the run: a broker does not wait for hours.
        letter.decided().await;
        match claim {
            Claim::Granted(assignment) => {
                gauge!("studygovernor_worker_running").increment(1.0);
                self.work(&ticket, &assignment).await;
                gauge!("studygovernor_worker_running").decrement(1.0);
            }
            Claim::Refused => debug!(execution = ticket.execution_id, "claimed by another worker or already finished"),
        }
    }

    /// Claims until the engine answers or rejects the call; `None` when the worker stops first.
    async fn claim(&self, ticket: &Ticket) -> Option<Result<Claim, String>> {
        let mut tries = 0;
        loop {
            match self.desk.claim(ticket, &self.name).await {
                Ok(claim) => return Some(Ok(claim)),
                Err(DeskError::Unacceptable(reason)) => return Some(Err(reason)),
                Err(error) => warn!(execution = ticket.execution_id, %error, "claim failed; will retry"),
            }
            if !self.pause(&mut tries, Duration::from_secs(5)).await {
                return None;
            }
        }
    }

    /// Waits, a little longer each time: 0.1 s, 0.2 s, 0.4 s, … at most `most`. Returns `false` when the worker is to stop.
    async fn pause(&self, tries: &mut u32, most: Duration) -> bool {
        let pause = Duration::from_millis(100 << (*tries).min(10)).min(most);
        *tries += 1;
        let mut stop = self.stop.clone();
        tokio::select! {
            () = sleep(pause) => true,
            _ = stop.wait_for(|stop| *stop) => false,
        }
    }

    /// Runs one attempt, from the claim to the report.
    async fn work(&self, ticket: &Ticket, assignment: &Assignment) {
        let began = Instant::now();
        let function = known_function(&assignment.function);
        info!(execution = ticket.execution_id, attempt = ticket.attempt, function, "running");
        let log = RunLog::hiding(&ticket.secret);
        let end = {
            let run = async {
                match &self.project {
                    None => {
                        Ok::<Outcome, String>(callback::run(assignment, &ticket.secret, &self.workplace, &log).await)
                    }
                    Some(project) => {
                        // Stays on this machine until the run has ended.
                        let revision = revision_for(project, assignment, &log).await?;
                        let workplace = self.workplace.at(&project.settings_at(&revision), &revision.commit);
                        Ok(callback::run(assignment, &ticket.secret, &workplace, &log).await)
                    }
                }
            };
            tokio::select! {
                // Stopping a service may also signal its programs; that does not count as their failure.
                outcome = run => match outcome {
                    Ok(outcome) if *self.stop.borrow() && was_killed(&outcome) => End::OutOfTime,
                    Ok(outcome) => End::Done(outcome),
                    Err(reason) => End::WithoutFiles(reason),
                },
                end = self.keep(ticket, assignment, &log) => end,
            }
            // The run is dropped here, which ends its programs.
        };
        // Before the report: the next attempt, or the next state, must not begin while programs still run (Q8).
        self.wait_for_programs(ticket, assignment).await;
        fault::point("after-run");
        let result = match end {
            End::Done(outcome) => {
                let result = if outcome.is_success { "success" } else { "failed" };
                self.report(ticket, assignment, &outcome, &log).await;
                result
            }
            End::Lost => {
                warn!(execution = ticket.execution_id, attempt = ticket.attempt, "cancelled by the server");
                "cancelled"
            }
            End::OutOfTime => {
                self.release(ticket, "the worker was stopped").await;
                "released"
            }
            End::WithoutFiles(reason) => {
                warn!(execution = ticket.execution_id, reason, "released without a run");
                self.release(ticket, &reason).await;
                "released"
            }
        };
        counter!("studygovernor_runs_total", "function" => function, "result" => result).increment(1);
        histogram!("studygovernor_run_seconds", "function" => function).record(began.elapsed().as_secs_f64());
    }

    async fn release(&self, ticket: &Ticket, why: &str) {
        let limit = self.grace.max(Duration::from_secs(1));
        let released = timeout(limit, self.desk.release(ticket, &self.name, why)).await;
        if !matches!(released, Ok(Ok(()))) {
            error!(execution = ticket.execution_id, "release failed; the lease will expire");
        }
    }

    /// Waits until all programs of an attempt have ended. Heartbeats continue, so that the worker keeps the claim.
    async fn wait_for_programs(&self, ticket: &Ticket, assignment: &Assignment) {
        let gone = self.workplace.programs.gone(ticket.execution_id, ticket.attempt);
        tokio::pin!(gone);
        let began = Instant::now();
        while timeout(beats_of(assignment), &mut gone).await.is_err() {
            if began.elapsed() > END_OF_PROGRAMS {
                error!(execution = ticket.execution_id, attempt = ticket.attempt, "terminating a program failed");
                return;
            }
            let _ = timeout(beats_of(assignment), self.desk.beat(ticket, &self.name, None)).await;
        }
    }

    /// Sends heartbeats until the run must stop. Failed heartbeats are repeated: the run continues, and its report decides.
    async fn keep(&self, ticket: &Ticket, assignment: &Assignment, log: &RunLog) -> End {
        let beat_every = beats_of(assignment);
        let mut seen = 0;
        let (mut last_beat, mut last_log) = (Instant::now(), Instant::now());
        let mut stops_at = None;
        let mut stop = self.stop.clone();
        loop {
            tokio::select! {
                () = sleep(log_pause(log).min(beat_every)) => {}
                // A dropped sender also means stop.
                _ = stop.wait_for(|stop| *stop), if stops_at.is_none() => {
                    stops_at = Some(Instant::now() + self.grace);
                }
            }
            if stops_at.is_some_and(|at| at <= Instant::now()) {
                return End::OutOfTime;
            }
            let changes = log.changes();
            let is_new = changes != seen && last_log.elapsed() >= log_pause(log);
            if !is_new && last_beat.elapsed() < beat_every {
                continue;
            }
            let news = is_new.then(|| log.text());
            // A connection that hangs must not keep the worker from stopping.
            match timeout(beat_every, self.desk.beat(ticket, &self.name, news)).await {
                Ok(Ok(Order::Continue)) => {
                    last_beat = Instant::now();
                    if is_new {
                        (seen, last_log) = (changes, last_beat);
                    }
                }
                Ok(Ok(Order::Stop)) => return End::Lost,
                Ok(Err(error)) => warn!(execution = ticket.execution_id, %error, "sending a heartbeat failed"),
                Err(_) => warn!(execution = ticket.execution_id, "heartbeat timed out"),
            }
        }
    }

    /// Reports until the engine accepts or refuses, however long that takes: hours of work must survive twenty minutes
    /// without a server. A worker that is to stop tries for its grace period.
    async fn report(&self, ticket: &Ticket, assignment: &Assignment, outcome: &Outcome, log: &RunLog) {
        let waits = assignment.wait_timeout > 0;
        let mut short = None;
        let mut tries = 0;
        let mut stops_at = None;
        loop {
            let (outcome, text) = match &short {
                None => (outcome, log.text()),
                Some((outcome, text)) => (outcome, String::clone(text)),
            };
            match self.desk.report(ticket, &self.name, outcome, text, waits).await {
                Ok(Verdict::Accepted) => {
                    fault::point("after-report");
                    info!(execution = ticket.execution_id, success = outcome.is_success, "reported");
                    return;
                }
                Ok(Verdict::Refused) => {
                    warn!(execution = ticket.execution_id, attempt = ticket.attempt, "report was too late");
                    return;
                }
                Err(DeskError::Unacceptable(reason)) if short.is_none() => {
                    warn!(
                        execution = ticket.execution_id,
                        reason,
                        "server rejected the report; reporting a failure \
                        instead"
                    );
                    short = Some(refused(&reason, log));
                    continue;
                }
                // Even the short failure report was rejected; retrying would not help.
                Err(DeskError::Unacceptable(reason)) => {
                    error!(execution = ticket.execution_id, reason, "server rejected the failure report; giving up");
                    return;
                }
                Err(error) => warn!(execution = ticket.execution_id, %error, "report failed; will retry"),
            }
            // Heartbeats continue while the report waits; otherwise another worker would repeat the run.
            let beat = timeout(beats_of(assignment), self.desk.beat(ticket, &self.name, None)).await;
            if let Ok(Ok(Order::Stop)) = beat {
                warn!(execution = ticket.execution_id, "stopped before the report was accepted");
                return;
            }
            if *self.stop.borrow() {
                let stops_at = *stops_at.get_or_insert_with(|| Instant::now() + self.grace);
                if stops_at <= Instant::now() {
                    error!(execution = ticket.execution_id, "report not accepted; another attempt will be made");
                    return;
                }
                sleep(Duration::from_millis(200)).await;
            } else {
                self.pause(&mut tries, beats_of(assignment)).await;
            }
        }
    }
}

/// The revision of the study repository that a run uses. Waits while the repository cannot be reached; the run's log says
/// why.
///
/// # Errors
/// When the repository does not contain the revision, or no longer.
async fn revision_for(project: &Project, assignment: &Assignment, log: &RunLog) -> Result<Revision, String> {
    let wanted = assignment.project_revision.as_deref();
    let (shown, mut tries) = (wanted.map_or("newest", project::short), 0);
    loop {
        match project.revision(wanted).await {
            Ok(revision) => {
                log.line(&format!("project: revision {} {}", project::short(&revision.commit), revision.reference));
                return Ok(revision);
            }
            Err(error) => {
                log.line(&format!("project: revision {shown} is not here yet: {error}"));
                sleep(project::pause(tries)).await;
                tries += 1;
                // Later attempts may get another revision, as soon as the server has it.
                if error.is_missing() && tries > 1 {
                    return Err(error.to_string());
                }
            }
        }
    }
}

/// Marks an attempt as being processed until this is dropped.
struct InHand<'a> {
    all: &'a Mutex<HashSet<(i32, i32)>>,
    own: (i32, i32),
}

impl<'a> InHand<'a> {
    /// `None` when it is already being processed.
    fn new(all: &'a Mutex<HashSet<(i32, i32)>>, ticket: &Ticket) -> Option<Self> {
        let own = (ticket.execution_id, ticket.attempt);
        // Not created for a duplicate: dropping it would remove the mark of the other one.
        let is_new = all.lock().unwrap_or_else(PoisonError::into_inner).insert(own);
        if is_new { Some(Self { all, own }) } else { None }
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.own);
    }
}

/// Interval of heartbeats: a third of the lease.
fn beats_of(assignment: &Assignment) -> Duration {
    (Duration::from_millis(assignment.lease_ms) / 3).max(Duration::from_millis(100))
}

/// Interval of log updates: one second for a short log, twenty seconds at one mebibyte.
fn log_pause(log: &RunLog) -> Duration {
    Duration::from_secs(1) + Duration::from_micros(u64::try_from(log.len()).unwrap_or(0) * 18)
}

/// The failure to report when the engine rejects a report, for example because it is too large.
fn refused(reason: &str, log: &RunLog) -> (Outcome, String) {
    let text: String = log.text().chars().take(64 * 1024).collect();
    let reason = format!("the server rejected the report of this run: {reason}");
    (Outcome::failed(&reason), format!("{text}\n{reason}\n"))
}

/// The name of a function, for metrics; unknown names share one label.
fn known_function(name: &str) -> &'static str {
    callback::FUNCTIONS.into_iter().find(|known| *known == name).unwrap_or("unknown")
}

/// Whether a signal ended the program: its return code is then the negative signal number.
fn was_killed(outcome: &Outcome) -> bool {
    outcome.values.get("return_code").and_then(serde_json::Value::as_i64).is_some_and(|code| code < 0)
}

/// `host:process:random`, so that names of workers are unique.
#[must_use]
pub fn worker_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host: String = host.chars().take(80).collect();
    format!("{host}:{}:{:08x}", std::process::id(), rand::random::<u32>())
}
