//! Writes a configuration, or lists the changes that it would make.
//!
//! All changes are made in one transaction. Existing rows are left unchanged, or set to the values of the text if the caller requests that.

use chrono::NaiveDateTime;
use futures_util::future::try_join_all;
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::{ActiveModelTrait, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, IntoActiveModel, QueryFilter};

use crate::account::{AccountError, Accounts, RoleForm, has_admin};
use crate::audit::{self, Event};
use crate::context::Context;
use crate::database::Database;
use crate::entity::{external_system, role, scantype, user};
use crate::study::{Label, register, revise};

use super::configuration::{Configuration, RoleEntry, ScantypeEntry, SystemEntry};
use super::people::{lock_users, prepare, set_user};

/// Treatment of roles, users, external systems and scan types that exist already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// They are not changed.
    Kept,
    /// They are set to the values of the text.
    Overwritten,
    /// They are set to the values of the text, but passwords and e-mail addresses must stay the same: the caller has a token.
    OverwrittenButCredentials,
}

impl Existing {
    /// Interprets the answer of a user to "overwrite?".
    #[must_use]
    pub fn overwritten(overwrite: bool) -> Self {
        if overwrite { Self::Overwritten } else { Self::Kept }
    }

    pub(super) fn is_overwritten(self) -> bool {
        self != Self::Kept
    }
}

/// The changes that were made.
#[derive(Debug, Clone, Default)]
pub struct Configured {
    pub roles: Vec<role::Model>,
    pub users: Vec<user::Model>,
    pub external_systems: Vec<external_system::Model>,
    pub scantypes: Vec<scantype::Model>,
}

/// One change of a configuration: `create role reader`, with its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub verb: String,
    pub kind: String,
    pub name: String,
    /// JSON, as in the audit trail.
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

/// Lists the changes that a text would make. They are made and rolled back, so that the plan equals the result.
///
/// # Errors
/// Those of [`configure`].
pub async fn plan_configuration(
    ctx: &Context,
    database: &Database,
    accounts: &Accounts,
    configuration: &Configuration,
    existing: Existing,
    now: NaiveDateTime,
) -> Result<Vec<Change>, AccountError> {
    let (ctx, watch) = ctx.watched();
    Box::pin(write(&ctx, database, accounts, configuration, existing, now, false)).await?;
    let change = |event: crate::entity::audit_event::Model| Change {
        verb: event.verb,
        kind: event.subject_type,
        name: event.subject_name,
        before: event.before,
        after: event.after,
    };
    Ok(watch.take().into_iter().map(change).collect())
}

/// Writes a configuration. Existing rows are set to its values as far as `existing` allows.
///
/// # Errors
/// [`AccountError`]; nothing is written then.
pub async fn configure(
    ctx: &Context,
    database: &Database,
    accounts: &Accounts,
    configuration: &Configuration,
    existing: Existing,
    now: NaiveDateTime,
) -> Result<Configured, AccountError> {
    let configured = write(ctx, database, accounts, configuration, existing, now, true).await?;
    for row in &configured.users {
        accounts.warn_if_weak(row);
    }
    accounts.forget_logins();
    Ok(configured)
}

/// Makes the changes, and commits them only if `is_kept`.
async fn write(
    ctx: &Context,
    database: &Database,
    accounts: &Accounts,
    configuration: &Configuration,
    existing: Existing,
    now: NaiveDateTime,
    is_kept: bool,
) -> Result<Configured, AccountError> {
    let mut passwords = Vec::with_capacity(configuration.users.len());
    // As many at once as threads compute password hashes.
    for entries in configuration.users.chunks(2) {
        let mut prepared = Vec::with_capacity(2);
        for entry in entries {
            prepared.push(prepare(database, accounts, entry, existing, is_kept));
        }
        passwords.extend(try_join_all(prepared).await?);
    }
    let transaction = database.begin().await?;
    let connection = &*transaction;
    let had_admin = has_admin(connection).await?;
    let mut configured = Configured::default();
    if existing.is_overwritten() {
        lock_users(connection, &configuration.users).await?;
    }
    for entry in &configuration.roles {
        configured.roles.extend(set_role(ctx, connection, entry, existing, now).await?);
    }
    for (entry, password) in configuration.users.iter().zip(passwords) {
        configured.users.extend(set_user(ctx, connection, accounts, entry, password, existing, now).await?);
    }
    for entry in &configuration.external_systems {
        configured.external_systems.extend(set_system(ctx, connection, entry, existing, now).await?);
    }
    for entry in &configuration.scantypes {
        configured.scantypes.extend(set_scantype(ctx, connection, entry, existing).await?);
    }
    if existing.is_overwritten() && had_admin && !has_admin(connection).await? {
        return Err(AccountError::LastAdmin);
    }
    if is_kept {
        transaction.commit().await?;
    } else {
        drop(transaction);
    }
    Ok(configured)
}

