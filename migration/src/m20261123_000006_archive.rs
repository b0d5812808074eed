//! Archived subjects and experiments: hidden, with their history kept and their labels free for reuse.
//!
//! `archive_id` is 0 for rows in use and the own id for archived ones. So labels are unique among the rows in use, and any number of
//! archived ones may have the same label. (A partial unique index would do the same, but MariaDB has none.)
//!
//! `subject.updated_at` is the time of the last change after the registration.

use sea_orm_migration::prelude::*;

use crate::columns::{counter, label, moment, text};
use crate::steps::{add_column, drop_column, drop_index, index};

#[derive(DeriveMigrationName)]
pub struct Migration;

/// Each table with the columns in which its labels were unique.
const ARCHIVED: [(&str, [&str; 2]); 2] = [("subject", ["cohort_id", "label"]), ("experiment", ["subject_id", "label"])];

const BY_STATE: [&str; 4] = ["state_id", "archive_id", "id", "label"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (table, [parent, name]) in ARCHIVED {
            for column in columns(manager) {
                add_column(manager, table, column).await?;
            }
            // The new index first: MariaDB requires one for the foreign key at any time.
            index(manager, table, &[parent, name, "archive_id"], true).await?;
            drop_index(manager, table, &format!("uix_{table}_{parent}_{name}")).await?;
        }
        add_column(manager, "subject", moment(manager, "updated_at")).await?;
        // A list of one state is read in order from this index alone, however many experiments each state has.
        index(manager, "experiment", &BY_STATE, false).await?;
        drop_index(manager, "experiment", "ix_experiment_state_id_id").await?;
        index(manager, "experiment", &["scandate"], false).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_index(manager, "experiment", "ix_experiment_scandate").await?;
        index(manager, "experiment", &["state_id", "id"], false).await?;
        drop_index(manager, "experiment", &format!("ix_experiment_{}", BY_STATE.join("_"))).await?;
        drop_column(manager, "subject", "updated_at").await?;
        for (table, [parent, name]) in ARCHIVED {
            index(manager, table, &[parent, name], true).await?;
            drop_index(manager, table, &format!("uix_{table}_{parent}_{name}_archive_id")).await?;
            for column in ["archive_id", "archived_at", "archived_by", "archived_reason"] {
                drop_column(manager, table, column).await?;
            }
        }
        Ok(())
    }
}

fn columns(manager: &SchemaManager<'_>) -> [ColumnDef; 4] {
    [
        counter("archive_id", 0),
        moment(manager, "archived_at"),
        label("archived_by", 64),
        text(manager, "archived_reason"),
    ]
}
