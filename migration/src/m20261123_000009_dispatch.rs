//! What the relay to the broker needs, and what servers know of their workers.
//!
//! `callback_execution.relay_at` is when a server is to publish an execution (again); nothing when there is nothing to
//! publish, because a worker has it or it is over. One column with one index says what is due, which server is at it
//! (it moves the time a little ahead before it publishes), and when a message that nobody took is sent once more.

use sea_orm_migration::prelude::*;

use crate::columns::{counter, create_table, drop_tables, id, index, integer, label, moment, text};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for mut column in [label("queue", 128), moment(manager, "relay_at")] {
            let table = Table::alter().table("callback_execution").add_column(&mut column).to_owned();
            manager.alter_table(table).await?;
        }
        let waiting = Query::update()
            .table("callback_execution")
            .value("relay_at", Expr::col("available_at"))
            .and_where(Expr::col("status").is_in(["created", "queued"]))
            .to_owned();
        manager.execute(waiting).await?;
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
        let name = "ix_callback_execution_relay_at";
        manager.drop_index(Index::drop().table("callback_execution").name(name).to_owned()).await?;
        for column in ["relay_at", "queue"] {
            let table = Table::alter().table("callback_execution").drop_column(column).to_owned();
            manager.alter_table(table).await?;
        }
        Ok(())
    }
}
