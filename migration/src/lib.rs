//! The database schema of Study Governor, one file per change.
//!
//! Names and columns of version 8.1 are kept where they exist, so that its users recognise them and an import is a copy. The same
//! migrations serve SQLite, PostgreSQL and MariaDB/MySQL; the differences are in [`columns`]. Migrations consist of [`steps`], each of
//! which can be repeated after a kill.

pub use ownership::{TABLES, migration_of_later_version, table_of_another_program};
pub use sea_orm_migration::prelude::{DbErr, MigrationTrait, MigratorTrait};

mod columns;
mod m20261123_000001_workflow;
mod m20261123_000002_study;
mod m20261123_000003_account;
mod m20261123_000004_history;
mod m20261123_000005_service;
mod m20261123_000006_archive;
mod m20261123_000007_idempotency;
mod m20261123_000008_revision;
mod m20261123_000009_dispatch;
mod m20261124_000010_audit;
mod m20261124_000011_people;
mod m20261124_000012_role_scope;
mod m20261126_000013_declined;
mod m20261126_000014_result;
mod m20261130_000015_signature;
mod m20261130_000016_study_clock;
mod m20261130_000020_hold;
mod m20261130_000031_project;
mod m20261130_000032_key_commits;
mod ownership;
mod steps;

/// All migrations, oldest first.
pub struct Migrator;

#[sea_orm_migration::async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261123_000001_workflow::Migration),
            Box::new(m20261123_000002_study::Migration),
            Box::new(m20261123_000003_account::Migration),
            Box::new(m20261123_000004_history::Migration),
            Box::new(m20261123_000005_service::Migration),
            Box::new(m20261123_000006_archive::Migration),
            Box::new(m20261123_000007_idempotency::Migration),
            Box::new(m20261123_000008_revision::Migration),
            Box::new(m20261123_000009_dispatch::Migration),
            Box::new(m20261124_000010_audit::Migration),
            Box::new(m20261124_000011_people::Migration),
            Box::new(m20261124_000012_role_scope::Migration),
            Box::new(m20261126_000013_declined::Migration),
            Box::new(m20261126_000014_result::Migration),
            Box::new(m20261130_000015_signature::Migration),
            Box::new(m20261130_000016_study_clock::Migration),
            Box::new(m20261130_000020_hold::Migration),
            Box::new(m20261130_000031_project::Migration),
            Box::new(m20261130_000032_key_commits::Migration),
        ]
    }
}
