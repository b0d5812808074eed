//! Users and their rights; creating accounts.

use std::collections::BTreeSet;

use chrono::NaiveDateTime;
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::sea_query::{Expr, ExprTrait, Func};
use sea_orm::{ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, QueryFilter};
use uuid::Uuid;

use crate::audit::{self, Event};
use crate::context::Context;
use crate::database::{self, folded};
use crate::entity::{role, roles_users, user};
use crate::study::label::is_invisible;

use super::scope::{Scope, cohorts_of, give_for};
use super::strength::judge;
use super::{PasswordError, Permission};

/// A logged-in user, with the permissions of the roles.
#[derive(Debug, Clone)]
pub struct User {
    pub id: i32,
    pub username: String,
    pub name: String,
    pub email: String,
    /// Permissions that hold in at least one cohort.
    pub permissions: BTreeSet<Permission>,
    /// All permissions of the roles, including those that do not hold because a role is limited to some cohorts: that
    /// can change.
    granted: BTreeSet<Permission>,
    /// The part of the study that this user sees; `None` for all of it.
    pub(super) scope: Option<Scope>,
    /// Names of the roles.
    pub roles: BTreeSet<String>,
    /// Changes with the password, so that sessions end with it.
    pub uniquifier: String,
    /// Each login requires a code.
    pub has_second_factor: bool,
    /// A role requires a second factor, and the user must set it up before doing anything else.
    pub must_enrol: bool,
}

impl User {
    /// Whether this user is an administrator, that is, has the role `admin`.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.roles.contains("admin")
    }

    /// Whether the user has all of these rights: users must not manage accounts or roles that exceed their own rights,
    /// since a person who sets the password of an account can use it.
    #[must_use]
    pub fn reaches(&self, is_admin: bool, permissions: &BTreeSet<Permission>) -> bool {
        // Permission to read all accounts includes the user's own.
        let has =
            |one: &Permission| self.may(*one) || (*one == Permission::UserRead && self.may(Permission::UserReadAll));
        self.is_admin() || (!is_admin && permissions.iter().all(has))
    }

    /// Whether one of the roles holds the permission, even if it does not hold because a role is limited to some
    /// cohorts.
    #[must_use]
    pub fn holds(&self, permission: Permission) -> bool {
        self.granted.contains(&permission)
    }

    /// The same for an account, with all permissions of its roles: those that a limit to some cohorts suspends return
    /// when the role is given for the whole study.
    #[must_use]
    pub fn reaches_account(&self, other: &Self) -> bool {
        self.reaches(other.is_admin(), &other.granted)
    }

    /// Whether one of the roles permits it.
    #[must_use]
    pub fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(&permission)
    }
}

/// Input for creating an account.
#[derive(Debug, Clone)]
pub struct NewUser {
    pub username: String,
    pub name: String,
    pub email: String,
    pub password: String,
    pub active: bool,
    pub roles: Vec<String>,
    /// The roles are limited to these cohorts; they are for the whole study if there are none.
    pub cohorts: BTreeSet<i32>,
}

