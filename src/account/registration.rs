//! Registration and invitation: a user registers, confirms the address by a link, and is approved by an administrator;
//! or is invited.
//!
//! The answer and its timing are the same whether a name or an address is known or not; only the mail reveals it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::{Expr, ExprTrait, Func};
use sea_orm::{ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter, QuerySelect};
use serde_json::json;

use crate::audit::{self, Event};
use crate::context::Context;
use crate::database::folded;
use crate::entity::{role, user};
use crate::mail::link::{self, Purpose};
use crate::mail::{Note, post};

use super::admission::tell_administrators;
use super::password::Checked;
use super::strength::judge;
use super::user::{check_field, check_unique, insert};
use super::{AccountError, Accounts, LoginError, NewUser, Strength};

/// The fields of the registration form.
#[derive(Debug, Clone, Default)]
pub struct Registration {
    pub username: String,
    pub name: String,
    pub email: String,
}

/// A new password, typed twice.
#[derive(Clone, Default)]
pub struct Chosen {
    pub password: String,
    pub again: String,
}

/// Errors of a form, by field.
pub type Problems = BTreeMap<&'static str, String>;

/// Why a form was rejected.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    #[error("the form has errors")]
    Problems(Problems),
    /// The link was used, has expired, or never existed.
    #[error("the link has expired")]
    Link,
    #[error(transparent)]
    Login(#[from] LoginError),
}

impl From<AccountError> for FormError {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::Invalid { field, problem } => Self::Problems(BTreeMap::from([(field, problem)])),
            error => Self::Login(LoginError::Account(error)),
        }
    }
}

impl From<sea_orm::DbErr> for FormError {
    fn from(error: sea_orm::DbErr) -> Self {
        AccountError::Database(error).into()
    }
}

/// As long as the slowest path takes, with a margin: the time of the answer reveals nothing.
const ANSWERED_AFTER: Duration = Duration::from_millis(600);

/// Runs `work`, and takes no less than [`ANSWERED_AFTER`].
async fn evenly<T>(work: impl Future<Output = T>) -> T {
    tokio::join!(work, tokio::time::sleep(ANSWERED_AFTER)).0
}

/// Runs `work` in the background and returns after [`ANSWERED_AFTER`], whether it is done or not: a caller who asks for
/// a mail learns nothing from it, not even how long it takes.
pub(super) async fn apart(work: impl Future<Output = Result<(), sea_orm::DbErr>> + Send + 'static) {
    tokio::spawn(async move {
        if let Err(error) = work.await {
            tracing::error!(%error, "creating a requested e-mail failed");
        }
    });
    tokio::time::sleep(ANSWERED_AFTER).await;
}

impl Accounts {
    /// Estimates the strength of a password for a user with these names and addresses.
    #[must_use]
    pub fn judge(&self, password: &str, own: &[&str]) -> Strength {
        judge(password, own, self.rules.security.password_length)
    }

    pub(super) fn check_chosen(&self, chosen: &Chosen, own: &[&str]) -> Problems {
        let mut problems = Problems::new();
        if let Some(problem) = self.judge(&chosen.password, own).problem {
            problems.insert("password", problem);
        } else if chosen.password != chosen.again {
            problems.insert("again", "does not match the password above".to_owned());
        }
        problems
    }

