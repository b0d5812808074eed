//! Re-registration with a corrected e-mail address.

use std::net::IpAddr;

use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::{Expr, ExprTrait, Func};
use sea_orm::{ActiveModelTrait, EntityTrait, IntoActiveModel, QueryFilter, QuerySelect};
use serde_json::json;

use crate::audit::{self, Event};
use crate::context::Context;
use crate::database::folded;
use crate::entity::user;
use crate::mail::link;
use crate::mail::{Note, post};

use super::manage::shown;
use super::password::Checked;
use super::registration::{Chosen, FormError, Registration, is_invited};
use super::user::check_unique;
use super::{AccountError, Accounts};

impl Accounts {
    /// If the name is that of an unconfirmed registration and the password matches, the same person registers again
    /// because the mail did not arrive. The account gets the new address, and a link is sent to it. Returns whether
    /// this was the case.
    pub(super) async fn correct_address(
        &self,
        ctx: &Context,
        form: &Registration,
        chosen: &Chosen,
        address: Option<IpAddr>,
    ) -> Result<bool, FormError> {
        let lower = Expr::expr(Func::lower(Expr::col(user::Column::Username)));
        let same = user::Entity::find().filter(lower.is_in(folded(&form.username)));
        let Some(found) = same.one(self.database.reader()).await?.filter(is_astray) else { return Ok(false) };
        // Counted like a login, so that the page does not allow more guesses at passwords.
        let causes = self.logins.tries.causes(&found.username, address);
        if self.logins.tries.try_one(&causes).is_err()
            || self.passwords.check(&chosen.password, Some(&found.password)).await == Checked::Wrong
        {
            return Ok(false);
        }
        self.logins.tries.take_back(&causes);
        let now = self.clock.now();
        let transaction = self.database.begin().await?;
        let row = user::Entity::find_by_id(found.id).lock_exclusive().one(&*transaction).await?;
        // The account may have been confirmed, or its password changed, in the meantime.
        let Some(row) = row.filter(|row| is_astray(row) && row.password == found.password) else { return Ok(false) };
        let is_free = match check_unique(&*transaction, Some(row.id), &row.username, &form.email).await {
            Ok(()) => true,
            Err(AccountError::Exists) => false,
            Err(error) => return Err(error.into()),
        };
        // If the new address is already taken, the old one is dropped anyway: whether it still receives mails would
        // reveal that.
        let email = if is_free { form.email.trim().to_owned() } else { format!("{}@astray.invalid", row.id) };
        link::end_all(&*transaction, row.id, now).await?;
        let before = shown(&row);
        let mut changed = row.into_active_model();
        changed.email = Set(email);
        changed.name = Set(form.name.trim().to_owned());
        changed.update_datetime = Set(Some(now));
        let row = changed.update(&*transaction).await?;
        if is_free {
            let note = Note::to_user("confirm", &row, json!({ "name": row.name, "username": row.username }));
            post(&*transaction, &[note], now).await?;
        }
        let event = Event::new("update", "user", row.id, &row.username).changed(&before, &shown(&row));
        audit::record(ctx, &*transaction, event.because("registration repeated with another address")).await?;
        transaction.commit().await?;
        Ok(is_free)
    }
}

/// Whether this is a registration whose address is unconfirmed and which no administrator has approved or declined.
fn is_astray(row: &user::Model) -> bool {
    !row.active && row.confirmed_at.is_none() && row.login_count == 0 && row.declined_at.is_none() && !is_invited(row)
}
