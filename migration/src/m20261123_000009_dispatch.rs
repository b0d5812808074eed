//! Data for the relay to the broker, and for the servers' view of their workers.
//!
//! `callback_execution.relay_at` is the time at which a server should publish an execution (again); null if nothing is to be published,
//! because a worker has claimed it or it has ended. One column with one index says which executions are due, which server is publishing
//! one (it moves the time slightly ahead first), and when an unclaimed message is sent again.

use sea_orm_migration::prelude::*;

use crate::columns::{counter, id, integer, label, moment, text};
use crate::steps::{add_column, create_table, drop_column, drop_index, drop_tables, index, update_rows};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in [label("queue", 128), moment(manager, "relay_at")] {
            add_column(manager, "callback_execution", column).await?;
        }
        let waiting = Query::update()
            .table("callback_execution")
            .value("relay_at", Expr::col("available_at"))
            .and_where(Expr::col("status").is_in(["created", "queued"]))
            .and_where(Expr::col("relay_at").is_null())
            .to_owned();
        update_rows(manager, waiting).await?;
        index(manager, "callback_execution", &["relay_at"], false).await?;

        create_table(
            manager,
            Table::create()
                .table("worker")
                .col(id())
                .col(label("name", 128).not_null())
                .col(label("kind", 16).not_null())
                .col(text(manager, "queues").not_null())
                .col(counter("concurrency", 1))
                .col(label("version", 32).not_null())
                .col(moment(manager, "started_at").not_null())
                .col(moment(manager, "seen_at").not_null())
                .col(moment(manager, "stopped_at"))
                .to_owned(),
        )
        .await?;
        index(manager, "worker", &["name"], true).await?;
        index(manager, "worker", &["seen_at"], false).await?;

        create_table(
            manager,
            Table::create()
                .table("dead_letter")
                .col(id())
                .col(moment(manager, "at").not_null())
                .col(label("queue", 255).not_null())
                .col(label("reason", 64).not_null())
                .col(integer("execution_id"))
                .col(integer("attempt"))
                .col(text(manager, "body").not_null())
                .to_owned(),
        )
        .await?;
        index(manager, "dead_letter", &["execution_id"], false).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["dead_letter", "worker"]).await?;
        drop_index(manager, "callback_execution", "ix_callback_execution_relay_at").await?;
        for column in ["relay_at", "queue"] {
            drop_column(manager, "callback_execution", column).await?;
        }
        Ok(())
    }
}
