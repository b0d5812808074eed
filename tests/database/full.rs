//! E15: a disk that is full for some time. Uses a small file system, which only root can mount; otherwise a limit of
//! the file size replaces it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use reqwest::{Client, Method, redirect};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use sea_orm::{ConnectionTrait, EntityTrait};
use serde_json::json;
use studygovernor::database::Database;
use studygovernor::entity::kind::ExecutionStatus;
use studygovernor::entity::{callback_execution, state};
use tempfile::TempDir;

use crate::support::{Caller, Program, SmallDisk, Study, eventually, free_port, give_to_postgres};

/// The callback writes the number of its execution outside of the database.
fn workflow(effects: &Path) -> String {
    format!(
        "label: full\nstates:\n- label: root\n  transitions: [{{destination: first}}]\n- label: first\n  transitions: [{{destination: run}}]\n\
         - label: run\n  callbacks:\n  - {{label: effect, function: command, callback_arguments: {{binary: sh, args: [-c, \
         \"echo $STUDYGOV_EXECUTION_ID >> {}\"]}}}}\n  transitions: [{{destination: end}}]\n- label: end\n",
        effects.display()
    )
}

/// A study whose disk can be filled, with its own server.
struct Full {
    server: Program,
    database: String,
    home: TempDir,
}

impl Full {
    async fn start(database: String) -> Self {
        let home = tempfile::tempdir().unwrap();
        // The limit of the file size causes a signal, which would end the process.
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; exec \"$0\" serve", env!("CARGO_BIN_EXE_studygovernor")]);
        command.current_dir(home.path()).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command
            .env("DATABASE_URL", &database)
            .env("STUDYGOV_XNAT_PROJECT", "test")
            .env("SECRET_KEY", "a key of the tests")
            .env("SECURITY_PASSWORD_SALT", "a salt of the tests")
            .env("STUDYGOV_ADMIN_USERNAME", "admin")
            .env("STUDYGOV_ADMIN_EMAIL", "admin@example.com")
            .env("STUDYGOV_ADMIN_PASSWORD", "admin");
        let full = Self { server: Program::start(command), database, home };
        let definition = workflow(&full.effects());
        let admin = full.admin();
        let body = json!({ "workflow_definition": definition });
        admin.post("/api/v2/service/config/import-workflow", body).await.expect(201);
        let experiments: Vec<_> =
            (0..9).map(|number| json!({ "label": format!("e{number}"), "scandate": "2024-01-01" })).collect();
        let subjects = json!([{ "cohort": "c", "label": "s", "experiments": experiments }]);
        admin.post("/api/v2/import", subjects).await.expect(200);
        full
    }

    fn effects(&self) -> PathBuf {
        self.home.path().join("effects")
    }

    fn admin(&self) -> Caller {
        Caller::admin_at(&self.server.url)
    }

    /// Writes until the disk is full; returns the response that reports it.
    async fn fill(&self, round: u32) -> (u16, String) {
        for number in 0..400 {
            // Random data, which the database cannot compress.
            let noise: String = (0..30_000).map(|_| format!("{:08x}", rand::random::<u32>())).collect();
            let experiment = json!({ "label": "e", "scandate": "2024-01-01", "variables": { "noise": noise } });
            let subjects =
                json!([{ "cohort": "c", "label": format!("fill-{round}-{number}"), "experiments": [experiment] }]);
            let answer = self.admin().post("/api/v2/import", subjects).await;
            let body = answer.body.to_string();
            if answer.status != 200 {
                return (answer.status.as_u16(), body);
            }
            // A partially imported list reports the remaining items in its response.
            if body.contains("disk") {
                return (200, body);
            }
        }
        panic!("the disk does not get full");
    }

    /// Users log in with a browser and with a script, read, and log out.
    async fn can_log_in_and_read(&self) {
        let client = Client::builder().redirect(redirect::Policy::none()).build().unwrap();
        let form = "login=admin&password=admin";
        let request = client.post(format!("{}/login", self.server.url)).body(form);
        let answer = request.header("content-type", "application/x-www-form-urlencoded").send().await.unwrap();
        assert_eq!(answer.status(), 303, "{}", answer.text().await.unwrap());
        let cookie = answer.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
        let page = async |method: Method, path: &str| {
            let request = client.request(method, format!("{}{path}", self.server.url)).header("cookie", &cookie);
            request.send().await.unwrap().status().as_u16()
        };
        assert_eq!(page(Method::GET, "/experiments").await, 200);
        assert_eq!(page(Method::POST, "/logout").await, 303);
        assert_eq!(page(Method::GET, "/experiments").await, 303, "the session has ended");
        self.admin().get("/api/v2/experiments").await.expect(200);
    }

    async fn is_ready(&self) {
        eventually("the server to be ready again", async || {
            (self.admin().get("/-/ready").await.status == 200).then_some(())
        })
        .await;
    }

    /// Moves an experiment, and checks that other readers see the change.
    async fn moves(&self, experiment: i32) {
        let path = format!("/api/v2/experiments/{experiment}/state");
        self.admin().put(&path, json!({ "state": "run" })).await.expect(200);
        let other = Study::of(&self.database).await;
        eventually("the callback to be run and reported", async || {
            let experiment = studygovernor::entity::experiment::Entity::find_by_id(experiment);
            let experiment = experiment.one(other.database().reader()).await.unwrap().unwrap();
            let state = state::Entity::find_by_id(experiment.state_id).one(other.database().reader());
            (state.await.unwrap().unwrap().label == "end").then_some(())
        })
        .await;
    }

    /// E2: each run with an effect has been committed.
    async fn every_effect_was_committed(&self) {
        let other = Study::of(&self.database).await;
        let text = std::fs::read_to_string(self.effects()).unwrap();
        for id in text.lines().map(|line| line.parse::<i32>().unwrap()) {
            let row = callback_execution::Entity::find_by_id(id).one(other.database().reader()).await.unwrap();
            assert_eq!(row.unwrap().status, ExecutionStatus::Finished, "execution {id}");
        }
    }

    /// Checks the behaviour while the disk is full, and afterwards.
    async fn fills_and_recovers(&self, experiment: i32, make_room: impl AsyncFnOnce()) {
        let (status, body) = self.fill(u32::try_from(experiment).unwrap()).await;
        assert!([200, 503, 507].contains(&status), "{status}: {body}");
        assert!(body.contains("disk"), "{status}: {body}");
        let ready = self.admin().get("/-/ready").await;
        assert_eq!(ready.status, 500, "{}", ready.body);
        assert!(ready.body["database"].as_str().unwrap().contains("disk"), "{}", ready.body);
        self.can_log_in_and_read().await;
        make_room().await;
        self.is_ready().await;
        self.moves(experiment).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e15_sqlite_on_a_full_disk() {
    let Some(disk) = SmallDisk::new(6) else { return };
    let full = Full::start(format!("sqlite:///{}", disk.folder.join("study.db").display())).await;
    // Whether a transaction fails in the middle or at its end is random.
    for (experiment, megabytes) in [(1, 16), (2, 26), (3, 80)] {
        full.fills_and_recovers(experiment, async || disk.grow(megabytes)).await;
    }
    full.every_effect_was_committed().await;
}

/// Like a failing disk: the file cannot grow, and the error differs from that of a full disk.
#[tokio::test(flavor = "multi_thread")]
async fn e15_sqlite_whose_file_cannot_grow() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("study.db");
    let full = Full::start(format!("sqlite:///{}", file.display())).await;
    let server = Pid::from_raw(i32::try_from(full.server.id()).unwrap());
    let limit = |bytes: Option<u64>| {
        let unlimited = Rlimit { current: bytes, maximum: None };
        prlimit(server, Resource::Fsize, unlimited).unwrap();
    };
    for experiment in 1..3 {
        let size = std::fs::metadata(&file).unwrap().len().max(4 << 20);
        limit(Some(size + (1 << 20)));
        full.fills_and_recovers(experiment, async || limit(None)).await;
    }
    full.every_effect_was_committed().await;
}

