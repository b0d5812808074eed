//! A process that runs callbacks, as of its last heartbeat.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "worker")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i32,
    #[sea_orm(unique)]
    pub name: String,
    /// `embedded` in a server, `database` (a separate process, without a broker), or `broker`.
    pub kind: String,
    /// Names separated by commas; empty for workers that claim from the database.
    pub queues: String,
    pub concurrency: i32,
    pub version: String,
    pub started_at: DateTime,
    pub seen_at: DateTime,
    pub stopped_at: Option<DateTime>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
