//! Pages over HTTP, as seen by a browser without JavaScript.

use std::io::Write;
use std::process::Stdio;

use reqwest::{Client, Method, RequestBuilder, StatusCode, redirect};
use tempfile::TempDir;

use crate::support::{Program, eventually, studygovernor};

/// The example study with its own server.
pub struct Demo {
    pub server: Program,
    pub home: TempDir,
}

impl Demo {
    /// `environment` contains settings in addition to those of the demo.
    pub fn start(environment: &[(&str, &str)]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut command = studygovernor(home.path(), &["demo"]);
        command.envs(environment.iter().copied());
        Self { server: Program::start(command), home }
    }

    /// A browser that is not logged in.
    pub fn browser(&self) -> Browser {
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = Client::builder().redirect(redirect::Policy::none()).build().unwrap();
        Browser { client, base: self.server.url.clone(), cookie: None }
    }

    pub async fn admin(&self) -> Browser {
        let mut browser = self.browser();
        browser.log_in("admin", "admin").await;
        browser
    }

    /// Creates an account with the role.
    pub fn add_user(&self, name: &str, role: &str) {
        let mut command = studygovernor(self.home.path(), &["user", "create", name, "--role", role]);
        command.env("STUDYGOV_PROJECT_HOME", "demo").stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"a long password\n").unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// Waits until no callback runs: 16 sessions are done, 11 are to be read, 5 are incomplete.
    pub async fn settled(&self, browser: &Browser) {
        eventually("the study to settle", async || {
            let home = browser.get("/").await.1;
            let done = home.contains(">16</div>") && home.matches("state-end\">done").count() == 1;
            let (_, list) = browser.get("/experiments?q=meg").await;
            (done && list.matches(">done</span>").count() == 16).then_some(())
        })
        .await;
    }
}

pub struct Browser {
    client: Client,
    base: String,
    pub cookie: Option<String>,
}

impl Browser {
    /// A browser that is not logged in, at a server that the test has started.
    pub fn at(url: &str) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = Client::builder().redirect(redirect::Policy::none()).build().unwrap();
        Self { client, base: url.to_owned(), cookie: None }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match &self.cookie {
            Some(cookie) => request.header("cookie", cookie),
            None => request,
        }
    }

    pub async fn get(&self, path: &str) -> (StatusCode, String) {
        let answer = self.request(Method::GET, path).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    /// Status, redirect location, and text.
    pub async fn post(&self, path: &str, form: &[(&str, &str)]) -> (StatusCode, String, String) {
        let body: String = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = self.request(Method::POST, path).header("content-type", "application/x-www-form-urlencoded");
        let answer = request.body(body).send().await.unwrap();
        let location = answer.headers().get("location").map(|value| value.to_str().unwrap().to_owned());
        (answer.status(), location.unwrap_or_default(), answer.text().await.unwrap())
    }

    pub async fn log_in(&mut self, login: &str, password: &str) -> StatusCode {
        let body = format!("login={login}&password={}", password.replace(' ', "+"));
        let request = self.request(Method::POST, "/login").header("content-type", "application/x-www-form-urlencoded");
        let answer = request.body(body).send().await.unwrap();
        if let Some(cookie) = answer.headers().get("set-cookie") {
            let text = cookie.to_str().unwrap();
            for word in ["HttpOnly", "SameSite=Lax", "Path=/"] {
                assert!(text.contains(word), "{text}");
            }
            self.cookie = Some(text.split(';').next().unwrap().to_owned());
        }
        answer.status()
    }
}

