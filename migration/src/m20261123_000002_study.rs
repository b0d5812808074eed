//! The data of the study: cohorts, subjects, experiments and their scans, variables, and external ids.
//!
//! The current state of an experiment is a column with an index, so that it never requires a scan of the history.
//! `experiment.last_action_id` has an index but no foreign key: together with `action.experiment_id` it would form a cycle that MariaDB
//! and SQLite can neither create nor drop in one step. The engine writes both in one transaction.

use sea_orm_migration::prelude::*;

use crate::columns::{counter, id, integer, label, moment, reference, text};
use crate::steps::{create_table, drop_tables, index};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        create_subjects(manager).await?;
        create_experiments(manager).await?;
        create_scans(manager).await?;
        create_external_systems(manager).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(
            manager,
            &[
                "external_experiment_links",
                "external_subject_links",
                "external_cohort_urls",
                "external_system_history",
                "external_system",
                "scan",
                "scantype",
                "variable",
                "experiment",
                "subject",
                "cohort",
            ],
        )
        .await
    }
}

async fn create_subjects(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    create_table(
        manager,
        Table::create()
            .table("cohort")
            .col(id())
            .col(label("label", 100).not_null())
            .col(text(manager, "description"))
            .to_owned(),
    )
    .await?;
    index(manager, "cohort", &["label"], true).await?;

    create_table(
        manager,
        Table::create()
            .table("subject")
            .col(id())
            .col(label("label", 100).not_null())
            .col(ColumnDef::new("date_of_birth").date())
            .col(integer("cohort_id").not_null())
            .foreign_key(&mut reference("subject", "cohort_id", "cohort"))
            .to_owned(),
    )
    .await?;
    index(manager, "subject", &["cohort_id", "label"], true).await?;
    index(manager, "subject", &["label"], false).await
}

async fn create_experiments(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    create_table(
        manager,
        Table::create()
            .table("experiment")
            .col(id())
            .col(label("label", 100).not_null())
            .col(moment(manager, "scandate").not_null())
            .col(integer("subject_id").not_null())
            .col(integer("workflow_id").not_null())
            .col(integer("state_id").not_null())
            .col(integer("last_action_id"))
            .col(moment(manager, "state_since").not_null())
            .col(counter("version", 0))
            .foreign_key(&mut reference("experiment", "subject_id", "subject"))
            .foreign_key(&mut reference("experiment", "workflow_id", "workflow"))
            .foreign_key(&mut reference("experiment", "state_id", "state"))
            .to_owned(),
    )
    .await?;
    index(manager, "experiment", &["subject_id", "label"], true).await?;
    index(manager, "experiment", &["state_id", "id"], false).await?;
    index(manager, "experiment", &["workflow_id", "id"], false).await?;
    index(manager, "experiment", &["last_action_id"], false).await?;
    index(manager, "experiment", &["label"], false).await?;

    create_table(
        manager,
        Table::create()
            .table("variable")
            .col(id())
            .col(integer("experiment_id").not_null())
            .col(label("label", 255).not_null())
            .col(label("type", 16).not_null())
            .col(text(manager, "value"))
            .foreign_key(&mut reference("variable", "experiment_id", "experiment"))
            .to_owned(),
    )
    .await?;
    index(manager, "variable", &["experiment_id", "label"], true).await
}

async fn create_scans(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    create_table(
        manager,
        Table::create()
            .table("scantype")
            .col(id())
            .col(label("modality", 100).not_null())
            .col(label("protocol", 100).not_null())
            .to_owned(),
    )
    .await?;
    index(manager, "scantype", &["protocol"], true).await?;

    create_table(
        manager,
        Table::create()
            .table("scan")
            .col(id())
            .col(integer("experiment_id").not_null())
            .col(integer("scantype_id").not_null())
            .foreign_key(&mut reference("scan", "experiment_id", "experiment"))
            .foreign_key(&mut reference("scan", "scantype_id", "scantype"))
            .to_owned(),
    )
    .await?;
    index(manager, "scan", &["experiment_id"], false).await?;
    index(manager, "scan", &["scantype_id"], false).await
}

async fn create_external_systems(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    create_table(
        manager,
        Table::create()
            .table("external_system")
            .col(id())
            .col(label("system_name", 100).not_null())
            .col(label("url", 512).not_null())
            .to_owned(),
    )
    .await?;
    index(manager, "external_system", &["system_name"], true).await?;

    create_table(
        manager,
        Table::create()
            .table("external_system_history")
            .col(id())
            .col(integer("system_id").not_null())
            .col(moment(manager, "timestamp").not_null())
            .col(text(manager, "url"))
            .foreign_key(&mut reference("external_system_history", "system_id", "external_system"))
            .to_owned(),
    )
    .await?;
    index(manager, "external_system_history", &["system_id"], false).await?;

    create_links(manager, "external_cohort_urls", "cohort_id", "cohort", "url").await?;
    create_links(manager, "external_subject_links", "subject_id", "subject", "external_id").await?;
    create_links(manager, "external_experiment_links", "experiment_id", "experiment", "external_id").await
}

/// A table with one text, an id or a URL, for each row and external system.
async fn create_links(
    manager: &SchemaManager<'_>,
    table: &'static str,
    column: &'static str,
    target: &'static str,
    value: &'static str,
) -> Result<(), DbErr> {
    create_table(
        manager,
        Table::create()
            .table(table)
            .col(id())
            .col(label(value, 1024).not_null())
            .col(integer(column).not_null())
            .col(integer("external_system_id").not_null())
            .foreign_key(&mut reference(table, column, target))
            .foreign_key(&mut reference(table, "external_system_id", "external_system"))
            .to_owned(),
    )
    .await?;
    index(manager, table, &[column, "external_system_id"], true).await?;
    index(manager, table, &["external_system_id"], false).await
}
