//! Attacks on login and registration: cross-site requests, guessing, timing, cookies, the database.

use std::time::{Duration, Instant};

use reqwest::Method;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter};
use studygovernor::entity::{mail_link, outbox, role, session};

use super::routes::table;
use super::{GOOD, House, Visitor};
use crate::support::{Backend, Study, ctx, eventually};

/// Every change is refused if another site requests it with a user's session.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_for_another_site() {
    let house = House::new(Backend::Sqlite, &[]).await;
    let admin = house.admin().await;
    let signs = [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")];
    let mut tried = 0;
    for entry in table().await.iter().filter(|entry| entry.method != "GET") {
        let path = entry.path.replace("{id}", "1").replace("{secret}", "none");
        for (name, value) in signs {
            let request = admin.request(Method::POST, &path).header(name, value);
            let request = request.header("content-type", "application/x-www-form-urlencoded");
            assert_eq!(request.send().await.unwrap().status(), 403, "{path} with {name}");
        }
        tried += 1;
    }
    assert!(tried > 30, "{tried}");
    for version in ["v1", "v2"] {
        let document = house.server.nobody().get(&format!("/api/{version}/swagger.json")).await.expect(200);
        for (path, item) in document["paths"].as_object().unwrap() {
            let mut asked = format!("/api/{version}{path}");
            while let (Some(begin), Some(end)) = (asked.find('{'), asked.find('}')) {
                asked.replace_range(begin..=end, "1");
            }
            for method in item.as_object().unwrap().keys().filter(|method| *method != "get") {
                let method: Method = method.to_uppercase().parse().unwrap();
                let request = admin.request(method.clone(), &asked).header("sec-fetch-site", "cross-site");
                let status = request.json(&serde_json::json!({})).send().await.unwrap().status();
                assert_eq!(status, 403, "{method} {asked}");
            }
        }
    }
    // The cause may be a proxy that is not configured: the message to users and the log name the setting to change.
    let request = admin.request(Method::POST, "/logout").header("origin", "https://study.example.org");
    admin.page(request.send().await.unwrap()).await.shows(403, "STUDYGOV_EXTERNAL_HOSTNAME");
    let told = |log: &str| log.contains("rejected a cross-origin request") && log.contains("https://study.example.org");
    eventually("the log", async || told(&house.server.program.log()).then_some(())).await;
    admin.get("/").await.shows(200, "Overview");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_says_what_may_run_and_the_cookie_is_kept_to_itself() {
    let https = [("STUDYGOV_EXTERNAL_HOSTNAME", "study.example.org"), ("STUDYGOV_EXTERNAL_PROTO", "https")];
    let house = House::new(Backend::Sqlite, &https).await;
    let visitor = house.visitor();
    for path in ["/login", "/nowhere", "/static/app.css", "/api/v2/cohorts", "/-/healthy"] {
        let answer = visitor.request(Method::GET, path).send().await.unwrap();
        let header = |name: &str| answer.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        let policy = header("content-security-policy");
        for word in [
            "default-src 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'self'",
            "object-src 'none'",
        ] {
            assert!(policy.contains(word) && !policy.contains("unsafe"), "{path}: {policy}");
        }
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header("x-frame-options"), "DENY", "{path}");
        assert_eq!(header("referrer-policy"), "same-origin", "{path}");
    }
    let form = [("login", "admin"), ("password", "admin")];
    let first = visitor.post("/login", &form).await.leads("/").cookie;
    for word in ["Secure", "HttpOnly", "SameSite=Lax"] {
        assert!(first.contains(word), "{first}");
    }
    // The cookie from before the login is invalid after it, and the key in the table is not the cookie.
    let old = first.split(';').next().unwrap().to_owned();
    visitor.post("/login", &form).await.leads("/");
    let thief = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let answer = thief.get(format!("{}/", house.url())).header("cookie", &old).send().await.unwrap();
    assert_eq!(answer.status(), 303, "the session of before has ended");
    let study = Study::of(&house.server.database).await;
    let kept = session::Entity::find().all(study.database().reader()).await.unwrap();
    let secret = old.split_once('=').unwrap().1;
    assert!(!kept.is_empty() && kept.iter().all(|row| !secret.contains(&row.id) && !row.data.contains(secret)));
}

