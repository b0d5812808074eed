//! Queries for the account and role lists.

use std::collections::{BTreeMap, BTreeSet};

use sea_orm::sea_query::{Expr, ExprTrait, Func, SimpleExpr};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, Order, PaginatorTrait, QueryFilter, QueryOrder,
    QuerySelect, QueryTrait,
};

use crate::database::contains;
use crate::entity::{role, roles_users, user};

use super::{Accounts, RoleRecord, User};

/// Filter of the account list.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Part of the name, the user name or the address, in any case.
    pub text: String,
    pub role: Option<i32>,
    pub state: Option<AccountState>,
}

/// The state of an account, as lists show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountState {
    Active,
    /// Registered and confirmed, but neither activated nor declined, and never logged in.
    Waiting,
    /// Deactivated, declined, or the address is not confirmed.
    Inactive,
}

impl AccountState {
    /// The state of this account.
    #[must_use]
    pub fn of(row: &user::Model) -> Self {
        match row.active {
            true => Self::Active,
            false if row.login_count == 0 && row.confirmed_at.is_some() && row.declined_at.is_none() => Self::Waiting,
            false => Self::Inactive,
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Waiting => "waiting",
            Self::Inactive => "inactive",
        }
    }

    /// The state with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Active, Self::Waiting, Self::Inactive].into_iter().find(|one| one.name() == name)
    }

    fn condition(self) -> Condition {
        let active = user::Column::Active.eq(self == Self::Active);
        match self {
            Self::Active => Condition::all().add(active),
            Self::Waiting => {
                let confirmed = user::Column::ConfirmedAt.is_not_null();
                let open = Condition::all().add(confirmed).add(user::Column::DeclinedAt.is_null());
                Condition::all().add(active).add(user::Column::LoginCount.eq(0)).add(open)
            }
            Self::Inactive => {
                let not_waiting = Condition::any()
                    .add(user::Column::LoginCount.gt(0))
                    .add(user::Column::ConfirmedAt.is_null())
                    .add(user::Column::DeclinedAt.is_not_null());
                Condition::all().add(active).add(not_waiting)
            }
        }
    }
}

/// The position of an account in the list, by the columns that order it. A page begins after or before a position, so
/// that no account is missing or repeated while others are created. An account that is activated in the meantime may
/// appear again at its new position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountKey {
    pub waits: bool,
    pub username: String,
    pub id: i32,
}

impl AccountKey {
    /// The position of this account.
    #[must_use]
    pub fn of(row: &user::Model) -> Self {
        Self { waits: AccountState::of(row) == AccountState::Waiting, username: row.username.clone(), id: row.id }
    }

    /// Parses the key as [`std::fmt::Display`] writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        let waits = parts.next()?.parse::<u8>().ok().filter(|waits| *waits < 2)? == 1;
        let id = parts.next()?.parse().ok()?;
        let username = parts.next().filter(|name| !name.contains('\0') && name.chars().count() <= 64)?.to_owned();
        Some(Self { waits, username, id })
    }

    /// The condition for accounts after this position, or before it.
    fn beyond(&self, is_after: bool) -> Condition {
        let beyond = |column: SimpleExpr, value: SimpleExpr| match is_after {
            true => column.gt(value),
            false => column.lt(value),
        };
        let name = Expr::from(Func::lower(Expr::value(self.username.clone())));
        let group = Expr::value(i32::from(!self.waits));
        let same_name = Condition::all().add(lower_name().eq(name.clone())).add(beyond(id(), Expr::value(self.id)));
        let names = Condition::any().add(beyond(lower_name(), name)).add(same_name);
        let same_group = Condition::all().add(group_of().eq(group.clone())).add(names);
        Condition::any().add(beyond(group_of(), group)).add(same_group)
    }
}

impl std::fmt::Display for AccountKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}.{}", u8::from(self.waits), self.id, self.username)
    }
}

/// 0 for pending accounts, 1 for the others.
fn group_of() -> SimpleExpr {
    Expr::case(AccountState::Waiting.condition(), 0).finally(1).into()
}

fn lower_name() -> SimpleExpr {
    Expr::from(Func::lower(Expr::col((user::Entity, user::Column::Username))))
}

fn id() -> SimpleExpr {
    Expr::col((user::Entity, user::Column::Id))
}

/// The page of the list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AccountPlace {
    #[default]
    First,
    After(AccountKey),
    Before(AccountKey),
}

/// One page of the list.
#[derive(Debug, Clone)]
pub struct Found {
    pub users: Vec<user::Model>,
    pub has_before: bool,
    pub has_after: bool,
    /// Ids of the roles, by user.
    pub roles: BTreeMap<i32, BTreeSet<i32>>,
    /// The number of matching accounts on all pages.
    pub count: u64,
}

