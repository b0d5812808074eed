//! A number of each workflow that is another one after it was changed, so that servers may keep its graph in memory.

use sea_orm_migration::prelude::*;

use crate::columns::counter;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut revision = counter("revision", 0);
        manager.alter_table(Table::alter().table("workflow").add_column(&mut revision).to_owned()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.alter_table(Table::alter().table("workflow").drop_column("revision").to_owned()).await
    }
}
