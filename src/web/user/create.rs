//! New accounts: invited by mail, or with a password that is set immediately.

use std::collections::BTreeSet;

use axum::extract::{Form, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use super::super::page::{page, with_status};
use super::scope::{CohortBox, cohort_boxes};
use super::{cohort_labels, may_give, taken, to_user};
use crate::account::{AccountError, NewUser, Problems, Registration, RoleRecord};
use crate::app::App;
use crate::http::{HttpError, LoggedIn};

#[derive(Serialize)]
struct NewPage {
    roles: Vec<NewRole>,
    cohorts: Vec<CohortBox>,
    username: String,
    name: String,
    email: String,
    by_mail: bool,
    problems: Problems,
}

#[derive(Serialize)]
struct NewRole {
    id: i32,
    name: String,
    description: Option<String>,
    is_chosen: bool,
}

async fn new_page(app: &App, looks: &LoggedIn, form: &NewForm, problems: Problems) -> Result<Response, HttpError> {
    let ctx = looks.ctx();
    let snapshot = app.snapshot().await?;
    let roles = app.at(&snapshot).accounts.roles().await?;
    let labels = cohort_labels(ctx, &snapshot).await?;
    drop(snapshot);
    let roles = roles.into_iter().map(|(role, _)| role).filter(|role| may_give(&looks.0, role));
    let new = |role: RoleRecord| NewRole {
        is_chosen: form.roles.contains(&role.row.name),
        id: role.row.id,
        name: role.row.name,
        description: role.row.description,
    };
    let status = if problems.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    let content = NewPage {
        cohorts: cohort_boxes(&labels, Some(&form.cohorts)),
        roles: roles.map(new).collect(),
        username: form.username.clone(),
        name: form.name.clone(),
        email: form.email.clone(),
        by_mail: form.by_mail,
        problems,
    };
    Ok(with_status(page(app, "user/new.html", "users", &looks.0, content)?, status))
}

pub(in crate::web) async fn show_new(State(app): State<App>, looks: LoggedIn) -> Result<Response, HttpError> {
    let form = NewForm { by_mail: true, roles: vec!["user".to_owned()], ..NewForm::default() };
    new_page(&app, &looks, &form, Problems::new()).await
}

/// The form of a new account. Parsed manually: a list of checkboxes repeats the same name.
#[derive(Default)]
struct NewForm {
    username: String,
    name: String,
    email: String,
    password: String,
    by_mail: bool,
    roles: Vec<String>,
    /// Ids; empty for the whole study.
    cohorts: BTreeSet<i32>,
}

impl NewForm {
    fn read(pairs: Vec<(String, String)>) -> Self {
        let mut form = Self::default();
        for (name, value) in pairs {
            match name.as_str() {
                "username" => form.username = value.trim().to_owned(),
                "name" => form.name = value.trim().to_owned(),
                "email" => form.email = value.trim().to_owned(),
                "password" => form.password = value,
                "how" => form.by_mail = value == "mail",
                "role" => form.roles.push(value),
                // An invalid id becomes one that does not exist: an empty list would mean the whole study.
                "cohort" => form.cohorts.extend([value.parse::<i32>().unwrap_or(-1)]),
                _ => {}
            }
        }
        form
    }
}

/// Creates an account: its owner sets the password by mail, or it is entered here and must be strong enough.
pub(in crate::web) async fn create_user(
    State(app): State<App>,
    looks: LoggedIn,
    Form(pairs): Form<Vec<(String, String)>>,
) -> Result<Response, HttpError> {
    let ctx = looks.ctx();
    let form = NewForm::read(pairs);
    let known = app.accounts.roles().await?;
    for name in &form.roles {
        match known.iter().find(|(role, _)| role.row.name == *name) {
            Some((role, _)) if may_give(&looks.0, role) => {}
            Some(_) => return Err(HttpError::NotYours(format!("The role '{name}' has more permissions than you."))),
            None => {
                let problems = Problems::from([("roles", format!("include the unknown role '{name}'"))]);
                return new_page(&app, &looks, &form, problems).await;
            }
        }
    }
    let made = if form.by_mail {
        let new = Registration { username: form.username.clone(), name: form.name.clone(), email: form.email.clone() };
        app.accounts.invite(ctx, &new, form.roles.clone(), form.cohorts.clone(), &looks.0.name).await
    } else {
        let own = [form.username.as_str(), form.name.as_str(), form.email.as_str()];
        if let Some(problem) = app.accounts.judge(&form.password, &own).problem {
            return new_page(&app, &looks, &form, Problems::from([("password", problem)])).await;
        }
        let new = NewUser {
            username: form.username.clone(),
            name: form.name.clone(),
            email: form.email.clone(),
            password: form.password.clone(),
            active: true,
            roles: form.roles.clone(),
            cohorts: form.cohorts.clone(),
        };
        app.accounts.create(ctx, &new).await
    };
    let problems = match made {
        Ok(row) => return Ok(to_user(&app, row.id, if form.by_mail { "invited" } else { "created" })),
        Err(AccountError::Invalid { field, problem }) => Problems::from([(field, problem)]),
        Err(AccountError::Exists) => taken(),
        Err(error) => return Err(error.into()),
    };
    new_page(&app, &looks, &form, problems).await
}
