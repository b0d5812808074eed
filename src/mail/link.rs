//! Links in mails: a random secret, stored as a hash, that is valid once and for a limited time.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{NaiveDateTime, TimeDelta};
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::sea_query::Expr;
use sea_orm::{ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, QueryFilter};
use sha2::{Digest, Sha256};

use super::outbox;
use crate::entity::mail_link::{ActiveModel, Column, Entity, Model};

/// The purpose of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Confirm,
    Reset,
    Invite,
}

impl Purpose {
    /// The word in the table and in the URL.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Confirm => "confirm",
            Self::Reset => "reset",
            Self::Invite => "invite",
        }
    }

    const ALL: [Self; 3] = [Self::Confirm, Self::Reset, Self::Invite];

    /// The purpose of the link in a template.
    #[must_use]
    pub fn of_template(template: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| purpose.name() == template)
    }
}

fn hash(secret: &str) -> String {
    // 256 random bits need no slow hash.
    URL_SAFE_NO_PAD.encode(Sha256::digest(secret.as_bytes()))
}

/// Creates a link for a user and ends earlier ones for the same purpose. Returns the secret, which is not stored.
pub async fn make(
    connection: &impl ConnectionTrait,
    user_id: i32,
    email: &str,
    purpose: Purpose,
    lasts: TimeDelta,
    now: NaiveDateTime,
) -> Result<String, DbErr> {
    end(connection, user_id, Some(purpose), now).await?;
    let secret = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
    let row = ActiveModel {
        id: NotSet,
        user_id: Set(user_id),
        purpose: Set(purpose.name().to_owned()),
        token_hash: Set(hash(&secret)),
        email: Set(email.to_owned()),
        created: Set(now),
        expires_at: Set(now + lasts),
        used_at: Set(None),
    };
    row.insert(connection).await?;
    Ok(secret)
}

/// The link with this secret, while it is valid.
pub async fn find(
    connection: &impl ConnectionTrait,
    secret: &str,
    purpose: Purpose,
    now: NaiveDateTime,
) -> Result<Option<Model>, DbErr> {
    Entity::find()
        .filter(Column::TokenHash.eq(hash(secret)))
        .filter(Column::Purpose.eq(purpose.name()))
        .filter(Column::UsedAt.is_null())
        .filter(Column::ExpiresAt.gt(now))
        .one(connection)
        .await
}

/// Uses a link. Of two concurrent requests, only one succeeds.
pub async fn redeem(
    connection: &impl ConnectionTrait,
    secret: &str,
    purpose: Purpose,
    now: NaiveDateTime,
) -> Result<Option<Model>, DbErr> {
    let Some(link) = find(connection, secret, purpose, now).await? else { return Ok(None) };
    let used = Entity::update_many()
        .col_expr(Column::UsedAt, Expr::value(now))
        .filter(Column::Id.eq(link.id))
        .filter(Column::UsedAt.is_null())
        .exec(connection)
        .await?;
    Ok((used.rows_affected == 1).then_some(link))
}

/// Ends all links of a user, including those in mails that have not been sent.
pub async fn end_all(connection: &impl ConnectionTrait, user_id: i32, now: NaiveDateTime) -> Result<(), DbErr> {
    // Withdraws the mails first: this waits for a sender that is creating a link for one, and then the link exists.
    outbox::withdraw(connection, user_id, Purpose::ALL.map(Purpose::name)).await?;
    end(connection, user_id, None, now).await
}

/// Ends the links of a user for one purpose, including those in mails that have not been sent.
pub async fn end_one(
    connection: &impl ConnectionTrait,
    user_id: i32,
    purpose: Purpose,
    now: NaiveDateTime,
) -> Result<(), DbErr> {
    outbox::withdraw(connection, user_id, [purpose.name()]).await?;
    end(connection, user_id, Some(purpose), now).await
}

async fn end(
    connection: &impl ConnectionTrait,
    user_id: i32,
    purpose: Option<Purpose>,
    now: NaiveDateTime,
) -> Result<(), DbErr> {
    let mut open = Entity::update_many()
        .col_expr(Column::UsedAt, Expr::value(now))
        .filter(Column::UserId.eq(user_id))
        .filter(Column::UsedAt.is_null());
    if let Some(purpose) = purpose {
        open = open.filter(Column::Purpose.eq(purpose.name()));
    }
    open.exec(connection).await.map(drop)
}

/// Deletes links that were used or expired before `before`.
pub(super) async fn forget(connection: &impl ConnectionTrait, before: NaiveDateTime) -> Result<(), DbErr> {
    let over = Condition::any().add(Column::UsedAt.lt(before)).add(Column::ExpiresAt.lt(before));
    Entity::delete_many().filter(over).exec(connection).await.map(drop)
}
