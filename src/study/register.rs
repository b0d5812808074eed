//! Registration of cohorts, subjects, scans and external ids: existing ones are found, missing ones are created.
//!
//! These are helpers: the calling verb owns the transaction.

use std::collections::{BTreeMap, HashMap};

use chrono::{NaiveDate, NaiveDateTime};
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ActiveModelTrait, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder};

use crate::audit::{self, Event};
use crate::context::Context;
use crate::entity::{
    cohort, experiment, external_experiment_links, external_subject_links, external_system, external_system_history,
    scan, scantype, subject,
};

use super::{Label, Visible};

/// Number of rows in one statement: databases limit the number of values.
const CHUNK: usize = 1000;

/// A row, and whether this call created it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    pub id: i32,
    pub is_new: bool,
}

/// Finds or creates the cohort with this label.
pub async fn cohort(ctx: &Context, connection: &impl ConnectionTrait, label: &Label) -> Result<Registered, DbErr> {
    let found = cohort::Entity::visible(ctx).filter(cohort::Column::Label.eq(label.as_str())).one(connection).await?;
    if let Some(cohort) = found {
        return Ok(Registered { id: cohort.id, is_new: false });
    }
    let row = cohort::ActiveModel { id: NotSet, label: Set(label.to_string()), description: Set(None) };
    let row = row.insert(connection).await?;
    audit::record(ctx, connection, Event::new("create", "cohort", row.id, &row.label)).await?;
    Ok(Registered { id: row.id, is_new: true })
}

/// Finds or creates the subject with this label in the cohort. The date of birth of an existing subject is not changed.
pub async fn subject(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    cohort_id: i32,
    label: &Label,
    date_of_birth: Option<NaiveDate>,
) -> Result<Registered, DbErr> {
    let found = subject::Entity::visible(ctx)
        .filter(subject::Column::CohortId.eq(cohort_id))
        .filter(subject::Column::Label.eq(label.as_str()))
        .filter(subject::Column::ArchiveId.eq(0))
        .one(connection)
        .await?;
    if let Some(subject) = found {
        return Ok(Registered { id: subject.id, is_new: false });
    }
    let row = subject::ActiveModel {
        id: NotSet,
        label: Set(label.to_string()),
        date_of_birth: Set(date_of_birth),
        cohort_id: Set(cohort_id),
        ..Default::default()
    };
    let row = row.insert(connection).await?;
    let after = serde_json::json!({ "cohort_id": cohort_id, "date_of_birth": date_of_birth });
    audit::record(ctx, connection, Event::new("create", "subject", row.id, &row.label).after(after)).await?;
    Ok(Registered { id: row.id, is_new: true })
}

/// A subject that was found or created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegisteredSubject {
    pub id: i32,
    pub is_new: bool,
    /// An archived subject is found only if no subject in use has the label.
    pub is_archived: bool,
    /// The stored date.
    pub date_of_birth: Option<NaiveDate>,
}

/// Finds or creates subjects by cohort and label. New subjects get the given date of birth; that of existing ones is not changed. One
/// statement per thousand subjects.
pub async fn subjects(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    wanted: &BTreeMap<(i32, String), Option<NaiveDate>>,
) -> Result<HashMap<(i32, String), RegisteredSubject>, DbErr> {
    let mut found = find_subjects(ctx, connection, wanted.keys()).await?;
    let missing: Vec<(&(i32, String), &Option<NaiveDate>)> =
        wanted.iter().filter(|(key, _)| !found.contains_key(*key)).collect();
    let row = |((cohort_id, label), born): &(&(i32, String), &Option<NaiveDate>)| subject::ActiveModel {
        id: NotSet,
        label: Set(label.clone()),
        date_of_birth: Set(**born),
        cohort_id: Set(*cohort_id),
        ..Default::default()
    };
    let rows: Vec<subject::ActiveModel> = missing.iter().map(row).collect();
    for chunk in rows.chunks(CHUNK) {
        subject::Entity::insert_many(chunk.to_vec()).exec_without_returning(connection).await?;
    }
    let mut made = find_subjects(ctx, connection, missing.iter().map(|(key, _)| *key)).await?;
    let event = |((cohort_id, label), born): &(&(i32, String), &Option<NaiveDate>)| {
        let id = made.get(&(*cohort_id, label.clone()))?.id;
        let after = serde_json::json!({ "cohort_id": cohort_id, "date_of_birth": born });
        Some(Event::new("create", "subject", id, label).after(after))
    };
    let events: Vec<Event> = missing.iter().filter_map(event).collect();
    audit::record_many(ctx, connection, events).await?;
    made.values_mut().for_each(|subject| subject.is_new = true);
    found.extend(made);
    Ok(found)
}

