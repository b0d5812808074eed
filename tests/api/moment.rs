//! All data of a page or a response belongs to one moment (E13), on the three databases.
//!
//! Two servers use one database: one reads slowly, or is stopped between two statements; the other one moves the
//! experiment meanwhile.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::{Client, redirect};
use serde_json::{Value, json};

use super::{Caller, Server};
use crate::support::{Backend, Program, eventually};

/// A successful run of `a` leads to `b` and sets the variable `where`, one of `b` leads back; a failed run leads to the
/// end.
const WORKFLOW: &str = r#"
label: moment
states:
  - label: root
    transitions: [{destination: a}]
  - label: a
    callbacks: [{label: run_a, function: sleep, variable_map: {where: where}}]
    transitions: [{destination: b, condition: "callbacks['run_a'].result == 'success'"}, {destination: end}]
  - label: b
    callbacks: [{label: run_b, function: sleep, variable_map: {where: where}}]
    transitions: [{destination: a, condition: "callbacks['run_b'].result == 'success'"}, {destination: end}]
  - label: end
"#;

/// A study with one experiment, which has completed one round and is in `a`.
async fn study(backend: Backend) -> Server {
    // Without a limit of transitions.
    let server = Server::with(backend, &[("STUDYGOV_TRANSITIONS_PER_MINUTE", "0")]).await;
    let admin = server.admin();
    let body = json!({ "workflow_definition": WORKFLOW });
    admin.post("/api/v2/service/config/import-workflow", body).await.expect(201);
    admin.post("/api/v2/cohorts", json!({ "label": "baseline" })).await.expect(201);
    admin.post("/api/v2/subjects", json!({ "label": "sub-01", "cohort_label": "baseline" })).await.expect(201);
    server.experiment("e").await;
    step(&admin, 1).await;
    step(&admin, 2).await;
    server
}

/// Completes the open run, so that the experiment moves. Returns the run and the experiment as they are then.
async fn step(admin: &Caller, execution: i64) -> Value {
    let path = format!("/api/v2/callback_executions/{execution}");
    let label = admin.get(&path).await.expect(200)["callback"]["label"].clone();
    let to = if label == "run_a" { "b" } else { "a" };
    let report = json!({ "status": "finished", "result": "success", "result_values": { "where": to } });
    admin.put(&path, report).await.expect(200)
}

/// A logged-in browser.
pub struct Visitor {
    client: Client,
    url: String,
    pub cookie: String,
}

impl Visitor {
    pub async fn new(program: &Program) -> Self {
        let client = Client::builder().redirect(redirect::Policy::none()).build().unwrap();
        let login = client.post(format!("{}/login", program.url)).body("login=admin&password=admin");
        let login = login.header("content-type", "application/x-www-form-urlencoded").send().await.unwrap();
        let cookie = login.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
        Self { client, url: program.url.clone(), cookie }
    }

    pub async fn get(&self, path: &str) -> String {
        let (status, text) = self.look(path).await;
        assert_eq!(status, 200, "{path}");
        text
    }

    /// Returns the status and the page.
    pub async fn look(&self, path: &str) -> (u16, String) {
        let request = self.client.get(format!("{}{path}", self.url)).header("cookie", &self.cookie);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
}

/// The text between two other texts.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let at = text.find(begin).unwrap_or_else(|| panic!("no {begin} in {text}")) + begin.len();
    &text[at..at + text[at..].find(end).unwrap()]
}

/// The contents of the experiment page: the state, the destination of the newest action of the history, and whether the
/// page refreshes, with and without scripts.
fn page_says(html: &str) -> (String, String, bool) {
    let badge = between(html, "id=\"current-state\">", "</a>");
    let state = between(badge, "\">", "</span>").to_owned();
    let newest = between(html, "class=\"timeline-entry\"", "</li>");
    let newest = between(newest, "<strong>", "</strong>").to_owned();
    let asks = html.contains("<div id=\"live\" hx-get=");
    assert_eq!(asks, html.contains("http-equiv=\"refresh\""), "with scripts and without: {html}");
    (state, newest, asks)
}

