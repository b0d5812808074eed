//! Roles that are limited to some cohorts.
//!
//! A role is given for the whole study, or for some cohorts ([`role_scope`]). A user with a role that is limited to
//! some cohorts sees the cohorts of such roles and nothing else of the study, and has there the permissions of the
//! roles given for each cohort. Another role that is given for the whole study adds its permissions in those cohorts
//! and shows no others. Permissions for the whole study (people, files, the audit log) are not included. `admin` is
//! always for the whole study.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::ExprTrait;
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use serde_json::json;

use crate::audit::{self, Event};
use crate::context::{Cohorts, Context};
use crate::entity::{cohort, role, role_scope, roles_users, user};

use super::{AccountError, Accounts, Permission, User};

/// The part of the study that a user sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scope {
    cohorts: Arc<BTreeSet<i32>>,
    /// The cohorts in which each permission holds.
    permissions: BTreeMap<Permission, Arc<BTreeSet<i32>>>,
}

/// The cohorts of roles, by role; a role that is missing is for the whole study.
pub type RoleCohorts = BTreeMap<i32, BTreeSet<i32>>;

impl Scope {
    /// The scope that the roles of a user grant; `None` if that is the whole study.
    pub(super) fn of(roles: &[role::Model], cohorts: &RoleCohorts) -> Option<Self> {
        if roles.iter().any(|role| role.name == "admin") {
            return None;
        }
        let of_role = |role: &role::Model| cohorts.get(&role.id);
        let all: BTreeSet<i32> = roles.iter().filter_map(of_role).flatten().copied().collect();
        if all.is_empty() {
            return None;
        }
        let mut permissions: BTreeMap<Permission, BTreeSet<i32>> = BTreeMap::new();
        for role in roles {
            let held = role.permissions.as_deref().map(Permission::parse_all).unwrap_or_default();
            for permission in held.into_iter().filter(|one| !one.is_of_whole_study()) {
                permissions.entry(permission).or_default().extend(of_role(role).unwrap_or(&all));
            }
        }
        let permissions = permissions.into_iter().map(|(one, cohorts)| (one, Arc::new(cohorts))).collect();
        Some(Self { cohorts: Arc::new(all), permissions })
    }

    /// The permissions that hold in at least one of the cohorts.
    pub(super) fn permissions(&self) -> BTreeSet<Permission> {
        self.permissions.keys().copied().collect()
    }
}

impl User {
    /// The cohorts that this user sees; `None` for the whole study.
    #[must_use]
    pub fn cohorts(&self) -> Cohorts {
        self.scope.as_ref().map(|scope| Arc::clone(&scope.cohorts))
    }

    /// The cohorts in which this user has a permission; `None` for the whole study.
    #[must_use]
    pub fn cohorts_to(&self, permission: Permission) -> Cohorts {
        let scope = self.scope.as_ref()?;
        Some(scope.permissions.get(&permission).map_or_else(Arc::default, Arc::clone))
    }

    /// The same user with the permissions in one cohort.
    #[must_use]
    pub fn in_cohort(&self, cohort_id: i32) -> Self {
        let mut person = self.clone();
        if let Some(scope) = &self.scope {
            let holds = |one: &Permission| scope.permissions.get(one).is_some_and(|all| all.contains(&cohort_id));
            person.permissions.retain(holds);
        }
        person
    }

    /// The same request, authenticated as this user.
    #[must_use = "the context itself does not change"]
    pub fn authenticate(&self, ctx: &Context) -> Context {
        ctx.authenticated(self.id, &self.username, self.cohorts())
    }

    /// The same request, limited to the cohorts in which this permission holds.
    #[must_use = "the context itself does not change"]
    pub fn narrow(&self, ctx: &Context, permission: Permission) -> Context {
        ctx.narrowed(self.cohorts_to(permission), permission.name())
    }
}

/// The cohorts of the roles of these users, by user.
pub(super) async fn cohorts_of(
    connection: &impl ConnectionTrait,
    users: impl IntoIterator<Item = i32>,
) -> Result<BTreeMap<i32, RoleCohorts>, DbErr> {
    let rows = role_scope::Entity::find().filter(role_scope::Column::UserId.is_in(users)).all(connection).await?;
    let mut found: BTreeMap<i32, RoleCohorts> = BTreeMap::new();
    for row in rows {
        found.entry(row.user_id).or_default().entry(row.role_id).or_default().insert(row.cohort_id);
    }
    Ok(found)
}

/// Removing a role must not show a user more of the study: the last role that is limited to some cohorts stays until it
/// is given for the whole study. `taken` are the roles to remove from the user.
pub(super) async fn check_still_scoped(
    connection: &impl ConnectionTrait,
    user_id: i32,
    taken: &[i32],
) -> Result<(), AccountError> {
    // A user who stays an administrator sees everything anyway.
    let admin = role::Entity::find().filter(role::Column::Name.eq("admin")).one(connection).await?;
    if let Some(admin) = admin.filter(|admin| !taken.contains(&admin.id))
        && roles_users::Entity::find_by_id((user_id, admin.id)).one(connection).await?.is_some()
    {
        return Ok(());
    }
    let rows = role_scope::Entity::find().filter(role_scope::Column::UserId.eq(user_id)).all(connection).await?;
    let (gone, left): (Vec<_>, Vec<_>) = rows.iter().partition(|row| taken.contains(&row.role_id));
    match !gone.is_empty() && left.is_empty() {
        true => Err(AccountError::LastScope),
        false => Ok(()),
    }
}

