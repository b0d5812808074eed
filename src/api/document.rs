//! The OpenAPI description: what utoipa reads from the code, and the parts that all operations share.

use serde_json::{Map, Value, json};
use utoipa::OpenApi;
use utoipa::openapi::OpenApi as Description;

use crate::http::ErrorBody;

#[derive(OpenApi)]
#[openapi(components(schemas(ErrorBody)))]
struct Shared;

/// Finishes the description of one version; `prefix` is the path prefix of the instance.
pub(super) fn finish(mut description: Description, version: &str, prefix: &str) -> Value {
    description.merge(Shared::openapi());
    let mut document = serde_json::to_value(description).unwrap_or_default();
    document["info"] = json!({
        "title": format!("Study Governor API, version {version}"),
        "version": format!("{version}.0"),
        "description": about(version),
        "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
    });
    document["servers"] = json!([{ "url": format!("{prefix}/api/v{version}") }]);
    document["components"]["securitySchemes"] = json!({
        "basic": { "type": "http", "scheme": "basic", "description": "Name or e-mail address, and password" },
        "token": { "type": "http", "scheme": "bearer", "description": "A token created with `POST /api/v2/tokens`" },
        "session": {
            "type": "apiKey", "in": "cookie", "name": "studygovernor_PROJECT",
            "description": "The cookie of a logged-in browser session; its name ends with the name of the project",
        },
    });
    document["components"]["responses"] = passing_failures();
    let schemas = document["components"]["schemas"].clone();
    for (path, item) in document["paths"].as_object_mut().into_iter().flatten() {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            finish_operation(path, method, operation, &schemas);
        }
    }
    document
}

fn about(version: &str) -> String {
    let form = match version {
        "1" => "References are URIs, so lists require one more request per item; use version 2 for new scripts.",
        _ => "References are nested summaries with id, label and URI.",
    };
    format!(
        "{form}\n\nLog in with HTTP Basic, a token (`Authorization: Bearer …`) or a browser session. Lists \
        include `count`, `offset` and `limit`, and `Link` headers for the next and previous pages. Single resources \
        have an `ETag`: GET with `If-None-Match` returns 304 if the resource is unchanged, PUT with `If-Match` \
        returns 412 if it has changed. With an `Idempotency-Key`, a repeated POST returns the original response. \
        `X-Fields: {{id, label, subject{{uri}}}}` limits the response to these fields. Times are UTC."
    )
}

/// Temporary failures of every operation, by the name under which operations refer to them.
const PASSING: [(&str, &str, &str); 2] = [
    (
        "503",
        "Unavailable",
        "The server or its database is busy or cannot be reached, or something else is changing the same thing. Nothing has changed \
         unless `message` says otherwise; with `Retry-After`, the same request may succeed then",
    ),
    ("507", "NoRoom", "The disk of the database is full. Nothing has changed; reading still works"),
];

/// [`PASSING`] as components.
fn passing_failures() -> Value {
    let header = json!({ "description": "Seconds until it is worth trying again", "schema": { "type": "integer" } });
    let failures = PASSING.iter().map(|(_, name, description)| {
        let failure = json!({
            "description": description,
            "headers": { "Retry-After": header },
            "content": { "application/json": { "schema": { "$ref": "#/components/schemas/ErrorBody" } } },
        });
        ((*name).to_owned(), failure)
    });
    Value::Object(failures.collect())
}

/// The failures of every operation, by method.
fn failures(method: &str, is_open: bool) -> Vec<(&'static str, &'static str)> {
    let mut all = vec![
        ("400", "The request is invalid; `errors` has the details by field"),
        ("401", "Not authenticated"),
        ("403", "Permission denied"),
        ("404", "Not found"),
        ("429", "Too many attempts"),
    ];
    match method {
        "get" => all.push(("304", "Not modified: `If-None-Match` matches")),
        "post" => all.extend([
            (
                "409",
                "The resource already exists or has changed state, or the first request with this `Idempotency-Key` \
                is still in progress",
            ),
            ("413", "The body is too large"),
            ("422", "The `Idempotency-Key` was used for another request"),
        ]),
        "put" => all.extend([
            ("409", "The resource already exists or has changed state"),
            ("412", "The resource has changed: `If-Match` does not match"),
            ("413", "The body is too large"),
        ]),
        _ => all.extend([("409", "The resource has changed state"), ("413", "The body is too large")]),
    }
    // Several resources may have the same label.
    if method == "get" {
        all.push(("409", "Several resources have this label"));
    }
    if is_open {
        all.retain(|(status, _)| *status != "422");
    }
    all
}

/// The required fields of a POST whose body a PUT also accepts: a PUT may omit every field.
const REQUIRED: [(&str, &[&str]); 7] = [
    ("/CohortBody", &["label"]),
    ("/SubjectBody", &["label"]),
    ("/ExperimentBody", &["label", "scandate"]),
    ("/LinkBody", &["external_id"]),
    ("/UserBody", &["username", "password", "name", "email"]),
    ("/TokenBody", &["label"]),
    ("/BulkBody", &["experiments", "state"]),
];

