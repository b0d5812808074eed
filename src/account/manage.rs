//! Changes of accounts and roles by administrators. Each drops the cached logins of this process.

use std::collections::BTreeSet;

use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::Expr;
use sea_orm::{ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter, QuerySelect};
use uuid::Uuid;

use serde_json::json;

use crate::audit::{self, Event};
use crate::context::Context;
use crate::database;
use crate::entity::{role, roles_users, session, user};
use crate::mail::link;

use super::scope::check_still_scoped;
use super::user::{check_field, check_unique, insert, is_weak};
use super::{AccountError, Accounts, NewUser, Permission};

/// Fields of an account to change. `None` leaves a field unchanged.
#[derive(Debug, Clone, Default)]
pub struct UserChanges {
    pub username: Option<String>,
    pub name: Option<String>,
    pub email: Option<String>,
    pub password: Option<String>,
    pub active: Option<bool>,
}

/// A role with its permissions.
#[derive(Debug, Clone)]
pub struct RoleRecord {
    pub row: role::Model,
    pub permissions: BTreeSet<Permission>,
}

impl From<role::Model> for RoleRecord {
    fn from(row: role::Model) -> Self {
        Self { permissions: row.permissions.as_deref().map(Permission::parse_all).unwrap_or_default(), row }
    }
}

impl Accounts {
    /// Creates an account. The password is accepted unchecked.
    ///
    /// # Errors
    /// [`AccountError::Invalid`], [`AccountError::Exists`] and [`AccountError::UnknownRole`].
    pub async fn create(&self, ctx: &Context, new: &NewUser) -> Result<user::Model, AccountError> {
        super::user::check(new)?;
        let hash = self.passwords.hash(&new.password).await?;
        let transaction = self.database.begin().await?;
        let row = insert(ctx, &*transaction, new, (hash, self.is_weak_of(new)), self.clock.now()).await?;
        transaction.commit().await?;
        self.warn_if_weak(&row);
        self.logins.forget_all();
        Ok(row)
    }

    /// Changes an account if `seen` accepts its current state. A new password ends all its sessions.
    ///
    /// # Errors
    /// [`AccountError::Unknown`], [`AccountError::Invalid`], [`AccountError::Exists`] and [`AccountError::Changed`].
    pub async fn update(
        &self,
        ctx: &Context,
        id: i32,
        changes: UserChanges,
        seen: impl FnOnce(&user::Model) -> bool,
    ) -> Result<user::Model, AccountError> {
        for (field, value) in [("username", &changes.username), ("name", &changes.name), ("email", &changes.email)] {
            if let Some(value) = value {
                check_field(field, value)?;
            }
        }
        let hash = match changes.password.as_deref() {
            Some("") => return Err(AccountError::Invalid { field: "password", problem: "is empty".to_owned() }),
            Some(password) => Some(self.passwords.hash(password).await?),
            None => None,
        };
        let transaction = self.database.begin().await?;
        let row = user::Entity::find_by_id(id).lock_exclusive().one(&*transaction).await?;
        let row = row.ok_or(AccountError::Unknown)?;
        if !seen(&row) {
            return Err(AccountError::Changed);
        }
        if row.active && changes.active == Some(false) {
            check_other_admin(&*transaction, id).await?;
            // Access that another person may have obtained must not return when the account is reactivated.
            end_access(ctx, &*transaction, id, self.clock.now()).await?;
        }
        let username = changes.username.clone().unwrap_or_else(|| row.username.clone());
        let name = changes.name.clone().unwrap_or_else(|| row.name.clone());
        let email = changes.email.clone().unwrap_or_else(|| row.email.clone());
        // Only if they change: of two imported accounts that differ in their case only, each can still be deactivated.
        if username.trim() != row.username || email.trim() != row.email {
            check_unique(&*transaction, Some(id), &username, &email).await?;
        }
        if let Some(email) = changes.email.as_deref().filter(|email| *email != row.email) {
            super::user::check_email(email, &username)?;
        }
        let (before, seen_row) = (shown(&row), row.clone());
        let (confirmed_at, old_email) = (row.confirmed_at, row.email.clone());
        let mut changed = row.into_active_model();
        changed.username = changes.username.map_or(changed.username, |value| Set(value.trim().to_owned()));
        changed.name = changes.name.map_or(changed.name, |value| Set(value.trim().to_owned()));
        changed.email = changes.email.map_or(changed.email, |value| Set(value.trim().to_owned()));
        changed.active = changes.active.map_or(changed.active, Set);
        changed.declined_at = Set(declined(&seen_row, changes.active, self.clock.now()));
        changed.update_datetime = Set(Some(self.clock.now()));
        let has_new_password = hash.is_some();
        if let Some(password) = &changes.password {
            changed.weak_password = Set(self.is_weak(password, [&username, &name, &email]));
        }
        if let Some(hash) = hash {
            changed.password = Set(hash);
            changed.fs_uniquifier = Set(Uuid::new_v4().simple().to_string());
            // The person who sets the password vouches for the account.
            changed.confirmed_at = Set(confirmed_at.or(Some(self.clock.now())));
            end_access(ctx, &*transaction, id, self.clock.now()).await?;
        }
        let row = changed.update(&*transaction).await.map_err(|error| match database::is_duplicate(&error) {
            true => AccountError::Exists,
            false => error.into(),
        })?;
        if !row.email.eq_ignore_ascii_case(&old_email) {
            self.tell_old_address(&*transaction, &row, old_email).await?;
        }
        self.tell_let_in(&*transaction, seen_row.active, &row).await?;
        let mut after = shown(&row);
        if has_new_password {
            after["password"] = json!("changed");
        }
        let event = Event::new("update", "user", id, &row.username).changed(&before, &after);
        audit::record(ctx, &*transaction, event).await?;
        transaction.commit().await?;
        if has_new_password {
            self.warn_if_weak(&row);
        }
        self.logins.forget_all();
        Ok(row)
    }

