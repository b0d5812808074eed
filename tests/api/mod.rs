//! The JSON API over HTTP: the recorded answers of the existing product, its real client, and what is new.

mod access;
mod additions;
mod client;
mod defects;
mod description;
mod golden;
mod lists;
mod many;
mod statements;

use std::path::Path;
use std::process::Stdio;

use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Backend, Program, create_database, studygovernor};

/// The workflow of the recordings.
pub const WORKFLOW: &str = include_str!("workflow.yaml");

/// Accounts, external systems and scantypes of the recordings.
pub const CONFIGURATION: &str = include_str!("config.yaml");

/// A server with nobody who runs callbacks, so that they wait for what a test reports.
pub struct Server {
    pub program: Program,
    pub home: TempDir,
    pub database: String,
}

/// What a request was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    /// The body of an answer with this status.
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        self.body
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Somebody who asks.
#[derive(Clone)]
pub struct Caller {
    client: Client,
    base: String,
    login: Login,
}

#[derive(Clone)]
enum Login {
    Nobody,
    Basic(String, String),
    Bearer(String),
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
        let mut command = studygovernor(home.path(), &["serve"]);
        command
            .env("DATABASE_URL", &database)
            .env("SECRET_KEY", "a key of the tests")
            .env("SECURITY_PASSWORD_SALT", "a salt of the tests")
            .env("STUDYGOV_ADMIN_USERNAME", "admin")
            .env("STUDYGOV_ADMIN_EMAIL", "admin@example.com")
            .env("STUDYGOV_ADMIN_PASSWORD", "admin")
            .env("STUDYGOV_CALLBACK_METHOD", "rabbitmq")
            .env("STUDYGOV_CELERY_BROKER", "amqp://127.0.0.1:1/")
            .envs(environment.iter().copied())
            .stdin(Stdio::null());
        Self { program: Program::start(command), home, database }
    }

    /// With the accounts, systems, scantypes and the workflow of the recordings, one cohort and two subjects of it.
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
        rustls::crypto::ring::default_provider().install_default().ok();
        Caller { client: Client::new(), base: self.program.url.clone(), login }
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

    /// A new experiment of subject 1; its two callbacks wait to be reported on.
    pub async fn experiment(&self, label: &str) -> Value {
        let body = json!({ "label": label, "scandate": "2024-03-01T10:00:00", "subject_id": 1 });
        self.admin().post("/api/v2/experiments", body).await.expect(201)
    }
}

impl Caller {
    /// The administrator at a server that runs elsewhere.
    pub fn admin_at(url: &str) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let login = Login::Basic("admin".to_owned(), "admin".to_owned());
        Self { client: Client::new(), base: url.to_owned(), login }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match &self.login {
            Login::Nobody => request,
            Login::Basic(login, password) => request.basic_auth(login, Some(password)),
            Login::Bearer(token) => request.bearer_auth(token),
        }
    }

    pub async fn send(&self, request: RequestBuilder) -> Answer {
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        let text = answer.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(if text.is_empty() { Value::Null } else { json!(text) });
        Answer { status, headers, body }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::POST, path).json(&body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::PUT, path).json(&body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }
}

/// The Python of the tests, with what `tests/requirements.txt` names.
pub fn python() -> std::process::Command {
    let path = std::env::var("TEST_PYTHON").expect("TEST_PYTHON is not set: run the tests with `make test`");
    let mut command = std::process::Command::new(path);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    command
}
