//! Texts that are longer than their column: every operation reports the field, with the same result on the three
//! databases.

use serde_json::{Value, json};

use super::{Caller, Server};
use crate::support::Backend;

/// One field: its name in responses, its limit, and a request that contains a text for it.
struct Field {
    name: &'static str,
    most: usize,
    path: &'static str,
    body: fn(&str) -> Value,
}

fn workflow(label: &str, state: &str, callback: &str, queue: &str, variable: &str, condition: &str) -> Value {
    let work = json!({
        "label": callback, "function": "sleep", "callback_arguments": { "queue": queue },
        "variable_map": { variable: "value" }, "condition": condition,
    });
    let states = json!([
        { "label": "root", "transitions": [{ "destination": state }] },
        { "label": state, "callbacks": [work], "transitions": [{ "destination": "end" }] },
        { "label": "end" },
    ]);
    json!({ "workflow_definition": json!({ "label": label, "states": states }).to_string() })
}

fn configuration(key: &str, entry: impl Into<Value>) -> Value {
    json!({ "config_definition": json!({ key: [entry.into()] }).to_string() })
}

fn user(username: &str, name: &str, email: &str) -> Value {
    json!({ "username": username, "name": name, "email": email, "password": "correct horse battery" })
}

fn imported(subject: &str, experiment: &str, protocol: &str, variable: &str, id: &str) -> Value {
    json!([{ "cohort": "baseline", "label": subject, "external_ids": { "XNAT": id }, "experiments": [{
        "label": experiment, "scandate": "2024-01-01", "variables": { variable: 1 },
        "scans": [{ "modality": "MR", "protocol": protocol }] }] }])
}

const WORKFLOWS: &str = "/api/v2/service/config/import-workflow";
const CONFIGURATIONS: &str = "/api/v2/service/config/import-config";
const LIST: &str = "/api/v2/import";

/// The import of a list is answered with 200 and the errors of its items.
const FIELDS: &[Field] = &[
    Field { name: "label", most: 100, path: "/api/v2/cohorts", body: |text| json!({ "label": text }) },
    Field {
        name: "label",
        most: 100,
        path: "/api/v2/subjects",
        body: |text| json!({ "label": text, "cohort_label": "baseline" }),
    },
    Field {
        name: "label",
        most: 100,
        path: "/api/v2/experiments",
        body: |text| json!({ "label": text, "scandate": "2024-01-01", "subject_id": 1 }),
    },
    Field {
        name: "label",
        most: 100,
        path: "/api/v2/tokens",
        body: |text| json!({ "label": text, "permissions": [] }),
    },
    Field {
        name: "external_urls",
        most: 1024,
        path: "/api/v2/cohorts/1/external_urls",
        body: |text| json!({ "external_urls": { "XNAT": format!("http://{}", &text[7..]) } }),
    },
    Field {
        name: "external_ids",
        most: 1024,
        path: "/api/v2/subjects/1/external_ids",
        body: |text| json!({ "external_ids": { "XNAT": text } }),
    },
    Field {
        name: "username",
        most: 64,
        path: "/api/v2/users",
        body: |text| user(text, "n", &format!("{}@example.com", text.len())),
    },
    Field {
        name: "name",
        most: 64,
        path: "/api/v2/users",
        body: |text| user(&format!("u{}", text.len()), text, &format!("n{}@example.com", text.len())),
    },
    Field { name: "label", most: 100, path: WORKFLOWS, body: |text| workflow(text, "s", "c", "q", "v", "") },
    Field {
        name: "label",
        most: 100,
        path: WORKFLOWS,
        body: |text| workflow(&format!("w1-{}", text.len()), text, "c", "q", "v", ""),
    },
    Field {
        name: "label",
        most: 128,
        path: WORKFLOWS,
        body: |text| workflow(&format!("w2-{}", text.len()), "s", text, "q", "v", ""),
    },
    Field {
        name: "queue",
        most: 100,
        path: WORKFLOWS,
        body: |text| workflow(&format!("w3-{}", text.len()), "s", "c", text, "v", ""),
    },
    Field {
        name: "variable_map",
        most: 255,
        path: WORKFLOWS,
        body: |text| workflow(&format!("w4-{}", text.len()), "s", "c", "q", text, ""),
    },
    Field {
        name: "name",
        most: 80,
        path: CONFIGURATIONS,
        body: |text| configuration("roles", json!({ "name": text, "permissions": [] })),
    },
    Field {
        name: "description",
        most: 255,
        path: CONFIGURATIONS,
        body: |text| {
            configuration(
                "roles",
                json!({ "name": format!("r{}", text.len()), "description": text, "permissions": [] }),
            )
        },
    },
    Field {
        name: "external system",
        most: 100,
        path: CONFIGURATIONS,
        body: |text| configuration("external_systems", json!({ "system_name": text, "url": "http://x" })),
    },
    Field {
        name: "url",
        most: 512,
        path: CONFIGURATIONS,
        body: |text| {
            configuration(
                "external_systems",
                json!({ "system_name": format!("s{}", text.len()), "url": format!("http://{}", &text[7..]) }),
            )
        },
    },
    Field {
        name: "modality",
        most: 100,
        path: CONFIGURATIONS,
        body: |text| configuration("scantypes", json!({ "modality": text, "protocol": format!("m{}", text.len()) })),
    },
    Field {
        name: "protocol",
        most: 100,
        path: CONFIGURATIONS,
        body: |text| configuration("scantypes", json!({ "modality": "MR", "protocol": text })),
    },
    Field {
        name: "username",
        most: 64,
        path: CONFIGURATIONS,
        body: |text| configuration("users", user(text, "n", &format!("c{}@example.com", text.len()))),
    },
    Field {
        name: "name",
        most: 64,
        path: CONFIGURATIONS,
        body: |text| {
            configuration("users", user(&format!("cu{}", text.len()), text, &format!("cn{}@example.com", text.len())))
        },
    },
    Field { name: "label", most: 100, path: LIST, body: |text| imported(text, "e", "T1w", "v", "1") },
    Field { name: "label", most: 100, path: LIST, body: |text| imported("l1", text, "T1w", "v", "2") },
    Field {
        name: "protocol",
        most: 100,
        path: LIST,
        body: |text| imported("l2", &format!("e{}", text.len()), text, "v", "3"),
    },
    Field {
        name: "variable",
        most: 255,
        path: LIST,
        body: |text| imported("l3", &format!("e{}", text.len()), "T1w", text, "4"),
    },
    Field {
        name: "external_ids",
        most: 1024,
        path: LIST,
        body: |text| imported("l4", &format!("e{}", text.len()), "T1w", "v", text),
    },
];

