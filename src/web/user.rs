//! Looking after accounts: who there is, what they may do, where they are logged in, what they did lately.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::{Form, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use chrono::NaiveDateTime;
use sea_orm::EntityTrait;
use serde::{Deserialize, Serialize};

use crate::account::{
    AccountError, AccountState, NewUser, Permission, Problems, Registration, RoleRecord, User, UserChanges, Wanted,
    is_invited,
};
use crate::app::App;
use crate::audit;
use crate::entity::user;
use crate::http::{AuthSession, HttpError, LoggedIn, Wants, session_key};

use super::audit::EventRow;
use super::own::{SessionRow, TokenRow};
use super::page::{PAGE_SIZE, maybe, missing, page, page_or_block, with_status};

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct UserQuery {
    #[serde(default)]
    q: String,
    #[serde(default, deserialize_with = "maybe")]
    role: Option<i32>,
    #[serde(default)]
    state: String,
    #[serde(default)]
    page: u64,
}

/// A role as a switch.
#[derive(Serialize)]
struct Switch {
    id: i32,
    name: String,
    description: Option<String>,
    is_on: bool,
    /// Who looks may not give or take it.
    is_locked: bool,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a mark of its own")]
#[derive(Serialize)]
struct UserRow {
    id: i32,
    username: String,
    name: String,
    email: String,
    state: &'static str,
    is_confirmed: bool,
    is_invited: bool,
    has_second_factor: bool,
    weak_password: bool,
    last_login: Option<NaiveDateTime>,
    switches: Vec<Switch>,
}

#[derive(Serialize)]
struct RoleChoice {
    id: i32,
    name: String,
    description: Option<String>,
    permissions: Vec<&'static str>,
}

#[derive(Serialize)]
struct UsersPage {
    users: Vec<UserRow>,
    roles: Vec<RoleChoice>,
    count: u64,
    q: String,
    role: Option<i32>,
    state: String,
    number: u64,
    has_more: bool,
    query: String,
}

/// What somebody with this account can be told of: the switches that who looks may turn.
fn user_row(row: user::Model, held: Option<&BTreeSet<i32>>, roles: &[(RoleRecord, u64)], looks: &User) -> UserRow {
    let switch = |(role, _): &(RoleRecord, u64)| Switch {
        id: role.row.id,
        name: role.row.name.clone(),
        description: role.row.description.clone(),
        is_on: held.is_some_and(|held| held.contains(&role.row.id)),
        is_locked: !may_give(looks, role),
    };
    UserRow {
        id: row.id,
        state: AccountState::of(&row).name(),
        is_confirmed: row.confirmed_at.is_some(),
        is_invited: is_invited(&row),
        has_second_factor: row.second_factor_at.is_some(),
        weak_password: row.weak_password,
        last_login: row.current_login_at,
        switches: roles.iter().map(switch).collect(),
        username: row.username,
        name: row.name,
        email: row.email,
    }
}

fn may_give(looks: &User, role: &RoleRecord) -> bool {
    looks.may(Permission::RolesManage) && looks.reaches(role.row.name == "admin", &role.permissions)
}

fn choices(roles: &[(RoleRecord, u64)]) -> Vec<RoleChoice> {
    let choice = |(role, _): &(RoleRecord, u64)| RoleChoice {
        id: role.row.id,
        name: role.row.name.clone(),
        description: role.row.description.clone(),
        permissions: role.permissions.iter().map(|one| one.name()).collect(),
    };
    roles.iter().map(choice).collect()
}

pub(super) async fn list_users(
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
    let mut address = url::form_urlencoded::Serializer::new(String::new());
    address.append_pair("q", &query.q).append_pair("state", &query.state);
    if let Some(role) = query.role {
        address.append_pair("role", &role.to_string());
    }
    let row = |one: user::Model| {
        let held = found.roles.get(&one.id).cloned();
        user_row(one, held.as_ref(), &roles, &user.0)
    };
    let content = UsersPage {
        has_more: (number + 1) * PAGE_SIZE < found.count,
        users: found.users.into_iter().map(row).collect(),
        roles: choices(&roles),
        count: found.count,
        q: query.q,
        role: query.role,
        state: query.state,
        number,
        query: address.finish(),
    };
    page_or_block(&app, "user/list.html", "users", &user.0, content, wants.fragment.then_some("results"))
}

#[derive(Serialize)]
struct UserPage {
    person: UserRow,
    confirmed_at: Option<NaiveDateTime>,
    created: NaiveDateTime,
    logins: i32,
    last_address: Option<String>,
    permissions: BTreeMap<&'static str, Vec<String>>,
    sessions: Vec<SessionRow>,
    tokens: Vec<TokenRow>,
    events: Vec<EventRow>,
    /// Who looks may change it: it may not do more than they may.
    is_reached: bool,
    is_own: bool,
    may_end_factor: bool,
    problems: Problems,
    told: Option<&'static str>,
}

async fn user_page(
    app: &App,
    looks: &LoggedIn,
    session: &AuthSession,
    id: i32,
    problems: Problems,
    typed: Option<UserForm>,
    told: Option<&'static str>,
) -> Result<Response, HttpError> {
    let connection = app.engine.database().reader();
    let row = user::Entity::find_by_id(id).one(connection).await?.ok_or_else(|| missing("user", id))?;
    let person = app.accounts.find(id).await?.ok_or_else(|| missing("user", id))?;
    let roles = app.accounts.roles().await?;
    let held: BTreeSet<i32> =
        roles.iter().filter(|(role, _)| person.roles.contains(&role.row.name)).map(|(role, _)| role.row.id).collect();
    let mut permissions: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    for (role, _) in roles.iter().filter(|(role, _)| held.contains(&role.row.id)) {
        for one in &role.permissions {
            permissions.entry(one.name()).or_default().push(role.row.name.clone());
        }
    }
    let now = app.engine.clock().now();
    let own = session_key(session);
    let mut shown = row.clone();
    if let Some(typed) = typed {
        (shown.username, shown.name, shown.email) = (typed.username, typed.name, typed.email);
    }
    let is_reached = looks.0.reaches(person.is_admin(), &person.permissions);
    let content = UserPage {
        person: user_row(shown, Some(&held), &roles, &looks.0),
        confirmed_at: row.confirmed_at,
        created: row.create_time,
        logins: row.login_count,
        last_address: row.current_login_ip,
        permissions,
        sessions: app
            .accounts
            .sessions(id)
            .await?
            .into_iter()
            .map(|one| SessionRow::new(one, own.as_deref()))
            .collect(),
        tokens: app.accounts.tokens(id).await?.into_iter().map(|one| TokenRow::new(one, now)).collect(),
        events: audit::by_user(connection, id, 20).await?.into_iter().map(EventRow::from).collect(),
        is_reached,
        is_own: looks.0.id == id,
        may_end_factor: is_reached && looks.0.id != id && row.second_factor_at.is_some(),
        told,
        problems,
    };
    let status = if content.problems.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    Ok(with_status(page(app, "user/page.html", "users", &looks.0, content)?, status))
}

#[derive(Deserialize)]
pub(super) struct ToldQuery {
    #[serde(default)]
    told: String,
}

pub(super) async fn show_user(
    State(app): State<App>,
    user: LoggedIn,
    session: AuthSession,
    Path(id): Path<i32>,
    Query(query): Query<ToldQuery>,
) -> Result<Response, HttpError> {
    let told = match query.told.as_str() {
        "created" => Some("The account is made."),
        "invited" => Some("The invitation is on its way."),
        "ended" => Some("All sessions of this account have ended."),
        "factor" => Some("The second factor is taken away; a mail says so."),
        "saved" => Some("Saved."),
        _ => None,
    };
    user_page(&app, &user, &session, id, Problems::new(), None, told).await
}

fn to_user(app: &App, id: i32, told: &str) -> Response {
    Redirect::to(&format!("{}/users/{id}?told={told}", app.settings.web.prefix)).into_response()
}

/// The account, if it may not do more than who wants to change it.
async fn reached(app: &App, looks: &LoggedIn, id: i32) -> Result<User, HttpError> {
    let person = app.accounts.find(id).await?.ok_or_else(|| missing("user", id))?;
    match looks.0.reaches(person.is_admin(), &person.permissions) {
        true => Ok(person),
        false => Err(HttpError::NotYours("This account may do more than you may.".to_owned())),
    }
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct UserForm {
    username: String,
    name: String,
    email: String,
}

pub(super) async fn update_user(
    State(app): State<App>,
    looks: LoggedIn,
    session: AuthSession,
    Path(id): Path<i32>,
    Form(form): Form<UserForm>,
) -> Result<Response, HttpError> {
    reached(&app, &looks, id).await?;
    let typed = form.clone();
    let changes = UserChanges {
        username: Some(form.username),
        name: Some(form.name),
        email: Some(form.email),
        ..UserChanges::default()
    };
    let problems = match app.accounts.update(id, changes, |_| true).await {
        Ok(_) => return Ok(to_user(&app, id, "saved")),
        Err(AccountError::Invalid { field, problem }) => Problems::from([(field, problem)]),
        Err(AccountError::Exists) => taken(),
        Err(error) => return Err(error.into()),
    };
    user_page(&app, &looks, &session, id, problems, Some(typed), None).await
}

fn taken() -> Problems {
    let problem = "or the other name is somebody's already (people log in with either)".to_owned();
    Problems::from([("username", problem.clone()), ("email", problem)])
}

#[derive(Deserialize)]
pub(super) struct RoleForm {
    role: i32,
    /// `1` to give it; anything else takes it away.
    #[serde(default)]
    on: String,
}

/// The switches of one person.
#[derive(Serialize)]
struct SwitchesPart {
    person: UserRow,
}

/// Gives or takes a role with one click: htmx gets the row of the list, or else it leads back to the user's page.
pub(super) async fn switch_role(
    State(app): State<App>,
    looks: LoggedIn,
    wants: Wants,
    Path(id): Path<i32>,
    Form(form): Form<RoleForm>,
) -> Result<Response, HttpError> {
    let role = app.accounts.role(form.role).await?.ok_or_else(|| missing("role", form.role))?;
    if app.accounts.find(id).await?.is_none() {
        return Err(missing("user", id));
    }
    if !may_give(&looks.0, &role) {
        return Err(HttpError::NotYours(format!("The role '{}' permits more than you may.", role.row.name)));
    }
    app.accounts.set_role(id, form.role, form.on == "1").await?;
    if !wants.fragment {
        return Ok(to_user(&app, id, "saved"));
    }
    let connection = app.engine.database().reader();
    let row = user::Entity::find_by_id(id).one(connection).await?.ok_or_else(|| missing("user", id))?;
    let person = app.accounts.find(id).await?.ok_or_else(|| missing("user", id))?;
    let roles = app.accounts.roles().await?;
    let held =
        roles.iter().filter(|(role, _)| person.roles.contains(&role.row.name)).map(|(role, _)| role.row.id).collect();
    let content = SwitchesPart { person: user_row(row, Some(&held), &roles, &looks.0) };
    page(&app, "user/switches.html", "users", &looks.0, content)
}

#[derive(Deserialize)]
pub(super) struct ActiveForm {
    #[serde(default)]
    active: String,
}

pub(super) async fn switch_active(
    State(app): State<App>,
    looks: LoggedIn,
    Path(id): Path<i32>,
    Form(form): Form<ActiveForm>,
) -> Result<Response, HttpError> {
    let person = reached(&app, &looks, id).await?;
    if form.active == "1" {
        app.accounts.activate(id).await?;
    } else {
        let changes = UserChanges { active: Some(false), ..UserChanges::default() };
        app.accounts.update(id, changes, |_| true).await?;
        // A session of who is not active opens nothing; this takes it off the list too.
        app.accounts.end_sessions(id, &person.username, None, None).await?;
    }
    Ok(to_user(&app, id, "saved"))
}

pub(super) async fn end_sessions(
    State(app): State<App>,
    looks: LoggedIn,
    Path(id): Path<i32>,
) -> Result<Response, HttpError> {
    let person = reached(&app, &looks, id).await?;
    app.accounts.end_sessions(id, &person.username, None, None).await?;
    Ok(to_user(&app, id, "ended"))
}

pub(super) async fn end_second_factor(
    State(app): State<App>,
    looks: LoggedIn,
    Path(id): Path<i32>,
) -> Result<Response, HttpError> {
    reached(&app, &looks, id).await?;
    if looks.0.id == id {
        let told = "Your own second factor is given up on the page of your account, with a code.";
        return Err(HttpError::NotYours(told.to_owned()));
    }
    app.accounts.end_second_factor(id).await?;
    Ok(to_user(&app, id, "factor"))
}

pub(super) async fn invite_again(
    State(app): State<App>,
    looks: LoggedIn,
    Path(id): Path<i32>,
) -> Result<Response, HttpError> {
    app.accounts.invite_again(id, &looks.0.name).await?;
    Ok(to_user(&app, id, "invited"))
}

#[derive(Serialize)]
struct NewPage {
    roles: Vec<NewRole>,
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
    let roles = app.accounts.roles().await?;
    let roles = roles.into_iter().map(|(role, _)| role).filter(|role| may_give(&looks.0, role));
    let new = |role: RoleRecord| NewRole {
        is_chosen: form.roles.contains(&role.row.name),
        id: role.row.id,
        name: role.row.name,
        description: role.row.description,
    };
    let status = if problems.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    let content = NewPage {
        roles: roles.map(new).collect(),
        username: form.username.clone(),
        name: form.name.clone(),
        email: form.email.clone(),
        by_mail: form.by_mail,
        problems,
    };
    Ok(with_status(page(app, "user/new.html", "users", &looks.0, content)?, status))
}

pub(super) async fn show_new(State(app): State<App>, looks: LoggedIn) -> Result<Response, HttpError> {
    let form = NewForm { by_mail: true, roles: vec!["user".to_owned()], ..NewForm::default() };
    new_page(&app, &looks, &form, Problems::new()).await
}

/// A new account. Read by hand: a list of ticked boxes is the same name several times.
#[derive(Default)]
struct NewForm {
    username: String,
    name: String,
    email: String,
    password: String,
    by_mail: bool,
    roles: Vec<String>,
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
                _ => {}
            }
        }
        form
    }
}

/// Makes an account: by mail its owner sets the password, or else it is typed here and has to be good.
pub(super) async fn create_user(
    State(app): State<App>,
    looks: LoggedIn,
    Form(pairs): Form<Vec<(String, String)>>,
) -> Result<Response, HttpError> {
    let form = NewForm::read(pairs);
    for (role, _) in app.accounts.roles().await? {
        if form.roles.contains(&role.row.name) && !may_give(&looks.0, &role) {
            return Err(HttpError::NotYours(format!("The role '{}' permits more than you may.", role.row.name)));
        }
    }
    let made = if form.by_mail {
        let new = Registration { username: form.username.clone(), name: form.name.clone(), email: form.email.clone() };
        app.accounts.invite(&new, form.roles.clone(), &looks.0.name).await
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
        };
        app.accounts.create(&new).await
    };
    let problems = match made {
        Ok(row) => return Ok(to_user(&app, row.id, if form.by_mail { "invited" } else { "created" })),
        Err(AccountError::Invalid { field, problem }) => Problems::from([(field, problem)]),
        Err(AccountError::Exists) => taken(),
        Err(error) => return Err(error.into()),
    };
    new_page(&app, &looks, &form, problems).await
}
