//! Registration, e-mail confirmation, password reset and invitations.
//!
//! A link in a mail only shows a button: programs that open the links in mails do not consume it.

use std::collections::BTreeMap;

use axum::extract::{Form, Path, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, HeaderValue};
use axum::response::{Html, IntoResponse, Redirect, Response};
use serde::{Deserialize, Serialize};

use crate::account::{Chosen, FormError, Problems, Registration};
use crate::app::App;
use crate::context::Context;
use crate::entity::user;
use crate::http::{Address, HttpError};
use crate::mail::is_address;
use crate::mail::link::Purpose;

use super::page::Refusal;

/// A page for users who are not logged in; it must not be cached.
pub(super) fn open_page<T: Serialize>(
    app: &App,
    template: &str,
    status: StatusCode,
    content: &T,
) -> Result<Response, HttpError> {
    let mut response = (status, Html(app.templates.page(template, content)?)).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

#[derive(Serialize)]
struct Told<'a> {
    heading: &'a str,
    paragraphs: Vec<String>,
}

fn told(app: &App, status: StatusCode, heading: &str, paragraphs: &[&str]) -> Result<Response, HttpError> {
    let paragraphs = paragraphs.iter().map(|text| (*text).to_owned()).collect();
    open_page(app, "entrance/told.html", status, &Told { heading, paragraphs })
}

