//! The JSON API over HTTP: the recorded responses of version 8.1, its real client, and our additions.

mod access;
mod additions;
mod client;
mod defects;
mod description;
mod filters;
mod golden;
mod lengths;
mod lists;
mod many;
mod moment;
mod paging;
mod statements;
mod uncertain;

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Backend, Login, Program, Proxy, create_database, studygovernor};

pub use crate::support::Caller;

/// The workflow that was used for the recordings.
pub const WORKFLOW: &str = include_str!("workflow.yaml");

/// Accounts, external systems and scantypes that were used for the recordings.
pub const CONFIGURATION: &str = include_str!("config.yaml");

/// A server that does not run callbacks itself, so that they wait for reports of the test.
pub struct Server {
    pub program: Program,
    pub home: TempDir,
    pub database: String,
}

impl Server {
    /// An empty study with an administrator `admin`/`admin`.
    pub async fn empty(backend: Backend) -> Self {
        Self::with(backend, &[]).await
    }

    pub async fn with(backend: Backend, environment: &[(&str, &str)]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let database = match backend {
            Backend::Sqlite => format!("sqlite:///{}", home.path().join("study.db").display()),
            Backend::Postgres => create_database("TEST_POSTGRES_URL").await,
            Backend::Mariadb => create_database("TEST_MARIADB_URL").await,
        };
        Self { program: serve(home.path(), &database, environment), home, database }
    }

    /// A study whose server connects to its database through a proxy. `database` is the URL without the proxy.
    pub async fn behind_proxy(backend: Backend, environment: &[(&str, &str)]) -> (Self, Proxy) {
        let server = Self::study(backend).await;
        let proxy = Proxy::to(&server.database).await;
        let through = proxy.address(&server.database);
        let program = serve(server.home.path(), &through, environment);
        (Self { program, ..server }, proxy)
    }

    /// Another server on the same database.
    pub fn beside(&self, environment: &[(&str, &str)]) -> Program {
        serve(self.home.path(), &self.database, environment)
    }

    /// With the accounts, systems, scantypes and the workflow of the recordings, one cohort and two subjects in it.
    pub async fn study(backend: Backend) -> Self {
        let server = Self::empty(backend).await;
        let admin = server.admin();
        admin
            .post("/api/v2/service/config/import-config", json!({ "config_definition": CONFIGURATION }))
            .await
            .expect(201);
        admin
            .post("/api/v2/service/config/import-workflow", json!({ "workflow_definition": WORKFLOW }))
            .await
            .expect(201);
        admin.post("/api/v2/cohorts", json!({ "label": "baseline" })).await.expect(201);
        for label in ["sub-01", "sub-02"] {
            admin.post("/api/v2/subjects", json!({ "label": label, "cohort_label": "baseline" })).await.expect(201);
        }
        server
    }

    fn caller(&self, login: Login) -> Caller {
        Caller::at(&self.program.url, login)
    }

    pub fn nobody(&self) -> Caller {
        self.caller(Login::Nobody)
    }

    pub fn basic(&self, login: &str, password: &str) -> Caller {
        self.caller(Login::Basic(login.to_owned(), password.to_owned()))
    }

    pub fn bearer(&self, token: &str) -> Caller {
        self.caller(Login::Bearer(token.to_owned()))
    }

    pub fn admin(&self) -> Caller {
        self.basic("admin", "admin")
    }

    /// A superuser.
    pub fn alice(&self) -> Caller {
        self.basic("alice", "alice-password")
    }

    /// A user.
    pub fn bob(&self) -> Caller {
        self.basic("bob", "bob-password")
    }

    /// Creates an experiment of subject 1; its two callbacks wait for reports.
    pub async fn experiment(&self, label: &str) -> Value {
        let body = json!({ "label": label, "scandate": "2024-03-01T10:00:00", "subject_id": 1 });
        self.admin().post("/api/v2/experiments", body).await.expect(201)
    }
}

fn serve(home: &Path, database: &str, environment: &[(&str, &str)]) -> Program {
    let mut command = studygovernor(home, &["serve"]);
    command
        .env("DATABASE_URL", database)
        .env("SECRET_KEY", "a key of the tests")
        .env("SECURITY_PASSWORD_SALT", "a salt of the tests")
        .env("STUDYGOV_ADMIN_USERNAME", "admin")
        .env("STUDYGOV_ADMIN_EMAIL", "admin@example.com")
        .env("STUDYGOV_ADMIN_PASSWORD", "admin")
        .env("STUDYGOV_CALLBACK_METHOD", "rabbitmq")
        .env("STUDYGOV_CELERY_BROKER", "amqp://127.0.0.1:1/")
        .envs(environment.iter().copied())
        .stdin(Stdio::null());
    Program::start(command)
}

/// The Python of the tests, with the packages of `tests/requirements.txt`.
pub fn python() -> std::process::Command {
    let path = std::env::var("TEST_PYTHON").expect("TEST_PYTHON is not set: run the tests with `make test`");
    let mut command = std::process::Command::new(path);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    command
}