async fn find_subjects<'a>(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    keys: impl Iterator<Item = &'a (i32, String)>,
) -> Result<HashMap<(i32, String), RegisteredSubject>, DbErr> {
    use subject::Column;
    let mut found = HashMap::new();
    let mut by_cohort: BTreeMap<i32, Vec<&str>> = BTreeMap::new();
    for (cohort_id, label) in keys {
        by_cohort.entry(*cohort_id).or_default().push(label);
    }
    for (cohort_id, labels) in by_cohort {
        for labels in labels.chunks(CHUNK) {
            let all = subject::Entity::visible(ctx).filter(Column::CohortId.eq(cohort_id));
            let all = all.filter(Column::Label.is_in(labels.iter().copied()));
            // The subject in use has the lowest archive id: 0.
            for row in all.order_by_asc(Column::ArchiveId).all(connection).await? {
                let known = RegisteredSubject {
                    id: row.id,
                    is_new: false,
                    is_archived: row.archive_id != 0,
                    date_of_birth: row.date_of_birth,
                };
                found.entry((cohort_id, row.label)).or_insert(known);
            }
        }
    }
    Ok(found)
}

/// Existing experiments by subject and label, those in use before archived ones.
pub async fn known_experiments(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    wanted: &[(i32, &str)],
) -> Result<HashMap<(i32, String), experiment::Model>, DbErr> {
    use experiment::Column;
    let mut found = HashMap::new();
    for chunk in wanted.chunks(CHUNK) {
        let all = experiment::Entity::visible(ctx)
            .filter(Column::SubjectId.is_in(chunk.iter().map(|(subject_id, _)| *subject_id)))
            .filter(Column::Label.is_in(chunk.iter().map(|(_, label)| *label)));
        for row in all.order_by_asc(Column::ArchiveId).all(connection).await? {
            found.entry((row.subject_id, row.label.clone())).or_insert(row);
        }
    }
    Ok(found)
}

/// The experiment of the subject with this label, if it exists.
pub async fn find_experiment(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    subject_id: i32,
    label: &str,
) -> Result<Option<experiment::Model>, DbErr> {
    experiment::Entity::visible(ctx)
        .filter(experiment::Column::SubjectId.eq(subject_id))
        .filter(experiment::Column::Label.eq(label))
        .filter(experiment::Column::ArchiveId.eq(0))
        .one(connection)
        .await
}

/// Finds or creates the scan type with this protocol. The modality of an existing one is not changed: protocols are unique.
pub async fn scantype(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    modality: &str,
    protocol: &str,
) -> Result<Registered, DbErr> {
    let found = scantype::Entity::find().filter(scantype::Column::Protocol.eq(protocol)).one(connection).await?;
    if let Some(scantype) = found {
        return Ok(Registered { id: scantype.id, is_new: false });
    }
    let row =
        scantype::ActiveModel { id: NotSet, modality: Set(modality.to_owned()), protocol: Set(protocol.to_owned()) };
    let row = row.insert(connection).await?;
    let after = serde_json::json!({ "modality": row.modality });
    audit::record(ctx, connection, Event::new("create", "scantype", row.id, &row.protocol).after(after)).await?;
    Ok(Registered { id: row.id, is_new: true })
}

