//! Registration, confirmation, recovery.

use std::time::{Duration, Instant};

use super::{GOOD, House, Visitor, address};
use crate::support::Backend;

fn form<'a>(username: &'a str, email: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![("username", username), ("name", "Erin Example"), ("email", email), ("password", GOOD), ("again", GOOD)]
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_registers_confirms_is_let_in_and_logs_in() {
    let house = House::with_mail_server(Backend::Postgres).await;
    let erin = house.visitor();
    let email = address();
    erin.get("/login").await.shows(200, "/register");
    erin.get("/register").await.shows(200, "User name");
    erin.post("/register", &form("erin", &email)).await.shows(200, "We sent an e-mail");
    let log_in = [("login", "erin"), ("password", GOOD)];
    erin.post("/login", &log_in).await.shows(422, "not yet confirmed");

    let mail = house.mail(&email, "confirm").await;
    assert!(mail.subject.starts_with("[study governor] "), "{}", mail.subject);
    let link = mail.link(house.url());
    assert!(mail.html.contains(&link.replace('/', "&#x2f;")) && mail.text.contains("5 days"), "{mail:?}");
    // Opening the link does not use it up.
    erin.get(&link).await.shows(200, "Confirm address");
    erin.get(&link).await.shows(200, "Confirm address");
    // A registration by another person, with our address and a different password, cannot be confirmed.
    erin.post(&link, &[("password", "")]).await.shows(422, "does not match the password chosen");
    erin.post(&link, &[("password", "another password")]).await.shows(422, "does not match the password chosen");
    erin.post(&link, &[("password", GOOD)]).await.shows(200, "Your address is confirmed");
    erin.post(&link, &[("password", GOOD)]).await.shows(410, "This link has expired");
    erin.get(&link).await.shows(410, "This link has expired");
    erin.post("/login", &log_in).await.shows(422, "approval by an administrator");

    let told = house.mail(&house.admin_email, "erin is waiting").await;
    let admin = house.admin().await;
    // An unconfirmed account is not pending, and administrators are not notified.
    erin.post("/register", &form("frieda", &address())).await.shows(200, "We sent an e-mail");
    let page = told.link(house.url());
    admin.get("/").await.shows(200, "1 account is");
    admin.get(&page).await.shows(200, "pending approval");
    admin.post(&format!("{page}/active"), &[("active", "1")]).await.leads(&format!("{page}?told=saved"));
    house.mail(&email, "is active").await;
    erin.post("/login", &[("login", &email.to_uppercase()), ("password", GOOD)]).await.leads("/");
    erin.get("/account").await.shows(200, "Erin Example");
    Visitor::logged_in(house.url(), "Erin", GOOD).await;
    // An ordinary user without further permissions.
    erin.get("/users").await.shows(403, "user_read_all");
    assert!(!house.server.program.log().contains(&link), "no secret of a link in the log");
}

