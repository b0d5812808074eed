//! The description of the API: complete, identical to the one in the documentation, and correct.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use studygovernor::api;

use super::{Server, python};
use crate::support::{Backend, Said};

fn operations(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, item)| item.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone())))
        .collect()
}

/// `operations.txt` is the list of operations in the OpenAPI files of version 8.1 (`shared/api` of the development
/// kit).
#[test]
fn every_operation_of_the_existing_product_is_there() {
    let wanted: Vec<&str> = include_str!("operations.txt").lines().collect();
    assert_eq!(wanted.len(), 55 + 78);
    let there = [("v1", operations(&api::description("1", ""))), ("v2", operations(&api::description("2", "")))];
    // Names in braces do not matter.
    let shape = |path: &str| {
        let parts = path.split('/').map(|part| if part.starts_with('{') { "{}" } else { part });
        parts.collect::<Vec<_>>().join("/")
    };
    for line in wanted {
        let parts: Vec<&str> = line.split(' ').collect();
        let found = there.iter().filter(|(version, _)| *version == parts[0]);
        let found =
            found.flat_map(|(_, all)| all).any(|(method, path)| method == parts[1] && shape(path) == shape(parts[2]));
        assert!(found, "{line} is missing");
    }
}

#[test]
fn every_operation_says_what_it_needs_what_goes_wrong_and_gives_an_example() {
    for version in ["1", "2"] {
        let document = api::description(version, "");
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        let mut ids = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let named = format!("{method} {path}");
                assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{named}: operationId");
                assert!(operation["description"].as_str().unwrap().contains("Requires "), "{named}: permission");
                assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{named}: summary");
                let responses = operation["responses"].as_object().unwrap();
                for status in ["400", "401", "403", "404"] {
                    assert!(responses.contains_key(status), "{named}: {status}");
                }
                for (status, name) in [("503", "Unavailable"), ("507", "NoRoom")] {
                    let common = format!("#/components/responses/{name}");
                    assert_eq!(responses[status]["$ref"], common, "{named}: {status}");
                    assert!(
                        document.pointer(&common[1..]).is_some_and(|one| one["headers"]["Retry-After"].is_object())
                    );
                }
                let good = responses.iter().find(|(status, _)| status.starts_with('2')).unwrap().1;
                let example = &good["content"]["application/json"]["example"];
                let svg = good["content"].get("image/svg+xml").is_some();
                let empty = responses.contains_key("204");
                assert!(svg || empty || !example.is_null() || path == "/users/{id}", "{named}: example");
                if let Some(body) = operation.get("requestBody") {
                    assert!(!body["content"]["application/json"]["example"].is_null(), "{named}: example of the body");
                }
            }
        }
    }
}

/// `UPDATE_REFERENCE=1 cargo test the_reference` writes the files again.
#[test]
fn the_reference_is_what_the_code_says() {
    for version in ["1", "2"] {
        let path = format!("{}/docs/reference/api-v{version}.json", env!("CARGO_MANIFEST_DIR"));
        let text = format!("{}\n", serde_json::to_string_pretty(&api::description(version, "")).unwrap());
        if std::env::var_os("UPDATE_REFERENCE").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            kept == text,
            "{path} is out of date: run `UPDATE_REFERENCE=1 cargo test the_reference` and look at it"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_under_the_api_answers_in_json() {
    let server = Server::study(Backend::Sqlite).await;
    let admin = server.admin();
    for path in ["/api/v2/nothing", "/api/v1/subjects/x/y/z", "/api/v2/subjects/abc", "/api/v3/subjects", "/api/"] {
        let answer = admin.get(path).await;
        assert!(answer.header("content-type").starts_with("application/json"), "{path}");
        assert_eq!(answer.expect(404)["code"], 404);
    }
    let answer = admin.delete("/api/v2/cohorts").await;
    assert!(answer.header("allow").contains("GET"), "{:?}", answer.headers);
    assert_eq!(answer.expect(405)["code"], 405);
    for header in ["x-nothing: 1", "idempotency-key: k"] {
        let headers = [header, "authorization: Basic YWRtaW46YWRtaW4=", "content-type: application/json"];
        let answer = server.program.announce("/api/v2/cohorts", &headers, 17_000_000).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        assert!(answer.contains("\"code\":413"), "{answer}");
    }
}

/// Requests that schemathesis (PyPI) generates from our own description: no 5xx, and no undocumented response.
async fn fuzz(backend: Backend, version: &str) {
    let server = Server::study(backend).await;
    for number in 1..=3 {
        server.experiment(&format!("e{number}")).await;
    }
    // The account that sends the requests must not lose its permissions in between.
    let admin = server.admin();
    admin.put("/api/v2/users/alice/roles/admin", json!({})).await.expect(200);
    let mut command = python();
    let mut program = std::path::PathBuf::from(command.get_program());
    program.set_file_name("schemathesis");
    command = std::process::Command::new(program);
    command
        .current_dir(server.home.path())
        .args(["run", &format!("{}/api/v{version}/swagger.json", server.program.url)])
        .args(["--auth", "admin:admin", "--phases", "examples,coverage,fuzzing", "--max-examples", "10"])
        .args([
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        ])
        .args(["--seed", "20261123", "--continue-on-failure", "--generation-database", "none", "--workers", "1"])
        // One thread, because Python's own parser fails in several threads of Python 3.11. The excluded paths are the
        // account itself and its role.
        .args(["--exclude-path-regex", r"^/users/\{[a-z_]+\}(/roles/.*)?$"]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}\n{}", output.out(), output.err());
    assert!(output.out().contains("passed"), "{}", output.out());
    assert!(!server.program.log().contains("panicked"), "{}", server.program.log());
    assert!(!server.program.log().contains("ERROR"), "{}", server.program.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_breaks_version_1_on_postgres() {
    fuzz(Backend::Postgres, "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_breaks_version_2_on_postgres() {
    fuzz(Backend::Postgres, "2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_breaks_version_2_on_mariadb() {
    fuzz(Backend::Mariadb, "2").await;
}
