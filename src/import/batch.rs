//! Registers many sessions in one transaction, with statements for all of them instead of one for each.

use std::collections::{BTreeMap, HashMap};

use sea_orm::ConnectionTrait;

use crate::audit::{self, Event};
use crate::context::Context;
use crate::engine::{Engine, EngineError, NewExperiment};
use crate::entity::experiment;
use crate::study::link::{NewLink, add_experiment_links};
use crate::study::register::{self, Registered, RegisteredSubject};

use super::difference::{self, Difference, Known};
use super::{ScanKind, Session};

/// Result of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub cohort: Registered,
    pub subject: Registered,
    /// `None` if it was skipped because its subject is archived.
    pub experiment: Option<Registered>,
    /// Number of scans that were added.
    pub scans: usize,
    /// Differences between the session and the stored data, which is not changed.
    pub differences: Vec<Difference>,
}

/// An experiment by its subject's id and its label.
type Key = (i32, String);

/// Registers the sessions with all their data, all or none; existing experiments are not changed. Without `keep`, everything is written
/// and rolled back, so that errors occur as they would in earnest.
///
/// # Errors
/// A workflow does not exist, a protocol has another modality, or the database fails; nothing is written then.
pub(super) async fn write_batch(
    ctx: &Context,
    engine: &Engine,
    sessions: &[Session],
    keep: bool,
) -> Result<Vec<Outcome>, EngineError> {
    let transaction = engine.database().begin().await?;
    let places = Places::register(ctx, &*transaction, sessions).await?;
    let known = places.known_experiments(ctx, &*transaction, sessions).await?;
    let new = places.new_sessions(sessions, &known);
    let experiments: Vec<NewExperiment> = new.iter().map(|(key, session)| new_experiment(key.0, session)).collect();
    let (transaction, created) = engine.create_experiments_in(ctx, transaction, &experiments).await?;
    let new: Vec<(&Session, i32)> =
        new.iter().map(|(_, session)| *session).zip(created.iter().map(|row| row.id)).collect();
    register_scans(ctx, &*transaction, &new).await?;
    register_ids(ctx, engine, &*transaction, &new).await?;
    let differences = differences(ctx, &*transaction, sessions, &places, &known).await?;
    let created = created.into_iter().map(|row| ((row.subject_id, row.label), row.id)).collect();
    let outcomes = places.outcomes(sessions, differences, &known, created);
    if keep {
        transaction.commit().await?;
        if !new.is_empty() {
            engine.dispatched().notify_one();
        }
    }
    Ok(outcomes)
}

fn new_experiment(subject_id: i32, session: &Session) -> NewExperiment {
    NewExperiment {
        subject_id,
        label: session.experiment.clone(),
        scandate: session.scandate,
        workflow: session.workflow.clone(),
        variables: session.variables.clone(),
    }
}

/// Cohorts and subjects of the sessions.
struct Places {
    cohorts: HashMap<String, Registered>,
    subjects: HashMap<(i32, String), RegisteredSubject>,
}

impl Places {
    async fn register(
        ctx: &Context,
        connection: &impl ConnectionTrait,
        sessions: &[Session],
    ) -> Result<Self, EngineError> {
        let mut cohorts: HashMap<String, Registered> = HashMap::new();
        for session in sessions {
            if !cohorts.contains_key(session.cohort.as_str()) {
                let registered = register::cohort(ctx, connection, &session.cohort).await?;
                cohorts.insert(session.cohort.to_string(), registered);
            }
        }
        let mut wanted = BTreeMap::new();
        for session in sessions {
            let key = (cohorts[session.cohort.as_str()].id, session.subject.to_string());
            wanted.entry(key).or_insert(session.date_of_birth);
        }
        let subjects = register::subjects(ctx, connection, &wanted).await?;
        Ok(Self { cohorts, subjects })
    }

    fn of(&self, session: &Session) -> (Registered, RegisteredSubject) {
        let cohort = self.cohorts[session.cohort.as_str()];
        (cohort, self.subjects[&(cohort.id, session.subject.to_string())])
    }

    /// The existing experiments, including archived ones.
    async fn known_experiments(
        &self,
        ctx: &Context,
        connection: &impl ConnectionTrait,
        sessions: &[Session],
    ) -> Result<HashMap<Key, experiment::Model>, EngineError> {
        let wanted = sessions.iter().filter_map(|session| {
            let (_, subject) = self.of(session);
            (!subject.is_new && !subject.is_archived).then_some((subject.id, session.experiment.as_str()))
        });
        let wanted: Vec<(i32, &str)> = wanted.collect();
        Ok(register::known_experiments(ctx, connection, &wanted).await?)
    }

