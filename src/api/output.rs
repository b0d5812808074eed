//! Response helpers: ETags, paging headers and URIs.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, FromRequestParts, OriginalUri};
use axum::http::header::{CONTENT_TYPE, ETAG, HOST, HeaderName, HeaderValue, IF_MATCH, LINK, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::error;
use utoipa::IntoParams;

use crate::app::App;
use crate::http::{HttpError, SeenAs};
use crate::study::listing::{Cursor, ExperimentPage, Listed, Window};

use super::input::{Given, Problems, Query};

/// JSON with an `ETag` of its content.
pub(super) struct Single<T>(pub T);

/// The same for a new resource: 201, with its URL in `Location`.
pub(super) struct Created<T> {
    pub location: String,
    pub body: T,
}

impl<T: Serialize> IntoResponse for Single<T> {
    fn into_response(self) -> Response {
        let Some(bytes) = bytes_of(&self.0) else {
            return HttpError::Internal("serializing a response failed".to_owned()).into_response();
        };
        let tag = tag_of(&bytes);
        let mut response = ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], bytes).into_response();
        if let Some(tag) = tag {
            response.headers_mut().insert(ETAG, tag);
        }
        response
    }
}

impl<T: Serialize> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        let mut response = Single(self.body).into_response();
        *response.status_mut() = StatusCode::CREATED;
        response.headers_mut().extend(HeaderValue::from_str(&self.location).ok().map(|value| (LOCATION, value)));
        response
    }
}

fn bytes_of(value: &impl Serialize) -> Option<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| error!(%error, "serializing a response failed")).ok()
}

pub(super) fn tag_of(bytes: &[u8]) -> Option<HeaderValue> {
    let digest = Sha256::digest(bytes);
    HeaderValue::from_str(&format!("\"{}\"", URL_SAFE_NO_PAD.encode(&digest[..12]))).ok()
}

/// Whether one of the tags of an `If-Match` or `If-None-Match` is `tag`.
pub(super) fn names_tag(headers: &HeaderMap, name: HeaderName, tag: &HeaderValue) -> bool {
    let tags = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
    let tags: Vec<&str> = tags.map(|one| one.trim().trim_start_matches("W/")).collect();
    tags.contains(&"*") || tag.to_str().is_ok_and(|tag| tags.contains(&tag))
}

/// The `If-Match` of a request: the change is made only if the resource is unchanged since the caller saw it.
pub(super) struct IfMatch(HeaderMap);

impl FromRequestParts<App> for IfMatch {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Self::Rejection> {
        let values = parts.headers.get_all(IF_MATCH).iter();
        Ok(Self(values.map(|value| (IF_MATCH, value.clone())).collect()))
    }
}

impl IfMatch {
    pub(super) fn is_given(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether `now`, the representation that a GET would return, is the one that the caller saw, or there is no
    /// condition.
    pub(super) fn fits(&self, now: &impl Serialize) -> bool {
        if !self.is_given() {
            return true;
        }
        bytes_of(now).and_then(|bytes| tag_of(&bytes)).is_some_and(|tag| names_tag(&self.0, IF_MATCH, &tag))
    }
}

/// The URLs of all resources, as the caller reaches them.
#[derive(Debug, Clone)]
pub(super) struct Addresses {
    prefix: String,
    /// Scheme and host.
    host: String,
}

impl FromRequestParts<App> for Addresses {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Self::Rejection> {
        let web = &app.settings.web;
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
        let seen = SeenAs::of(&parts.headers, peer, &web.proxies);
        let asked = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
        let plain = |host: &&str| host.chars().all(|c| c.is_ascii_alphanumeric() || ".-:[]_".contains(c));
        let host = match (&web.external, seen.host.as_deref().or(asked).filter(plain)) {
            (Some(external), _) => external.clone(),
            (None, Some(host)) => format!("{}://{host}", seen.proto.unwrap_or("http")),
            (None, None) => format!("http://{}:{}", web.host, web.port),
        };
        Ok(Self { prefix: web.prefix.clone(), host })
    }
}

impl Addresses {
    /// `/api/v2/cohorts/3`, with the path prefix of the instance.
    pub(super) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// The same with scheme and host.
    pub(super) fn absolute(&self, path: &str) -> String {
        format!("{}{}{path}", self.host, self.prefix)
    }
}

/// Which rows of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(super) struct WindowQuery {
    /// Number of rows to skip.
    #[param(value_type = Option<u32>, example = 0)]
    offset: Given<u64>,
    /// Maximum number of rows; all by default, none (only the total) if 0.
    #[param(value_type = Option<u32>, example = 50)]
    limit: Given<u64>,
    /// Cursor: only rows with a greater id. Stable and fast for paging through large lists.
    #[param(value_type = Option<i32>)]
    after: Given<i32>,
}

