//! External ids and URLs of cohorts, subjects and experiments. Each verb owns its transaction.

use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ActiveModelTrait, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QuerySelect};
use serde_json::json;

use crate::audit::{self, Event};
use crate::context::Context;
use crate::database::{self, Database, WriteTransaction};
use crate::entity::{cohort, external_cohort_urls, external_experiment_links, external_subject_links, external_system};

use super::Visible;
use super::record::BySystem;
use super::register::{experiment_link, subject_link};
use super::revise::{ReviseError, locked_experiment, locked_subject, not_found};

/// The external system with this name.
///
/// # Errors
/// [`ReviseError::NotFound`].
pub async fn system(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    name: &str,
) -> Result<external_system::Model, ReviseError> {
    let name = name.replace('\0', "\u{fffd}");
    let found = external_system::Entity::find().filter(external_system::Column::SystemName.eq(&name)).one(connection);
    found.await?.ok_or_else(|| not_found(ctx, "external system", &format!("'{name}'")))
}

/// The cohort, subject or experiment that a link belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linked {
    /// Its links are URLs.
    Cohort(i32),
    Subject(i32),
    Experiment(i32),
}

/// Sets URLs or external ids by the name of the external system: all or none.
///
/// # Errors
/// [`ReviseError::NotFound`] for the linked row or a system; [`ReviseError::Archived`].
pub async fn set_links(
    ctx: &Context,
    database: &Database,
    linked: Linked,
    values: &BySystem,
) -> Result<(), ReviseError> {
    let transaction = database.begin().await?;
    check_linked(ctx, &transaction, linked).await?;
    for (name, value) in values {
        let system = system(ctx, &*transaction, name).await?;
        set_link(ctx, &*transaction, linked, system.id, name, value).await?;
    }
    Ok(transaction.commit().await?)
}

/// Sets the URL or id in one system. A helper: the caller owns the transaction and has locked the linked row.
pub async fn set_link(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    linked: Linked,
    system_id: i32,
    system: &str,
    value: &str,
) -> Result<(), DbErr> {
    let before = link_of(ctx, connection, linked, system_id).await?;
    match linked {
        Linked::Cohort(id) => cohort_url(ctx, connection, id, system_id, value).await?,
        Linked::Subject(id) => subject_link(ctx, connection, id, system_id, value).await?,
        Linked::Experiment(id) => experiment_link(ctx, connection, id, system_id, value).await?,
    }
    let (before, after) = (json!({ "external_id": before }), json!({ "external_id": value }));
    audit::record(ctx, connection, link_event("link", linked, system).changed(&before, &after)).await
}

/// Sets external ids of experiments that have none yet. A helper like [`set_link`], with one statement per thousand ids.
pub async fn add_experiment_links(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    links: &[NewLink<'_>],
) -> Result<(), DbErr> {
    use external_experiment_links::{ActiveModel, Entity};
    for chunk in links.chunks(1000) {
        let rows = chunk.iter().map(|link| ActiveModel {
            id: NotSet,
            external_id: Set(link.external_id.to_owned()),
            experiment_id: Set(link.experiment_id),
            external_system_id: Set(link.system_id),
        });
        Entity::insert_many(rows).exec_without_returning(connection).await?;
    }
    let events = links.iter().map(|link| {
        let (before, after) = (json!({ "external_id": null }), json!({ "external_id": link.external_id }));
        link_event("link", Linked::Experiment(link.experiment_id), link.system).changed(&before, &after)
    });
    audit::record_many(ctx, connection, events.collect()).await
}

/// An external id for an experiment.
#[derive(Debug, Clone, Copy)]
pub struct NewLink<'a> {
    pub experiment_id: i32,
    pub system_id: i32,
    pub system: &'a str,
    pub external_id: &'a str,
}

fn link_event(verb: &'static str, linked: Linked, system: &str) -> Event {
    match linked {
        Linked::Cohort(id) => Event::new(verb, "cohort", id, system),
        Linked::Subject(id) => Event::new(verb, "subject", id, system),
        Linked::Experiment(id) => Event::new(verb, "experiment", id, system).of_experiment(id),
    }
}

/// The present URL or id in a system.
pub async fn link_of(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    linked: Linked,
    system_id: i32,
) -> Result<Option<String>, DbErr> {
    Ok(match linked {
        Linked::Cohort(id) => {
            use external_cohort_urls::{Column, Entity};
            let all =
                Entity::visible(ctx).filter(Column::CohortId.eq(id)).filter(Column::ExternalSystemId.eq(system_id));
            all.one(connection).await?.map(|row| row.url)
        }
        Linked::Subject(id) => {
            use external_subject_links::{Column, Entity};
            let all =
                Entity::visible(ctx).filter(Column::SubjectId.eq(id)).filter(Column::ExternalSystemId.eq(system_id));
            all.one(connection).await?.map(|row| row.external_id)
        }
        Linked::Experiment(id) => {
            use external_experiment_links::{Column, Entity};
            let all =
                Entity::visible(ctx).filter(Column::ExperimentId.eq(id)).filter(Column::ExternalSystemId.eq(system_id));
            all.one(connection).await?.map(|row| row.external_id)
        }
    })
}