    /// The sessions that do not exist yet, each once. Importing the same list again does not restore what was archived.
    fn new_sessions<'a>(
        &self,
        sessions: &'a [Session],
        known: &HashMap<Key, experiment::Model>,
    ) -> Vec<(Key, &'a Session)> {
        let mut seen = std::collections::HashSet::new();
        let new = sessions.iter().filter_map(|session| {
            let (_, subject) = self.of(session);
            let key = (subject.id, session.experiment.to_string());
            let is_new = !subject.is_archived && !known.contains_key(&key) && seen.insert(key.clone());
            is_new.then_some((key, session))
        });
        new.collect()
    }

    fn outcomes(
        &self,
        sessions: &[Session],
        differences: Vec<Vec<Difference>>,
        known: &HashMap<Key, experiment::Model>,
        mut created: HashMap<Key, i32>,
    ) -> Vec<Outcome> {
        let mut again: HashMap<Key, i32> = HashMap::new();
        let outcome = |(session, differences): (&Session, Vec<Difference>)| {
            let (cohort, subject) = self.of(session);
            let key = (subject.id, session.experiment.to_string());
            let old = known.get(&key).map(|row| row.id).or_else(|| again.get(&key).copied());
            let experiment = match (old, created.remove(&key)) {
                (_, Some(id)) => {
                    again.insert(key, id);
                    Some(Registered { id, is_new: true })
                }
                (old, None) => old.map(|id| Registered { id, is_new: false }),
            };
            let scans = if experiment.is_some_and(|one| one.is_new) { session.scans.len() } else { 0 };
            let subject = Registered { id: subject.id, is_new: subject.is_new };
            Outcome { cohort, subject, experiment, scans, differences }
        };
        sessions.iter().zip(differences).map(outcome).collect()
    }
}

async fn register_scans(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    new: &[(&Session, i32)],
) -> Result<(), EngineError> {
    let mut kinds: BTreeMap<&ScanKind, i32> = BTreeMap::new();
    for kind in new.iter().flat_map(|(session, _)| &session.scans) {
        if !kinds.contains_key(kind) {
            kinds.insert(kind, scantype(ctx, connection, kind).await?);
        }
    }
    let scans = new.iter().flat_map(|(session, id)| session.scans.iter().map(|kind| (*id, kinds[kind])));
    let scans: Vec<(i32, i32)> = scans.collect();
    register::add_scans(connection, &scans).await?;
    let events = new.iter().filter(|(session, _)| !session.scans.is_empty()).map(|(session, id)| {
        let after = serde_json::json!({ "scans": session.scans.len() });
        Event::new("add_scan", "experiment", *id, session.experiment.as_str()).of_experiment(*id).after(after)
    });
    Ok(audit::record_many(ctx, connection, events.collect()).await?)
}

/// Finds or creates the scan type with this modality and protocol.
async fn scantype(ctx: &Context, connection: &impl ConnectionTrait, kind: &ScanKind) -> Result<i32, EngineError> {
    let known = register::known_scantypes(connection, [kind.protocol.as_str()].into_iter()).await?;
    match known.get(&kind.protocol) {
        Some((id, modality)) if *modality == kind.modality => Ok(*id),
        Some((_, modality)) => Err(EngineError::OtherModality {
            protocol: kind.protocol.clone(),
            stored: modality.clone(),
            given: kind.modality.clone(),
        }),
        None => Ok(register::scantype(ctx, connection, &kind.modality, &kind.protocol).await?.id),
    }
}

async fn register_ids(
    ctx: &Context,
    engine: &Engine,
    connection: &impl ConnectionTrait,
    new: &[(&Session, i32)],
) -> Result<(), EngineError> {
    let mut systems: HashMap<&str, i32> = HashMap::new();
    let mut links: BTreeMap<(i32, i32), NewLink<'_>> = BTreeMap::new();
    for (session, experiment_id) in new {
        for (system, external_id) in &session.external_ids {
            if !systems.contains_key(system.as_str()) {
                let known = register::external_system(ctx, connection, system, engine.clock().now()).await?;
                systems.insert(system.as_str(), known.id);
            }
            let system_id = systems[system.as_str()];
            let (experiment_id, system) = (*experiment_id, system.as_str());
            // If one system has two ids, the last one counts, as if they had been set one after the other.
            links.insert((experiment_id, system_id), NewLink { experiment_id, system_id, system, external_id });
        }
    }
    let links: Vec<NewLink<'_>> = links.into_values().collect();
    Ok(add_experiment_links(ctx, connection, &links).await?)
}

/// The differences of each session, in order.
async fn differences(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    sessions: &[Session],
    places: &Places,
    known: &HashMap<Key, experiment::Model>,
) -> Result<Vec<Vec<Difference>>, EngineError> {
    let mut compared = Vec::new();
    for (index, session) in sessions.iter().enumerate() {
        let (_, subject) = places.of(session);
        // Archived data is not changed, and its differences are not reported.
        if !subject.is_new && !subject.is_archived {
            let experiment = known.get(&(subject.id, session.experiment.to_string()));
            compared
                .push((index, Known { session, subject, experiment: experiment.filter(|row| row.archive_id == 0) }));
        }
    }
    let mut all = vec![Vec::new(); sessions.len()];
    let found = difference::find(ctx, connection, compared.iter().map(|(_, known)| *known).collect()).await?;
    for ((index, _), differences) in compared.iter().zip(found) {
        all[*index] = differences;
    }
    Ok(all)
}
