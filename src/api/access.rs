//! API authentication: HTTP Basic with name or address, bearer token or browser session.

use std::marker::PhantomData;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::account::{Permission, User};
use crate::app::App;
use crate::context::Context;
use crate::http::{Address, AuthSession, HttpError, Meter, Needs, WHOLE_STUDY};

/// Authentication method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Password,
    /// The id of the token.
    Token(i32),
    Session,
}

/// An authenticated caller. All others get 401.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub user: User,
    pub by: By,
    /// The context of the request, in the user's name.
    pub ctx: Context,
}

impl Caller {
    fn new(user: User, by: By, ctx: &Context) -> Self {
        let ctx = user.authenticate(ctx);
        Self { user, by, ctx }
    }

    /// The same caller, who sees only the cohorts in which a role grants the permission.
    ///
    /// # Errors
    /// [`HttpError::Forbidden`] if none of the roles grants it.
    pub(super) fn with(mut self, permission: Permission) -> Result<Self, HttpError> {
        if !self.user.may(permission) {
            return Err(HttpError::Forbidden(permission.name()));
        }
        self.ctx = self.user.narrow(&self.ctx, permission);
        Ok(self)
    }
}

/// An authenticated caller, or one without a login. A wrong login is an error anyway.
pub(super) struct MaybeCaller {
    pub caller: Option<Caller>,
    /// The context of the request, in the name of the caller if there is a login.
    pub ctx: Context,
}

impl MaybeCaller {
    fn known(caller: Caller) -> Self {
        Self { ctx: caller.ctx.clone(), caller: Some(caller) }
    }
}

impl FromRequestParts<App> for MaybeCaller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        if let Some(caller) = parts.extensions.get::<Caller>() {
            return Ok(Self::known(caller.clone()));
        }
        let ctx = Context::from_request_parts(parts, app).await.map_err(IntoResponse::into_response)?;
        let Some(given) = parts.headers.get(AUTHORIZATION).cloned() else {
            let session = AuthSession::from_request_parts(parts, app).await.map_err(IntoResponse::into_response)?;
            // A user who lacks the second factor that a role requires can do nothing before it is set up.
            let known = session.user.filter(|user| !user.must_enrol);
            return Ok(match known {
                Some(user) => Self::known(Caller::new(user, By::Session, &ctx)),
                None => Self { caller: None, ctx },
            });
        };
        let found = match scheme(&given) {
            Some(("basic", encoded)) => basic(parts, app, encoded, &ctx).await.map_err(|error| refused(app, error))?,
            Some(("bearer", secret)) => {
                let found =
                    app.accounts.bearer(secret).await.map_err(|error| HttpError::from(error).into_response())?;
                found.map(|(user, id)| Caller::new(user, By::Token(id), &ctx))
            }
            _ => None,
        };
        match found {
            Some(caller) => {
                // A layer and the handler authenticate only once.
                parts.extensions.insert(caller.clone());
                if let Some(meter) = parts.extensions.get::<Meter>() {
                    meter.know();
                }
                Ok(Self::known(caller))
            }
            None => Err(unauthenticated(app)),
        }
    }
}

fn scheme(value: &HeaderValue) -> Option<(&'static str, &str)> {
    let (name, rest) = value.to_str().ok()?.split_once(' ')?;
    let known = ["basic", "bearer"].into_iter().find(|known| name.eq_ignore_ascii_case(known))?;
    Some((known, rest.trim()))
}

async fn basic(parts: &mut Parts, app: &App, encoded: &str, ctx: &Context) -> Result<Option<Caller>, HttpError> {
    let Ok(bytes) = STANDARD.decode(encoded) else { return Ok(None) };
    let decoded = text_of(bytes);
    let Some((login, password)) = decoded.split_once(':') else { return Ok(None) };
    let Ok(Address(address)) = Address::from_request_parts(parts, app).await;
    let user = app.accounts.verify(login, password, address).await?;
    Ok(user.map(|user| Caller::new(user, By::Password, ctx)))
}

/// A login in UTF-8, or in Latin-1, as Python's requests and curl on old systems send it.
fn text_of(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| error.into_bytes().into_iter().map(char::from).collect())
}

/// 401, with the headers that the Python client and browsers need.
pub(super) fn unauthenticated(app: &App) -> Response {
    refused(app, HttpError::Unauthenticated)
}

/// The error of a login; for 401, with the accepted authentication methods.
fn refused(app: &App, error: HttpError) -> Response {
    let mut response = error.into_response();
    if response.status() != StatusCode::UNAUTHORIZED {
        return response;
    }
    let web = &app.settings.web;
    let named = format!("{} {}", web.instance_name, web.project_name);
    let realm: String =
        named.chars().filter(|c| c.is_ascii_graphic() && *c != '"' && *c != '\\' || *c == ' ').collect();
    if let Ok(value) = HeaderValue::from_str(&format!("Basic realm=\"{realm}\", charset=\"UTF-8\"")) {
        response.headers_mut().insert(WWW_AUTHENTICATE, value);
    }
    response
}

impl FromRequestParts<App> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        let MaybeCaller { caller, .. } = MaybeCaller::from_request_parts(parts, app).await?;
        caller.ok_or_else(|| unauthenticated(app))
    }
}

/// A caller with the role `admin`.
pub(super) struct Administrator(pub Caller);

impl FromRequestParts<App> for Administrator {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        let caller = Caller::from_request_parts(parts, app).await?;
        match caller.user.is_admin() {
            true => Ok(Self(caller)),
            false => Err(HttpError::NotYours("This requires the role 'admin'.".to_owned()).into_response()),
        }
    }
}

/// A caller with the permission `N`.
pub(super) struct May<N> {
    pub caller: Caller,
    needs: PhantomData<N>,
}

impl<N: Needs> FromRequestParts<App> for May<N> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        let caller = Caller::from_request_parts(parts, app).await?;
        let caller = caller.with(N::PERMISSION).map_err(IntoResponse::into_response)?;
        Ok(Self { caller, needs: PhantomData })
    }
}

/// The same for the whole study: a caller with the permission for some cohorts only is rejected.
pub(super) struct Everywhere<N> {
    pub caller: Caller,
    needs: PhantomData<N>,
}

impl<N: Needs> FromRequestParts<App> for Everywhere<N> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        let may = May::<N>::from_request_parts(parts, app).await?;
        match may.caller.user.cohorts() {
            None => Ok(Self { caller: may.caller, needs: PhantomData }),
            Some(_) => Err(HttpError::NotYours(WHOLE_STUDY.to_owned()).into_response()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_read_in_either_encoding() {
        assert_eq!(text_of("ada:Grüße".as_bytes().to_vec()), "ada:Grüße");
        assert_eq!(text_of(b"ada:Gr\xfc\xdfe".to_vec()), "ada:Grüße");
        assert_eq!(text_of(b"ada:plain".to_vec()), "ada:plain");
    }
}
