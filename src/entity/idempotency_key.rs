//! The response to a request with an `Idempotency-Key`; without a status the request is still being processed.

use sea_orm::entity::prelude::*;

/// How long a response is stored.
pub const KEPT: chrono::TimeDelta = chrono::TimeDelta::days(1);

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "idempotency_key")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i32,
    pub user_id: i32,
    pub key_hash: String,
    /// Hash of method, path and body: using the same key for another request is an error.
    pub fingerprint: String,
    pub created: DateTime,
    pub status: Option<i32>,
    pub body: Option<String>,
    /// Number of committed transactions of the request. Each one increments it as part of the transaction.
    pub commits: i32,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