async fn set_role(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    entry: &RoleEntry,
    existing: Existing,
    now: NaiveDateTime,
) -> Result<Option<role::Model>, AccountError> {
    let permissions = entry.permissions.as_ref().map(|permissions| permissions.names().join(","));
    let found = role::Entity::find().filter(role::Column::Name.eq(entry.name.trim())).one(connection).await?;
    let Some(found) = found else {
        RoleForm::check_new(&entry.name, entry.description.as_deref().unwrap_or_default()).map_err(
            |error| match error {
                AccountError::Invalid { field, problem } => AccountError::Invalid {
                    field: "roles",
                    problem: format!("{}: its {field} {problem}", entry.name.trim()),
                },
                error => error,
            },
        )?;
        let row = role::ActiveModel {
            id: NotSet,
            name: Set(entry.name.trim().to_owned()),
            description: Set(entry.description.clone()),
            permissions: Set(Some(permissions.unwrap_or_default())),
            update_datetime: Set(now),
            requires_second_factor: Set(false),
        };
        let row = row.insert(connection).await?;
        audit::record(ctx, connection, Event::new("create", "role", row.id, &row.name).after(shown_role(&row))).await?;
        return Ok(Some(row));
    };
    if !existing.is_overwritten() {
        return Ok(None);
    }
    let before = shown_role(&found);
    let is_admin = found.name == "admin";
    let mut changed = found.into_active_model();
    changed.description = entry.description.clone().map_or(changed.description, |text| Set(Some(text)));
    // At least one role must keep all permissions: older files list fewer permissions than exist now.
    if !is_admin {
        changed.permissions = permissions.map_or(changed.permissions, |names| Set(Some(names)));
    }
    changed.update_datetime = Set(now);
    let row = changed.update(connection).await?;
    let event = Event::new("update", "role", row.id, &row.name).changed(&before, &shown_role(&row));
    audit::record(ctx, connection, event).await?;
    Ok(Some(row))
}

fn shown_role(row: &role::Model) -> serde_json::Value {
    serde_json::json!({ "name": row.name, "description": row.description, "permissions": row.permissions })
}

async fn set_system(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    entry: &SystemEntry,
    existing: Existing,
    now: NaiveDateTime,
) -> Result<Option<external_system::Model>, DbErr> {
    let Ok(name) = Label::parse(&entry.system_name) else { return Ok(None) };
    let registered = register::external_system(ctx, connection, &name, now).await?;
    if !registered.is_new && !existing.is_overwritten() {
        return Ok(None);
    }
    let Some(row) = external_system::Entity::find_by_id(registered.id).one(connection).await? else { return Ok(None) };
    match &entry.url {
        Some(url) => revise::set_system_url(ctx, connection, row, url, now).await.map(Some),
        None => Ok(Some(row)),
    }
}

async fn set_scantype(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    entry: &ScantypeEntry,
    existing: Existing,
) -> Result<Option<scantype::Model>, DbErr> {
    let registered = register::scantype(ctx, connection, entry.modality.trim(), entry.protocol.trim()).await?;
    if !registered.is_new && !existing.is_overwritten() {
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
    audit::record(ctx, connection, event).await?;
    Ok(Some(row))
}
