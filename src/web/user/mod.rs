//! Managing accounts: the list ([`list`]), the page of an account ([`show`]), changes ([`change`]), and new accounts
//! ([`create`]).

mod change;
mod create;
mod list;
mod scope;
mod show;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::response::{IntoResponse, Redirect, Response};
use chrono::NaiveDateTime;
use sea_orm::ConnectionTrait;
use serde::Serialize;

use crate::account::{
    AccountError, AccountState, Accounts, Permission, Problems, RoleCohorts, RoleRecord, User, is_invited,
};
use crate::app::App;
use crate::context::Context;
use crate::database::Snapshot;
use crate::entity::user;
use crate::http::HttpError;

use super::page::cohort_choices;

pub(super) use change::{
    confirm_user, decline_user, end_second_factor, end_sessions, invite_again, send_reset, switch_active, switch_role,
    update_user,
};
pub(super) use create::{create_user, show_new};
pub(super) use list::list_users;
pub(super) use scope::give_for_cohorts;
pub(super) use show::show_user;

/// A role as a switch.
#[derive(Serialize)]
pub(super) struct Switch {
    id: i32,
    name: String,
    description: Option<String>,
    is_on: bool,
    /// Labels of the cohorts that it is limited to; empty for the whole study.
    cohorts: Vec<String>,
    /// The viewer may not assign or remove it.
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
    is_declined: bool,
    has_second_factor: bool,
    /// The viewer may change the account, as its rights do not exceed the viewer's.
    is_reached: bool,
    weak_password: bool,
    last_login: Option<NaiveDateTime>,
    switches: Vec<Switch>,
}

/// The roles of a user.
#[derive(Default)]
struct Held {
    roles: BTreeSet<i32>,
    /// The cohorts of the roles that are limited to some.
    cohorts: RoleCohorts,
    /// The labels of all cohorts.
    labels: Arc<BTreeMap<i32, String>>,
}

impl Held {
    fn labels_of(&self, role_id: i32) -> Vec<String> {
        let ids = self.cohorts.get(&role_id).into_iter().flatten();
        ids.filter_map(|id| self.labels.get(id).cloned()).collect()
    }
}

/// The labels of all cohorts by id.
async fn cohort_labels(
    ctx: &Context,
    connection: &impl ConnectionTrait,
) -> Result<Arc<BTreeMap<i32, String>>, HttpError> {
    Ok(Arc::new(cohort_choices(ctx, connection).await?.into_iter().map(|one| (one.id, one.label)).collect()))
}

/// The roles of one user.
async fn held_by(
    ctx: &Context,
    snapshot: &Snapshot,
    accounts: &Accounts,
    person: &User,
    roles: &[(RoleRecord, u64)],
) -> Result<Held, HttpError> {
    let has = |role: &&(RoleRecord, u64)| person.roles.contains(&role.0.row.name);
    Ok(Held {
        roles: roles.iter().filter(has).map(|(role, _)| role.row.id).collect(),
        cohorts: accounts.role_cohorts(&[person.id]).await?.remove(&person.id).unwrap_or_default(),
        labels: cohort_labels(ctx, snapshot).await?,
    })
}

/// The row of an account, with the role switches that the viewer may use.
fn user_row(row: user::Model, held: &Held, roles: &[(RoleRecord, u64)], looks: &User) -> UserRow {
    let switch = |(role, _): &(RoleRecord, u64)| Switch {
        id: role.row.id,
        name: role.row.name.clone(),
        description: role.row.description.clone(),
        is_on: held.roles.contains(&role.row.id),
        cohorts: held.labels_of(role.row.id),
        is_locked: !may_give(looks, role),
    };
    let roles_held = || roles.iter().map(|(role, _)| role).filter(|role| held.roles.contains(&role.row.id));
    let is_admin = roles_held().any(|role| role.row.name == "admin");
    let permissions = roles_held().flat_map(|role| role.permissions.iter().copied()).collect();
    UserRow {
        is_reached: looks.reaches(is_admin, &permissions),
        id: row.id,
        state: AccountState::of(&row).name(),
        is_confirmed: row.confirmed_at.is_some(),
        is_invited: is_invited(&row),
        is_declined: row.declined_at.is_some(),
        has_second_factor: row.second_factor_at.is_some(),
        weak_password: row.weak_password,
        last_login: row.current_login_at,
        switches: roles.iter().map(switch).collect(),
        username: row.username,
        name: row.name,
        email: row.email,
    }
}

/// Why the state of the account forbids an action: shown on the page, not treated as a program error.
fn refused(error: AccountError) -> Result<String, HttpError> {
    match error {
        AccountError::LastAdmin | AccountError::LastScope => Ok(error.to_string()),
        error => Err(error.into()),
    }
}

/// Whether the viewer may assign or remove this role.
fn may_give(looks: &User, role: &RoleRecord) -> bool {
    looks.may(Permission::RolesManage) && looks.reaches(role.row.name == "admin", &role.permissions)
}

/// Redirects to the page of a user, which shows what was done.
fn to_user(app: &App, id: i32, told: &str) -> Response {
    Redirect::to(&format!("{}/users/{id}?told={told}", app.settings.web.prefix)).into_response()
}

/// The name or the address belongs to another account.
fn taken() -> Problems {
    let problem = |other: &str| {
        format!(
            "or the {other} is already in use (user names and e-mail addresses must be \
        unique)"
        )
    };
    Problems::from([("username", problem("address")), ("email", problem("user name"))])
}
