//! Setting a new password: by a link in a mail, or with the old password.

use std::net::IpAddr;

use sea_orm::ActiveValue::Set;
use sea_orm::{ActiveModelTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QuerySelect};
use serde_json::json;
use uuid::Uuid;

use crate::audit::{self, Event};
use crate::context::Context;
use crate::entity::user;
use crate::mail::link::Purpose;
use crate::mail::{Note, post};

use super::admission::tell_administrators;
use super::password::Checked;
use super::registration::{Chosen, FormError, Problems, apart, redeem};
use super::{AccountError, Accounts, LoginError, User, end_access};

/// Whether a link for a new password may be sent: not for deactivated or declined accounts, and not to addresses that
/// cannot receive mail.
#[must_use]
pub fn may_recover(row: &user::Model) -> bool {
    let is_open = row.active || (row.login_count == 0 && row.declined_at.is_none());
    is_open && crate::mail::is_address(&row.email)
}

impl Accounts {
    /// Sends a link to set a new password to this address, if it is that of an active or a pending account.
    ///
    /// # Errors
    /// [`LoginError::TooMany`].
    pub async fn send_recovery(&self, email: &str, address: Option<IpAddr>) -> Result<(), LoginError> {
        self.limits.ask(email, address)?;
        let (accounts, email) = (self.clone(), email.to_owned());
        let work = async move {
            let Some(row) = accounts.by_email(&email).await?.filter(may_recover) else { return Ok(()) };
            let note = Note::to_user("reset", &row, json!({ "name": row.name, "username": row.username }));
            let transaction = accounts.database.begin().await?;
            post(&*transaction, &[note], accounts.clock.now()).await?;
            transaction.commit().await
        };
        apart(work).await;
        Ok(())
    }

    /// The same at the request of an administrator, whose name is `by`.
    ///
    /// # Errors
    /// [`AccountError::Unknown`]; [`AccountError::Changed`] if the account is not open, or has no address.
    pub async fn send_recovery_to(&self, ctx: &Context, id: i32, by: &str) -> Result<(), AccountError> {
        let row = user::Entity::find_by_id(id).one(self.database.reader()).await?.ok_or(AccountError::Unknown)?;
        if !may_recover(&row) {
            return Err(AccountError::Changed);
        }
        let transaction = self.database.begin().await?;
        let context = json!({ "name": row.name, "username": row.username, "by": by });
        self.tell(&*transaction, "reset", &row, context).await?;
        let event = Event::new("send", "user", id, &row.username).after(json!({ "mail": "password reset link" }));
        audit::record(ctx, &*transaction, event).await?;
        Ok(transaction.commit().await?)
    }

    /// Sets the password of the user who has the link of a recovery or an invitation. All sessions and tokens end.
    ///
    /// # Errors
    /// [`FormError::Link`], [`FormError::Problems`] by field; the link stays valid for another attempt then.
    pub async fn set_by_link(
        &self,
        ctx: &Context,
        secret: &str,
        purpose: Purpose,
        chosen: &Chosen,
    ) -> Result<user::Model, FormError> {
        let owner = self.link_owner(secret, purpose).await?.ok_or(FormError::Link)?;
        let problems = self.check_chosen(chosen, &[&owner.username, &owner.name, &owner.email]);
        if !problems.is_empty() {
            return Err(FormError::Problems(problems));
        }
        let hash = self.passwords.hash(&chosen.password).await.map_err(AccountError::from)?;
        let now = self.clock.now();
        let transaction = self.database.begin().await?;
        let row = redeem(&*transaction, owner.id, secret, purpose, now).await?;
        let ctx = &ctx.in_name_of(row.id, &row.username);
        let row = self.replace_password(ctx, &*transaction, row, hash).await?;
        let is_first = row.confirmed_at.is_none();
        if is_first {
            let event = Event::new("confirm", "user", row.id, &row.username).after(json!({ "email": row.email }));
            audit::record(ctx, &*transaction, event).await?;
        }
        let mut changed = row.clone().into_active_model();
        // The user who has the link owns the mailbox.
        changed.confirmed_at = Set(Some(row.confirmed_at.unwrap_or(now)));
        let row = changed.update(&*transaction).await?;
        if is_first && !row.active {
            tell_administrators(&*transaction, &row, now).await?;
        }
        if purpose == Purpose::Reset {
            self.tell_of_change(&*transaction, &row).await?;
        }
        transaction.commit().await?;
        self.logins.forget_all();
        Ok(row)
    }

