//! Answers to slow conditions: found without the experiment's lock, then used under it.
//!
//! A usual condition takes microseconds and is evaluated under the lock. After [`UNDER_LOCK`] of evaluating in one
//! transaction, or when a condition has no answer in time, the verb rolls its transaction back and returns a [`Pending`];
//! `retried` evaluates the remaining conditions without a lock and repeats the verb. An answer is used only for exactly the
//! facts that it was found for, so a condition whose inputs have changed is evaluated again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{NaiveDateTime, TimeDelta};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::workflow::condition::{self, Evaluated, Facts};

use super::EngineError;

/// Evaluation time allowed while an experiment is locked. On SQLite all other writers wait for that time.
const UNDER_LOCK: Duration = Duration::from_millis(100);

/// Limit for a single answer under the lock, on a machine that may be busy. Without the lock the limit is higher.
const PATIENCE_UNDER_LOCK: Duration = Duration::from_millis(300);

/// Processor time that all conditions of one step may take together. One report can cause a long step, when states follow
/// one another without running anything.
const MOST_PROCESSOR: Duration = Duration::from_secs(2);

/// Error of a condition that was not evaluated because earlier ones had used up the time.
pub(super) const NOT_EVALUATED: &str =
    "not evaluated: the conditions of this step took longer than 2 s of processor time together";

/// Number of stored answers, and their lifetime: they are needed until the verb has been repeated.
const MOST_KEPT: usize = 512;
const KEPT_FOR: Duration = Duration::from_mins(1);

/// Value of a condition, or the reason why it could not be evaluated.
pub(super) type Answer = Result<bool, String>;

/// Time that evaluating has taken so far in a transaction.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Processor time of the conditions.
    spent: Duration,
    /// Elapsed time, with the lock held.
    waited: Duration,
    /// Nothing is locked: every condition is evaluated at once.
    stays: bool,
}

impl Turn {
    /// For reading without a lock.
    pub(super) fn staying() -> Self {
        Self { stays: true, ..Self::default() }
    }

    /// For another experiment in the same transaction: its processor time starts at zero, the time under the lock adds up.
    pub(super) fn next(self) -> Self {
        Self { spent: Duration::ZERO, ..self }
    }
}

/// Result of asking for one condition.
#[derive(Debug)]
pub(super) enum Tried {
    Answered(Answer),
    /// Earlier conditions have used up the time.
    OverBudget,
    /// It must be evaluated without the lock.
    Elsewhere,
}

#[derive(Debug)]
struct Kept {
    text: String,
    facts: [u8; 32],
    now: NaiveDateTime,
    evaluated: Evaluated,
    since: Instant,
}

/// Stored answers. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    kept: Arc<Mutex<VecDeque<Kept>>>,
    /// Conditions are evaluated two at a time: each may take memory and a whole core for a moment.
    evaluations: Arc<Semaphore>,
}

impl Default for Answers {
    fn default() -> Self {
        Self { kept: Arc::default(), evaluations: Arc::new(Semaphore::new(2)) }
    }
}

impl Answers {
    /// Asks for the value of one condition that is not blank.
    ///
    /// # Errors
    /// [`EngineError::NoInterpreter`] when there is no answer and the transaction cannot be rolled back.
    pub(super) async fn ask(&self, turn: &mut Turn, text: &str, facts: &Arc<Facts>) -> Result<Tried, EngineError> {
        if turn.spent >= MOST_PROCESSOR {
            return Ok(Tried::OverBudget);
        }
        if let Some(evaluated) = self.find(text, facts) {
            turn.spent += evaluated.spent;
            return Ok(Tried::Answered(answer(evaluated)));
        }
        if !turn.stays && turn.waited >= UNDER_LOCK {
            return Ok(Tried::Elsewhere);
        }
        let patience = if turn.stays { condition::PATIENCE } else { PATIENCE_UNDER_LOCK };
        let began = Instant::now();
        let evaluated = self.evaluate(text, facts, patience).await;
        turn.waited += began.elapsed();
        match evaluated {
            Ok(evaluated) => {
                turn.spent += evaluated.spent;
                if evaluated.spent * 20 >= UNDER_LOCK {
                    self.keep(text, facts, &evaluated);
                }
                Ok(Tried::Answered(answer(evaluated)))
            }
            Err(_) if !turn.stays => Ok(Tried::Elsewhere),
            Err(error) => Err(error),
        }
    }

