//! Authentication and permissions of every operation.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use studygovernor::queue::execution_secret;

use super::Server;
use crate::support::Backend;

/// Every operation of a description, with a path that can be requested.
fn operations(document: &Value) -> Vec<(Method, String, Value)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let mut path = path.clone();
            // For accounts and roles, ids that need no special permission.
            path =
                path.replace("/users/{id}", "/users/5").replace("{user_id}", "target").replace("{username}", "target");
            path = path.replace("{role_id}", "empty").replace("{role_name}", "empty");
            while let (Some(begin), Some(end)) = (path.find('{'), path.find('}')) {
                path.replace_range(begin..=end, "1");
            }
            all.push((method.to_uppercase().parse().unwrap(), path, operation.clone()));
        }
    }
    all
}

/// The requirement of an operation according to the description: only a login, a permission, or a role.
fn need(operation: &Value) -> Option<String> {
    let scopes = operation["security"].as_array().unwrap().last().unwrap()["session"].as_array().unwrap();
    scopes.first().map(|scope| scope.as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_needs_what_its_description_says() {
    let server = Server::study(Backend::Sqlite).await;
    let admin = server.admin();
    // A user without permissions, and one user for each permission alone.
    let permissions = [
        "action_update",
        "sample_state_update",
        "sample_add",
        "sample_update",
        "sample_delete",
        "user_read",
        "user_read_all",
        "user_update_all",
        "user_add",
        "user_delete",
        "roles_manage",
        "upload_data",
    ];
    let mut roles: Vec<Value> =
        permissions.iter().map(|one| json!({ "name": format!("only_{one}"), "permissions": [one] })).collect();
    let user = |name: &str, roles: Value| json!({ "username": name, "password": "p", "email": format!("{name}@example.com"), "roles": roles });
    roles.push(json!({ "name": "empty", "permissions": [] }));
    let mut users = vec![user("nothing", json!([])), user("target", json!([]))];
    users.extend(permissions.iter().map(|one| user(one, json!([format!("only_{one}")]))));
    let text = json!({ "roles": roles, "users": users }).to_string();
    admin.post("/api/v2/service/config/import-config", json!({ "config_definition": text })).await.expect(201);

    let mut checked = 0;
    for version in ["1", "2"] {
        let document = server.nobody().get(&format!("/api/v{version}/swagger.json")).await.expect(200);
        for (method, path, operation) in operations(&document) {
            let path = format!("/api/v{version}{path}");
            let ask = async |caller: super::Caller| {
                // A body that changes nothing, if it is read at all.
                let request = caller.request(method.clone(), &path).json(&json!({ "state": [], "label": [] }));
                caller.send(request).await.status
            };
            let is_open = operation["security"].as_array().unwrap().contains(&json!({}));
            let refused = if is_open { StatusCode::FORBIDDEN } else { StatusCode::UNAUTHORIZED };
            assert_eq!(ask(server.nobody()).await, refused, "nobody: {method} {path}");
            let nothing = ask(server.basic("nothing", "p")).await;
            // For workers, which show the secret of an attempt; a login is no substitute.
            if operation["security"] == json!([{}]) {
                assert_eq!(ask(server.admin()).await, StatusCode::FORBIDDEN, "{method} {path}");
                continue;
            }
            match need(&operation) {
                None => assert_ne!(nothing, StatusCode::FORBIDDEN, "{method} {path} needs more than it says"),
                Some(need) => {
                    assert_eq!(nothing, StatusCode::FORBIDDEN, "{method} {path} does not ask for {need}");
                    for one in permissions {
                        let fits = one == need || (need == "user_read" && one == "user_read_all");
                        // `/users/5` is not the caller's own account.
                        if need == "user_read" && one == "user_read" {
                            continue;
                        }
                        let status = ask(server.basic(one, "p")).await;
                        assert_eq!(status != StatusCode::FORBIDDEN, fits, "{one}: {method} {path} ({need}): {status}");
                        checked += 1;
                    }
                }
            }
        }
    }
    assert!(checked > 400, "{checked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_how_to_log_in_in_the_words_of_before() {
    let server = Server::study(Backend::Sqlite).await;
    for caller in
        [server.nobody(), server.basic("admin", "wrong"), server.basic("nobody", "x"), server.bearer("sgov_no")]
    {
        let answer = caller.get("/api/v2/subjects").await;
        assert_eq!(
            answer.header("www-authenticate"),
            "Basic realm=\"Study Governor default_project\", charset=\"UTF-8\""
        );
        let body = answer.expect(401);
        assert_eq!(body["meta"]["code"], 401);
        assert_eq!(body["response"]["error"], "You are not authenticated. Please supply the correct credentials.");
        assert_eq!(body["code"], 401);
    }
    let body = server.bob().post("/api/v2/cohorts", json!({ "label": "x" })).await.expect(403);
    assert_eq!(body["response"]["error"], "You do not have permission to view this resource.");
    assert!(body["message"].as_str().unwrap().contains("sample_add"));
    for header in ["Basic", "Basic !", "Basic OnB3", "Digest x", "Bearer", "bearer sgov_x", "Basic YWRtaW4="] {
        let request = server.nobody().request(Method::GET, "/api/v2/subjects").header("authorization", header);
        server.nobody().send(request).await.expect(401);
    }
    // By e-mail address, ignoring case.
    server.basic("ADMIN@example.com", "admin").get("/api/v2/subjects").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_failures_are_slowed_down_and_others_are_not_concerned() {
    let server = Server::study(Backend::Sqlite).await;
    server.alice().get("/api/v2/cohorts").await.expect(200);
    let mut refused = 0;
    for _ in 0..15 {
        let answer = server.basic("alice", "wrong").get("/api/v2/cohorts").await;
        match answer.status.as_u16() {
            401 => {}
            429 => {
                assert!((1..=301).contains(&answer.header("retry-after").parse::<u32>().unwrap()));
                refused += 1;
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(refused, 5, "after ten");
    // The correct password is refused too; otherwise it could be recognised among the wrong ones. Other users are not
    // affected.
    server.alice().get("/api/v2/cohorts").await.expect(429);
    server.bob().get("/api/v2/cohorts").await.expect(200);
    // The login form counts the same failures.
    let form = "login=alice&password=alice-password";
    let request = server.nobody().request(Method::POST, "/login").body(form);
    let page = server.nobody().send(request.header("content-type", "application/x-www-form-urlencoded")).await;
    assert_eq!(page.status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_may_ask_too_but_not_from_another_site() {
    let server = Server::study(Backend::Sqlite).await;
    let nobody = server.nobody();
    let no_redirect = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let request = no_redirect.post(format!("{}/login", server.program.url)).body("login=admin&password=admin");
    let answer = request.header("content-type", "application/x-www-form-urlencoded").send().await.unwrap();
    let cookie = answer.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let with = |method: Method, path: &str| nobody.request(method, path).header("cookie", &cookie);
    nobody.send(with(Method::GET, "/api/v2/users")).await.expect(200);
    nobody.send(with(Method::POST, "/api/v2/cohorts").json(&json!({ "label": "own" }))).await.expect(201);
    for (name, value) in [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")] {
        let request = with(Method::POST, "/api/v2/cohorts").json(&json!({ "label": "evil" })).header(name, value);
        nobody.send(request).await.expect(403);
    }
    assert_eq!(server.admin().get("/api/v2/cohorts").await.expect(200)["count"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_do_what_they_are_for_until_they_end() {
    let server = Server::study(Backend::Postgres).await;
    let alice = server.alice();
    for body in [
        json!({}),
        json!({ "label": "x", "permissions": ["roles_manage"] }),
        json!({ "label": "x", "permissions": ["fly"] }),
        json!({ "label": "x", "expires_at": "2020-01-01" }),
        json!({ "label": "x", "expires_at": "2099-01-01" }),
    ] {
        alice.post("/api/v2/tokens", body).await.expect(400);
    }
    let body = json!({ "label": "nightly", "permissions": ["sample_add"] });
    let made = alice.post("/api/v2/tokens", body).await.expect(201);
    let secret = made["token"].as_str().unwrap();
    assert!(secret.starts_with("sgov_") && secret.len() > 40);
    let token = server.bearer(secret);
    token.post("/api/v2/cohorts", json!({ "label": "by_token" })).await.expect(201);
    let experiment = json!({ "label": "e", "scandate": "2024-01-01", "subject_id": 1 });
    token.post("/api/v2/experiments", experiment).await.expect(201);
    token.put("/api/v2/experiments/1/state", json!({ "state": "failed" })).await.expect(403);
    token.post("/api/v2/tokens", json!({ "label": "child" })).await.expect(403);
    // A token of an administrator with some permissions does not include operations that require the role.
    let admins =
        server.admin().post("/api/v2/tokens", json!({ "label": "a", "permissions": ["sample_add"] })).await.expect(201);
    let body = json!({ "run_timeout": 1 });
    server.bearer(admins["token"].as_str().unwrap()).put("/api/v2/callbacks/1", body.clone()).await.expect(403);
    let whole = server.admin().post("/api/v2/tokens", json!({ "label": "all" })).await.expect(201);
    server.bearer(whole["token"].as_str().unwrap()).put("/api/v2/callbacks/1", body).await.expect(200);
    // Lists show no secrets, and users cannot see or revoke tokens of other users.
    let listed = alice.get("/api/v2/tokens").await.expect(200);
    assert_eq!(listed["count"], 1);
    assert!(!listed.to_string().contains(secret) && listed["tokens"][0]["last_used_at"].is_string(), "{listed}");
    server.bob().delete("/api/v2/tokens/1").await.expect(404);
    token.get("/api/v2/cohorts").await.expect(200);
    assert!(alice.delete("/api/v2/tokens/1").await.expect(200)["revoked_at"].is_string());
    token.get("/api/v2/cohorts").await.expect(401);
    // Deleting the owner revokes the token.
    let made = alice.post("/api/v2/tokens", json!({ "label": "other" })).await.expect(201);
    server.admin().delete("/api/v2/users/2").await.expect(200);
    server.bearer(made["token"].as_str().unwrap()).get("/api/v2/cohorts").await.expect(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_is_left_who_can_let_others_in() {
    let server = Server::study(Backend::Mariadb).await;
    let admin = server.admin();
    admin.delete("/api/v2/users/1").await.expect(409);
    admin.put("/api/v2/users/1", json!({ "active": false })).await.expect(409);
    admin.delete("/api/v2/users/admin/roles/admin").await.expect(409);
    admin.put("/api/v2/users/alice/roles/admin", json!({})).await.expect(200);
    admin.delete("/api/v1/users/admin/roles/admin").await.expect(200);
    admin.get("/api/v2/users").await.expect(403);
    server.alice().get("/api/v2/users").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn q2_an_execution_is_seen_with_the_permission_or_the_secret_of_its_attempt() {
    let server = Server::study(Backend::Sqlite).await;
    server.experiment("e").await;
    let nobody = server.nobody();
    let secret = execution_secret("a key of the tests", 1, 1);
    let other = execution_secret("a key of the tests", 2, 1);
    for version in ["v1", "v2"] {
        let (here, absent) =
            (format!("/api/{version}/callback_executions/1"), format!("/api/{version}/callback_executions/999"));
        // Without a login, a missing execution looks like one without access.
        assert_eq!(nobody.get(&here).await.expect(403), nobody.get(&absent).await.expect(403));
        let running = json!({ "status": "running" });
        assert_eq!(
            nobody.put(&here, running.clone()).await.expect(403),
            nobody.put(&absent, running).await.expect(403)
        );
        server.bob().get(&here).await.expect(403);
        server.alice().get(&here).await.expect(403);
        server.admin().get(&absent).await.expect(404);
        for (name, secret, status) in [
            ("secret", &secret, 200),
            ("secret_key", &secret, 200),
            ("secret", &other, 403),
            ("secret_key", &String::new(), 403),
        ] {
            // Workers of version 8.1 send it in the body of a GET request.
            let request = nobody.request(Method::GET, &here).json(&json!({ name: secret }));
            let answer = nobody.send(request).await;
            assert_eq!(answer.status.as_u16(), status, "{name}");
            assert!(!answer.body.to_string().contains(secret.as_str()) || secret.is_empty());
        }
    }
    let path = "/api/v2/callback_executions/1";
    let report = |secret: &str, status: &str| json!({ "secret": secret, "status": status, "result": "failed" });
    nobody.put(path, json!({ "secret_key": secret, "status": "running" })).await.expect(200);
    // After a user retries it, the first attempt can no longer report.
    server.admin().post(&format!("{path}/retry"), json!({ "reason": "stuck" })).await.expect(200);
    nobody.put(path, report(&secret, "finished")).await.expect(409);
    let request = nobody.request(Method::GET, path).json(&json!({ "secret": secret }));
    nobody.send(request).await.expect(403);
    let second = execution_secret("a key of the tests", 1, 2);
    let done = nobody.put(path, report(&second, "finished")).await.expect(200);
    assert_eq!((&done["status"], &done["result"], &done["attempt"]), (&json!("finished"), &json!("failed"), &json!(2)));
    nobody.put(path, report(&second, "finished")).await.expect(409);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reaches_for_more_than_the_own_rights() {
    let server = Server::study(Backend::Sqlite).await;
    let admin = server.admin();
    let text = json!({
        "roles": [{ "name": "helpers", "permissions": ["user_update_all", "roles_manage", "user_delete", "user_read"] }],
        "users": [{ "username": "helper", "password": "p", "email": "h@example.com", "roles": ["helpers"] }],
    });
    admin
        .put("/api/v2/service/config/import-config", json!({ "config_definition": text.to_string() }))
        .await
        .expect(200);
    let helper = server.basic("helper", "p");
    helper.put("/api/v2/users/1", json!({ "password": "mine" })).await.expect(403);
    helper.delete("/api/v2/users/1").await.expect(403);
    helper.put("/api/v2/users/2", json!({ "active": false })).await.expect(403);
    for role in ["admin", "superuser"] {
        helper.put(&format!("/api/v2/users/helper/roles/{role}"), json!({})).await.expect(403);
        helper.put(&format!("/api/v1/users/helper/roles/{role}"), json!({})).await.expect(403);
    }
    helper.put("/api/v2/users/3", json!({ "password": "helped" })).await.expect(200);
    helper.put("/api/v2/users/bob/roles/user", json!({})).await.expect(200);
    // A token cannot be used to set a password and so to gain permanent access.
    let token = admin.post("/api/v2/tokens", json!({ "label": "t" })).await.expect(201);
    let token = server.bearer(token["token"].as_str().unwrap());
    token.put("/api/v2/users/3", json!({ "password": "kept" })).await.expect(403);
    token.put("/api/v2/users/3", json!({ "name": "Bob" })).await.expect(200);
    // A new password revokes the tokens that were created with the old one.
    admin.put("/api/v2/users/1", json!({ "password": "another" })).await.expect(200);
    token.get("/api/v2/cohorts").await.expect(401);
    let text = "users: [{username: admin, password: x, email: admin@example.com, roles: []}]";
    let body = json!({ "config_definition": text });
    server.basic("admin", "another").put("/api/v2/service/config/import-config", body).await.expect(409);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_or_address_belongs_to_one_account_however_it_is_written() {
    let server = Server::study(Backend::Postgres).await;
    let admin = server.admin();
    let user =
        |username: &str, email: &str| json!({ "username": username, "name": "N", "email": email, "password": "p" });
    admin.post("/api/v2/users", user("alice@example.com", "new@example.com")).await.expect(409);
    admin.post("/api/v2/users", user("new", "ALICE@example.com")).await.expect(409);
    admin.put("/api/v2/users/3", json!({ "username": "alice@example.com" })).await.expect(409);
    admin.put("/api/v2/users/3", json!({ "email": "Alice@Example.com" })).await.expect(409);
    admin.post("/api/v2/users", user("own@example.com", "own@example.com")).await.expect(201);
    server.basic("Alice@example.com", "alice-password").get("/api/v2/cohorts").await.expect(200);
}

/// One rule for all operations: a token, even an administrator's, cannot change passwords and e-mail addresses of
/// existing accounts.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_changes_no_credentials() {
    const PATH: &str = "/api/v2/service/config/import-config";
    let server = Server::study(Backend::Sqlite).await;
    let made = server.admin().post("/api/v2/tokens", json!({ "label": "all" })).await.expect(201);
    let token = server.bearer(made["token"].as_str().unwrap());
    let user = |name: &str, password: &str, email: &str| {
        let text =
            format!("users: [{{username: {name}, name: N, password: {password}, email: {email}, active: true}}]");
        json!({ "config_definition": text })
    };
    // A new account may be created, as with POST /users.
    token.post(PATH, user("dora", "a long password", "dora@example.org")).await.expect(201);
    let stays = json!({ "username": "dora", "password": "another password" });
    for body in
        [user("dora", "another password", "dora@example.org"), user("dora", "a long password", "mallory@example.org")]
    {
        let refused = token.put(PATH, body.clone()).await.expect(403);
        assert!(refused["message"].as_str().unwrap().contains("API token"), "{refused}");
    }
    token.put("/api/v1/users/4", stays.clone()).await.expect(403);
    token.put("/api/v2/users/4", stays).await.expect(403);
    // Unchanged values are not a change, and everything else may be changed.
    let other =
        "users: [{username: dora, name: Dora, password: a long password, email: dora@example.org, active: false}]";
    token.put(PATH, json!({ "config_definition": other })).await.expect(200);
    // Allowed with a password.
    server.admin().put(PATH, user("dora", "another password", "mallory@example.org")).await.expect(200);
}

/// As sent by Python's requests, curl and .netrc files in Latin-1.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_read_in_utf_8_and_in_latin_1() {
    use base64::Engine;
    let server = Server::empty(Backend::Sqlite).await;
    let user = |name: &str, password: &str| {
        json!({ "username": name, "password": password, "name": name,
        "email": format!("u{}@example.com", name.len()), "active": true, "roles": ["user"] })
    };
    let users = json!({ "users": [user("ada", "Grüße an alle"), user("Zoë", "naïve café"), user("plain", "a:b:ÿ")] });
    let body = json!({ "config_definition": users.to_string() });
    server.admin().post("/api/v2/service/config/import-config", body).await.expect(201);
    let nobody = server.nobody();
    for login in ["ada:Grüße an alle", "Zoë:naïve café", "plain:a:b:ÿ"] {
        let latin: Vec<u8> = login.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
        for bytes in [login.as_bytes().to_vec(), latin] {
            let encoded = base64::engine::general_purpose::STANDARD.encode(bytes);
            let request =
                nobody.request(Method::GET, "/api/v2/cohorts").header("authorization", format!("Basic {encoded}"));
            nobody.send(request).await.expect(200);
        }
    }
    let wrong = base64::engine::general_purpose::STANDARD.encode(b"ada:Gr\xfc\xdfe an allen");
    let request = nobody.request(Method::GET, "/api/v2/cohorts").header("authorization", format!("Basic {wrong}"));
    nobody.send(request).await.expect(401);
}
