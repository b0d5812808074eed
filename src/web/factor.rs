//! The own second factor: setting up the app, the recovery codes, and giving it up.

use axum::extract::{Form, State};
use axum::response::{IntoResponse, Redirect, Response};
use qrcode::QrCode;
use qrcode::render::svg;
use serde::{Deserialize, Serialize};

use crate::account::{FormError, Problems};
use crate::app::App;
use crate::http::{Address, AuthSession, HttpError, LoggedIn, keep_remembered, session_key};

use super::account::wrong_code;
use super::page::{Refusal, page};

#[derive(Serialize)]
struct FactorPage {
    has_second_factor: bool,
    /// One of the roles asks for it.
    must_enrol: bool,
    codes_left: usize,
    secret: String,
    /// A picture of the address that apps read, in SVG of our own making.
    picture: String,
    problems: Problems,
    /// Shown once.
    codes: Vec<String>,
}

/// Of the secret that this session was told, in the session: the page can be opened again while somebody is at it.
const TOLD: &str = "factor";

/// What the page shows besides `problems` and `codes`.
async fn factor_page(app: &App, user: &LoggedIn, session: &AuthSession) -> Result<FactorPage, HttpError> {
    let mut page = FactorPage {
        has_second_factor: user.0.has_second_factor,
        must_enrol: user.0.must_enrol,
        codes_left: 0,
        secret: String::new(),
        picture: String::new(),
        problems: Problems::new(),
        codes: Vec::new(),
    };
    if page.has_second_factor {
        page.codes_left = app.accounts.recovery_codes_left(user.0.id).await?;
        return Ok(page);
    }
    let internal = |error: tower_sessions::session::Error| HttpError::Internal(error.to_string());
    let told: Option<String> = session.session.get(TOLD).await.map_err(internal)?;
    let issuer = &app.settings.web.instance_name;
    let enrolment = app.accounts.begin_second_factor(user.0.id, issuer, told.as_deref()).await?;
    if told.as_ref() != Some(&enrolment.nonce) {
        keep_remembered(app, session).await?;
        session.session.insert(TOLD, &enrolment.nonce).await.map_err(internal)?;
    }
    let code = QrCode::new(enrolment.url.as_bytes()).map_err(|error| HttpError::Internal(error.to_string()))?;
    page.picture = code.render::<svg::Color<'_>>().min_dimensions(220, 220).build();
    // The declaration of a file has no place inside a page.
    page.picture = page.picture.find("<svg").map(|start| page.picture[start..].to_owned()).unwrap_or_default();
    page.secret = enrolment.secret.as_bytes().chunks(4).map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ");
    Ok(page)
}

fn show(app: &App, user: &LoggedIn, content: FactorPage) -> Result<Response, HttpError> {
    page(app, "own/factor.html", "account", &user.0, content)
}

/// The page again, with what is wrong.
async fn refuse(
    app: &App,
    user: &LoggedIn,
    session: &AuthSession,
    error: impl Into<FormError>,
) -> Result<Response, HttpError> {
    let (problems, wait) = Refusal::of(error)?.split();
    let content = FactorPage { problems, ..factor_page(app, user, session).await? };
    Ok(Refusal::answer(wait, show(app, user, content)?))
}

pub(super) async fn show_factor(
    State(app): State<App>,
    user: LoggedIn,
    session: AuthSession,
) -> Result<Response, HttpError> {
    let content = factor_page(&app, &user, &session).await?;
    show(&app, &user, content)
}

#[derive(Deserialize)]
pub(super) struct CodeForm {
    #[serde(default)]
    code: String,
    /// Asked for when the second factor is set up; later a code is asked for instead.
    #[serde(default)]
    password: String,
}

pub(super) async fn confirm_factor(
    State(app): State<App>,
    user: LoggedIn,
    session: AuthSession,
    Address(address): Address,
    Form(form): Form<CodeForm>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    // An open browser alone must not lock its owner out.
    if let Err(error) = app.accounts.ask_password_again(&user.0, "password", &form.password, address).await {
        return refuse(&app, &user, &session, error).await;
    }
    match app.accounts.confirm_second_factor(ctx, user.0.id, &form.code, address).await {
        Ok(codes) => {
            // Those that were begun with the password alone.
            let own = session_key(&session);
            app.accounts.end_sessions(ctx, user.0.id, &user.0.username, None, own.as_deref()).await?;
            show_codes(&app, user, &session, codes).await
        }
        Err(error) => refuse(&app, &user, &session, error).await,
    }
}

async fn show_codes(
    app: &App,
    mut user: LoggedIn,
    session: &AuthSession,
    codes: Vec<String>,
) -> Result<Response, HttpError> {
    if let Some(fresh) = app.accounts.find_active(user.0.id).await? {
        user.0 = fresh;
    }
    let content = FactorPage { codes, ..factor_page(app, &user, session).await? };
    show(app, &user, content)
}

/// Both need a code: who finds an open browser does not take the second factor away.
async fn check(
    app: &App,
    user: &LoggedIn,
    session: &AuthSession,
    address: Address,
    code: &str,
) -> Result<Option<Response>, HttpError> {
    let ctx = user.ctx();
    let refused = match app.accounts.check_code(ctx, user.0.id, code, address.0).await {
        Ok(true) => return Ok(None),
        Ok(false) => wrong_code(),
        Err(error) => error.into(),
    };
    refuse(app, user, session, refused).await.map(Some)
}

pub(super) async fn end_factor(
    State(app): State<App>,
    user: LoggedIn,
    session: AuthSession,
    address: Address,
    Form(form): Form<CodeForm>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    if let Some(refused) = check(&app, &user, &session, address, &form.code).await? {
        return Ok(refused);
    }
    app.accounts.end_second_factor(ctx, user.0.id, None).await?;
    Ok(Redirect::to(&format!("{}/account", app.settings.web.prefix)).into_response())
}

pub(super) async fn new_codes(
    State(app): State<App>,
    user: LoggedIn,
    session: AuthSession,
    address: Address,
    Form(form): Form<CodeForm>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    if let Some(refused) = check(&app, &user, &session, address, &form.code).await? {
        return Ok(refused);
    }
    let codes = app.accounts.new_recovery_codes(ctx, user.0.id).await?;
    show_codes(&app, user, &session, codes).await
}