/// The inconsistent part of the record of an execution.
fn torn_execution(record: &Value) -> Option<&'static str> {
    let open = !["finished", "skipped"].contains(&record["status"].as_str().unwrap());
    let (state, here) = (&record["experiment"]["state"]["label"], &record["experiment"]["variable_map"]["where"]);
    if state != "end" && state != here {
        return Some("the state and the variable that was set with it");
    }
    if open && *state != record["callback"]["state"]["label"] {
        return Some("an open run and the state of the experiment");
    }
    (open != record["action"]["end_time"].is_null()).then_some("the run and the end of its action")
}

/// The inconsistent part of the explanation of why an experiment does not move.
fn torn_explanation(why: &Value) -> Option<&'static str> {
    let (state, exit) = (&why["state"]["label"], &why["transitions"][0]["destination"]["label"]);
    ((state == "a") != (exit == "b")).then_some("the state and its transitions")
}

/// Stops `ask` before the statement that contains `word`, runs `change`, and returns the response.
async fn held<T>(folder: &Path, word: &str, ask: impl Future<Output = T>, change: impl Future<Output = ()>) -> T {
    let (file, held) = (folder.join(word), folder.join(format!("{word}.held")));
    std::fs::write(&file, "").unwrap();
    let meanwhile = async {
        eventually("the reading to be held", async || held.exists().then_some(())).await;
        change.await;
        std::fs::remove_file(&held).unwrap();
    };
    tokio::join!(ask, meanwhile).0
}

async fn an_answer_that_is_stopped_between_two_statements_is_of_one_moment(backend: Backend) {
    let server = study(backend).await;
    let folder = tempfile::tempdir().unwrap();
    let fault = format!("hold-reads:{}", folder.path().display());
    let reading = server.beside(&[("STUDYGOV_FAULT", &fault)]);
    let (writer, reader, visitor) = (server.admin(), Caller::admin_at(&reading.url), Visitor::new(&reading).await);
    // The login is cached for a moment, so that the response is stopped and not the login.
    reader.get("/api/v2/scantypes").await.expect(200);
    let go_on = async |execution: i64| {
        step(&writer, execution).await;
    };

    // The third run is open. Each time the first statement has been executed, and the following ones have not.
    let execution = held(
        folder.path(),
        "return_value",
        async { reader.get("/api/v2/callback_executions/3").await.expect(200) },
        go_on(3),
    );
    let execution = execution.await;
    assert_eq!(torn_execution(&execution), None, "{backend:?}: {execution}");

    let ask = async { reader.get("/api/v2/experiments/1").await.expect(200) };
    let experiment = held(folder.path(), "date_of_birth", ask, go_on(4)).await;
    assert_eq!(experiment["state"]["label"], experiment["variable_map"]["where"], "{backend:?}: {experiment}");

    let ask = async { reader.get("/api/v2/experiments/1/explain").await.expect(200) };
    let why = held(folder.path(), "revision", ask, go_on(5)).await;
    assert_eq!(torn_explanation(&why), None, "{backend:?}: {why}");

    // The claim of a worker, while a user ends the run.
    let secret = studygovernor::queue::execution_secret("a key of the tests", 6, 1);
    let claim = json!({ "worker": "w", "attempt": 1, "secret": secret });
    let ask = async { reader.post("/api/v2/callback_executions/6/claim", claim).await.expect(200) };
    let job = held(folder.path(), "cohort_url", ask, go_on(6)).await["data"].take();
    assert_eq!(job["experiment"]["state"]["label"], job["experiment"]["variable_map"]["where"], "{backend:?}: {job}");
    step(&writer, 7).await;

    // The run ends while the page is created: the page shows the end, or it refreshes.
    let fail = async {
        let report = json!({ "status": "finished", "result": "failed" });
        writer.put("/api/v2/callback_executions/8", report).await.expect(200);
    };
    let html = held(folder.path(), "return_value", visitor.get("/experiments/1"), fail).await;
    let said = page_says(&html);
    let right = said == ("b".to_owned(), "b".to_owned(), true) || said == ("end".to_owned(), "end".to_owned(), false);
    assert!(right, "{backend:?}: {said:?}");
    assert_eq!(page_says(&visitor.get("/experiments/1").await), ("end".to_owned(), "end".to_owned(), false));
}

