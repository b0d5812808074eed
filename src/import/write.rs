//! Writes an intake, batch by batch.

use std::collections::HashSet;

use chrono::NaiveDate;
use sea_orm::DbErr;

use crate::context::Context;
use crate::database::{self, Failure};
use crate::engine::{Engine, EngineError, Evaluations};
use crate::study::Label;
use crate::study::link::{Linked, set_link};
use crate::study::register::{self, RegisteredSubject};

use super::batch::{Outcome, write_batch};
use super::difference::{DATE_OF_BIRTH, Difference};
use super::{RowProblem, Session};

/// Number of sessions in one transaction: enough that beginning and committing cost little, few enough that other callers do not wait long.
const BATCH: usize = 1000;
/// With conditions a batch is smaller: each may take long, while the transaction is open and other callers wait.
const BATCH_WITH_CONDITIONS: usize = 10;

/// The rows that were added, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub cohorts: usize,
    pub subjects: usize,
    pub experiments: usize,
    pub scans: usize,
    /// Experiments that existed already and were not changed.
    pub known: usize,
    /// Differences between those and the source.
    pub differences: Vec<Difference>,
    /// Sessions that the database refused.
    pub failed: Vec<RowProblem>,
    /// Why writing stopped, and at which place. Everything before it has been written.
    pub stopped: Option<RowProblem>,
}

/// Registers the sessions, each batch in its own transaction; with `dry_run` each batch is rolled back, and only the summary remains.
/// `progress` is called after each batch with the number of sessions.
///
/// If the database refuses a batch, its sessions are written one by one, so that a bad one blocks no other; refused sessions are reported.
/// If no session of a batch can be written, or the database is unavailable, writing stops; a second run continues from there.
///
/// # Errors
/// A workflow that a session names does not exist; nothing is written then.
pub async fn write(
    ctx: &Context,
    engine: &Engine,
    sessions: &[Session],
    dry_run: bool,
    mut progress: impl FnMut(usize),
) -> Result<Summary, EngineError> {
    let size = check_workflows(engine, sessions).await?;
    let mut tally = Tally::default();
    for batch in sessions.chunks(size) {
        if let Err((place, error)) = tally.write(ctx, engine, batch, !dry_run).await {
            tally.summary.stopped = Some(RowProblem { place, message: error.to_string() });
            break;
        }
        progress(batch.len());
    }
    Ok(tally.summary)
}

/// Checks that all named workflows exist. Returns the batch size.
async fn check_workflows(engine: &Engine, sessions: &[Session]) -> Result<usize, EngineError> {
    let workflows: HashSet<Option<&str>> = sessions.iter().map(|session| session.workflow.as_deref()).collect();
    let mut size = BATCH;
    for workflow in workflows {
        if engine.begins_with_conditions(workflow).await? {
            size = BATCH_WITH_CONDITIONS;
        }
    }
    Ok(size)
}

/// Counts the results of batches. A dry run creates a subject again in each batch that names it; it is counted once.
#[derive(Default)]
struct Tally {
    summary: Summary,
    cohorts: HashSet<String>,
    subjects: HashSet<(String, String)>,
    /// Subjects whose differences were reported with an earlier session.
    compared: HashSet<(String, String)>,
}

impl Tally {
    /// Writes a batch. An error means that no more can be written; it contains the place.
    async fn write(
        &mut self,
        ctx: &Context,
        engine: &Engine,
        batch: &[Session],
        keep: bool,
    ) -> Result<(), (String, EngineError)> {
        let stopped = |session: &Session, error: EngineError| (session.place.clone(), error);
        let Some(first) = batch.first() else { return Ok(()) };
        match retried(async || write_batch(ctx, engine, batch, keep).await).await {
            Ok(outcomes) => {
                batch.iter().zip(outcomes).for_each(|(session, outcome)| self.add(session, outcome));
                return Ok(());
            }
            Err(error) if is_of_a_session(&error) => tracing::warn!(%error, "a batch is written session by session"),
            Err(error) => return Err(stopped(first, error)),
        }
        let mut failed = Vec::new();
        for session in batch {
            let one = std::slice::from_ref(session);
            match retried(async || write_batch(ctx, engine, one, keep).await).await {
                Ok(outcomes) => outcomes.into_iter().for_each(|outcome| self.add(session, outcome)),
                Err(error) if is_of_a_session(&error) => failed.push((session, error)),
                Err(error) => return Err(stopped(session, error)),
            }
        }
        // The sessions are not the cause then.
        if failed.len() == batch.len() && batch.len() > 1 {
            let (session, error) = failed.swap_remove(0);
            return Err(stopped(session, error));
        }
        let problem = |(session, error): (&Session, EngineError)| RowProblem {
            place: session.place.clone(),
            message: error.to_string(),
        };
        self.summary.failed.extend(failed.into_iter().map(problem));
        Ok(())
    }

