//! Differences between sessions and the stored data. An import changes no stored data; it reports the differences.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QuerySelect, RelationTrait};

use crate::clock::iso;
use crate::context::Context;
use crate::entity::{experiment, external_experiment_links, external_system, scan, scantype, variable, workflow};
use crate::study::register::RegisteredSubject;
use crate::study::{VariableValue, Visible};

use super::Session;

/// A field with different values in an import and in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Place in the source: a line or a folder.
    pub place: String,
    /// The experiment or subject that the field belongs to.
    pub of: String,
    pub field: String,
    pub stored: String,
    pub given: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, of, field, stored, given } = self;
        write!(formatter, "{place}: {of}: {field}: stored value is {stored}, new value is {given}")
    }
}

/// A session whose subject is stored, with its experiment if that is stored too.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub session: &'a Session,
    pub subject: RegisteredSubject,
    pub experiment: Option<&'a experiment::Model>,
}

/// The differences of each session, in order.
pub(super) async fn find(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    known: Vec<Known<'_>>,
) -> Result<Vec<Vec<Difference>>, DbErr> {
    if known.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<i32> = known.iter().filter_map(|one| Some(one.experiment?.id)).collect();
    let stored = Stored::read(ctx, connection, &ids).await?;
    Ok(known.iter().map(|one| one.differences(&stored)).collect())
}

/// Related data of stored experiments, by experiment id.
#[derive(Default)]
struct Stored {
    /// By id.
    workflows: HashMap<i32, String>,
    variables: HashMap<i32, HashMap<String, VariableValue>>,
    /// Number of scans by protocol.
    scans: HashMap<i32, BTreeMap<String, usize>>,
    /// External ids by the name of the system.
    external_ids: HashMap<i32, HashMap<String, String>>,
}

impl Stored {
    async fn read(ctx: &Context, connection: &impl ConnectionTrait, ids: &[i32]) -> Result<Self, DbErr> {
        let mut stored = Self::default();
        if ids.is_empty() {
            return Ok(stored);
        }
        let columns = [workflow::Column::Id, workflow::Column::Label];
        let workflows: Vec<(i32, String)> =
            workflow::Entity::find().select_only().columns(columns).into_tuple().all(connection).await?;
        stored.workflows = workflows.into_iter().collect();
        for ids in ids.chunks(1000) {
            let ids = || ids.iter().copied();
            let all = variable::Entity::visible(ctx).filter(variable::Column::ExperimentId.is_in(ids()));
            for row in all.all(connection).await? {
                let value = VariableValue::unpack(row.kind, row.value.as_deref().unwrap_or_default());
                stored.variables.entry(row.experiment_id).or_default().insert(row.label, value);
            }
            let all = scan::Entity::visible(ctx)
                .select_only()
                .column(scan::Column::ExperimentId)
                .column(scantype::Column::Protocol)
                .join(sea_orm::JoinType::InnerJoin, scan::Relation::Scantype.def())
                .filter(scan::Column::ExperimentId.is_in(ids()));
            for (id, protocol) in all.into_tuple::<(i32, String)>().all(connection).await? {
                *stored.scans.entry(id).or_default().entry(protocol).or_default() += 1;
            }
            let all = external_experiment_links::Entity::visible(ctx)
                .find_also_related(external_system::Entity)
                .filter(external_experiment_links::Column::ExperimentId.is_in(ids()));
            for (link, system) in all.all(connection).await? {
                let name = system.map(|system| system.system_name).unwrap_or_default();
                stored.external_ids.entry(link.experiment_id).or_default().insert(name, link.external_id);
            }
        }
        Ok(stored)
    }
}

/// A field, its stored value and its given value.
type Compared = (String, String, String);

impl Known<'_> {
    fn differences(&self, stored: &Stored) -> Vec<Difference> {
        let Self { session, subject, experiment } = *self;
        let mut all = Vec::new();
        let mut add = |of: String, (field, stored, given): Compared| {
            all.push(Difference { place: session.place.clone(), of, field, stored, given });
        };
        if let Some(given) = session.date_of_birth.filter(|given| subject.date_of_birth != Some(*given)) {
            let known = subject.date_of_birth.map_or_else(nothing, |date| date.to_string());
            add(session.subject.to_string(), (DATE_OF_BIRTH.to_owned(), known, given.to_string()));
        }
        if let Some(row) = experiment {
            for compared in of_experiment(session, row, stored) {
                add(format!("{} of {}", session.experiment, session.subject), compared);
            }
        }
        all
    }
}

/// The field of the subject, which is the same in all its sessions.
pub(super) const DATE_OF_BIRTH: &str = "date_of_birth";

fn nothing() -> String {
    "nothing".to_owned()
}

fn of_experiment(session: &Session, row: &experiment::Model, stored: &Stored) -> Vec<Compared> {
    let mut found = Vec::new();
    if row.scandate != session.scandate {
        found.push(("scan_date".to_owned(), iso(row.scandate), iso(session.scandate)));
    }
    if let Some(given) = &session.workflow {
        let label = stored.workflows.get(&row.workflow_id);
        if label != Some(given) && *given != row.workflow_id.to_string() {
            found.push(("workflow".to_owned(), label.cloned().unwrap_or_else(nothing), given.clone()));
        }
    }
    found.extend(of_variables(session, stored.variables.get(&row.id)));
    found.extend(of_scans(session, stored.scans.get(&row.id)));
    let ids = stored.external_ids.get(&row.id);
    for (system, given) in &session.external_ids {
        let known = ids.and_then(|ids| ids.get(system.as_str()));
        if known != Some(given) {
            found.push((format!("id:{system}"), known.cloned().unwrap_or_else(nothing), given.clone()));
        }
    }
    found
}

fn of_variables(session: &Session, stored: Option<&HashMap<String, VariableValue>>) -> Vec<Compared> {
    // If a name occurs twice, the last value counts.
    let given: BTreeMap<&String, &VariableValue> =
        session.variables.iter().map(|(name, value)| (name, value)).collect();
    let shown = |value: &VariableValue| if *value == VariableValue::None { nothing() } else { value.pack().1 };
    let compared = given.into_iter().filter_map(|(name, given)| {
        let known = stored.and_then(|stored| stored.get(name)).unwrap_or(&VariableValue::None);
        let ((old_kind, old), (new_kind, new)) = (known.pack(), given.pack());
        let field = format!("var:{name}");
        // If the texts are equal and the types differ, the types are reported.
        match (old == new, old_kind == new_kind) {
            (true, true) => None,
            (true, false) => Some((field, format!("{old} ({old_kind})"), format!("{new} ({new_kind})"))),
            (false, _) => Some((field, shown(known), shown(given))),
        }
    });
    compared.collect()
}

/// A source without scans is not compared.
fn of_scans(session: &Session, stored: Option<&BTreeMap<String, usize>>) -> Vec<Compared> {
    if session.scans.is_empty() {
        return Vec::new();
    }
    let mut given: BTreeMap<&str, usize> = BTreeMap::new();
    for scan in &session.scans {
        *given.entry(&scan.protocol).or_default() += 1;
    }
    let nothing = BTreeMap::new();
    let stored = stored.unwrap_or(&nothing);
    let protocols: std::collections::BTreeSet<&str> =
        given.keys().copied().chain(stored.keys().map(String::as_str)).collect();
    let compared = protocols.into_iter().filter_map(|protocol| {
        let (known, given) = (stored.get(protocol).copied().unwrap_or(0), given.get(protocol).copied().unwrap_or(0));
        (known != given).then(|| (format!("scans of {protocol}"), known.to_string(), given.to_string()))
    });
    compared.collect()
}