/// Existing scan types with these protocols: id and modality by protocol.
pub async fn known_scantypes(
    connection: &impl ConnectionTrait,
    protocols: impl Iterator<Item = &str>,
) -> Result<HashMap<String, (i32, String)>, DbErr> {
    let protocols: Vec<&str> = protocols.collect();
    let mut found = HashMap::new();
    for chunk in protocols.chunks(CHUNK) {
        let all = scantype::Entity::find().filter(scantype::Column::Protocol.is_in(chunk.iter().copied()));
        found.extend(all.all(connection).await?.into_iter().map(|row| (row.protocol, (row.id, row.modality))));
    }
    Ok(found)
}

/// Adds scans to new experiments, given as pairs of the ids of experiment and scan type.
pub async fn add_scans(connection: &impl ConnectionTrait, scans: &[(i32, i32)]) -> Result<(), DbErr> {
    for chunk in scans.chunks(CHUNK) {
        let rows = chunk.iter().map(|(experiment_id, scantype_id)| scan::ActiveModel {
            id: NotSet,
            experiment_id: Set(*experiment_id),
            scantype_id: Set(*scantype_id),
        });
        scan::Entity::insert_many(rows).exec_without_returning(connection).await?;
    }
    Ok(())
}

/// Finds or creates the external system with this name. A new one has no URL until a user sets it.
pub async fn external_system(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    name: &Label,
    now: NaiveDateTime,
) -> Result<Registered, DbErr> {
    let found = external_system::Entity::find()
        .filter(external_system::Column::SystemName.eq(name.as_str()))
        .one(connection)
        .await?;
    if let Some(system) = found {
        return Ok(Registered { id: system.id, is_new: false });
    }
    let row = external_system::ActiveModel { id: NotSet, system_name: Set(name.to_string()), url: Set(String::new()) };
    let system = row.insert(connection).await?;
    let history = external_system_history::ActiveModel {
        id: NotSet,
        system_id: Set(system.id),
        timestamp: Set(now),
        url: Set(Some(String::new())),
    };
    history.insert(connection).await?;
    audit::record(ctx, connection, Event::new("create", "external_system", system.id, &system.system_name)).await?;
    Ok(Registered { id: system.id, is_new: true })
}

/// Sets the external id of a subject.
pub(super) async fn subject_link(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    subject_id: i32,
    external_system_id: i32,
    external_id: &str,
) -> Result<(), DbErr> {
    use external_subject_links::{ActiveModel, Column, Entity};
    let known = Column::SubjectId.eq(subject_id).and(Column::ExternalSystemId.eq(external_system_id));
    let changed = Entity::update_many().col_expr(Column::ExternalId, Expr::value(external_id)).filter(known.clone());
    changed.exec(connection).await?;
    // Reads first: MySQL reports 0 changed rows when the value is the same.
    if Entity::visible(ctx).filter(known).one(connection).await?.is_some() {
        return Ok(());
    }
    let row = ActiveModel {
        id: NotSet,
        external_id: Set(external_id.to_owned()),
        subject_id: Set(subject_id),
        external_system_id: Set(external_system_id),
    };
    Entity::insert(row).exec_without_returning(connection).await?;
    Ok(())
}

/// Sets the external id of an experiment.
pub(super) async fn experiment_link(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    experiment_id: i32,
    external_system_id: i32,
    external_id: &str,
) -> Result<(), DbErr> {
    use external_experiment_links::{ActiveModel, Column, Entity};
    let known = Column::ExperimentId.eq(experiment_id).and(Column::ExternalSystemId.eq(external_system_id));
    let changed = Entity::update_many().col_expr(Column::ExternalId, Expr::value(external_id)).filter(known.clone());
    changed.exec(connection).await?;
    // Reads first: MySQL reports 0 changed rows when the value is the same.
    if Entity::visible(ctx).filter(known).one(connection).await?.is_some() {
        return Ok(());
    }
    let row = ActiveModel {
        id: NotSet,
        external_id: Set(external_id.to_owned()),
        experiment_id: Set(experiment_id),
        external_system_id: Set(external_system_id),
    };
    Entity::insert(row).exec_without_returning(connection).await?;
    Ok(())
}
