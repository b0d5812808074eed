//! An index on the result, so that failed callbacks are found without reading all of them.

use sea_orm_migration::prelude::*;

use crate::steps::{drop_index, index};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        index(manager, "callback_execution", &["result"], false).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_index(manager, "callback_execution", "ix_callback_execution_result").await
    }
}