impl WindowQuery {
    pub(super) fn read(self, problems: &mut Problems) -> Window {
        Window {
            offset: problems.optional("offset", self.offset).unwrap_or(0),
            limit: problems.optional("limit", self.limit),
            after: problems.optional("after", self.after),
            is_continued: false,
        }
    }
}

/// The window of a list without other parameters; described by [`WindowQuery`].
pub(super) struct Windowed(pub Window);

impl FromRequestParts<App> for Windowed {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        let Query(asked) = Query::<WindowQuery>::from_request_parts(parts, app).await?;
        let mut problems = Problems::default();
        let window = asked.read(&mut problems);
        problems.check().map_err(IntoResponse::into_response)?;
        Ok(Self(window))
    }
}

/// The URL of a list as it was requested.
pub(super) struct ListAddress(Uri);

impl FromRequestParts<App> for ListAddress {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Self::Rejection> {
        let uri = parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |original| &original.0);
        Ok(Self(uri.clone()))
    }
}

/// A list with `Link` headers to its neighbouring pages.
pub(super) struct ListAnswer<T> {
    pub body: T,
    links: Vec<HeaderValue>,
}

impl<T: Serialize> IntoResponse for ListAnswer<T> {
    fn into_response(self) -> Response {
        let mut response = axum::Json(self.body).into_response();
        response.headers_mut().extend(self.links.into_iter().map(|link| (LINK, link)));
        response
    }
}

/// A window of a list, for its links and totals.
#[derive(Debug, Clone)]
pub(super) struct Extent {
    pub window: Window,
    pub count: u64,
    next: Option<Next>,
}

/// The start of the next page.
#[derive(Debug, Clone)]
enum Next {
    /// After this id.
    After(i32),
    /// After this position of a list that is not ordered by id.
    Cursor(Cursor),
}

impl Extent {
    /// For a list ordered by id, where `id` returns the id of a row.
    pub(super) fn of<T>(window: Window, listed: &Listed<T>, id: impl Fn(&T) -> i32) -> Self {
        let last = listed.rows.last().filter(|_| listed.more);
        Self { window, count: listed.count, next: last.map(|row| Next::After(id(row))) }
    }

    /// For a list of experiments, in any order.
    pub(super) fn of_experiments(window: Window, page: &ExperimentPage) -> Self {
        match &page.next {
            Some(cursor) => Self { window, count: page.listed.count, next: Some(Next::Cursor(cursor.clone())) },
            None => Self::of(window, &page.listed, |row| row.id),
        }
    }
}

impl ListAddress {
    pub(super) fn answer<T>(&self, extent: &Extent, body: T) -> ListAnswer<T> {
        let window = extent.window;
        let mut links = Vec::new();
        match &extent.next {
            Some(Next::After(id)) => links.push((self.with("after", &id.to_string()), "next")),
            Some(Next::Cursor(cursor)) => links.push((self.with("cursor", &cursor.to_string()), "next")),
            None => {}
        }
        if let Some(limit) = window.limit
            && window.offset > 0
        {
            links.push((self.with("offset", &window.offset.saturating_sub(limit).to_string()), "prev"));
        }
        if window.offset > 0 || window.after.is_some() || window.is_continued {
            links.push((self.with("", ""), "first"));
        }
        let header = |(address, relation): (String, &str)| {
            HeaderValue::from_str(&format!("<{address}>; rel=\"{relation}\"")).ok()
        };
        ListAnswer { body, links: links.into_iter().filter_map(header).collect() }
    }

    /// The URL of the same list with another start.
    fn with(&self, name: &str, value: &str) -> String {
        let kept = url::form_urlencoded::parse(self.0.query().unwrap_or_default().as_bytes());
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(kept.filter(|(name, _)| !["offset", "after", "cursor"].contains(&name.as_ref())));
        if !name.is_empty() {
            query.append_pair(name, value);
        }
        let query = query.finish();
        let path = self.0.path();
        if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
    }
}

/// Declares the answer of a list: the rows under their name, the total, and the window.
macro_rules! list_of {
    ($($(#[$attribute:meta])* $name:ident { $rows:ident: $row:ty })*) => {$(
        $(#[$attribute])*
        #[derive(serde::Serialize, utoipa::ToSchema)]
        pub(super) struct $name {
            pub $rows: Vec<$row>,
            /// Total number of rows.
            pub count: u64,
            /// Number of rows that were skipped.
            pub offset: u64,
            /// Requested maximum number of rows.
            pub limit: Option<u64>,
        }

        impl $name {
            pub(super) fn new($rows: Vec<$row>, extent: &$crate::api::output::Extent) -> Self {
                Self { $rows, count: extent.count, offset: extent.window.offset, limit: extent.window.limit }
            }
        }
    )*};
}
pub(super) use list_of;
