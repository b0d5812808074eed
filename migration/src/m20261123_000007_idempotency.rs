//! Responses to requests with an `Idempotency-Key`, so that a repeated request gets the same response.

use sea_orm_migration::prelude::*;

use crate::columns::{id, integer, label, moment, reference, text};
use crate::steps::{create_table, drop_tables, index};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        create_table(
            manager,
            Table::create()
                .table("idempotency_key")
                .col(id())
                .col(integer("user_id").not_null())
                .col(label("key_hash", 64).not_null())
                .col(label("fingerprint", 64).not_null())
                .col(moment(manager, "created").not_null())
                .col(integer("status"))
                .col(text(manager, "body"))
                .foreign_key(&mut reference("idempotency_key", "user_id", "user"))
                .to_owned(),
        )
        .await?;
        index(manager, "idempotency_key", &["user_id", "key_hash"], true).await?;
        index(manager, "idempotency_key", &["created"], false).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["idempotency_key"]).await
    }
}