/// Why an operation on an account was rejected.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    #[error("{field}: {problem}")]
    Invalid { field: &'static str, problem: String },
    #[error("this user name or e-mail address is already in use")]
    Exists,
    #[error("this is the last active administrator account")]
    LastAdmin,
    #[error(
        "removing the last cohort-limited role would give access to the whole study. If that is intended, first \
        assign the role for the whole study; otherwise deactivate the account"
    )]
    LastScope,
    #[error("this user does not exist")]
    Unknown,
    /// The account or role has changed since the caller read it.
    #[error("the account has changed since it was read")]
    Changed,
    /// A person who finds a token could otherwise make its access permanent.
    #[error("API tokens cannot change passwords or e-mail addresses; log in with a password.")]
    NotWithToken,
    #[error("unknown role '{0}'")]
    UnknownRole(String),
    #[error(transparent)]
    Password(#[from] PasswordError),
    #[error(transparent)]
    Database(#[from] DbErr),
}

/// The active user with this id.
pub(super) async fn find_active(connection: &impl ConnectionTrait, id: i32) -> Result<Option<User>, DbErr> {
    let row = user::Entity::find_by_id(id).filter(user::Column::Active.eq(true)).one(connection).await?;
    match row {
        Some(row) => Ok(Some(with_permissions(connection, row).await?)),
        None => Ok(None),
    }
}

/// The user with this id, active or not.
pub(super) async fn find(connection: &impl ConnectionTrait, id: i32) -> Result<Option<User>, DbErr> {
    match user::Entity::find_by_id(id).one(connection).await? {
        Some(row) => Ok(Some(with_permissions(connection, row).await?)),
        None => Ok(None),
    }
}

/// A name or address must not equal the name or address of another account in any case, as users log in with either.
pub async fn check_unique(
    connection: &impl ConnectionTrait,
    own: Option<i32>,
    username: &str,
    email: &str,
) -> Result<(), AccountError> {
    let lower = |column| Expr::expr(Func::lower(Expr::col(column)));
    let names = [folded(username), folded(email)].concat();
    let same = Condition::any()
        .add(lower(user::Column::Email).is_in(names.clone()))
        .add(lower(user::Column::Username).is_in(names));
    let found = user::Entity::find().filter(same).all(connection).await?;
    // A user's name may equal the user's own address.
    match found.iter().any(|row| Some(row.id) != own) {
        true => Err(AccountError::Exists),
        false => Ok(()),
    }
}

pub(super) async fn with_permissions(connection: &impl ConnectionTrait, row: user::Model) -> Result<User, DbErr> {
    let roles = roles_users::Entity::find()
        .filter(roles_users::Column::UserId.eq(row.id))
        .find_also_related(role::Entity)
        .all(connection)
        .await?;
    let roles: Vec<role::Model> = roles.into_iter().filter_map(|(_, role)| role).collect();
    let cohorts = cohorts_of(connection, [row.id]).await?.remove(&row.id).unwrap_or_default();
    let scope = Scope::of(&roles, &cohorts);
    let granted: BTreeSet<Permission> =
        roles.iter().filter_map(|role| role.permissions.as_deref()).flat_map(Permission::parse_all).collect();
    let permissions = scope.as_ref().map_or_else(|| granted.clone(), Scope::permissions);
    let wants_factor = roles.iter().any(|role| role.requires_second_factor);
    let has_second_factor = row.second_factor_at.is_some();
    Ok(User {
        id: row.id,
        has_second_factor,
        must_enrol: wants_factor && !has_second_factor,
        username: row.username,
        name: row.name,
        email: row.email,
        permissions,
        granted,
        scope,
        roles: roles.into_iter().map(|role| role.name).collect(),
        uniquifier: row.fs_uniquifier,
    })
}

/// Checks whether a name or address is valid.
pub(super) fn check_field(field: &'static str, value: &str) -> Result<(), AccountError> {
    let invalid = |problem: &str| Err(AccountError::Invalid { field, problem: problem.to_owned() });
    let most = if field == "email" { 255 } else { 64 };
    if value.trim().is_empty() {
        return invalid("is empty");
    }
    // Two names that look alike would be two accounts.
    if value.chars().count() > most || value.chars().any(|c| c.is_control() || is_invisible(c)) {
        return invalid(&format!("must be at most {most} characters without control characters"));
    }
    Ok(())
}

/// Version 8.1 stores the user name as the address of users who have none.
pub(super) fn check_email(email: &str, username: &str) -> Result<(), AccountError> {
    match email.contains('@') || email.trim() == username.trim() {
        true => Ok(()),
        false => Err(AccountError::Invalid { field: "email", problem: "is not a valid e-mail address".to_owned() }),
    }
}

pub(super) fn check(new: &NewUser) -> Result<(), AccountError> {
    let invalid = |field, problem: &str| Err(AccountError::Invalid { field, problem: problem.to_owned() });
    for (field, value) in [("username", &new.username), ("name", &new.name), ("email", &new.email)] {
        check_field(field, value)?;
    }
    check_email(&new.email, &new.username)?;
    if new.password.is_empty() {
        return invalid("password", "is empty");
    }
    Ok(())
}

/// Whether a password is too weak to be accepted by a form.
pub(super) fn is_weak(password: &str, username: &str, name: &str, email: &str, least: usize) -> bool {
    judge(password, &[username, name, email], least).problem.is_some()
}

/// Creates an account; a `hash` comes with whether its password is weak.
pub(super) async fn insert(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    new: &NewUser,
    (hash, is_weak): (String, bool),
    now: NaiveDateTime,
) -> Result<user::Model, AccountError> {
    check_unique(connection, None, &new.username, &new.email).await?;
    let row = user::ActiveModel {
        id: NotSet,
        username: Set(new.username.trim().to_owned()),
        name: Set(new.name.trim().to_owned()),
        email: Set(new.email.trim().to_owned()),
        password: Set(hash),
        active: Set(new.active),
        fs_uniquifier: Set(Uuid::new_v4().simple().to_string()),
        confirmed_at: Set(Some(now)),
        last_login_at: Set(None),
        current_login_at: Set(None),
        last_login_ip: Set(None),
        current_login_ip: Set(None),
        login_count: Set(0),
        tf_totp_secret: Set(None),
        create_time: Set(now),
        update_datetime: Set(Some(now)),
        weak_password: Set(is_weak),
        second_factor_at: Set(None),
        last_code_step: Set(0),
        declined_at: Set(None),
    };
    let user = row.insert(connection).await.map_err(|error| match database::is_duplicate(&error) {
        true => AccountError::Exists,
        false => error.into(),
    })?;
    if !new.cohorts.is_empty() && new.roles.is_empty() {
        let problem = "requires a role: without a role, an account cannot be limited to cohorts".to_owned();
        return Err(AccountError::Invalid { field: "cohorts", problem });
    }
    add_roles(ctx, connection, &user, &new.roles, &new.cohorts).await?;
    let mut after = super::manage::shown(&user);
    after["roles"] = serde_json::json!(new.roles);
    audit::record(ctx, connection, Event::new("create", "user", user.id, &user.username).after(after)).await?;
    Ok(user)
}

/// Gives roles to a user who has none of them, for these cohorts only or, if there are none, for the whole study.
pub(super) async fn add_roles(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    user: &user::Model,
    roles: &[String],
    cohorts: &BTreeSet<i32>,
) -> Result<(), AccountError> {
    let distinct: BTreeSet<&String> = roles.iter().collect();
    for name in distinct {
        let role = role::Entity::find().filter(role::Column::Name.eq(name)).one(connection).await?;
        // MariaDB treats 'admin ' as 'admin', but the check of which roles a user may assign does not.
        let role = role.filter(|role| role.name == *name).ok_or_else(|| AccountError::UnknownRole(name.clone()))?;
        if !cohorts.is_empty() {
            give_for(ctx, connection, user, &role, cohorts).await?;
            continue;
        }
        // The event about the account names them.
        let link = roles_users::ActiveModel { user_id: Set(user.id), role_id: Set(role.id) };
        roles_users::Entity::insert(link).exec_without_returning(connection).await?;
    }
    Ok(())
}
