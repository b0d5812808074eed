//! Outbox in the database: mails are written in the transaction of the change that they report, sent when a mail server is
//! available, and retried until then.

use chrono::{NaiveDateTime, TimeDelta};
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::sea_query::{Expr, SimpleExpr};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
};
use serde_json::Value;
use tokio::sync::Notify;

use crate::database::Database;
use crate::entity::outbox::{ActiveModel, Column, Entity, Model};

/// Tries of one mail: 1, 2, 4, … minutes apart, at most an hour; together about three days.
const MOST_ATTEMPTS: i32 = 78;

/// Time in which the server that took a mail must send it; then another server may take it.
const TAKEN: TimeDelta = TimeDelta::minutes(5);

static POSTED: Notify = Notify::const_new();

/// Waits until this process has added mails to the outbox; they may not be committed yet.
pub(super) async fn posted() {
    POSTED.notified().await;
}

/// An e-mail to enqueue: template, recipient and context.
#[derive(Debug, Clone)]
pub struct Note {
    pub template: &'static str,
    pub recipient: String,
    pub user_id: Option<i32>,
    pub mailing_id: Option<i32>,
    /// Values for the template.
    pub context: Value,
}

impl Note {
    /// A mail to a user.
    #[must_use]
    pub fn to_user(template: &'static str, user: &crate::entity::user::Model, context: Value) -> Self {
        Self { template, recipient: user.email.clone(), user_id: Some(user.id), mailing_id: None, context }
    }
}

/// Adds mails to the outbox, in the transaction of the caller.
pub async fn post(connection: &impl ConnectionTrait, notes: &[Note], now: NaiveDateTime) -> Result<(), DbErr> {
    let row = |note: &Note| ActiveModel {
        id: NotSet,
        recipient: Set(note.recipient.clone()),
        user_id: Set(note.user_id),
        mailing_id: Set(note.mailing_id),
        template: Set(note.template.to_owned()),
        context: Set(note.context.to_string()),
        created: Set(now),
        available_at: Set(Some(now)),
        sent_at: Set(None),
        failed_at: Set(None),
        attempts: Set(0),
        last_error: Set(None),
    };
    for chunk in notes.chunks(100) {
        Entity::insert_many(chunk.iter().map(row)).exec_without_returning(connection).await?;
    }
    POSTED.notify_one();
    Ok(())
}

/// Takes the next mail that is due, so that no other server sends it meanwhile. Mails to single users go first, so that a
/// link does not wait for thousands of bulk mails.
pub(super) async fn take(database: &Database, now: NaiveDateTime) -> Result<Option<Model>, DbErr> {
    match take_of(database, Column::MailingId.is_null(), now).await? {
        Some(mail) => Ok(Some(mail)),
        None => take_of(database, Column::MailingId.is_not_null(), now).await,
    }
}

async fn take_of(database: &Database, kind: SimpleExpr, now: NaiveDateTime) -> Result<Option<Model>, DbErr> {
    let due = Entity::find().filter(kind).filter(Column::AvailableAt.lte(now)).order_by_asc(Column::AvailableAt);
    for mail in due.limit(8).all(database.reader()).await? {
        let transaction = database.begin().await?;
        let taken = Entity::update_many()
            .col_expr(Column::AvailableAt, Expr::value(now + TAKEN))
            .col_expr(Column::Attempts, Expr::value(mail.attempts + 1))
            .filter(Column::Id.eq(mail.id))
            .filter(Column::Attempts.eq(mail.attempts))
            .filter(Column::AvailableAt.lte(now))
            .exec(&*transaction)
            .await?;
        transaction.commit().await?;
        if taken.rows_affected == 1 {
            return Ok(Some(Model { attempts: mail.attempts + 1, ..mail }));
        }
    }
    Ok(None)
}

/// Locks a mail until the end of the transaction. Returns `false` when it has been withdrawn.
pub(super) async fn is_wanted(connection: &impl ConnectionTrait, mail: &Model) -> Result<bool, DbErr> {
    Ok(Entity::find_by_id(mail.id).lock_exclusive().one(connection).await?.is_some())
}

/// Deletes the unsent mails with these templates to a user, because their links are no longer valid.
pub(super) async fn withdraw(
    connection: &impl ConnectionTrait,
    user_id: i32,
    templates: impl IntoIterator<Item = &'static str>,
) -> Result<(), DbErr> {
    let unsent = Entity::delete_many()
        .filter(Column::UserId.eq(user_id))
        .filter(Column::Template.is_in(templates))
        .filter(Column::SentAt.is_null());
    unsent.exec(connection).await.map(drop)
}

