//! The time of the study: its lead over the database's clock, and the latest time that a server has recorded (E11).

use sea_orm_migration::prelude::*;

use crate::columns::{integer, moment};
use crate::steps::{create_table, drop_tables};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        create_table(
            manager,
            Table::create()
                .table("study_clock")
                .col(integer("id").not_null().primary_key())
                .col(ColumnDef::new("ahead_us").big_integer().not_null().default(0))
                .col(moment(manager, "noted_at"))
                .to_owned(),
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["study_clock"]).await
    }
}
