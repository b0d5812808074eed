//! A message that the broker could not deliver or that no worker could read.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "dead_letter")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i32,
    pub at: DateTime,
    /// The queue from which it was removed.
    pub queue: String,
    /// The broker's reason: `rejected`, `delivery_limit`, `expired`, `maxlen`.
    pub reason: String,
    pub execution_id: Option<i32>,
    pub attempt: Option<i32>,
    /// The readable content, without the secret.
    pub body: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
