//! Tokens for scripts: made by their owner, with a set of permissions and an end, and revoked by their owner.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{NaiveDateTime, TimeDelta};
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::sea_query::Expr;
use sea_orm::{ActiveModelTrait, ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use tracing::debug;

use crate::audit::{self, Event};
use crate::context::Context;
use crate::database::is_unwritable;
use crate::entity::api_token::{ActiveModel, Column, Entity, Model};

use super::{Accounts, Permission, User};

/// Input for creating a token.
#[derive(Debug, Clone)]
pub struct NewToken {
    pub label: String,
    /// The permissions that it includes, of those that its owner has at the time of each request; `None` for all.
    pub permissions: Option<BTreeSet<Permission>>,
    pub expires_at: NaiveDateTime,
}

/// A token as lists show it: without the secret.
#[derive(Debug, Clone)]
pub struct Token {
    pub id: i32,
    pub label: String,
    pub permissions: Option<BTreeSet<Permission>>,
    pub created: NaiveDateTime,
    pub expires_at: Option<NaiveDateTime>,
    pub revoked_at: Option<NaiveDateTime>,
    /// To the minute.
    pub last_used_at: Option<NaiveDateTime>,
}

/// Identifies tokens, for people and for programs that scan for leaked secrets.
const PREFIX: &str = "sgov_";

fn hash(secret: &str) -> String {
    // 256 random bits need no slow hash.
    URL_SAFE_NO_PAD.encode(Sha256::digest(secret.as_bytes()))
}

fn token(row: Model) -> Token {
    Token {
        id: row.id,
        label: row.label,
        permissions: row.permissions.as_deref().map(Permission::parse_all),
        created: row.created,
        expires_at: row.expires_at,
        revoked_at: row.revoked_at,
        last_used_at: row.last_used_at,
    }
}

impl Accounts {
    /// Creates a token. The second value is its secret, which is not stored: only its hash is.
    pub async fn create_token(&self, ctx: &Context, user_id: i32, new: &NewToken) -> Result<(Token, String), DbErr> {
        let secret = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
        let names = |all: &BTreeSet<Permission>| all.iter().map(|one| one.name()).collect::<Vec<_>>().join(",");
        let row = ActiveModel {
            id: NotSet,
            user_id: Set(user_id),
            label: Set(new.label.clone()),
            token_hash: Set(hash(&secret)),
            permissions: Set(new.permissions.as_ref().map(names)),
            created: Set(self.clock.now()),
            expires_at: Set(Some(new.expires_at)),
            revoked_at: Set(None),
            last_used_at: Set(None),
        };
        let transaction = self.database.begin().await?;
        let row = row.insert(&*transaction).await?;
        let after = json!({ "user": user_id, "permissions": row.permissions, "expires_at": row.expires_at });
        audit::record(ctx, &*transaction, Event::new("create", "token", row.id, &row.label).after(after)).await?;
        transaction.commit().await?;
        Ok((token(row), secret))
    }

    /// The tokens of a user, the newest first, including revoked and expired ones.
    pub async fn tokens(&self, user_id: i32) -> Result<Vec<Token>, DbErr> {
        let all = Entity::find().filter(Column::UserId.eq(user_id)).order_by_desc(Column::Id);
        Ok(all.all(self.database.reader()).await?.into_iter().map(token).collect())
    }

    /// Revokes a token of this user. Returns `None` if the user has no such token.
    pub async fn revoke_token(&self, ctx: &Context, user_id: i32, id: i32) -> Result<Option<Token>, DbErr> {
        let transaction = self.database.begin().await?;
        let revoked = Entity::update_many()
            .col_expr(Column::RevokedAt, Expr::value(self.clock.now()))
            .filter(Column::Id.eq(id))
            .filter(Column::UserId.eq(user_id))
            .filter(Column::RevokedAt.is_null())
            .exec(&*transaction)
            .await?;
        let row = Entity::find_by_id(id).filter(Column::UserId.eq(user_id)).one(&*transaction).await?;
        if let Some(row) = row.as_ref().filter(|_| revoked.rows_affected > 0) {
            let event = Event::new("revoke", "token", id, &row.label).before(json!({ "user": user_id }));
            audit::record(ctx, &*transaction, event).await?;
        }
        transaction.commit().await?;
        Ok(row.map(token))
    }

    /// The user of a valid token, with the permissions of the user that the token includes, and the token's id.
    pub async fn bearer(&self, secret: &str) -> Result<Option<(User, i32)>, DbErr> {
        if !secret.starts_with(PREFIX) {
            return Ok(None);
        }
        let now = self.clock.now();
        let row = Entity::find()
            .filter(Column::TokenHash.eq(hash(secret)))
            .filter(Column::RevokedAt.is_null())
            .one(self.database.reader())
            .await?;
        let Some(row) = row.filter(|row| row.expires_at.is_none_or(|end| end > now)) else { return Ok(None) };
        let user = self.find_active(row.user_id).await?;
        // A user who lacks the second factor that a role requires has no access in any way until it is set up.
        let Some(mut user) = user.filter(|user| !user.must_enrol) else { return Ok(None) };
        if let Some(permissions) = row.permissions.as_deref().map(Permission::parse_all) {
            user.permissions.retain(|permission| permissions.contains(permission));
            // A token with some of the permissions does not get what depends on a role.
            user.roles.clear();
        }
        if row.last_used_at.is_none_or(|last| now - last >= TimeDelta::minutes(1)) {
            match self.note_use(row.id, now).await {
                // Only the time of the last use is not stored.
                Err(error) if is_unwritable(&error) => debug!(%error, "recording the use of a token failed"),
                outcome => outcome?,
            }
        }
        Ok(Some((user, row.id)))
    }

    async fn note_use(&self, token_id: i32, now: NaiveDateTime) -> Result<(), DbErr> {
        let transaction = self.database.begin().await?;
        Entity::update_many()
            .col_expr(Column::LastUsedAt, Expr::value(now))
            .filter(Column::Id.eq(token_id))
            .exec(&*transaction)
            .await?;
        transaction.commit().await
    }
}
