//! Users, roles, and tokens for scripts.

use std::collections::BTreeSet;

use axum::extract::{Path, State};
use chrono::{NaiveDateTime, TimeDelta};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::show::{Role, RoleList, Summary, User, UserList};
use crate::account::{NewToken, Permission};
use crate::api::access::{By, Caller, May};
use crate::api::input::{Body, Given, Number, Problems};
use crate::api::lookup::{self, by_id, moment};
use crate::api::output::{Addresses, Created, Extent, IfMatch, ListAddress, ListAnswer, Single, WindowQuery, Windowed};
use crate::api::people::{self, RoleCohortsBody, UserBody, open_user};
use crate::app::App;
use crate::context::Context;
use crate::database::Snapshot;
use crate::entity::{cohort, role, user};
use crate::http::needs::{RolesManage, UserAdd, UserDelete, UserReadAll, UserUpdateAll};
use crate::http::{Address, HttpError};
use crate::study::{Reference, Visible, listing};

/// Users.
#[utoipa::path(get, path = "/users", tag = "people", params(WindowQuery), security(("login" = ["user_read_all"])),
    responses((status = 200, body = UserList)))]
pub(super) async fn list_users(
    State(app): State<App>,
    May { caller, .. }: May<UserReadAll>,
    addresses: Addresses,
    address: ListAddress,
    Windowed(window): Windowed,
) -> Result<ListAnswer<UserList>, HttpError> {
    let ctx = &caller.ctx;
    let all = user::Entity::find();
    let listed =
        listing::list(ctx, &app.snapshot().await?, &app.totals, "users", all, user::Column::Id, window).await?;
    let extent = Extent::of(window, &listed, |row| row.id);
    let rows = listed.rows.into_iter().map(|row| addresses.user_summary(row)).collect();
    Ok(address.answer(&extent, UserList::new(rows, &extent)))
}

/// Creates an account without roles.
#[utoipa::path(post, path = "/users", tag = "people", request_body = UserBody, security(("login" = ["user_add"])),
    responses((status = 201, body = User)))]
pub(super) async fn create_user(
    State(app): State<App>,
    may: May<UserAdd>,
    addresses: Addresses,
    Body(body): Body<UserBody>,
) -> Result<Created<User>, HttpError> {
    let body = addresses.user(people::create_user(&may.caller.ctx, &app, body).await?);
    Ok(Created { location: body.uri.clone(), body })
}

/// A user: the caller, or any user with the permission `user_read_all`.
#[utoipa::path(get, path = "/users/{id}", tag = "people", params(("id" = i32, Path)),
    security(("login" = ["user_read"])), responses((status = 200, body = User)))]
pub(super) async fn get_user(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Number(id): Number,
) -> Result<Single<User>, HttpError> {
    Ok(Single(addresses.user(open_user(&app, &caller, id).await?)))
}

/// Changes an account. Omitted fields are unchanged. A new password ends all its sessions.
#[utoipa::path(put, path = "/users/{id}", tag = "people", params(("id" = i32, Path)), request_body = UserBody,
    security(("login" = ["user_update_all"])), responses((status = 200, body = User)))]
pub(super) async fn update_user(
    State(app): State<App>,
    may: May<UserUpdateAll>,
    addresses: Addresses,
    if_match: IfMatch,
    Number(id): Number,
    Body(body): Body<UserBody>,
) -> Result<Single<User>, HttpError> {
    let seen = |now: &user::Model| if_match.fits(&addresses.user(now.clone()));
    Ok(Single(addresses.user(people::update_user(&app, &may.caller, id, body, seen).await?)))
}

/// Deactivates an account. It is not deleted, because the history refers to it.
#[utoipa::path(delete, path = "/users/{id}", tag = "people", params(("id" = i32, Path)),
    security(("login" = ["user_delete"])), responses((status = 200, description = "null", body = Option<String>)))]
pub(super) async fn delete_user(
    State(app): State<App>,
    may: May<UserDelete>,
    Number(id): Number,
) -> Result<axum::Json<()>, HttpError> {
    people::deactivate_user(&app, &may.caller, id).await?;
    Ok(axum::Json(()))
}

/// Whether the user has the role.
#[derive(Serialize, ToSchema)]
pub(super) struct UserRole {
    #[schema(example = "superuser")]
    role: String,
    #[schema(example = "erin")]
    user: String,
    has_role: bool,
}

