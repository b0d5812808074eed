//! The answer that was given to a request with an `Idempotency-Key`; without a status it is still being worked on.

use sea_orm::entity::prelude::*;

/// How long an answer is kept.
pub const KEPT: chrono::TimeDelta = chrono::TimeDelta::days(1);

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "idempotency_key")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i32,
    pub user_id: i32,
    pub key_hash: String,
    /// Of method, path and body: the same key for another request is a mistake.
    pub fingerprint: String,
    pub created: DateTime,
    pub status: Option<i32>,
    pub body: Option<String>,
    /// Transactions of the request that were committed: each one counts itself here, in itself.
    pub commits: i32,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
