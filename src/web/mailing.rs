//! Bulk mail: written, previewed, sent in the background, with the status of each mail.

use axum::extract::{Form, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use chrono::NaiveDateTime;
use serde::Serialize;

use crate::account::{AccountError, Failure, Mailing, Problems, Recipients, Written};
use crate::app::App;
use crate::context::Context;
use crate::entity::user;
use crate::http::{HttpError, LoggedIn, Wants};
use crate::mail::Of;

use super::page::{Choice, missing, page, page_or_block, with_status};

/// Maximum number of mailings in the list, and of recipients in a preview.
const LISTED: u64 = 20;
const SHOWN: usize = 3;

#[derive(Serialize)]
struct Person {
    id: i32,
    username: String,
    name: String,
    email: String,
    is_chosen: bool,
}

#[derive(Serialize)]
struct MailingRow {
    id: i32,
    subject: String,
    by: String,
    at: NaiveDateTime,
    all: u64,
    sent: u64,
    failed: u64,
    waiting: u64,
}

impl From<Mailing> for MailingRow {
    fn from(mailing: Mailing) -> Self {
        let progress = mailing.progress;
        Self {
            id: mailing.row.id,
            subject: mailing.row.mail_subject,
            by: mailing.by.unwrap_or_default(),
            at: mailing.row.created,
            all: progress.all,
            sent: progress.sent,
            failed: progress.failed,
            waiting: progress.all.saturating_sub(progress.sent + progress.failed),
        }
    }
}

/// The mail for one of the recipients.
#[derive(Serialize)]
struct Sample {
    to: String,
    subject: String,
    body: String,
}

#[derive(Serialize)]
struct WritePage {
    people: Vec<Person>,
    roles: Vec<Choice>,
    mailings: Vec<MailingRow>,
    /// Failures of mails that the server sends automatically.
    failures: Vec<Failed>,
    whom: String,
    role: i32,
    subject: String,
    body: String,
    problems: Problems,
    /// For a preview: the number of recipients, and the first of them.
    count: Option<usize>,
    samples: Vec<Sample>,
    /// The folder in which mails are stored if there is no mail server.
    folder: Option<String>,
}

/// The form of a mail. Parsed manually: a list of checkboxes repeats the same name.
#[derive(Default)]
struct Letter {
    whom: String,
    role: i32,
    users: Vec<i32>,
    subject: String,
    body: String,
    is_sent: bool,
}

impl Letter {
    fn read(pairs: Vec<(String, String)>) -> Self {
        let mut letter = Self::default();
        for (name, value) in pairs {
            match name.as_str() {
                "whom" => letter.whom = value,
                "role" => letter.role = value.parse().unwrap_or_default(),
                "user" => letter.users.extend(value.parse::<i32>()),
                "subject" => letter.subject = value.trim().to_owned(),
                "body" => letter.body = value.replace("\r\n", "\n"),
                "what" => letter.is_sent = value == "send",
                _ => {}
            }
        }
        letter
    }

    fn recipients(&self) -> Recipients {
        match self.whom.as_str() {
            "all" => Recipients::Everybody,
            "role" => Recipients::Role(self.role),
            _ => Recipients::Users(self.users.clone()),
        }
    }
}

async fn write_page(
    app: &App,
    user: &LoggedIn,
    letter: Letter,
    problems: Problems,
    is_preview: bool,
) -> Result<Response, HttpError> {
    let snapshot = app.snapshot().await?;
    let accounts = app.at(&snapshot).accounts;
    let everybody = accounts.recipients(&Recipients::Everybody).await?;
    let samples = match is_preview {
        true => Some(accounts.recipients(&letter.recipients()).await?),
        false => None,
    };
    let roles = accounts.roles().await?;
    let mailings = accounts.mailings(LISTED).await?;
    let failures = accounts.failures(Of::ToOne, 50).await?;
    drop((accounts, snapshot));
    let person = |row: user::Model| Person {
        is_chosen: letter.users.contains(&row.id),
        id: row.id,
        username: row.username,
        name: row.name,
        email: row.email,
    };
    let written = Written { subject: letter.subject.clone(), body: letter.body.clone() };
    let sample = |row: &user::Model| {
        let text = written.to(row);
        Sample { to: row.email.clone(), subject: text.subject, body: text.body }
    };
    let mail = &app.settings.work.mail;
    let status = if problems.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    let content = WritePage {
        people: everybody.into_iter().map(person).collect(),
        roles: roles.into_iter().map(|(role, _)| Choice { id: role.row.id, label: role.row.name }).collect(),
        mailings: mailings.into_iter().map(MailingRow::from).collect(),
        failures: failures.into_iter().map(Failed::from).collect(),
        count: samples.as_ref().map(Vec::len),
        samples: samples.unwrap_or_default().iter().take(SHOWN).map(sample).collect(),
        folder: mail.server.is_none().then(|| mail.folder.display().to_string()),
        whom: if letter.whom.is_empty() { "users".to_owned() } else { letter.whom },
        role: letter.role,
        subject: letter.subject,
        body: letter.body,
        problems,
    };
    Ok(with_status(page(app, "mailing/write.html", "mail", &user.0, content)?, status))
}

pub(super) async fn show_write(State(app): State<App>, user: LoggedIn) -> Result<Response, HttpError> {
    write_page(&app, &user, Letter::default(), Problems::new(), false).await
}

/// Previews the mail, or sends it.
pub(super) async fn write(
    State(app): State<App>,
    user: LoggedIn,
    Form(pairs): Form<Vec<(String, String)>>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let letter = Letter::read(pairs);
    let written = Written { subject: letter.subject.clone(), body: letter.body.clone() };
    let people = app.accounts.recipients(&letter.recipients()).await?;
    let mut problems = Problems::new();
    if let Err(AccountError::Invalid { field, problem }) = written.check() {
        problems.insert(field, problem);
    }
    if people.is_empty() {
        problems.insert("recipients", "must include at least one active user with an e-mail address".to_owned());
    }
    if !problems.is_empty() {
        return write_page(&app, &user, letter, problems, false).await;
    }
    if !letter.is_sent {
        return write_page(&app, &user, letter, problems, true).await;
    }
    let id = app.accounts.send_mailing(ctx, &user.0, &written, &letter.recipients()).await?;
    Ok(Redirect::to(&format!("{}/mail/{id}", app.settings.web.prefix)).into_response())
}

/// A mail that was not sent.
#[derive(Serialize)]
struct Failed {
    recipient: String,
    about: &'static str,
    reason: String,
    /// The time of the next automatic attempt; `None` if the mail was given up.
    again: Option<NaiveDateTime>,
}

impl From<Failure> for Failed {
    fn from(one: Failure) -> Self {
        let about = match one.template.as_str() {
            "confirm" => "confirmation link",
            "reset" => "password reset link",
            "invite" => "invitation",
            "waiting" => "new registration",
            "activated" => "account activated",
            "address_changed" => "address changed",
            "declined" => "registration declined",
            "known" | "name_taken" => "name or address taken",
            "password_changed" => "password changed",
            "second_factor" => "second factor changed",
            "wrong_codes" => "wrong second-factor codes",
            _ => "",
        };
        Self { recipient: one.recipient, about, reason: one.reason, again: one.again }
    }
}

#[derive(Serialize)]
struct MailingPage {
    mailing: MailingRow,
    body: String,
    failures: Vec<Failed>,
}

pub(super) async fn show_mailing(
    State(app): State<App>,
    user: LoggedIn,
    wants: Wants,
    Path(id): Path<i32>,
) -> Result<Response, HttpError> {
    let ctx = user.ctx();
    let snapshot = app.snapshot().await?;
    let accounts = app.at(&snapshot).accounts;
    let mailing = accounts.mailing(id).await?.ok_or_else(|| missing(ctx, "mailing", id))?;
    let failures = accounts.failures(Of::Mailing(id), 200).await?;
    drop((accounts, snapshot));
    let content = MailingPage {
        body: mailing.row.body.clone(),
        mailing: mailing.into(),
        failures: failures.into_iter().map(Failed::from).collect(),
    };
    page_or_block(&app, "mailing/page.html", "mail", &user.0, content, wants.fragment.then_some("live"))
}

pub(super) async fn try_again(
    State(app): State<App>,
    ctx: Context,
    Path(id): Path<i32>,
) -> Result<Response, HttpError> {
    app.accounts.mailing(id).await?.ok_or_else(|| missing(&ctx, "mailing", id))?;
    app.accounts.try_mails_again(&ctx, Of::Mailing(id)).await?;
    Ok(Redirect::to(&format!("{}/mail/{id}", app.settings.web.prefix)).into_response())
}

pub(super) async fn try_all_again(State(app): State<App>, ctx: Context) -> Result<Response, HttpError> {
    app.accounts.try_mails_again(&ctx, Of::ToOne).await?;
    Ok(Redirect::to(&format!("{}/mail", app.settings.web.prefix)).into_response())
}
