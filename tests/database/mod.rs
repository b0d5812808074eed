//! The schema, up and down, on the three databases.

mod snapshot;

use sea_orm::{ConnectionTrait, EntityTrait, Statement};
use studygovernor::app::StartError;
use studygovernor::database::Database;
use studygovernor::entity::{cohort, workflow};

use crate::support::{Backend, Study, on_every_database};

mod frozen;
mod full;
mod interrupted;
mod lost;
mod trust;

on_every_database! {
    migrations_go_up_and_down_and_up_again;
    every_entity_fits_its_table;
    foreign_keys_are_kept;
    a_program_older_than_the_tables_says_so_and_changes_nothing;
}

async fn migrations_go_up_and_down_and_up_again(study: Study) {
    let database = study.engine.database();
    assert!(database.migration_status().await.unwrap().iter().all(|(_, applied)| *applied));
    database.clean().await.unwrap();
    assert!(database.migration_status().await.unwrap().iter().all(|(_, applied)| !*applied));
    assert!(workflow::Entity::find().one(database.reader()).await.is_err());
    database.migrate().await.unwrap();
    database.migrate().await.unwrap();
    assert!(workflow::Entity::find().one(database.reader()).await.unwrap().is_none());
}

/// Downgrade: the list contains a migration that this program does not know.
async fn a_program_older_than_the_tables_says_so_and_changes_nothing(study: Study) {
    let database = study.engine.database();
    // If anything were migrated, it would be this one.
    let newest = database.migration_status().await.unwrap().pop().unwrap().0;
    for statement in [
        format!("DELETE FROM seaql_migrations WHERE version = '{newest}'"),
        "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m29991231_000001_later', 0)".to_owned(),
    ] {
        database.reader().execute_unprepared(&statement).await.unwrap();
    }
    for error in [database.migrate().await.unwrap_err(), database.migration_status().await.unwrap_err()] {
        let error = StartError::Migration(error).to_string();
        let words = "cannot migrate the database: its tables belong to a later version of Study Governor (m29991231_000001_later)";
        assert!(error.starts_with(words), "{error}");
    }
    let count = Statement::from_string(
        database.reader().get_database_backend(),
        format!("SELECT version FROM seaql_migrations WHERE version = '{newest}'"),
    );
    assert!(database.reader().query_one_raw(count).await.unwrap().is_none());
}

async fn every_entity_fits_its_table(study: Study) {
    use studygovernor::entity::*;
    let connection = study.engine.database().reader();
    macro_rules! read {
        ($($table:ident),*) => {$(
            $table::Entity::find().one(connection).await.unwrap_or_else(|error| panic!("{}: {error}", stringify!($table)));
        )*};
    }
    read!(workflow, state, transition, callback, cohort, subject, experiment, variable, scantype, scan);
    read!(external_system, external_system_history, external_cohort_urls, external_subject_links);
    read!(external_experiment_links, action, callback_execution, user, role, roles_users, session);
    read!(api_token, audit_event, audit_seal, outbox, mailing, mail_link, recovery_code, role_scope, study_clock);
    read!(project_revision);
}

async fn foreign_keys_are_kept(study: Study) {
    let insert = "INSERT INTO subject (label, cohort_id) VALUES ('orphan', 4711)";
    assert!(study.engine.database().reader().execute_unprepared(insert).await.is_err());
}

/// If several servers start at once on an empty database, one migrates and the others wait.
async fn servers_that_start_together_migrate_once(backend: Backend) {
    let study = Study::empty(backend).await;
    let servers = (0..4).map(|_| {
        let settings = study.settings.clone();
        tokio::spawn(async move { Database::connect(&settings).await.unwrap().migrate().await })
    });
    for server in servers.collect::<Vec<_>>() {
        server.await.unwrap().unwrap();
    }
    assert!(cohort::Entity::find().one(study.engine.database().reader()).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_start_together_migrate_once_on_sqlite() {
    servers_that_start_together_migrate_once(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_start_together_migrate_once_on_postgres() {
    servers_that_start_together_migrate_once(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_start_together_migrate_once_on_mariadb() {
    servers_that_start_together_migrate_once(Backend::Mariadb).await;
}