/// Too many attempts: the form keeps the input and shows how long to wait, and programs get `Retry-After`.
#[tokio::test(flavor = "multi_thread")]
async fn too_many_tries_lose_nothing_that_was_typed() {
    let proxied = [("STUDYGOV_EXTERNAL_HOSTNAME", "study.example.org")];
    let house = House::new(Backend::Sqlite, &proxied).await;
    house.add("vera", &["user"]).await;
    let from = async |address: &str, path: &str, form: &[(&str, &str)]| {
        let visitor = house.visitor();
        let body: String = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = visitor.request(Method::POST, path).header("x-forwarded-for", address);
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(body);
        let answer = request.send().await.unwrap();
        let wait = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        (answer.status().as_u16(), wait, visitor.page(answer).await.text)
    };
    // Per account, from any address.
    for number in 0..5 {
        let (status, ..) = from(&format!("192.0.2.{number}"), "/reset", &[("email", "vera@example.com")]).await;
        assert_eq!(status, 200);
    }
    for (path, form) in [
        ("/reset", vec![("email", "vera@example.com")]),
        ("/confirm", vec![("email", "vera@example.com")]),
        (
            "/register",
            vec![
                ("username", "vera2"),
                ("name", "Vera"),
                ("email", "vera@example.com"),
                ("password", GOOD),
                ("again", GOOD),
            ],
        ),
    ] {
        let (status, wait, text) = from("192.0.2.99", path, &form).await;
        assert_eq!(status, 429, "{path}: {text}");
        let seconds: u64 = wait.unwrap().parse().unwrap();
        assert!((1..=721).contains(&seconds) && text.contains("Try again in"), "{path}: {text}");
        for (name, value) in form.iter().filter(|(name, _)| *name != "password" && *name != "again") {
            assert!(text.contains(&format!("value=\"{value}\"")), "{path} {name}: {text}");
        }
        assert!(text.contains("<form") && !text.contains(GOOD), "{path}: {text}");
    }
    // Per address, for any account: behind a proxy, the address that the proxy reports.
    let mut statuses = Vec::new();
    for number in 0..25 {
        let email = format!("{number}@example.com");
        statuses.push(from("198.51.100.7", "/reset", &[("email", email.as_str())]).await.0);
    }
    assert_eq!(statuses.iter().position(|status| *status == 429), Some(20), "{statuses:?}");
    assert_eq!(from("198.51.100.8", "/reset", &[("email", "24@example.com")]).await.0, 200, "somebody else's address");
    // Passwords: ten per account and address; other accounts from there, and the account from elsewhere, are not
    // affected.
    let mut last = (0, None, String::new());
    for _ in 0..11 {
        last = from("203.0.113.1", "/login", &[("login", "vera"), ("password", "wrong"), ("next", "/subjects")]).await;
    }
    let (status, wait, text) = last;
    assert!(status == 429 && wait.is_some(), "{status}");
    assert!(
        text.contains("value=\"vera\"") && text.contains("value=\"&#x2f;subjects\"") && text.contains("minutes"),
        "{text}"
    );
    let right = [("login", "vera"), ("password", GOOD)];
    assert_eq!(from("203.0.113.1", "/login", &right).await.0, 429, "the right one too, or guessing would go on");
    assert_eq!(from("203.0.113.2", "/login", &right).await.0, 303);
}

/// A failed login takes the same time in all cases: unknown account, new hash, old hash, inactive account.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_tells_nothing_by_its_time() {
    let house = House::new(Backend::Sqlite, &[]).await;
    house.add("walt", &["user"]).await;
    house.add("wera", &["user"]).await;
    house.add("wilf", &["user"]).await;
    house.admin().await.post("/users/4/active", &[("active", "0")]).await.leads("/users/4?told=saved");
    // Created by Flask-Security with its 12 rounds, which take longer than our hashes.
    let old = "UPDATE \"user\" SET password = '$2b$12$2/LZ8ZJKgpdDS.clYBEb6.uPHQckrJz9FfaHQFaX/bnF2f1hJufL2' WHERE username = 'wera'";
    Study::of(&house.server.database).await.database().reader().execute_unprepared(old).await.unwrap();
    for (login, password) in [("walt", "wrong"), ("nobody", "wrong"), ("wera", "wrong"), ("wilf", GOOD)] {
        let began = Instant::now();
        house
            .visitor()
            .post("/login", &[("login", login), ("password", password)])
            .await
            .shows(422, "Wrong user name or password");
        assert!(began.elapsed() >= Duration::from_millis(600), "{login}");
        let began = Instant::now();
        house.server.basic(login, password).get("/api/v2/cohorts").await.expect(401);
        assert!(began.elapsed() >= Duration::from_millis(600), "{login}");
    }
}