/// Reads everything that shows several properties of the experiment, and returns the first inconsistency.
async fn torn(reader: &Caller, visitor: &Visitor, execution: i64) -> Option<String> {
    let said = page_says(&visitor.get("/experiments/1").await);
    if said.0 != said.1 || !said.2 {
        return Some(format!("the page of the experiment: {said:?}"));
    }
    let experiment = reader.get("/api/v2/experiments/1").await.expect(200);
    if experiment["state"]["label"] != experiment["variable_map"]["where"] {
        return Some(format!("the experiment: {experiment}"));
    }
    let why = reader.get("/api/v2/experiments/1/explain").await.expect(200);
    if let Some(what) = torn_explanation(&why) {
        return Some(format!("the explanation: {what}: {why}"));
    }
    let record = reader.get(&format!("/api/v2/callback_executions/{execution}")).await.expect(200);
    if let Some(what) = torn_execution(&record) {
        return Some(format!("the run: {what}: {record}"));
    }
    let html = visitor.get(&format!("/callback_executions/{execution}")).await;
    if html.contains("<div id=\"live\" hx-get=") != html.contains("value=\"retry\"") {
        return Some(format!("the page of the run: {html}"));
    }
    None
}

async fn answers_are_of_one_moment_while_the_experiment_moves(backend: Backend) {
    let server = study(backend).await;
    let slow = server.beside(&[("STUDYGOV_FAULT", "slow-reads:10")]);
    let (reader, visitor, writer) = (Caller::admin_at(&slow.url), Visitor::new(&slow).await, server.admin());
    let is_over = AtomicBool::new(false);
    let move_on = async {
        let mut execution = 3;
        while !is_over.load(Ordering::Relaxed) {
            // The response to a change is consistent too, even if the experiment moves on meanwhile.
            let answer = step(&writer, execution).await;
            assert_eq!(torn_execution(&answer), None, "{backend:?}: {answer}");
            execution += 1;
        }
        execution
    };
    let read = async {
        let mut problem = None;
        for _ in 0..8 {
            let list = reader.get("/api/v2/callback_executions?after=2").await.expect(200);
            let newest = list["callback_executions"].as_array().unwrap().last().unwrap()["id"].as_i64().unwrap();
            // At least one of them is open while it is read, or was open a moment ago.
            problem = problem.or(torn(&reader, &visitor, newest).await);
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
        is_over.store(true, Ordering::Relaxed);
        problem
    };
    let (moves, problem) = tokio::join!(move_on, read);
    assert_eq!(problem, None, "{backend:?}");
    assert!(moves > 20, "{backend:?}: it moved {moves} times only");
}

/// One test per database.
macro_rules! on_each {
    ($($name:ident => $sqlite:ident, $postgres:ident, $mariadb:ident;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $sqlite() {
            $name(Backend::Sqlite).await;
        }
        #[tokio::test(flavor = "multi_thread")]
        async fn $postgres() {
            $name(Backend::Postgres).await;
        }
        #[tokio::test(flavor = "multi_thread")]
        async fn $mariadb() {
            $name(Backend::Mariadb).await;
        }
    )*};
}

on_each! {
    an_answer_that_is_stopped_between_two_statements_is_of_one_moment =>
        e13_a_stopped_answer_is_of_one_moment_sqlite,
        e13_a_stopped_answer_is_of_one_moment_postgres,
        e13_a_stopped_answer_is_of_one_moment_mariadb;
    answers_are_of_one_moment_while_the_experiment_moves =>
        e13_answers_are_of_one_moment_while_it_moves_sqlite,
        e13_answers_are_of_one_moment_while_it_moves_postgres,
        e13_answers_are_of_one_moment_while_it_moves_mariadb;
}
