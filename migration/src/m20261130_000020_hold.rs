//! Experiments on hold: since when, why, and the point in the history at which a person last released them (E12).

use sea_orm_migration::prelude::*;

use crate::columns::{integer, moment, text};
use crate::steps::{add_column, drop_column, drop_index, index};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        add_column(manager, "experiment", moment(manager, "held_since")).await?;
        add_column(manager, "experiment", text(manager, "held_reason")).await?;
        add_column(manager, "experiment", integer("released_action_id")).await?;
        index(manager, "experiment", &["held_since"], false).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_index(manager, "experiment", "ix_experiment_held_since").await?;
        drop_column(manager, "experiment", "released_action_id").await?;
        drop_column(manager, "experiment", "held_reason").await?;
        drop_column(manager, "experiment", "held_since").await
    }
}