    /// Adds a role to a user, or removes it. A role that the user already has is unchanged, even if it is limited to
    /// some cohorts.
    ///
    /// # Errors
    /// [`AccountError::LastAdmin`] and [`AccountError::LastScope`].
    pub async fn set_role(
        &self,
        ctx: &Context,
        user_id: i32,
        role_id: i32,
        has_role: bool,
    ) -> Result<(), AccountError> {
        let transaction = self.database.begin().await?;
        // Locked: otherwise, of two roles that are removed at the same time, neither would be recognized as the last.
        let user = user::Entity::find_by_id(user_id).lock_exclusive().one(&*transaction).await?;
        let held = roles_users::Entity::find_by_id((user_id, role_id)).one(&*transaction).await?;
        match (held, has_role) {
            (None, true) => {
                let link = roles_users::ActiveModel { user_id: Set(user_id), role_id: Set(role_id) };
                match roles_users::Entity::insert(link).exec_without_returning(&*transaction).await {
                    Err(error) if database::is_duplicate(&error) => return Ok(()),
                    outcome => outcome?,
                };
            }
            (Some(_), false) => {
                let role = role::Entity::find_by_id(role_id).one(&*transaction).await?;
                if role.is_some_and(|role| role.name == "admin") {
                    check_other_admin(&*transaction, user_id).await?;
                }
                check_still_scoped(&*transaction, user_id, &[role_id]).await?;
                roles_users::Entity::delete_by_id((user_id, role_id)).exec(&*transaction).await?;
            }
            _ => return Ok(()),
        }
        let role = role::Entity::find_by_id(role_id).one(&*transaction).await?;
        if let (Some(user), Some(role)) = (user, role) {
            let event = Event::new(if has_role { "give_role" } else { "take_role" }, "user", user_id, &user.username);
            let role = json!({ "role": role.name });
            audit::record(ctx, &*transaction, if has_role { event.after(role) } else { event.before(role) }).await?;
        }
        transaction.commit().await?;
        self.logins.forget_all();
        Ok(())
    }

    /// Checks whether an account can be created from this.
    ///
    /// # Errors
    /// [`AccountError::Invalid`].
    pub fn check(&self, new: &NewUser) -> Result<(), AccountError> {
        super::user::check(new)
    }

    /// Creates an account inside a transaction of the caller, who then calls [`Self::forget_logins`].
    ///
    /// # Errors
    /// As [`Self::create`].
    pub async fn insert(
        &self,
        ctx: &Context,
        connection: &impl ConnectionTrait,
        new: &NewUser,
        hash: String,
        now: chrono::NaiveDateTime,
    ) -> Result<user::Model, AccountError> {
        insert(ctx, connection, new, (hash, self.is_weak_of(new)), now).await
    }

    /// Whether a password is weak; `own` are the user name, name and address of the account.
    #[must_use]
    pub fn is_weak(&self, password: &str, own: [&str; 3]) -> bool {
        let [username, name, email] = own;
        is_weak(password, username, name, email, self.rules.security.password_length)
    }

    /// Logs a warning if the password that was just set is weak.
    pub fn warn_if_weak(&self, row: &user::Model) {
        if row.weak_password {
            tracing::warn!(user = %row.username, "account has a weak password");
        }
    }

    fn is_weak_of(&self, new: &NewUser) -> bool {
        self.is_weak(&new.password, [&new.username, &new.name, &new.email])
    }

    /// Drops all cached logins, after other code of this process has changed roles or accounts.
    pub fn forget_logins(&self) {
        self.logins.forget_all();
    }
}

/// When an account that was never used counts as declined, given whether it becomes active or not: an account that is
/// deactivated before its first login is no longer pending.
#[must_use]
pub fn declined(row: &user::Model, active: Option<bool>, now: chrono::NaiveDateTime) -> Option<chrono::NaiveDateTime> {
    match active {
        Some(true) => None,
        Some(false) if row.active && row.login_count == 0 => Some(now),
        _ => row.declined_at,
    }
}

/// The fields of an account in the audit log: never anything about a password.
pub(super) fn shown(row: &user::Model) -> serde_json::Value {
    json!({ "username": row.username, "name": row.name, "email": row.email, "active": row.active })
}

/// Changes of an account that its row does not show.
pub struct Reset<'a> {
    pub has_new_password: bool,
    /// The names of the roles before and after, in any order, if they were set.
    pub roles: Option<(&'a [String], &'a [String])>,
}

