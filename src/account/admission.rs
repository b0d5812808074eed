//! Letting in: who has registered waits → an administrator activates the account, or declines it; each is told by mail. And an
//! address is confirmed by an administrator where its mail does not come. What others do to an account its owner is told.

use sea_orm::ActiveValue::Set;
use sea_orm::{ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter, QuerySelect};
use serde_json::json;

use crate::audit::{self, Event};
use crate::context::Context;
use crate::entity::{role, roles_users, user};
use crate::mail::link::{self, Purpose};
use crate::mail::{Note, is_address, post};

use super::registration::set_confirmed;
use super::{AccountError, AccountState, Accounts, UserChanges, end_access, is_invited};

impl Accounts {
    /// Activates an account, and tells its owner. One that was declined is welcome after all.
    ///
    /// # Errors
    /// As [`Accounts::update`].
    pub async fn activate(&self, ctx: &Context, id: i32) -> Result<user::Model, AccountError> {
        self.update(ctx, id, UserChanges { active: Some(true), ..UserChanges::default() }, |_| true).await
    }

    /// Tells somebody by mail who was not let in before, and is now. A helper: the caller owns the transaction.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn tell_let_in(
        &self,
        connection: &impl ConnectionTrait,
        was_active: bool,
        row: &user::Model,
    ) -> Result<(), sea_orm::DbErr> {
        // Who has not confirmed the address cannot log in yet, and is told so by that link.
        let is_confirmed = row.confirmed_at.is_some() || !self.rules.security.confirmable;
        if was_active || !row.active || !is_confirmed {
            return Ok(());
        }
        self.tell(connection, "activated", row, json!({ "name": row.name, "username": row.username })).await
    }

    /// Does not let somebody in who waits; the owner is told, with the reason if there is one. The account stays, so that
    /// the history of this is kept, and may be activated later.
    ///
    /// # Errors
    /// [`AccountError::Unknown`]; [`AccountError::Invalid`] reason; [`AccountError::Changed`] when nobody waits there.
    pub async fn decline(&self, ctx: &Context, id: i32, reason: &str) -> Result<user::Model, AccountError> {
        let reason = reason.trim();
        if reason.chars().count() > 500 || reason.chars().any(char::is_control) {
            let problem = "must be at most 500 characters without control characters".to_owned();
            return Err(AccountError::Invalid { field: "reason", problem });
        }
        let now = self.clock.now();
        let transaction = self.database.begin().await?;
        let row = user::Entity::find_by_id(id).lock_exclusive().one(&*transaction).await?;
        let row = row.ok_or(AccountError::Unknown)?;
        if AccountState::of(&row) != AccountState::Waiting {
            return Err(AccountError::Changed);
        }
        let mut changed = row.into_active_model();
        changed.declined_at = Set(Some(now));
        changed.update_datetime = Set(Some(now));
        let row = changed.update(&*transaction).await?;
        end_access(ctx, &*transaction, id, now).await?;
        let event = Event::new("decline", "user", id, &row.username).after(json!({ "declined": true }));
        audit::record(ctx, &*transaction, if reason.is_empty() { event } else { event.because(reason) }).await?;
        let context = json!({ "name": row.name, "username": row.username, "reason": reason });
        self.tell(&*transaction, "declined", &row, context).await?;
        transaction.commit().await?;
        self.logins.forget_all();
        Ok(row)
    }

    /// Confirms the address of somebody whose mail does not come, in their stead; its links end. Who was activated before can
    /// come in now, and is told.
    ///
    /// # Errors
    /// [`AccountError::Unknown`]; [`AccountError::Changed`] when it is confirmed already, or the account is an invitation, whose
    /// link sets the password.
    pub async fn confirm_for(&self, ctx: &Context, id: i32) -> Result<user::Model, AccountError> {
        let now = self.clock.now();
        let transaction = self.database.begin().await?;
        let row = user::Entity::find_by_id(id).lock_exclusive().one(&*transaction).await?;
        let row = row.ok_or(AccountError::Unknown)?;
        if row.confirmed_at.is_some() || is_invited(&row) {
            return Err(AccountError::Changed);
        }
        let row = set_confirmed(&*transaction, &row, Some(now)).await?;
        link::end_one(&*transaction, id, Purpose::Confirm, now).await?;
        let event = Event::new("confirm", "user", id, &row.username).after(json!({ "email": row.email }));
        audit::record(ctx, &*transaction, event).await?;
        if row.active {
            self.tell(&*transaction, "activated", &row, json!({ "name": row.name, "username": row.username })).await?;
        }
        transaction.commit().await?;
        self.logins.forget_all();
        Ok(row)
    }

    /// Puts a mail to a user into the outbox, if mails can go there.
    pub(super) async fn tell(
        &self,
        connection: &impl ConnectionTrait,
        template: &'static str,
        row: &user::Model,
        context: serde_json::Value,
    ) -> Result<(), sea_orm::DbErr> {
        match is_address(&row.email) {
            true => post(connection, &[Note::to_user(template, row, context)], self.clock.now()).await,
            false => Ok(()),
        }
    }

    /// The address of an account is another one now, and links go there: whoever has the old one should know.
    pub(super) async fn tell_old_address(
        &self,
        connection: &impl ConnectionTrait,
        row: &user::Model,
        old: String,
    ) -> Result<(), sea_orm::DbErr> {
        if !is_address(&old) {
            return Ok(());
        }
        let now = self.clock.now();
        let context = json!({ "name": row.name, "username": row.username, "at": now });
        let note = Note { recipient: old, ..Note::to_user("address_changed", row, context) };
        post(connection, &[note], now).await
    }
}

/// A mail to each active administrator: somebody waits.
pub(super) async fn tell_administrators(
    connection: &impl ConnectionTrait,
    row: &user::Model,
    now: chrono::NaiveDateTime,
) -> Result<(), sea_orm::DbErr> {
    let Some(role) = role::Entity::find().filter(role::Column::Name.eq("admin")).one(connection).await? else {
        return Ok(());
    };
    let holders = roles_users::Entity::find()
        .filter(roles_users::Column::RoleId.eq(role.id))
        .find_also_related(user::Entity)
        .all(connection)
        .await?;
    let context = json!({ "name": row.name, "username": row.username, "email": row.email, "id": row.id });
    let notes: Vec<Note> = holders
        .iter()
        .filter_map(|(_, admin)| admin.as_ref())
        .filter(|admin| admin.active && is_address(&admin.email))
        .map(|admin| Note::to_user("waiting", admin, context.clone()))
        .collect();
    post(connection, &notes, now).await
}