    /// Collects the conditions to evaluate without the lock.
    pub(super) fn pending<'a>(
        &self,
        turn: &Turn,
        texts: impl Iterator<Item = Option<&'a str>>,
        facts: &Arc<Facts>,
        until_true: bool,
    ) -> EngineError {
        let texts = texts.flatten().filter(|text| !text.trim().is_empty()).map(str::to_owned).collect();
        EngineError::Elsewhere(Box::new(Pending {
            answers: self.clone(),
            texts,
            facts: Arc::clone(facts),
            until_true,
            budget: MOST_PROCESSOR.saturating_sub(turn.spent),
        }))
    }

    async fn evaluate(&self, text: &str, facts: &Arc<Facts>, patience: Duration) -> Result<Evaluated, EngineError> {
        let failed = |error: &dyn std::fmt::Display| EngineError::NoInterpreter(error.to_string());
        let _permit = self.evaluations.acquire().await.map_err(|error| failed(&error))?;
        let (text, facts) = (text.to_owned(), Arc::clone(facts));
        let work = move || condition::evaluate_within(&text, &facts, patience);
        tokio::task::spawn_blocking(work).await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
    }

    fn find(&self, text: &str, facts: &Facts) -> Option<Evaluated> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|one| one.since.elapsed() < KEPT_FOR);
        if kept.iter().all(|one| one.text != text) {
            return None;
        }
        let facts_hash = hash(facts);
        // `now` advances while a condition is evaluated; up to a minute counts as the same time.
        let is_near = |now: NaiveDateTime| (facts.now - now).abs() <= TimeDelta::minutes(1);
        let found = kept.iter().find(|one| one.text == text && is_near(one.now) && one.facts == facts_hash);
        found.map(|one| one.evaluated.clone())
    }

    fn keep(&self, text: &str, facts: &Facts, evaluated: &Evaluated) {
        let one = Kept {
            text: text.to_owned(),
            facts: hash(facts),
            now: facts.now,
            evaluated: evaluated.clone(),
            since: Instant::now(),
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_front(one);
        kept.truncate(MOST_KEPT);
    }
}

/// A fingerprint of the facts, which may be large. A NaN among them is never equal to itself, but has the same fingerprint.
fn hash(facts: &Facts) -> [u8; 32] {
    Sha256::digest(format!("{:?} {:?}", facts.experiment, facts.callbacks)).into()
}

fn answer(evaluated: Evaluated) -> Answer {
    evaluated.outcome.map_err(|error| error.to_string())
}

/// Number of evaluations for one verb, which is repeated after each.
#[derive(Debug, Default)]
pub struct Evaluations(u32);

impl Evaluations {
    /// Evaluates the conditions that the verb needs before it is repeated.
    ///
    /// # Errors
    /// [`EngineError::NoInterpreter`] when there was no answer in time, or after too many evaluations.
    pub async fn evaluate(&mut self, pending: &Pending) -> Result<(), EngineError> {
        /// States that follow one another in one transaction may each have slow conditions.
        const MOST: u32 = 50;
        self.0 += 1;
        if self.0 > MOST {
            let why = "their inputs change faster than they can be evaluated".to_owned();
            return Err(EngineError::NoInterpreter(why));
        }
        pending.evaluate().await
    }
}

/// Conditions to evaluate before the verb is repeated.
#[derive(Debug)]
pub struct Pending {
    answers: Answers,
    texts: Vec<String>,
    facts: Arc<Facts>,
    /// Stops after the first condition that is met.
    until_true: bool,
    budget: Duration,
}

impl Pending {
    /// Evaluates the conditions and stores the answers.
    ///
    /// # Errors
    /// [`EngineError::NoInterpreter`] when there was no answer in time: nothing may be decided then.
    async fn evaluate(&self) -> Result<(), EngineError> {
        let until = Instant::now() + condition::PATIENCE;
        let mut spent = Duration::ZERO;
        for text in &self.texts {
            if spent >= self.budget {
                break;
            }
            let evaluated = match self.answers.find(text, &self.facts) {
                Some(evaluated) => evaluated,
                None => {
                    let patience = until.saturating_duration_since(Instant::now());
                    let evaluated = self.answers.evaluate(text, &self.facts, patience).await?;
                    self.answers.keep(text, &self.facts, &evaluated);
                    evaluated
                }
            };
            spent += evaluated.spent;
            if self.until_true && evaluated.outcome == Ok(true) {
                break;
            }
        }
        Ok(())
    }
}
