//! Changes of accounts by administrators.

use axum::extract::{Form, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use sea_orm::EntityTrait;
use serde::{Deserialize, Serialize};

use super::super::page::{missing, page, with_status};
use super::show::{Typed, user_page};
use super::{UserRow, held_by, may_give, refused, taken, to_user, user_row};
use crate::account::{AccountError, Problems, User, UserChanges};
use crate::app::App;
use crate::entity::user;
use crate::http::{AuthSession, HttpError, LoggedIn, Wants, stands_on};

/// The account, if its rights do not exceed those of the viewer.
pub(super) async fn reached(app: &App, looks: &LoggedIn, id: i32) -> Result<User, HttpError> {
    let ctx = looks.ctx();
    let person = app.accounts.find(id).await?.ok_or_else(|| missing(ctx, "user", id))?;
    match looks.0.reaches_account(&person) {
        true => Ok(person),
        false => Err(HttpError::NotYours(
            "You cannot change an account that has more permissions than \
            yours."
                .to_owned(),
        )),
    }
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(in crate::web) struct UserForm {
    pub(super) username: String,
    pub(super) name: String,
    pub(super) email: String,
}

pub(in crate::web) async fn update_user(
    State(app): State<App>,
    looks: LoggedIn,
    session: AuthSession,
    Path(id): Path<i32>,
    Form(form): Form<UserForm>,
) -> Result<Response, HttpError> {
    let ctx = looks.ctx();
    reached(&app, &looks, id).await?;
    let typed = form.clone();
    let changes = UserChanges {
        username: Some(form.username),
        name: Some(form.name),
        email: Some(form.email),
        ..UserChanges::default()
    };
    let problems = match app.accounts.update(ctx, id, changes, |_| true).await {
        Ok(_) => return Ok(to_user(&app, id, "saved")),
        Err(AccountError::Invalid { field, problem }) => Problems::from([(field, problem)]),
        Err(AccountError::Exists) => taken(),
        Err(error) => return Err(error.into()),
    };
    user_page(&app, &looks, &session, id, problems, Typed::Who(typed), None).await
}

#[derive(Deserialize)]
pub(in crate::web) struct RoleForm {
    role: i32,
    /// `1` to assign the role; anything else removes it.
    #[serde(default)]
    on: String,
}

/// The role switches of one user.
#[derive(Serialize)]
struct SwitchesPart {
    person: UserRow,
    /// Why a switch could not be changed.
    refused: Option<String>,
}

/// Assigns or removes a role with one click: htmx gets the row of the list; otherwise it redirects to the user's page.
pub(in crate::web) async fn switch_role(
    State(app): State<App>,
    looks: LoggedIn,
    wants: Wants,
    session: AuthSession,
    Path(id): Path<i32>,
    Form(form): Form<RoleForm>,
) -> Result<Response, HttpError> {
    let ctx = looks.ctx();
    let role = app.accounts.role(form.role).await?.ok_or_else(|| missing(ctx, "role", form.role))?;
    // A role's requirements, and not only its permissions, can lock a user out.
    reached(&app, &looks, id).await?;
    if !may_give(&looks.0, &role) {
        return Err(HttpError::NotYours(format!("The role '{}' has more permissions than you.", role.row.name)));
    }
    let refused = match app.accounts.set_role(ctx, id, form.role, form.on == "1").await {
        Ok(()) => None,
        Err(error) => Some(refused(error)?),
    };
    match refused {
        None if !wants.fragment => return Ok(to_user(&app, id, "saved")),
        Some(why) if !wants.fragment => return refused_page(&app, &looks, &session, id, why).await,
        _ => {}
    }
    let snapshot = app.snapshot().await?;
    let accounts = app.at(&snapshot).accounts;
    let row = user::Entity::find_by_id(id).one(&snapshot).await?.ok_or_else(|| missing(ctx, "user", id))?;
    let person = accounts.find(id).await?.ok_or_else(|| missing(ctx, "user", id))?;
    let roles = accounts.roles().await?;
    let held = held_by(ctx, &snapshot, &accounts, &person, &roles).await?;
    drop((accounts, snapshot));
    let status = if refused.is_some() { StatusCode::CONFLICT } else { StatusCode::OK };
    let content = SwitchesPart { person: user_row(row, &held, &roles, &looks.0), refused };
    Ok(with_status(page(&app, "user/switches.html", "users", &looks.0, content)?, status))
}

/// The page of the account, with the reason why an action was rejected.
async fn refused_page(
    app: &App,
    looks: &LoggedIn,
    session: &AuthSession,
    id: i32,
    why: String,
) -> Result<Response, HttpError> {
    let page = user_page(app, looks, session, id, Problems::from([("form", why)]), Typed::Nothing, None).await?;
    Ok(with_status(page, StatusCode::CONFLICT))
}

#[derive(Deserialize)]
pub(in crate::web) struct ActiveForm {
    #[serde(default)]
    active: String,
    /// `list`: the page to return to.
    #[serde(default)]
    from: String,
}

pub(in crate::web) async fn switch_active(
    State(app): State<App>,
    looks: LoggedIn,
    session: AuthSession,
    headers: HeaderMap,
    Path(id): Path<i32>,
    Form(form): Form<ActiveForm>,
) -> Result<Response, HttpError> {
    let ctx = looks.ctx();
    reached(&app, &looks, id).await?;
    let changed = if form.active == "1" {
        app.accounts.activate(ctx, id).await
    } else {
        let changes = UserChanges { active: Some(false), ..UserChanges::default() };
        app.accounts.update(ctx, id, changes, |_| true).await
    };
    match changed {
        // The next pending account is in the list.
        Ok(_) if form.from == "list" => Ok(Redirect::to(&list_of(&app, &headers)).into_response()),
        Ok(_) => Ok(to_user(&app, id, "saved")),
        Err(error) => refused_page(&app, &looks, &session, id, refused(error)?).await,
    }
}

/// The list of accounts that the form is on, with its filters.
fn list_of(app: &App, headers: &HeaderMap) -> String {
    let list = format!("{}/users", app.settings.web.prefix);
    match stands_on(headers) {
        Some(page) if page.path() == list => page.to_string(),
        _ => list,
    }
}

/// Sends a link for a new password on behalf of the user.
pub(in crate::web) async fn send_reset(
    State(app): State<App>,
    looks: LoggedIn,
    Path(id): Path<i32>,
) -> Result<Response, HttpError> {
    let ctx = looks.ctx();
    reached(&app, &looks, id).await?;
    app.accounts.send_recovery_to(ctx, id, &looks.0.name).await?;
    Ok(to_user(&app, id, "reset"))
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(in crate::web) struct DeclineForm {
    reason: String,
}

/// Declines a pending account.
pub(in crate::web) async fn decline_user(
    State(app): State<App>,
    looks: LoggedIn,
    session: AuthSession,
    Path(id): Path<i32>,
    Form(form): Form<DeclineForm>,
) -> Result<Response, HttpError> {
    let ctx = looks.ctx();
    reached(&app, &looks, id).await?;
    match app.accounts.decline(ctx, id, &form.reason).await {
        Ok(_) => Ok(to_user(&app, id, "declined")),
        Err(AccountError::Invalid { field, problem }) => {
            let problems = Problems::from([(field, problem)]);
            user_page(&app, &looks, &session, id, problems, Typed::Reason(form.reason), None).await
        }
        Err(error) => Err(error.into()),
    }
}

/// Confirms the address of a user whose confirmation mail does not arrive.
pub(in crate::web) async fn confirm_user(
    State(app): State<App>,
    looks: LoggedIn,
    Path(id): Path<i32>,
) -> Result<Response, HttpError> {
    let ctx = looks.ctx();
    reached(&app, &looks, id).await?;
    app.accounts.confirm_for(ctx, id).await?;
    Ok(to_user(&app, id, "confirmed"))
}

pub(in crate::web) async fn end_sessions(
    State(app): State<App>,
    looks: LoggedIn,
    Path(id): Path<i32>,
) -> Result<Response, HttpError> {
    let ctx = looks.ctx();
    let person = reached(&app, &looks, id).await?;
    app.accounts.end_sessions(ctx, id, &person.username, None, None).await?;
    Ok(to_user(&app, id, "ended"))
}

pub(in crate::web) async fn end_second_factor(
    State(app): State<App>,
    looks: LoggedIn,
    Path(id): Path<i32>,
) -> Result<Response, HttpError> {
    let ctx = looks.ctx();
    reached(&app, &looks, id).await?;
    if looks.0.id == id {
        let told = "Turn off your own second factor on your account page, with a code.";
        return Err(HttpError::NotYours(told.to_owned()));
    }
    app.accounts.end_second_factor(ctx, id, Some(&looks.0.name)).await?;
    Ok(to_user(&app, id, "factor"))
}

pub(in crate::web) async fn invite_again(
    State(app): State<App>,
    looks: LoggedIn,
    Path(id): Path<i32>,
) -> Result<Response, HttpError> {
    let ctx = looks.ctx();
    app.accounts.invite_again(ctx, id, &looks.0.name).await?;
    Ok(to_user(&app, id, "invited"))
}
