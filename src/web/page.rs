//! What all pages have in common.

use axum::http::header::{CACHE_CONTROL, RETRY_AFTER, VARY};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use chrono::NaiveDateTime;
use sea_orm::{ConnectionTrait, QueryOrder};
use serde::{Deserialize, Deserializer, Serialize};

use crate::account::{FormError, LoginError, Permission, Problems, User};
use crate::app::App;
use crate::context::Context;
use crate::entity::cohort;
use crate::http::HttpError;
use crate::study::Visible;
use crate::study::listing::{Cursor, ExperimentQuery};
use crate::study::search::Place;

/// Rows of a list on one page.
pub(super) const PAGE_SIZE: u64 = 50;

/// The values of every template: the user, the time, and the content of the page.
#[derive(Serialize)]
struct Values<T> {
    user: Person,
    /// The navigation entry that the page belongs to.
    section: &'static str,
    now: NaiveDateTime,
    #[serde(flatten)]
    content: T,
}

/// Who looks, for the templates.
#[derive(Serialize)]
struct Person {
    name: String,
    username: String,
    is_admin: bool,
    /// The whole study, and not certain cohorts only.
    sees_all: bool,
    may: std::collections::BTreeMap<&'static str, bool>,
}

impl Person {
    fn new(user: &User) -> Self {
        let may = Permission::ALL.iter().map(|(permission, name)| (*name, user.may(*permission))).collect();
        Self {
            name: user.name.clone(),
            username: user.username.clone(),
            is_admin: user.is_admin(),
            sees_all: user.cohorts().is_none(),
            may,
        }
    }
}

/// Renders a page.
pub(super) fn page<T: Serialize>(
    app: &App,
    template: &str,
    section: &'static str,
    user: &User,
    content: T,
) -> Result<Response, HttpError> {
    let values = Values { user: Person::new(user), section, now: app.engine.clock().now(), content };
    Ok(with_headers(app.templates.page(template, &values)?, section))
}

/// Renders the page, or only `block` of it for htmx.
pub(super) fn page_or_block<T: Serialize>(
    app: &App,
    template: &str,
    section: &'static str,
    user: &User,
    content: T,
    block: Option<&str>,
) -> Result<Response, HttpError> {
    let Some(block) = block else { return page(app, template, section, user, content) };
    let values = Values { user: Person::new(user), section, now: app.engine.clock().now(), content };
    Ok(with_headers(app.templates.block(template, block, &values)?, section))
}

/// The same page with another status.
pub(super) fn with_status(mut response: Response, status: StatusCode) -> Response {
    *response.status_mut() = status;
    response
}

/// What is wrong with a form that was refused: by field, or with the form as a whole (`form`). Whatever it is, the form comes
/// back with what was typed.
pub(super) struct Refusal {
    pub problems: Problems,
    /// Seconds after which it may come again: it came too often.
    wait: Option<u64>,
}

impl Refusal {
    /// # Errors
    /// What is no fault of who filled the form in.
    pub(super) fn of(error: impl Into<FormError>) -> Result<Self, HttpError> {
        match error.into() {
            FormError::Problems(problems) => Ok(Self { problems, wait: None }),
            FormError::Login(LoginError::TooMany(seconds)) => {
                let told = HttpError::TooMany(seconds).to_string();
                Ok(Self { problems: Problems::from([("form", told)]), wait: Some(seconds) })
            }
            error => Err(error.into()),
        }
    }

    /// The page with the form, as the answer to it.
    pub(super) fn answer(wait: Option<u64>, page: Response) -> Response {
        let Some(seconds) = wait else { return with_status(page, StatusCode::UNPROCESSABLE_ENTITY) };
        let mut page = with_status(page, StatusCode::TOO_MANY_REQUESTS);
        page.headers_mut().insert(RETRY_AFTER, seconds.into());
        page
    }

    /// The problems, and what [`Self::answer`] wants to know.
    pub(super) fn split(self) -> (Problems, Option<u64>) {
        (self.problems, self.wait)
    }
}

/// Pages about people: a browser keeps nothing of them, so that they do not come back after a log-out.
const ABOUT_PEOPLE: [&str; 6] = ["users", "roles", "mail", "audit", "configuration", "account"];

/// The same address answers with a page or with a part of it, and differently to each person.
fn with_headers(text: String, section: &str) -> Response {
    let mut response = Html(text).into_response();
    response.headers_mut().insert(VARY, HeaderValue::from_static("HX-Request, Cookie"));
    let kept = if ABOUT_PEOPLE.contains(&section) { "no-store" } else { "private, no-cache" };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(kept));
    response
}

/// Where a page of a list begins, in its address.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct Paging {
    #[serde(default, deserialize_with = "maybe")]
    pub below: Option<i32>,
    #[serde(default, deserialize_with = "maybe")]
    pub above: Option<i32>,
}

impl Paging {
    pub(super) fn place(self) -> Place {
        Place { below: self.below, above: self.above, size: PAGE_SIZE }
    }
}

/// Which page of the list of experiments, in its address: the one behind a row, or the one before it.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Turn {
    #[serde(default)]
    pub after: String,
    #[serde(default)]
    pub before: String,
}

impl Turn {
    /// Lets the query begin there.
    ///
    /// # Errors
    /// 400 when the place is not one of a list in this order.
    pub(super) fn apply(self, query: &mut ExperimentQuery) -> Result<(), HttpError> {
        let (text, backward) = if self.before.is_empty() { (self.after, false) } else { (self.before, true) };
        if text.is_empty() {
            return Ok(());
        }
        let cursor = Cursor::parse(&text).filter(|cursor| cursor.is_of(query.order, query.descending));
        let wrong = || {
            HttpError::BadRequest(
                "This link to a page of a list is not complete, or belongs to another list.".to_owned(),
            )
        };
        query.from = Some(cursor.ok_or_else(wrong)?);
        query.backward = backward;
        Ok(())
    }
}

/// All experiments, the newest first: what pages begin with.
pub(super) fn newest_first() -> ExperimentQuery {
    ExperimentQuery { descending: true, ..ExperimentQuery::default() }
}

/// A number of an address; a field that was left empty is none.
pub(super) fn maybe<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i32>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    match text.as_deref().map(str::trim) {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| serde::de::Error::custom(format!("'{text}' is not a number"))),
    }
}

/// "There is no `kind` `id`."
pub(super) fn missing(ctx: &Context, kind: &str, id: impl std::fmt::Display) -> HttpError {
    HttpError::missing(ctx, kind, id)
}

/// Something to choose in a form.
#[derive(Serialize)]
pub(super) struct Choice {
    pub id: i32,
    pub label: String,
}

/// All cohorts, by label.
pub(super) async fn cohort_choices(ctx: &Context, connection: &impl ConnectionTrait) -> Result<Vec<Choice>, HttpError> {
    let cohorts = cohort::Entity::visible(ctx).order_by_asc(cohort::Column::Label).all(connection).await?;
    Ok(cohorts.into_iter().map(|row| Choice { id: row.id, label: row.label }).collect())
}