    /// Creates an inactive account with the role `user` and sends the link that confirms its address. A user who
    /// registers again with the same name and password before it is confirmed corrects the address. If the name or the
    /// address is already taken, the owner of the address is notified by mail, and the caller learns nothing.
    ///
    /// # Errors
    /// [`FormError::Problems`] by field, [`LoginError::TooMany`].
    pub async fn register(
        &self,
        ctx: &Context,
        form: &Registration,
        chosen: &Chosen,
        address: Option<IpAddr>,
    ) -> Result<(), FormError> {
        let mut problems = Problems::new();
        for (field, value) in [("username", &form.username), ("name", &form.name), ("email", &form.email)] {
            if let Err(AccountError::Invalid { field, problem }) = check_field(field, value) {
                problems.insert(field, problem);
            }
        }
        if form.username.contains('@') {
            problems.insert(
                "username",
                "must not contain '@', because e-mail addresses are also used to log \
                in"
                .to_owned(),
            );
        } else if !form.username.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
            // No person reviews the name, so it must not look like the name of another user.
            problems.entry("username").or_insert_with(|| {
                "may only contain the letters a to z, digits and . _ \
                -"
                .to_owned()
            });
        }
        if !crate::mail::is_address(&form.email) {
            problems.entry("email").or_insert_with(|| "is not a valid e-mail address".to_owned());
        }
        problems.extend(self.check_chosen(chosen, &[&form.username, &form.name, &form.email]));
        if !problems.is_empty() {
            return Err(FormError::Problems(problems));
        }
        self.limits.ask(&form.email, address)?;
        evenly(self.register_now(ctx, form, chosen, address)).await
    }

    async fn register_now(
        &self,
        ctx: &Context,
        form: &Registration,
        chosen: &Chosen,
        address: Option<IpAddr>,
    ) -> Result<(), FormError> {
        let hash = self.passwords.hash(&chosen.password).await.map_err(AccountError::from)?;
        let now = self.clock.now();
        let transaction = self.database.begin().await?;
        // If an administrator has deleted the role, new accounts have none.
        let role = role::Entity::find().filter(role::Column::Name.eq("user")).one(&*transaction).await?;
        let new = NewUser {
            username: form.username.clone(),
            name: form.name.clone(),
            email: form.email.clone(),
            password: String::new(),
            active: false,
            roles: role.into_iter().map(|role| role.name).collect(),
            cohorts: BTreeSet::new(),
        };
        let made = match check_unique(&*transaction, None, &new.username, &new.email).await {
            Ok(()) => insert(ctx, &*transaction, &new, (hash, false), now).await,
            Err(error) => Err(error),
        };
        match made {
            Ok(row) => {
                if self.rules.security.confirmable {
                    set_confirmed(&*transaction, &row, None).await?;
                    let note = Note::to_user("confirm", &row, json!({ "name": row.name, "username": row.username }));
                    post(&*transaction, &[note], now).await?;
                } else {
                    tell_administrators(&*transaction, &row, now).await?;
                }
                transaction.commit().await?;
                Ok(())
            }
            Err(AccountError::Exists) => {
                drop(transaction);
                match self.correct_address(ctx, form, chosen, address).await? {
                    true => Ok(()),
                    false => self.tell_owner(form).await,
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The name or the address is taken: the mail tells the owner of the mailbox which one.
    async fn tell_owner(&self, form: &Registration) -> Result<(), FormError> {
        let now = self.clock.now();
        let owner = self.by_email(&form.email).await?;
        let note = match &owner {
            Some(owner) => Note::to_user("known", owner, json!({ "name": owner.name, "username": owner.username })),
            None => Note {
                template: "name_taken",
                recipient: form.email.trim().to_owned(),
                user_id: None,
                mailing_id: None,
                context: json!({ "name": form.name, "username": form.username }),
            },
        };
        let transaction = self.database.begin().await?;
        post(&*transaction, &[note], now).await?;
        transaction.commit().await?;
        Ok(())
    }

    pub(super) async fn by_email(&self, email: &str) -> Result<Option<user::Model>, sea_orm::DbErr> {
        let same = Expr::expr(Func::lower(Expr::col(user::Column::Email))).is_in(folded(email));
        user::Entity::find().filter(same).one(self.database.reader()).await
    }

    /// Sends the confirmation link again, if the address is unconfirmed.
    ///
    /// # Errors
    /// [`LoginError::TooMany`].
    pub async fn send_confirmation(&self, email: &str, address: Option<IpAddr>) -> Result<(), LoginError> {
        self.limits.ask(email, address)?;
        let (accounts, email) = (self.clone(), email.to_owned());
        let work = async move {
            let found = accounts.by_email(&email).await?;
            let Some(row) = found.filter(|row| row.confirmed_at.is_none() && !is_invited(row)) else { return Ok(()) };
            let note = Note::to_user("confirm", &row, json!({ "name": row.name, "username": row.username }));
            let transaction = accounts.database.begin().await?;
            post(&*transaction, &[note], accounts.clock.now()).await?;
            transaction.commit().await
        };
        apart(work).await;
        Ok(())
    }

    /// The owner of a valid link.
    pub async fn link_owner(&self, secret: &str, purpose: Purpose) -> Result<Option<user::Model>, sea_orm::DbErr> {
        let connection = self.database.reader();
        let Some(found) = link::find(connection, secret, purpose, self.clock.now()).await? else { return Ok(None) };
        let row = user::Entity::find_by_id(found.user_id).one(connection).await?;
        Ok(row.filter(|row| is_for(row, &found.email, purpose)))
    }

    /// Confirms the address by its link and the password. The password is required because a person could register the
    /// address of a colleague, who expects a mail like this, with a password of their own. Returns the account; the
    /// administrators are notified if it must be activated.
    ///
    /// # Errors
    /// [`FormError::Link`], [`FormError::Problems`] with the field `password`, [`LoginError::TooMany`].
    pub async fn confirm(
        &self,
        ctx: &Context,
        secret: &str,
        password: &str,
        address: Option<IpAddr>,
    ) -> Result<user::Model, FormError> {
        let owner = self.link_owner(secret, Purpose::Confirm).await?.ok_or(FormError::Link)?;
        let causes = self.logins.tries.causes(&owner.username, address);
        self.logins.tries.try_one(&causes)?;
        if self.passwords.check(password, Some(&owner.password)).await == Checked::Wrong {
            let problem = "does not match the password chosen for this account".to_owned();
            return Err(FormError::Problems(Problems::from([("password", problem)])));
        }
        self.logins.tries.take_back(&causes);
        let now = self.clock.now();
        let transaction = self.database.begin().await?;
        let row = redeem(&*transaction, owner.id, secret, Purpose::Confirm, now).await?;
        let row = set_confirmed(&*transaction, &row, Some(now)).await?;
        let event = Event::new("confirm", "user", row.id, &row.username).after(json!({ "email": row.email }));
        audit::record(&ctx.in_name_of(row.id, &row.username), &*transaction, event).await?;
        if !row.active {
            tell_administrators(&*transaction, &row, now).await?;
        }
        transaction.commit().await?;
        self.logins.forget_all();
        Ok(row)
    }

    /// Creates an active account without a password and sends the link by which its owner sets one.
    ///
    /// # Errors
    /// As [`Accounts::create`].
    pub async fn invite(
        &self,
        ctx: &Context,
        form: &Registration,
        roles: Vec<String>,
        cohorts: BTreeSet<i32>,
        by: &str,
    ) -> Result<user::Model, AccountError> {
        if !crate::mail::is_address(&form.email) {
            let problem = "is not a valid e-mail address".to_owned();
            return Err(AccountError::Invalid { field: "email", problem });
        }
        let new = NewUser {
            username: form.username.clone(),
            name: form.name.clone(),
            email: form.email.clone(),
            // No password has this hash.
            password: "!".to_owned(),
            active: true,
            roles,
            cohorts,
        };
        super::user::check(&new)?;
        let now = self.clock.now();
        let transaction = self.database.begin().await?;
        let row = insert(ctx, &*transaction, &new, (new.password.clone(), false), now).await?;
        let row = set_confirmed(&*transaction, &row, None).await?;
        let context = json!({ "name": row.name, "username": row.username, "by": by });
        post(&*transaction, &[Note::to_user("invite", &row, context)], now).await?;
        let event = Event::new("invite", "user", row.id, &row.username).after(json!({ "email": row.email }));
        audit::record(ctx, &*transaction, event).await?;
        transaction.commit().await?;
        Ok(row)
    }

    /// Sends an invitation again.
    ///
    /// # Errors
    /// [`AccountError::Unknown`] if there is no invited account with this id that has not set a password yet.
    pub async fn invite_again(&self, ctx: &Context, id: i32, by: &str) -> Result<(), AccountError> {
        let row = user::Entity::find_by_id(id).one(self.database.reader()).await?;
        let row = row.filter(is_invited).ok_or(AccountError::Unknown)?;
        let context = json!({ "name": row.name, "username": row.username, "by": by });
        let transaction = self.database.begin().await?;
        post(&*transaction, &[Note::to_user("invite", &row, context)], self.clock.now()).await?;
        let event = Event::new("invite", "user", id, &row.username).after(json!({ "email": row.email }));
        audit::record(ctx, &*transaction, event).await?;
        transaction.commit().await?;
        Ok(())
    }
}

/// Whether the account was invited and has not set a password yet.
#[must_use]
pub fn is_invited(row: &user::Model) -> bool {
    row.password == "!"
}

/// Redeems a link of `owner` and returns the account, if its address is unchanged.
pub(super) async fn redeem(
    connection: &impl ConnectionTrait,
    owner: i32,
    secret: &str,
    purpose: Purpose,
    now: chrono::NaiveDateTime,
) -> Result<user::Model, FormError> {
    // The account is locked first, as everywhere that locks more of it.
    let row = user::Entity::find_by_id(owner).lock_exclusive().one(connection).await?;
    let found = link::redeem(connection, secret, purpose, now).await?.filter(|found| found.user_id == owner);
    let found = found.ok_or(FormError::Link)?;
    row.filter(|row| is_for(row, &found.email, purpose)).ok_or(FormError::Link)
}

/// Whether a link that was sent to this address still belongs to this account: the address is the same, and an invited
/// user has not set a password in another way.
fn is_for(row: &user::Model, email: &str, purpose: Purpose) -> bool {
    row.email.eq_ignore_ascii_case(email) && (purpose != Purpose::Invite || is_invited(row))
}

pub(super) async fn set_confirmed(
    connection: &impl ConnectionTrait,
    row: &user::Model,
    at: Option<chrono::NaiveDateTime>,
) -> Result<user::Model, sea_orm::DbErr> {
    let mut changed = row.clone().into_active_model();
    changed.confirmed_at = Set(at);
    changed.update(connection).await
}
