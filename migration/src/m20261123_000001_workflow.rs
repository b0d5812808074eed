//! Workflows: states, their callbacks, and the transitions between them.
//!
//! `position` is the order in the file: transitions are tried and callbacks are listed in this order.

use sea_orm_migration::prelude::*;

use crate::columns::{counter, id, integer, label, reference, text};
use crate::steps::{create_table, drop_tables, index};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        create_table(
            manager,
            Table::create().table("workflow").col(id()).col(label("label", 100).not_null()).to_owned(),
        )
        .await?;
        index(manager, "workflow", &["label"], true).await?;

        create_table(
            manager,
            Table::create()
                .table("state")
                .col(id())
                .col(label("label", 100).not_null())
                .col(text(manager, "freetext"))
                .col(integer("workflow_id").not_null())
                .col(counter("position", 0))
                .foreign_key(&mut reference("state", "workflow_id", "workflow"))
                .to_owned(),
        )
        .await?;
        index(manager, "state", &["workflow_id", "label"], true).await?;

        create_table(
            manager,
            Table::create()
                .table("transition")
                .col(id())
                .col(integer("source_state_id").not_null())
                .col(integer("destination_state_id").not_null())
                .col(text(manager, "condition"))
                .col(counter("position", 0))
                .foreign_key(&mut reference("transition", "source_state_id", "state"))
                .foreign_key(&mut reference("transition", "destination_state_id", "state"))
                .to_owned(),
        )
        .await?;
        index(manager, "transition", &["source_state_id", "position"], false).await?;
        index(manager, "transition", &["destination_state_id"], false).await?;

        create_table(
            manager,
            Table::create()
                .table("callback")
                .col(id())
                .col(integer("state_id").not_null())
                .col(label("label", 128).not_null())
                .col(label("function", 128).not_null())
                .col(text(manager, "callback_arguments"))
                .col(text(manager, "variable_map"))
                .col(integer("run_timeout"))
                .col(integer("wait_timeout"))
                .col(counter("initial_delay", 0))
                .col(text(manager, "description"))
                .col(text(manager, "condition"))
                .col(counter("retries", 0))
                .col(counter("retry_delay", 0))
                .col(counter("position", 0))
                .foreign_key(&mut reference("callback", "state_id", "state"))
                .to_owned(),
        )
        .await?;
        index(manager, "callback", &["state_id", "label"], true).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["callback", "transition", "state", "workflow"]).await
    }
}
