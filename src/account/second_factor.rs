//! Second factor: codes of an authenticator app (TOTP, RFC 6238), and recovery codes for users who have lost it.
//!
//! The database alone does not suffice to compute a code: the app's secret is derived from `SECRET_KEY` and a value of
//! the account, and the recovery codes are stored as keyed hashes.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use rand::RngExt;
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, IntoActiveModel, QueryFilter, QuerySelect,
};
use serde_json::json;
use sha2::{Digest, Sha256};
use totp_rs::{Builder, Secret, Totp};
use tracing::warn;
use uuid::Uuid;

use crate::audit::{self, Event};
use crate::context::Context;
use crate::database::is_unwritable;
use crate::entity::{recovery_code, user};

use super::registration::{FormError, Problems};
use super::{AccountError, Accounts, LoginError};

/// Number of recovery codes of a user.
const CODES: usize = 10;

/// The data that an authenticator app needs.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// Identifies this secret, and reveals nothing of it.
    pub nonce: String,
    /// In base 32, for typing.
    pub secret: String,
    /// `otpauth://…`, for a QR code.
    pub url: String,
}

impl Accounts {
    /// The data for the app: the secret that was shown (`told`) before in the same place, while it is valid; otherwise
    /// a new one, so that a secret that another person has seen is useless.
    ///
    /// # Errors
    /// [`AccountError::Unknown`], [`AccountError::Changed`] if there already is a second factor.
    pub async fn begin_second_factor(
        &self,
        id: i32,
        issuer: &str,
        told: Option<&str>,
    ) -> Result<Enrolment, AccountError> {
        let transaction = self.database.begin().await?;
        let row = locked(&*transaction, id).await?;
        if row.second_factor_at.is_some() {
            return Err(AccountError::Changed);
        }
        let row = match row.tf_totp_secret {
            Some(ref nonce) if told == Some(nonce.as_str()) => row,
            _ => {
                let mut changed = row.into_active_model();
                changed.tf_totp_secret = Set(Some(Uuid::new_v4().simple().to_string()));
                changed.update(&*transaction).await?
            }
        };
        transaction.commit().await?;
        let secret = Secret::from(self.app_secret(&row)).to_base32();
        let encoded = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        // A space must be %20 here, not a plus.
        let issuer = encoded(issuer).replace('+', "%20");
        let account = encoded(&row.username).replace('+', "%20");
        let url = format!("otpauth://totp/{issuer}:{account}?secret={secret}&issuer={issuer}");
        Ok(Enrolment { nonce: row.tf_totp_secret.unwrap_or_default(), secret, url })
    }

    /// Confirms the first code of the app: from now on each login requires one. Returns the recovery codes, which are
    /// not stored in readable form.
    ///
    /// # Errors
    /// [`FormError::Problems`] with the field `code`, [`LoginError::TooMany`].
    pub async fn confirm_second_factor(
        &self,
        ctx: &Context,
        id: i32,
        code: &str,
        address: Option<IpAddr>,
    ) -> Result<Vec<String>, FormError> {
        let row = self.row(id).await?;
        if row.second_factor_at.is_some() || row.tf_totp_secret.is_none() {
            return Err(AccountError::Changed.into());
        }
        let causes = self.logins.tries.causes(&format!("code of {}", row.username), address);
        self.logins.tries.try_one(&causes)?;
        self.limits.try_code(id)?;
        if !self.use_app_code(&row, code).await? {
            let problem = "does not match; check that your phone's clock is correct".to_owned();
            return Err(FormError::Problems(Problems::from([("code", problem)])));
        }
        self.logins.tries.take_back(&causes);
        let now = self.clock.now();
        let transaction = self.database.begin().await?;
        let shown = row.tf_totp_secret;
        let row = locked(&*transaction, id).await?;
        // Another page was first and shows the valid codes; or another session has requested another secret in the
        // meantime, and the code belongs to this one.
        if row.second_factor_at.is_some() || row.tf_totp_secret != shown {
            return Err(AccountError::Changed.into());
        }
        let codes = self.replace_codes(&*transaction, id).await?;
        let mut changed = row.into_active_model();
        changed.second_factor_at = Set(Some(now));
        let row = changed.update(&*transaction).await?;
        let event = Event::new("update", "user", id, &row.username).after(json!({ "second_factor": true }));
        audit::record(ctx, &*transaction, event).await?;
        self.tell_of_factor(&*transaction, &row, true, None).await?;
        transaction.commit().await?;
        self.logins.forget_all();
        Ok(codes)
    }

