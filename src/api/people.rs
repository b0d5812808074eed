//! Users and roles, for both versions.

use std::collections::BTreeSet;

use serde::Deserialize;
use utoipa::ToSchema;

use crate::account::{AccountError, NewUser, Permission, UserChanges};
use crate::app::App;
use crate::context::Context;
use crate::entity::{role, user};
use crate::http::HttpError;
use crate::study::Reference;

use super::access::{By, Caller};
use super::input::{Given, Problems};
use super::lookup;

/// Fields to create or update an account.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct UserBody {
    #[schema(value_type = Option<String>, example = "erin", max_length = 64)]
    username: Given<String>,
    /// Stored as a hash only.
    #[schema(value_type = Option<String>, example = "a-long-passphrase")]
    password: Given<String>,
    #[schema(value_type = Option<String>, example = "Erin Example", max_length = 64)]
    name: Given<String>,
    #[schema(value_type = Option<String>, example = "erin@example.com", max_length = 255)]
    email: Given<String>,
    #[schema(value_type = Option<bool>)]
    active: Given<bool>,
}

pub(super) async fn create_user(ctx: &Context, app: &App, body: UserBody) -> Result<user::Model, HttpError> {
    let mut problems = Problems::default();
    let username = problems.required("username", body.username);
    let password = problems.required("password", body.password);
    let name = problems.required("name", body.name);
    let email = problems.required("email", body.email);
    let active = problems.optional("active", body.active).unwrap_or(true);
    let ((username, password), (name, email)) = problems.all(username.zip(password).zip(name.zip(email)))?;
    let new = NewUser { username, name, email, password, active, roles: Vec::new(), cohorts: BTreeSet::new() };
    Ok(app.accounts.create(ctx, &new).await?)
}

async fn check_reach(app: &App, caller: &Caller, id: i32) -> Result<(), HttpError> {
    let found = app.accounts.find(id).await?.ok_or_else(|| HttpError::NotFound(format!("user {id}")))?;
    match caller.user.reaches_account(&found) {
        true => Ok(()),
        false => Err(beyond()),
    }
}

fn beyond() -> HttpError {
    HttpError::NotYours("You cannot manage an account or role with more permissions than yours.".to_owned())
}

fn check_rights(caller: &Caller, is_admin: bool, permissions: &BTreeSet<Permission>) -> Result<(), HttpError> {
    match caller.user.reaches(is_admin, permissions) {
        true => Ok(()),
        false => Err(beyond()),
    }
}

/// Assigns a role to a user, or removes it.
pub(super) async fn set_role(
    app: &App,
    caller: &Caller,
    user: &Reference,
    role: &Reference,
    has_role: bool,
) -> Result<(user::Model, role::Model), HttpError> {
    let ctx = &caller.ctx;
    let connection = app.statement();
    let user = lookup::user(ctx, connection, user).await?;
    let role = lookup::role(ctx, connection, role).await?;
    let permissions = role.permissions.as_deref().map(Permission::parse_all).unwrap_or_default();
    check_rights(caller, role.name == "admin", &permissions)?;
    // A role's requirements, and not only its permissions, can lock a user out.
    check_reach(app, caller, user.id).await?;
    app.accounts.set_role(ctx, user.id, role.id, has_role).await?;
    Ok((user, role))
}

/// The cohorts to which a role is limited.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct RoleCohortsBody {
    /// Labels, ids or URIs; null for the whole study.
    #[schema(value_type = Option<Vec<String>>, example = json!(["baseline"]))]
    cohorts: Given<Vec<String>>,
}

impl RoleCohortsBody {
    /// Assigns the role for these cohorts.
    pub(super) async fn give(
        self,
        app: &App,
        caller: &Caller,
        user: &Reference,
        role: &Reference,
    ) -> Result<(user::Model, role::Model), HttpError> {
        let ctx = &caller.ctx;
        let mut problems = Problems::default();
        let wanted = match self.cohorts {
            Given::Null => Some(Vec::new()),
            given => problems.required("cohorts", given).inspect(|cohorts| {
                if cohorts.is_empty() {
                    problems.add("cohorts", "must not be empty; use null to assign the role for the whole study");
                }
            }),
        };
        let wanted = problems.all(wanted)?;
        let connection = app.statement();
        let user = lookup::user(ctx, connection, user).await?;
        let role = lookup::role(ctx, connection, role).await?;
        let permissions = role.permissions.as_deref().map(Permission::parse_all).unwrap_or_default();
        check_rights(caller, role.name == "admin", &permissions)?;
        // It also changes where all other roles of the account hold.
        check_reach(app, caller, user.id).await?;
        let mut cohorts = BTreeSet::new();
        for text in wanted {
            cohorts.insert(lookup::cohort(ctx, connection, &Reference::label_first(&text)).await?.id);
        }
        app.accounts.give_role_for(ctx, user.id, role.id, &cohorts).await?;
        Ok((user, role))
    }
}

pub(super) async fn update_user(
    app: &App,
    caller: &Caller,
    id: i32,
    body: UserBody,
    seen: impl FnOnce(&user::Model) -> bool,
) -> Result<user::Model, HttpError> {
    let ctx = &caller.ctx;
    let mut problems = Problems::default();
    let changes = UserChanges {
        username: problems.optional("username", body.username),
        name: problems.optional("name", body.name),
        email: problems.optional("email", body.email),
        password: problems.optional("password", body.password),
        active: problems.optional("active", body.active),
    };
    problems.check()?;
    check_reach(app, caller, id).await?;
    if matches!(caller.by, By::Token(_)) && (changes.password.is_some() || changes.email.is_some()) {
        return Err(AccountError::NotWithToken.into());
    }
    Ok(app.accounts.update(ctx, id, changes, seen).await?)
}

/// An account is never deleted, only deactivated, because the history refers to it.
pub(super) async fn deactivate_user(app: &App, caller: &Caller, id: i32) -> Result<(), HttpError> {
    let ctx = &caller.ctx;
    check_reach(app, caller, id).await?;
    let changes = UserChanges { active: Some(false), ..UserChanges::default() };
    app.accounts.update(ctx, id, changes, |_| true).await?;
    Ok(())
}

/// A user, if the caller may see it: the caller with `user_read`, any user with `user_read_all`.
pub(super) async fn open_user(app: &App, caller: &Caller, id: i32) -> Result<user::Model, HttpError> {
    let ctx = &caller.ctx;
    let may_all = caller.user.may(Permission::UserReadAll);
    if !may_all {
        caller.clone().with(Permission::UserRead)?;
        if caller.user.id != id {
            return Err(HttpError::NotYours("You are not authorized to get this information".to_owned()));
        }
    }
    lookup::by_id::<user::Entity>(ctx, app.statement(), "user", id).await
}
