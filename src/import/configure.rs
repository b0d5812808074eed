//! Writes what a configuration asks for, or says what it would change.
//!
//! All of it is written in one transaction. What is there already is left as it is, or set to what the text says when that is
//! asked for.

use std::collections::BTreeSet;

use chrono::NaiveDateTime;
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, IntoActiveModel, QueryFilter,
    QueryOrder, QuerySelect,
};

use crate::account::{AccountError, Accounts, NewUser, declined, end_access, has_admin, record_reset, replace_roles};
use crate::audit::{self, Event};
use crate::database::Database;
use crate::entity::{external_system, role, scantype, user};
use crate::study::{Label, register, revise};

use super::configuration::{Configuration, RoleEntry, ScantypeEntry, SystemEntry, UserEntry};

/// What was added or set.
#[derive(Debug, Clone, Default)]
pub struct Configured {
    pub roles: Vec<role::Model>,
    pub users: Vec<user::Model>,
    pub external_systems: Vec<external_system::Model>,
    pub scantypes: Vec<scantype::Model>,
}

/// One thing that a text changes: `create role reader`, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub verb: String,
    pub kind: String,
    pub name: String,
    /// JSON, as the audit trail has it.
    pub before: Option<String>,
    pub after: Option<String>,
}

impl std::fmt::Display for Change {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {} {}", self.verb, self.kind.replace('_', " "), self.name)?;
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => write!(formatter, ": {before} → {after}"),
            (None, Some(after)) => write!(formatter, ": {after}"),
            _ => Ok(()),
        }
    }
}

/// What a text would change. It is done and undone: the plan is what the deed will be.
///
/// # Errors
/// As [`configure`].
pub async fn plan_configuration(
    database: &Database,
    accounts: &Accounts,
    configuration: &Configuration,
    overwrite: bool,
    now: NaiveDateTime,
) -> Result<Vec<Change>, AccountError> {
    let (undone, events) =
        Box::pin(audit::watching(write(database, accounts, configuration, overwrite, now, false))).await;
    undone?;
    let change = |event: crate::entity::audit_event::Model| Change {
        verb: event.verb,
        kind: event.subject_type,
        name: event.subject_name,
        before: event.before,
        after: event.after,
    };
    Ok(events.into_iter().map(change).collect())
}

/// Writes what the text asks for. With `overwrite` what is there already is set to it too.
///
/// # Errors
/// As [`AccountError`]; nothing is written then.
pub async fn configure(
    database: &Database,
    accounts: &Accounts,
    configuration: &Configuration,
    overwrite: bool,
    now: NaiveDateTime,
) -> Result<Configured, AccountError> {
    let configured = write(database, accounts, configuration, overwrite, now, true).await?;
    for row in &configured.users {
        accounts.warn_if_weak(row);
    }
    accounts.forget_logins();
    Ok(configured)
}

/// Writes it, and keeps it only when that is wanted.
async fn write(
    database: &Database,
    accounts: &Accounts,
    configuration: &Configuration,
    overwrite: bool,
    now: NaiveDateTime,
    is_kept: bool,
) -> Result<Configured, AccountError> {
    let mut hashes = Vec::with_capacity(configuration.users.len());
    for entry in &configuration.users {
        accounts.check(&new_user(entry))?;
        hashes.push(accounts.passwords().hash(&entry.password).await?);
    }
    let transaction = database.begin().await?;
    let connection = &*transaction;
    let had_admin = has_admin(connection).await?;
    let mut configured = Configured::default();
    if overwrite {
        lock_users(connection, configuration).await?;
    }
    for entry in &configuration.roles {
        configured.roles.extend(set_role(connection, entry, overwrite, now).await?);
    }
    for (entry, hash) in configuration.users.iter().zip(hashes) {
        configured.users.extend(set_user(connection, accounts, entry, hash, overwrite, now).await?);
    }
    for entry in &configuration.external_systems {
        configured.external_systems.extend(set_system(connection, entry, overwrite, now).await?);
    }
    for entry in &configuration.scantypes {
        configured.scantypes.extend(set_scantype(connection, entry, overwrite).await?);
    }
    if overwrite && had_admin && !has_admin(connection).await? {
        return Err(AccountError::LastAdmin);
    }
    if is_kept {
        transaction.commit().await?;
    } else {
        drop(transaction);
    }
    Ok(configured)
}

/// The accounts that are set anew, before their roles: in the order in which everybody takes them.
async fn lock_users(connection: &impl ConnectionTrait, configuration: &Configuration) -> Result<(), DbErr> {
    let names = configuration.users.iter().map(|entry| entry.username.trim().to_owned());
    let addresses = configuration.users.iter().map(|entry| entry.email.trim().to_owned());
    let same = Condition::any().add(user::Column::Username.is_in(names)).add(user::Column::Email.is_in(addresses));
    let locked = user::Entity::find().filter(same).order_by_asc(user::Column::Id).lock_exclusive();
    locked.all(connection).await.map(drop)
}

fn new_user(entry: &UserEntry) -> NewUser {
    NewUser {
        username: entry.username.clone(),
        name: entry.name.clone().unwrap_or_else(|| entry.username.clone()),
        email: entry.email.clone(),
        password: entry.password.clone(),
        active: entry.active.unwrap_or(true),
        roles: entry.roles.clone().unwrap_or_default(),
        cohorts: BTreeSet::new(),
    }
}

