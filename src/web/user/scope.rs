//! Roles for some cohorts only: the forms on the page of a user.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::{Path, RawForm, State};
use axum::response::Response;
use serde::Serialize;

use super::super::page::missing;
use super::change::reached;
use super::show::{Typed, user_page};
use super::{Held, may_give, to_user};
use crate::account::{AccountError, Problems, RoleRecord, User};
use crate::app::App;
use crate::context::Context;
use crate::http::{AuthSession, HttpError, LoggedIn};

/// A role of a user, and the cohorts that it is limited to.
#[derive(Serialize)]
pub(super) struct ScopeForm {
    role_id: i32,
    role: String,
    is_scoped: bool,
    /// Shown expanded, because the form was rejected.
    is_open: bool,
    cohorts: Vec<CohortBox>,
}

/// A checkbox for a cohort.
#[derive(Serialize)]
pub(super) struct CohortBox {
    id: i32,
    label: String,
    is_on: bool,
}

/// The values of a submitted form.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    role: i32,
    cohorts: BTreeSet<i32>,
    /// The button for the whole study was pressed.
    whole: bool,
}

/// All cohorts by label.
pub(super) fn cohort_boxes(labels: &BTreeMap<i32, String>, ticked: Option<&BTreeSet<i32>>) -> Vec<CohortBox> {
    let one = |(id, label): (&i32, &String)| CohortBox {
        id: *id,
        label: label.clone(),
        is_on: ticked.is_some_and(|ticked| ticked.contains(id)),
    };
    let mut cohorts: Vec<CohortBox> = labels.iter().map(one).collect();
    cohorts.sort_by_cached_key(|one| one.label.to_lowercase());
    cohorts
}

/// A form for each role that the user has and the viewer may assign; `admin` is always for the whole study.
pub(super) fn scope_forms(
    held: &Held,
    roles: &[(RoleRecord, u64)],
    looks: &User,
    is_reached: bool,
    chosen: Option<&Chosen>,
) -> Vec<ScopeForm> {
    let is_shown = |role: &RoleRecord| {
        is_reached && held.roles.contains(&role.row.id) && role.row.name != "admin" && may_give(looks, role)
    };
    let form = |role: &RoleRecord| {
        let typed = chosen.filter(|chosen| chosen.role == role.row.id);
        let now = held.cohorts.get(&role.row.id);
        ScopeForm {
            role_id: role.row.id,
            role: role.row.name.clone(),
            is_scoped: now.is_some(),
            is_open: typed.is_some(),
            cohorts: cohort_boxes(&held.labels, typed.map(|chosen| &chosen.cohorts).or(now)),
        }
    };
    roles.iter().map(|(role, _)| role).filter(|role| is_shown(role)).map(form).collect()
}

fn read(bytes: &[u8]) -> Chosen {
    let mut chosen = Chosen::default();
    for (name, value) in url::form_urlencoded::parse(bytes) {
        match name.as_ref() {
            "role" => chosen.role = value.parse().unwrap_or_default(),
            "cohort" => chosen.cohorts.extend(value.parse::<i32>().ok()),
            "whole" => chosen.whole = true,
            _ => {}
        }
    }
    chosen
}

/// Assigns a role for the selected cohorts, or for the whole study with the separate button: an empty form is an error.
pub(in crate::web) async fn give_for_cohorts(
    State(app): State<App>,
    looks: LoggedIn,
    session: AuthSession,
    Path(id): Path<i32>,
    RawForm(bytes): RawForm,
) -> Result<Response, HttpError> {
    let ctx = looks.ctx();
    let chosen = read(&bytes);
    let role = app.accounts.role(chosen.role).await?.ok_or_else(|| missing(ctx, "role", chosen.role))?;
    if !may_give(&looks.0, &role) {
        return Err(HttpError::NotYours(format!("The role '{}' has more permissions than you.", role.row.name)));
    }
    // It also changes where all other roles of the account hold.
    reached(&app, &looks, id).await?;
    let problem = match (chosen.whole, chosen.cohorts.is_empty()) {
        (false, true) => Some("select at least one".to_owned()),
        (true, _) => give(ctx, &app, id, chosen.role, &BTreeSet::new()).await?,
        (false, false) => give(ctx, &app, id, chosen.role, &chosen.cohorts).await?,
    };
    let Some(problem) = problem else { return Ok(to_user(&app, id, "saved")) };
    let problems = Problems::from([("cohorts", problem)]);
    user_page(&app, &looks, &session, id, problems, Typed::Cohorts(chosen), None).await
}

/// Assigns the role, or returns what is wrong with the form.
async fn give(
    ctx: &Context,
    app: &App,
    id: i32,
    role: i32,
    cohorts: &BTreeSet<i32>,
) -> Result<Option<String>, HttpError> {
    match app.accounts.give_role_for(ctx, id, role, cohorts).await {
        Ok(()) => Ok(None),
        Err(AccountError::Invalid { problem, .. }) => Ok(Some(problem)),
        Err(error) => Err(error.into()),
    }
}
