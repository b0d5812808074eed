//! Registering what was read.

use std::collections::{BTreeMap, HashMap};

use chrono::NaiveDate;
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter};

use crate::audit::{self, Event};
use crate::database::{self, WriteTransaction};
use crate::engine::{Actor, Engine, EngineError, NewExperiment};
use crate::entity::{cohort, subject};
use crate::study::Label;
use crate::study::link::{Linked, set_link};
use crate::study::register::{self, Registered};
use crate::workflow;

use super::Session;

/// What was added, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub cohorts: usize,
    pub subjects: usize,
    pub experiments: usize,
    pub scans: usize,
    /// Experiments that were there already and were left as they are.
    pub known: usize,
}

/// Registers the sessions, each with everything that belongs to it in one transaction; with `dry_run` only says what
/// would be added. `progress` is called after each session.
///
/// # Errors
/// When a workflow that a session names does not exist (nothing is written then), or the database fails (the sessions
/// before are written; doing it again goes on from there).
pub async fn write(
    engine: &Engine,
    sessions: &[Session],
    actor: &Actor,
    dry_run: bool,
    mut progress: impl FnMut(),
) -> Result<Summary, EngineError> {
    check_workflows(engine, sessions).await?;
    let mut summary = Summary::default();
    let mut planned = Planned::default();
    for session in sessions {
        if dry_run {
            planned.add(engine, session, &mut summary).await?;
        } else {
            summary.add(&register_session(engine, session, actor).await?);
        }
        progress();
    }
    Ok(summary)
}

async fn check_workflows(engine: &Engine, sessions: &[Session]) -> Result<(), EngineError> {
    let connection = engine.database().reader();
    let mut checked = std::collections::HashSet::new();
    for session in sessions {
        if !checked.insert(session.workflow.as_deref()) {
            continue;
        }
        match &session.workflow {
            Some(reference) => drop(workflow::find(connection, reference).await?),
            None => drop(workflow::newest(connection).await?.ok_or(EngineError::NoWorkflow)?),
        }
    }
    Ok(())
}

/// What became of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    pub cohort: Registered,
    pub subject: Registered,
    /// None when it was left out with its subject, which is archived.
    pub experiment: Option<Registered>,
    /// Series that were added.
    pub scans: usize,
}

impl Summary {
    fn add(&mut self, outcome: &Outcome) {
        if !outcome.experiment.is_some_and(|experiment| experiment.is_new) {
            self.known += 1;
            return;
        }
        self.cohorts += usize::from(outcome.cohort.is_new);
        self.subjects += usize::from(outcome.subject.is_new);
        self.experiments += 1;
        self.scans += outcome.scans;
    }
}

/// Registers a subject without experiments, with its cohort, and gives the ids that external systems have for it where
/// there are none yet.
///
/// # Errors
/// When the database fails.
pub async fn register_subject(
    engine: &Engine,
    cohort: &Label,
    subject: &Label,
    date_of_birth: Option<NaiveDate>,
    external_ids: &[(Label, String)],
) -> Result<Registered, EngineError> {
    let mut tries = 1;
    loop {
        match try_subject(engine, cohort, subject, date_of_birth, external_ids).await {
            Err(error) if may_try_again(&error, tries).await => tries += 1,
            outcome => return outcome,
        }
    }
}

/// Tries before giving up.
const MOST_TRIES: u64 = 8;

/// Whether doing it again may succeed: somebody else registered the same at the same moment, or it lost against another
/// transaction. Waits a little before it says yes.
async fn may_try_again(error: &EngineError, tries: u64) -> bool {
    let again = match error {
        EngineError::Duplicate { .. } => true,
        EngineError::Database(error) if database::is_duplicate(error) => true,
        error => error.is_transient(),
    };
    if again && tries < MOST_TRIES {
        tokio::time::sleep(std::time::Duration::from_millis(2 * tries * tries)).await;
    }
    again && tries < MOST_TRIES
}

async fn try_subject(
    engine: &Engine,
    cohort: &Label,
    subject: &Label,
    date_of_birth: Option<NaiveDate>,
    external_ids: &[(Label, String)],
) -> Result<Registered, EngineError> {
    let transaction = engine.database().begin().await?;
    let cohort = register::cohort(&*transaction, cohort).await?;
    if let Some(id) = register::archived_subject(&*transaction, cohort.id, subject).await? {
        return Ok(Registered { id, is_new: false });
    }
    let subject = register::subject(&*transaction, cohort.id, subject, date_of_birth).await?;
    if subject.is_new {
        for (system, external_id) in external_ids {
            let known = register::external_system(&*transaction, system, engine.clock().now()).await?;
            let linked = Linked::Subject(subject.id);
            set_link(&*transaction, linked, known.id, system.as_str(), external_id).await?;
        }
    }
    transaction.commit().await?;
    Ok(subject)
}