    fn add(&mut self, session: &Session, outcome: Outcome) {
        let summary = &mut self.summary;
        let subject = (session.cohort.to_string(), session.subject.to_string());
        for difference in outcome.differences {
            if difference.field != DATE_OF_BIRTH || self.compared.insert(subject.clone()) {
                summary.differences.push(difference);
            }
        }
        if !outcome.experiment.is_some_and(|experiment| experiment.is_new) {
            summary.known += 1;
            return;
        }
        summary.cohorts += usize::from(outcome.cohort.is_new && self.cohorts.insert(subject.0.clone()));
        summary.subjects += usize::from(outcome.subject.is_new && self.subjects.insert(subject));
        summary.experiments += 1;
        summary.scans += outcome.scans;
    }
}

/// Whether the error may be due to one session, so that others can be written: the database works, and refused the content of a statement.
fn is_of_a_session(error: &EngineError) -> bool {
    match error {
        EngineError::Database(error) => {
            Failure::of(error).is_none() && matches!(error, DbErr::Exec(_) | DbErr::Query(_))
        }
        error => !matches!(error, EngineError::NoInterpreter(_) | EngineError::Busy { .. }) && !error.is_transient(),
    }
}

/// Registers a subject without experiments, with its cohort and, if it is new, its external ids. An existing subject is not changed; its
/// differences are returned.
pub async fn register_subject(
    ctx: &Context,
    engine: &Engine,
    cohort: &Label,
    subject: &Label,
    date_of_birth: Option<NaiveDate>,
    external_ids: &[(Label, String)],
) -> Result<(RegisteredSubject, Vec<Difference>), EngineError> {
    retried(async || try_subject(ctx, engine, cohort, subject, date_of_birth, external_ids).await).await
}

/// Registers one session with all its data, in one transaction. An existing experiment is not changed.
///
/// # Errors
/// Its workflow does not exist, or the database fails; nothing is written then.
pub async fn register_session(ctx: &Context, engine: &Engine, session: &Session) -> Result<Outcome, EngineError> {
    let outcomes = retried(async || write_batch(ctx, engine, std::slice::from_ref(session), true).await).await?;
    outcomes.into_iter().next().ok_or(EngineError::MovedOn)
}

/// Maximum number of tries.
const MOST_TRIES: u64 = 8;

/// Runs a verb, and repeats it if another caller registered the same at the same time, if it lost against another transaction, or if
/// conditions had to be evaluated without its lock.
async fn retried<T, F>(mut verb: impl FnMut() -> F) -> Result<T, EngineError>
where
    F: Future<Output = Result<T, EngineError>>,
{
    let mut tries = 1;
    let mut evaluations = Evaluations::default();
    loop {
        match verb().await {
            Err(EngineError::Elsewhere(pending)) => evaluations.evaluate(&pending).await?,
            Err(error) if may_succeed_again(&error) && tries < MOST_TRIES => {
                tokio::time::sleep(std::time::Duration::from_millis(2 * tries * tries)).await;
                tries += 1;
            }
            outcome => return outcome,
        }
    }
}

fn may_succeed_again(error: &EngineError) -> bool {
    match error {
        EngineError::Duplicate { .. } => true,
        EngineError::Database(error) if database::is_duplicate(error) => true,
        error => error.is_transient(),
    }
}

async fn try_subject(
    ctx: &Context,
    engine: &Engine,
    cohort: &Label,
    label: &Label,
    date_of_birth: Option<NaiveDate>,
    external_ids: &[(Label, String)],
) -> Result<(RegisteredSubject, Vec<Difference>), EngineError> {
    let transaction = engine.database().begin().await?;
    let cohort = register::cohort(ctx, &*transaction, cohort).await?;
    let key = (cohort.id, label.to_string());
    let mut subjects = register::subjects(ctx, &*transaction, &[(key.clone(), date_of_birth)].into()).await?;
    let subject = subjects.remove(&key).ok_or(EngineError::MovedOn)?;
    let mut differences = Vec::new();
    let linked = Linked::Subject(subject.id);
    if subject.is_new {
        for (system, external_id) in external_ids {
            let known = register::external_system(ctx, &*transaction, system, engine.clock().now()).await?;
            set_link(ctx, &*transaction, linked, known.id, system.as_str(), external_id).await?;
        }
    } else if !subject.is_archived {
        let mut compare = |field: String, stored: Option<String>, given: &str| {
            if stored.as_deref() != Some(given) {
                let (of, stored) = (label.to_string(), stored.unwrap_or_else(|| "nothing".to_owned()));
                differences.push(Difference { place: String::new(), of, field, stored, given: given.to_owned() });
            }
        };
        if let Some(given) = date_of_birth {
            compare(DATE_OF_BIRTH.to_owned(), subject.date_of_birth.map(|date| date.to_string()), &given.to_string());
        }
        for (system, given) in external_ids {
            let known = register::external_system(ctx, &*transaction, system, engine.clock().now()).await?;
            let stored = crate::study::link::link_of(ctx, &*transaction, linked, known.id).await?;
            compare(format!("external_ids.{system}"), stored, given);
        }
    }
    transaction.commit().await?;
    Ok((subject, differences))
}