/// Responses are the same for known and unknown addresses, and none is faster.
#[tokio::test(flavor = "multi_thread")]
async fn answers_do_not_tell_whether_an_address_is_known() {
    let house = House::new(Backend::Sqlite, &[]).await;
    house.add("carol", &["user"]).await;
    let visitor = house.visitor();
    let began = Instant::now();
    for path in ["/reset", "/confirm"] {
        let known = visitor.post(path, &[("email", "carol@example.com")]).await;
        let unknown = visitor.post(path, &[("email", "nobody@example.com")]).await;
        assert_eq!((known.status, &known.text), (unknown.status, &unknown.text), "{path}");
    }
    let register = async |name: &str, email: &str| {
        let page = visitor.post("/register", &form(name, email)).await;
        (page.status, page.text.replace(email, "…"))
    };
    let fresh = register("dave", "dave@example.com").await;
    assert_eq!(register("dora", "carol@example.com").await, fresh);
    // A taken name is reported by mail to the owner of the address; on the page it would show that the first of the two
    // was taken.
    assert_eq!(register("carol", "other@example.com").await, fresh);
    assert_eq!(register("CAROL", "CAROL@example.com").await, fresh);
    // Seven responses, none of them early.
    assert!(began.elapsed() > Duration::from_millis(7 * 600));
    house.mail("carol@example.com", "new password").await;
    assert!(house.mail("carol@example.com", "You already have").await.text.contains("/reset"));
    assert!(house.mail("other@example.com", "carol is taken").await.text.contains("/register"));
    assert!(house.mails_to("nobody@example.com").is_empty());
    // A login with the chosen password does not show whether an account was created either.
    let mut told = Vec::new();
    for name in ["dave", "dora"] {
        let page = visitor.post("/login", &[("login", name), ("password", GOOD)]).await;
        told.push((page.status, page.text.replace(name, "…")));
    }
    assert_eq!(told[0], told[1]);
    // No account was activated by this.
    assert_eq!(house.server.admin().get("/api/v2/users").await.expect(200)["count"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_says_beside_the_field_what_is_wrong_and_keeps_what_was_typed() {
    let house = House::new(Backend::Sqlite, &[]).await;
    let visitor = house.visitor();
    let with = |field: &'static str, value: &'static str| {
        let mut form = form("frank", "frank@example.com");
        for entry in &mut form {
            if entry.0 == field {
                entry.1 = value;
            }
        }
        form
    };
    for (field, value, told) in [
        ("username", "", "User name is empty"),
        ("username", "a@b", "must not contain &#x27;@&#x27;"),
        ("email", "frank", "is not a valid e-mail address"),
        ("email", "frank@example.com, eve@example.com", "is not a valid e-mail address"),
        ("name", "", "Your name is empty"),
        ("password", "short", "at least 12 characters"),
        ("password", "password1234", "too easy to guess"),
        ("password", "frank@example.com", "too easy to guess"),
        ("again", "another", "does not match"),
    ] {
        let page = visitor.post("/register", &with(field, value)).await.shows(422, told);
        assert!(page.text.contains(&format!("id=\"{field}-problem\"")), "{field}: {}", page.text);
        let kept = if field == "username" { "frank@example.com" } else { "value=\"frank\"" };
        assert!(page.text.contains(kept) && !page.text.contains(GOOD), "{field}");
    }
    visitor.post("/strength", &[("password", "aaaa")]).await.shows(200, "very weak");
    visitor.post("/strength", &[("password", GOOD)]).await.shows(200, "good");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_password_is_set_anew_and_everything_else_ends() {
    let house = House::with_mail_server(Backend::Mariadb).await;
    let email = address();
    house.add("grace", &["superuser"]).await;
    let admin = house.admin().await;
    let form = [("username", "grace"), ("name", "Grace"), ("email", email.as_str())];
    admin.post("/users/2", &form).await.leads("/users/2?told=saved");
    let grace = Visitor::logged_in(house.url(), "grace", GOOD).await;
    let token = house.server.basic("grace", GOOD).post("/api/v2/tokens", serde_json::json!({ "label": "t" })).await;
    let token = token.expect(201)["token"].as_str().unwrap().to_owned();

    let elsewhere = house.visitor();
    elsewhere.post("/reset", &[("email", &email)]).await.shows(200, "we have sent it an e-mail");
    let link = house.mail(&email, "new password").await.link(house.url());
    elsewhere.get(&link).await.shows(200, "grace");
    elsewhere.post(&link, &[("password", "short"), ("again", "short")]).await.shows(422, "12 characters");
    let other = "seven lamps behind a kite";
    elsewhere.post(&link, &[("password", other), ("again", other)]).await.leads("/login?told=password");
    elsewhere.post(&link, &[("password", GOOD), ("again", GOOD)]).await.shows(410, "This link has expired");
    house.mail(&email, "was changed").await;
    grace.get("/").await.leads("/login?next=%2F");
    house.server.bearer(&token).get("/api/v2/cohorts").await.expect(401);
    house.server.basic("grace", GOOD).get("/api/v2/cohorts").await.expect(401);
    Visitor::logged_in(house.url(), "grace", other).await;
    // The newer of two links is valid.
    elsewhere.post("/reset", &[("email", &email)]).await.shows(200, "we have sent it an e-mail");
    let first = crate::support::eventually("the second mail", async || {
        let links: Vec<String> = house
            .mails_to(&email)
            .iter()
            .filter(|mail| mail.subject.contains("new password"))
            .map(|mail| mail.link(house.url()))
            .collect();
        links.into_iter().find(|one| *one != link)
    })
    .await;
    elsewhere.get(&first).await.shows(200, "grace");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_ends_with_its_time() {
    let house = House::new(Backend::Sqlite, &[("SECURITY_RESET_PASSWORD_WITHIN", "1 second")]).await;
    house.add("heidi", &["user"]).await;
    let visitor = house.visitor();
    visitor.post("/reset", &[("email", "heidi@example.com")]).await.shows(200, "we have sent it an e-mail");
    let link = house.mail("heidi@example.com", "new password").await.link(house.url());
    tokio::time::sleep(Duration::from_millis(1100)).await;
    visitor.get(&link).await.shows(410, "This link has expired");
    visitor.post(&link, &[("password", GOOD), ("again", GOOD)]).await.shows(410, "This link has expired");
    visitor.get("/reset/made-up").await.shows(410, "This link has expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_for_mails_has_a_limit() {
    let house = House::new(Backend::Sqlite, &[]).await;
    let visitor = house.visitor();
    for _ in 0..5 {
        visitor.post("/reset", &[("email", "ivan@example.com")]).await.shows(200, "we have sent it an e-mail");
    }
    visitor.post("/reset", &[("email", "Ivan@example.com")]).await.shows(429, "Try again in");
    visitor.post("/confirm", &[("email", "ivan@example.com")]).await.shows(429, "Try again in");
    visitor.post("/register", &form("ivan", "ivan@example.com")).await.shows(429, "Try again in");
    visitor.post("/reset", &[("email", "judy@example.com")]).await.shows(200, "we have sent it an e-mail");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_switched_off_is_not_there() {
    let off = ["SECURITY_REGISTERABLE", "SECURITY_CONFIRMABLE", "SECURITY_RECOVERABLE", "SECURITY_CHANGEABLE"];
    let house = House::new(Backend::Sqlite, &off.map(|name| (name, "false"))).await;
    let visitor = house.visitor();
    let login = visitor.get("/login").await;
    let admin = house.admin().await;
    let account = admin.get("/account").await;
    for path in ["/register", "/confirm", "/reset", "/change", "/reset/x", "/confirm/x"] {
        admin.get(path).await.shows(404, "no page at this address");
        admin.post(path, &[]).await.shows(404, "no page at this address");
        assert!(!login.text.contains(&format!("href=\"{path}")) && !account.text.contains(&format!("href=\"{path}")));
    }
    // Without confirmation, a new account is pending immediately.
    let house = House::new(Backend::Sqlite, &[("SECURITY_CONFIRMABLE", "no")]).await;
    house.visitor().post("/register", &form("kim", "kim@example.com")).await.shows(200, "has to approve your account");
    house.mail("admin@example.com", "kim is waiting").await;
}

/// Attacks from outside.
#[tokio::test(flavor = "multi_thread")]
async fn links_go_to_the_address_of_the_settings_whatever_the_request_says() {
    let house = House::new(Backend::Sqlite, &[]).await;
    house.add("lena", &["user"]).await;
    let visitor = house.visitor();
    let request = visitor.request(reqwest::Method::POST, "/reset").header("host", "evil.example");
    let request = request.header("x-forwarded-host", "evil.example").body("email=lena%40example.com");
    let answer = request.header("content-type", "application/x-www-form-urlencoded").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let mail = house.mail("lena@example.com", "new password").await;
    assert!(!format!("{mail:?}").contains("evil.example"), "{mail:?}");
    // Requests from another site have no effect.
    let request = visitor.request(reqwest::Method::POST, "/register").header("sec-fetch-site", "cross-site");
    assert_eq!(request.body("username=x").send().await.unwrap().status(), 403);
    // The redirect after the login cannot lead to another site.
    for next in ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"] {
        let visitor = house.visitor();
        let form = [("login", "lena"), ("password", GOOD), ("next", next)];
        visitor.post("/login", &form).await.leads("/");
    }
}

/// The owner of a mailbox that another person registered with takes over the account by setting a password.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_mailbox_has_the_account() {
    let house = House::new(Backend::Sqlite, &[]).await;
    let visitor = house.visitor();
    visitor.post("/register", &form("otto", "otto@example.com")).await.shows(200, "We sent an e-mail");
    visitor.post("/reset", &[("email", "otto@example.com")]).await.shows(200, "we have sent it an e-mail");
    let link = house.mail("otto@example.com", "new password").await.link(house.url());
    let own = "seven lamps behind a kite";
    visitor.post(&link, &[("password", own), ("again", own)]).await.leads("/login?told=password");
    house.mail("admin@example.com", "otto is waiting").await;
    house.admin().await.post("/users/2/active", &[("active", "1")]).await.leads("/users/2?told=saved");
    visitor.post("/login", &[("login", "otto"), ("password", GOOD)]).await.shows(422, "Wrong user name or password");
    Visitor::logged_in(house.url(), "otto", own).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_set_ends_every_link_before_it() {
    let house = House::new(Backend::Postgres, &[]).await;
    let (admin, visitor) = (house.admin().await, house.visitor());
    let invited = [("username", "pia"), ("name", "Pia"), ("email", "pia@example.com"), ("how", "mail")];
    admin.post("/users/new", &invited).await.leads("/users/2?told=invited");
    let invitation = house.mail("pia@example.com", "invites you").await.link(house.url());
    visitor.post("/reset", &[("email", "pia@example.com")]).await.shows(200, "we have sent it an e-mail");
    let reset = house.mail("pia@example.com", "new password").await.link(house.url());
    visitor.get(&invitation).await.shows(200, "pia");
    // By an administrator, over the API.
    let body = serde_json::json!({ "password": GOOD });
    house.server.admin().put("/api/v2/users/2", body).await.expect(200);
    for link in [&invitation, &reset] {
        visitor.get(link).await.shows(410, "This link has expired");
        visitor
            .post(link, &[("password", "seven lamps behind a kite"), ("again", "seven lamps behind a kite")])
            .await
            .shows(410, "This link has expired");
    }
    Visitor::logged_in(house.url(), "pia", GOOD).await;
    // And by the owner: one kind of link cannot be used in place of another.
    let invited = [("username", "quin"), ("name", "Quin"), ("email", "quin@example.com"), ("how", "mail")];
    admin.post("/users/new", &invited).await.leads("/users/3?told=invited");
    let invitation = house.mail("quin@example.com", "invites you").await.link(house.url());
    visitor.post("/reset", &[("email", "quin@example.com")]).await.shows(200, "we have sent it an e-mail");
    let reset = house.mail("quin@example.com", "new password").await.link(house.url());
    visitor.post(&reset, &[("password", GOOD), ("again", GOOD)]).await.leads("/login?told=password");
    visitor.post(&invitation, &[("password", GOOD), ("again", GOOD)]).await.shows(410, "This link has expired");
}

/// The confirmation was sent to a mistyped address: registering again under the same name, with the same password,
/// sends it to the correct one. Other users cannot do this.
#[tokio::test(flavor = "multi_thread")]
async fn a_mistyped_address_is_put_right_by_registering_again() {
    let house = House::new(Backend::Postgres, &[]).await;
    let visitor = house.visitor();
    let register = async |email: &str, password: &str| {
        let form =
            [("username", "ruth"), ("name", "Ruth"), ("email", email), ("password", password), ("again", password)];
        visitor.post("/register", &form).await.shows(200, "We sent an e-mail");
    };
    register("ruth@exmaple.com", GOOD).await;
    let astray = house.mail("ruth@exmaple.com", "confirm").await.link(house.url());
    visitor.get(&astray).await.shows(200, "ruth");
    // A client that does not know the password.
    register("thief@example.com", "a password of a thief").await;
    house.mail("thief@example.com", "ruth is taken").await;
    // An address of another account.
    house.add("carol", &["user"]).await;
    register("carol@example.com", GOOD).await;
    house.mail("carol@example.com", "You already have").await;
    // As for an unknown address: the owner of the previous mailbox would otherwise learn that an account exists.
    visitor.get(&astray).await.shows(410, "This link has expired");
    visitor.post("/confirm", &[("email", "ruth@exmaple.com")]).await.shows(200, "we have sent it an e-mail");
    register("ruth@exmaple.com", GOOD).await;
    let links = || -> Vec<String> {
        let mails = house.mails_to("ruth@exmaple.com");
        mails.iter().map(|mail| mail.link(house.url())).filter(|link| *link != astray).collect()
    };
    let again = crate::support::eventually("another link", async || links().pop()).await;
    register("ruth@example.com", GOOD).await;
    visitor.get(&again).await.shows(410, "This link has expired");
    let link = house.mail("ruth@example.com", "confirm").await.link(house.url());
    visitor.post(&link, &[("password", GOOD)]).await.shows(200, "Your address is confirmed");
    assert_eq!(links(), [again], "who asked in vain got none");
    // The registration is final now.
    register("ruth@elsewhere.example", GOOD).await;
    house.mail("ruth@elsewhere.example", "ruth is taken").await;
    let admin = house.admin().await;
    admin.get("/users?q=ruth").await.shows(200, "1 account").shows(200, "ruth@example.com");
    let trail = admin.get("/audit.csv?kind=user&name=ruth&verb=update").await.shows(200, "registration repeated");
    assert_eq!(trail.text.lines().count(), 4, "{}", trail.text);
}