async fn named(connection: &impl ConnectionTrait, ids: &BTreeSet<i32>) -> Result<Vec<String>, DbErr> {
    let rows = cohort::Entity::find().filter(cohort::Column::Id.is_in(ids.iter().copied()));
    Ok(rows.order_by_asc(cohort::Column::Label).all(connection).await?.into_iter().map(|row| row.label).collect())
}

impl Accounts {
    /// The cohorts of the roles of these users, by user and role; a role that is missing is for the whole study.
    pub async fn role_cohorts(&self, users: &[i32]) -> Result<BTreeMap<i32, RoleCohorts>, DbErr> {
        cohorts_of(self.database.reader(), users.iter().copied()).await
    }

    /// Gives a role for these cohorts only, or, if there are none, for the whole study, whether the user already has
    /// the role or not.
    ///
    /// # Errors
    /// [`AccountError::Unknown`] user, [`AccountError::UnknownRole`]; [`AccountError::Invalid`] if a cohort does not
    /// exist, and for `admin`, which is for the whole study.
    pub async fn give_role_for(
        &self,
        ctx: &Context,
        user_id: i32,
        role_id: i32,
        cohorts: &BTreeSet<i32>,
    ) -> Result<(), AccountError> {
        let transaction = self.database.begin().await?;
        // Locked: two concurrent changes would leave a mixture.
        let user = user::Entity::find_by_id(user_id).lock_exclusive().one(&*transaction).await?;
        let user = user.ok_or(AccountError::Unknown)?;
        let role = role::Entity::find_by_id(role_id).one(&*transaction).await?;
        let role = role.ok_or_else(|| AccountError::UnknownRole(role_id.to_string()))?;
        give_for(ctx, &*transaction, &user, &role, cohorts).await?;
        transaction.commit().await?;
        self.forget_logins();
        Ok(())
    }
}

/// Gives a role for these cohorts only, or, if there are none, for the whole study. A helper: the caller owns the
/// transaction.
pub(super) async fn give_for(
    ctx: &Context,
    connection: &impl ConnectionTrait,
    user: &user::Model,
    role: &role::Model,
    cohorts: &BTreeSet<i32>,
) -> Result<(), AccountError> {
    let invalid = |problem: &str| Err(AccountError::Invalid { field: "cohorts", problem: problem.to_owned() });
    if role.name == "admin" && !cohorts.is_empty() {
        return invalid("cannot be selected for the role 'admin', which is for the whole study");
    }
    let labels = named(connection, cohorts).await?;
    if labels.len() != cohorts.len() {
        return invalid("include a cohort that does not exist");
    }
    let was_held = roles_users::Entity::find_by_id((user.id, role.id)).one(connection).await?.is_some();
    let of_role = || role_scope::Column::UserId.eq(user.id).and(role_scope::Column::RoleId.eq(role.id));
    let rows = role_scope::Entity::find().filter(of_role()).all(connection).await?;
    let before: BTreeSet<i32> = rows.into_iter().map(|row| row.cohort_id).collect();
    if was_held && before == *cohorts {
        return Ok(());
    }
    let shown = |labels: Vec<String>| match labels.is_empty() {
        true => json!({ "role": role.name, "cohorts": "all" }),
        false => json!({ "role": role.name, "cohorts": labels }),
    };
    let event = Event::new("give_role", "user", user.id, &user.username).after(shown(labels));
    let event = if was_held { event.before(shown(named(connection, &before).await?)) } else { event };
    if !was_held {
        let link = roles_users::ActiveModel { user_id: Set(user.id), role_id: Set(role.id) };
        roles_users::Entity::insert(link).exec_without_returning(connection).await?;
    }
    role_scope::Entity::delete_many().filter(of_role()).exec(connection).await?;
    let row = |cohort_id: &i32| role_scope::ActiveModel {
        user_id: Set(user.id),
        role_id: Set(role.id),
        cohort_id: Set(*cohort_id),
    };
    if !cohorts.is_empty() {
        role_scope::Entity::insert_many(cohorts.iter().map(row)).exec_without_returning(connection).await?;
    }
    Ok(audit::record(ctx, connection, event).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(id: i32, name: &str, permissions: &str) -> role::Model {
        role::Model {
            id,
            name: name.to_owned(),
            description: None,
            permissions: Some(permissions.to_owned()),
            update_datetime: chrono::NaiveDateTime::default(),
            requires_second_factor: false,
        }
    }

    fn set(ids: &[i32]) -> BTreeSet<i32> {
        ids.iter().copied().collect()
    }

    #[test]
    fn each_permission_holds_where_its_role_is_given() {
        let roles =
            [role(2, "editor", "sample_add"), role(3, "reader", "user_read,user_read_all"), role(4, "raters", "")];
        assert_eq!(Scope::of(&roles, &RoleCohorts::new()), None);
        let scope = Scope::of(&roles, &RoleCohorts::from([(2, set(&[7])), (4, set(&[8]))])).unwrap();
        assert_eq!(*scope.cohorts, set(&[7, 8]));
        assert_eq!(*scope.permissions[&Permission::SampleAdd], set(&[7]));
        // A role for the whole study holds wherever the user sees anything, but grants nothing about the whole study.
        assert_eq!(*scope.permissions[&Permission::UserRead], set(&[7, 8]));
        assert_eq!(scope.permissions(), BTreeSet::from([Permission::SampleAdd, Permission::UserRead]));
        let admin = [role(1, "admin", "sample_add"), roles[0].clone()];
        assert_eq!(Scope::of(&admin, &RoleCohorts::from([(2, set(&[7]))])), None);
    }
}
