//! Helpers shared by all pages.

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
use crate::study::listing::{Cursor, Direction, ExperimentQuery};
use crate::study::search::Place;

/// Rows per page of a list.
pub(super) const PAGE_SIZE: u64 = 50;

/// Template context shared by all pages: the user, the time, and the content of the page.
#[derive(Serialize)]
struct Values<T> {
    user: Person,
    /// The navigation entry that the page belongs to.
    section: &'static str,
    now: NaiveDateTime,
    #[serde(flatten)]
    content: T,
}

/// The viewer, for the templates.
#[derive(Serialize)]
struct Person {
    name: String,
    username: String,
    is_admin: bool,
    /// The whole study, rather than some cohorts only.
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

/// The errors of a rejected form: by field, or for the form as a whole (`form`). In either case the form is shown again
/// with the submitted values.
pub(super) struct Refusal {
    pub problems: Problems,
    /// Seconds until the next attempt, if there were too many.
    wait: Option<u64>,
}

impl Refusal {
    /// The errors of the form.
    ///
    /// # Errors
    /// Errors that are not the user's mistake.
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

    /// The response with the form's page.
    pub(super) fn answer(wait: Option<u64>, page: Response) -> Response {
        let Some(seconds) = wait else { return with_status(page, StatusCode::UNPROCESSABLE_ENTITY) };
        let mut page = with_status(page, StatusCode::TOO_MANY_REQUESTS);
        page.headers_mut().insert(RETRY_AFTER, seconds.into());
        page
    }

    /// The problems, and the argument for [`Self::answer`].
    pub(super) fn split(self) -> (Problems, Option<u64>) {
        (self.problems, self.wait)
    }
}

/// Sections with personal data: browsers must not cache them, so that they cannot be seen after a logout.
const ABOUT_PEOPLE: [&str; 6] = ["users", "roles", "mail", "audit", "configuration", "account"];

/// The same URL returns a page or a part of it, and differs between users.
fn with_headers(text: String, section: &str) -> Response {
    let mut response = Html(text).into_response();
    response.headers_mut().insert(VARY, HeaderValue::from_static("HX-Request, Cookie"));
    let kept = if ABOUT_PEOPLE.contains(&section) { "no-store" } else { "private, no-cache" };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(kept));
    response
}

/// The start of a page of a list, from its URL.
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

/// The page of the experiment list, from its URL: the one after a row, or the one before it.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Turn {
    #[serde(default)]
    pub after: String,
    #[serde(default)]
    pub before: String,
}

impl Turn {
    /// Starts the query there.
    ///
    /// # Errors
    /// 400 if the position does not belong to a list in this order.
    pub(super) fn apply(self, query: &mut ExperimentQuery) -> Result<(), HttpError> {
        let (text, direction) = match self.before.is_empty() {
            true => (self.after, Direction::Forward),
            false => (self.before, Direction::Backward),
        };
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
        query.direction = direction;
        Ok(())
    }
}

/// All experiments, the newest first: the default query of pages.
pub(super) fn newest_first() -> ExperimentQuery {
    ExperimentQuery { descending: true, ..ExperimentQuery::default() }
}

/// A number in a URL; an empty field is `None`.
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

/// An option of a form.
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