/// Links are valid for a limited time, and none of them is stored in the database.
#[tokio::test(flavor = "multi_thread")]
async fn links_of_every_kind_end_and_are_nowhere_to_be_read() {
    let house = House::new(Backend::Sqlite, &[("SECURITY_CONFIRM_EMAIL_WITHIN", "10 seconds")]).await;
    let (admin, visitor) = (house.admin().await, house.visitor());
    let study = Study::of(&house.server.database).await;
    let form =
        [("username", "una"), ("name", "Una"), ("email", "una@example.com"), ("password", GOOD), ("again", GOOD)];
    visitor.post("/register", &form).await.shows(200, "We sent an e-mail");
    // Each link is opened as soon as it has arrived.
    let look = async |to: &str, words: &str| {
        let mail = house.mail(to, words).await;
        let link = mail.link(house.url());
        visitor.get(&link).await.shows(200, "<form");
        let secret = link.rsplit('/').next().unwrap();
        assert!(secret.len() >= 40, "{link}");
        let kept = mail_link::Entity::find().all(study.database().reader()).await.unwrap();
        assert!(!kept.is_empty() && !format!("{kept:?}").contains(secret));
        let outbox = outbox::Entity::find().all(study.database().reader()).await.unwrap();
        assert!(!format!("{outbox:?}").contains(secret), "nor has the outbox");
        link
    };
    let confirm = look("una@example.com", "confirm").await;
    let invited = [("username", "vic"), ("name", "Vic"), ("email", "vic@example.com"), ("how", "mail")];
    admin.post("/users/new", &invited).await.leads("/users/3?told=invited");
    let links = [confirm, look("vic@example.com", "invites you").await];
    tokio::time::sleep(Duration::from_millis(10_100)).await;
    visitor.get(&links[0]).await.shows(410, "Request a new link");
    visitor.post(&links[0], &[("password", GOOD)]).await.shows(410, "This link has expired");
    visitor.get(&links[1]).await.shows(410, "This link has expired");
    visitor.post(&links[1], &[("password", GOOD), ("again", GOOD)]).await.shows(410, "This link has expired");
}

/// Each switch alone: its page does not exist, and no page links to it.
#[tokio::test(flavor = "multi_thread")]
async fn each_switch_takes_its_pages_and_all_links_to_them_away() {
    for (switch, path) in [
        ("SECURITY_REGISTERABLE", "/register"),
        ("SECURITY_CONFIRMABLE", "/confirm"),
        ("SECURITY_RECOVERABLE", "/reset"),
        ("SECURITY_CHANGEABLE", "/change"),
    ] {
        let house = House::new(Backend::Sqlite, &[(switch, "false")]).await;
        house.add("will", &["user"]).await;
        let (visitor, admin) = (house.visitor(), house.admin().await);
        admin.get(path).await.shows(404, "no page at this address");
        admin.post(path, &[]).await.shows(404, "no page at this address");
        // The administrator's password is weak, so the home page would offer to change it.
        let mut pages = Vec::new();
        for open in ["/login", "/register", "/confirm", "/reset", "/reset/x", "/invite/x", "/confirm/x"] {
            pages.push((open, visitor.get(open).await.text));
        }
        for own in ["/", "/account", "/users", "/users/2"] {
            pages.push((own, admin.get(own).await.text));
        }
        for (page, text) in pages {
            assert!(!text.contains(&format!("href=\"{path}\"")), "{switch}: {page} leads to {path}");
            assert!(path != "/reset" || !text.contains("/reset\""), "{switch}: {page} offers a link");
        }
        let sent = admin.post("/users/2/reset", &[]).await;
        assert_eq!(sent.status == 404, path == "/reset", "{} {}", sent.status, sent.text);
        if path != "/register" {
            let form =
                [("username", "x1"), ("name", "X"), ("email", "will@example.com"), ("password", GOOD), ("again", GOOD)];
            assert_eq!(visitor.post("/register", &form).await.status, 200);
            let mail = house.mail("will@example.com", "You already have").await;
            assert_eq!(mail.text.contains("/reset"), path != "/reset", "{}", mail.text);
        }
    }
}