async fn check_linked(ctx: &Context, transaction: &WriteTransaction, linked: Linked) -> Result<(), ReviseError> {
    match linked {
        Linked::Cohort(id) => {
            let row = cohort::Entity::visible_by_id(ctx, id).lock_exclusive().one(&**transaction).await?;
            row.map(drop).ok_or_else(|| not_found(ctx, "cohort", &id))
        }
        Linked::Subject(id) => locked_subject(ctx, transaction, id).await.map(drop),
        Linked::Experiment(id) => locked_experiment(ctx, transaction, id).await.map(drop),
    }
}

async fn cohort_url(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    cohort_id: i32,
    system_id: i32,
    url: &str,
) -> Result<(), DbErr> {
    use external_cohort_urls::{ActiveModel, Column, Entity};
    let known = Column::CohortId.eq(cohort_id).and(Column::ExternalSystemId.eq(system_id));
    let changed = Entity::update_many().col_expr(Column::Url, Expr::value(url)).filter(known.clone());
    changed.exec(connection).await?;
    // Reads first: MySQL reports 0 changed rows when the value is the same.
    if Entity::visible(ctx).filter(known).one(connection).await?.is_some() {
        return Ok(());
    }
    let row = ActiveModel {
        id: NotSet,
        url: Set(url.to_owned()),
        cohort_id: Set(cohort_id),
        external_system_id: Set(system_id),
    };
    Entity::insert(row).exec_without_returning(connection).await?;
    Ok(())
}

/// Deletes a URL or an external id.
///
/// # Errors
/// [`ReviseError::NotFound`] for the linked row, the system or the link.
pub async fn delete_link(ctx: &Context, database: &Database, linked: Linked, name: &str) -> Result<(), ReviseError> {
    let transaction = database.begin().await?;
    check_linked(ctx, &transaction, linked).await?;
    let system = system(ctx, &*transaction, name).await?;
    let before = link_of(ctx, &*transaction, linked, system.id).await?;
    let deleted = match linked {
        Linked::Cohort(id) => {
            use external_cohort_urls::{Column, Entity};
            let all = Entity::delete_many().filter(Column::CohortId.eq(id));
            all.filter(Column::ExternalSystemId.eq(system.id)).exec(&*transaction).await?
        }
        Linked::Subject(id) => {
            use external_subject_links::{Column, Entity};
            let all = Entity::delete_many().filter(Column::SubjectId.eq(id));
            all.filter(Column::ExternalSystemId.eq(system.id)).exec(&*transaction).await?
        }
        Linked::Experiment(id) => {
            use external_experiment_links::{Column, Entity};
            let all = Entity::delete_many().filter(Column::ExperimentId.eq(id));
            all.filter(Column::ExternalSystemId.eq(system.id)).exec(&*transaction).await?
        }
    };
    if deleted.rows_affected == 0 {
        return Err(not_found(ctx, "external id or address of", &format!("'{name}'")));
    }
    let event = link_event("unlink", linked, name).before(json!({ "external_id": before }));
    audit::record(ctx, &*transaction, event).await?;
    Ok(transaction.commit().await?)
}

/// Adds an external id to a subject that has none in this system.
///
/// # Errors
/// [`ReviseError::Duplicate`] if it already has one.
pub async fn add_subject_link(
    ctx: &Context,
    database: &Database,
    subject_id: i32,
    system: &external_system::Model,
    external_id: &str,
) -> Result<external_subject_links::Model, ReviseError> {
    let transaction = database.begin().await?;
    locked_subject(ctx, &transaction, subject_id).await?;
    let row = external_subject_links::ActiveModel {
        id: NotSet,
        external_id: Set(external_id.to_owned()),
        subject_id: Set(subject_id),
        external_system_id: Set(system.id),
    };
    let row = row.insert(&*transaction).await.map_err(|error| linked_already(error, system))?;
    let event = link_event("link", Linked::Subject(subject_id), &system.system_name);
    audit::record(ctx, &*transaction, event.after(json!({ "external_id": external_id }))).await?;
    transaction.commit().await?;
    Ok(row)
}

/// Adds an external id to an experiment that has none in this system.
///
/// # Errors
/// [`ReviseError::Duplicate`] if it already has one.
pub async fn add_experiment_link(
    ctx: &Context,
    database: &Database,
    experiment_id: i32,
    system: &external_system::Model,
    external_id: &str,
) -> Result<external_experiment_links::Model, ReviseError> {
    let transaction = database.begin().await?;
    locked_experiment(ctx, &transaction, experiment_id).await?;
    let row = external_experiment_links::ActiveModel {
        id: NotSet,
        external_id: Set(external_id.to_owned()),
        experiment_id: Set(experiment_id),
        external_system_id: Set(system.id),
    };
    let row = row.insert(&*transaction).await.map_err(|error| linked_already(error, system))?;
    let event = link_event("link", Linked::Experiment(experiment_id), &system.system_name);
    audit::record(ctx, &*transaction, event.after(json!({ "external_id": external_id }))).await?;
    transaction.commit().await?;
    Ok(row)
}

fn linked_already(error: DbErr, system: &external_system::Model) -> ReviseError {
    match database::is_duplicate(&error) {
        true => ReviseError::Duplicate { kind: "link of", label: system.system_name.clone() },
        false => error.into(),
    }
}