/// A PostgreSQL server for this test alone, which may break. Stopped when dropped.
struct OwnPostgres {
    server: Child,
    url: String,
    _home: TempDir,
}

impl OwnPostgres {
    async fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let data = home.path().join("data");
        let versions = Path::new("/usr/lib/postgresql").read_dir().unwrap();
        let bin = versions.flatten().map(|entry| entry.path().join("bin")).max().unwrap();
        // The server refuses to run as root, and only root reaches this code.
        give_to_postgres(home.path());
        let as_postgres = |program: &str| {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups", "--"]).arg(bin.join(program));
            command.current_dir(home.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let mut init = as_postgres("initdb");
        init.args(["-U", "postgres", "--auth=trust", "--no-sync", "-D"]).arg(&data);
        assert!(init.status().unwrap().success());
        let port = free_port();
        let mut serve = as_postgres("postgres");
        serve.arg("-D").arg(&data).args(["-p", &port, "-c", "listen_addresses=127.0.0.1"]);
        let server = serve.args(["-c", "unix_socket_directories=", "-c", "fsync=off"]).spawn().unwrap();
        let url = format!("postgres://postgres@127.0.0.1:{port}");
        let address = format!("{url}/postgres");
        eventually("the database server to answer", async || sea_orm::Database::connect(&address).await.ok()).await;
        Self { server, url, _home: home }
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        // `setpriv` has become the server. SIGQUIT also ends its children immediately.
        let server = Pid::from_child(&self.server);
        rustix::process::kill_process(server, rustix::process::Signal::QUIT).ok();
        self.server.wait().ok();
    }
}

/// The tables of the study are in a tablespace on the small disk; the log of the server is not.
#[tokio::test(flavor = "multi_thread")]
async fn e15_postgres_on_a_full_disk() {
    let Some(disk) = SmallDisk::new(24) else { return };
    let own = OwnPostgres::start().await;
    let server = sea_orm::Database::connect(&format!("{}/postgres", own.url)).await.unwrap();
    let folder = disk.folder_of_postgres();
    server.execute_unprepared(&format!("CREATE TABLESPACE small LOCATION '{}'", folder.display())).await.unwrap();
    server.execute_unprepared("CREATE DATABASE study TABLESPACE small").await.unwrap();
    let full = Full::start(format!("{}/study", own.url)).await;
    full.fills_and_recovers(1, async || disk.grow(100)).await;
    full.every_effect_was_committed().await;
}

/// Another process holds the lock for writing, like a command that has stopped: reading still works.
#[tokio::test(flavor = "multi_thread")]
async fn e14_sqlite_that_another_process_has_locked_is_still_read() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("study.db");
    let full = Full::start(format!("sqlite:///{}", file.display())).await;
    let settings = studygovernor::config::DatabaseSettings::parse("x", &full.database).unwrap();
    let other = Database::connect(&settings).await.unwrap();
    let held = other.begin().await.unwrap();
    let answer = full.admin().put("/api/v2/experiments/1/state", json!({ "state": "run" })).await;
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert_eq!(answer.header("retry-after"), "5");
    full.admin().get("/api/v2/experiments").await.expect(200);
    drop(held);
    full.moves(1).await;
}
