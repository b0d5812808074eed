//! Background sender for the outbox: takes a mail, creates its link if it needs one, renders it, and passes it to the mail
//! server.
//!
//! Pages do not wait for it, and a server that is down loses no mail: the mail stays in the outbox with its error and is
//! retried.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use sea_orm::{DbErr, EntityTrait, QuerySelect};
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::database::Database;
use crate::entity::outbox::Model;
use crate::entity::user;

use super::link::{self, Purpose};
use super::{Letter, MailError, Mailer, outbox};

/// The text of a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    pub subject: String,
    pub body: String,
    pub html: Option<String>,
}

/// Renders a mail from the name of its template and its context; an error is one sentence.
pub type Render = Arc<dyn Fn(&str, &Value) -> Result<Text, String> + Send + Sync>;

/// Sends the mails in the outbox. Cheap to clone.
#[derive(Clone)]
pub struct Courier {
    pub database: Database,
    pub clock: Clock,
    pub mailer: Mailer,
    pub render: Render,
    /// Beginning of the links, without a trailing slash.
    pub base_url: String,
    /// Lifetime of links.
    pub confirm_within: TimeDelta,
    pub reset_within: TimeDelta,
}

impl std::fmt::Debug for Courier {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Courier(…)")
    }
}

impl Courier {
    /// Sends until `stop`.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        loop {
            match self.send_next().await {
                Ok(true) => {}
                Ok(false) => {
                    tokio::select! {
                        // A moment later, when the transaction has committed.
                        () = async {
                            outbox::posted().await;
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        } => {}
                        () = tokio::time::sleep(Duration::from_secs(5)) => {}
                        _ = stop.wait_for(|stop| *stop) => return,
                    }
                }
                Err(error) => {
                    warn!(%error, "processing the outbox failed");
                    tokio::time::sleep(Duration::from_secs(5)).await;
                }
            }
            if *stop.borrow() {
                return;
            }
        }
    }

    /// Sends the next mail that is due. Returns whether there was one.
    ///
    /// # Errors
    /// When the database fails. A mail that cannot be sent is not an error here.
    pub async fn send_next(&self) -> Result<bool, DbErr> {
        let now = self.clock.now();
        let Some(mail) = outbox::take(&self.database, now).await? else { return Ok(false) };
        match self.deliver(&mail).await? {
            Ok(()) => {
                info!(template = %mail.template, mail = mail.id, "e-mail sent");
                outbox::sent(&self.database, &mail, self.clock.now()).await?;
            }
            // The mail was deleted from the outbox.
            Err(MailError::Withdrawn) => {}
            Err(error) => {
                let told = error.to_string();
                let now = self.clock.now();
                match outbox::not_sent(&self.database, &mail, &told, error.is_final(), now).await? {
                    true => warn!(%error, mail = mail.id, "sending an e-mail failed; will retry"),
                    false => warn!(%error, mail = mail.id, "sending an e-mail failed permanently"),
                }
            }
        }
        Ok(true)
    }

    async fn deliver(&self, mail: &Model) -> Result<Result<(), MailError>, DbErr> {
        let mut context: Value = serde_json::from_str(&mail.context).unwrap_or_else(|_| json!({}));
        if let (Some(purpose), Some(user_id)) = (Purpose::of_template(&mail.template), mail.user_id) {
            let lasts = if purpose == Purpose::Reset { self.reset_within } else { self.confirm_within };
            let now = self.clock.now();
            // Committed before the mail is sent, so that every link in a mail is valid. If sending fails, the next try
            // replaces the link.
            let transaction = self.database.begin().await?;
            // Locks in the same order as everywhere: the account, then its mail, then its links.
            user::Entity::find_by_id(user_id).lock_exclusive().one(&*transaction).await?;
            if !outbox::is_wanted(&*transaction, mail).await? {
                return Ok(Err(MailError::Withdrawn));
            }
            let secret = link::make(&*transaction, user_id, &mail.recipient, purpose, lasts, now).await?;
            transaction.commit().await?;
            if let Value::Object(context) = &mut context {
                context.insert("link".to_owned(), format!("{}/{}/{secret}", self.base_url, purpose.name()).into());
                context.insert("lasts".to_owned(), in_words(lasts).into());
            }
        }
        if let Value::Object(context) = &mut context {
            context.insert("base_url".to_owned(), self.base_url.clone().into());
        }
        let text = match (self.render)(&mail.template, &context) {
            Ok(text) => text,
            Err(problem) => return Ok(Err(MailError::Written(problem))),
        };
        let prefix = self.mailer.settings().prefix.as_str();
        let subject = if prefix.is_empty() { text.subject } else { format!("{prefix} {}", text.subject) };
        let letter = Letter { to: vec![mail.recipient.clone()], subject, body: text.body, html: text.html };
        Ok(self.mailer.send(&letter).await.map(drop))
    }
}

/// `5 days`, `90 minutes`.
fn in_words(span: TimeDelta) -> String {
    let many = |count: i64, unit: &str| if count == 1 { format!("1 {unit}") } else { format!("{count} {unit}s") };
    match (span.num_days(), span.num_hours(), span.num_minutes()) {
        (days @ 1.., hours, _) if hours == days * 24 => many(days, "day"),
        (_, hours @ 1.., minutes) if minutes == hours * 60 => many(hours, "hour"),
        (_, _, minutes) => many(minutes.max(1), "minute"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_in_words() {
        assert_eq!(in_words(TimeDelta::days(5)), "5 days");
        assert_eq!(in_words(TimeDelta::days(1)), "1 day");
        assert_eq!(in_words(TimeDelta::hours(36)), "36 hours");
        assert_eq!(in_words(TimeDelta::minutes(90)), "90 minutes");
    }
}
