//! Audit events are signed, and contain the end of the chain at the time they were written.

use sea_orm_migration::prelude::*;

use crate::columns::label;
use crate::steps::{add_column, drop_column};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // A number, a colon, and a hash of 43 characters.
        add_column(manager, "audit_event", label("head", 64)).await?;
        add_column(manager, "audit_event", label("signature", 96)).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_column(manager, "audit_event", "signature").await?;
        drop_column(manager, "audit_event", "head").await
    }
}
