//! The revision of the study's git repository in use.

use sea_orm_migration::prelude::*;

use crate::columns::{integer, label, moment};
use crate::steps::{create_table, drop_tables};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        create_table(
            manager,
            Table::create()
                .table("project_revision")
                .col(integer("id").not_null().primary_key())
                .col(label("repository", 500).not_null())
                .col(label("commit_name", 64).not_null())
                .col(moment(manager, "synced_at").not_null())
                .to_owned(),
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["project_revision"]).await
    }
}