    /// Whether this is an unused code of the app, or one of the recovery codes, which is consumed.
    ///
    /// # Errors
    /// [`LoginError::TooMany`] after many wrong ones.
    pub async fn check_code(
        &self,
        ctx: &Context,
        id: i32,
        code: &str,
        address: Option<IpAddr>,
    ) -> Result<bool, LoginError> {
        let row = self.row(id).await?;
        let causes = self.logins.tries.causes(&format!("code of {}", row.username), address);
        self.logins.tries.try_one(&causes)?;
        self.limits.try_code(id)?;
        let plain: String = code.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
        let is_right = self.use_app_code(&row, &plain).await?
            || self.use_recovery_code(ctx, &row, &plain).await.map_err(AccountError::from)?;
        if is_right {
            self.logins.tries.take_back(&causes);
        } else if self.limits.is_alarming(id) {
            match self.tell_of_wrong_codes(&row, address).await {
                Err(error) if is_unwritable(&error) => {
                    warn!(%error, "warning the account owner of wrong codes failed");
                }
                outcome => outcome.map_err(AccountError::from)?,
            }
        }
        Ok(is_right)
    }

    /// A person who is asked for a code has entered the right password, so the owner should know if it is another
    /// person.
    async fn tell_of_wrong_codes(&self, row: &user::Model, address: Option<IpAddr>) -> Result<(), DbErr> {
        let address = address.map(|address| address.to_canonical().to_string());
        let context = json!({ "name": row.name, "username": row.username, "at": self.clock.now(), "address": address });
        let transaction = self.database.begin().await?;
        self.tell(&*transaction, "wrong_codes", row, context).await?;
        transaction.commit().await
    }

    /// Creates new recovery codes and invalidates the old ones.
    ///
    /// # Errors
    /// [`AccountError::Unknown`].
    pub async fn new_recovery_codes(&self, ctx: &Context, id: i32) -> Result<Vec<String>, AccountError> {
        let row = self.row(id).await?;
        let transaction = self.database.begin().await?;
        let codes = self.replace_codes(&*transaction, id).await?;
        let event = Event::new("update", "user", id, &row.username).after(json!({ "recovery_codes": "new" }));
        audit::record(ctx, &*transaction, event).await?;
        transaction.commit().await?;
        Ok(codes)
    }

    /// Removes a second factor: the user's own, or a lost one, by the administrator `by`. The user is notified by mail.
    ///
    /// # Errors
    /// [`AccountError::Unknown`].
    pub async fn end_second_factor(&self, ctx: &Context, id: i32, by: Option<&str>) -> Result<(), AccountError> {
        let row = self.row(id).await?;
        if row.second_factor_at.is_none() {
            return Ok(());
        }
        let transaction = self.database.begin().await?;
        recovery_code::Entity::delete_many().filter(recovery_code::Column::UserId.eq(id)).exec(&*transaction).await?;
        let mut changed = row.into_active_model();
        changed.second_factor_at = Set(None);
        changed.tf_totp_secret = Set(None);
        let row = changed.update(&*transaction).await?;
        let event = Event::new("update", "user", id, &row.username).after(json!({ "second_factor": false }));
        audit::record(ctx, &*transaction, event).await?;
        self.tell_of_factor(&*transaction, &row, false, by).await?;
        transaction.commit().await?;
        self.logins.forget_all();
        Ok(())
    }

    /// Number of unused recovery codes of a user.
    pub async fn recovery_codes_left(&self, id: i32) -> Result<usize, DbErr> {
        let unused = recovery_code::Entity::find().filter(recovery_code::Column::UserId.eq(id));
        let unused = unused.filter(recovery_code::Column::UsedAt.is_null());
        Ok(unused.all(self.database.reader()).await?.len())
    }

    async fn row(&self, id: i32) -> Result<user::Model, AccountError> {
        user::Entity::find_by_id(id).one(self.database.reader()).await?.ok_or(AccountError::Unknown)
    }

    fn keyed(&self, parts: &[&str]) -> Vec<u8> {
        // A key of HMAC may have any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.rules.secret_key.as_bytes()) else { return Vec::new() };
        for part in parts {
            mac.update(&Sha256::digest(part.as_bytes()));
        }
        mac.finalize().into_bytes().to_vec()
    }

    fn app_secret(&self, row: &user::Model) -> Vec<u8> {
        let kept = row.tf_totp_secret.as_deref().unwrap_or_default();
        let mut secret = self.keyed(&["authenticator app", &row.id.to_string(), kept]);
        // As long as the hash of TOTP, a length that all apps accept.
        secret.truncate(20);
        secret
    }

    fn totp(&self, row: &user::Model) -> Option<Totp> {
        row.tf_totp_secret.as_ref()?;
        Builder::new().with_secret(self.app_secret(row)).build().ok()
    }

