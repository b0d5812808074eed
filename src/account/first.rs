//! Bootstraps the built-in roles and the administrator account from the settings.

use std::collections::BTreeSet;

use chrono::NaiveDateTime;
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::sea_query::{Expr, ExprTrait, Func};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder,
    QuerySelect,
};
use uuid::Uuid;

use crate::audit::{self, Event};
use crate::config::AdminSettings;
use crate::context::Context;
use crate::database::{self, Database, folded};
use crate::entity::{role, roles_users, user};

use super::manage::{end_access, shown};
use super::password::Checked;
use super::role::shown as role_shown;
use super::user::{check, insert, is_weak};
use super::{AccountError, NewUser, Passwords, Permission};

/// Creates the built-in roles if there are no roles at all; otherwise ensures that `admin` has every permission.
pub async fn ensure_roles(ctx: &Context, database: &Database, now: NaiveDateTime) -> Result<(), DbErr> {
    let transaction = database.begin().await?;
    if role::Entity::find().one(&*transaction).await?.is_some() {
        fill_up_admin(ctx, &*transaction, now).await?;
        return transaction.commit().await;
    }
    for (name, permissions) in Permission::first_roles() {
        let names: Vec<&str> = permissions.into_iter().map(Permission::name).collect();
        let row = role::ActiveModel {
            id: NotSet,
            name: Set(name.to_owned()),
            description: Set(Some(name.to_owned())),
            permissions: Set(Some(names.join(","))),
            update_datetime: Set(now),
            requires_second_factor: Set(false),
        };
        match row.insert(&*transaction).await {
            Ok(row) => {
                let event = Event::new("create", "role", row.id, &row.name).after(role_shown(&row));
                audit::record(ctx, &*transaction, event).await?;
            }
            // Another server that starts at the same time has created them.
            Err(error) if database::is_duplicate(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    transaction.commit().await
}

/// Adds missing permissions to the role `admin`: the database of an older version has fewer, and no user can change
/// that role.
async fn fill_up_admin(ctx: &Context, connection: &impl ConnectionTrait, now: NaiveDateTime) -> Result<(), DbErr> {
    let admin = role::Entity::find().filter(role::Column::Name.eq("admin")).lock_exclusive().one(connection).await?;
    let Some(admin) = admin else { return Ok(()) };
    let held = admin.permissions.clone().unwrap_or_default();
    let known = Permission::parse_all(&held);
    let lacking = Permission::first_roles().into_iter().find(|(name, _)| *name == "admin");
    let lacking = lacking.into_iter().flat_map(|(_, all)| all).filter(|one| !known.contains(one)).map(Permission::name);
    let lacking: Vec<&str> = lacking.collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let shown = role_shown(&admin);
    let names = held.split(',').map(str::trim).filter(|name| !name.is_empty()).chain(lacking);
    let names = names.collect::<Vec<_>>().join(",");
    let mut changed = admin.into_active_model();
    changed.permissions = Set(Some(names));
    changed.update_datetime = Set(now);
    let row = changed.update(connection).await?;
    audit::record(ctx, connection, Event::new("update", "role", row.id, &row.name).changed(&shown, &role_shown(&row)))
        .await
}

/// Creates the administrator's account from the settings if it does not exist, or resets it if the settings say so.
///
/// # Errors
/// If the values are invalid, or the database fails.
pub async fn ensure_admin(
    ctx: &Context,
    database: &Database,
    passwords: &Passwords,
    admin: &AdminSettings,
    least: usize,
    now: NaiveDateTime,
) -> Result<(), AccountError> {
    // Compares in any case, as two names or addresses must not differ in their case only. Imported accounts may; then
    // the exact match is meant.
    let by = async |column: user::Column, value: &str| -> Result<Option<user::Model>, DbErr> {
        let value = value.trim();
        let same = Expr::expr(Func::lower(Expr::col(column))).is_in(folded(value));
        let found = user::Entity::find().filter(same).order_by_asc(user::Column::Id).all(database.reader()).await?;
        let exact = found.iter().find(|row| row.username == value || row.email == value);
        Ok(exact.or(found.first()).cloned())
    };
    let named = by(user::Column::Username, &admin.username).await?;
    let addressed = by(user::Column::Email, &admin.email).await?;
    if let (Some(named), Some(addressed)) = (&named, &addressed)
        && named.id != addressed.id
    {
        let problem = format!("{} is the address of user {}", admin.email, addressed.username);
        return Err(AccountError::Invalid { field: "STUDYGOV_ADMIN_EMAIL", problem });
    }
    let Some(row) = named.or(addressed) else {
        let new = NewUser {
            username: admin.username.clone(),
            name: "Administrator Account".to_owned(),
            email: admin.email.clone(),
            password: admin.password.clone(),
            active: true,
            roles: vec!["admin".to_owned()],
            cohorts: BTreeSet::new(),
        };
        check(&new)?;
        let hash = passwords.hash(&new.password).await?;
        let transaction = database.begin().await?;
        let is_weak = is_weak(&new.password, &new.username, &new.name, &new.email, least);
        return match insert(ctx, &*transaction, &new, (hash, is_weak), now).await {
            Ok(_) => Ok(transaction.commit().await?),
            Err(AccountError::Exists) => {
                drop(transaction);
                // Another server that starts at the same time has created it; otherwise the name is the address of
                // another account.
                match by(user::Column::Username, &admin.username).await? {
                    Some(_) => Ok(()),
                    None => Err(AccountError::Invalid {
                        field: "STUDYGOV_ADMIN_USERNAME",
                        problem: format!(
                            "{} (or {}) is already the user name or e-mail address of another \
                            account",
                            admin.username, admin.email
                        ),
                    }),
                }
            }
            Err(error) => Err(error),
        };
    };
    if !admin.force_update {
        return Ok(());
    }
    let user_id = row.id;
    let is_same = passwords.check(&admin.password, Some(&row.password)).await == Checked::Right;
    let before = shown(&row);
    let confirmed_at = row.confirmed_at;
    let mut changed = row.into_active_model();
    changed.email = Set(admin.email.clone());
    changed.active = Set(true);
    changed.declined_at = Set(None);
    changed.confirmed_at = Set(confirmed_at.or(Some(now)));
    changed.update_datetime = Set(Some(now));
    changed.weak_password = Set(is_weak(&admin.password, &admin.username, "", &admin.email, least));
    if !is_same {
        changed.password = Set(passwords.hash(&admin.password).await?);
        changed.fs_uniquifier = Set(Uuid::new_v4().simple().to_string());
    }
    let transaction = database.begin().await?;
    let row = changed.update(&*transaction).await?;
    let mut after = shown(&row);
    if !is_same {
        end_access(ctx, &*transaction, user_id, now).await?;
        after["password"] = serde_json::json!("changed");
    }
    let event = Event::new("update", "user", user_id, &row.username).changed(&before, &after);
    audit::record(ctx, &*transaction, event.because("STUDYGOV_ADMIN_FORCE_UPDATE")).await?;
    if let Some(role) = role::Entity::find().filter(role::Column::Name.eq("admin")).one(&*transaction).await?
        && roles_users::Entity::find_by_id((user_id, role.id)).one(&*transaction).await?.is_none()
    {
        let link = roles_users::ActiveModel { user_id: Set(user_id), role_id: Set(role.id) };
        roles_users::Entity::insert(link).exec_without_returning(&*transaction).await?;
        let event = Event::new("give_role", "user", user_id, &row.username);
        let event = event.after(serde_json::json!({ "role": role.name }));
        audit::record(ctx, &*transaction, event.because("STUDYGOV_ADMIN_FORCE_UPDATE")).await?;
    }
    transaction.commit().await?;
    Ok(())
}
