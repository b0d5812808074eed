//! The time of the study; one row.

use sea_orm::entity::prelude::*;

/// The id of the row.
pub const ID: i32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "study_clock")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i32,
    /// Microseconds by which the study's time is ahead of the database's clock; not zero after that clock was set.
    pub ahead_us: i64,
    /// The latest time of the study that a server has recorded.
    pub noted_at: Option<DateTime>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