async fn try_lengths(admin: &Caller, field: &Field) -> Result<(), String> {
    for (length, fits) in [(field.most, true), (field.most + 1, false), (field.most + 600, false)] {
        // All different, in case they must be unique.
        let text: String = format!("{:08x}", rand::random::<u32>()).chars().cycle().take(length).collect();
        let answer = admin.post(field.path, (field.body)(&text)).await;
        let (status, body) = (answer.status.as_u16(), answer.body.to_string());
        let is_list = field.path == LIST;
        let has_errors = body.contains("characters") || answer.body["errors"].as_u64().unwrap_or(0) > 0;
        let is_right = match (fits, is_list) {
            (true, true) => status == 200 && !has_errors,
            (true, false) => status < 300,
            (false, true) => status == 200 && has_errors && body.contains(field.name),
            (false, false) => status == 400 && body.contains(field.name),
        };
        if !is_right {
            let shown: String = body.chars().take(600).collect();
            return Err(format!("{} of {} with {length} characters: {status} {shown}", field.name, field.path));
        }
    }
    Ok(())
}

async fn texts_that_are_too_long_are_named(backend: Backend) {
    let server = Server::study(backend).await;
    let admin = server.admin();
    let mut wrong = Vec::new();
    for field in FIELDS {
        wrong.extend(try_lengths(&admin, field).await.err());
    }
    // Texts without a limit of their own may be longer than 64 kB, on MariaDB too.
    let long = "x".repeat(200_000);
    for (path, body) in [
        ("/api/v2/experiments/bulk/transition", json!({ "experiments": [1], "state": "none", "freetext": long })),
        (WORKFLOWS, workflow("long", "s", "c", "q", "v", &format!("'{}' == ''", "y".repeat(2000)))),
    ] {
        let answer = admin.post(path, body).await;
        if answer.status.is_server_error() {
            wrong.push(format!("{path} with a long text: {} {}", answer.status, answer.body));
        }
    }
    assert_eq!(wrong, Vec::<String>::new(), "{backend:?}");
    assert!(!server.program.log().contains("a request failed"), "{}", server.program.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_that_are_too_long_are_named_on_sqlite() {
    texts_that_are_too_long_are_named(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_that_are_too_long_are_named_on_postgres() {
    texts_that_are_too_long_are_named(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_that_are_too_long_are_named_on_mariadb() {
    texts_that_are_too_long_are_named(Backend::Mariadb).await;
}
