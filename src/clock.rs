//! The time, handed in: rooms never ask the machine for it, so that tests can move it.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{NaiveDateTime, SubsecRound, TimeDelta};

/// Where the current time comes from. Cheap to clone; clones show the same time.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The time of the machine, in UTC.
    System,
    /// A time that moves only when told.
    Manual(Arc<Mutex<NaiveDateTime>>),
}

impl Clock {
    /// A clock that stands at `start` until it is advanced.
    #[must_use]
    pub fn manual(start: NaiveDateTime) -> Self {
        Self::Manual(Arc::new(Mutex::new(start)))
    }

    /// The current time in UTC, to the microsecond: what the coarsest of the three databases keeps, so that
    /// a time compares equal after it was stored.
    #[must_use]
    pub fn now(&self) -> NaiveDateTime {
        match self {
            #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the machine")]
            Self::System => chrono::Utc::now().naive_utc().trunc_subsecs(6),
            Self::Manual(time) => *time.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Moves a manual clock forward. The system clock stays what it is.
    pub fn advance(&self, by: TimeDelta) {
        if let Self::Manual(time) = self {
            *time.lock().unwrap_or_else(PoisonError::into_inner) += by;
        }
    }
}

/// A moment as the existing product writes it: UTC without an offset, with a fraction only when there is one.
#[must_use]
pub fn iso(at: NaiveDateTime) -> String {
    at.format("%Y-%m-%dT%H:%M:%S%.6f").to_string().replace(".000000", "")
}
