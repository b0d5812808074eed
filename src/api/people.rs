//! What both versions do with users and roles.

use serde::Deserialize;
use utoipa::ToSchema;

use crate::account::{NewUser, Permission, UserChanges};
use crate::app::App;
use crate::entity::user;
use crate::http::HttpError;

use super::access::Caller;
use super::input::{Given, Problems};
use super::lookup;

/// An account to be, or what is to be different about one.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct UserBody {
    #[schema(value_type = Option<String>, example = "erin", max_length = 64)]
    username: Given<String>,
    /// Taken as given; only its hash is kept.
    #[schema(value_type = Option<String>, example = "a-long-passphrase")]
    password: Given<String>,
    #[schema(value_type = Option<String>, example = "Erin Example", max_length = 64)]
    name: Given<String>,
    #[schema(value_type = Option<String>, example = "erin@example.com", max_length = 255)]
    email: Given<String>,
    #[schema(value_type = Option<bool>)]
    active: Given<bool>,
}

pub(super) async fn create_user(app: &App, body: UserBody) -> Result<user::Model, HttpError> {
    let mut problems = Problems::default();
    let username = problems.required("username", body.username);
    let password = problems.required("password", body.password);
    let name = problems.required("name", body.name);
    let email = problems.required("email", body.email);
    let active = problems.optional("active", body.active).unwrap_or(true);
    let ((username, password), (name, email)) = problems.all(username.zip(password).zip(name.zip(email)))?;
    let new = NewUser { username, name, email, password, active, roles: Vec::new() };
    Ok(app.accounts.create(&new).await?)
}

pub(super) async fn update_user(
    app: &App,
    id: i32,
    body: UserBody,
    seen: impl FnOnce(&user::Model) -> bool,
) -> Result<user::Model, HttpError> {
    let mut problems = Problems::default();
    let changes = UserChanges {
        username: problems.optional("username", body.username),
        name: problems.optional("name", body.name),
        email: problems.optional("email", body.email),
        password: problems.optional("password", body.password),
        active: problems.optional("active", body.active),
    };
    problems.check()?;
    Ok(app.accounts.update(id, changes, seen).await?)
}

/// An account is never deleted, it is deactivated: the history names it.
pub(super) async fn deactivate_user(app: &App, id: i32) -> Result<(), HttpError> {
    let changes = UserChanges { active: Some(false), ..UserChanges::default() };
    app.accounts.update(id, changes, |_| true).await?;
    Ok(())
}

/// A user, if the caller may see it: oneself with `user_read`, everybody with `user_read_all`.
pub(super) async fn open_user(app: &App, caller: &Caller, id: i32) -> Result<user::Model, HttpError> {
    let may_all = caller.user.may(Permission::UserReadAll);
    if !may_all {
        caller.check(Permission::UserRead)?;
        if caller.user.id != id {
            return Err(HttpError::NotYours("You are not authorized to get this information".to_owned()));
        }
    }
    lookup::by_id::<user::Entity>(app.engine.database().reader(), "user", id).await
}
