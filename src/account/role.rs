//! Creating and changing roles and their permissions.

use std::collections::BTreeSet;

use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::{ActiveModelTrait, EntityTrait, IntoActiveModel};
use serde_json::json;

use crate::audit::{self, Event};
use crate::context::Context;
use crate::database;
use crate::entity::role;

use super::{AccountError, Accounts, Permission};

/// The fields of a role.
#[derive(Debug, Clone, Default)]
pub struct RoleForm {
    pub name: String,
    pub description: String,
    pub permissions: BTreeSet<Permission>,
    /// Users with this role must have a second factor.
    pub requires_second_factor: bool,
}

impl RoleForm {
    /// Checks whether a role with this name can be created.
    ///
    /// # Errors
    /// [`AccountError::Invalid`] with the reason.
    pub fn check_new(name: &str, description: &str) -> Result<(), AccountError> {
        let form = Self { name: name.to_owned(), description: description.to_owned(), ..Self::default() };
        form.check()?;
        form.check_name("")
    }

    fn check(&self) -> Result<(), AccountError> {
        let invalid = |field, problem: &str| Err(AccountError::Invalid { field, problem: problem.to_owned() });
        let is_plain = |c: char| c.is_alphanumeric() || "_-. ".contains(c);
        if self.name.trim().is_empty() || self.name.chars().count() > 80 || !self.name.chars().all(is_plain) {
            return invalid("name", "must be 1 to 80 letters, digits, spaces or one of _-.");
        }
        if self.description.chars().count() > 255 || self.description.chars().any(char::is_control) {
            return invalid("description", "must be at most 255 characters without control characters");
        }
        Ok(())
    }

    /// Two names have a meaning: `admin` permits everything, `user` is the role of new registrations. No other role may
    /// take these names, and these roles keep them.
    fn check_name(&self, until_now: &str) -> Result<(), AccountError> {
        let name = self.name.trim();
        let means = |name: &str| ["admin", "user"].iter().any(|one| name.eq_ignore_ascii_case(one));
        match name != until_now && (means(name) || means(until_now)) {
            true => Err(AccountError::Invalid {
                field: "name",
                problem: "cannot be changed to or from 'admin' or 'user'".to_owned(),
            }),
            false => Ok(()),
        }
    }

    fn permissions(&self) -> String {
        self.permissions.iter().map(|one| one.name()).collect::<Vec<_>>().join(",")
    }
}

/// The fields of a role in the audit log.
pub(super) fn shown(row: &role::Model) -> serde_json::Value {
    json!({
        "name": row.name,
        "description": row.description,
        "permissions": row.permissions,
        "requires_second_factor": row.requires_second_factor,
    })
}

impl Accounts {
    /// Creates a role.
    ///
    /// # Errors
    /// [`AccountError::Invalid`]; also if another role has this name.
    pub async fn create_role(&self, ctx: &Context, form: &RoleForm) -> Result<role::Model, AccountError> {
        form.check()?;
        form.check_name("")?;
        let row = role::ActiveModel {
            id: NotSet,
            name: Set(form.name.trim().to_owned()),
            description: Set(Some(form.description.trim().to_owned())),
            permissions: Set(Some(form.permissions())),
            update_datetime: Set(self.clock.now()),
            requires_second_factor: Set(form.requires_second_factor),
        };
        let transaction = self.database.begin().await?;
        let row = row.insert(&*transaction).await.map_err(taken)?;
        audit::record(ctx, &*transaction, Event::new("create", "role", row.id, &row.name).after(shown(&row))).await?;
        transaction.commit().await?;
        Ok(row)
    }

    /// Changes a role. `admin` keeps its name and its permissions: one role must permit everything.
    ///
    /// # Errors
    /// [`AccountError::Unknown`], [`AccountError::Invalid`].
    pub async fn update_role(&self, ctx: &Context, id: i32, form: &RoleForm) -> Result<role::Model, AccountError> {
        form.check()?;
        let transaction = self.database.begin().await?;
        let row = role::Entity::find_by_id(id).one(&*transaction).await?.ok_or(AccountError::Unknown)?;
        let is_admin = row.name == "admin";
        form.check_name(&row.name)?;
        let before = shown(&row);
        let mut changed = row.into_active_model();
        changed.description = Set(Some(form.description.trim().to_owned()));
        changed.requires_second_factor = Set(form.requires_second_factor);
        changed.update_datetime = Set(self.clock.now());
        if !is_admin {
            changed.name = Set(form.name.trim().to_owned());
            changed.permissions = Set(Some(form.permissions()));
        }
        let row = changed.update(&*transaction).await.map_err(taken)?;
        let event = Event::new("update", "role", id, &row.name).changed(&before, &shown(&row));
        audit::record(ctx, &*transaction, event).await?;
        transaction.commit().await?;
        self.logins.forget_all();
        Ok(row)
    }
}

fn taken(error: sea_orm::DbErr) -> AccountError {
    match database::is_duplicate(&error) {
        true => AccountError::Invalid { field: "name", problem: "is already the name of another role".to_owned() },
        false => error.into(),
    }
}
