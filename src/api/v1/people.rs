//! Users, roles, and the check of timeouts.

use axum::extract::{Path, State};
use sea_orm::EntityTrait;
use serde::Serialize;
use utoipa::ToSchema;

use super::show::{Role, RoleList, User, UserList, V1};
use crate::api::access::{Caller, Everywhere, May};
use crate::api::history::{self, CheckedTimeouts};
use crate::api::input::{Body, Number};
use crate::api::lookup::by_id;
use crate::api::output::{Addresses, Created, Extent, IfMatch, ListAddress, ListAnswer, Single, WindowQuery, Windowed};
use crate::api::people::{self, UserBody, open_user};
use crate::app::App;
use crate::entity::{role, user};
use crate::http::HttpError;
use crate::http::needs::{ActionUpdate, RolesManage, UserAdd, UserDelete, UserReadAll, UserUpdateAll};
use crate::study::{Reference, listing};

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
    let shown = V1(addresses);
    let rows = listed.rows.iter().map(|row| shown.uri("users", row.id)).collect();
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
    let body = V1(addresses).user(people::create_user(&may.caller.ctx, &app, body).await?);
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
    Ok(Single(V1(addresses).user(open_user(&app, &caller, id).await?)))
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
    let shown = V1(addresses);
    let seen = |now: &user::Model| if_match.fits(&shown.user(now.clone()));
    Ok(Single(shown.user(people::update_user(&app, &may.caller, id, body, seen).await?)))
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
    /// Id.
    #[schema(example = 3)]
    role: i32,
    /// Id.
    #[schema(example = 4)]
    user: i32,
    has_role: bool,
}

async fn set_role(
    app: &App,
    caller: &Caller,
    user: &str,
    role: &str,
    has_role: bool,
) -> Result<axum::Json<UserRole>, HttpError> {
    let (user, role) = (Reference::parse(user), Reference::parse(role));
    let (user, role) = people::set_role(app, caller, &user, &role, has_role).await?;
    Ok(axum::Json(UserRole { role: role.id, user: user.id, has_role }))
}

/// Assigns a role to a user, both by id or name.
#[utoipa::path(put, path = "/users/{user_id}/roles/{role_id}", tag = "people",
    params(("user_id" = String, Path), ("role_id" = String, Path)), security(("login" = ["roles_manage"])),
    responses((status = 200, body = UserRole)))]
pub(super) async fn add_user_role(
    State(app): State<App>,
    may: May<RolesManage>,
    Path((user, role)): Path<(String, String)>,
) -> Result<axum::Json<UserRole>, HttpError> {
    set_role(&app, &may.caller, &user, &role, true).await
}

/// Removes a role from a user, both by id or name.
#[utoipa::path(delete, path = "/users/{user_id}/roles/{role_id}", tag = "people",
    params(("user_id" = String, Path), ("role_id" = String, Path)), security(("login" = ["roles_manage"])),
    responses((status = 200, body = UserRole)))]
pub(super) async fn remove_user_role(
    State(app): State<App>,
    may: May<RolesManage>,
    Path((user, role)): Path<(String, String)>,
) -> Result<axum::Json<UserRole>, HttpError> {
    set_role(&app, &may.caller, &user, &role, false).await
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
    let shown = V1(addresses);
    let rows = listed.rows.iter().map(|row| shown.uri("roles", row.id)).collect();
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
    Ok(Single(V1(addresses).role(row)))
}

/// Times out overdue executions. The server does this automatically every second.
#[utoipa::path(post, path = "/service/check_timeouts", tag = "service", security(("login" = ["action_update"])),
    responses((status = 200, body = CheckedTimeouts)))]
pub(super) async fn check_timeouts(
    State(app): State<App>,
    Everywhere { caller, .. }: Everywhere<ActionUpdate>,
) -> Result<axum::Json<CheckedTimeouts>, HttpError> {
    let ctx = &caller.ctx;
    history::check_timeouts(ctx, &app).await.map(axum::Json)
}