fn finish_operation(path: &str, method: &str, operation: &mut Value, schemas: &Value) {
    let security = operation["security"].take();
    let scopes: Vec<String> = security
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one.get("login")?.as_array())
        .flatten()
        .filter_map(|scope| scope.as_str().map(str::to_owned))
        .collect();
    let is_open =
        security.as_array().is_some_and(|all| all.iter().any(|one| one.as_object().is_some_and(Map::is_empty)));
    let mut schemes = vec![json!({ "basic": scopes }), json!({ "token": scopes }), json!({ "session": scopes })];
    let by_secret = is_open && scopes.is_empty() && security.as_array().is_some_and(|all| all.len() == 1);
    if by_secret {
        schemes.clear();
    }
    if is_open {
        schemes.insert(0, json!({}));
    }
    operation["security"] = Value::Array(schemes);
    let need = match scopes.as_slice() {
        [] if by_secret => "Requires the secret of the attempt, which the worker receives in its message.".to_owned(),
        [] => "Requires a login.".to_owned(),
        [scope] => match scope.strip_prefix("role:") {
            Some(role) => format!("Requires the role `{role}`."),
            None => format!("Requires the permission `{scope}`."),
        },
        many => format!("Requires one of `{}`.", many.join("`, `")),
    };
    let said = operation["description"].as_str().or(operation["summary"].as_str()).unwrap_or_default().to_owned();
    operation["description"] = json!(format!("{said}\n\n{need}"));
    let Some(responses) = operation["responses"].as_object_mut() else { return };
    for (status, description) in failures(method, is_open) {
        let body = json!({ "application/json": { "schema": { "$ref": "#/components/schemas/ErrorBody" } } });
        let known = responses.entry(status).or_insert_with(|| json!({ "description": description }));
        if status == "304" {
            continue;
        }
        match known["content"]["application/json"]["schema"].take() {
            Value::Null => known["content"] = body,
            // Besides the operation's own answer, the common one is possible.
            own => {
                let both = json!([own, { "$ref": "#/components/schemas/ErrorBody" }]);
                known["content"]["application/json"]["schema"] = json!({ "anyOf": both });
            }
        }
    }
    for (status, name, _) in PASSING {
        let common = json!({ "$ref": format!("#/components/responses/{name}") });
        responses.entry(status).or_insert(common);
    }
    for (status, response) in responses.iter_mut().filter(|(status, _)| status.starts_with('2')) {
        if response["description"].as_str().is_none_or(str::is_empty) {
            response["description"] = json!(if status == "201" { "Made" } else { "Done" });
        }
        let content = response.get_mut("content").and_then(|content| content.get_mut("application/json"));
        if let Some(content) = content {
            let example = example_of(&content["schema"], schemas, 0);
            content["example"] = example;
        }
    }
    add_headers(path, method, operation);
    let body = operation.get_mut("requestBody").and_then(|body| body["content"].get_mut("application/json"));
    if let Some(content) = body {
        let example = example_of(&content["schema"], schemas, 0);
        content["example"] = example;
        let schema = content["schema"]["$ref"].as_str().unwrap_or_default().to_owned();
        if let Some((_, fields)) = REQUIRED.iter().find(|(name, _)| method == "post" && schema.ends_with(name)) {
            let name = schema.rsplit('/').next().unwrap_or_default();
            content["schema"] = schemas[name].clone();
            content["schema"]["required"] = json!(fields);
        }
    }
}

/// Operations that compare the resource with the version that the caller saw.
const GUARDED: [&str; 7] = [
    "/cohorts/{id}",
    "/subjects/{id}",
    "/experiments/{id}/state",
    "/actions/{id}",
    "/callbacks/{id}",
    "/callback_executions/{id}",
    "/users/{id}",
];

fn add_headers(path: &str, method: &str, operation: &mut Value) {
    let (name, about) = match method {
        "post" if path != "/tokens" => {
            ("Idempotency-Key", "A repeated request with the same key returns the original response")
        }
        "put" if GUARDED.contains(&path) => ("If-Match", "The `ETag` of the version to change"),
        _ => return,
    };
    let header = json!({ "name": name, "in": "header", "required": false, "description": about, "schema": { "type": "string" } });
    match operation["parameters"].as_array_mut() {
        Some(all) => all.push(header),
        None => operation["parameters"] = json!([header]),
    }
}

/// An example of a schema, assembled from the examples of its parts.
fn example_of(schema: &Value, schemas: &Value, depth: usize) -> Value {
    if depth > 8 {
        return Value::Null;
    }
    if let Some(example) = schema.get("example").or_else(|| schema.get("examples").and_then(|all| all.get(0))) {
        return example.clone();
    }
    if let Some(name) = schema["$ref"].as_str().and_then(|name| name.strip_prefix("#/components/schemas/")) {
        return example_of(&schemas[name], schemas, depth + 1);
    }
    if let Some(all) = schema["allOf"].as_array() {
        let parts = all.iter().map(|one| example_of(one, schemas, depth + 1));
        let fields = parts.filter_map(|part| part.as_object().cloned()).flatten();
        return Value::Object(fields.collect());
    }
    for choice in ["oneOf", "anyOf"] {
        if let Some(all) = schema[choice].as_array() {
            let one = all.iter().find(|one| one["type"] != "null");
            return one.map(|one| example_of(one, schemas, depth + 1)).unwrap_or_default();
        }
    }
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    let kinds = match &schema["type"] {
        Value::Array(kinds) => kinds.clone(),
        kind => vec![kind.clone()],
    };
    // A nullable field is null unless there is an example.
    if kinds.contains(&json!("null")) {
        return Value::Null;
    }
    match kinds.first().and_then(Value::as_str) {
        Some("object") => {
            let fields = schema["properties"].as_object().into_iter().flatten();
            Value::Object(fields.map(|(name, one)| (name.clone(), example_of(one, schemas, depth + 1))).collect())
        }
        Some("array") => json!([example_of(&schema["items"], schemas, depth + 1)]),
        Some("string") => json!("text"),
        Some("boolean") => json!(true),
        Some("integer" | "number") => json!(1),
        _ => Value::Null,
    }
}
