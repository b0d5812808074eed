//! Who asks: HTTP Basic with name or address, a token, or the session of a browser.

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

/// How somebody showed who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Password,
    /// With this id.
    Token(i32),
    Session,
}

/// Somebody who is known. Anybody else gets 401.
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

    /// The same caller, who sees only the cohorts in which a role permits it.
    ///
    /// # Errors
    /// [`HttpError::Forbidden`] when none of the roles permits it.
    pub(super) fn with(mut self, permission: Permission) -> Result<Self, HttpError> {
        if !self.user.may(permission) {
            return Err(HttpError::Forbidden(permission.name()));
        }
        self.ctx = self.user.narrow(&self.ctx, permission);
        Ok(self)
    }
}

/// A known caller, or one without a login. A wrong login is an error anyway.
pub(super) struct MaybeCaller {
    pub caller: Option<Caller>,
    /// The context of the request, in the name of the caller if that is known.
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
            // Somebody who lacks the second factor that a role asks for does nothing before there is one.
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
                // So that a layer and the handler ask once.
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

/// 401, with what the Python client and browsers want to know.
pub(super) fn unauthenticated(app: &App) -> Response {
    refused(app, HttpError::Unauthenticated)
}

/// What is wrong with a login; at 401 with how one logs in.
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

/// Somebody with the role `admin`.
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

/// Somebody who is known and may do what `N` says.
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

/// The same, and it is about the whole study: who has the permission for certain cohorts only may not.
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
