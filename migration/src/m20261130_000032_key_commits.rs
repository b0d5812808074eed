//! The number of committed transactions of a request with an `Idempotency-Key`, from which a repeated request learns whether the work was
//! done.

use sea_orm_migration::prelude::*;

use crate::columns::counter;
use crate::steps::{add_column, drop_column};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        add_column(manager, "idempotency_key", counter("commits", 0)).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_column(manager, "idempotency_key", "commits").await
    }
}
