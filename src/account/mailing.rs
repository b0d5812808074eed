//! Bulk mail: one text to many users, stored once and sent from the outbox in the background, with a status per
//! recipient.

use std::collections::BTreeSet;

use chrono::{NaiveDateTime, TimeDelta};
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, DbErr, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait,
};
use serde_json::json;

use crate::audit::{self, Event};
use crate::context::Context;
use crate::entity::{mailing, outbox, roles_users, user};
use crate::mail::{self, Note, is_address, post};

use super::{AccountError, Accounts, User};

/// The recipients of a mail, limited to active users with an address that can receive mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipients {
    Everybody,
    /// The users who have the role with this id.
    Role(i32),
    /// The users with these ids.
    Users(Vec<i32>),
}

/// The text to send; `{user.name}`, `{user.username}` and `{user.email}` are replaced by the values of the recipient.
#[derive(Debug, Clone)]
pub struct Written {
    pub subject: String,
    pub body: String,
}

/// The progress of a mailing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    pub all: u64,
    pub sent: u64,
    pub failed: u64,
}

/// A mail that was not sent (yet).
#[derive(Debug, Clone)]
pub struct Failure {
    pub recipient: String,
    /// The kind of mail, in one word.
    pub template: String,
    pub reason: String,
    /// The time of the next attempt; `None` if the mail was given up.
    pub again: Option<NaiveDateTime>,
}

/// A mailing with its progress.
#[derive(Debug, Clone)]
pub struct Mailing {
    pub row: mailing::Model,
    /// User name of the sender.
    pub by: Option<String>,
    pub progress: Progress,
}

const PLACES: [&str; 3] = ["user.name", "user.username", "user.email"];

impl Written {
    /// Checks the subject and the body.
    ///
    /// # Errors
    /// [`AccountError::Invalid`] with the field `subject` or `body`.
    pub fn check(&self) -> Result<(), AccountError> {
        let invalid = |field, problem: String| Err(AccountError::Invalid { field, problem });
        if self.subject.trim().is_empty()
            || self.subject.chars().count() > 200
            || self.subject.chars().any(char::is_control)
        {
            return invalid("subject", "must be one line of 1 to 200 characters".to_owned());
        }
        if self.body.trim().is_empty() || self.body.len() > 100_000 {
            return invalid("body", "must have 1 to 100,000 characters".to_owned());
        }
        for (field, text) in [("subject", &self.subject), ("body", &self.body)] {
            for part in text.split("{user").skip(1) {
                let place = part.split_once('}').map(|(rest, _)| format!("user{rest}"));
                if !place.as_deref().is_some_and(|place| PLACES.contains(&place)) {
                    let rest: String = part.chars().take(20).collect();
                    let known = PLACES.map(|place| format!("{{{place}}}")).join(", ");
                    return invalid(
                        field,
                        format!(
                            "contains '{{user{rest}', which is not a known placeholder; known \
                        placeholders: {known}"
                        ),
                    );
                }
            }
        }
        Ok(())
    }

    /// The text for this recipient.
    #[must_use]
    pub fn to(&self, person: &user::Model) -> Self {
        Self { subject: fill(&self.subject, person), body: fill(&self.body, person) }
    }
}

/// Replaces all placeholders in one pass: a name that looks like a placeholder stays a name.
fn fill(text: &str, person: &user::Model) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('{') {
        filled.push_str(&rest[..start]);
        rest = &rest[start..];
        let values = [&person.name, &person.username, &person.email];
        let found = PLACES
            .iter()
            .zip(values)
            .find(|(place, _)| rest[1..].strip_prefix(**place).is_some_and(|r| r.starts_with('}')));
        match found {
            Some((place, value)) => {
                filled.push_str(value);
                rest = &rest[place.len() + 2..];
            }
            None => {
                filled.push('{');
                rest = &rest[1..];
            }
        }
    }
    filled.push_str(rest);
    filled
}

impl Accounts {
    /// The recipients of a mail.
    pub async fn recipients(&self, wanted: &Recipients) -> Result<Vec<user::Model>, DbErr> {
        let mut all = user::Entity::find().filter(user::Column::Active.eq(true));
        match wanted {
            Recipients::Everybody => {}
            Recipients::Role(role) => {
                let holders = roles_users::Entity::find().select_only().column(roles_users::Column::UserId);
                let holders = holders.filter(roles_users::Column::RoleId.eq(*role)).into_query();
                all = all.filter(user::Column::Id.in_subquery(holders));
            }
            Recipients::Users(ids) => all = all.filter(user::Column::Id.is_in(ids.iter().copied())),
        }
        let all = all.order_by_asc(user::Column::Username).all(self.database.reader()).await?;
        Ok(all.into_iter().filter(|person| is_address(&person.email)).collect())
    }

