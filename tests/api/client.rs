//! The client of version 8.1, unmodified, from PyPI.

use serde_json::json;

use super::{Server, python};
use crate::support::{Backend, Said};

async fn drive(version: &str) {
    let server = Server::study(Backend::Sqlite).await;
    let second =
        "label: second_2025\nstates:\n- {label: start, transitions: [{destination: reading}]}\n- {label: reading}\n";
    let body = json!({ "workflow_definition": second });
    server.admin().post("/api/v2/service/config/import-workflow", body).await.expect(201);
    let url = server.program.url.clone();
    let version = version.to_owned();
    let output = tokio::task::spawn_blocking(move || {
        python().args(["tests/api/client.py", &url, &version]).env("HOME", "/nonexistent").output().unwrap()
    });
    let output = output.await.unwrap();
    assert!(output.status.success(), "{}\n{}\n{}", output.out(), output.err(), server.program.log());
    assert!(output.out().contains("went through its version"), "{}", output.out());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_works_through_v2() {
    drive("2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_works_through_v1() {
    drive("1").await;
}
