//! Mails that are to be sent, in the database: written with the change that they tell of, sent when there is a server to
//! take them, tried again while there is none.

use chrono::{NaiveDateTime, TimeDelta};
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use serde_json::Value;
use tokio::sync::Notify;

use crate::database::Database;
use crate::entity::outbox::{ActiveModel, Column, Entity, Model};

/// Tries of one mail: 1, 2, 4, … minutes apart, an hour at most; together about three days.
const MOST_ATTEMPTS: i32 = 78;

/// Who has taken a mail sends it within this time, or another server does.
const TAKEN: TimeDelta = TimeDelta::minutes(5);

static POSTED: Notify = Notify::const_new();

/// Waits until this process has put something into the outbox; it may not be committed yet.
pub(super) async fn posted() {
    POSTED.notified().await;
}

/// A mail to be: which template, for whom, with what.
#[derive(Debug, Clone)]
pub struct Note {
    pub template: &'static str,
    pub recipient: String,
    pub user_id: Option<i32>,
    pub mailing_id: Option<i32>,
    /// What the template asks for.
    pub context: Value,
}

impl Note {
    /// A mail to a user.
    #[must_use]
    pub fn to_user(template: &'static str, user: &crate::entity::user::Model, context: Value) -> Self {
        Self { template, recipient: user.email.clone(), user_id: Some(user.id), mailing_id: None, context }
    }
}

/// Puts mails into the outbox, in the transaction of the caller.
///
/// # Errors
/// When the database cannot be written.
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

/// The next mail that is due, taken so that nobody else sends it meanwhile.
///
/// # Errors
/// When the database fails.
pub(super) async fn take(database: &Database, now: NaiveDateTime) -> Result<Option<Model>, DbErr> {
    let due = Entity::find().filter(Column::AvailableAt.lte(now)).order_by_asc(Column::AvailableAt).limit(8);
    for mail in due.all(database.reader()).await? {
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

/// It was sent.
pub(super) async fn sent(database: &Database, mail: &Model, now: NaiveDateTime) -> Result<(), DbErr> {
    let transaction = database.begin().await?;
    Entity::update_many()
        .col_expr(Column::AvailableAt, Expr::value(None::<NaiveDateTime>))
        .col_expr(Column::SentAt, Expr::value(now))
        .col_expr(Column::LastError, Expr::value(None::<String>))
        .filter(Column::Id.eq(mail.id))
        .exec(&*transaction)
        .await?;
    transaction.commit().await
}

/// It was not sent: later once more, or never again. Says whether there is another time.
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

/// Mails that did not go out are tried again at once: those of a mailing, or all that were given up.
///
/// # Errors
/// When the database cannot be written.
pub async fn try_again(database: &Database, mailing_id: Option<i32>, now: NaiveDateTime) -> Result<u64, DbErr> {
    let mut failed = Entity::update_many()
        .col_expr(Column::AvailableAt, Expr::value(now))
        .col_expr(Column::FailedAt, Expr::value(None::<NaiveDateTime>))
        .col_expr(Column::Attempts, Expr::value(0))
        .filter(Column::SentAt.is_null())
        .filter(Column::LastError.is_not_null());
    if let Some(mailing_id) = mailing_id {
        failed = failed.filter(Column::MailingId.eq(mailing_id));
    }
    let transaction = database.begin().await?;
    let count = failed.exec(&*transaction).await?.rows_affected;
    transaction.commit().await?;
    Ok(count)
}
