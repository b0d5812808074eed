//! Queries for events, the newest first.

use chrono::NaiveDateTime;
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Select,
};

use crate::database::contains;
use crate::entity::audit_event::{Column, Entity, Model};
use crate::entity::kind::Origin;

/// Filter of events; `None` matches all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Part of the name of the actor, in any case.
    pub who: Option<String>,
    pub verb: Option<String>,
    pub kind: Option<String>,
    /// Part of the name of the object, in any case.
    pub name: Option<String>,
    pub origin: Option<Origin>,
    pub since: Option<NaiveDateTime>,
    pub until: Option<NaiveDateTime>,
}

/// Some events, and whether there are older ones.
#[derive(Debug, Clone)]
pub struct Found {
    pub events: Vec<Model>,
    pub has_older: bool,
}

impl Filter {
    fn select(&self) -> Select<Entity> {
        let some = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
        let mut select = Entity::find().order_by_desc(Column::Id);
        if let Some(who) = some(&self.who) {
            select = select.filter(contains(Column::Who, who.trim()));
        }
        if let Some(name) = some(&self.name) {
            select = select.filter(contains(Column::SubjectName, name.trim()));
        }
        if let Some(verb) = some(&self.verb) {
            select = select.filter(Column::Verb.eq(verb));
        }
        if let Some(kind) = some(&self.kind) {
            select = select.filter(Column::SubjectType.eq(kind));
        }
        if let Some(origin) = self.origin {
            select = select.filter(Column::Origin.eq(origin));
        }
        if let Some(since) = self.since {
            select = select.filter(Column::At.gte(since));
        }
        if let Some(until) = self.until {
            select = select.filter(Column::At.lt(until));
        }
        select
    }
}

/// At most `size` events older than the one with the id `below`.
pub async fn search(
    connection: &impl ConnectionTrait,
    filter: &Filter,
    below: Option<i32>,
    size: u64,
) -> Result<Found, DbErr> {
    let mut select = filter.select();
    if let Some(below) = below {
        select = select.filter(Column::Id.lt(below));
    }
    let mut events = select.limit(size + 1).all(connection).await?;
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let has_older = events.len() > size;
    events.truncate(size);
    Ok(Found { events, has_older })
}

/// Changes of an experiment, the newest first.
pub async fn by_experiment(
    connection: &impl ConnectionTrait,
    experiment_id: i32,
    most: u64,
) -> Result<Vec<Model>, DbErr> {
    let all = Entity::find().filter(Column::ExperimentId.eq(experiment_id)).order_by_desc(Column::Id);
    all.limit(most).all(connection).await
}

/// Events of a user, the newest first.
pub async fn by_user(connection: &impl ConnectionTrait, user_id: i32, most: u64) -> Result<Vec<Model>, DbErr> {
    let all = Entity::find().filter(Column::UserId.eq(user_id)).order_by_desc(Column::Id);
    all.limit(most).all(connection).await
}

/// Changes of an account by others, the newest first.
pub async fn of_user(connection: &impl ConnectionTrait, user_id: i32, most: u64) -> Result<Vec<Model>, DbErr> {
    let by_others = Condition::any().add(Column::UserId.is_null()).add(Column::UserId.ne(user_id));
    let of_account = Entity::find().filter(Column::SubjectType.eq("user")).filter(Column::SubjectId.eq(user_id));
    of_account.filter(by_others).order_by_desc(Column::Id).limit(most).all(connection).await
}