    /// Adds a mail for each recipient to the outbox. The same text by the same sender to the same recipients within a
    /// minute is the same mailing, such as after a double click. Returns its id.
    ///
    /// # Errors
    /// [`AccountError::Invalid`]; also if there are no recipients.
    pub async fn send_mailing(
        &self,
        ctx: &Context,
        by: &User,
        written: &Written,
        wanted: &Recipients,
    ) -> Result<i32, AccountError> {
        written.check()?;
        let people = self.recipients(wanted).await?;
        if people.is_empty() {
            return Err(AccountError::Invalid {
                field: "recipients",
                problem: "must include at least one active \
                user"
                    .to_owned(),
            });
        }
        let now = self.clock.now();
        let transaction = self.database.begin().await?;
        // Of two concurrent clicks, the second waits for the first.
        user::Entity::find_by_id(by.id).lock_exclusive().one(&*transaction).await?;
        let lately = mailing::Entity::find()
            .filter(mailing::Column::UserId.eq(by.id))
            .filter(mailing::Column::Created.gt(now - TimeDelta::minutes(1)))
            .all(&*transaction)
            .await?;
        let wanted: BTreeSet<i32> = people.iter().map(|person| person.id).collect();
        for twin in lately.iter().filter(|one| one.mail_subject == written.subject && one.body == written.body) {
            let of = outbox::Entity::find().filter(outbox::Column::MailingId.eq(twin.id)).all(&*transaction).await?;
            if of.iter().filter_map(|mail| mail.user_id).collect::<BTreeSet<_>>() == wanted {
                return Ok(twin.id);
            }
        }
        let row = mailing::ActiveModel {
            id: NotSet,
            user_id: Set(Some(by.id)),
            mail_subject: Set(written.subject.clone()),
            body: Set(written.body.clone()),
            created: Set(now),
        };
        let row = row.insert(&*transaction).await?;
        let note = |person: &user::Model| {
            let text = written.to(person);
            let context = json!({ "subject": text.subject, "body": text.body });
            Note { mailing_id: Some(row.id), ..Note::to_user("mailing", person, context) }
        };
        let notes: Vec<Note> = people.iter().map(note).collect();
        post(&*transaction, &notes, now).await?;
        let event =
            Event::new("send", "mailing", row.id, &row.mail_subject).after(json!({ "recipients": notes.len() }));
        audit::record(ctx, &*transaction, event).await?;
        transaction.commit().await?;
        Ok(row.id)
    }

    /// The mailings, the newest first.
    pub async fn mailings(&self, most: u64) -> Result<Vec<Mailing>, DbErr> {
        let rows = mailing::Entity::find().order_by_desc(mailing::Column::Id).limit(most);
        let mut all = Vec::new();
        for row in rows.all(self.database.reader()).await? {
            all.push(self.with_progress(row).await?);
        }
        Ok(all)
    }

    /// The mailing with this id.
    pub async fn mailing(&self, id: i32) -> Result<Option<Mailing>, DbErr> {
        match mailing::Entity::find_by_id(id).one(self.database.reader()).await? {
            Some(row) => Ok(Some(self.with_progress(row).await?)),
            None => Ok(None),
        }
    }

    async fn with_progress(&self, row: mailing::Model) -> Result<Mailing, DbErr> {
        let connection = self.database.reader();
        let of = outbox::Entity::find().filter(outbox::Column::MailingId.eq(row.id));
        let progress = Progress {
            all: of.clone().count(connection).await?,
            sent: of.clone().filter(outbox::Column::SentAt.is_not_null()).count(connection).await?,
            failed: of.filter(outbox::Column::FailedAt.is_not_null()).count(connection).await?,
        };
        let by = match row.user_id {
            Some(id) => user::Entity::find_by_id(id).one(connection).await?.map(|user| user.username),
            None => None,
        };
        Ok(Mailing { row, by, progress })
    }

    /// Mails that were not sent, with the reason.
    pub async fn failures(&self, of: mail::Of, most: u64) -> Result<Vec<Failure>, DbErr> {
        let failure = |row: outbox::Model| Failure {
            recipient: row.recipient,
            template: row.template,
            reason: row.last_error.unwrap_or_default(),
            again: row.available_at,
        };
        let rows = mail::failures(self.database.reader(), of, most).await?;
        Ok(rows.into_iter().map(failure).collect())
    }

    /// Retries failed mails immediately. Returns their number.
    pub async fn try_mails_again(&self, ctx: &Context, of: mail::Of) -> Result<u64, DbErr> {
        let transaction = self.database.begin().await?;
        let count = mail::try_again(&*transaction, of, self.clock.now()).await?;
        if count > 0 {
            let event = match of {
                mail::Of::Mailing(id) => {
                    let row = mailing::Entity::find_by_id(id).one(&*transaction).await?;
                    Event::new("send", "mailing", id, row.map(|row| row.mail_subject).unwrap_or_default())
                }
                mail::Of::ToOne | mail::Of::StillTried => Event::of("send", "mailing", "account e-mails"),
            };
            audit::record(ctx, &*transaction, event.after(json!({ "again": count }))).await?;
        }
        transaction.commit().await?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_once_and_others_are_pointed_out() {
        let written = |subject: &str, body: &str| Written { subject: subject.to_owned(), body: body.to_owned() };
        let field = |written: Written| match written.check() {
            Err(AccountError::Invalid { field, .. }) => field,
            _ => "",
        };
        assert_eq!(field(written("For {user.name}", "{user.username} {user.email} { } {x}")), "");
        assert_eq!(field(written("", "x")), "subject");
        assert_eq!(field(written("a\nb", "x")), "subject");
        assert_eq!(field(written("a", " ")), "body");
        assert_eq!(field(written("a {user.password}", "x")), "subject");
        assert_eq!(field(written("a", "Dear {user}")), "body");
        assert_eq!(field(written("a", "Dear {user.name")), "body");
    }
}
