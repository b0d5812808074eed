//! Approval of registrations: an administrator activates or declines a pending account, or confirms its address when
//! the confirmation mail does not arrive. The owner is notified by mail of each of these changes.

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
    /// Activates an account and notifies its owner. A declined account can be activated, too.
    ///
    /// # Errors
    /// As [`Accounts::update`].
    pub async fn activate(&self, ctx: &Context, id: i32) -> Result<user::Model, AccountError> {
        self.update(ctx, id, UserChanges { active: Some(true), ..UserChanges::default() }, |_| true).await
    }

    /// Notifies the owner of an account that was inactive and is now active. A helper: the caller owns the transaction.
    pub async fn tell_let_in(
        &self,
        connection: &impl ConnectionTrait,
        was_active: bool,
        row: &user::Model,
    ) -> Result<(), sea_orm::DbErr> {
        // An owner who has not confirmed the address cannot log in yet, and learns of the approval from the
        // confirmation link.
        let is_confirmed = row.confirmed_at.is_some() || !self.rules.security.confirmable;
        if was_active || !row.active || !is_confirmed {
            return Ok(());
        }
        self.tell(connection, "activated", row, json!({ "name": row.name, "username": row.username })).await
    }

    /// Declines a pending account and notifies its owner, with the reason if one is given. The account stays, so that
    /// its history is kept and it can be activated later.
    ///
    /// # Errors
    /// [`AccountError::Unknown`]; [`AccountError::Invalid`] reason; [`AccountError::Changed`] if the account is not
    /// pending.
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

    /// Confirms the address on behalf of an owner whose confirmation mail does not arrive; the links of the account
    /// end. The owner of an account that is already active can now log in and is notified.
    ///
    /// # Errors
    /// [`AccountError::Unknown`]; [`AccountError::Changed`] if the address is already confirmed, or the account is an
    /// invitation, whose link sets the password.
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

    /// Adds a mail to a user to the outbox, if the address can receive mail.
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

    /// Notifies the old address that the account has a new one, to which links are now sent.
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

/// Notifies each active administrator that an account is pending.
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
