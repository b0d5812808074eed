//! The list of accounts.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::super::page::{Choice, PAGE_SIZE, maybe, page_or_block};
use super::{Held, UserRow, cohort_labels, user_row};
use crate::account::{AccountState, Wanted};
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
    #[serde(default)]
    page: u64,
}

#[derive(Serialize)]
struct UsersPage {
    users: Vec<UserRow>,
    roles: Vec<Choice>,
    count: u64,
    q: String,
    role: Option<i32>,
    state: String,
    number: u64,
    has_more: bool,
    query: String,
}

pub(in crate::web) async fn list_users(
    State(app): State<App>,
    user: LoggedIn,
    wants: Wants,
    Query(query): Query<UserQuery>,
) -> Result<Response, HttpError> {
    let state = match query.state.as_str() {
        "" => None,
        name => {
            let problem = || HttpError::BadRequest(format!("state: '{name}' is none of active, waiting, inactive"));
            Some(AccountState::parse(name).ok_or_else(problem)?)
        }
    };
    let wanted = Wanted { text: query.q.clone(), role: query.role, state };
    let number = query.page.min(100_000);
    let found = app.accounts.search(&wanted, number, PAGE_SIZE).await?;
    let roles = app.accounts.roles().await?;
    let ids: Vec<i32> = found.users.iter().map(|one| one.id).collect();
    let cohorts = app.accounts.role_cohorts(&ids).await?;
    let labels = cohort_labels(&app).await?;
    let mut address = url::form_urlencoded::Serializer::new(String::new());
    address.append_pair("q", &query.q).append_pair("state", &query.state);
    if let Some(role) = query.role {
        address.append_pair("role", &role.to_string());
    }
    let row = |one: user::Model| {
        let held = Held {
            roles: found.roles.get(&one.id).cloned().unwrap_or_default(),
            cohorts: cohorts.get(&one.id).cloned().unwrap_or_default(),
            labels: Arc::clone(&labels),
        };
        user_row(one, &held, &roles, &user.0)
    };
    let content = UsersPage {
        has_more: (number + 1) * PAGE_SIZE < found.count,
        users: found.users.into_iter().map(row).collect(),
        roles: roles.iter().map(|(role, _)| Choice { id: role.row.id, label: role.row.name.clone() }).collect(),
        count: found.count,
        q: query.q,
        role: query.role,
        state: query.state,
        number,
        query: address.finish(),
    };
    page_or_block(&app, "user/list.html", "users", &user.0, content, wants.fragment.then_some("results"))
}
