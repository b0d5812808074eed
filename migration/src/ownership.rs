//! Finds out which program owns the tables. Version 8.1 has tables of the same names, and so may other programs in the same database.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement};

use crate::Migrator;

/// The list of applied migrations; the migrator creates it before anything else.
const LIST: &str = "seaql_migrations";

/// The tables of the first migration. A first start that was killed leaves some of these, and an empty list.
const FIRST: &[&str] = &["workflow", "state", "transition", "callback"];

/// All tables of the schema, without the list of migrations.
pub const TABLES: &[&str] = &[
    "workflow",
    "state",
    "transition",
    "callback",
    "cohort",
    "subject",
    "experiment",
    "variable",
    "scantype",
    "scan",
    "external_system",
    "external_system_history",
    "external_cohort_urls",
    "external_subject_links",
    "external_experiment_links",
    "user",
    "role",
    "roles_users",
    "session",
    "api_token",
    "action",
    "callback_execution",
    "audit_event",
    "outbox",
    "idempotency_key",
    "worker",
    "dead_letter",
    "audit_seal",
    "mail_link",
    "recovery_code",
    "mailing",
    "role_scope",
    "study_clock",
    "project_revision",
];

/// The name of a table that another program created under one of our names, if there is one.
pub async fn table_of_another_program(connection: &DatabaseConnection) -> Result<Option<String>, DbErr> {
    // The order matters: a server that is migrating at this moment creates its list first, and records the first migration there before
    // the second one begins.
    let present = tables(connection).await?;
    let has_list = SchemaManager::new(connection).has_table(LIST).await?;
    let applied = Migrator::get_migration_with_status_read_only(connection).await?;
    if applied.iter().any(|one| one.status() == sea_orm_migration::MigrationStatus::Applied) {
        return Ok(None);
    }
    let is_foreign =
        |table: &String| TABLES.contains(&table.as_str()) && !(has_list && FIRST.contains(&table.as_str()));
    Ok(present.into_iter().find(is_foreign))
}

/// The newest applied migration that this program does not have, because a later version applied it; `None` if it has all of them.
pub async fn migration_of_later_version(connection: &DatabaseConnection) -> Result<Option<String>, DbErr> {
    if !SchemaManager::new(connection).has_table(LIST).await? {
        return Ok(None);
    }
    let statement = format!("SELECT version FROM {LIST} ORDER BY version DESC");
    let statement = Statement::from_string(connection.get_database_backend(), statement);
    let known: Vec<String> = Migrator::get_migration_files().iter().map(|one| one.name().to_owned()).collect();
    let rows = connection.query_all_raw(statement).await?;
    let applied = rows.iter().map(|row| row.try_get_by_index(0)).collect::<Result<Vec<String>, DbErr>>()?;
    Ok(applied.into_iter().find(|version| !known.contains(version)))
}

async fn tables(connection: &DatabaseConnection) -> Result<Vec<String>, DbErr> {
    let backend = connection.get_database_backend();
    let statement = match backend {
        DbBackend::Postgres => {
            "SELECT table_name::text FROM information_schema.tables WHERE table_schema = current_schema() ORDER BY table_name"
        }
        DbBackend::MySql => {
            "SELECT table_name FROM information_schema.tables WHERE table_schema = database() ORDER BY table_name"
        }
        _ => "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name",
    };
    let rows = connection.query_all_raw(Statement::from_string(backend, statement)).await?;
    rows.iter().map(|row| row.try_get_by_index(0)).collect()
}