async fn set_role(
    app: &App,
    caller: &Caller,
    user: &str,
    role: &str,
    has_role: bool,
) -> Result<axum::Json<UserRole>, HttpError> {
    let (user, role) = (Reference::label_first(user), Reference::label_first(role));
    let (user, role) = people::set_role(app, caller, &user, &role, has_role).await?;
    Ok(axum::Json(UserRole { role: role.name, user: user.username, has_role }))
}

/// Assigns a role to a user, for the whole study. A role that the user already has is left unchanged.
#[utoipa::path(put, path = "/users/{username}/roles/{role_name}", tag = "people",
    params(("username" = String, Path), ("role_name" = String, Path)), security(("login" = ["roles_manage"])),
    responses((status = 200, body = UserRole)))]
pub(super) async fn add_user_role(
    State(app): State<App>,
    may: May<RolesManage>,
    Path((user, role)): Path<(String, String)>,
) -> Result<axum::Json<UserRole>, HttpError> {
    set_role(&app, &may.caller, &user, &role, true).await
}

/// Removes a role from a user. Responds with 409 for the last cohort-limited role, because removing it would give
/// access to the whole study.
#[utoipa::path(delete, path = "/users/{username}/roles/{role_name}", tag = "people",
    params(("username" = String, Path), ("role_name" = String, Path)), security(("login" = ["roles_manage"])),
    responses((status = 200, body = UserRole)))]
pub(super) async fn remove_user_role(
    State(app): State<App>,
    may: May<RolesManage>,
    Path((user, role)): Path<(String, String)>,
) -> Result<axum::Json<UserRole>, HttpError> {
    set_role(&app, &may.caller, &user, &role, false).await
}

/// The cohorts for which a user has a role.
#[derive(Serialize, ToSchema)]
pub(super) struct UserRoleCohorts {
    #[schema(example = "superuser")]
    role: String,
    #[schema(example = "erin")]
    user: String,
    has_role: bool,
    /// Null for the whole study, or if the user does not have the role.
    cohorts: Option<Vec<Summary>>,
}

async fn role_cohorts(
    ctx: &Context,
    app: &App,
    snapshot: &Snapshot,
    addresses: &Addresses,
    user: user::Model,
    role: role::Model,
) -> Result<Single<UserRoleCohorts>, HttpError> {
    let accounts = app.at(snapshot).accounts;
    let found = accounts.find(user.id).await?;
    let cohorts = accounts.role_cohorts(&[user.id]).await?;
    let cohorts = match cohorts.get(&user.id).and_then(|roles| roles.get(&role.id)) {
        None => None,
        Some(ids) => {
            let of_role = cohort::Entity::visible(ctx).filter(cohort::Column::Id.is_in(ids.iter().copied()));
            let of_role = of_role.order_by_asc(cohort::Column::Id);
            let rows = listing::named(of_role, (cohort::Column::Id, cohort::Column::Label), snapshot).await?;
            Some(addresses.summaries("cohorts", rows))
        }
    };
    let has_role = found.is_some_and(|found| found.roles.contains(&role.name));
    Ok(Single(UserRoleCohorts { role: role.name, user: user.username, has_role, cohorts }))
}

/// The cohorts for which a user has a role.
#[utoipa::path(get, path = "/users/{username}/roles/{role_name}/cohorts", tag = "people",
    params(("username" = String, Path), ("role_name" = String, Path)), security(("login" = ["roles_manage"])),
    responses((status = 200, body = UserRoleCohorts)))]
pub(super) async fn get_role_cohorts(
    State(app): State<App>,
    May { caller, .. }: May<RolesManage>,
    addresses: Addresses,
    Path((user, role)): Path<(String, String)>,
) -> Result<Single<UserRoleCohorts>, HttpError> {
    let ctx = &caller.ctx;
    let snapshot = app.snapshot().await?;
    let user = lookup::user(ctx, &snapshot, &Reference::label_first(&user)).await?;
    let role = lookup::role(ctx, &snapshot, &Reference::label_first(&role)).await?;
    role_cohorts(ctx, &app, &snapshot, &addresses, user, role).await
}

