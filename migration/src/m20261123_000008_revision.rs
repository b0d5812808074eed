//! A number that changes with each change of a workflow, so that servers may cache its graph in memory.

use sea_orm_migration::prelude::*;

use crate::columns::counter;
use crate::steps::{add_column, drop_column};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        add_column(manager, "workflow", counter("revision", 0)).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_column(manager, "workflow", "revision").await
    }
}
