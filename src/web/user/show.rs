//! The page of an account.

use std::collections::BTreeMap;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use chrono::NaiveDateTime;
use sea_orm::EntityTrait;
use serde::{Deserialize, Serialize};

use super::super::audit::EventRow;
use super::super::own::{SessionRow, TokenRow};
use super::super::page::{missing, page, with_status};
use super::change::UserForm;
use super::scope::{Chosen, ScopeForm, scope_forms};
use super::{UserRow, held_by, user_row};
use crate::account::{Problems, may_recover};
use crate::app::App;
use crate::audit;
use crate::entity::user;
use crate::http::{AuthSession, HttpError, LoggedIn, session_key};

#[derive(Serialize)]
struct UserPage {
    person: UserRow,
    confirmed_at: Option<NaiveDateTime>,
    created: NaiveDateTime,
    logins: i32,
    last_address: Option<String>,
    permissions: BTreeMap<&'static str, Vec<String>>,
    /// The cohorts that this user sees, if not the whole study.
    sees: Option<Vec<String>>,
    scopes: Vec<ScopeForm>,
    sessions: Vec<SessionRow>,
    tokens: Vec<TokenRow>,
    /// Actions of the user, and changes of the account by others.
    events: Vec<EventRow>,
    done_to: Vec<EventRow>,
    /// A link for a new password can be sent.
    may_reset: bool,
    may_end_factor: bool,
    /// The reason for declining.
    reason: String,
    problems: Problems,
    told: Option<&'static str>,
}

/// The values of a rejected form.
pub(super) enum Typed {
    Nothing,
    Who(UserForm),
    Cohorts(Chosen),
    /// The reason for declining the account.
    Reason(String),
}

pub(super) async fn user_page(
    app: &App,
    looks: &LoggedIn,
    session: &AuthSession,
    id: i32,
    problems: Problems,
    typed: Typed,
    told: Option<&'static str>,
) -> Result<Response, HttpError> {
    let ctx = looks.ctx();
    let snapshot = app.snapshot().await?;
    let accounts = app.at(&snapshot).accounts;
    let row = user::Entity::find_by_id(id).one(&snapshot).await?.ok_or_else(|| missing(ctx, "user", id))?;
    let person = accounts.find(id).await?.ok_or_else(|| missing(ctx, "user", id))?;
    let roles = accounts.roles().await?;
    let held = held_by(ctx, &snapshot, &accounts, &person, &roles).await?;
    let (sessions, tokens) = (accounts.sessions(id).await?, accounts.tokens(id).await?);
    let events = audit::by_user(&snapshot, id, 20).await?;
    let done_to = audit::of_user(&snapshot, id, 20).await?;
    drop((accounts, snapshot));
    let mut permissions: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    for (role, _) in roles.iter().filter(|(role, _)| held.roles.contains(&role.row.id)) {
        // Permissions for the whole study do not hold for a user with a role that is limited to some cohorts.
        for one in role.permissions.iter().filter(|one| person.may(**one)) {
            permissions.entry(one.name()).or_default().push(role.row.name.clone());
        }
    }
    let now = app.engine.clock().now();
    let own = session_key(session);
    let mut shown = row.clone();
    let mut reason = String::new();
    let chosen = match typed {
        Typed::Nothing => None,
        Typed::Who(typed) => {
            (shown.username, shown.name, shown.email) = (typed.username, typed.name, typed.email);
            None
        }
        Typed::Cohorts(chosen) => Some(chosen),
        Typed::Reason(typed) => {
            reason = typed;
            None
        }
    };
    let is_reached = looks.0.reaches_account(&person);
    let scopes = scope_forms(&held, &roles, &looks.0, is_reached, chosen.as_ref());
    let sees = person.cohorts().map(|ids| ids.iter().filter_map(|id| held.labels.get(id).cloned()).collect());
    let content = UserPage {
        scopes,
        sees,
        person: user_row(shown, &held, &roles, &looks.0),
        confirmed_at: row.confirmed_at,
        created: row.create_time,
        logins: row.login_count,
        last_address: row.current_login_ip.clone(),
        permissions,
        sessions: sessions.into_iter().map(|one| SessionRow::new(one, own.as_deref())).collect(),
        tokens: tokens.into_iter().map(|one| TokenRow::new(one, now)).collect(),
        events: events.into_iter().map(EventRow::from).collect(),
        done_to: done_to.into_iter().map(EventRow::from).collect(),
        may_reset: is_reached && app.settings.security.recoverable && may_recover(&row),
        may_end_factor: is_reached && looks.0.id != id && row.second_factor_at.is_some(),
        reason,
        told,
        problems,
    };
    let status = if content.problems.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    Ok(with_status(page(app, "user/page.html", "users", &looks.0, content)?, status))
}

#[derive(Deserialize)]
pub(in crate::web) struct ToldQuery {
    #[serde(default)]
    told: String,
}

pub(in crate::web) async fn show_user(
    State(app): State<App>,
    user: LoggedIn,
    session: AuthSession,
    Path(id): Path<i32>,
    Query(query): Query<ToldQuery>,
) -> Result<Response, HttpError> {
    let told = match query.told.as_str() {
        "created" => Some("Account created."),
        "invited" => Some("Invitation sent."),
        "ended" => Some("All sessions of this account were ended."),
        "factor" => Some("Second factor removed; the user is notified by e-mail."),
        "reset" => Some("Password reset link sent."),
        "declined" => Some("Registration declined; the applicant is notified by e-mail."),
        "confirmed" => Some("Address marked as confirmed."),
        "saved" => Some("Saved."),
        _ => None,
    };
    user_page(&app, &user, &session, id, Problems::new(), Typed::Nothing, told).await
}