    /// The account of a user who enters the password again, for a change that outlives the session: an open browser
    /// alone must not be enough. `field` is the name of the form field.
    ///
    /// # Errors
    /// [`FormError::Problems`] with the field, [`LoginError::TooMany`] after many wrong ones.
    pub async fn ask_password_again(
        &self,
        user: &User,
        field: &'static str,
        password: &str,
        address: Option<IpAddr>,
    ) -> Result<user::Model, FormError> {
        let problem = |text: &str| FormError::Problems(Problems::from([(field, text.to_owned())]));
        if password.is_empty() {
            return Err(problem("is missing; enter the password of this account"));
        }
        let causes = self.logins.tries.causes(&user.username, address);
        self.logins.tries.try_one(&causes)?;
        let row = user::Entity::find_by_id(user.id).one(self.database.reader()).await?.ok_or(AccountError::Unknown)?;
        if self.passwords.check(password, Some(&row.password)).await == Checked::Wrong {
            return Err(problem("is not the password of this account"));
        }
        self.logins.tries.take_back(&causes);
        Ok(row)
    }

    /// Changes the user's own password, given the old one. All sessions and tokens end; the caller begins a new
    /// session.
    ///
    /// # Errors
    /// [`FormError::Problems`] by field, [`LoginError::TooMany`] after many wrong ones.
    pub async fn change_password(
        &self,
        ctx: &Context,
        user: &User,
        current: &str,
        chosen: &Chosen,
        address: Option<IpAddr>,
    ) -> Result<User, FormError> {
        let row = self.ask_password_again(user, "current", current, address).await?;
        let problems = self.check_chosen(chosen, &[&row.username, &row.name, &row.email]);
        if !problems.is_empty() {
            return Err(FormError::Problems(problems));
        }
        let hash = self.passwords.hash(&chosen.password).await.map_err(AccountError::from)?;
        let transaction = self.database.begin().await?;
        let locked = user::Entity::find_by_id(user.id).lock_exclusive().one(&*transaction).await?;
        // A concurrent change was first: the old password is no longer the right one.
        let locked = locked.filter(|locked| locked.password == row.password).ok_or(AccountError::Changed)?;
        let row = self.replace_password(ctx, &*transaction, locked, hash).await?;
        self.tell_of_change(&*transaction, &row).await?;
        transaction.commit().await?;
        self.logins.forget_all();
        Ok(self.find(row.id).await?.ok_or(AccountError::Unknown)?)
    }

    async fn replace_password(
        &self,
        ctx: &Context,
        connection: &impl ConnectionTrait,
        row: user::Model,
        hash: String,
    ) -> Result<user::Model, sea_orm::DbErr> {
        let now = self.clock.now();
        let id = row.id;
        let mut changed = row.into_active_model();
        changed.password = Set(hash);
        changed.weak_password = Set(false);
        changed.fs_uniquifier = Set(Uuid::new_v4().simple().to_string());
        changed.update_datetime = Set(Some(now));
        let row = changed.update(connection).await?;
        end_access(ctx, connection, id, now).await?;
        let event = Event::new("update", "user", id, &row.username).after(json!({ "password": "changed" }));
        audit::record(ctx, connection, event).await?;
        Ok(row)
    }

    async fn tell_of_change(&self, connection: &impl ConnectionTrait, row: &user::Model) -> Result<(), sea_orm::DbErr> {
        let context = json!({ "name": row.name, "username": row.username, "at": self.clock.now() });
        self.tell(connection, "password_changed", row, context).await
    }
}