async fn set_role(
    connection: &impl ConnectionTrait,
    entry: &RoleEntry,
    overwrite: bool,
    now: NaiveDateTime,
) -> Result<Option<role::Model>, DbErr> {
    let permissions = entry.permissions.as_ref().map(|permissions| permissions.names().join(","));
    let found = role::Entity::find().filter(role::Column::Name.eq(entry.name.trim())).one(connection).await?;
    let Some(found) = found else {
        let row = role::ActiveModel {
            id: NotSet,
            name: Set(entry.name.trim().to_owned()),
            description: Set(entry.description.clone()),
            permissions: Set(Some(permissions.unwrap_or_default())),
            update_datetime: Set(now),
            requires_second_factor: Set(false),
        };
        let row = row.insert(connection).await?;
        audit::record(connection, Event::new("create", "role", row.id, &row.name).after(shown_role(&row))).await?;
        return Ok(Some(row));
    };
    if !overwrite {
        return Ok(None);
    }
    let before = shown_role(&found);
    let is_admin = found.name == "admin";
    let mut changed = found.into_active_model();
    changed.description = entry.description.clone().map_or(changed.description, |text| Set(Some(text)));
    // Somebody must be left who may do everything: files of before name fewer permissions than there are now.
    if !is_admin {
        changed.permissions = permissions.map_or(changed.permissions, |names| Set(Some(names)));
    }
    changed.update_datetime = Set(now);
    let row = changed.update(connection).await?;
    let event = Event::new("update", "role", row.id, &row.name).changed(&before, &shown_role(&row));
    audit::record(connection, event).await?;
    Ok(Some(row))
}

fn shown_role(row: &role::Model) -> serde_json::Value {
    serde_json::json!({ "name": row.name, "description": row.description, "permissions": row.permissions })
}

async fn set_user(
    connection: &impl ConnectionTrait,
    accounts: &Accounts,
    entry: &UserEntry,
    hash: String,
    overwrite: bool,
    now: NaiveDateTime,
) -> Result<Option<user::Model>, AccountError> {
    let same = Condition::any()
        .add(user::Column::Username.eq(entry.username.trim()))
        .add(user::Column::Email.eq(entry.email.trim()));
    let mut found = user::Entity::find().filter(same).all(connection).await?;
    let Some(row) = found.pop() else {
        return Ok(Some(accounts.insert(connection, &new_user(entry), hash, now).await?));
    };
    if !overwrite {
        // A new name with the address of somebody who is there already: nobody would notice that it was left out.
        if row.username.to_lowercase() != entry.username.trim().to_lowercase() {
            let problem = format!("{}: the address {} is that of {}", entry.username, entry.email, row.username);
            return Err(AccountError::Invalid { field: "users", problem });
        }
        return Ok(None);
    }
    // The name is somebody's and the address somebody else's.
    if !found.is_empty() {
        return Err(AccountError::Exists);
    }
    let id = row.id;
    end_access(connection, id, now).await?;
    let before = row.clone();
    let mut changed = row.into_active_model();
    changed.username = Set(entry.username.trim().to_owned());
    changed.email = Set(entry.email.trim().to_owned());
    changed.name = entry.name.clone().map_or(changed.name, Set);
    changed.active = entry.active.map_or(changed.active, Set);
    changed.declined_at = Set(declined(&before, entry.active, now));
    changed.password = Set(hash);
    let named = entry.name.as_deref().unwrap_or(&before.name);
    changed.weak_password = Set(accounts.is_weak(&entry.password, [&entry.username, named, &entry.email]));
    changed.confirmed_at = Set(before.confirmed_at.or(Some(now)));
    changed.fs_uniquifier = Set(uuid::Uuid::new_v4().simple().to_string());
    changed.update_datetime = Set(Some(now));
    let row = changed.update(connection).await?;
    if let Some(roles) = &entry.roles {
        replace_roles(connection, &row, roles).await?;
    }
    record_reset(connection, &before, &row, entry.roles.as_deref()).await?;
    Ok(Some(row))
}

async fn set_system(
    connection: &impl ConnectionTrait,
    entry: &SystemEntry,
    overwrite: bool,
    now: NaiveDateTime,
) -> Result<Option<external_system::Model>, DbErr> {
    let Ok(name) = Label::parse(&entry.system_name) else { return Ok(None) };
    let registered = register::external_system(connection, &name, now).await?;
    if !registered.is_new && !overwrite {
        return Ok(None);
    }
    let Some(row) = external_system::Entity::find_by_id(registered.id).one(connection).await? else { return Ok(None) };
    match &entry.url {
        Some(url) => revise::set_system_url(connection, row, url, now).await.map(Some),
        None => Ok(Some(row)),
    }
}

async fn set_scantype(
    connection: &impl ConnectionTrait,
    entry: &ScantypeEntry,
    overwrite: bool,
) -> Result<Option<scantype::Model>, DbErr> {
    let registered = register::scantype(connection, entry.modality.trim(), entry.protocol.trim()).await?;
    if !registered.is_new && !overwrite {
        return Ok(None);
    }
    let Some(row) = scantype::Entity::find_by_id(registered.id).one(connection).await? else { return Ok(None) };
    if row.modality == entry.modality.trim() {
        return Ok(Some(row));
    }
    let before = serde_json::json!({ "modality": row.modality });
    let mut changed = row.into_active_model();
    changed.modality = Set(entry.modality.trim().to_owned());
    let row = changed.update(connection).await?;
    let after = serde_json::json!({ "modality": row.modality });
    let event = Event::new("update", "scantype", row.id, &row.protocol).changed(&before, &after);
    audit::record(connection, event).await?;
    Ok(Some(row))
}
