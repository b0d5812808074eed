//! Who asks: the browser session (axum-login), and extractors that have checked before a handler begins.

use std::marker::PhantomData;

use axum::extract::{FromRequestParts, OriginalUri};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Redirect, Response};
use axum_login::{AuthUser, AuthnBackend};

use super::HttpError;
use super::error::is_fragment;
use crate::account::{self, AccountError, Passwords, Permission, User};
use crate::app::App;
use crate::clock::Clock;
use crate::database::Database;
use crate::engine::Actor;
use crate::entity::kind::Origin;

/// The session of a browser.
pub type AuthSession = axum_login::AuthSession<Accounts>;

/// Accounts as axum-login sees them.
#[derive(Clone, Debug)]
pub struct Accounts {
    database: Database,
    passwords: Passwords,
    clock: Clock,
}

impl Accounts {
    #[must_use]
    pub fn new(app: &App) -> Self {
        Self {
            database: app.engine.database().clone(),
            passwords: app.passwords.clone(),
            clock: app.engine.clock().clone(),
        }
    }
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

impl AuthnBackend for Accounts {
    type User = User;
    /// Name or e-mail address, and password.
    type Credentials = (String, String);
    type Error = AccountError;

    async fn authenticate(&self, (login, password): Self::Credentials) -> Result<Option<User>, AccountError> {
        account::authenticate(&self.database, &self.passwords, &login, &password, self.clock.now()).await
    }

    async fn get_user(&self, id: &i32) -> Result<Option<User>, AccountError> {
        Ok(account::find_active(self.database.reader(), *id).await?)
    }
}

/// Somebody who is logged in. Anybody else is sent to the login page.
pub struct LoggedIn(pub User);

impl LoggedIn {
    /// The same as the engine wants it.
    #[must_use]
    pub fn actor(&self) -> Actor {
        Actor { user_id: Some(self.0.id), name: self.0.username.clone(), origin: Origin::Web }
    }
}

impl FromRequestParts<App> for LoggedIn {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        let session = AuthSession::from_request_parts(parts, app).await.map_err(IntoResponse::into_response)?;
        match session.user {
            Some(user) => Ok(Self(user)),
            None => {
                // The whole address, with the path prefix that the routes do not see.
                let uri = parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |original| &original.0);
                Err(to_login(app, &parts.headers, uri, parts.method != Method::GET))
            }
        }
    }
}

/// To the login page, and from there back to where somebody wanted to go.
///
/// Of a form (`…/experiments/1/transition`), back to the page that it stands on: an address like that is not for looking.
fn to_login(app: &App, headers: &HeaderMap, uri: &Uri, is_form: bool) -> Response {
    let path = match uri.path().rsplit_once('/') {
        Some((page, _)) if is_form => page,
        _ => uri.path_and_query().map_or("/", |path| path.as_str()),
    };
    let query: String = url::form_urlencoded::Serializer::new(String::new()).append_pair("next", path).finish();
    let login = format!("{}/login?{query}", app.settings.web.prefix);
    if is_fragment(headers) {
        // A redirect would put the login page into a part of this page.
        let login = format!("{}/login", app.settings.web.prefix);
        return (StatusCode::UNAUTHORIZED, [(HeaderName::from_static("hx-redirect"), login)]).into_response();
    }
    Redirect::to(&login).into_response()
}

/// A permission as a type.
pub trait Needs {
    const PERMISSION: Permission;
}

/// Somebody who is logged in and may do what `N` says.
pub struct Permitted<N> {
    pub user: LoggedIn,
    needs: PhantomData<N>,
}

impl<N: Needs> FromRequestParts<App> for Permitted<N> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        let user = LoggedIn::from_request_parts(parts, app).await?;
        if user.0.may(N::PERMISSION) {
            Ok(Self { user, needs: PhantomData })
        } else {
            Err(HttpError::Forbidden(N::PERMISSION.name()).into_response())
        }
    }
}

/// Whether htmx wants a part of the page only.
pub struct Wants {
    pub fragment: bool,
}

impl FromRequestParts<App> for Wants {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Self::Rejection> {
        Ok(Self { fragment: is_fragment(&parts.headers) })
    }
}