impl Accounts {
    /// The matching accounts, pending ones first, then by user name; at most `size`.
    pub async fn search(&self, wanted: &Wanted, place: &AccountPlace, size: u64) -> Result<Found, DbErr> {
        let connection = self.database.reader();
        let mut all = user::Entity::find();
        let text = wanted.text.trim();
        if !text.is_empty() {
            let columns = [user::Column::Username, user::Column::Name, user::Column::Email];
            all = all.filter(columns.into_iter().fold(Condition::any(), |any, column| any.add(contains(column, text))));
        }
        if let Some(role) = wanted.role {
            let holders = roles_users::Entity::find().select_only().column(roles_users::Column::UserId);
            all = all.filter(
                user::Column::Id.in_subquery(holders.filter(roles_users::Column::RoleId.eq(role)).into_query()),
            );
        }
        if let Some(state) = wanted.state {
            all = all.filter(state.condition());
        }
        let count = all.clone().count(connection).await?;
        let (all, order) = match place {
            AccountPlace::First => (all, Order::Asc),
            AccountPlace::After(key) => (all.filter(key.beyond(true)), Order::Asc),
            AccountPlace::Before(key) => (all.filter(key.beyond(false)), Order::Desc),
        };
        let mut users = all
            .order_by(group_of(), order.clone())
            .order_by(lower_name(), order.clone())
            .order_by(id(), order)
            .limit(size + 1)
            .all(connection)
            .await?;
        let more = users.len() as u64 > size;
        users.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        let (has_before, has_after) = match place {
            AccountPlace::First => (false, more),
            AccountPlace::After(_) => (true, more),
            AccountPlace::Before(_) => {
                users.reverse();
                (more, true)
            }
        };
        let roles = roles_of(connection, users.iter().map(|user| user.id)).await?;
        Ok(Found { users, has_before, has_after, roles, count })
    }

    /// The number of pending accounts.
    pub async fn waiting(&self) -> Result<u64, DbErr> {
        user::Entity::find().filter(AccountState::Waiting.condition()).count(self.database.reader()).await
    }

    /// Active accounts with a weak password that was accepted unchecked.
    pub async fn weak_passwords(&self) -> Result<Vec<user::Model>, DbErr> {
        let weak =
            user::Entity::find().filter(user::Column::WeakPassword.eq(true)).filter(user::Column::Active.eq(true));
        weak.order_by_asc(user::Column::Username).limit(20).all(self.database.reader()).await
    }

    /// Whether the account has a weak password that was accepted unchecked.
    pub async fn has_weak_password(&self, id: i32) -> Result<bool, DbErr> {
        let row = user::Entity::find_by_id(id).one(self.database.reader()).await?;
        Ok(row.is_some_and(|row| row.weak_password))
    }

    /// All roles by name, with the number of accounts that have each.
    pub async fn roles(&self) -> Result<Vec<(RoleRecord, u64)>, DbErr> {
        let connection = self.database.reader();
        let roles = role::Entity::find().order_by_asc(role::Column::Name).all(connection).await?;
        let counts: Vec<(i32, i64)> = roles_users::Entity::find()
            .select_only()
            .column(roles_users::Column::RoleId)
            .column_as(roles_users::Column::UserId.count(), "count")
            .group_by(roles_users::Column::RoleId)
            .into_tuple()
            .all(connection)
            .await?;
        let counts: BTreeMap<i32, i64> = counts.into_iter().collect();
        let count = |id: i32| u64::try_from(counts.get(&id).copied().unwrap_or_default()).unwrap_or_default();
        Ok(roles
            .into_iter()
            .map(|row| (count(row.id), row))
            .map(|(count, row)| (RoleRecord::from(row), count))
            .collect())
    }

    /// The users who have a role, with all permissions of their roles.
    pub async fn holders(&self, role_id: i32) -> Result<Vec<User>, DbErr> {
        let connection = self.database.reader();
        let held = roles_users::Entity::find().filter(roles_users::Column::RoleId.eq(role_id)).all(connection).await?;
        let mut holders = Vec::with_capacity(held.len());
        for one in held {
            holders.extend(self.find(one.user_id).await?);
        }
        Ok(holders)
    }

    /// The role with this id.
    pub async fn role(&self, id: i32) -> Result<Option<RoleRecord>, DbErr> {
        Ok(role::Entity::find_by_id(id).one(self.database.reader()).await?.map(RoleRecord::from))
    }
}

async fn roles_of(
    connection: &impl ConnectionTrait,
    users: impl IntoIterator<Item = i32>,
) -> Result<BTreeMap<i32, BTreeSet<i32>>, DbErr> {
    let held = roles_users::Entity::find().filter(roles_users::Column::UserId.is_in(users)).all(connection).await?;
    let mut roles: BTreeMap<i32, BTreeSet<i32>> = BTreeMap::new();
    for one in held {
        roles.entry(one.user_id).or_default().insert(one.role_id);
    }
    Ok(roles)
}
