//! The history: one action for each transition taken, and one callback execution for each run that it requested.
//!
//! `deadline` is the time at which a running or waiting execution times out. It is calculated when the execution enters that status, so
//! that maintenance (E8) is one index lookup. `available_at` is the time from which an execution may be dispatched (again).

use sea_orm_migration::prelude::*;

use crate::columns::{counter, flag, id, integer, label, moment, reference, text};
use crate::steps::{create_table, drop_tables, index};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        create_table(
            manager,
            Table::create()
                .table("action")
                .col(id())
                .col(flag("success", false))
                .col(text(manager, "return_value"))
                .col(text(manager, "freetext"))
                .col(moment(manager, "start_time").not_null())
                .col(moment(manager, "end_time"))
                .col(integer("transition_id").not_null())
                .col(integer("experiment_id").not_null())
                .col(integer("user_id"))
                .col(label("origin", 16).not_null())
                .foreign_key(&mut reference("action", "transition_id", "transition"))
                .foreign_key(&mut reference("action", "experiment_id", "experiment"))
                .foreign_key(&mut reference("action", "user_id", "user"))
                .to_owned(),
        )
        .await?;
        index(manager, "action", &["experiment_id", "id"], false).await?;
        index(manager, "action", &["transition_id"], false).await?;
        index(manager, "action", &["user_id"], false).await?;

        create_table(
            manager,
            Table::create()
                .table("callback_execution")
                .col(id())
                .col(integer("callback_id").not_null())
                .col(integer("action_id").not_null())
                .col(label("status", 16).not_null())
                .col(label("result", 16).not_null())
                .col(text(manager, "run_log"))
                .col(text(manager, "result_log"))
                .col(text(manager, "result_values"))
                .col(moment(manager, "created").not_null())
                .col(moment(manager, "run_start"))
                .col(moment(manager, "wait_start"))
                .col(moment(manager, "finished"))
                .col(counter("attempt", 1))
                .col(counter("max_attempts", 3))
                .col(counter("failures", 0))
                .col(moment(manager, "available_at").not_null())
                .col(moment(manager, "published_at"))
                .col(moment(manager, "leased_until"))
                .col(moment(manager, "deadline"))
                .col(label("worker", 128))
                .foreign_key(&mut reference("callback_execution", "callback_id", "callback"))
                .foreign_key(&mut reference("callback_execution", "action_id", "action"))
                .to_owned(),
        )
        .await?;
        index(manager, "callback_execution", &["action_id"], false).await?;
        index(manager, "callback_execution", &["callback_id"], false).await?;
        index(manager, "callback_execution", &["status", "available_at"], false).await?;
        index(manager, "callback_execution", &["status", "leased_until"], false).await?;
        index(manager, "callback_execution", &["status", "deadline"], false).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["callback_execution", "action"]).await
    }
}
