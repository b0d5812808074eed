//! The second factor.

use std::time::{SystemTime, UNIX_EPOCH};

use totp_rs::{Builder, Secret};

use super::{GOOD, House, Visitor};
use crate::support::Backend;

/// The code of an app with this secret, this number of 30 s steps from now.
fn code(secret: &str, steps: u64) -> String {
    let totp = Builder::new().with_secret(Secret::try_from_base32(secret).unwrap()).build().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    totp.generate(now + 30 * steps).to_string()
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    text.split_once(before).unwrap().1.split_once(after).unwrap().0
}

/// Sets up a second factor and returns the secret of the app.
pub async fn set_up(visitor: &Visitor) -> String {
    let page = visitor.get("/account/second_factor").await.shows(200, "<svg");
    let secret = between(&page.text, "user-select-all\">", "</code>").replace(' ', "");
    visitor
        .post("/account/second_factor", &[("code", &code(&secret, 0)), ("password", GOOD)])
        .await
        .shows(200, "recovery codes");
    secret
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_asked_for_and_is_good_once() {
    let house = House::new(Backend::Postgres, &[]).await;
    house.add("paul", &["user"]).await;
    let paul = Visitor::logged_in(house.url(), "paul", GOOD).await;
    let api = house.server.basic("paul", GOOD);
    let token = api.post("/api/v2/tokens", serde_json::json!({ "label": "script" })).await.expect(201);
    let elsewhere = Visitor::logged_in(house.url(), "paul", GOOD).await;
    let shown = |text: &str| between(text, "user-select-all\">", "</code>").replace(' ', "");
    // A secret that was shown to another person with only the password is useless when the owner sets up the factor.
    let seen = shown(&elsewhere.get("/account/second_factor").await.shows(200, "<svg").text);
    let secret = shown(&paul.get("/account/second_factor").await.shows(200, "<svg").text);
    assert_ne!(seen, secret);
    // During the set-up, the page may be opened again, for example after using the phone.
    assert_eq!(shown(&paul.get("/account/second_factor").await.text), secret);
    paul.post("/account/second_factor", &[("code", &code(&seen, 0)), ("password", GOOD)])
        .await
        .shows(422, "does not match");
    // A person at an open browser cannot lock out its owner.
    for (password, problem) in [("", "is missing"), ("not the password", "is not the password of this account")] {
        let form = [("code", &*code(&secret, 0)), ("password", password)];
        paul.post("/account/second_factor", &form).await.shows(422, problem);
    }
    paul.get("/account/second_factor").await.shows(200, "<svg");
    paul.post("/account/second_factor", &[("code", "000000"), ("password", GOOD)]).await.shows(422, "does not match");
    let first = code(&secret, 0);
    let page =
        paul.post("/account/second_factor", &[("code", &first), ("password", GOOD)]).await.shows(200, "recovery codes");
    let recovery: Vec<&str> =
        page.text.split("<li class=\"col\">").skip(1).map(|part| part.split_once('<').unwrap().0).collect();
    assert_eq!(recovery.len(), 10);
    house.mail("paul@example.com", "second factor").await;
    elsewhere.get("/").await.leads("/login?next=%2F");
    paul.get("/").await.shows(200, "Overview");

    let login = [("login", "paul"), ("password", GOOD)];
    let again = house.visitor();
    again.post("/login", &login).await.leads("/login/code");
    again.get("/").await.leads("/login?next=%2F");
    // The same code: a new one may be valid by now, because half a minute may have passed.
    again.post("/login/code", &[("code", &first)]).await.shows(422, "already been used");
    again.post("/login/code", &[("code", "123 456")]).await.shows(422, "is invalid");
    again.post("/login/code", &[("code", &code(&secret, 1))]).await.leads("/");
    again.get("/").await.shows(200, "Overview");
    let lost = house.visitor();
    lost.post("/login", &login).await.leads("/login/code");
    lost.post("/login/code", &[("code", &recovery[0].to_uppercase())]).await.leads("/");
    let lost = house.visitor();
    lost.post("/login", &login).await.leads("/login/code");
    lost.post("/login/code", &[("code", recovery[0])]).await.shows(422, "already been used");
    lost.post("/login/code", &[("code", recovery[1])]).await.leads("/");
    lost.get("/account/second_factor").await.shows(200, "8 recovery codes left");
    // Without the password, a code is not accepted.
    house.visitor().post("/login/code", &[("code", recovery[2])]).await.leads("/login");
    // A password alone is not enough for a script: if it is correct, the response gives the reason. A token is enough.
    // enough.
    let refused = api.get("/api/v2/cohorts").await;
    assert!(refused.header("www-authenticate").starts_with("Basic "));
    let body = refused.expect(401).to_string();
    assert!(body.contains("API token") && body.contains("You are not authenticated"), "{body}");
    let body = house.server.basic("paul", "not the password").get("/api/v2/cohorts").await.expect(401).to_string();
    assert!(!body.contains("token"), "{body}");
    house.server.bearer(token["token"].as_str().unwrap()).get("/api/v2/cohorts").await.expect(200);
    // The password alone is not a login: it is neither counted nor shown as one.
    let count = async || {
        let page = house.admin().await.get("/users/2").await.text;
        between(&page, "<dt>Logins</dt><dd>", ",").to_owned()
    };
    let before = count().await;
    house.visitor().post("/login", &login).await.leads("/login/code");
    assert_eq!(count().await, before);
    let again = house.visitor();
    again.post("/login", &login).await.leads("/login/code");
    again.post("/login/code", &[("code", recovery[4])]).await.leads("/");
    assert_eq!(count().await.parse::<i32>().unwrap(), before.parse::<i32>().unwrap() + 1);
    // No secret is readable in the database.
    let kept = house.server.admin().get("/api/v2/users/2").await.expect(200).to_string();
    assert!(!kept.contains(&secret) && !kept.contains(recovery[3]));

    // Removing the factor needs a code; an administrator can remove it for a user who has lost everything.
    lost.post("/account/second_factor/end", &[("code", "1")]).await.shows(422, "is invalid");
    house.admin().await.post("/users/2/second_factor/end", &[]).await.leads("/users/2?told=factor");
    house.mail("paul@example.com", "was removed").await;
    Visitor::logged_in(house.url(), "paul", GOOD).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_can_ask_for_it() {
    let house = House::new(Backend::Sqlite, &[]).await;
    house.add("rita", &["superuser"]).await;
    let rita = Visitor::logged_in(house.url(), "rita", GOOD).await;
    rita.get("/experiments").await.shows(200, "Experiments");
    let made =
        house.server.basic("rita", GOOD).post("/api/v2/tokens", serde_json::json!({ "label": "t" })).await.expect(201);
    let token = house.server.bearer(made["token"].as_str().unwrap());
    token.get("/api/v2/cohorts").await.expect(200);
    let admin = house.admin().await;
    let form = [("name", "superuser"), ("permission", "sample_add"), ("requires_second_factor", "1")];
    admin.post("/roles/2", &form).await.leads("/roles");
    for path in ["/", "/experiments", "/account", "/api/v2/cohorts"] {
        let page = rita.get(path).await;
        assert!(page.location == "/account/second_factor" || page.status == 401, "{path}: {}", page.status);
    }
    let refused = house.server.basic("rita", GOOD).get("/api/v2/cohorts").await.expect(401);
    assert!(refused["message"].as_str().unwrap().contains("requires a second factor"), "{refused}");
    token.get("/api/v2/cohorts").await.expect(401);
    let part = rita.request(reqwest::Method::GET, "/").header("hx-request", "true").send().await.unwrap();
    assert_eq!(part.headers()["hx-redirect"], "/account/second_factor");
    let page = rita.get("/account/second_factor").await.shows(200, "One of your roles requires a second factor");
    let secret = between(&page.text, "user-select-all\">", "</code>").replace(' ', "");
    rita.post("/account/second_factor", &[("code", &code(&secret, 0)), ("password", GOOD)])
        .await
        .shows(200, "recovery codes");
    rita.get("/experiments").await.shows(200, "Experiments");
    token.get("/api/v2/cohorts").await.expect(200);
    // The number of attempts is limited.
    let guess = house.visitor();
    guess.post("/login", &[("login", "rita"), ("password", GOOD)]).await.leads("/login/code");
    let mut refused = 0;
    for _ in 0..14 {
        refused += u32::from(guess.post("/login/code", &[("code", "000000")]).await.status == 429);
    }
    assert!(refused >= 3, "{refused}");
}
