//! Queues for changes to one experiment, within this process. One request waits for the row lock in the database; the others
//! wait here, without a connection, and their number is limited (E14).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use super::EngineError;

/// Requests that may wait for one experiment at the same time; further ones are refused at once.
const MOST_WAITING: usize = 50;

/// The queues of all experiments. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Mutex<HashMap<i32, Queue>>>);

/// Requests that hold or wait for the turn of one experiment.
#[derive(Debug, Default)]
struct Queue {
    members: usize,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// The turn for one experiment; ends when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    // Before `_place`: dropping this lets the next request continue.
    _guard: OwnedMutexGuard<()>,
    _place: Place,
}

/// A place in the queue.
#[derive(Debug)]
struct Place {
    turns: Turns,
    experiment_id: i32,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queues = self.turns.queues();
        if let Some(queue) = queues.get_mut(&self.experiment_id) {
            queue.members -= 1;
            if queue.members == 0 {
                queues.remove(&self.experiment_id);
            }
        }
    }
}

impl Turns {
    fn queues(&self) -> MutexGuard<'_, HashMap<i32, Queue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, experiment_id: i32) -> Option<(Place, Arc<tokio::sync::Mutex<()>>)> {
        let mut queues = self.queues();
        let queue = queues.entry(experiment_id).or_default();
        if queue.members > MOST_WAITING {
            return None;
        }
        queue.members += 1;
        Some((Place { turns: self.clone(), experiment_id }, Arc::clone(&queue.turn)))
    }

    /// Waits for the turn, at most for `limit`.
    ///
    /// # Errors
    /// [`EngineError::Busy`] when too many requests wait already, or when the wait takes too long.
    pub(super) async fn wait(&self, experiment_id: i32, limit: Duration) -> Result<Turn, EngineError> {
        let busy = EngineError::Busy { experiment_id };
        let Some((place, turn)) = self.enter(experiment_id) else { return Err(busy) };
        let Ok(guard) = timeout(limit, turn.lock_owned()).await else { return Err(busy) };
        Ok(Turn { _guard: guard, _place: place })
    }

    /// The turn, if it is free.
    pub(super) fn take_free(&self, experiment_id: i32) -> Option<Turn> {
        let (place, turn) = self.enter(experiment_id)?;
        let guard = turn.try_lock_owned().ok()?;
        Some(Turn { _guard: guard, _place: place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn e14_a_limited_number_waits_for_one_experiment_and_none_for_another() {
        let turns = Turns::default();
        let first = turns.take_free(1).unwrap();
        assert!(turns.take_free(1).is_none());
        let waiting: Vec<_> = (0..MOST_WAITING)
            .map(|_| {
                let turns = turns.clone();
                tokio::spawn(async move { turns.wait(1, Duration::from_mins(1)).await.is_ok() })
            })
            .collect();
        while turns.queues()[&1].members <= MOST_WAITING {
            tokio::task::yield_now().await;
        }
        assert!(matches!(turns.wait(1, Duration::from_mins(1)).await, Err(EngineError::Busy { experiment_id: 1 })));
        assert!(turns.take_free(2).is_some());
        drop(first);
        for one in waiting {
            assert!(one.await.unwrap());
        }
        assert!(turns.queues().is_empty(), "nothing is kept of those that are done");
    }

    #[tokio::test]
    async fn e14_the_wait_for_an_experiment_has_a_limit() {
        let turns = Turns::default();
        let _first = turns.take_free(1).unwrap();
        assert!(turns.wait(1, Duration::from_millis(5)).await.is_err());
        assert_eq!(turns.queues()[&1].members, 1);
    }
}
