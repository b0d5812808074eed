//! The database is unreachable: every response reports it and when to try again, with each kind of login.

use reqwest::Method;

use crate::api::Server;
use crate::people::Visitor;
use crate::support::{Backend, eventually};

async fn requests_say_that_the_database_cannot_be_reached(backend: Backend) {
    let (server, proxy) = Server::behind_proxy(backend, &[]).await;
    let browser = Visitor::logged_in(&server.program.url, "admin", "admin").await;
    browser.get("/experiments").await.shows(200, "Experiments");
    let unknown = Visitor::at(&server.program.url);
    let form = "application/x-www-form-urlencoded";
    let login = unknown.request(Method::POST, "/login").header("content-type", form).body("login=admin&password=admin");
    proxy.cut();
    let fragment = |path: &str| browser.request(Method::GET, path).header("hx-request", "true");
    for (request, is_api) in [
        (browser.request(Method::GET, "/experiments"), false),
        (fragment("/experiments"), false),
        (browser.request(Method::POST, "/logout"), false),
        (browser.request(Method::GET, "/api/v2/experiments"), true),
        (browser.request(Method::POST, "/api/v2/cohorts").json(&serde_json::json!({ "label": "c" })), true),
        (server.basic("alice", "alice-password").request(Method::GET, "/api/v1/subjects"), true),
        (server.bearer("sgov_no-such-token").request(Method::GET, "/api/v2/subjects"), true),
        (login, false),
    ] {
        let shown = format!("{request:?}");
        let answer = request.send().await.unwrap();
        let retry_after = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        assert_eq!((status, retry_after.as_deref()), (503, Some("5")), "{shown}: {text}");
        assert!(text.contains("cannot be reached"), "{shown}: {text}");
        assert_eq!(kind.starts_with("application/json"), is_api, "{shown}: {kind}");
    }
    proxy.mend();
    eventually("the session to be known again", async || {
        (browser.get("/experiments").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_say_that_the_database_cannot_be_reached_on_postgres() {
    requests_say_that_the_database_cannot_be_reached(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_say_that_the_database_cannot_be_reached_on_mariadb() {
    requests_say_that_the_database_cannot_be_reached(Backend::Mariadb).await;
}