/// Assigns a role for certain cohorts only, or for the whole study. A user whose role is limited to certain cohorts
/// sees only those cohorts. The user does not need to have the role already.
#[utoipa::path(put, path = "/users/{username}/roles/{role_name}/cohorts", tag = "people",
    params(("username" = String, Path), ("role_name" = String, Path)), request_body = RoleCohortsBody,
    security(("login" = ["roles_manage"])), responses((status = 200, body = UserRoleCohorts)))]
pub(super) async fn set_role_cohorts(
    State(app): State<App>,
    may: May<RolesManage>,
    addresses: Addresses,
    Path((user, role)): Path<(String, String)>,
    Body(body): Body<RoleCohortsBody>,
) -> Result<Single<UserRoleCohorts>, HttpError> {
    let ctx = &may.caller.ctx;
    let (user, role) = (Reference::label_first(&user), Reference::label_first(&role));
    let (user, role) = body.give(&app, &may.caller, &user, &role).await?;
    let snapshot = app.snapshot().await?;
    role_cohorts(ctx, &app, &snapshot, &addresses, user, role).await
}

/// Roles.
#[utoipa::path(get, path = "/roles", tag = "people", params(WindowQuery), security(("login" = ["roles_manage"])),
    responses((status = 200, body = RoleList)))]
pub(super) async fn list_roles(
    State(app): State<App>,
    May { caller, .. }: May<RolesManage>,
    addresses: Addresses,
    address: ListAddress,
    Windowed(window): Windowed,
) -> Result<ListAnswer<RoleList>, HttpError> {
    let ctx = &caller.ctx;
    let all = role::Entity::find();
    let listed =
        listing::list(ctx, &app.snapshot().await?, &app.totals, "roles", all, role::Column::Id, window).await?;
    let extent = Extent::of(window, &listed, |row| row.id);
    let rows = listed.rows.into_iter().map(|row| addresses.role_summary(row)).collect();
    Ok(address.answer(&extent, RoleList::new(rows, &extent)))
}

/// A role with its permissions.
#[utoipa::path(get, path = "/roles/{id}", tag = "people", params(("id" = i32, Path)),
    security(("login" = ["roles_manage"])), responses((status = 200, body = Role)))]
pub(super) async fn get_role(
    State(app): State<App>,
    May { caller, .. }: May<RolesManage>,
    addresses: Addresses,
    Number(id): Number,
) -> Result<Single<Role>, HttpError> {
    let ctx = &caller.ctx;
    let row = by_id::<role::Entity>(ctx, app.statement(), "role", id).await?;
    Ok(Single(addresses.role(row)))
}

/// An API token of the caller, for scripts: `Authorization: Bearer …`.
#[derive(Serialize, ToSchema)]
pub(super) struct Token {
    #[schema(example = 1)]
    id: i32,
    #[schema(example = "/api/v2/tokens/1")]
    uri: String,
    #[schema(example = "nightly import")]
    label: String,
    /// The permissions of the token, restricted to those of its owner at the time of the request; null for all of them.
    #[schema(example = json!(["sample_add"]))]
    permissions: Option<Vec<String>>,
    created: String,
    expires_at: Option<String>,
    revoked_at: Option<String>,
    /// Accurate to the minute.
    last_used_at: Option<String>,
}

/// A newly created token.
#[derive(Serialize, ToSchema)]
pub(super) struct NewTokenAnswer {
    /// The secret. It is shown only once and not stored.
    #[schema(example = "sgov_…")]
    token: String,
    #[serde(flatten)]
    about: Token,
}

#[derive(Serialize, ToSchema)]
pub(super) struct TokenList {
    tokens: Vec<Token>,
    count: u64,
}

/// Fields to create a token.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct TokenBody {
    #[schema(value_type = String, example = "nightly import", max_length = 100)]
    label: Given<String>,
    /// Names of permissions; all permissions of the owner by default.
    #[schema(value_type = Option<Vec<String>>, example = json!(["sample_add"]))]
    permissions: Given<Vec<String>>,
    /// Expiry date; 90 days from now by default, at most two years from now.
    #[schema(value_type = Option<String>, example = "2027-01-01")]
    expires_at: Given<NaiveDateTime>,
    /// The caller's password; required in a browser session.
    #[schema(value_type = Option<String>, example = "a password")]
    password: Given<String>,
}

