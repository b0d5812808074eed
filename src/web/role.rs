//! Roles and their permissions.

use axum::extract::{Form, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Serialize;

use crate::account::{AccountError, Permission, Problems, RoleForm, RoleRecord, User};
use crate::app::App;
use crate::http::{HttpError, LoggedIn};

use super::page::{missing, page, with_status};

#[derive(Serialize)]
struct RoleRow {
    id: i32,
    name: String,
    description: Option<String>,
    permissions: Vec<&'static str>,
    requires_second_factor: bool,
    holders: u64,
}

#[derive(Serialize)]
struct RolesPage {
    roles: Vec<RoleRow>,
}

pub(super) async fn list_roles(State(app): State<App>, user: LoggedIn) -> Result<Response, HttpError> {
    let row = |(role, holders): (RoleRecord, u64)| RoleRow {
        id: role.row.id,
        name: role.row.name,
        description: role.row.description,
        permissions: role.permissions.iter().map(|one| one.name()).collect(),
        requires_second_factor: role.row.requires_second_factor,
        holders,
    };
    let roles = app.at(&app.snapshot().await?).accounts.roles().await?.into_iter().map(row).collect();
    page(&app, "role/list.html", "roles", &user.0, RolesPage { roles })
}

/// The meaning of a permission, for users.
fn meaning(permission: Permission) -> &'static str {
    match permission {
        Permission::ActionUpdate => "manage callbacks: retry, skip or mark runs; correct the history",
        Permission::SampleStateUpdate => "move experiments to another state",
        Permission::SampleAdd => "add cohorts, subjects, experiments and scans",
        Permission::SampleUpdate => "change cohorts, subjects, experiments, workflows and links",
        Permission::SampleDelete => "archive and restore cohorts, subjects and experiments",
        Permission::UserRead => "see their own account",
        Permission::UserReadAll => "see all accounts, all roles and the audit log; send bulk mail",
        Permission::UserUpdateAll => "change, activate and deactivate accounts; end their sessions",
        Permission::UserAdd => "create accounts and invite users",
        Permission::UserDelete => "deactivate accounts through the API",
        Permission::RolesManage => "assign and remove roles; define their permissions",
        Permission::UploadData => "upload files",
    }
}

#[derive(Serialize)]
struct Choice {
    name: &'static str,
    meaning: &'static str,
    is_on: bool,
    /// The viewer does not have this permission.
    is_locked: bool,
}

#[derive(Serialize)]
struct RolePage {
    /// `None` for a new role.
    id: Option<i32>,
    name: String,
    description: String,
    requires_second_factor: bool,
    choices: Vec<Choice>,
    is_admin: bool,
    may_change: bool,
    problems: Problems,
}

fn role_page(
    app: &App,
    looks: &User,
    id: Option<i32>,
    form: &RoleForm,
    is_admin: bool,
    problems: Problems,
) -> Result<Response, HttpError> {
    let choice = |(permission, name): &(Permission, &'static str)| Choice {
        name,
        meaning: meaning(*permission),
        // Permission to read all accounts includes the user's own, so the role need not list it.
        is_on: form.permissions.contains(permission)
            || (*permission == Permission::UserRead && form.permissions.contains(&Permission::UserReadAll)),
        is_locked: is_admin || !(looks.is_admin() || looks.may(*permission)),
    };
    let status = if problems.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    let content = RolePage {
        id,
        name: form.name.clone(),
        description: form.description.clone(),
        requires_second_factor: form.requires_second_factor,
        choices: Permission::ALL.iter().map(choice).collect(),
        is_admin,
        may_change: looks.may(Permission::RolesManage) && looks.reaches(is_admin, &form.permissions),
        problems,
    };
    Ok(with_status(page(app, "role/page.html", "roles", looks, content)?, status))
}

fn read(pairs: Vec<(String, String)>) -> RoleForm {
    let mut form = RoleForm::default();
    for (name, value) in pairs {
        match name.as_str() {
            "name" => value.trim().clone_into(&mut form.name),
            "description" => value.trim().clone_into(&mut form.description),
            "requires_second_factor" => form.requires_second_factor = true,
            "permission" => form.permissions.extend(Permission::parse_all(&value)),
            _ => {}
        }
    }
    form
}

fn of(role: &RoleRecord) -> RoleForm {
    RoleForm {
        name: role.row.name.clone(),
        description: role.row.description.clone().unwrap_or_default(),
        permissions: role.permissions.clone(),
        requires_second_factor: role.row.requires_second_factor,
    }
}

pub(super) async fn show_new(State(app): State<App>, user: LoggedIn) -> Result<Response, HttpError> {
    role_page(&app, &user.0, None, &RoleForm::default(), false, Problems::new())
}

pub(super) async fn show_role(
    State(app): State<App>,
    user: LoggedIn,
    Path(id): Path<i32>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let role = app.accounts.role(id).await?.ok_or_else(|| missing(ctx, "role", id))?;
    role_page(&app, &user.0, Some(id), &of(&role), role.row.name == "admin", Problems::new())
}

/// Users cannot give a role permissions that they do not have.
fn check_reach(looks: &User, is_admin: bool, form: &RoleForm) -> Result<(), HttpError> {
    match looks.reaches(is_admin, &form.permissions) {
        true => Ok(()),
        false => Err(HttpError::NotYours("You cannot change a role that has more permissions than yours.".to_owned())),
    }
}

pub(super) async fn create_role(
    State(app): State<App>,
    user: LoggedIn,
    Form(pairs): Form<Vec<(String, String)>>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let form = read(pairs);
    check_reach(&user.0, false, &form)?;
    match app.accounts.create_role(ctx, &form).await {
        Ok(_) => Ok(to_list(&app)),
        Err(AccountError::Invalid { field, problem }) => {
            role_page(&app, &user.0, None, &form, false, Problems::from([(field, problem)]))
        }
        Err(error) => Err(error.into()),
    }
}

fn to_list(app: &App) -> Response {
    Redirect::to(&format!("{}/roles", app.settings.web.prefix)).into_response()
}

pub(super) async fn update_role(
    State(app): State<App>,
    user: LoggedIn,
    Path(id): Path<i32>,
    Form(pairs): Form<Vec<(String, String)>>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let role = app.accounts.role(id).await?.ok_or_else(|| missing(ctx, "role", id))?;
    let is_admin = role.row.name == "admin";
    let mut form = read(pairs);
    if is_admin {
        form = RoleForm {
            description: form.description,
            requires_second_factor: form.requires_second_factor,
            ..of(&role)
        };
    }
    check_reach(&user.0, is_admin, &of(&role))?;
    check_reach(&user.0, is_admin, &form)?;
    if form.requires_second_factor && !role.row.requires_second_factor {
        // It would lock out users who have the role and no second factor yet.
        for holder in app.accounts.holders(id).await? {
            if !user.0.reaches_account(&holder) {
                let told = format!(
                    "You cannot change this role: {} has it and has more permissions than \
                    you.",
                    holder.username
                );
                return Err(HttpError::NotYours(told));
            }
        }
    }
    match app.accounts.update_role(ctx, id, &form).await {
        Ok(_) => Ok(to_list(&app)),
        Err(AccountError::Invalid { field, problem }) => {
            role_page(&app, &user.0, Some(id), &form, is_admin, Problems::from([(field, problem)]))
        }
        Err(error) => Err(error.into()),
    }
}
