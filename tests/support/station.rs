//! Servers and workers as processes, with the real broker between them.

use std::process::Command;

use sea_orm::{ColumnTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder};
use serde_json::{Value, json};
use studygovernor::engine::Engine;
use studygovernor::entity::callback_execution::{Column, Entity, Model};
use studygovernor::entity::kind::ExecutionStatus;
use tempfile::TempDir;

use super::{Backend, Caller, Program, Study, create_database, eventually, studygovernor};

/// A study with its own database and queues.
pub struct Station {
    pub home: TempDir,
    pub database: String,
    pub broker: String,
    /// The prefix of its queue names.
    pub prefix: String,
    pub engine: Engine,
}

/// The key of the servers.
pub const KEY: &str = "a key of the tests";

impl Station {
    pub async fn new(backend: Backend) -> Self {
        let home = tempfile::tempdir().unwrap();
        let database = match backend {
            Backend::Sqlite => format!("sqlite:///{}", home.path().join("study.db").display()),
            Backend::Postgres => create_database("TEST_POSTGRES_URL").await,
            Backend::Mariadb => create_database("TEST_MARIADB_URL").await,
        };
        Self::on(home, database).await
    }

    /// On an empty database.
    pub async fn on(home: TempDir, database: String) -> Self {
        super::use_condition_worker();
        let broker =
            std::env::var("TEST_RABBITMQ_URL").expect("TEST_RABBITMQ_URL is not set: run the tests with `make test`");
        let prefix = format!("test-{}", uuid::Uuid::new_v4().simple());
        let engine = Study::of(&database).await;
        engine.database().migrate().await.unwrap();
        Self { home, database, broker, prefix, engine }
    }

    /// A server that publishes to the broker; `environment` overrides other settings.
    pub fn server(&self, environment: &[(&str, &str)]) -> Program {
        let mut command = studygovernor(self.home.path(), &["serve"]);
        command
            .env("DATABASE_URL", &self.database)
            .env("SECRET_KEY", KEY)
            .env("SECURITY_PASSWORD_SALT", "a salt of the tests")
            .env("STUDYGOV_ADMIN_USERNAME", "admin")
            .env("STUDYGOV_ADMIN_EMAIL", "admin@example.com")
            .env("STUDYGOV_ADMIN_PASSWORD", "admin")
            .env("STUDYGOV_CALLBACK_METHOD", "rabbitmq")
            .env("STUDYGOV_CELERY_BROKER", &self.broker)
            .env("STUDYGOV_BROKER_PREFIX", &self.prefix)
            .env("STUDYGOV_PORT", "0")
            .envs(environment.iter().copied());
        Program::start_until(command, "listens on ")
    }

    /// A worker as on another machine: it knows the broker, but nothing of the server.
    pub fn worker(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Program {
        Program::start_until(self.worker_command(arguments, environment), "connected to the broker")
    }

    pub fn worker_command(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
        let mut command = studygovernor(self.home.path(), &["worker"]);
        command
            .args(arguments)
            .env("STUDYGOV_BROKER", &self.broker)
            .env("STUDYGOV_BROKER_PREFIX", &self.prefix)
            .env("STUDYGOV_LOG", "debug,lapin=warn,h2=warn,hyper=warn,hyper_util=warn,reqwest=warn,rustls=warn")
            .envs(environment.iter().copied());
        command
    }

    /// Loads the workflow, and creates a cohort and a subject.
    pub async fn load(&self, server: &Program, workflow: &str) {
        let admin = Caller::admin_at(&server.url);
        let body = json!({ "workflow_definition": workflow });
        admin.post("/api/v2/service/config/import-workflow", body).await.expect(201);
        admin.post("/api/v2/cohorts", json!({ "label": "cohort" })).await.expect(201);
        admin.post("/api/v2/subjects", json!({ "label": "subject", "cohort_label": "cohort" })).await.expect(201);
    }

    pub async fn create(&self, server: &Program, label: &str) -> Value {
        let body = json!({ "label": label, "scandate": "2024-03-01T10:00:00", "subject_id": 1 });
        Caller::admin_at(&server.url).post("/api/v2/experiments", body).await.expect(201)
    }

    pub async fn execution(&self, id: i32) -> Model {
        Entity::find_by_id(id).one(self.engine.database().reader()).await.unwrap().unwrap()
    }

    /// All executions, oldest first.
    pub async fn executions(&self) -> Vec<Model> {
        Entity::find().order_by_asc(Column::Id).all(self.engine.database().reader()).await.unwrap()
    }

    /// Waits until the execution is in this status.
    pub async fn reaches(&self, id: i32, status: ExecutionStatus) -> Model {
        eventually(&format!("execution {id} to be {status}"), async || {
            let found = Entity::find_by_id(id).one(self.engine.database().reader()).await.unwrap();
            found.filter(|row| row.status == status)
        })
        .await
    }

    /// Waits until no execution is open.
    pub async fn is_done(&self, experiments: u64) {
        eventually("all executions to be over", async || {
            let connection = self.engine.database().reader();
            let open = Entity::find().filter(Column::Status.is_not_in(ExecutionStatus::RESOLVED));
            let open = open.count(connection).await.ok()?;
            let there = studygovernor::entity::experiment::Entity::find().count(connection).await.ok()?;
            (open == 0 && there == experiments).then_some(())
        })
        .await;
    }
}
