//! Registering cohorts, subjects, scans and external ids: found when they are there, made when they are not.
//!
//! Helpers that borrow the caller's transaction; the verb that calls them owns it.

use std::collections::{BTreeMap, HashMap};

use chrono::{NaiveDate, NaiveDateTime};
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ActiveModelTrait, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder};

use crate::audit::{self, Event};
use crate::entity::{
    cohort, experiment, external_experiment_links, external_subject_links, external_system, external_system_history,
    scan, scantype, subject,
};

use super::{Label, Visible};

/// Rows in one statement: databases take only so many values.
const CHUNK: usize = 1000;

/// A row, and whether it was made just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    pub id: i32,
    pub is_new: bool,
}

/// The cohort with this label.
///
/// # Errors
/// When the database cannot be written.
pub async fn cohort(connection: &impl ConnectionTrait, label: &Label) -> Result<Registered, DbErr> {
    let found = cohort::Entity::visible().filter(cohort::Column::Label.eq(label.as_str())).one(connection).await?;
    if let Some(cohort) = found {
        return Ok(Registered { id: cohort.id, is_new: false });
    }
    let row = cohort::ActiveModel { id: NotSet, label: Set(label.to_string()), description: Set(None) };
    let row = row.insert(connection).await?;
    audit::record(connection, Event::new("create", "cohort", row.id, &row.label)).await?;
    Ok(Registered { id: row.id, is_new: true })
}

/// The subject with this label in the cohort. The date of birth of one that is there is left alone.
///
/// # Errors
/// When the database cannot be written.
pub async fn subject(
    connection: &impl ConnectionTrait,
    cohort_id: i32,
    label: &Label,
    date_of_birth: Option<NaiveDate>,
) -> Result<Registered, DbErr> {
    let found = subject::Entity::visible()
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
    audit::record(connection, Event::new("create", "subject", row.id, &row.label).after(after)).await?;
    Ok(Registered { id: row.id, is_new: true })
}

/// The experiment with this label of the subject, when there is one.
///
/// # Errors
/// When the database cannot be read.
pub async fn find_experiment(
    connection: &impl ConnectionTrait,
    subject_id: i32,
    label: &str,
) -> Result<Option<experiment::Model>, DbErr> {
    experiment::Entity::visible()
        .filter(experiment::Column::SubjectId.eq(subject_id))
        .filter(experiment::Column::Label.eq(label))
        .filter(experiment::Column::ArchiveId.eq(0))
        .one(connection)
        .await
}

/// The archived subject with this label, when there is none in use.
///
/// # Errors
/// When the database cannot be read.
pub async fn archived_subject(
    connection: &impl ConnectionTrait,
    cohort_id: i32,
    label: &Label,
) -> Result<Option<i32>, DbErr> {
    use subject::Column;
    let all =
        subject::Entity::visible().filter(Column::CohortId.eq(cohort_id)).filter(Column::Label.eq(label.as_str()));
    // The one in use has the lowest: 0.
    let found = all.order_by_asc(Column::ArchiveId).one(connection).await?;
    Ok(found.filter(|row| row.archive_id != 0).map(|row| row.id))
}

/// The experiment with this label, the one in use before an archived one.
///
/// # Errors
/// When the database cannot be read.
pub async fn known_experiment(
    connection: &impl ConnectionTrait,
    subject_id: i32,
    label: &Label,
) -> Result<Option<i32>, DbErr> {
    use experiment::Column;
    let all = experiment::Entity::visible().filter(Column::SubjectId.eq(subject_id));
    let all = all.filter(Column::Label.eq(label.as_str())).order_by_asc(Column::ArchiveId);
    Ok(all.one(connection).await?.map(|row| row.id))
}

/// The scantype with this protocol. The modality of one that is there is left alone: protocols are unique.
///
/// # Errors
/// When the database cannot be written.
pub async fn scantype(connection: &impl ConnectionTrait, modality: &str, protocol: &str) -> Result<Registered, DbErr> {
    let found = scantype::Entity::find().filter(scantype::Column::Protocol.eq(protocol)).one(connection).await?;
    if let Some(scantype) = found {
        return Ok(Registered { id: scantype.id, is_new: false });
    }
    let row =
        scantype::ActiveModel { id: NotSet, modality: Set(modality.to_owned()), protocol: Set(protocol.to_owned()) };
    let row = row.insert(connection).await?;
    let after = serde_json::json!({ "modality": row.modality });
    audit::record(connection, Event::new("create", "scantype", row.id, &row.protocol).after(after)).await?;
    Ok(Registered { id: row.id, is_new: true })
}

/// Adds what is missing so that the experiment has `wanted` scans of each type. Gives the number added.
///
/// # Errors
/// When the database cannot be written.
pub async fn scans(
    connection: &impl ConnectionTrait,
    experiment_id: i32,
    wanted: &BTreeMap<i32, usize>,
) -> Result<usize, DbErr> {
    let mut there: HashMap<i32, usize> = HashMap::new();
    for scan in scan::Entity::visible().filter(scan::Column::ExperimentId.eq(experiment_id)).all(connection).await? {
        *there.entry(scan.scantype_id).or_default() += 1;
    }
    let mut rows = Vec::new();
    for (scantype_id, count) in wanted {
        let missing = count.saturating_sub(there.get(scantype_id).copied().unwrap_or(0));
        rows.extend((0..missing).map(|_| scan::ActiveModel {
            id: NotSet,
            experiment_id: Set(experiment_id),
            scantype_id: Set(*scantype_id),
        }));
    }
    let added = rows.len();
    if added > 0 {
        for chunk in rows.chunks(CHUNK) {
            scan::Entity::insert_many(chunk.to_vec()).exec_without_returning(connection).await?;
        }
    }
    Ok(added)
}

/// The external system with this name; a new one has no address until somebody gives it.
///
/// # Errors
/// When the database cannot be written.
pub async fn external_system(
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
    audit::record(connection, Event::new("create", "external_system", system.id, &system.system_name)).await?;
    Ok(Registered { id: system.id, is_new: true })
}

/// Sets the id that a system has for a subject.
///
/// # Errors
/// When the database cannot be written.
pub(super) async fn subject_link(
    connection: &impl ConnectionTrait,
    subject_id: i32,
    external_system_id: i32,
    external_id: &str,
) -> Result<(), DbErr> {
    use external_subject_links::{ActiveModel, Column, Entity};
    let known = Column::SubjectId.eq(subject_id).and(Column::ExternalSystemId.eq(external_system_id));
    let changed = Entity::update_many().col_expr(Column::ExternalId, Expr::value(external_id)).filter(known.clone());
    changed.exec(connection).await?;
    // Counted by reading: MySQL says 0 changed for a value that is there already.
    if Entity::visible().filter(known).one(connection).await?.is_some() {
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

/// Sets the id that a system has for an experiment.
///
/// # Errors
/// When the database cannot be written.
pub(super) async fn experiment_link(
    connection: &impl ConnectionTrait,
    experiment_id: i32,
    external_system_id: i32,
    external_id: &str,
) -> Result<(), DbErr> {
    use external_experiment_links::{ActiveModel, Column, Entity};
    let known = Column::ExperimentId.eq(experiment_id).and(Column::ExternalSystemId.eq(external_system_id));
    let changed = Entity::update_many().col_expr(Column::ExternalId, Expr::value(external_id)).filter(known.clone());
    changed.exec(connection).await?;
    // Counted by reading: MySQL says 0 changed for a value that is there already.
    if Entity::visible().filter(known).one(connection).await?.is_some() {
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
