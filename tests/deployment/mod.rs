//! Features for deployments: secrets from files, tables that another program migrates, probes, load per queue, Secrets
//! of a cluster, files for packages.

mod local;
mod project;
mod tls;

use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use chrono::TimeDelta;
use sea_orm::EntityTrait;
use serde_json::{Value, json};
use studygovernor::queue::{Available, claim};
use studygovernor::study::queue_load::queue_loads;

use crate::api::Server;
use crate::support::{
    Backend, Program, Said, Study, create_database, ctx, eventually, on_every_database, studygovernor,
    use_condition_worker,
};

on_every_database! {
    the_load_of_each_queue_says_how_many_workers_it_wants;
}

async fn the_load_of_each_queue_says_how_many_workers_it_wants(study: Study) {
    study
        .load(
            "label: w\nstates:\n  - {label: r, transitions: [{destination: s}]}\n  - label: s\n    callbacks:\n      \
             - {label: a, function: sleep, callback_arguments: {queue: gpu}}\n      \
             - {label: b, function: sleep, callback_arguments: {queue: gpu}}\n      \
             - {label: c, function: sleep}\n      \
             - {label: d, function: sleep, callback_arguments: {queue: late}, initial_delay: 600}\n",
        )
        .await;
    let experiment = study.create("e").await;
    let (database, now) = (study.engine.database(), study.clock.now());
    let loads = async |concurrency| {
        let loads = queue_loads(ctx(), database.reader(), now, "default", concurrency, 4).await.unwrap();
        loads.into_iter().map(|load| (load.queue.clone(), load)).collect::<BTreeMap<_, _>>()
    };
    let all = loads(None).await;
    let shown = |queue: &str| (all[queue].queued, all[queue].running, all[queue].wanted);
    assert_eq!((shown("gpu"), shown("default")), ((2, 0, 1), (1, 0, 1)));
    let one_each = loads(Some(1)).await;
    assert_eq!((one_each["gpu"].wanted, one_each["default"].wanted), (2, 1));

    // A claimed execution is no longer at the broker, but still needs its worker.
    let execution = &study.executions(experiment.id).await["a"];
    let wanted = Available { id: execution.id, attempt: execution.attempt };
    assert!(claim(database.reader(), wanted, "w", now, TimeDelta::seconds(15), None).await.unwrap());
    let after = loads(Some(1)).await;
    assert_eq!((after["gpu"].queued, after["gpu"].running, after["gpu"].wanted), (1, 1, 2));
}

