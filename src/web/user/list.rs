//! The list of accounts.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::super::page::{Choice, PAGE_SIZE, maybe, page_or_block};
use super::{Held, UserRow, cohort_labels, user_row};
use crate::account::{AccountKey, AccountPlace, AccountState, Wanted};
use crate::app::App;
use crate::entity::user;
use crate::http::{HttpError, LoggedIn, Wants};

#[derive(Debug, Clone, Default, Deserialize)]
pub(in crate::web) struct UserQuery {
    #[serde(default)]
    q: String,
    #[serde(default, deserialize_with = "maybe")]
    role: Option<i32>,
    #[serde(default)]
    state: String,
    /// The page that begins after this account, or the one that ends before it.
    #[serde(default)]
    after: String,
    #[serde(default)]
    before: String,
}

impl UserQuery {
    fn place(&self) -> Result<AccountPlace, HttpError> {
        let key = |field: &str, text: &str| {
            AccountKey::parse(text).ok_or_else(|| {
                HttpError::BadRequest(format!("{field}: '{text}' is not a valid position in the list of accounts"))
            })
        };
        match (self.after.as_str(), self.before.as_str()) {
            ("", "") => Ok(AccountPlace::First),
            ("", before) => key("before", before).map(AccountPlace::Before),
            (after, _) => key("after", after).map(AccountPlace::After),
        }
    }
}

#[derive(Serialize)]
struct UsersPage {
    users: Vec<UserRow>,
    roles: Vec<Choice>,
    count: u64,
    q: String,
    role: Option<i32>,
    state: String,
    /// The queries of the neighbouring pages, without the path.
    previous: Option<String>,
    next: Option<String>,
}

pub(in crate::web) async fn list_users(
    State(app): State<App>,
    user: LoggedIn,
    wants: Wants,
    Query(query): Query<UserQuery>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let state = match query.state.as_str() {
        "" => None,
        name => {
            let problem = || HttpError::BadRequest(format!("state: '{name}' is not one of active, waiting, inactive"));
            Some(AccountState::parse(name).ok_or_else(problem)?)
        }
    };
    let wanted = Wanted { text: query.q.clone(), role: query.role, state };
    let place = query.place()?;
    let snapshot = app.snapshot().await?;
    let accounts = app.at(&snapshot).accounts;
    let found = accounts.search(&wanted, &place, PAGE_SIZE).await?;
    let roles = accounts.roles().await?;
    let ids: Vec<i32> = found.users.iter().map(|one| one.id).collect();
    let cohorts = accounts.role_cohorts(&ids).await?;
    let labels = cohort_labels(ctx, &snapshot).await?;
    drop((accounts, snapshot));
    let address = |field: &str, row: Option<&user::Model>| {
        let mut address = url::form_urlencoded::Serializer::new(String::new());
        address.append_pair("q", &query.q).append_pair("state", &query.state);
        if let Some(role) = query.role {
            address.append_pair("role", &role.to_string());
        }
        Some(address.append_pair(field, &AccountKey::of(row?).to_string()).finish())
    };
    let previous = address("before", found.users.first()).filter(|_| found.has_before);
    let next = address("after", found.users.last()).filter(|_| found.has_after);
    let row = |one: user::Model| {
        let held = Held {
            roles: found.roles.get(&one.id).cloned().unwrap_or_default(),
            cohorts: cohorts.get(&one.id).cloned().unwrap_or_default(),
            labels: Arc::clone(&labels),
        };
        user_row(one, &held, &roles, &user.0)
    };
    let content = UsersPage {
        users: found.users.into_iter().map(row).collect(),
        roles: roles.iter().map(|(role, _)| Choice { id: role.row.id, label: role.row.name.clone() }).collect(),
        count: found.count,
        q: query.q,
        role: query.role,
        state: query.state,
        previous,
        next,
    };
    page_or_block(&app, "user/list.html", "users", &user.0, content, wants.fragment.then_some("results"))
}
