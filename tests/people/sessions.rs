//! Browser sessions: duration, origin and end.

use super::{GOOD, House, Visitor};
use crate::support::{Backend, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_rotated_shown_and_ended() {
    let house = House::new(Backend::Postgres, &[]).await;
    house.add("mia", &["user"]).await;
    let mia = house.visitor();
    let form = [("login", "mia"), ("password", GOOD)];
    let first = mia.post("/login", &form).await.leads("/").cookie;
    for word in ["HttpOnly", "SameSite=Lax", "Path=/"] {
        assert!(first.contains(word), "{first}");
    }
    assert!(!first.contains("Max-Age") && !first.contains("Expires"), "ends with the browser: {first}");
    let second = mia.post("/login", &form).await.leads("/").cookie;
    assert_ne!(first, second, "a login begins a session of its own");
    let remembered = house.visitor();
    let form = [("login", "mia"), ("password", GOOD), ("remember", "1")];
    let cookie = remembered.post("/login", &form).await.leads("/").cookie;
    assert!(cookie.contains("Max-Age=2592000") || cookie.contains("Max-Age=2591999"), "{cookie}");

    let account = mia.get("/account").await.shows(200, "from 127.0.0.1");
    assert_eq!((account.text.matches(">current<").count(), account.text.matches(">remembered<").count()), (1, 1));
    mia.post("/account/sessions/end", &[]).await.leads("/account");
    remembered.get("/").await.leads("/login?next=%2F");
    mia.get("/").await.shows(200, "Overview");
    // By an administrator.
    let admin = house.admin().await;
    admin.get("/users/2").await.shows(200, "from 127.0.0.1");
    admin.post("/users/2/sessions/end", &[]).await.leads("/users/2?told=ended");
    mia.get("/").await.leads("/login?next=%2F");
    let other = Visitor::logged_in(house.url(), "mia", GOOD).await;
    // Browsers store no personal pages, and a logout clears everything.
    let kept = other.request(reqwest::Method::GET, "/account").send().await.unwrap();
    assert_eq!(kept.headers()["cache-control"], "no-store");
    let answer = house.server.basic("mia", GOOD).get("/api/v2/experiments").await;
    assert_eq!(answer.header("cache-control"), "private, no-cache");
    let out = other.request(reqwest::Method::POST, "/logout").send().await.unwrap();
    assert_eq!(out.headers()["clear-site-data"], "\"cache\"");
    other.page(out).await.leads("/login");
    other.get("/").await.leads("/login?next=%2F");
    other.get("/login?next=%2Faccount").await.shows(200, "You are not logged in");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_when_it_is_not_used_and_after_its_longest_time() {
    for limit in ["SECURITY_SESSION_IDLE", "SECURITY_SESSION_LONGEST"] {
        let house = House::new(Backend::Sqlite, &[(limit, "6 seconds")]).await;
        let admin = house.admin().await;
        admin.get("/").await.shows(200, "Overview");
        tokio::time::sleep(std::time::Duration::from_millis(6100)).await;
        admin.get("/").await.leads("/login?next=%2F");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_changed_by_who_knows_it() {
    let house = House::new(Backend::Mariadb, &[]).await;
    house.add("nina", &["user"]).await;
    let (nina, elsewhere) =
        (Visitor::logged_in(house.url(), "nina", GOOD).await, Visitor::logged_in(house.url(), "nina", GOOD).await);
    let other = "nine quiet bridges at noon";
    let form = |current, password, again| [("current", current), ("password", password), ("again", again)];
    nina.post("/change", &form("wrong", other, other)).await.shows(422, "is not the password of this account");
    nina.post("/change", &form(GOOD, "password1234", "password1234")).await.shows(422, "too easy to guess");
    nina.post("/change", &form(GOOD, other, GOOD)).await.shows(422, "does not match");
    nina.post("/change", &form(GOOD, other, other)).await.leads("/account");
    nina.get("/account").await.shows(200, ">current<");
    elsewhere.get("/").await.leads("/login?next=%2F");
    house.mail("nina@example.com", "was changed").await;
    Visitor::logged_in(house.url(), "nina", other).await;
    // The number of guesses at the old password is limited.
    let mut refused = 0;
    for _ in 0..12 {
        refused += u32::from(nina.post("/change", &form("wrong", other, other)).await.status == 429);
    }
    assert!(refused >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_for_reading_unless_more_is_asked_for() {
    let house = House::new(Backend::Sqlite, &[]).await;
    let admin = house.admin().await;
    let page = admin.post("/account/tokens", &[("label", "mine"), ("days", "400"), ("permissions", "read")]).await;
    let page = page.shows(422, "must be 1 to 366 days");
    assert!(page.text.contains("value=\"400\"") && page.text.contains("value=\"mine\""), "{}", page.text);
    assert!(!page.text.contains("value=\"all\" selected"));
    let page = admin.post("/account/tokens", &[("label", "mine"), ("days", "0"), ("permissions", "all")]).await;
    assert!(page.text.contains("value=\"all\" selected"));
    let odd = [("label", "mine"), ("days", "1"), ("permissions", "odd")];
    assert_eq!(admin.post("/account/tokens", &odd).await.status, 422);
    // An open browser is not enough.
    for (password, problem) in [("", "is missing"), ("guess", "is not the password of this account")] {
        let form = [("label", "kept"), ("days", "1"), ("permissions", "all"), ("password", password)];
        let page = admin.post("/account/tokens", &form).await.shows(422, problem);
        assert!(page.text.contains("value=\"kept\"") && !page.text.contains("value=\"guess\""), "{}", page.text);
    }
    let request = admin.request(reqwest::Method::POST, "/api/v2/tokens");
    for (body, status) in [
        (serde_json::json!({ "label": "api" }), 400),
        (serde_json::json!({ "label": "api", "password": "guess" }), 400),
        (serde_json::json!({ "label": "api", "password": "admin" }), 201),
    ] {
        let answer = request.try_clone().unwrap().json(&body).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{body}");
    }
    let form = [("label", "mine"), ("days", "1"), ("password", "admin")];
    let page = admin.post("/account/tokens", &form).await.shows(200, "Your new token");
    let secret = page.text.split_once("sgov_").unwrap().1.split_once('<').unwrap().0;
    let token = house.server.bearer(&format!("sgov_{secret}"));
    token.get("/api/v2/cohorts").await.expect(200);
    token.post("/api/v2/cohorts", serde_json::json!({ "label": "x" })).await.expect(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn weak_passwords_are_pointed_out_to_administrators() {
    let house = House::new(Backend::Sqlite, &[]).await;
    house.add("olga", &["user"]).await;
    let admin = house.admin().await;
    admin.get("/").await.shows(200, "Your password is easy to guess");
    let warned = |name: &str| {
        let log = house.server.program.log();
        log.lines().any(|line| line.contains("weak password") && line.contains(&format!("user={name}")))
    };
    assert!(warned("admin") && !warned("olga"));
    let user = serde_json::json!({ "username": "weak", "password": "weak", "name": "w", "email": "weak@example.com" });
    house.server.admin().post("/api/v2/users", user).await.expect(201);
    eventually("the warning", async || warned("weak").then_some(())).await;
    let change = serde_json::json!({ "password": "olga" });
    house.server.admin().put("/api/v2/users/2", change).await.expect(200);
    eventually("the warning", async || warned("olga").then_some(())).await;
    house.server.admin().put("/api/v2/users/2", serde_json::json!({ "password": GOOD })).await.expect(200);
    let home = admin.get("/").await.shows(200, "Accounts with weak passwords");
    assert!(home.text.contains(">weak</a>") && !home.text.contains(">olga</a>"));
    let olga = Visitor::logged_in(house.url(), "olga", GOOD).await;
    let home = olga.get("/").await.text;
    assert!(!home.contains("easy to guess") && !home.contains("weak passwords"));
    let other = "nine quiet bridges at noon";
    admin.post("/change", &[("current", "admin"), ("password", other), ("again", other)]).await.leads("/account");
    assert!(!admin.get("/").await.text.contains("Your password is easy to guess"));
}
