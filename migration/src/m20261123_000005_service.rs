//! The audit trail (recorded changes in a hash chain) and the outbox of e-mails.

use sea_orm_migration::prelude::*;

use crate::columns::{counter, id, integer, label, moment, reference, text};
use crate::steps::{create_table, drop_tables, index};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        create_audit_event(manager).await?;

        create_outbox(manager).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["outbox", "audit_event"]).await
    }
}

/// The table in its former shape, before the chain got a table of its own.
pub(crate) async fn create_audit_event(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    create_table(
        manager,
        Table::create()
            .table("audit_event")
            .col(id())
            .col(moment(manager, "at").not_null())
            .col(integer("user_id"))
            .col(label("origin", 16).not_null())
            .col(label("address", 64))
            .col(label("verb", 64).not_null())
            .col(label("subject_type", 64).not_null())
            .col(integer("subject_id"))
            .col(text(manager, "before"))
            .col(text(manager, "after"))
            .col(text(manager, "reason"))
            .col(label("hash", 64).not_null())
            .foreign_key(&mut reference("audit_event", "user_id", "user"))
            .to_owned(),
    )
    .await?;
    index(manager, "audit_event", &["user_id"], false).await?;
    index(manager, "audit_event", &["subject_type", "subject_id"], false).await
}

/// The table in its former shape, before e-mails were rendered on sending.
pub(crate) async fn create_outbox(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    create_table(
        manager,
        Table::create()
            .table("outbox")
            .col(id())
            .col(label("recipient", 255).not_null())
            .col(label("mail_subject", 255).not_null())
            .col(text(manager, "body_text").not_null())
            .col(text(manager, "body_html"))
            .col(moment(manager, "created").not_null())
            .col(moment(manager, "available_at").not_null())
            .col(moment(manager, "sent_at"))
            .col(counter("attempts", 0))
            .col(text(manager, "last_error"))
            .to_owned(),
    )
    .await?;
    index(manager, "outbox", &["sent_at", "available_at"], false).await
}
