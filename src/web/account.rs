//! Logging in and out.

use axum::extract::{Form, Query, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::account::{FormError, LoginError, Problems, User};
use crate::app::App;
use crate::context::Context;
use crate::http::{Address, AuthSession, HttpError, Origins, begin_session};

use super::entrance::open_page;
use super::page::Refusal;

#[derive(Deserialize)]
pub(super) struct LoginQuery {
    #[serde(default)]
    next: String,
    #[serde(default)]
    told: String,
}

#[derive(Deserialize)]
pub(super) struct LoginForm {
    /// Called `email` in the forms of version 8.1, which scripts send.
    #[serde(default, alias = "email")]
    login: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    next: String,
    #[serde(default)]
    remember: String,
}

#[derive(Serialize)]
struct LoginPage {
    login: String,
    next: String,
    remember: bool,
    error: Option<String>,
    /// The credentials are right, but the account is not active yet.
    notice: Option<&'static str>,
    told: Option<&'static str>,
}

/// A user who has entered the right password and must enter a code, stored in the session.
#[derive(Serialize, Deserialize)]
struct Pending {
    user_id: i32,
    /// If this has changed, the login is no longer valid.
    uniquifier: String,
    next: String,
    remember: bool,
}

const REFUSED: &str = "Wrong user name or password, or the account is not active or not yet confirmed (check your \
    e-mail).";
const WAITING: &str =
    "Your account is waiting for approval by an administrator. You will get an e-mail when it is activated.";

const PENDING: &str = "pending";

pub(super) async fn show_login(
    State(app): State<App>,
    session: AuthSession,
    Query(query): Query<LoginQuery>,
) -> Result<Response, HttpError> {
    if session.user.is_some() {
        return Ok(Redirect::to(&own_path(&app, &query.next)).into_response());
    }
    let told = match query.told.as_str() {
        "password" => Some("Your password has been set. You can log in with it now."),
        // A user who just opens the program does not need this message.
        _ if own_path(&app, &query.next) != own_path(&app, "") => {
            Some("You are not logged in, or your session has expired. Please log in to continue.")
        }
        _ => None,
    };
    let context =
        LoginPage { login: String::new(), next: query.next, remember: false, error: None, notice: None, told };
    open_page(&app, "login.html", StatusCode::OK, &context)
}

pub(super) async fn log_in(
    State(app): State<App>,
    ctx: Context,
    Address(address): Address,
    from: Origins,
    mut session: AuthSession,
    Form(form): Form<LoginForm>,
) -> Result<Response, HttpError> {
    let remember = !form.remember.is_empty();
    let found = match app.accounts.log_in(&form.login, &form.password, address).await {
        Ok(found) => found.ok_or((Some(REFUSED), None)),
        Err(LoginError::Waiting) => Err((None, Some(WAITING))),
        Err(error) => {
            let (problems, wait) = Refusal::of(error)?.split();
            let error = problems.into_values().next();
            let context = LoginPage { login: form.login, next: form.next, remember, error, notice: None, told: None };
            return Ok(Refusal::answer(wait, open_page(&app, "login.html", StatusCode::OK, &context)?));
        }
    };
    let user = match found {
        Ok(user) => user,
        Err((error, notice)) => {
            let shown: String = form.login.chars().take(64).collect();
            warn!(login = ?shown, "login failed");
            let error = error.map(str::to_owned);
            let context = LoginPage { login: form.login, next: form.next, remember, error, notice, told: None };
            return open_page(&app, "login.html", StatusCode::UNPROCESSABLE_ENTITY, &context);
        }
    };
    if user.has_second_factor {
        let pending = Pending { user_id: user.id, uniquifier: user.uniquifier, next: form.next, remember };
        session.session.clear().await;
        session.session.cycle_id().await.map_err(internal)?;
        session.session.insert(PENDING, pending).await.map_err(internal)?;
        return Ok(Redirect::to(&format!("{}/login/code", app.settings.web.prefix)).into_response());
    }
    enter(&ctx, &app, &mut session, &user, &from, remember, &form.next).await
}

async fn enter(
    ctx: &Context,
    app: &App,
    session: &mut AuthSession,
    user: &User,
    from: &Origins,
    remember: bool,
    next: &str,
) -> Result<Response, HttpError> {
    begin_session(app, session, user, from, remember).await?;
    app.accounts.record_login(ctx, user, from.address.clone(), remember).await?;
    info!(user = %user.username, "logged in");
    Ok(Redirect::to(&own_path(app, next)).into_response())
}

#[derive(Default, Serialize)]
struct CodePage {
    problems: Problems,
}

async fn pending(session: &AuthSession) -> Result<Option<Pending>, HttpError> {
    session.session.get(PENDING).await.map_err(internal)
}

pub(super) async fn show_code(State(app): State<App>, session: AuthSession) -> Result<Response, HttpError> {
    match pending(&session).await? {
        Some(_) => open_page(&app, "entrance/code.html", StatusCode::OK, &CodePage::default()),
        None => Ok(Redirect::to(&format!("{}/login", app.settings.web.prefix)).into_response()),
    }
}

/// Shown next to the field of the code.
pub(super) fn wrong_code() -> FormError {
    FormError::Problems(Problems::from([("code", "is invalid or has already been used".to_owned())]))
}

#[derive(Deserialize)]
pub(super) struct CodeForm {
    #[serde(default)]
    code: String,
}

pub(super) async fn give_code(
    State(app): State<App>,
    ctx: Context,
    Address(address): Address,
    from: Origins,
    mut session: AuthSession,
    Form(form): Form<CodeForm>,
) -> Result<Response, HttpError> {
    let to_login = || Ok(Redirect::to(&format!("{}/login", app.settings.web.prefix)).into_response());
    let Some(pending) = pending(&session).await? else { return to_login() };
    let user = app.accounts.find_active(pending.user_id).await?;
    let Some(user) = user.filter(|user| user.uniquifier == pending.uniquifier) else { return to_login() };
    let checked = match app.accounts.check_code(&ctx, user.id, &form.code, address).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(wrong_code()),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = checked {
        warn!(user = %user.username, "second-factor code rejected");
        let (problems, wait) = Refusal::of(error)?.split();
        let page = open_page(&app, "entrance/code.html", StatusCode::OK, &CodePage { problems })?;
        return Ok(Refusal::answer(wait, page));
    }
    enter(&ctx, &app, &mut session, &user, &from, pending.remember, &pending.next).await
}

#[derive(Serialize)]
struct LeavePage {
    username: String,
}

/// Opening the address does not end the session; users with an old bookmark find the button here.
pub(super) async fn show_log_out(State(app): State<App>, session: AuthSession) -> Result<Response, HttpError> {
    match session.user {
        Some(user) => open_page(&app, "entrance/leave.html", StatusCode::OK, &LeavePage { username: user.username }),
        None => Ok(Redirect::to(&format!("{}/login", app.settings.web.prefix)).into_response()),
    }
}

pub(super) async fn log_out(
    State(app): State<App>,
    ctx: Context,
    mut session: AuthSession,
) -> Result<Response, HttpError> {
    if let Some(user) = session.logout().await.map_err(internal)? {
        app.accounts.record_logout(&ctx, &user).await?;
    }
    let mut response = Redirect::to(&format!("{}/login", app.settings.web.prefix)).into_response();
    // The next user of this browser must not see the previous pages with its Back button.
    response.headers_mut().insert("clear-site-data", HeaderValue::from_static("\"cache\""));
    Ok(response)
}

/// The target after the login: only a path of this instance.
fn own_path(app: &App, next: &str) -> String {
    let home = format!("{}/", app.settings.web.prefix);
    let plain =
        next.starts_with(&home) && !next.starts_with("//") && !next.contains(|c: char| c == '\\' || c.is_control());
    if plain { next.to_owned() } else { home }
}

fn internal(error: impl std::fmt::Display) -> HttpError {
    HttpError::Internal(error.to_string())
}