/// Records that a configuration file reset an account; does nothing if nothing changed.
pub async fn record_reset(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    before: &user::Model,
    after: &user::Model,
    reset: &Reset<'_>,
) -> Result<(), sea_orm::DbErr> {
    let (mut then, mut now) = (shown(before), shown(after));
    if reset.has_new_password {
        now["password"] = json!("changed");
    }
    if let Some((held, wanted)) = reset.roles {
        then["roles"] = json!(held.iter().collect::<BTreeSet<_>>());
        now["roles"] = json!(wanted.iter().collect::<BTreeSet<_>>());
    }
    if then == now && before.confirmed_at == after.confirmed_at {
        return Ok(());
    }
    let event = Event::new("update", "user", after.id, &after.username).changed(&then, &now);
    audit::record(ctx, connection, event).await
}

/// Ends all tokens, sessions and links of a user, because the password has changed (the old one may have leaked) or the
/// account was deactivated.
pub async fn end_access(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    user_id: i32,
    now: chrono::NaiveDateTime,
) -> Result<(), sea_orm::DbErr> {
    use crate::entity::api_token::{Column, Entity};
    let tokens = Entity::update_many()
        .col_expr(Column::RevokedAt, Expr::value(now))
        .filter(Column::UserId.eq(user_id))
        .filter(Column::RevokedAt.is_null());
    let tokens = tokens.exec(connection).await?.rows_affected;
    let sessions = session::Entity::delete_many().filter(session::Column::UserId.eq(user_id));
    let sessions = sessions.exec(connection).await?.rows_affected;
    if tokens + sessions > 0 {
        let name = user::Entity::find_by_id(user_id).one(connection).await?.map(|row| row.username);
        let event = Event::new("end_access", "user", user_id, name.unwrap_or_default());
        audit::record(ctx, connection, event.after(json!({ "sessions": sessions, "tokens": tokens }))).await?;
    }
    link::end_all(connection, user_id, now).await
}

/// Whether an active user has the role `admin`.
pub async fn has_admin(connection: &impl ConnectionTrait) -> Result<bool, sea_orm::DbErr> {
    let role = role::Entity::find().filter(role::Column::Name.eq("admin")).one(connection).await?;
    let Some(role) = role else { return Ok(false) };
    let holders = roles_users::Entity::find()
        .filter(roles_users::Column::RoleId.eq(role.id))
        .find_also_related(user::Entity)
        .all(connection)
        .await?;
    Ok(holders.iter().any(|(_, user)| user.as_ref().is_some_and(|user| user.active)))
}

/// At least one administrator must remain. Locked, so that two administrators cannot remove each other at the same
/// time.
async fn check_other_admin(connection: &impl ConnectionTrait, user_id: i32) -> Result<(), AccountError> {
    let role = role::Entity::find().filter(role::Column::Name.eq("admin")).lock_exclusive().one(connection).await?;
    let Some(role) = role else { return Ok(()) };
    let holders: Vec<i32> = roles_users::Entity::find()
        .select_only()
        .column(roles_users::Column::UserId)
        .filter(roles_users::Column::RoleId.eq(role.id))
        .into_tuple()
        .all(connection)
        .await?;
    if !holders.contains(&user_id) {
        return Ok(());
    }
    let active = user::Entity::find().filter(user::Column::Id.is_in(holders)).filter(user::Column::Active.eq(true));
    match active.all(connection).await?.iter().any(|other| other.id != user_id) {
        true => Ok(()),
        false => Err(AccountError::LastAdmin),
    }
}

/// Gives a user exactly these roles. Roles that the user already has are unchanged, whether for the whole study or for
/// some cohorts. Returns the names of the previous roles. A helper: the caller owns the transaction.
///
/// # Errors
/// [`AccountError::UnknownRole`] and [`AccountError::LastScope`].
pub async fn replace_roles(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    user: &user::Model,
    roles: &[String],
) -> Result<Vec<String>, AccountError> {
    // Locked as in `set_role`.
    user::Entity::find_by_id(user.id).lock_exclusive().one(connection).await?;
    let of_user = roles_users::Entity::find().filter(roles_users::Column::UserId.eq(user.id));
    let held = of_user.find_also_related(role::Entity).all(connection).await?;
    let held: Vec<role::Model> = held.into_iter().filter_map(|(_, role)| role).collect();
    let taken: Vec<i32> = held.iter().filter(|role| !roles.contains(&role.name)).map(|role| role.id).collect();
    check_still_scoped(connection, user.id, &taken).await?;
    roles_users::Entity::delete_many()
        .filter(roles_users::Column::UserId.eq(user.id))
        .filter(roles_users::Column::RoleId.is_in(taken))
        .exec(connection)
        .await?;
    let missing = |name: &&String| !held.iter().any(|role| role.name == **name);
    let missing: Vec<String> = roles.iter().filter(missing).cloned().collect();
    super::user::add_roles(ctx, connection, user, &missing, &BTreeSet::new()).await?;
    Ok(held.into_iter().map(|role| role.name).collect())
}
