//! Logging in and out.

use axum::extract::{Form, Query, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Redirect, Response};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::app::App;
use crate::http::{Address, AuthSession, HttpError};

#[derive(Deserialize)]
pub(super) struct LoginQuery {
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
pub(super) struct LoginForm {
    #[serde(default)]
    login: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    next: String,
}

#[derive(Serialize)]
struct LoginPage {
    login: String,
    next: String,
    error: Option<&'static str>,
}

pub(super) async fn show_login(
    State(app): State<App>,
    session: AuthSession,
    Query(query): Query<LoginQuery>,
) -> Result<Response, HttpError> {
    if session.user.is_some() {
        return Ok(Redirect::to(&own_path(&app, &query.next)).into_response());
    }
    let context = LoginPage { login: String::new(), next: query.next, error: None };
    Ok(Html(app.templates.page("login.html", &context)?).into_response())
}

pub(super) async fn log_in(
    State(app): State<App>,
    Address(address): Address,
    mut session: AuthSession,
    Form(form): Form<LoginForm>,
) -> Result<Response, HttpError> {
    let found = app.accounts.log_in(&form.login, &form.password, address).await?;
    let Some(user) = found else {
        let shown: String = form.login.chars().take(64).collect();
        warn!(login = ?shown, "a login was refused");
        let error = Some("This name and password do not fit together, or the account is not active.");
        let context = LoginPage { login: form.login, next: form.next, error };
        let page = Html(app.templates.page("login.html", &context)?);
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, page).into_response());
    };
    // A session that was begun by somebody else is not taken over.
    session.session.cycle_id().await.map_err(internal)?;
    session.login(&user).await.map_err(internal)?;
    info!(user = %user.username, "logged in");
    Ok(Redirect::to(&own_path(&app, &form.next)).into_response())
}

pub(super) async fn log_out(State(app): State<App>, mut session: AuthSession) -> Result<Response, HttpError> {
    session.logout().await.map_err(internal)?;
    Ok(Redirect::to(&format!("{}/login", app.settings.web.prefix)).into_response())
}

/// Where to go after the login: only to a path of our own.
fn own_path(app: &App, next: &str) -> String {
    let home = format!("{}/", app.settings.web.prefix);
    let plain =
        next.starts_with(&home) && !next.starts_with("//") && !next.contains(|c: char| c == '\\' || c.is_control());
    if plain { next.to_owned() } else { home }
}

fn internal(error: impl std::fmt::Display) -> HttpError {
    HttpError::Internal(error.to_string())
}