const PAGES: [&str; 16] = [
    "/",
    "/experiments",
    "/experiments?q=sub-0&cohort=1&workflow=1&state=5",
    "/experiments?q=-is:held+sort:-instate",
    "/experiments?held=1",
    "/experiments/1",
    "/subjects",
    "/subjects?q=sub&cohort=",
    "/subjects/1",
    "/cohorts",
    "/cohorts/1",
    "/workflows",
    "/workflows/1",
    "/workflows/1/graph.svg",
    "/states/2",
    "/callback_executions/1",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_there_for_those_who_are_logged_in() {
    let demo = Demo::start(&[]);
    let nobody = demo.browser();
    let admin = demo.admin().await;
    for path in PAGES {
        let (status, text) = admin.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {text}");
        let answer = nobody.request(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::SEE_OTHER, "{path}");
        assert!(answer.headers()["location"].to_str().unwrap().starts_with("/login?next=%2F"), "{path}");
        let answer = admin.request(Method::GET, path).header("hx-request", "true").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path} as a fragment");
    }
    let (status, _) = admin.get("/actions/1").await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let fragment = admin.request(Method::GET, "/experiments").header("hx-request", "true").send().await.unwrap();
    assert_eq!(fragment.headers()["vary"], "HX-Request, Cookie");
    let fragment = fragment.text().await.unwrap();
    assert!(fragment.trim_start().starts_with("<div id=\"results\""), "{fragment}");
    // A form that is sent after the session has ended leads back to its page.
    let form = nobody.post("/experiments/1/transition", &[("state", "1"), ("version", "1")]).await;
    assert_eq!((form.0, form.1.as_str()), (StatusCode::SEE_OTHER, "/login?next=%2Fexperiments%2F1"));
    // htmx is redirected to the login page; an ordinary redirect would insert it into the page.
    let answer = nobody.request(Method::GET, "/experiments").header("hx-request", "true").send().await.unwrap();
    assert_eq!(
        (answer.status(), &answer.headers()["hx-redirect"]),
        (StatusCode::UNAUTHORIZED, &"/login".parse().unwrap())
    );
    for asset in ["/static/app.css", "/static/vendor/bootstrap-5.3.9.min.css", "/static/icon.svg"] {
        let answer = nobody.request(Method::GET, asset).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{asset}");
        let tag = answer.headers()["etag"].clone();
        let again = nobody.request(Method::GET, asset).header("if-none-match", tag).send().await.unwrap();
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{asset}");
    }
    for path in ["/-/healthy", "/-/ready", "/-/versions"] {
        assert_eq!(nobody.get(path).await.0, StatusCode::OK, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_gets_a_page_that_says_so() {
    let demo = Demo::start(&[]);
    let admin = demo.admin().await;
    for (path, status) in [
        ("/nowhere", 404),
        ("/experiments/abc", 400),
        ("/experiments/4711", 404),
        ("/experiments/99999999999", 400),
        ("/experiments?state=abc", 400),
        ("/experiments?after=x", 400),
        ("/subjects?below=x", 400),
        ("/subjects/0", 404),
        ("/cohorts/-1", 404),
        ("/workflows/4711", 404),
        ("/workflows/4711/graph.svg", 404),
        ("/states/4711", 404),
        ("/callback_executions/4711", 404),
        ("/actions/4711", 404),
        ("/static/absent.css", 404),
        ("/static/../Cargo.toml", 404),
        ("/static/%2e%2e/Cargo.toml", 404),
    ] {
        let (got, text) = admin.get(path).await;
        assert_eq!(got.as_u16(), status, "{path}: {text}");
        assert!(text.contains("<h1") && text.contains(&status.to_string()), "{path}: {text}");
        assert!(!text.contains("src/"), "{path} shows internals: {text}");
    }
    // A GET request for the URL of an action is redirected to the page above, and changes nothing.
    assert_eq!(admin.get("/experiments/1/transition").await.0.as_u16(), 303);
    // A bookmarked URL of version 8.1, where it ended the session.
    let (status, text) = admin.get("/logout").await;
    assert!(
        status == StatusCode::OK && text.contains("logged in as admin") && text.contains("action=\"/logout\""),
        "{text}"
    );
    assert_eq!(admin.get("/").await.0, StatusCode::OK);
    for (path, to) in [("/index", "/"), ("/states", "/workflows"), ("/transitions", "/workflows")] {
        let answer = admin.request(Method::GET, path).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers()["location"].to_str().unwrap()), (308, to), "{path}");
    }
    for (path, form, status) in [
        ("/cohorts", &[][..], 405),
        ("/experiments/1/transition", &[][..], 422),
        ("/experiments/1/transition", &[("state", "x"), ("version", "1")], 422),
        ("/experiments/4711/transition", &[("state", "1"), ("version", "1")], 404),
        ("/experiments/1/transition", &[("state", "4711"), ("version", "99")], 409),
        ("/callback_executions/1/intervene", &[("what", "dance"), ("reason", "x")], 400),
        ("/callback_executions/1/intervene", &[("what", "skip"), ("reason", " ")], 422),
        ("/callback_executions/4711/intervene", &[("what", "skip"), ("reason", "x")], 404),
    ] {
        let (got, _, text) = admin.post(path, form).await;
        assert_eq!(got.as_u16(), status, "{path} {form:?}: {text}");
        assert!(text.contains("<h1"), "{path}: {text}");
    }
    let huge = admin.request(Method::POST, "/login").header("content-type", "application/x-www-form-urlencoded");
    let answer = huge.body("x".repeat(2_100_000)).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer.headers()["connection"], "close", "or the next request meets a closed connection");
    let json = admin.request(Method::POST, "/login").header("content-type", "application/json").body("{}").send().await;
    assert_eq!(json.unwrap().status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

/// A client that sends too much gets the reason, even if it reads nothing before it has sent everything, as browsers
/// do.
#[test]
fn who_sends_too_much_hears_the_answer() {
    use std::io::{Read, Write};
    let demo = Demo::start(&[]);
    let mut connection =
        std::net::TcpStream::connect(demo.server.url.trim_start_matches("http://").trim_end_matches('/')).unwrap();
    let length = 20 << 20;
    write!(
        connection,
        "POST /login HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {length}\r\n\r\n"
    )
    .unwrap();
    for _ in 0..20 {
        connection.write_all(&vec![b'x'; 1 << 20]).expect("somebody reads to the end");
    }
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_decides_with_a_form_and_the_experiment_goes_on() {
    let demo = Demo::start(&[]);
    let admin = demo.admin().await;
    demo.settled(&admin).await;
    let (_, list) = admin.get("/experiments?q=sub-07_ses-mri").await;
    let id = list.split("href=\"/experiments/").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let path = format!("/experiments/{id}");
    let (_, page) = admin.get(&path).await;
    assert!(page.contains("incomplete") && page.contains("Waiting for a manual decision"), "{page}");
    assert!(page.contains("[&quot;diffusion&quot;]"), "the reason is in the variables: {page}");
    let hidden = |name: &str, page: &str| {
        page.split(&format!("name=\"{name}\" value=\"")).nth(1).unwrap().split('"').next().unwrap().to_owned()
    };
    let button = |label: &str, page: &str| {
        let (before, _) = page.split_once(&format!("Move to {label}</button>")).unwrap();
        before.rsplit("name=\"state\" value=\"").next().unwrap().split('"').next().unwrap().to_owned()
    };
    let version = hidden("version", &page);
    let excluded = button("excluded", &page);
    let preprocessing = button("preprocessing", &page);

    let markup = "<script>alert(1)</script> & \"quotes\"";
    let form = [("state", preprocessing.as_str()), ("version", version.as_str()), ("note", markup)];
    let (status, location, _) = admin.post(&format!("{path}/transition"), &form).await;
    assert_eq!((status, location.as_str()), (StatusCode::SEE_OTHER, path.as_str()));
    let (_, page) = admin.get(&path).await;
    assert!(page.contains("&lt;script&gt;alert(1)") && !page.contains("<script>alert"), "{page}");
    assert!(page.contains("hx-trigger=\"every 2s\"") && page.contains("http-equiv=\"refresh\""), "it updates itself");

    // The button of a page that another user still has open does nothing, and the note is kept.
    let form = [("state", excluded.as_str()), ("version", version.as_str()), ("note", "my words")];
    let (status, _, text) = admin.post(&format!("{path}/transition"), &form).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(text.contains("has changed in the meantime") && text.contains("my words"), "{text}");

    eventually("it to be done", async || {
        let (_, page) = admin.get(&path).await;
        page.contains("This is a final state of the workflow").then_some(())
    })
    .await;
    let (_, page) = admin.get(&path).await;
    assert!(page.contains("admin") && page.contains("pipeline_seconds"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_those_who_may_can_change_something() {
    let demo = Demo::start(&[]);
    demo.add_user("reader", "user");
    demo.add_user("rater", "superuser");
    let mut reader = demo.browser();
    assert_eq!(reader.log_in("reader", "wrong").await, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(reader.log_in("nobody", "wrong").await, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(reader.log_in("READER@localhost", "a long password").await, StatusCode::SEE_OTHER);
    let mut rater = demo.browser();
    rater.log_in("rater", "a long password").await;
    let transition = "/experiments/1/transition";
    let form = [("state", "1"), ("version", "99")];
    assert_eq!(reader.post(transition, &form).await.0, StatusCode::FORBIDDEN);
    assert_eq!(rater.post(transition, &form).await.0, StatusCode::CONFLICT);
    let repair = "/callback_executions/1/intervene";
    for browser in [&reader, &rater] {
        assert_eq!(browser.post(repair, &[("what", "skip"), ("reason", "x")]).await.0, StatusCode::FORBIDDEN);
        assert!(!browser.get("/callback_executions/1").await.1.contains("Intervene"));
    }
    assert!(!reader.get("/experiments/1").await.1.contains("Note for the history"));
    // A logout also ends the session on the server.
    assert_eq!(reader.post("/logout", &[]).await.0, StatusCode::SEE_OTHER);
    assert_eq!(reader.get("/").await.0, StatusCode::SEE_OTHER);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_sites_and_scripts_get_nowhere() {
    let demo = Demo::start(&[]);
    let admin = demo.admin().await;
    for (name, value) in [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")] {
        let request = admin.request(Method::POST, "/logout").header(name, value);
        assert_eq!(request.send().await.unwrap().status(), StatusCode::FORBIDDEN, "{name}");
    }
    assert_eq!(admin.get("/").await.0, StatusCode::OK, "still logged in");
    for next in
        ["https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)", "/\t/evil.example"]
    {
        let form = [("login", "admin"), ("password", "admin"), ("next", next)];
        assert_eq!(demo.browser().post("/login", &form).await.1, "/", "{next}");
    }
    let form = [("login", "admin"), ("password", "admin"), ("next", "/experiments?q=a")];
    assert_eq!(demo.browser().post("/login", &form).await.1, "/experiments?q=a");
    let answer = admin.request(Method::GET, "/experiments").send().await.unwrap();
    let policy = answer.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("default-src 'self'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    assert!(answer.headers().contains_key("x-request-id"));
    let text = answer.text().await.unwrap();
    assert!(!text.contains(" style=\"") && !text.contains("<script>") && !text.contains(" onclick="));
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_under_a_path_prefix() {
    let demo = Demo::start(&[("SCRIPT_NAME", "/studies/faces")]);
    assert!(demo.server.url.ends_with("/studies/faces"), "{}", demo.server.url);
    let mut browser = demo.browser();
    let body = "login=admin&password=admin";
    let request = browser.request(Method::POST, "/login").header("content-type", "application/x-www-form-urlencoded");
    let answer = request.body(body).send().await.unwrap();
    assert_eq!(answer.headers()["location"], "/studies/faces/");
    let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.contains("Path=/studies/faces"), "{cookie}");
    browser.cookie = Some(cookie.split(';').next().unwrap().to_owned());
    for path in PAGES {
        let (status, text) = browser.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        for attribute in ["href=\"/", "src=\"/", "action=\"/", "hx-get=\"/", "hx-post=\"/"] {
            for found in text.match_indices(attribute) {
                let rest = &text[found.0 + attribute.len() - 1..];
                assert!(rest.starts_with("/studies/faces/"), "{path}: {}", &rest[..60.min(rest.len())]);
            }
        }
    }
    assert_eq!(browser.get("/-/ready").await.0, StatusCode::OK);
    assert_eq!(browser.get("/static/app.css").await.0, StatusCode::OK);
}
