//! Password authentication.

use std::net::IpAddr;

use chrono::NaiveDateTime;
use sea_orm::sea_query::{Expr, ExprTrait, Func};
use sea_orm::{ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, UpdateMany};
use tracing::warn;

use crate::config::SecuritySettings;
use crate::database::{Database, folded, is_unwritable};
use crate::entity::user;

use super::password::Checked;
use super::user::{is_weak, with_permissions};
use super::{AccountError, AccountState, Accounts, Passwords, User};

/// Finds the account with this user name or e-mail address (in any case) and checks the password. Takes the same time
/// whether the account exists or not.
pub(super) async fn authenticate(
    database: &Database,
    passwords: &Passwords,
    rules: &SecuritySettings,
    given: &Given<'_>,
    now: NaiveDateTime,
) -> Result<Outcome, AccountError> {
    match try_once(database, passwords, rules, given, now).await? {
        // A concurrent login of the same account replaced an old hash.
        Outcome::Replaced => try_once(database, passwords, rules, given, now).await,
        outcome => Ok(outcome),
    }
}

/// The credentials of a login.
pub(super) struct Given<'a> {
    pub login: &'a str,
    pub password: &'a str,
    pub address: Option<IpAddr>,
}

/// The result of a login.
pub(super) enum Outcome {
    In(Box<User>),
    /// The password is wrong, or the account must not be disclosed to the caller.
    Out,
    /// The password is right and the address is confirmed, but no administrator has approved the account yet.
    Waiting,
    /// The password was right, but the password or its hash has changed in the meantime.
    Replaced,
}

/// Finds the account by user name or e-mail address, in any case. Imported names may differ in their case only; then
/// the exact match wins.
async fn by_login(connection: &impl ConnectionTrait, login: &str) -> Result<Option<user::Model>, DbErr> {
    // PostgreSQL rejects null characters in comparisons; no name contains one.
    let login = login.trim().replace('\0', "\u{fffd}");
    let lower = login.to_lowercase();
    let same = |column| Expr::expr(Func::lower(Expr::col(column))).is_in(folded(&login));
    let either = Condition::any().add(same(user::Column::Username)).add(same(user::Column::Email));
    let mut found = user::Entity::find().filter(either).order_by_asc(user::Column::Id).all(connection).await?;
    // A user name may look like the address of another user; the user name wins.
    let exact = found.iter().position(|row| row.username == login);
    let place = exact.or_else(|| found.iter().position(|row| row.email.to_lowercase() == lower)).unwrap_or(0);
    Ok((place < found.len()).then(|| found.swap_remove(place)))
}

/// Counts one more login, with its time and IP address.
pub(super) fn counted(
    statement: UpdateMany<user::Entity>,
    row: &user::Model,
    address: Option<String>,
    now: NaiveDateTime,
) -> UpdateMany<user::Entity> {
    statement
        .col_expr(user::Column::LastLoginAt, Expr::value(row.current_login_at))
        .col_expr(user::Column::CurrentLoginAt, Expr::value(now))
        .col_expr(user::Column::LastLoginIp, Expr::value(row.current_login_ip.clone()))
        .col_expr(user::Column::CurrentLoginIp, Expr::value(address))
        .col_expr(user::Column::LoginCount, Expr::value(row.login_count + 1))
}

impl Accounts {
    /// The account that this name or address logs in to.
    pub async fn by_login(&self, login: &str) -> Result<Option<user::Model>, DbErr> {
        by_login(self.database.reader(), login).await
    }
}

/// Stores what a login changes about the account. Returns false if its password has changed in the meantime.
async fn note_login(database: &Database, changes: UpdateMany<user::Entity>) -> Result<bool, DbErr> {
    let transaction = database.begin().await?;
    if changes.exec(&*transaction).await?.rows_affected != 1 {
        return Ok(false);
    }
    transaction.commit().await?;
    Ok(true)
}

async fn try_once(
    database: &Database,
    passwords: &Passwords,
    rules: &SecuritySettings,
    given: &Given<'_>,
    now: NaiveDateTime,
) -> Result<Outcome, AccountError> {
    let (login, password) = (given.login, given.password);
    let found = by_login(database.reader(), login).await?;
    let row = found.as_ref();
    let checked = passwords.check(password, row.map(|row| row.password.as_str())).await;
    let Some(row) = row.filter(|_| checked != Checked::Wrong) else { return Ok(Outcome::Out) };
    match AccountState::of(row) {
        AccountState::Active if row.confirmed_at.is_some() || !rules.confirmable => {}
        // A user who confirmed the address owns the mailbox and may learn the state. Before that, the answer would
        // reveal to a person who registers with another user's address whether it has an account; without confirmations
        // it would always do so.
        AccountState::Waiting if rules.confirmable => return Ok(Outcome::Waiting),
        _ => return Ok(Outcome::Out),
    }
    let is_weak = is_weak(password, &row.username, &row.name, &row.email, rules.password_length);
    let address = given.address.map(|address| address.to_canonical().to_string());
    let mut statement = user::Entity::update_many().col_expr(user::Column::WeakPassword, Expr::value(is_weak));
    // With a second factor, the login is complete only after a valid code.
    if row.second_factor_at.is_none() {
        statement = counted(statement, row, address, now);
    }
    if checked == Checked::RightButOld {
        statement = statement.col_expr(user::Column::Password, Expr::value(passwords.hash(password).await?));
    }
    // Only if the password is unchanged: one that was set in the meantime is not overwritten.
    let same = statement.filter(user::Column::Id.eq(row.id)).filter(user::Column::Password.eq(&row.password));
    match note_login(database, same).await {
        Ok(true) => {}
        Ok(false) => return Ok(Outcome::Replaced),
        // The password is right; only the time of the login is not stored.
        Err(error) if is_unwritable(&error) => warn!(user = %row.username, %error, "recording a login failed"),
        Err(error) => return Err(error.into()),
    }
    Ok(Outcome::In(Box::new(with_permissions(database.reader(), row.clone()).await?)))
}
