//! The time, passed in: modules never ask the machine for it, so that tests can change it.
//!
//! Leases, deadlines and due times of all servers are compared with each other, so all servers need the same time
//! (E11). That is the study time: the time of the database plus a difference that the database stores (`study_clock`).
//! A [`StudyClock`] reads it every few seconds and advances in between on a clock that cannot be set. The clock of the
//! machine decides nothing.
//!
//! The difference is zero until the clock of the database is set. From then on it compensates for the change, so that
//! the study time continues as if nothing had happened: due work stays due, and nothing ends early.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use chrono::{NaiveDateTime, SubsecRound, TimeDelta};

/// Differences between two clocks up to this are attributed to the duration of the query.
pub const TOLERANCE: TimeDelta = TimeDelta::seconds(2);

/// The source of the current time. Cheap to clone; clones show the same time.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The time of the machine, in UTC: for processes without a database.
    System,
    /// The study time, in UTC.
    Study(Arc<StudyClock>),
    /// A time that changes only when a test advances it.
    Manual(Arc<Mutex<NaiveDateTime>>),
}

impl Clock {
    /// The study clock of this process. It shows the machine's time until the database was asked.
    #[must_use]
    pub fn study() -> Self {
        static OF_THIS_PROCESS: OnceLock<Arc<StudyClock>> = OnceLock::new();
        Self::Study(Arc::clone(OF_THIS_PROCESS.get_or_init(Arc::default)))
    }

    /// A clock that stays at `start` until it is advanced.
    #[must_use]
    pub fn manual(start: NaiveDateTime) -> Self {
        Self::Manual(Arc::new(Mutex::new(start)))
    }

    /// The current time in UTC, to the microsecond: the precision of the coarsest of the three databases, so that a
    /// time compares equal after it was stored.
    #[must_use]
    pub fn now(&self) -> NaiveDateTime {
        match self {
            Self::System => machine_time(),
            Self::Study(clock) => clock.now(),
            Self::Manual(time) => *time.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// The time of the machine in UTC, for comparison with clocks outside the study, such as the codes of authenticator
    /// apps. A manual clock shows its own time.
    #[must_use]
    pub fn machine(&self) -> NaiveDateTime {
        match self {
            Self::Manual(_) => self.now(),
            Self::System | Self::Study(_) => machine_time(),
        }
    }

    /// The study clock; `None` for the other kinds.
    #[must_use]
    pub fn of_study(&self) -> Option<&StudyClock> {
        match self {
            Self::Study(clock) => Some(clock),
            Self::System | Self::Manual(_) => None,
        }
    }

    /// Advances a manual clock. Does nothing for the other kinds.
    pub fn advance(&self, by: TimeDelta) {
        if let Self::Manual(time) = self {
            *time.lock().unwrap_or_else(PoisonError::into_inner) += by;
        }
    }
}

/// The time as read from the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The clock of the database, in UTC.
    pub database: NaiveDateTime,
    /// How far the study time is ahead of it; negative if it is behind.
    pub ahead: TimeDelta,
    /// The latest study time that a server has stored.
    pub noted: Option<NaiveDateTime>,
}

impl Reading {
    /// The study time.
    #[must_use]
    pub fn study(&self) -> NaiveDateTime {
        self.database + self.ahead
    }
}

/// The time that this process expects before it asks the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    pub study: NaiveDateTime,
    pub ahead: TimeDelta,
}

/// The new difference between the study time and the database's clock, because the clock of the database was set;
/// `None` if it was not.
#[must_use]
pub fn correction(reading: &Reading, expected: Option<Expected>) -> Option<TimeDelta> {
    let study = reading.study();
    if let Some(expected) = expected
        // Otherwise another server has already corrected it.
        && expected.ahead == reading.ahead
    {
        let gap = study - expected.study;
        // The other servers continued while this process was suspended: it is behind, and the database is right.
        let others_went_on = reading.noted.is_some_and(|noted| noted > expected.study + TOLERANCE);
        if gap.abs() > TOLERANCE && !(gap > TOLERANCE && others_went_on) {
            return Some(reading.ahead - gap);
        }
    }
    // The clock was set back while no server was running.
    let noted = reading.noted.filter(|noted| *noted > study + TOLERANCE)?;
    Some(reading.ahead + (noted - study))
}

/// The study time as a process knows it.
#[derive(Debug)]
pub struct StudyClock(Mutex<State>);

#[derive(Debug)]
struct State {
    /// The study time at `since`.
    at: NaiveDateTime,
    /// Time since the machine was started.
    since: Duration,
    /// The latest time that was shown.
    shown: NaiveDateTime,
    /// How far the study time is ahead of the database's; `None` before the database was asked.
    ahead: Option<TimeDelta>,
    /// The database uses the clock of this machine.
    is_local: bool,
    /// How many times the time was changed by more than the tolerance.
    moves: u64,
}

impl Default for StudyClock {
    fn default() -> Self {
        let (at, since) = (machine_time(), uptime());
        Self(Mutex::new(State { at, since, shown: at, ahead: None, is_local: false, moves: 0 }))
    }
}

impl State {
    fn time_at(&self, uptime: Duration) -> NaiveDateTime {
        let passed = uptime.saturating_sub(self.since);
        self.at + TimeDelta::from_std(passed).unwrap_or_default()
    }
}

impl StudyClock {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The study time. A correction within the tolerance never sets it back.
    #[must_use]
    pub fn now(&self) -> NaiveDateTime {
        let mut state = self.state();
        state.shown = state.shown.max(state.time_at(uptime()).trunc_subsecs(6));
        state.shown
    }

