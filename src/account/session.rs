//! Browser sessions of a user.

use chrono::NaiveDateTime;
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder};
use serde_json::json;
use tracing::warn;

use crate::audit::{self, Event};
use crate::context::Context;
use crate::database::is_unwritable;
use crate::entity::session::{Column, Entity};
use crate::entity::user;

use super::authenticate::counted;
use super::{AccountError, Accounts, User};

/// A browser session.
#[derive(Debug, Clone)]
pub struct Session {
    /// Its key in the table, which does not grant access.
    pub key: String,
    pub since: Option<NaiveDateTime>,
    /// To the minute.
    pub last_seen: Option<NaiveDateTime>,
    pub ends: NaiveDateTime,
    pub address: Option<String>,
    /// The user agent of the browser.
    pub agent: Option<String>,
    pub is_remembered: bool,
}

impl Accounts {
    /// Records a login with a browser. With a second factor the login counts from here: the password alone was not a
    /// login.
    ///
    /// # Errors
    /// When the database fails, except if it is only read-only at present.
    pub async fn record_login(
        &self,
        ctx: &Context,
        user: &User,
        address: Option<String>,
        is_remembered: bool,
    ) -> Result<(), AccountError> {
        let ctx = &user.authenticate(ctx);
        match self.write_login(ctx, user, address.clone(), is_remembered).await {
            // Reading continues while the database cannot be written; the log has the entries that the audit log lacks.
            Err(AccountError::Database(error)) if is_unwritable(&error) => {
                warn!(user = %user.username, ?address, %error, "recording a login in the audit log failed");
                Ok(())
            }
            outcome => outcome,
        }
    }

    async fn write_login(
        &self,
        ctx: &Context,
        user: &User,
        address: Option<String>,
        is_remembered: bool,
    ) -> Result<(), AccountError> {
        let after = json!({ "second_factor": user.has_second_factor, "remembered": is_remembered });
        let transaction = self.database.begin().await?;
        if user.has_second_factor {
            let row = user::Entity::find_by_id(user.id).one(&*transaction).await?.ok_or(AccountError::Unknown)?;
            let statement = counted(user::Entity::update_many(), &row, address, self.clock.now());
            statement.filter(user::Column::Id.eq(row.id)).exec(&*transaction).await?;
        }
        let event = Event::new("log_in", "user", user.id, &user.username).after(after);
        audit::record(ctx, &*transaction, event).await?;
        Ok(transaction.commit().await?)
    }

    /// Records a logout.
    ///
    /// # Errors
    /// As [`Self::record_login`].
    pub async fn record_logout(&self, ctx: &Context, user: &User) -> Result<(), AccountError> {
        let ctx = &user.authenticate(ctx);
        match self.write_logout(ctx, user).await {
            Err(error) if is_unwritable(&error) => {
                warn!(user = %user.username, %error, "recording a logout in the audit log failed");
                Ok(())
            }
            outcome => Ok(outcome?),
        }
    }

    async fn write_logout(&self, ctx: &Context, user: &User) -> Result<(), DbErr> {
        let transaction = self.database.begin().await?;
        audit::record(ctx, &*transaction, Event::new("log_out", "user", user.id, &user.username)).await?;
        transaction.commit().await
    }

    /// The sessions of a user, the most recently used first.
    pub async fn sessions(&self, user_id: i32) -> Result<Vec<Session>, DbErr> {
        let open = Entity::find().filter(Column::UserId.eq(user_id)).filter(Column::ExpiresAt.gt(self.clock.now()));
        let rows = open.order_by_desc(Column::LastSeen).all(self.database.reader()).await?;
        let session = |row: crate::entity::session::Model| Session {
            key: row.id,
            since: row.created,
            last_seen: row.last_seen,
            ends: row.expires_at,
            address: row.address,
            agent: row.agent,
            is_remembered: row.remembered,
        };
        Ok(rows.into_iter().map(session).collect())
    }

    /// Ends a session of a user, or all of them except `except`. Returns how many.
    pub async fn end_sessions(
        &self,
        ctx: &Context,
        user_id: i32,
        username: &str,
        one: Option<&str>,
        except: Option<&str>,
    ) -> Result<u64, DbErr> {
        let mut ended = Entity::delete_many().filter(Column::UserId.eq(user_id));
        if let Some(one) = one {
            ended = ended.filter(Column::Id.eq(one));
        }
        if let Some(except) = except {
            ended = ended.filter(Column::Id.ne(except));
        }
        let transaction = self.database.begin().await?;
        let count = ended.exec(&*transaction).await?.rows_affected;
        if count > 0 {
            let event = Event::new("end_sessions", "user", user_id, username).after(json!({ "ended": count }));
            audit::record(ctx, &*transaction, event).await?;
        }
        transaction.commit().await?;
        Ok(count)
    }
}