/// Marks a mail as sent. Its context is deleted: names and texts are no longer needed.
pub(super) async fn sent(database: &Database, mail: &Model, now: NaiveDateTime) -> Result<(), DbErr> {
    let transaction = database.begin().await?;
    Entity::update_many()
        .col_expr(Column::AvailableAt, Expr::value(None::<NaiveDateTime>))
        .col_expr(Column::SentAt, Expr::value(now))
        .col_expr(Column::LastError, Expr::value(None::<String>))
        .col_expr(Column::Context, Expr::value("{}"))
        .filter(Column::Id.eq(mail.id))
        .exec(&*transaction)
        .await?;
    transaction.commit().await
}

/// Records that sending failed, and schedules a retry unless the mail is given up. Returns whether there is a retry.
pub(super) async fn not_sent(
    database: &Database,
    mail: &Model,
    error: &str,
    is_final: bool,
    now: NaiveDateTime,
) -> Result<bool, DbErr> {
    let is_over = is_final || mail.attempts >= MOST_ATTEMPTS;
    let minutes = 1_i64 << (mail.attempts - 1).clamp(0, 6);
    let again = (!is_over).then(|| now + TimeDelta::minutes(minutes.min(60)));
    let transaction = database.begin().await?;
    Entity::update_many()
        .col_expr(Column::AvailableAt, Expr::value(again))
        .col_expr(Column::FailedAt, Expr::value(is_over.then_some(now)))
        .col_expr(Column::LastError, Expr::value(error.chars().take(1000).collect::<String>()))
        .filter(Column::Id.eq(mail.id))
        .exec(&*transaction)
        .await?;
    transaction.commit().await?;
    Ok(!is_over)
}

/// A selection of failed mails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Those of the bulk mail with this id.
    Mailing(i32),
    /// Those that the server writes automatically, each to one user: links, changes of an account, pending approvals.
    ToOne,
    /// Those of [`Self::ToOne`] that will be retried, without those that were given up.
    StillTried,
}

impl Of {
    fn condition(self) -> Condition {
        let to_one = || Condition::all().add(Column::MailingId.is_null());
        match self {
            Self::Mailing(id) => Condition::all().add(Column::MailingId.eq(id)),
            Self::ToOne => to_one(),
            Self::StillTried => to_one().add(Column::FailedAt.is_null()),
        }
    }

    /// Mails that failed at least once and have not been sent, whether they will be retried or were given up.
    fn failed(self) -> Condition {
        self.condition().add(Column::SentAt.is_null()).add(Column::LastError.is_not_null())
    }
}

/// Failed mails, oldest first.
pub async fn failures(connection: &impl ConnectionTrait, of: Of, most: u64) -> Result<Vec<Model>, DbErr> {
    Entity::find().filter(of.failed()).order_by_asc(Column::Id).limit(most).all(connection).await
}

/// Schedules failed mails for an immediate retry. Returns their number.
pub async fn try_again(connection: &impl ConnectionTrait, of: Of, now: NaiveDateTime) -> Result<u64, DbErr> {
    let failed = Entity::update_many()
        .col_expr(Column::AvailableAt, Expr::value(now))
        .col_expr(Column::FailedAt, Expr::value(None::<NaiveDateTime>))
        .col_expr(Column::Attempts, Expr::value(0))
        .filter(of.failed());
    let count = failed.exec(connection).await?.rows_affected;
    POSTED.notify_one();
    Ok(count)
}

/// Number of unsent mails that will be tried, and of those that were given up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    pub waiting: u64,
    pub given_up: u64,
}

/// Counts the unsent mails.
pub async fn load(connection: &impl ConnectionTrait) -> Result<Load, DbErr> {
    let unsent = Entity::find().filter(Column::SentAt.is_null());
    Ok(Load {
        waiting: unsent.clone().filter(Column::AvailableAt.is_not_null()).count(connection).await?,
        given_up: unsent.filter(Column::FailedAt.is_not_null()).count(connection).await?,
    })
}

/// Deletes mails that were sent or given up before `before`. Bulk mails are kept, because their counts use them.
pub(super) async fn forget(connection: &impl ConnectionTrait, before: NaiveDateTime) -> Result<(), DbErr> {
    let over = Condition::any().add(Column::SentAt.lt(before)).add(Column::FailedAt.lt(before));
    let old = Entity::delete_many().filter(Column::MailingId.is_null()).filter(over);
    old.exec(connection).await.map(drop)
}