    /// The expected time when the database is asked at `uptime`; `None` before it was first asked.
    #[must_use]
    pub fn expected(&self, uptime: Duration) -> Option<Expected> {
        let state = self.state();
        state.ahead.map(|ahead| Expected { study: state.time_at(uptime), ahead })
    }

    /// Sets the time from the database's reading at `uptime`. `is_local`: the database uses the clock of this machine.
    pub fn adopt(&self, reading: &Reading, uptime: Duration, is_local: bool) {
        let mut state = self.state();
        let moved = reading.study() - state.time_at(uptime);
        if moved.abs() > TOLERANCE {
            state.shown = reading.study().trunc_subsecs(6);
            state.moves += 1;
        }
        (state.at, state.since) = (reading.study(), uptime);
        (state.ahead, state.is_local) = (Some(reading.ahead), is_local);
    }

    /// How far the clock of this machine is ahead of the database's; negative if it is behind. `None` before the
    /// database was asked.
    #[must_use]
    pub fn difference(&self) -> Option<TimeDelta> {
        let state = self.state();
        let ahead = state.ahead?;
        if state.is_local {
            return Some(TimeDelta::zero());
        }
        Some(machine_time() - (state.time_at(uptime()) - ahead))
    }

    /// How far the study time is ahead of the database's clock, because that was set; negative if it is behind.
    #[must_use]
    pub fn ahead(&self) -> TimeDelta {
        self.state().ahead.unwrap_or_default()
    }

    /// A counter that increases when the time of this process was changed.
    #[must_use]
    pub fn moves(&self) -> u64 {
        self.state().moves
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that asks the machine")]
fn machine_time() -> NaiveDateTime {
    chrono::Utc::now().naive_utc().trunc_subsecs(6)
}

/// Time since the machine was started, including time suspended. It cannot be set.
#[cfg(target_os = "linux")]
#[must_use]
pub fn uptime() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Time since this process first asked. It cannot be set; it may stop while the machine is suspended.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn uptime() -> Duration {
    static FIRST: OnceLock<std::time::Instant> = OnceLock::new();
    FIRST.get_or_init(std::time::Instant::now).elapsed()
}

/// A time span in words, such as `3 minutes`: in the largest unit that fits, without its sign.
#[must_use]
pub fn in_words(span: TimeDelta) -> String {
    let seconds = span.num_seconds().abs();
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7200 => (seconds / 60, "minute"),
        7200..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    if count == 1 { format!("1 {unit}") } else { format!("{count} {unit}s") }
}

/// Formats a timestamp as version 8.1 does: UTC without an offset, with a fraction only if there is one.
#[must_use]
pub fn iso(at: NaiveDateTime) -> String {
    at.format("%Y-%m-%dT%H:%M:%S%.6f").to_string().replace(".000000", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> NaiveDateTime {
        chrono::DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap().naive_utc()
    }

    fn reading(database: i64, ahead: i64, noted: Option<i64>) -> Reading {
        Reading { database: at(database), ahead: TimeDelta::seconds(ahead), noted: noted.map(at) }
    }

    #[expect(clippy::unnecessary_wraps, reason = "given where it may be none")]
    fn expected(study: i64, ahead: i64) -> Option<Expected> {
        Some(Expected { study: at(study), ahead: TimeDelta::seconds(ahead) })
    }

    #[test]
    fn e11_a_clock_that_was_set_is_made_up_for() {
        let ahead = |seconds| Some(TimeDelta::seconds(seconds));
        // No clock was set, and asking took a moment.
        assert_eq!(correction(&reading(100, 0, Some(97)), expected(101, 0)), None);
        assert_eq!(correction(&reading(100, 0, None), None), None);
        // The database's clock was set back, then forward again.
        assert_eq!(correction(&reading(-3500, 0, Some(97)), expected(100, 0)), ahead(3600));
        assert_eq!(correction(&reading(200, 3600, Some(197)), expected(200, 3600)), ahead(0));
        // It was set forward.
        assert_eq!(correction(&reading(3700, 0, Some(97)), expected(100, 0)), ahead(-3600));
        // It was set back before this server started, and is still behind.
        assert_eq!(correction(&reading(-3500, 0, Some(97)), None), ahead(3597));
        // A server that starts after a pause sees nothing unusual.
        assert_eq!(correction(&reading(7300, 0, Some(97)), None), None);
    }

    #[test]
    fn e11_a_process_that_stood_still_does_not_move_the_others() {
        // The others have stored later times than this one expects.
        assert_eq!(correction(&reading(3700, 0, Some(3698)), expected(100, 0)), None);
        // Another server has already compensated for the change.
        assert_eq!(correction(&reading(-3500, 3600, Some(97)), expected(100, 0)), None);
    }

    #[test]
    fn e11_the_time_of_a_process_does_not_go_back_within_the_tolerance() {
        let clock = StudyClock::default();
        let first = clock.now();
        let reading = |study| Reading { database: study, ahead: TimeDelta::zero(), noted: None };
        clock.adopt(&reading(first - TimeDelta::seconds(1)), uptime(), false);
        assert!(clock.now() >= first);
        assert_eq!(clock.moves(), 0);
        clock.adopt(&reading(first - TimeDelta::hours(1)), uptime(), false);
        assert!(clock.now() < first - TimeDelta::minutes(59));
        assert_eq!(clock.moves(), 1);
        assert!(clock.difference().unwrap() > TimeDelta::minutes(59));
    }

    #[test]
    fn a_span_is_written_in_words() {
        assert_eq!(in_words(TimeDelta::seconds(-1)), "1 second");
        assert_eq!(in_words(TimeDelta::seconds(3599)), "59 minutes");
        assert_eq!(in_words(TimeDelta::hours(-3)), "3 hours");
        assert_eq!(in_words(TimeDelta::days(70)), "70 days");
    }
}