/// A command that uses the database at `url`, with secrets from files.
fn with_secret_files(home: &std::path::Path, url: &str, arguments: &[&str]) -> Command {
    use_condition_worker();
    std::fs::write(home.join("key"), "a key of the tests\n").unwrap();
    std::fs::write(home.join("salt"), "a salt of the tests\n").unwrap();
    std::fs::write(home.join("url"), format!("{url}\n")).unwrap();
    let mut command = studygovernor(home, arguments);
    command.env("DATABASE_URL_FILE", "url").env("SECRET_KEY_FILE", "key").env("SECURITY_PASSWORD_SALT_FILE", "salt");
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_waits_until_another_program_has_migrated() {
    let home = tempfile::tempdir().unwrap();
    let url = create_database("TEST_POSTGRES_URL").await;
    let mut command = with_secret_files(home.path(), &url, &["serve"]);
    command.env("STUDYGOV_MIGRATE", "wait").env("STUDYGOV_PORT", "0").env("SCRIPT_NAME", "/prefix");
    let program = Program::start_until(command, "responding with 503 on ");
    let client = reqwest::Client::new();
    let ask = async |path: &str| {
        let answer = client.get(format!("{}{path}", program.url)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(ask("/-/healthy").await.0, 200);
    let (status, body) = ask("/-/ready").await;
    assert_eq!(status, 503);
    assert!(body.contains("the database has no tables yet; this program requires schema version m2026"), "{body}");
    assert_eq!(ask("/").await.0, 503);
    // Commands do not wait forever, and servers do not wait in mode `off`.
    for (mode, arguments) in [("wait", &["workflow", "list"][..]), ("off", &["serve"][..])] {
        let mut command = with_secret_files(home.path(), &url, arguments);
        let output = command.env("STUDYGOV_MIGRATE", mode).env("STUDYGOV_PORT", "0").output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", output.err());
        assert!(output.err().contains("the database has no tables yet"), "{}", output.err());
    }
    let output = with_secret_files(home.path(), &url, &["db", "migrate"]).output().unwrap();
    assert!(output.status.success(), "{}", output.err());
    eventually("the server to be ready", async || (ask("/-/ready").await.0 == 200).then_some(())).await;
    let (status, body) = ask("/-/queues?queue=gpu&concurrency=2").await;
    let idle = json!({ "queue": "gpu", "queued": 0, "running": 0, "concurrency": 2, "wanted": 0 });
    assert_eq!((status, serde_json::from_str::<Value>(&body).unwrap()), (200, idle));
    assert_eq!(ask("/-/queues?concurrency=0").await.0, 400);
}

/// Metrics and queues on a separate port are not served with the pages, where a proxy would expose them to anyone.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_can_have_a_port_of_their_own() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let home = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let own = format!("127.0.0.1:{port}");
    let serve = |listen: Option<&str>| {
        use_condition_worker();
        let mut command = studygovernor(home.path(), &["serve"]);
        command.env("STUDYGOV_PORT", "0").env("SCRIPT_NAME", "/prefix");
        command.envs(listen.map(|listen| ("STUDYGOV_METRICS_LISTEN", listen)));
        command
    };
    let status = async |url: String| reqwest::get(url).await.unwrap().status().as_u16();
    let program = Program::start(serve(Some(&own)));
    for path in ["/-/metrics", "/-/queues", "/-/ready", "/-/healthy"] {
        assert_eq!(status(format!("http://{own}{path}")).await, 200, "{path}");
    }
    assert_eq!(status(format!("http://{own}/login")).await, 404, "pages are elsewhere");
    for path in ["metrics", "queues", "metrics/", "%6detrics", "queues?queue=gpu"] {
        assert_eq!(status(format!("{}/-/{path}", program.url)).await, 404, "{path}");
    }
    assert_eq!(status(format!("{}/-/ready", program.url)).await, 200);
    assert_eq!(program.terminate(), Some(0));

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for (wrong, code) in [("nonsense", 2), (taken.local_addr().unwrap().to_string().as_str(), 1)] {
        let output = serve(Some(wrong)).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", output.err());
        assert!(output.err().contains("error: STUDYGOV_METRICS_LISTEN: "), "{}", output.err());
    }
    let program = Program::start(serve(None));
    assert_eq!(status(format!("{}/-/metrics", program.url)).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_answers_probes_where_it_is_told_to() {
    let home = tempfile::tempdir().unwrap();
    let url = create_database("TEST_POSTGRES_URL").await;
    let mut command = with_secret_files(home.path(), &url, &["worker"]);
    command.env("STUDYGOV_WORKER_LISTEN", "127.0.0.1:0").env("STUDYGOV_WORKER_GRACE", "2m");
    let program = Program::start_until(command, "serving probes on ");
    assert_eq!(reqwest::get(&program.url).await.unwrap().status(), 200);
    let metrics = reqwest::get(program.url.replace("healthy", "metrics")).await.unwrap();
    assert_eq!(metrics.status(), 200);
    assert_eq!(program.terminate(), Some(0));
    for (name, value, code) in [
        ("STUDYGOV_WORKER_LISTEN", "nonsense", 2),
        ("STUDYGOV_WORKER_LISTEN", "203.0.113.1:1", 1),
        ("STUDYGOV_WORKER_GRACE", "a while", 2),
        ("DB_PASSWORD_FILE", "absent", 2),
    ] {
        let output = with_secret_files(home.path(), &url, &["worker"]).env(name, value).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", output.err());
        assert!(output.err().contains(&format!("error: {name}: ")), "{}", output.err());
    }
}

/// The Secrets of a namespace, as stored by an API server. Every third patch conflicts with another change.
#[derive(Clone, Default)]
struct Cluster(Arc<Mutex<BTreeMap<String, Value>>>, Arc<Mutex<u64>>);

impl Cluster {
    async fn start(&self) -> String {
        let create = async |State(cluster): State<Self>, Json(mut secret): Json<Value>| {
            let mut all = cluster.0.lock().unwrap();
            let name = secret["metadata"]["name"].as_str().unwrap().to_owned();
            if all.contains_key(&name) {
                return (StatusCode::CONFLICT, Json(json!({ "message": "already exists" })));
            }
            secret["metadata"]["resourceVersion"] = json!("1");
            all.insert(name, secret.clone());
            (StatusCode::CREATED, Json(secret))
        };
        let read = async |State(cluster): State<Self>, Path(name): Path<String>| {
            Json(cluster.0.lock().unwrap()[&name].clone())
        };
        let change = async |State(cluster): State<Self>, Path(name): Path<String>, body: String| {
            let patch: Value = serde_json::from_str(&body).unwrap();
            let mut patches = cluster.1.lock().unwrap();
            *patches += 1;
            let mut all = cluster.0.lock().unwrap();
            let secret = all.get_mut(&name).unwrap();
            let version: u64 = secret["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
            if *patches % 3 == 1 || patch["metadata"]["resourceVersion"] != secret["metadata"]["resourceVersion"] {
                secret["metadata"]["resourceVersion"] = json!((version + 1).to_string());
                return StatusCode::CONFLICT;
            }
            for (key, value) in patch["data"].as_object().unwrap() {
                secret["data"][key] = value.clone();
            }
            secret["metadata"]["resourceVersion"] = json!((version + 1).to_string());
            StatusCode::OK
        };
        let routes = Router::new()
            .route("/api/v1/namespaces/studies/secrets", post(create))
            .route("/api/v1/namespaces/studies/secrets/{name}", get(read).patch(change))
            .with_state(self.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        url
    }

    fn data(&self) -> Value {
        self.0.lock().unwrap()["sg-generated"]["data"].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_a_cluster_are_made_once_and_never_changed() {
    let account = tempfile::tempdir().unwrap();
    std::fs::write(account.path().join("token"), "t").unwrap();
    std::fs::write(account.path().join("namespace"), "studies").unwrap();
    let cluster = Cluster::default();
    let url = cluster.start().await;
    let make = async |keys: &'static str| {
        let (home, url) = (account.path().to_owned(), url.clone());
        let make = move || -> Output {
            let folder = home.display().to_string();
            let start = ["kubernetes", "make-secrets", "--name", "sg-generated", "--label", "app=sg", "--keys", keys];
            let end = ["--service-account", &folder, "--api-server", &url];
            studygovernor(&home, &[&start[..], &end[..]].concat()).output().unwrap()
        };
        let output = tokio::task::spawn_blocking(make).await.unwrap();
        assert!(output.status.success(), "{}", output.err());
        output.out()
    };
    assert!(make("secret_key,db_password").await.starts_with("created Secret sg-generated"));
    let first = cluster.data();
    assert_eq!(first["secret_key"].as_str().unwrap().len(), 60, "43 characters, in base64");
    assert_ne!(first["secret_key"], first["db_password"]);
    assert!(make("secret_key,db_password").await.contains("nothing was changed"));
    assert_eq!(cluster.data(), first);
    // An upgrade needs more keys, and two of its Jobs run at once.
    tokio::join!(make("secret_key,db_password,salt"), make("secret_key,db_password,salt"));
    let second = cluster.data();
    assert_eq!((&second["secret_key"], &second["db_password"]), (&first["secret_key"], &first["db_password"]));
    assert!(second["salt"].is_string());

    let output =
        studygovernor(account.path(), &["kubernetes", "make-secrets", "--name", "n", "--keys", "a b"]).output();
    assert_eq!(output.unwrap().status.code(), Some(2));
}

#[test]
fn a_folder_of_secrets_is_filled_once() {
    let home = tempfile::tempdir().unwrap();
    let make = |set: Option<&str>| {
        let names = ["secrets", "make", "--folder", "secrets", "SECRET_KEY", "SECURITY_PASSWORD_SALT", "DB_PASSWORD"];
        let mut command = studygovernor(home.path(), &names);
        command.envs(set.map(|set| ("DB_PASSWORD", set)));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", output.err());
        output.out()
    };
    let read = |name: &str| std::fs::read_to_string(home.path().join("secrets").join(name)).unwrap();
    let said = make(Some("p@ss word"));
    assert!(said.contains("SECRET_KEY is not set; created a value") && !said.contains("DB_PASSWORD"), "{said}");
    assert_eq!(read("DB_PASSWORD"), "p@ss word");
    let key = read("SECRET_KEY");
    assert!(key.len() == 43 && !said.contains(&key) && key != read("SECURITY_PASSWORD_SALT"), "{said}");
    assert_eq!(make(None), "");
    assert_eq!((read("SECRET_KEY"), read("DB_PASSWORD")), (key, "p@ss word".to_owned()));
    make(Some("another"));
    assert_eq!(read("DB_PASSWORD"), "another");
    // Subfolders, as used by docker-compose; an invalid argument leaves everything unchanged.
    let make = |names: &[&str]| {
        let arguments = [&["secrets", "make", "--folder", "secrets"][..], names].concat();
        studygovernor(home.path(), &arguments).output().unwrap()
    };
    assert!(make(&["db/DB_PASSWORD", "server/own/SECRET_KEY"]).status.success());
    assert_eq!((read("db/DB_PASSWORD").len(), read("server/own/SECRET_KEY").len()), (43, 43));
    assert_eq!(read("DB_PASSWORD"), "another");
    for wrong in ["HOME", "db/HOME", "../DB_PASSWORD", "db/../../DB_PASSWORD", "/etc/DB_PASSWORD", "DB_PASSWORD/"] {
        let output = make(&["new/SECRET_KEY", wrong]);
        assert_eq!(output.status.code(), Some(2), "{wrong}: {}", output.err());
        assert!(!home.path().join("secrets/new").exists(), "{wrong}");
    }
}

#[test]
fn packages_get_completions_and_a_manual() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = studygovernor(home.path(), &["completions", shell]).output().unwrap();
        assert!(output.out().contains("make-secrets") && output.out().contains("bids"), "{shell}: {}", output.err());
    }
    let output = studygovernor(home.path(), &["manual", "."]).output().unwrap();
    assert!(output.status.success(), "{}", output.err());
    for page in ["studygovernor.1", "studygovernor-serve.1", "studygovernor-import-bids.1"] {
        assert!(std::fs::read_to_string(home.path().join(page)).unwrap().contains(".TH"), "{page}");
    }
}

/// The procedure of the guide: a backup is made while a server writes, the file is restored, and the audit trail is
/// complete.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_embedded_database_is_whole_and_can_be_put_back() {
    let server = Server::study(Backend::Sqlite).await;
    let admin = server.admin();
    admin.post("/api/v2/cohorts", json!({ "label": "before" })).await.expect(201);
    let command = |arguments: &[&str]| {
        let mut command = studygovernor(server.home.path(), arguments);
        command.env("DATABASE_URL", &server.database).env("SECRET_KEY", "a key of the tests");
        command.env("SECURITY_PASSWORD_SALT", "a salt of the tests").output().unwrap()
    };
    let writing = async {
        for number in 0..30 {
            admin.post("/api/v2/cohorts", json!({ "label": format!("c{number}") })).await.expect(201);
        }
    };
    let copying = async { tokio::task::block_in_place(|| command(&["db", "backup", "copy.db"])) };
    let ((), output) = tokio::join!(writing, copying);
    assert!(output.status.success(), "{}", output.err());
    let copy = server.home.path().join("copy.db");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&copy.metadata().unwrap().permissions()) & 0o777, 0o600);
    let again = command(&["db", "backup", "copy.db"]);
    assert_eq!(again.status.code(), Some(1), "a copy is never overwritten: {}", again.err());
    // The contents of the backup, read with the same program.
    let ask = |arguments: &[&str]| {
        let mut command = studygovernor(server.home.path(), arguments);
        command.env("DATABASE_URL", format!("sqlite:///{}", copy.display())).env("SECRET_KEY", "a key of the tests");
        command.env("SECURITY_PASSWORD_SALT", "a salt of the tests").output().unwrap()
    };
    let verified = ask(&["audit", "verify"]);
    assert_eq!(verified.status.code(), Some(0), "{}", verified.err());
    let engine = Study::of(&format!("sqlite:///{}", copy.display())).await;
    let cohorts = studygovernor::entity::cohort::Entity::find().all(engine.database().reader()).await.unwrap();
    assert!(cohorts.iter().any(|cohort| cohort.label == "before"));
    assert_eq!(ask(&["db", "status"]).status.code(), Some(0));
}
