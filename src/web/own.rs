//! The user's own account: name, password, sessions and tokens.

use std::collections::BTreeSet;

use axum::extract::{Form, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use chrono::{NaiveDateTime, TimeDelta};
use serde::{Deserialize, Serialize};

use crate::account::{Chosen, NewToken, Permission, Problems, Session, Token, UserChanges};
use crate::app::App;
use crate::http::{Address, AuthSession, HttpError, LoggedIn, Origins, begin_session, keep_remembered, session_key};

use super::page::{Refusal, cohort_choices, page, with_status};

/// A session as shown on pages.
#[derive(Serialize)]
pub(super) struct SessionRow {
    key: String,
    since: Option<NaiveDateTime>,
    last_seen: Option<NaiveDateTime>,
    ends: NaiveDateTime,
    address: Option<String>,
    browser: String,
    is_remembered: bool,
    is_this: bool,
}

impl SessionRow {
    pub(super) fn new(session: Session, own: Option<&str>) -> Self {
        Self {
            is_this: own == Some(session.key.as_str()),
            browser: browser(session.agent.as_deref().unwrap_or_default()),
            key: session.key,
            since: session.since,
            last_seen: session.last_seen,
            ends: session.ends,
            address: session.address,
            is_remembered: session.is_remembered,
        }
    }
}

/// `Firefox on Linux` for a browser's user agent; the user agent itself if it is unknown.
fn browser(agent: &str) -> String {
    let find =
        |known: &[(&str, &'static str)]| known.iter().find(|(word, _)| agent.contains(word)).map(|(_, name)| *name);
    // Browsers also name older ones, so the more specific names come first.
    let program = find(&[
        ("Edg/", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
    ]);
    let system = find(&[
        ("Android", "Android"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Windows", "Windows"),
        ("Mac OS X", "macOS"),
        ("Linux", "Linux"),
    ]);
    match (program, system) {
        (Some(program), Some(system)) => format!("{program} on {system}"),
        _ if agent.is_empty() => "unknown browser".to_owned(),
        _ => agent.chars().take(60).collect(),
    }
}

/// A token as shown on pages.
#[derive(Serialize)]
pub(super) struct TokenRow {
    id: i32,
    label: String,
    permissions: Option<Vec<&'static str>>,
    created: NaiveDateTime,
    expires_at: Option<NaiveDateTime>,
    last_used_at: Option<NaiveDateTime>,
    state: &'static str,
}

impl TokenRow {
    pub(super) fn new(token: Token, now: NaiveDateTime) -> Self {
        let state = match (token.revoked_at, token.expires_at) {
            (Some(_), _) => "revoked",
            (None, Some(end)) if end <= now => "expired",
            _ => "good",
        };
        Self {
            id: token.id,
            label: token.label,
            permissions: token.permissions.map(|all| all.iter().map(|one| one.name()).collect()),
            created: token.created,
            expires_at: token.expires_at,
            last_used_at: token.last_used_at,
            state,
        }
    }
}

#[derive(Serialize)]
struct AccountPage {
    email: String,
    roles: BTreeSet<String>,
    /// The user's permissions, each with its cohorts if it does not hold in all visible ones.
    permissions: Vec<String>,
    /// The cohorts that this user sees, if not the whole study.
    sees: Option<Vec<String>>,
    has_second_factor: bool,
    sessions: Vec<SessionRow>,
    tokens: Vec<TokenRow>,
    /// The secret of a new token; shown once.
    secret: Option<String>,
    own_name: String,
    label: String,
    days: String,
    may_all: bool,
    problems: Problems,
}

/// The differences from the page as it is first opened.
#[derive(Default)]
struct Shown {
    secret: Option<String>,
    own_name: Option<String>,
    token: TokenForm,
    problems: Problems,
}

async fn account_page(app: &App, user: &LoggedIn, session: &AuthSession, shown: Shown) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let own = session_key(session);
    let now = app.engine.clock().now();
    let seen = user.0.cohorts();
    let snapshot = app.snapshot().await?;
    let accounts = app.at(&snapshot).accounts;
    let sessions = accounts.sessions(user.0.id).await?;
    let tokens = accounts.tokens(user.0.id).await?;
    let cohorts = if seen.is_some() { cohort_choices(ctx, &snapshot).await? } else { Vec::new() };
    drop((accounts, snapshot));
    let permission = |one: &Permission| match user.0.cohorts_to(*one) {
        Some(held) if seen.as_ref() != Some(&held) => {
            let labels = cohorts.iter().filter(|cohort| held.contains(&cohort.id)).map(|cohort| cohort.label.as_str());
            format!("{} in {}", one.name(), labels.collect::<Vec<_>>().join(" and "))
        }
        _ => one.name().to_owned(),
    };
    let permissions = user.0.permissions.iter().map(permission).collect();
    let sees = seen.as_ref().map(|_| cohorts.iter().map(|one| one.label.clone()).collect());
    let status = if shown.problems.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    let content = AccountPage {
        email: user.0.email.clone(),
        roles: user.0.roles.clone(),
        permissions,
        sees,
        has_second_factor: user.0.has_second_factor,
        sessions: sessions.into_iter().map(|one| SessionRow::new(one, own.as_deref())).collect(),
        tokens: tokens.into_iter().map(|one| TokenRow::new(one, now)).collect(),
        secret: shown.secret,
        own_name: shown.own_name.unwrap_or_else(|| user.0.name.clone()),
        label: shown.token.label,
        days: shown.token.days,
        may_all: shown.token.permissions == "all",
        problems: shown.problems,
    };
    Ok(with_status(page(app, "own/account.html", "account", &user.0, content)?, status))
}

fn back(app: &App) -> Response {
    Redirect::to(&format!("{}/account", app.settings.web.prefix)).into_response()
}

pub(super) async fn show_account(
    State(app): State<App>,
    user: LoggedIn,
    session: AuthSession,
) -> Result<Response, HttpError> {
    account_page(&app, &user, &session, Shown::default()).await
}

#[derive(Deserialize)]
pub(super) struct NameForm {
    #[serde(default)]
    name: String,
}

pub(super) async fn update_account(
    State(app): State<App>,
    user: LoggedIn,
    session: AuthSession,
    Form(form): Form<NameForm>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let changes = UserChanges { name: Some(form.name.clone()), ..UserChanges::default() };
    match app.accounts.update(ctx, user.0.id, changes, |_| true).await {
        Ok(_) => Ok(back(&app)),
        Err(crate::account::AccountError::Invalid { field, problem }) => {
            let shown =
                Shown { own_name: Some(form.name), problems: Problems::from([(field, problem)]), ..Shown::default() };
            account_page(&app, &user, &session, shown).await
        }
        Err(error) => Err(error.into()),
    }
}

#[derive(Deserialize)]
pub(super) struct EndForm {
    /// The key of one session; if empty, all except the current one.
    #[serde(default)]
    key: String,
}

pub(super) async fn end_sessions(
    State(app): State<App>,
    user: LoggedIn,
    session: AuthSession,
    Form(form): Form<EndForm>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let own = session_key(&session);
    let one = Some(form.key.as_str()).filter(|key| !key.is_empty());
    let except = if one.is_none() { own.as_deref() } else { None };
    app.accounts.end_sessions(ctx, user.0.id, &user.0.username, one, except).await?;
    Ok(back(&app))
}

/// The form of a new token: its purpose, its lifetime in days, and `all` or `read`.
#[derive(Deserialize)]
#[serde(default)]
pub(super) struct TokenForm {
    label: String,
    days: String,
    permissions: String,
    /// The user's own password, again.
    password: String,
}

impl Default for TokenForm {
    fn default() -> Self {
        let (days, permissions) = ("90".to_owned(), "read".to_owned());
        Self { label: String::new(), days, permissions, password: String::new() }
    }
}

pub(super) async fn create_token(
    State(app): State<App>,
    user: LoggedIn,
    Address(address): Address,
    session: AuthSession,
    Form(form): Form<TokenForm>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let label = form.label.trim().to_owned();
    let mut problems = Problems::new();
    if label.is_empty() || label.chars().count() > 100 || label.chars().any(char::is_control) {
        problems.insert("label", "must be 1 to 100 characters without control characters".to_owned());
    }
    let days = form.days.trim().parse::<i64>().ok().filter(|days| (1..=366).contains(days));
    if days.is_none() {
        problems.insert("days", "must be 1 to 366 days".to_owned());
    }
    let permissions = match form.permissions.as_str() {
        "all" => None,
        "read" => Some(BTreeSet::new()),
        _ => {
            problems.insert("permissions", "must be all or read".to_owned());
            None
        }
    };
    if !problems.is_empty() {
        return account_page(&app, &user, &session, Shown { problems, token: form, ..Shown::default() }).await;
    }
    // A token outlives the session: an open browser alone must not be enough.
    if let Err(error) = app.accounts.ask_password_again(&user.0, "password", &form.password, address).await {
        let (problems, wait) = Refusal::of(error)?.split();
        let page = account_page(&app, &user, &session, Shown { problems, token: form, ..Shown::default() }).await?;
        return Ok(Refusal::answer(wait, page));
    }
    let expires_at = app.engine.clock().now() + TimeDelta::days(days.unwrap_or(1));
    let new = NewToken { label, permissions, expires_at };
    let (_, secret) = app.accounts.create_token(ctx, user.0.id, &new).await?;
    account_page(&app, &user, &session, Shown { secret: Some(secret), ..Shown::default() }).await
}

#[derive(Deserialize)]
pub(super) struct RevokeForm {
    id: i32,
}

pub(super) async fn revoke_token(
    State(app): State<App>,
    user: LoggedIn,
    Form(form): Form<RevokeForm>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    app.accounts.revoke_token(ctx, user.0.id, form.id).await?;
    Ok(back(&app))
}

#[derive(Serialize)]
struct ChangePage {
    problems: Problems,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ChangeForm {
    current: String,
    password: String,
    again: String,
}

pub(super) async fn show_change(State(app): State<App>, user: LoggedIn) -> Result<Response, HttpError> {
    page(&app, "own/change.html", "account", &user.0, ChangePage { problems: Problems::new() })
}

pub(super) async fn change(
    State(app): State<App>,
    user: LoggedIn,
    Address(address): Address,
    from: Origins,
    mut session: AuthSession,
    Form(form): Form<ChangeForm>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let chosen = Chosen { password: form.password, again: form.again };
    match app.accounts.change_password(ctx, &user.0, &form.current, &chosen, address).await {
        Ok(changed) => {
            let remembered = keep_remembered(&app, &session).await?;
            begin_session(&app, &mut session, &changed, &from, remembered).await?;
            Ok(back(&app))
        }
        Err(error) => {
            let (problems, wait) = Refusal::of(error)?.split();
            let page = page(&app, "own/change.html", "account", &user.0, ChangePage { problems })?;
            Ok(Refusal::answer(wait, page))
        }
    }
}
