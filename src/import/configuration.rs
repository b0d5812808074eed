//! Roles, users, external systems and scantypes from one YAML text, as the existing product reads them:
//! `roles: [{name, description, permissions}]`, `users: [{username, password, name, email, active, roles}]`,
//! `external_systems: [{system_name, url}]`, `scantypes: [{modality, protocol}]`.
//!
//! All of it is checked before anything is written, and written in one transaction. What is there already is left as it
//! is, or set to what the text says when that is asked for.

use std::collections::BTreeSet;

use chrono::NaiveDateTime;
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, IntoActiveModel, QueryFilter,
    QueryOrder, QuerySelect,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::account::{
    AccountError, Accounts, NewUser, Permission, declined, end_access, has_admin, record_reset, replace_roles,
};
use crate::audit::{self, Event};
use crate::database::Database;
use crate::entity::{external_system, role, scantype, user};
use crate::study::{Label, register, revise};
use crate::workflow::yaml::{self, Content, Node};

use super::RowProblem;

/// What a text asks for.
#[derive(Debug, Clone, Default)]
pub struct Configuration {
    pub roles: Vec<RoleEntry>,
    pub users: Vec<UserEntry>,
    pub external_systems: Vec<SystemEntry>,
    pub scantypes: Vec<ScantypeEntry>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct RoleEntry {
    pub name: String,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(default)]
    pub permissions: Option<Permissions>,
}

/// A list, or a text with commas.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Permissions {
    List(Vec<String>),
    Text(String),
}

impl Permissions {
    fn names(&self) -> Vec<String> {
        match self {
            Self::List(names) => names.iter().map(|name| name.trim().to_owned()).collect(),
            Self::Text(text) => {
                text.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
            }
        }
    }
}

#[derive(Clone, Deserialize)]
pub struct UserEntry {
    pub username: String,
    pub password: String,
    #[serde(default)]
    pub name: Option<String>,
    pub email: String,
    #[serde(default)]
    pub active: Option<bool>,
    #[serde(default)]
    pub roles: Option<Vec<String>>,
}

impl std::fmt::Debug for UserEntry {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the password.
        write!(formatter, "UserEntry({})", self.username)
    }
}

#[derive(Debug, Clone, Deserialize)]
pub struct SystemEntry {
    pub system_name: String,
    #[serde(default)]
    pub url: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct ScantypeEntry {
    pub modality: String,
    pub protocol: String,
}

/// What was added or set.
#[derive(Debug, Clone, Default)]
pub struct Configured {
    pub roles: Vec<role::Model>,
    pub users: Vec<user::Model>,
    pub external_systems: Vec<external_system::Model>,
    pub scantypes: Vec<scantype::Model>,
}

/// Reads a text.
///
/// # Errors
/// Everything that is wrong with it, each with its line.
pub fn read_configuration(text: &str) -> Result<Configuration, Vec<RowProblem>> {
    let problem = |line: u32, message: String| RowProblem { place: format!("line {line}"), message };
    let document = yaml::parse(text).map_err(|error| vec![problem(error.place.line, error.message)])?;
    if !matches!(document.content, Content::Mapping(_)) {
        let wanted = "a mapping with roles, users, external_systems or scantypes is wanted";
        return Err(vec![problem(1, wanted.to_owned())]);
    }
    let mut problems = Vec::new();
    for (key, _) in document.entries() {
        if !["roles", "users", "external_systems", "scantypes"].contains(&key.text.as_str()) {
            problems.push(problem(key.place.line, format!("'{}' is not known here", key.text)));
        }
    }
    let configuration = Configuration {
        roles: entries(&document, "roles", &mut problems),
        users: entries(&document, "users", &mut problems),
        external_systems: entries(&document, "external_systems", &mut problems),
        scantypes: entries(&document, "scantypes", &mut problems),
    };
    for role in &configuration.roles {
        for name in role.permissions.iter().flat_map(Permissions::names) {
            if !Permission::ALL.iter().any(|(_, known)| *known == name) {
                problems.push(RowProblem {
                    place: format!("role {}", role.name),
                    message: format!("there is no permission '{name}'"),
                });
            }
        }
    }
    problems.extend(too_long(&configuration));
    let labels = configuration.external_systems.iter().map(|entry| ("external system", &entry.system_name));
    let scantypes = configuration.scantypes.iter();
    let labels = labels.chain(scantypes.flat_map(|one| [("modality", &one.modality), ("protocol", &one.protocol)]));
    let labels = labels.chain(configuration.roles.iter().map(|role| ("role", &role.name)));
    for (kind, text) in labels {
        if let Err(error) = Label::parse(text) {
            problems.push(RowProblem { place: kind.to_owned(), message: format!("'{text}' {error}") });
        }
    }
    if problems.is_empty() { Ok(configuration) } else { Err(problems) }
}

/// Texts that the tables have no room for.
fn too_long(configuration: &Configuration) -> Vec<RowProblem> {
    let role = |entry: &RoleEntry| {
        let place = format!("role {}", entry.name);
        let description = entry.description.clone().unwrap_or_default();
        [(place.clone(), "name", entry.name.clone(), 80), (place, "description", description, 255)]
    };
    let system = |entry: &SystemEntry| {
        (format!("external system {}", entry.system_name), "url", entry.url.clone().unwrap_or_default(), 512)
    };
    let roles = configuration.roles.iter().flat_map(role);
    let all = roles.chain(configuration.external_systems.iter().map(system));
    let wrong = all.filter(|(_, _, text, most)| text.chars().count() > *most || text.chars().any(char::is_control));
    wrong
        .map(|(place, field, _, most)| {
            let message = format!("{field} must be at most {most} plain characters");
            RowProblem { place, message }
        })
        .collect()
}

/// The entries of one list of the text.
fn entries<T: DeserializeOwned>(document: &Node, key: &str, problems: &mut Vec<RowProblem>) -> Vec<T> {
    let Some(list) = document.get(key) else { return Vec::new() };
    if !matches!(list.content, Content::Sequence(_)) && list.to_json() != serde_json::Value::Null {
        let message = format!("{key} must be a list");
        problems.push(RowProblem { place: format!("line {}", list.place.line), message });
    }
    let mut read = Vec::new();
    for item in list.items() {
        match serde_json::from_value(item.to_json()) {
            Ok(entry) => read.push(entry),
            Err(error) => problems.push(RowProblem {
                place: format!("line {}", item.place.line),
                message: format!("an entry of {key}: {error}"),
            }),
        }
    }
    read
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
    let mut changed = found.into_active_model();
    changed.description = entry.description.clone().map_or(changed.description, |text| Set(Some(text)));
    changed.permissions = permissions.map_or(changed.permissions, |names| Set(Some(names)));
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
