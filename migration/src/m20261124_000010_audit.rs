//! The audit trail.
//!
//! Rows are only ever added to `audit_event`. The hash chain is in a separate table, `audit_seal`: rows get their position a moment after
//! their commit, so that transactions do not wait for one another to be numbered. Nothing has written to the former table.

use sea_orm_migration::prelude::*;

use crate::columns::{id, integer, label, moment, reference, text};
use crate::steps::{create_table, drop_former_table, drop_tables, index};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_former_table(manager, "audit_event", "hash").await?;
        create_audit(manager).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["audit_seal", "audit_event"]).await?;
        crate::m20261123_000005_service::create_audit_event(manager).await
    }
}

async fn create_audit(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    create_table(
        manager,
        Table::create()
            .table("audit_event")
            .col(id())
            .col(moment(manager, "at").not_null())
            .col(integer("user_id"))
            .col(label("who", 64).not_null())
            .col(label("origin", 16).not_null())
            .col(label("address", 64))
            .col(label("verb", 64).not_null())
            .col(label("subject_type", 64).not_null())
            .col(integer("subject_id"))
            .col(label("subject_name", 255).not_null())
            .col(integer("experiment_id"))
            .col(text(manager, "before"))
            .col(text(manager, "after"))
            .col(text(manager, "reason"))
            .foreign_key(&mut reference("audit_event", "user_id", "user"))
            .to_owned(),
    )
    .await?;
    index(manager, "audit_event", &["user_id"], false).await?;
    index(manager, "audit_event", &["subject_type", "subject_id"], false).await?;
    index(manager, "audit_event", &["experiment_id"], false).await?;
    index(manager, "audit_event", &["at"], false).await?;

    create_table(
        manager,
        Table::create()
            .table("audit_seal")
            .col(integer("seq").not_null().primary_key())
            .col(integer("event_id").not_null())
            .col(label("hash", 64).not_null())
            .to_owned(),
    )
    .await?;
    // No foreign key: a missing row must be detected, not prevented.
    index(manager, "audit_seal", &["event_id"], true).await
}