    /// Whether this is the current code of the app (or the one 30 s before or after), of a later time step than the
    /// last one that was used.
    async fn use_app_code(&self, row: &user::Model, code: &str) -> Result<bool, AccountError> {
        let code: String = code.chars().filter(char::is_ascii_digit).collect();
        // The phone follows the real time, not the clock of the study.
        let time = u64::try_from(self.clock.machine().and_utc().timestamp()).unwrap_or_default();
        let step = self.totp(row).and_then(|totp| totp.check(&code, time));
        let Some(step) = step.and_then(|step| i32::try_from(step).ok()) else { return Ok(false) };
        if !self.limits.is_new_step(row.id, step) {
            return Ok(false);
        }
        let is_used_now = match self.note_step(row.id, step).await {
            // The process remembers that the code was used.
            Err(error) if is_unwritable(&error) => row.last_code_step < step,
            outcome => outcome?,
        };
        // Of several requests with one code, only one gets here.
        Ok(is_used_now && self.limits.use_step(row.id, step))
    }

    /// Stores the time step of a code that is used. Returns false if a code of this step or a later one was used
    /// before.
    async fn note_step(&self, user_id: i32, step: i32) -> Result<bool, DbErr> {
        let transaction = self.database.begin().await?;
        let used = user::Entity::update_many()
            .col_expr(user::Column::LastCodeStep, Expr::value(step))
            .filter(user::Column::Id.eq(user_id))
            .filter(user::Column::LastCodeStep.lt(step))
            .exec(&*transaction)
            .await?;
        transaction.commit().await?;
        Ok(used.rows_affected == 1)
    }

    async fn use_recovery_code(&self, ctx: &Context, row: &user::Model, code: &str) -> Result<bool, DbErr> {
        let transaction = self.database.begin().await?;
        let used = recovery_code::Entity::update_many()
            .col_expr(recovery_code::Column::UsedAt, Expr::value(self.clock.now()))
            .filter(recovery_code::Column::UserId.eq(row.id))
            .filter(recovery_code::Column::CodeHash.eq(self.code_hash(row.id, code)))
            .filter(recovery_code::Column::UsedAt.is_null())
            .exec(&*transaction)
            .await?;
        if used.rows_affected == 1 {
            let event = Event::new("update", "user", row.id, &row.username).after(json!({ "recovery_code": "used" }));
            // During a login the request is not authenticated yet.
            audit::record(&ctx.in_name_of(row.id, &row.username), &*transaction, event).await?;
        }
        transaction.commit().await?;
        Ok(used.rows_affected == 1)
    }

    fn code_hash(&self, id: i32, code: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.keyed(&["recovery code", &id.to_string(), code]))
    }

    async fn replace_codes(&self, connection: &impl ConnectionTrait, id: i32) -> Result<Vec<String>, DbErr> {
        recovery_code::Entity::delete_many().filter(recovery_code::Column::UserId.eq(id)).exec(connection).await?;
        let codes: Vec<String> = std::iter::repeat_with(random_code).take(CODES).collect();
        let rows = codes.iter().map(|code| recovery_code::ActiveModel {
            id: NotSet,
            user_id: Set(id),
            code_hash: Set(self.code_hash(id, &code.replace('-', ""))),
            used_at: Set(None),
        });
        recovery_code::Entity::insert_many(rows).exec_without_returning(connection).await?;
        Ok(codes)
    }

    async fn tell_of_factor(
        &self,
        connection: &impl ConnectionTrait,
        row: &user::Model,
        is_on: bool,
        by: Option<&str>,
    ) -> Result<(), DbErr> {
        let context =
            json!({ "name": row.name, "username": row.username, "at": self.clock.now(), "is_on": is_on, "by": by });
        self.tell(connection, "second_factor", row, context).await
    }
}

/// The account, locked until the end of the transaction.
async fn locked(connection: &impl ConnectionTrait, id: i32) -> Result<user::Model, AccountError> {
    let row = user::Entity::find_by_id(id).lock_exclusive().one(connection).await?;
    row.ok_or(AccountError::Unknown)
}

/// `k7m2x-9fq4w`: 49 bits, without characters that look alike.
fn random_code() -> String {
    const SIGNS: &[u8] = b"abcdefghjkmnpqrstuvwxyz23456789";
    let mut random = rand::rng();
    let mut sign = || char::from(SIGNS[random.random_range(0..SIGNS.len())]);
    let half: String = std::iter::repeat_with(&mut sign).take(5).collect();
    let other: String = std::iter::repeat_with(&mut sign).take(5).collect();
    format!("{half}-{other}")
}
