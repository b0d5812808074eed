//! Creates the users of a configuration, or sets them to its values.

use std::collections::BTreeSet;

use chrono::NaiveDateTime;
use sea_orm::ActiveValue::Set;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, IntoActiveModel, QueryFilter,
    QueryOrder, QuerySelect,
};

use crate::account::{
    AccountError, Accounts, NewUser, PasswordError, Reset, check_unique, declined, end_access, record_reset,
    replace_roles,
};
use crate::context::Context;
use crate::database::Database;
use crate::entity::user;

use super::configuration::UserEntry;
use super::configure::Existing;

/// The treatment of an account's password, determined before the transaction begins because hashing is slow.
pub(super) enum Password {
    /// The account exists and is not changed.
    Untouched,
    /// It matches this hash, which the account has already.
    Same(String),
    /// This is its hash.
    New(String),
    /// Only a plan was requested, so nothing is hashed.
    Planned,
}

/// Checks an entry and determines the treatment of its password.
pub(super) async fn prepare(
    database: &Database,
    accounts: &Accounts,
    entry: &UserEntry,
    existing: Existing,
    is_kept: bool,
) -> Result<Password, AccountError> {
    accounts.check(&new_user(entry))?;
    let found = same_as(entry).all(database.reader()).await?;
    match found.as_slice() {
        [_, ..] if !existing.is_overwritten() => return Ok(Password::Untouched),
        [row] if accounts.passwords().fits(&entry.password, &row.password).await => {
            return Ok(Password::Same(row.password.clone()));
        }
        _ => {}
    }
    match is_kept {
        true => Ok(Password::New(accounts.passwords().hash(&entry.password).await?)),
        false => Ok(Password::Planned),
    }
}

impl Password {
    /// Whether it is the password that hashes to `stored`, which needs no change.
    fn is_that_of(&self, stored: &str) -> bool {
        matches!(self, Self::Same(hash) if hash == stored)
    }

    async fn hash(self, accounts: &Accounts, entry: &UserEntry) -> Result<String, PasswordError> {
        match self {
            Self::New(hash) => Ok(hash),
            Self::Planned => Ok(String::new()),
            // Another caller changed the account after `prepare` had read it.
            Self::Untouched | Self::Same(_) => accounts.passwords().hash(&entry.password).await,
        }
    }
}

/// Locks the accounts that are going to be changed, before their roles: all verbs lock in this order.
pub(super) async fn lock_users(connection: &impl ConnectionTrait, entries: &[UserEntry]) -> Result<(), DbErr> {
    let names = entries.iter().map(|entry| entry.username.trim().to_owned());
    let addresses = entries.iter().map(|entry| entry.email.trim().to_owned());
    let same = Condition::any().add(user::Column::Username.is_in(names)).add(user::Column::Email.is_in(addresses));
    let locked = user::Entity::find().filter(same).order_by_asc(user::Column::Id).lock_exclusive();
    locked.all(connection).await.map(drop)
}

/// Accounts with this user name or this e-mail address.
fn same_as(entry: &UserEntry) -> sea_orm::Select<user::Entity> {
    let same = Condition::any()
        .add(user::Column::Username.eq(entry.username.trim()))
        .add(user::Column::Email.eq(entry.email.trim()));
    user::Entity::find().filter(same)
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

/// Creates the account of an entry, or sets it to the values of the entry. An account that has these values is not changed, and its
/// sessions and tokens stay valid. Returns `None` if the account exists and must not be changed.
pub(super) async fn set_user(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    accounts: &Accounts,
    entry: &UserEntry,
    password: Password,
    existing: Existing,
    now: NaiveDateTime,
) -> Result<Option<user::Model>, AccountError> {
    let mut found = same_as(entry).all(connection).await?;
    let Some(row) = found.pop() else {
        let hash = password.hash(accounts, entry).await?;
        return Ok(Some(accounts.insert(ctx, connection, &new_user(entry), hash, now).await?));
    };
    if !existing.is_overwritten() {
        // A new name with the e-mail address of an existing user: skipping it silently would go unnoticed.
        if row.username.to_lowercase() != entry.username.trim().to_lowercase() {
            let problem = format!(
                "{}: the address {} is already used by \
                {}",
                entry.username, entry.email, row.username
            );
            return Err(AccountError::Invalid { field: "users", problem });
        }
        return Ok(None);
    }
    // The name belongs to one user and the address to another.
    if !found.is_empty() {
        return Err(AccountError::Exists);
    }
    let before = row.clone();
    if before.username != entry.username.trim() || before.email != entry.email.trim() {
        check_unique(connection, Some(before.id), &entry.username, &entry.email).await?;
    }
    let has_new_password = !password.is_that_of(&row.password);
    if existing == Existing::OverwrittenButCredentials && (has_new_password || before.email != entry.email.trim()) {
        return Err(AccountError::NotWithToken);
    }
    if has_new_password || (row.active && entry.active == Some(false)) {
        end_access(ctx, connection, row.id, now).await?;
    }
    let mut changed = row.into_active_model();
    changed.username.set_if_not_equals(entry.username.trim().to_owned());
    changed.email.set_if_not_equals(entry.email.trim().to_owned());
    if let Some(name) = &entry.name {
        changed.name.set_if_not_equals(name.clone());
    }
    if let Some(active) = entry.active {
        changed.active.set_if_not_equals(active);
    }
    changed.declined_at.set_if_not_equals(declined(&before, entry.active, now));
    // The caller vouches for the address, so it counts as confirmed.
    changed.confirmed_at.set_if_not_equals(before.confirmed_at.or(Some(now)));
    if has_new_password {
        changed.password = Set(password.hash(accounts, entry).await?);
        let named = entry.name.as_deref().unwrap_or(&before.name);
        changed.weak_password = Set(accounts.is_weak(&entry.password, [&entry.username, named, &entry.email]));
        changed.fs_uniquifier = Set(uuid::Uuid::new_v4().simple().to_string());
    }
    let row = if changed.is_changed() {
        changed.update_datetime = Set(Some(now));
        changed.update(connection).await?
    } else {
        before.clone()
    };
    accounts.tell_let_in(connection, before.active, &row).await?;
    let held = match &entry.roles {
        Some(roles) => Some((replace_roles(ctx, connection, &row, roles).await?, roles.as_slice())),
        None => None,
    };
    let roles = held.as_ref().map(|(held, wanted)| (held.as_slice(), *wanted));
    record_reset(ctx, connection, &before, &row, &Reset { has_new_password, roles }).await?;
    Ok(Some(row))
}
