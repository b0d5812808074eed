//! E-mails, sent by SMTP, or written to a folder when no server is configured.
//!
//! Mails of the server are stored in the outbox in the database ([`post`]) until the [`Courier`] has sent them; callbacks
//! send theirs directly, through the [`Mailer`].

mod address;
mod courier;
pub mod link;
mod outbox;

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::Duration;

use chrono::{NaiveDateTime, TimeDelta};
use lettre::message::header::ContentType;
use lettre::message::{MultiPart, SinglePart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use sea_orm::DbErr;
use tracing::info;

use crate::config::{MailSecurity, MailServer, MailSettings};
use crate::database::Database;

pub use courier::{Courier, Render, Text};
pub use outbox::{Load, Note, Of, failures, load, post, try_again};

/// Retention of sent mails, mails that were given up, and used links, so that they can be looked up.
const KEPT: TimeDelta = TimeDelta::days(30);

/// A mail to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub to: Vec<String>,
    pub subject: String,
    pub body: String,
    /// The HTML version of the body.
    pub html: Option<String>,
}

/// Destination of a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Posted {
    /// The mail server has accepted it.
    Sent,
    /// No server is configured: it was written to this file.
    Kept(PathBuf),
}

/// Why a mail was not sent.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    #[error("'{0}' is not a valid e-mail address")]
    Address(String),
    #[error("no recipients")]
    NoRecipient,
    #[error("the e-mail was cancelled")]
    Withdrawn,
    #[error("cannot compose the e-mail: {0}")]
    Written(String),
    #[error("mail server {server} rejected the message: {reason}")]
    Server { server: String, reason: String, is_final: bool },
    #[error("cannot write the e-mail to {folder}: {reason}")]
    Kept { folder: PathBuf, reason: std::io::Error },
}

/// Deletes old mails and links.
pub async fn forget_old(database: &Database, now: NaiveDateTime) -> Result<(), DbErr> {
    let transaction = database.begin().await?;
    outbox::forget(&*transaction, now - KEPT).await?;
    link::forget(&*transaction, now - KEPT).await?;
    transaction.commit().await
}

/// Whether this is a valid address: `name@host`, without anything that could be interpreted as a header.
#[must_use]
pub fn is_address(text: &str) -> bool {
    // As typed in a form: without a name and without brackets.
    !text.contains(['<', '>']) && address::mailbox(text).is_some_and(|mailbox| mailbox.name.is_none())
}

impl MailError {
    /// Whether another try would fail in the same way.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Address(_) | Self::NoRecipient | Self::Withdrawn | Self::Written(_) => true,
            Self::Server { is_final, .. } => *is_final,
            Self::Kept { .. } => false,
        }
    }
}

type Transport = AsyncSmtpTransport<Tokio1Executor>;

/// Sends mails with the settings. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Mailer {
    settings: MailSettings,
}

impl Mailer {
    #[must_use]
    pub fn new(settings: MailSettings) -> Self {
        Self { settings }
    }

    #[must_use]
    pub fn settings(&self) -> &MailSettings {
        &self.settings
    }

    /// Sends a mail, and waits until the server has accepted it.
    ///
    /// # Errors
    /// When the mail is invalid, or the server did not accept it.
    pub async fn send(&self, letter: &Letter) -> Result<Posted, MailError> {
        let message = self.message(letter)?;
        match &self.settings.server {
            Some(server) => {
                let refused = |error: lettre::transport::smtp::Error| MailError::Server {
                    server: format!("{}:{}", server.host, server.port),
                    reason: with_cause(&error),
                    is_final: is_final(&error),
                };
                // One connection per mail: on a connection that was abandoned midway, the late response to the last mail
                // would be taken for that to the next. The transport itself waits forever for a silent server.
                let transport = transport(server).map_err(refused)?;
                let sent = tokio::time::timeout(self.settings.patience, transport.send(message)).await;
                let silent = |_| MailError::Server {
                    server: format!("{}:{}", server.host, server.port),
                    reason: "no answer".to_owned(),
                    is_final: false,
                };
                sent.map_err(silent)?.map_err(refused)?;
                Ok(Posted::Sent)
            }
            None => self.keep(&message),
        }
    }

    fn message(&self, letter: &Letter) -> Result<Message, MailError> {
        let address = |text: &str| address::mailbox(text).ok_or_else(|| MailError::Address(text.to_owned()));
        if letter.to.is_empty() {
            return Err(MailError::NoRecipient);
        }
        // A header must be one line.
        let subject = letter.subject.replace(['\r', '\n'], " ");
        let mut message = Message::builder().from(address(&self.settings.from)?).subject(subject).message_id(None);
        for to in &letter.to {
            message = message.to(address(to)?);
        }
        let written = match &letter.html {
            None => message.header(ContentType::TEXT_PLAIN).body(letter.body.clone()),
            Some(html) => message.multipart(
                MultiPart::alternative()
                    .singlepart(SinglePart::plain(letter.body.clone()))
                    .singlepart(SinglePart::html(html.clone())),
            ),
        };
        written.map_err(|error| MailError::Written(error.to_string()))
    }

    fn keep(&self, message: &Message) -> Result<Posted, MailError> {
        let folder = &self.settings.folder;
        let failed = |reason| MailError::Kept { folder: folder.clone(), reason };
        // The mails contain links that give access to accounts.
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let file = folder.join(format!("{}.eml", uuid::Uuid::now_v7()));
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file);
        opened.and_then(|mut opened| opened.write_all(&message.formatted())).map_err(failed)?;
        info!("no mail server is configured (MAIL_SERVER); the e-mail was written to {}", file.display());
        Ok(Posted::Kept(file))
    }
}

/// Whether the server will never accept this mail. Rejections of the sender (530, 535) can be fixed, so they are not final.
fn is_final(error: &lettre::transport::smtp::Error) -> bool {
    error.is_permanent() && error.status().is_some_and(|code| (550..=554).contains(&u16::from(code)))
}

fn transport(server: &MailServer) -> Result<Transport, lettre::transport::smtp::Error> {
    let tls = match server.security {
        MailSecurity::Plain => Tls::None,
        MailSecurity::StartTls => Tls::Required(TlsParameters::new(server.host.clone())?),
        MailSecurity::Tls => Tls::Wrapper(TlsParameters::new(server.host.clone())?),
    };
    let mut builder =
        Transport::builder_dangerous(&server.host).port(server.port).timeout(Some(Duration::from_secs(30))).tls(tls);
    if let Some((name, password)) = &server.login {
        builder = builder.credentials(Credentials::new(name.clone(), password.clone()));
    }
    Ok(builder.build())
}

fn with_cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}