fn show_token(addresses: &Addresses, token: crate::account::Token) -> Token {
    let names = |all: BTreeSet<Permission>| all.into_iter().map(|one| one.name().to_owned()).collect();
    Token {
        id: token.id,
        uri: addresses.v2("tokens", token.id),
        label: token.label,
        permissions: token.permissions.map(names),
        created: moment(token.created),
        expires_at: token.expires_at.map(moment),
        revoked_at: token.revoked_at.map(moment),
        last_used_at: token.last_used_at.map(moment),
    }
}

/// A token cannot create or revoke tokens: a person who finds a token must not be able to make its access permanent.
fn check_no_token(caller: &Caller) -> Result<(), HttpError> {
    match caller.by {
        By::Token(_) => {
            Err(HttpError::NotYours("Creating or revoking tokens requires a password or a browser session.".to_owned()))
        }
        By::Password | By::Session => Ok(()),
    }
}

/// The caller's tokens, newest first, without their secrets.
#[utoipa::path(get, path = "/tokens", tag = "people", security(("login" = [])),
    responses((status = 200, body = TokenList)))]
pub(super) async fn list_tokens(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
) -> Result<axum::Json<TokenList>, HttpError> {
    let tokens = app.accounts.tokens(caller.user.id).await?;
    let tokens: Vec<Token> = tokens.into_iter().map(|token| show_token(&addresses, token)).collect();
    Ok(axum::Json(TokenList { count: tokens.len() as u64, tokens }))
}

/// Creates a token. Requires a password: that of the HTTP Basic login or, in a browser session, the one in the body.
#[utoipa::path(post, path = "/tokens", tag = "people", request_body = TokenBody, security(("login" = [])),
    responses((status = 201, body = NewTokenAnswer)))]
pub(super) async fn create_token(
    State(app): State<App>,
    caller: Caller,
    Address(address): Address,
    addresses: Addresses,
    Body(body): Body<TokenBody>,
) -> Result<(axum::http::StatusCode, axum::Json<NewTokenAnswer>), HttpError> {
    let ctx = &caller.ctx;
    check_no_token(&caller)?;
    let now = app.engine.clock().now();
    let mut problems = Problems::default();
    let label = problems.required("label", body.label);
    let label = problems.label("label", label);
    let names = problems.optional("permissions", body.permissions);
    let expires_at = problems.optional("expires_at", body.expires_at).unwrap_or(now + TimeDelta::days(90));
    if expires_at <= now || expires_at > now + TimeDelta::days(731) {
        problems.add("expires_at", "must be within the next two years");
    }
    for name in names.iter().flatten() {
        let known = Permission::ALL.iter().find(|(_, known)| known == name);
        if known.is_none_or(|(permission, _)| !caller.user.may(*permission)) {
            problems.add("permissions", format!("'{name}' is not one of your permissions"));
        }
    }
    let password = problems.optional("password", body.password);
    let label = problems.all(label)?.to_string();
    if caller.by == By::Session {
        let password = password.unwrap_or_default();
        app.accounts.ask_password_again(&caller.user, "password", &password, address).await?;
    }
    let permissions = names.map(|names| Permission::parse_all(&names.join(",")));
    let (token, secret) =
        app.accounts.create_token(ctx, caller.user.id, &NewToken { label, permissions, expires_at }).await?;
    let answer = NewTokenAnswer { token: secret, about: show_token(&addresses, token) };
    Ok((axum::http::StatusCode::CREATED, axum::Json(answer)))
}

/// Revokes one of the caller's tokens immediately.
#[utoipa::path(delete, path = "/tokens/{id}", tag = "people", params(("id" = i32, Path)), security(("login" = [])),
    responses((status = 200, body = Token)))]
pub(super) async fn revoke_token(
    State(app): State<App>,
    caller: Caller,
    addresses: Addresses,
    Number(id): Number,
) -> Result<axum::Json<Token>, HttpError> {
    let ctx = &caller.ctx;
    check_no_token(&caller)?;
    let token = app.accounts.revoke_token(ctx, caller.user.id, id).await?;
    let token = token.ok_or_else(|| HttpError::NotFound(format!("token {id} of your account")))?;
    Ok(axum::Json(show_token(&addresses, token)))
}