/// Registers one session with everything that belongs to it, in one transaction. One that is there already is left as
/// it is.
///
/// # Errors
/// When its workflow does not exist, or the database fails; nothing is written then.
pub async fn register_session(engine: &Engine, session: &Session, actor: &Actor) -> Result<Outcome, EngineError> {
    let mut tries = 1;
    loop {
        match try_session(engine, session, actor).await {
            Err(error) if may_try_again(&error, tries).await => tries += 1,
            outcome => return outcome,
        }
    }
}

async fn try_session(engine: &Engine, session: &Session, actor: &Actor) -> Result<Outcome, EngineError> {
    let transaction = engine.database().begin().await?;
    let cohort = register::cohort(&*transaction, &session.cohort).await?;
    // What was archived does not come back with the next reading of the same list.
    if let Some(id) = register::archived_subject(&*transaction, cohort.id, &session.subject).await? {
        return Ok(Outcome { cohort, subject: Registered { id, is_new: false }, experiment: None, scans: 0 });
    }
    let subject = register::subject(&*transaction, cohort.id, &session.subject, session.date_of_birth).await?;
    if let Some(id) = register::known_experiment(&*transaction, subject.id, &session.experiment).await? {
        let experiment = Some(Registered { id, is_new: false });
        return Ok(Outcome { cohort, subject, experiment, scans: 0 });
    }
    let new = NewExperiment {
        subject_id: subject.id,
        label: session.experiment.clone(),
        scandate: session.scandate,
        workflow: session.workflow.clone(),
        variables: session.variables.clone(),
    };
    let (transaction, experiment) = engine.create_experiment_in(transaction, &new, actor).await?;
    let scans = register_parts(engine, &transaction, session, experiment.id).await?;
    transaction.commit().await?;
    engine.dispatched().notify_one();
    Ok(Outcome { cohort, subject, experiment: Some(Registered { id: experiment.id, is_new: true }), scans })
}

async fn register_parts(
    engine: &Engine,
    transaction: &WriteTransaction,
    session: &Session,
    experiment_id: i32,
) -> Result<usize, EngineError> {
    let mut wanted: BTreeMap<i32, usize> = BTreeMap::new();
    for scan in &session.scans {
        let scantype = register::scantype(&**transaction, &scan.modality, &scan.protocol).await?;
        *wanted.entry(scantype.id).or_default() += 1;
    }
    let scans = register::scans(&**transaction, experiment_id, &wanted).await?;
    if scans > 0 {
        let event = Event::new("add_scan", "experiment", experiment_id, session.experiment.as_str())
            .of_experiment(experiment_id);
        audit::record(&**transaction, event.after(serde_json::json!({ "scans": scans }))).await?;
    }
    for (system, external_id) in &session.external_ids {
        let known = register::external_system(&**transaction, system, engine.clock().now()).await?;
        let linked = Linked::Experiment(experiment_id);
        set_link(&**transaction, linked, known.id, system.as_str(), external_id).await?;
    }
    Ok(scans)
}

/// What a dry run has counted as added so far.
#[derive(Default)]
struct Planned {
    cohorts: HashMap<String, Option<i32>>,
    subjects: HashMap<(String, String), PlannedSubject>,
}

/// What a dry run found of a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PlannedSubject {
    New,
    Known(i32),
    Archived,
}

async fn planned_subject(
    connection: &impl ConnectionTrait,
    cohort_id: Option<i32>,
    label: &Label,
) -> Result<PlannedSubject, DbErr> {
    let Some(cohort_id) = cohort_id else { return Ok(PlannedSubject::New) };
    if register::archived_subject(connection, cohort_id, label).await?.is_some() {
        return Ok(PlannedSubject::Archived);
    }
    let subjects = subject::Entity::in_use().filter(subject::Column::CohortId.eq(cohort_id));
    let found = subjects.filter(subject::Column::Label.eq(label.as_str())).one(connection).await?;
    Ok(found.map_or(PlannedSubject::New, |subject| PlannedSubject::Known(subject.id)))
}

impl Planned {
    async fn add(&mut self, engine: &Engine, session: &Session, summary: &mut Summary) -> Result<(), EngineError> {
        let connection = engine.database().reader();
        let cohort = session.cohort.to_string();
        if !self.cohorts.contains_key(&cohort) {
            let found = cohort::Entity::find().filter(cohort::Column::Label.eq(&cohort)).one(connection).await?;
            summary.cohorts += usize::from(found.is_none());
            self.cohorts.insert(cohort.clone(), found.map(|cohort| cohort.id));
        }
        let cohort_id = self.cohorts[&cohort];
        let key = (cohort, session.subject.to_string());
        if !self.subjects.contains_key(&key) {
            let found = planned_subject(connection, cohort_id, &session.subject).await?;
            summary.subjects += usize::from(found == PlannedSubject::New);
            self.subjects.insert(key.clone(), found);
        }
        let known = match self.subjects[&key] {
            PlannedSubject::New => false,
            PlannedSubject::Archived => true,
            PlannedSubject::Known(id) => {
                register::known_experiment(connection, id, &session.experiment).await?.is_some()
            }
        };
        if known {
            summary.known += 1;
        } else {
            summary.experiments += 1;
            summary.scans += session.scans.len();
        }
        Ok(())
    }
}
