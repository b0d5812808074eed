//! The revision of the study's repository in use; one row.

use sea_orm::entity::prelude::*;

/// The id of the row.
pub const ID: i32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "project_revision")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i32,
    /// The URL without a login.
    pub repository: String,
    /// The full hash of the commit.
    pub commit_name: String,
    /// Time at which a server or a command last checked the repository.
    pub synced_at: DateTime,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