/// The submitted values, with their errors.
#[derive(Default, Serialize)]
struct RegisterPage {
    username: String,
    name: String,
    email: String,
    problems: Problems,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RegisterForm {
    username: String,
    name: String,
    email: String,
    password: String,
    again: String,
}

pub(super) async fn show_register(State(app): State<App>) -> Result<Response, HttpError> {
    open_page(&app, "entrance/register.html", StatusCode::OK, &RegisterPage::default())
}

pub(super) async fn register(
    State(app): State<App>,
    ctx: Context,
    Address(address): Address,
    Form(form): Form<RegisterForm>,
) -> Result<Response, HttpError> {
    let new = Registration {
        username: form.username.trim().to_owned(),
        name: form.name.trim().to_owned(),
        email: form.email.trim().to_owned(),
    };
    let chosen = Chosen { password: form.password, again: form.again };
    match app.accounts.register(&ctx, &new, &chosen, address).await {
        Ok(()) if app.settings.security.confirmable => {
            let sent = format!("We sent an e-mail to {}.", new.email);
            let then = "Open the link in it to confirm your address. If the user name or address is already taken, \
                the e-mail tells you so.";
            let last = "An administrator then approves your account, and you get another e-mail.";
            let astray = "Mistyped your address? Register again with the same user name and password.";
            told(&app, StatusCode::OK, "Almost done", &[&sent, then, last, astray])
        }
        Ok(()) => {
            let text = "An administrator has to approve your account. You will get an e-mail when it is approved, or \
                if the user name or address is already taken.";
            told(&app, StatusCode::OK, "Thank you", &[text])
        }
        Err(error) => {
            let (problems, wait) = Refusal::of(error)?.split();
            let page = RegisterPage { username: new.username, name: new.name, email: new.email, problems };
            Ok(Refusal::answer(wait, open_page(&app, "entrance/register.html", StatusCode::OK, &page)?))
        }
    }
}

#[derive(Serialize)]
struct Ask {
    heading: &'static str,
    text: &'static str,
    path: &'static str,
    email: String,
    problems: Problems,
}

const RESEND: Ask = Ask {
    heading: "Resend confirmation",
    text: "If the link did not arrive or has expired, we will send you a new one.",
    path: "confirm",
    email: String::new(),
    problems: Problems::new(),
};

const FORGOTTEN: Ask = Ask {
    heading: "Forgot your password?",
    text: "We will e-mail you a link to set a new password.",
    path: "reset",
    email: String::new(),
    problems: Problems::new(),
};

#[derive(Deserialize)]
pub(super) struct AskForm {
    #[serde(default)]
    email: String,
}

fn ask_again(app: &App, mut page: Ask, email: String, refusal: Refusal) -> Result<Response, HttpError> {
    let (problems, wait) = refusal.split();
    (page.email, page.problems) = (email, problems);
    Ok(Refusal::answer(wait, open_page(app, "entrance/ask.html", StatusCode::OK, &page)?))
}

fn no_address() -> FormError {
    FormError::Problems(Problems::from([("email", "is not a valid e-mail address".to_owned())]))
}

pub(super) async fn show_resend(State(app): State<App>) -> Result<Response, HttpError> {
    open_page(&app, "entrance/ask.html", StatusCode::OK, &RESEND)
}

pub(super) async fn resend(
    State(app): State<App>,
    Address(address): Address,
    Form(form): Form<AskForm>,
) -> Result<Response, HttpError> {
    let asked = match is_address(&form.email) {
        true => app.accounts.send_confirmation(&form.email, address).await.map_err(FormError::from),
        false => Err(no_address()),
    };
    if let Err(error) = asked {
        return ask_again(&app, RESEND, form.email, Refusal::of(error)?);
    }
    let text = "If an account with this address is waiting for confirmation, we have sent it an e-mail.";
    told(&app, StatusCode::OK, "Check your e-mail", &[text])
}

pub(super) async fn show_forgotten(State(app): State<App>) -> Result<Response, HttpError> {
    open_page(&app, "entrance/ask.html", StatusCode::OK, &FORGOTTEN)
}

pub(super) async fn forgotten(
    State(app): State<App>,
    Address(address): Address,
    Form(form): Form<AskForm>,
) -> Result<Response, HttpError> {
    let asked = match is_address(&form.email) {
        true => app.accounts.send_recovery(&form.email, address).await.map_err(FormError::from),
        false => Err(no_address()),
    };
    if let Err(error) = asked {
        return ask_again(&app, FORGOTTEN, form.email, Refusal::of(error)?);
    }
    let text = "If there is an account with this address, we have sent it an e-mail with a link.";
    told(&app, StatusCode::OK, "Check your e-mail", &[text])
}

/// The link was used, has expired, or never existed: the page shows how to get a new one.
fn link_over(app: &App, purpose: Purpose) -> Result<Response, HttpError> {
    #[derive(Serialize)]
    struct Over {
        /// The page that sends a new link; `None` if only an administrator can send it.
        path: Option<&'static str>,
    }
    let security = &app.settings.security;
    let path = match purpose {
        Purpose::Confirm => Some("confirm"),
        Purpose::Reset => Some("reset"),
        Purpose::Invite => None,
    };
    // An invited user who has already set a password may have forgotten it.
    let path = path.or_else(|| security.recoverable.then_some("reset"));
    open_page(app, "entrance/over.html", StatusCode::GONE, &Over { path })
}

#[derive(Serialize)]
struct ConfirmPage {
    secret: String,
    username: String,
    email: String,
    problems: Problems,
}

pub(super) async fn show_confirm(State(app): State<App>, Path(secret): Path<String>) -> Result<Response, HttpError> {
    let Some(owner) = app.accounts.link_owner(&secret, Purpose::Confirm).await? else {
        return link_over(&app, Purpose::Confirm);
    };
    confirm_page(&app, secret, owner, Problems::new())
}

fn confirm_page(app: &App, secret: String, owner: user::Model, problems: Problems) -> Result<Response, HttpError> {
    let page = ConfirmPage { secret, username: owner.username, email: owner.email, problems };
    open_page(app, "entrance/confirm.html", StatusCode::OK, &page)
}

pub(super) async fn confirm(
    State(app): State<App>,
    ctx: Context,
    Address(address): Address,
    Path(secret): Path<String>,
    Form(form): Form<PasswordForm>,
) -> Result<Response, HttpError> {
    match app.accounts.confirm(&ctx, &secret, &form.password, address).await {
        Ok(row) if row.active => {
            told(&app, StatusCode::OK, "Thank you", &["Your address is confirmed. You can log in now."])
        }
        Ok(_) => {
            let text = "Your address is confirmed. The administrators have been notified. You will get an e-mail when \
                your account is approved.";
            told(&app, StatusCode::OK, "Thank you", &[text])
        }
        Err(FormError::Link) => link_over(&app, Purpose::Confirm),
        Err(error) => {
            let (problems, wait) = Refusal::of(error)?.split();
            match app.accounts.link_owner(&secret, Purpose::Confirm).await? {
                Some(owner) => Ok(Refusal::answer(wait, confirm_page(&app, secret, owner, problems)?)),
                None => link_over(&app, Purpose::Confirm),
            }
        }
    }
}

#[derive(Serialize)]
struct PasswordPage {
    path: &'static str,
    secret: String,
    username: String,
    problems: Problems,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct PasswordForm {
    password: String,
    again: String,
}

async fn show_password(app: &App, purpose: Purpose, secret: String, problems: Problems) -> Result<Response, HttpError> {
    let Some(owner) = app.accounts.link_owner(&secret, purpose).await? else { return link_over(app, purpose) };
    let status = if problems.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    let page = PasswordPage { path: purpose.name(), secret, username: owner.username, problems };
    open_page(app, "entrance/password.html", status, &page)
}

async fn set_password(
    ctx: &Context,
    app: &App,
    purpose: Purpose,
    secret: String,
    form: PasswordForm,
) -> Result<Response, HttpError> {
    let chosen = Chosen { password: form.password, again: form.again };
    match app.accounts.set_by_link(ctx, &secret, purpose, &chosen).await {
        Ok(_) => Ok(Redirect::to(&format!("{}/login?told=password", app.settings.web.prefix)).into_response()),
        Err(FormError::Problems(problems)) => show_password(app, purpose, secret, problems).await,
        Err(FormError::Link) => link_over(app, purpose),
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn show_reset(State(app): State<App>, Path(secret): Path<String>) -> Result<Response, HttpError> {
    show_password(&app, Purpose::Reset, secret, Problems::new()).await
}

pub(super) async fn reset(
    State(app): State<App>,
    ctx: Context,
    Path(secret): Path<String>,
    Form(form): Form<PasswordForm>,
) -> Result<Response, HttpError> {
    set_password(&ctx, &app, Purpose::Reset, secret, form).await
}

pub(super) async fn show_invite(State(app): State<App>, Path(secret): Path<String>) -> Result<Response, HttpError> {
    show_password(&app, Purpose::Invite, secret, Problems::new()).await
}

pub(super) async fn invite(
    State(app): State<App>,
    ctx: Context,
    Path(secret): Path<String>,
    Form(form): Form<PasswordForm>,
) -> Result<Response, HttpError> {
    set_password(&ctx, &app, Purpose::Invite, secret, form).await
}

#[derive(Serialize)]
struct StrengthPart {
    score: u8,
    word: &'static str,
    problem: Option<String>,
}

static JUDGING: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(1);

/// The strength of the password being typed; it should not contain the values of the other fields.
pub(super) async fn show_strength(
    State(app): State<App>,
    Form(form): Form<BTreeMap<String, String>>,
) -> Result<Response, HttpError> {
    #[derive(Serialize)]
    struct Part {
        strength: StrengthPart,
    }
    let own: Vec<&str> =
        ["username", "name", "email"].iter().filter_map(|name| form.get(*name).map(String::as_str)).collect();
    // Any visitor may ask, on each key press; many concurrent requests delay only other requests of this kind.
    let _turn = JUDGING.acquire().await.map_err(|error| HttpError::Internal(error.to_string()))?;
    let judged = app.accounts.judge(form.get("password").map_or("", String::as_str), &own);
    let strength = StrengthPart { score: judged.score, word: judged.word, problem: judged.problem };
    open_page(&app, "entrance/strength.html", StatusCode::OK, &Part { strength })
}
