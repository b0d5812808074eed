//! Looking after accounts: who there is ([`list`]), everything about one ([`show`]), its changes ([`change`]), and new ones
//! ([`create`]).

mod change;
mod create;
mod list;
mod show;

use std::collections::BTreeSet;

use axum::response::{IntoResponse, Redirect, Response};
use chrono::NaiveDateTime;
use serde::Serialize;

use crate::account::{AccountState, Permission, Problems, RoleRecord, User, is_invited};
use crate::app::App;
use crate::entity::user;

pub(super) use change::{end_second_factor, end_sessions, invite_again, switch_active, switch_role, update_user};
pub(super) use create::{create_user, show_new};
pub(super) use list::list_users;
pub(super) use show::show_user;

/// A role as a switch.
#[derive(Serialize)]
pub(super) struct Switch {
    id: i32,
    name: String,
    description: Option<String>,
    is_on: bool,
    /// Who looks may not give or take it.
    is_locked: bool,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a mark of its own")]
#[derive(Serialize)]
pub(super) struct UserRow {
    id: i32,
    username: String,
    name: String,
    email: String,
    state: &'static str,
    is_confirmed: bool,
    is_invited: bool,
    has_second_factor: bool,
    /// Who looks may change it: it may not do more than they may.
    is_reached: bool,
    weak_password: bool,
    last_login: Option<NaiveDateTime>,
    switches: Vec<Switch>,
}

/// What somebody with this account can be told of: the switches that who looks may turn.
fn user_row(row: user::Model, held: Option<&BTreeSet<i32>>, roles: &[(RoleRecord, u64)], looks: &User) -> UserRow {
    let switch = |(role, _): &(RoleRecord, u64)| Switch {
        id: role.row.id,
        name: role.row.name.clone(),
        description: role.row.description.clone(),
        is_on: held.is_some_and(|held| held.contains(&role.row.id)),
        is_locked: !may_give(looks, role),
    };
    let roles_held =
        || roles.iter().map(|(role, _)| role).filter(|role| held.is_some_and(|held| held.contains(&role.row.id)));
    let is_admin = roles_held().any(|role| role.row.name == "admin");
    let permissions = roles_held().flat_map(|role| role.permissions.iter().copied()).collect();
    UserRow {
        is_reached: looks.reaches(is_admin, &permissions),
        id: row.id,
        state: AccountState::of(&row).name(),
        is_confirmed: row.confirmed_at.is_some(),
        is_invited: is_invited(&row),
        has_second_factor: row.second_factor_at.is_some(),
        weak_password: row.weak_password,
        last_login: row.current_login_at,
        switches: roles.iter().map(switch).collect(),
        username: row.username,
        name: row.name,
        email: row.email,
    }
}

/// Whether who looks may give this role, or take it.
fn may_give(looks: &User, role: &RoleRecord) -> bool {
    looks.may(Permission::RolesManage) && looks.reaches(role.row.name == "admin", &role.permissions)
}

/// To the page of a user, which says what was done.
fn to_user(app: &App, id: i32, told: &str) -> Response {
    Redirect::to(&format!("{}/users/{id}?told={told}", app.settings.web.prefix)).into_response()
}

/// The name or the address is somebody else's.
fn taken() -> Problems {
    let problem = "or the other name is somebody's already (people log in with either)".to_owned();
    Problems::from([("username", problem.clone()), ("email", problem)])
}
