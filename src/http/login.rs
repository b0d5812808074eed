//! Browser sessions (axum-login), and extractors that check login and permissions before a handler runs.

use std::net::IpAddr;

use axum::extract::{FromRequestParts, OriginalUri};
use axum::http::header::{HOST, REFERER, USER_AGENT};
use axum::http::request::Parts;
use axum::http::uri::{Authority, PathAndQuery};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Redirect, Response};
use axum_login::{AuthUser, AuthnBackend};
use tower_sessions::Expiry;

use super::error::is_fragment;
use super::{Address, HttpError, session};
use crate::account::{AccountError, Accounts, LoginError, Permission, User};
use crate::app::App;
use crate::context::Context;

/// The session of a browser.
pub type AuthSession = axum_login::AuthSession<Backend>;

/// The accounts, as the backend of axum-login.
#[derive(Clone, Debug)]
pub struct Backend(pub Accounts);

/// The input of the login form.
#[derive(Clone)]
pub struct Credentials {
    /// Name or e-mail address.
    pub login: String,
    pub password: String,
    /// The address of the client.
    pub address: Option<IpAddr>,
}

impl AuthUser for User {
    type Id = i32;

    fn id(&self) -> i32 {
        self.id
    }

    fn session_auth_hash(&self) -> &[u8] {
        self.uniquifier.as_bytes()
    }
}

impl AuthnBackend for Backend {
    type User = User;
    type Credentials = Credentials;
    type Error = LoginError;

    async fn authenticate(&self, given: Credentials) -> Result<Option<User>, LoginError> {
        self.0.log_in(&given.login, &given.password, given.address).await
    }

    async fn get_user(&self, id: &i32) -> Result<Option<User>, LoginError> {
        let found = self.0.find_active(*id).await;
        Ok(found.inspect_err(session::note).map_err(AccountError::Database)?)
    }
}

/// The context of the request, created by the layers around the handler. It has no user on pages that need no login,
/// and in the API, where the extractors of `api::access` authenticate.
impl FromRequestParts<App> for Context {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, HttpError> {
        let made = parts.extensions.get::<Self>().cloned();
        made.ok_or_else(|| HttpError::Internal("a route is outside of the layer that makes the context".to_owned()))
    }
}

/// The logged-in user, and the context of the request with that user. Other callers are redirected to the login page.
pub struct LoggedIn(pub User, Context);

impl LoggedIn {
    #[must_use]
    pub fn ctx(&self) -> &Context {
        &self.1
    }
}

impl FromRequestParts<App> for LoggedIn {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        let session = AuthSession::from_request_parts(parts, app).await.map_err(IntoResponse::into_response)?;
        match session.user {
            Some(user) => {
                let ctx = Context::from_request_parts(parts, app).await.map_err(IntoResponse::into_response)?;
                let ctx = user.authenticate(&ctx);
                Ok(Self(user, ctx))
            }
            None => {
                // The original URI, with the path prefix that the routes do not see.
                let uri = parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |original| &original.0);
                Err(to_login(app, &parts.headers, uri, parts.method != Method::GET))
            }
        }
    }
}

/// Logs a user in. The session gets a new id, which prevents session fixation, and records from where it is used. A
/// remembered session is kept when the browser is closed.
pub async fn begin_session(
    app: &App,
    session: &mut AuthSession,
    user: &User,
    from: &Origins,
    is_remembered: bool,
) -> Result<(), HttpError> {
    let internal = |error: String| HttpError::Internal(error);
    session.session.clear().await;
    session.session.cycle_id().await.map_err(|error| internal(error.to_string()))?;
    if is_remembered {
        session.session.set_expiry(Some(remembered(app)));
    }
    let values = [
        (session::ADDRESS, serde_json::json!(from.address)),
        (session::AGENT, serde_json::json!(from.agent)),
        (session::REMEMBERED, serde_json::json!(is_remembered)),
    ];
    for (name, value) in values {
        session.session.insert_value(name, value).await.map_err(|error| internal(error.to_string()))?;
    }
    session.login(user).await.map_err(|error| internal(error.to_string()))
}

/// Must be called before a session is changed: the cookie is sent again, and the cookie of a remembered session must
/// last as long as the session.
pub async fn keep_remembered(app: &App, session: &AuthSession) -> Result<bool, HttpError> {
    let kept =
        session.session.get(session::REMEMBERED).await.map_err(|error| HttpError::Internal(error.to_string()))?;
    let is_remembered = kept.unwrap_or_default();
    if is_remembered {
        session.session.set_expiry(Some(remembered(app)));
    }
    Ok(is_remembered)
}