/// After the login, users return to the page that contains the form.
#[tokio::test(flavor = "multi_thread")]
async fn a_form_of_a_session_that_has_ended_leads_back_to_its_page() {
    let house = House::new(Backend::Sqlite, &[]).await;
    let visitor = house.visitor();
    for (path, page, to) in [
        ("/mail", "/mail", "/login?next=%2Fmail"),
        ("/users/1/role", "/users?q=x", "/login?next=%2Fusers%3Fq%3Dx"),
        ("/change", "/change", "/login?next=%2Fchange"),
    ] {
        let request = visitor.request(Method::POST, path).header("referer", format!("{}{page}", house.url()));
        visitor.page(request.send().await.unwrap()).await.leads(to);
    }
    // For a browser without `Referer`: the page above.
    let request = visitor.request(Method::POST, "/experiments/1/transition");
    visitor.page(request.send().await.unwrap()).await.leads("/login?next=%2Fexperiments%2F1");
}

/// Automatic polling does not keep a session alive.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_looks_for_news_is_nobody_who_uses_it() {
    let house = House::new(Backend::Sqlite, &[("SECURITY_SESSION_IDLE", "6 seconds")]).await;
    let (left, used) = (house.admin().await, house.admin().await);
    let mut outcomes = Vec::new();
    for _ in 0..16 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        used.get("/").await.shows(200, "Overview");
        let poll = left.request(Method::GET, "/").header("hx-request", "true").header("hx-trigger", "live");
        outcomes.push(poll.send().await.unwrap().status().as_u16());
    }
    assert!(outcomes[0] == 200 && outcomes[15] == 401, "{outcomes:?}");
    used.get("/").await.shows(200, "Overview");
}

/// The owner is notified if a client knows the password and guesses codes.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_codes_are_told_to_the_owner() {
    let house = House::new(Backend::Sqlite, &[]).await;
    house.add("paul", &["user"]).await;
    let paul = Visitor::logged_in(house.url(), "paul", GOOD).await;
    super::factor::set_up(&paul).await;
    let thief = house.visitor();
    thief.post("/login", &[("login", "paul"), ("password", GOOD)]).await.leads("/login/code");
    let mut last = 0;
    for _ in 0..12 {
        last = thief.post("/login/code", &[("code", "000001")]).await.status.as_u16();
    }
    assert_eq!(last, 429);
    let mail = house.mail("paul@example.com", "Failed login attempts").await;
    assert!(mail.text.contains("from 127.0.0.1") && mail.text.contains("/change"), "{}", mail.text);
    // Once a day: the mail is written with the attempt that exceeds the limit, so all of them exist now.
    let study = Study::of(&house.server.database).await;
    let of_codes = outbox::Entity::find().filter(outbox::Column::Template.eq("wrong_codes"));
    assert_eq!(of_codes.count(study.database().reader()).await.unwrap(), 1);
}

/// The role of administrators cannot be edited, so the server adds missing permissions to an older database when it
/// starts.
#[tokio::test(flavor = "multi_thread")]
async fn administrators_may_what_an_older_version_did_not_know() {
    let house = House::new(Backend::Mariadb, &[]).await;
    let admin = house.admin().await;
    let study = Study::of(&house.server.database).await;
    let old = "UPDATE role SET permissions = 'sample_add,of_somebody_else' WHERE name = 'admin'";
    study.database().reader().execute_unprepared(old).await.unwrap();
    admin.get("/upload_data").await.shows(403, "upload_data");
    for _ in 0..2 {
        studygovernor::account::ensure_roles(ctx(), study.database(), study.clock().now()).await.unwrap();
    }
    admin.get("/upload_data").await.shows(200, "Files");
    let kept =
        role::Entity::find().filter(role::Column::Name.eq("admin")).one(study.database().reader()).await.unwrap();
    assert!(kept.unwrap().permissions.unwrap().starts_with("sample_add,of_somebody_else,action_update,"));
    let events = admin.get("/audit.csv?kind=role&name=admin&verb=update").await.shows(200, "of_somebody_else");
    assert_eq!(events.text.lines().count(), 2, "once: {}", events.text);
}
