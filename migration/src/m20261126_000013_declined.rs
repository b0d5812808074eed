//! Somebody who registered can be declined: since when.

use sea_orm_migration::prelude::*;

use crate::columns::moment;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut column = moment(manager, "declined_at");
        manager.alter_table(Table::alter().table("user").add_column(&mut column).to_owned()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.alter_table(Table::alter().table("user").drop_column("declined_at").to_owned()).await
    }
}
