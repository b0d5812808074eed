//! Writing what was read, batch by batch.

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

/// Sessions in one transaction. Enough that beginning and committing cost little, few enough that others do not wait long.
const BATCH: usize = 1000;
/// Each condition may take long, with the transaction open and others waiting.
const BATCH_WITH_CONDITIONS: usize = 10;

/// What was added, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub cohorts: usize,
    pub subjects: usize,
    pub experiments: usize,
    pub scans: usize,
    /// Experiments that were there already and were left as they are.
    pub known: usize,
    /// Where those differ from what was read.
    pub differences: Vec<Difference>,
    /// Sessions that the database refused.
    pub failed: Vec<RowProblem>,
    /// Why the rest was not written, with the place where it begins. What is before it is written.
    pub stopped: Option<RowProblem>,
}

/// Registers the sessions, each batch in a transaction of its own; with `dry_run` each is undone again, and only says what would be
/// added. `progress` is called with the number of sessions after each batch.
///
/// A batch that the database refuses is written session by session, so that one that is wrong keeps no other out; those are
/// reported. When nothing of a batch can be written, or the database is gone, writing stops; doing it again goes on from there.
///
/// # Errors
/// When a workflow that a session names does not exist; nothing is written then.
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

/// Checks that there is each workflow that is named. Gives the size of batches.
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

/// Counts what batches did. A dry run makes a subject in each batch that speaks of it; it counts once.
#[derive(Default)]
struct Tally {
    summary: Summary,
    cohorts: HashSet<String>,
    subjects: HashSet<(String, String)>,
    /// Subjects whose difference was reported with an earlier session.
    compared: HashSet<(String, String)>,
}

impl Tally {
    /// Writes a batch. On an error nothing more can be written; it says from where on.
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
        // It is not the sessions then.
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

/// Whether one session may be at fault, and others can be written: the database works, and refused what a statement says.
fn is_of_a_session(error: &EngineError) -> bool {
    match error {
        EngineError::Database(error) => {
            Failure::of(error).is_none() && matches!(error, DbErr::Exec(_) | DbErr::Query(_))
        }
        error => !matches!(error, EngineError::NoInterpreter(_) | EngineError::Busy { .. }) && !error.is_transient(),
    }
}

/// Registers a subject without experiments, with its cohort, and gives the ids that external systems have for it where
/// it is new. One that is there is left as it is, with what differs.
///
/// # Errors
/// When the database fails.
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

/// Registers one session with everything that belongs to it, in one transaction. One that is there already is left as
/// it is.
///
/// # Errors
/// When its workflow does not exist, or the database fails; nothing is written then.
pub async fn register_session(ctx: &Context, engine: &Engine, session: &Session) -> Result<Outcome, EngineError> {
    let outcomes = retried(async || write_batch(ctx, engine, std::slice::from_ref(session), true).await).await?;
    outcomes.into_iter().next().ok_or(EngineError::MovedOn)
}

/// Tries before giving up.
const MOST_TRIES: u64 = 8;

/// Does it, and does it again when another caller registered the same at the same moment, or when it lost against another
/// transaction, or when conditions had to be evaluated without its lock.
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
