//! Lines of the log, or of the output, that cannot be written.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::support::{Caller, eventually, free_port, studygovernor};

const WORKFLOW: &str = "label: w
states:
- label: a
  transitions: [{destination: b}]
- label: b
  callbacks: [{label: c, function: sleep, callback_arguments: {seconds: 0}}]
  transitions: [{destination: c}]
- label: c
";

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The destination of a server's stderr.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ending {
    /// Its reader has ended.
    Closed,
    /// A file on a full disk.
    Full,
    /// A reader that does not read.
    Stuck,
}

async fn works_without_a_log(ending: Ending) {
    let home = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut command = studygovernor(home.path(), &["serve"]);
    command
        .env("STUDYGOV_PORT", &port)
        .env("STUDYGOV_LOG", "debug")
        .env("STUDYGOV_ADMIN_USERNAME", "admin")
        .env("STUDYGOV_ADMIN_EMAIL", "admin@example.com")
        .env("STUDYGOV_ADMIN_PASSWORD", "admin")
        .stdout(Stdio::null());
    match ending {
        Ending::Full => command.stderr(OpenOptions::new().write(true).open("/dev/full").unwrap()),
        _ => command.stderr(Stdio::piped()),
    };
    let mut child = Running(command.spawn().unwrap());
    let mut reader = child.0.stderr.take().map(BufReader::new);
    if let Some(reader) = &mut reader {
        let mut line = String::new();
        while !line.contains("listens on") {
            line.clear();
            assert!(reader.read_line(&mut line).unwrap() > 0, "it ended");
        }
    }
    if ending == Ending::Closed {
        reader = None;
    }
    let admin = Caller::admin_at(&format!("http://127.0.0.1:{port}"));
    eventually("the server", async || {
        let asking = admin.request(reqwest::Method::GET, "/-/ready").timeout(Duration::from_secs(5)).send().await;
        asking.is_ok_and(|answer| answer.status() == 200).then_some(())
    })
    .await;
    admin.post("/api/v2/service/config/import-workflow", json!({ "workflow_definition": WORKFLOW })).await.expect(201);
    let experiment = json!({ "label": "e", "scandate": "2024-01-01" });
    admin
        .post("/api/v2/import", json!([{ "cohort": "c", "label": "s", "experiments": [experiment] }]))
        .await
        .expect(200);
    // Each request writes several lines, in total more than a pipe holds.
    for _ in 0..150 {
        admin.get("/api/v2/cohorts").await.expect(200);
        admin.get("/api/v2/cohorts/99").await.expect(404);
    }
    let user = json!({ "username": "ada", "name": "A", "email": "x@example.com", "password": "abc", "active": true });
    admin.post("/api/v2/users", user).await.expect(201);
    eventually("the callback", async || {
        let execution = admin.get("/api/v2/callback_executions/1").await.expect(200);
        (execution["status"] == "finished" && execution["result"] == "success").then_some(())
    })
    .await;
    admin.get("/-/ready").await.expect(200);
    drop(reader);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_reader_has_ended_loses_its_lines_only() {
    works_without_a_log(Ending::Closed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_on_a_full_disk_loses_its_lines_only() {
    works_without_a_log(Ending::Full).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_not_read_loses_its_lines_only() {
    works_without_a_log(Ending::Stuck).await;
}

/// `| head` causes neither an error nor a panic; a full disk is an error, reported in one sentence.
#[test]
fn output_that_is_not_read_ends_quietly_and_output_that_is_lost_does_not() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("w.yaml"), WORKFLOW).unwrap();
    for arguments in [&["workflow", "schema"][..], &["workflow", "check", "w.yaml"], &["--help"]] {
        let mut child =
            studygovernor(home.path(), arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Before it writes anything.
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{arguments:?}: {said}");
        assert!(!said.contains("panicked") && !said.contains("error"), "{arguments:?}: {said}");
    }
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = studygovernor(home.path(), &["workflow", "schema"]).stdout(full).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("error: cannot write to stdout") && said.lines().count() == 1, "{said}");
    // The error message cannot be written either, but the exit code is an error.
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut child =
        studygovernor(home.path(), &["workflow", "check", "none.yaml"]).stdout(full()).stderr(full()).spawn().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
}