fn remembered(app: &App) -> Expiry {
    Expiry::OnInactivity(time::Duration::seconds(app.settings.security.remembered.num_seconds()))
}

/// The key of a session in the table.
#[must_use]
pub fn session_key(session: &AuthSession) -> Option<String> {
    session.session.id().map(|id| session::key(&id))
}

/// The address and the user agent of a browser.
pub struct Origins {
    pub address: Option<String>,
    pub agent: Option<String>,
}

impl FromRequestParts<App> for Origins {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Self::Rejection> {
        let Address(address) = Address::from_request_parts(parts, app).await?;
        let agent = parts.headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(Self { address: address.map(|address| address.to_canonical().to_string()), agent })
    }
}

/// Redirects to the login page, with the requested URL in `next`.
///
/// For a form (`…/experiments/1/transition`), `next` is the page that contains it, taken from the `Referer` header,
/// because the URL of the form itself cannot be viewed.
pub fn to_login(app: &App, headers: &HeaderMap, uri: &Uri, is_form: bool) -> Response {
    let login = |path: &str| {
        let query: String = url::form_urlencoded::Serializer::new(String::new()).append_pair("next", path).finish();
        format!("{}/login?{query}", app.settings.web.prefix)
    };
    if is_fragment(headers) {
        // Redirects the whole page; otherwise the login page would be inserted into a part of it.
        let page = shown_page(app, headers);
        let to = page.map_or_else(|| format!("{}/login", app.settings.web.prefix), |page| login(page.as_str()));
        return (StatusCode::UNAUTHORIZED, [(HeaderName::from_static("hx-redirect"), to)]).into_response();
    }
    let stands_on = stands_on(headers);
    let path = match (&stands_on, uri.path().rsplit_once('/')) {
        (Some(page), _) if is_form => page.as_str(),
        (None, Some((page, _))) if is_form => page,
        _ => uri.path_and_query().map_or("/", |path| path.as_str()),
    };
    Redirect::to(&login(path)).into_response()
}

/// The page that a browser shows while htmx requests a part of it: path and query. Only pages of this server, and none
/// with a secret in the URL.
fn shown_page(app: &App, headers: &HeaderMap) -> Option<PathAndQuery> {
    let shown = headers.get("hx-current-url")?.to_str().ok()?.parse::<Uri>().ok()?;
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let external = app.settings.web.external.as_deref().and_then(|address| address.parse::<Uri>().ok());
    let authority = shown.authority().map(Authority::as_str);
    // A URL without a host means this server.
    let is_ours = authority.is_none_or(|authority| {
        host.is_some_and(|host| host.eq_ignore_ascii_case(authority))
            || external
                .as_ref()
                .and_then(Uri::authority)
                .is_some_and(|own| own.as_str().eq_ignore_ascii_case(authority))
    });
    let page = shown.path_and_query().filter(|_| is_ours)?;
    let start = format!("{}/", app.settings.web.prefix);
    // A path that begins with two slashes is the URL of another host.
    let is_page = page.path().starts_with(&start) && !page.path().starts_with("//");
    let is_entrance = page.path().strip_prefix(&start).is_some_and(|path| path.starts_with("login"));
    (is_page && !is_entrance).then(|| page.clone())
}

/// The page that contains a form or a link: path and query of the `Referer` header.
pub fn stands_on(headers: &HeaderMap) -> Option<PathAndQuery> {
    let referrer = headers.get(REFERER)?.to_str().ok()?.parse::<Uri>().ok()?;
    referrer.path_and_query().cloned()
}

/// A permission as a type, for extractors.
pub trait Needs {
    const PERMISSION: Permission;
}

/// Declares one type per permission.
macro_rules! permissions_as_types {
    ($($name:ident),*) => {$(
        pub struct $name;

        impl Needs for $name {
            const PERMISSION: Permission = Permission::$name;
        }
    )*};
}

/// The permissions as types, for extractors.
pub mod needs {
    use super::{Needs, Permission};

    permissions_as_types!(
        ActionUpdate,
        SampleStateUpdate,
        SampleAdd,
        SampleUpdate,
        SampleDelete,
        UserReadAll,
        UserUpdateAll,
        UserAdd,
        UserDelete,
        RolesManage
    );
}

/// Whether htmx requests only a part of the page.
pub struct Wants {
    pub fragment: bool,
}

impl FromRequestParts<App> for Wants {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Self::Rejection> {
        Ok(Self { fragment: is_fragment(&parts.headers) })
    }
}
