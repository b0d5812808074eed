//! Accounts: links in e-mails, second factors, data of sessions, and the outbox of e-mails.

use sea_orm_migration::prelude::*;

use crate::columns::{counter, flag, id, integer, label, moment, reference, text};
use crate::steps::{add_column, create_table, drop_column, drop_former_table, drop_index, drop_tables, index};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        add_columns(manager).await?;
        create_links(manager).await?;
        // No program has written to it so far.
        drop_former_table(manager, "outbox", "body_text").await?;
        create_outbox(manager).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["outbox", "mailing"]).await?;
        crate::m20261123_000005_service::create_outbox(manager).await?;
        drop_tables(manager, &["recovery_code", "mail_link"]).await?;
        drop_index(manager, "session", "ix_session_user_id").await?;
        for (table, columns) in COLUMNS {
            for column in *columns {
                drop_column(manager, table, column).await?;
            }
        }
        Ok(())
    }
}

/// Columns that `down` removes.
const COLUMNS: &[(&str, &[&str])] = &[
    ("session", &["user_id", "created", "last_seen", "address", "agent", "remembered"]),
    ("role", &["requires_second_factor"]),
    ("user", &["weak_password", "second_factor_at", "last_code_step"]),
];

async fn add_columns(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let add = async |table: &'static str, column: ColumnDef| add_column(manager, table, column).await;
    add("user", flag("weak_password", false)).await?;
    add("user", moment(manager, "second_factor_at")).await?;
    add("user", counter("last_code_step", 0)).await?;
    add("role", flag("requires_second_factor", false)).await?;
    add("session", integer("user_id")).await?;
    add("session", moment(manager, "created")).await?;
    add("session", moment(manager, "last_seen")).await?;
    add("session", label("address", 64)).await?;
    add("session", label("agent", 255)).await?;
    add("session", flag("remembered", false)).await?;
    index(manager, "session", &["user_id"], false).await
}

async fn create_links(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    create_table(
        manager,
        Table::create()
            .table("mail_link")
            .col(id())
            .col(integer("user_id").not_null())
            .col(label("purpose", 16).not_null())
            .col(label("token_hash", 64).not_null())
            .col(label("email", 255).not_null())
            .col(moment(manager, "created").not_null())
            .col(moment(manager, "expires_at").not_null())
            .col(moment(manager, "used_at"))
            .foreign_key(&mut reference("mail_link", "user_id", "user"))
            .to_owned(),
    )
    .await?;
    index(manager, "mail_link", &["token_hash"], true).await?;
    index(manager, "mail_link", &["user_id"], false).await?;

    create_table(
        manager,
        Table::create()
            .table("recovery_code")
            .col(id())
            .col(integer("user_id").not_null())
            .col(label("code_hash", 64).not_null())
            .col(moment(manager, "used_at"))
            .foreign_key(&mut reference("recovery_code", "user_id", "user"))
            .to_owned(),
    )
    .await?;
    index(manager, "recovery_code", &["user_id"], false).await
}

async fn create_outbox(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    create_table(
        manager,
        Table::create()
            .table("mailing")
            .col(id())
            .col(integer("user_id"))
            .col(label("mail_subject", 255).not_null())
            .col(text(manager, "body").not_null())
            .col(moment(manager, "created").not_null())
            .foreign_key(&mut reference("mailing", "user_id", "user"))
            .to_owned(),
    )
    .await?;
    index(manager, "mailing", &["user_id"], false).await?;

    create_table(
        manager,
        Table::create()
            .table("outbox")
            .col(id())
            .col(label("recipient", 255).not_null())
            .col(integer("user_id"))
            .col(integer("mailing_id"))
            .col(label("template", 32).not_null())
            .col(text(manager, "context").not_null())
            .col(moment(manager, "created").not_null())
            .col(moment(manager, "available_at"))
            .col(moment(manager, "sent_at"))
            .col(moment(manager, "failed_at"))
            .col(counter("attempts", 0))
            .col(text(manager, "last_error"))
            .foreign_key(&mut reference("outbox", "user_id", "user"))
            .foreign_key(&mut reference("outbox", "mailing_id", "mailing"))
            .to_owned(),
    )
    .await?;
    index(manager, "outbox", &["available_at"], false).await?;
    index(manager, "outbox", &["user_id"], false).await?;
    index(manager, "outbox", &["mailing_id"], false).await
}
