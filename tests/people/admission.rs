//! Approval and help by administrators: registrations are approved or declined, an address is confirmed, and a password
//! is set for a user who cannot do it alone.

use std::io::Write;
use std::process::Stdio;

use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter};
use studygovernor::entity::user;

use super::{GOOD, House, Visitor};
use crate::support::{Backend, Study, eventually, studygovernor};

const OTHER: &str = "nine quiet bridges at noon";

impl House {
    async fn register(&self, name: &'static str) {
        let email = format!("{name}@example.com");
        let form = [("username", name), ("name", name), ("email", &email), ("password", GOOD), ("again", GOOD)];
        self.visitor().post("/register", &form).await.shows(200, "We sent an e-mail");
    }

    async fn confirm(&self, name: &str) {
        let link = self.mail(&format!("{name}@example.com"), "confirm").await.link(self.url());
        self.visitor().post(&link, &[("password", GOOD)]).await.shows(200, "Your address is confirmed");
    }

    async fn log_in(&self, name: &str, password: &str) -> super::Page {
        self.visitor().post("/login", &[("login", name), ("password", password)]).await
    }

    /// The row of an account.
    async fn row(&self, name: &str) -> user::Model {
        let study = Study::of(&self.server.database).await;
        let found = user::Entity::find().filter(user::Column::Username.eq(name));
        found.one(study.database().reader()).await.unwrap().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_can_be_declined_and_be_let_in_after_all() {
    let house = House::new(Backend::Mariadb, &[]).await;
    house.register("xenia").await;
    house.log_in("xenia", GOOD).await.shows(422, "Wrong user name or password");
    house.confirm("xenia").await;
    // The reason is only shown with the correct password.
    house.log_in("xenia", GOOD).await.shows(422, "waiting for approval by an administrator");
    house.log_in("xenia", OTHER).await.shows(422, "Wrong user name or password");
    house.server.basic("xenia", GOOD).get("/api/v2/cohorts").await.expect(401);

    let admin = house.admin().await;
    admin.get("/users/2").await.shows(200, "Decline registration").shows(200, "pending approval");
    let long = "x".repeat(501);
    let page = admin.post("/users/2/decline", &[("reason", &long)]).await.shows(422, "at most 500");
    assert!(page.text.contains(&long) && page.text.contains("id=\"reason-problem\""), "{}", page.text);
    admin.get("/").await.shows(200, "1 account is");
    let reason = "We know nobody of this name.";
    admin.post("/users/2/decline", &[("reason", reason)]).await.leads("/users/2?told=declined");
    let mail = house.mail("xenia@example.com", "was declined").await;
    assert!(mail.text.contains(reason), "{}", mail.text);
    let page = admin.get("/users/2").await.shows(200, ">declined<");
    assert!(!page.text.contains("/decline\"") && page.text.contains(reason), "{}", page.text);
    assert!(!admin.get("/").await.text.contains("waits"));
    admin.get("/users?state=inactive").await.shows(200, "xenia@example.com");
    // Not twice; requesting a password reset has no effect, and the user gets no further information.
    admin.post("/users/2/decline", &[]).await.shows(412, "was modified");
    house.log_in("xenia", GOOD).await.shows(422, "Wrong user name or password");
    house.visitor().post("/reset", &[("email", "xenia@example.com")]).await.shows(200, "we have sent it an e-mail");
    // The decision was a mistake: the account is activated.
    admin.post("/users/2/active", &[("active", "1")]).await.leads("/users/2?told=saved");
    house.mail("xenia@example.com", "is active").await;
    house.log_in("xenia", GOOD).await.leads("/");
    assert!(house.mails_to("xenia@example.com").iter().all(|mail| !mail.subject.contains("new password")));
    admin.get("/audit?verb=decline").await.shows(200, reason);
    // An account that was created by an administrator and deactivated before its first login is not pending either.
    house.add("ynes", &["user"]).await;
    admin.post("/users/3/active", &[("active", "0")]).await.leads("/users/3?told=saved");
    admin.get("/users/3").await.shows(200, ">declined<");
    house.log_in("ynes", GOOD).await.shows(422, "Wrong user name or password");
    assert!(!admin.get("/").await.text.contains("pending approval"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_confirmed_in_somebodys_stead_and_a_link_is_sent_for_somebody() {
    let house = House::new(Backend::Sqlite, &[]).await;
    house.register("yann").await;
    let link = house.mail("yann@example.com", "confirm").await.link(house.url());
    let admin = house.admin().await;
    admin.get("/users/2").await.shows(200, "Mark address as confirmed");
    admin.post("/users/2/confirm", &[]).await.leads("/users/2?told=confirmed");
    house.visitor().get(&link).await.shows(410, "This link has expired").shows(410, "href=\"/confirm\"");
    admin.post("/users/2/confirm", &[]).await.shows(412, "was modified");
    // A GET request for the URL of an action is redirected to the page above.
    admin.get("/users/2/confirm").await.leads("/users/2");
    admin.get("/users/2/role/cohorts").await.leads("/users/2/role");
    // Activated before the address was confirmed: the user is notified when login is possible, and not before.
    house.register("zack").await;
    admin.post("/users/3/active", &[("active", "1")]).await.leads("/users/3?told=saved");
    assert!(house.mails_to("zack@example.com").iter().all(|mail| !mail.subject.contains("is active")));
    admin.post("/users/3/confirm", &[]).await.leads("/users/3?told=confirmed");
    house.mail("zack@example.com", "is active").await;
    house.log_in("zack", GOOD).await.leads("/");
    // From the list, and back to it with the same search.
    let request = admin
        .request(reqwest::Method::POST, "/users/2/active")
        .header("referer", format!("{}/users?state=waiting", house.url()));
    let request = request.header("content-type", "application/x-www-form-urlencoded").body("active=1&from=list");
    admin.page(request.send().await.unwrap()).await.leads("/users?state=waiting");
    house.log_in("yann", GOOD).await.leads("/");
    // He has forgotten the password, and the mail that he requests does not arrive: an administrator sends it.
    admin.get("/users/2").await.shows(200, "Send password reset link");
    admin.post("/users/2/reset", &[]).await.leads("/users/2?told=reset");
    let link = house.mail("yann@example.com", "new password").await.link(house.url());
    house.visitor().post(&link, &[("password", OTHER), ("again", OTHER)]).await.leads("/login?told=password");
    house.log_in("yann", OTHER).await.leads("/");
    let page = admin.get("/users/2").await.shows(200, "Changes made to this account by others");
    assert!(page.text.contains("password reset link") && page.text.contains("/audit?who=yann"), "{}", page.text);
    // A changed address: the old address is notified, and links that were sent there are no longer valid.
    admin.post("/users/2/reset", &[]).await.leads("/users/2?told=reset");
    let link = eventually("the second link", async || {
        let links: Vec<String> = house
            .mails_to("yann@example.com")
            .iter()
            .filter(|mail| mail.subject.contains("new password"))
            .map(|mail| mail.link(house.url()))
            .collect();
        let mut good = None;
        for link in links {
            if house.visitor().get(&link).await.status == 200 {
                good = Some(link);
            }
        }
        good
    })
    .await;
    let form = [("username", "yann"), ("name", "yann"), ("email", "yann@example.net")];
    admin.post("/users/2", &form).await.leads("/users/2?told=saved");
    let told = house.mail("yann@example.com", "e-mail address of").await;
    assert!(!told.text.contains("example.net"), "who lost it need not learn where it went: {}", told.text);
    house.visitor().get(&link).await.shows(410, "This link has expired");
    // Not to an inactive account.
    admin.post("/users/2/active", &[("active", "0")]).await.leads("/users/2?told=saved");
    assert!(!admin.get("/users/2").await.text.contains("Send password reset link"));
    admin.post("/users/2/reset", &[]).await.shows(412, "was modified");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_state_of_an_account_forbids_is_told_where_it_was_asked_for() {
    let house = House::new(Backend::Sqlite, &[]).await;
    let admin = house.admin().await;
    admin
        .post("/users/1/active", &[("active", "0")])
        .await
        .shows(409, "last active administrator account")
        .shows(409, "Active sessions");
    admin.post("/users/1/role", &[("role", "1"), ("on", "0")]).await.shows(409, "last active administrator account");
    let request = admin.request(reqwest::Method::POST, "/users/1/role").header("hx-request", "true");
    let request = request.header("content-type", "application/x-www-form-urlencoded").body("role=1&on=0");
    let part = admin.page(request.send().await.unwrap()).await.shows(409, "last active administrator account");
    // The response replaces the switches, and contains them.
    assert!(part.text.contains("id=\"switches-1\"") && part.text.contains("id=\"switch-1-1\""), "{}", part.text);
}

/// An account cannot lock out users who have more permissions: not with a role that requires a second factor, nor by
/// requiring one for a role that such a user has, nor with a configuration.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_shut_out_from_below() {
    let house = House::new(Backend::Sqlite, &[]).await;
    let manager = "user_read,user_read_all,user_update_all,user_add,roles_manage";
    let roles = serde_json::json!({ "roles": [{ "name": "manager", "permissions": manager }] });
    let body = serde_json::json!({ "config_definition": roles.to_string() });
    house.server.admin().post("/api/v2/service/config/import-config", body).await.expect(201);
    house.add("mia", &["manager"]).await;
    house.add("nora", &["user"]).await;
    let (admin, mia) = (house.admin().await, Visitor::logged_in(house.url(), "mia", GOOD).await);
    let form = [("name", "trap"), ("permission", "user_read"), ("requires_second_factor", "1")];
    mia.post("/roles/new", &form).await.leads("/roles");
    // `user` is role 3, `manager` 4, `trap` 5.
    mia.post("/users/1/role", &[("role", "5"), ("on", "1")]).await.shows(403, "more permissions than");
    house.server.basic("mia", GOOD).put("/api/v2/users/admin/roles/trap", serde_json::json!({})).await.expect(403);
    house.server.basic("mia", GOOD).put("/api/v1/users/admin/roles/trap", serde_json::json!({})).await.expect(403);
    admin.post("/users/1/role", &[("role", "3"), ("on", "1")]).await.leads("/users/1?told=saved");
    let form = [("name", "user"), ("permission", "user_read"), ("requires_second_factor", "1")];
    mia.post("/roles/3", &form).await.shows(403, "admin has it");
    admin.get("/users").await.shows(200, "People");
    // She may require it from users with fewer permissions.
    mia.post("/users/3/role", &[("role", "5"), ("on", "1")]).await.leads("/users/3?told=saved");
    house.visitor().post("/login", &[("login", "nora"), ("password", GOOD)]).await.leads("/");
    // An import does not change the role of administrators, as its page says.
    let text = "roles:\n- {name: admin, description: ours, permissions: [user_read]}\n";
    let form = |what| [("text", text), ("overwrite", "1"), ("what", what)];
    let plan = admin.post("/configuration", &form("plan")).await.shows(200, "ours");
    assert!(!plan.text.contains("permissions&quot;"), "{}", plan.text);
    admin.post("/configuration", &form("apply")).await.shows(200, "applied");
    admin.get("/audit").await.shows(200, "Audit log");
    // Two accounts with the same name: neither is skipped silently.
    let text = "users:\n- {username: twin, password: x, email: a@example.com}\n- {username: Twin, password: y, email: b@example.com}\n";
    admin.post("/configuration", &[("text", text), ("what", "plan")]).await.shows(422, "is listed twice");
}

/// Names that look like the name of another account are refused.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_look_alike_are_refused() {
    let house = House::new(Backend::Sqlite, &[]).await;
    let admin = house.admin().await;
    // Cyrillic, full width, a filler, a zero-width character, a space.
    let names = ["\u{430}dmin", "\u{ff41}\u{ff44}\u{ff4d}\u{ff49}\u{ff4e}", "admin\u{3164}", "ad\u{200b}min", "ad min"];
    for name in names {
        let form = [("username", name), ("name", "A"), ("email", "a@example.com"), ("password", GOOD), ("again", GOOD)];
        let page = house.visitor().post("/register", &form).await;
        assert_eq!(page.status, 422, "{name:?}");
        assert!(page.text.contains("id=\"username-problem\""), "{name:?}: {}", page.text);
    }
    for (username, name) in [("ad\u{200b}min", "A"), ("ok", "live\u{202e}evil")] {
        let form = [("username", username), ("name", name), ("email", "a@example.com"), ("how", "mail")];
        admin.post("/users/new", &form).await.shows(422, "control characters");
    }
    // An administrator may create accounts with names of other scripts.
    let form = [("username", "Ægir Ólafur"), ("name", "Ægir"), ("email", "a@example.com"), ("how", "mail")];
    admin.post("/users/new", &form).await.leads("/users/2?told=invited");
    // A mail to an unconfirmed address contains no text of the user who entered the address.
    let form = [
        ("username", "spam"),
        ("name", "Click http://evil.example now"),
        ("email", "v@example.com"),
        ("password", GOOD),
        ("again", GOOD),
    ];
    house.visitor().post("/register", &form).await.shows(200, "We sent an e-mail");
    let mail = house.mail("v@example.com", "confirm").await;
    assert!(!format!("{}{}", mail.text, mail.html).contains("evil.example"), "{}", mail.text);
}

/// On the command line, if neither a page nor a mail can be used.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_set_on_the_command_line() {
    let house = House::new(Backend::Sqlite, &[]).await;
    house.add("zoe", &["user"]).await;
    let zoe = Visitor::logged_in(house.url(), "zoe", GOOD).await;
    let run = |arguments: &[&str], input: &str| {
        let mut command = studygovernor(house.server.home.path(), arguments);
        command.env("DATABASE_URL", &house.server.database).env("SECRET_KEY", "a key of the tests");
        command.env("SECURITY_PASSWORD_SALT", "a salt of the tests").stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run(&["user", "password", "nobody"], "x\n");
    assert!(code == Some(1) && said.contains("unknown user 'nobody'"), "{said}");
    let (code, said) = run(&["user", "password", "zoe"], "\n");
    assert!(code == Some(2) && said.contains("no password"), "{said}");
    let (code, said) = run(&["user", "password", "Zoe@example.com"], "short\n");
    assert!(
        code == Some(0) && said.contains("at least 12 characters") && said.contains("zoe can now log in"),
        "{said}"
    );
    let (code, said) = run(&["user", "password", "zoe"], &format!("{OTHER}\n"));
    assert!(code == Some(0) && !said.contains("warning") && !said.contains(OTHER), "{said}");
    zoe.get("/").await.leads("/login?next=%2F");
    house.log_in("zoe", GOOD).await.shows(422, "Wrong user name or password");
    house.log_in("zoe", OTHER).await.leads("/");
    house.admin().await.post("/users/2/active", &[("active", "0")]).await.leads("/users/2?told=saved");
    let (_, said) = run(&["user", "password", "zoe"], &format!("{GOOD}\n"));
    assert!(said.contains("is not active; use --activate"), "{said}");
    run(&["user", "password", "zoe", "--activate"], &format!("{GOOD}\n"));
    house.log_in("zoe", GOOD).await.leads("/");
    house.admin().await.get("/audit?name=zoe&origin=cli").await.shows(200, "password: changed");
}

/// The administrator of the settings is created once, reset only if that is requested, and problems are reported.
#[tokio::test(flavor = "multi_thread")]
async fn the_administrator_of_the_settings_is_set_anew_only_when_asked_for() {
    let house = House::new(Backend::Postgres, &[]).await;
    let admin = house.admin().await;
    let token = house.server.admin().post("/api/v2/tokens", serde_json::json!({ "label": "t" })).await.expect(201);
    house.add("second", &["admin"]).await;
    admin.post("/users/1/role", &[("role", "1"), ("on", "0")]).await.leads("/users/1?told=saved");
    let start = |name: &str, email: &str, password: &str, force: &str| {
        // The program starts, and then has no password to read.
        let mut command = studygovernor(house.server.home.path(), &["user", "create", "somebody-new"]);
        command
            .env("DATABASE_URL", &house.server.database)
            .env("SECRET_KEY", "a key of the tests")
            .env("SECURITY_PASSWORD_SALT", "a salt of the tests")
            .env("STUDYGOV_ADMIN_USERNAME", name)
            .env("STUDYGOV_ADMIN_EMAIL", email)
            .env("STUDYGOV_ADMIN_PASSWORD", password)
            .env("STUDYGOV_ADMIN_FORCE_UPDATE", force)
            .output()
            .unwrap()
    };
    let before = house.row("admin").await;
    assert!(before.password.starts_with("$argon2id$"));
    // Another password in the environment alone changes nothing.
    start("admin", "admin@example.com", OTHER, "false");
    assert_eq!(house.row("admin").await.password, before.password);
    // Ignoring the case of the name.
    start("Admin", "other@example.com", OTHER, "true");
    let after = house.row("admin").await;
    assert!(after.password.starts_with("$argon2id$") && after.password != before.password, "hashed, and another one");
    assert_eq!((after.email.as_str(), after.id), ("other@example.com", 1));
    admin.get("/").await.leads("/login?next=%2F");
    house.server.bearer(token["token"].as_str().unwrap()).get("/api/v2/cohorts").await.expect(401);
    house.log_in("admin", "admin").await.shows(422, "Wrong user name or password");
    let admin = Visitor::logged_in(house.url(), "admin", OTHER).await;
    // The role is restored.
    admin.get("/configuration").await.shows(200, "Import a configuration");
    admin.get("/audit").await.shows(200, "STUDYGOV_ADMIN_FORCE_UPDATE");
    // The same values end no sessions.
    start("admin", "other@example.com", OTHER, "true");
    admin.get("/").await.shows(200, "Overview");
    // A name that is the address of another account is reported, not ignored.
    let said = start("second@example.com", "third@example.com", OTHER, "true");
    let told = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.status.code() == Some(1) && told.contains("STUDYGOV_ADMIN_USERNAME"), "{told}");
}

/// A hash of version 8.1 is replaced when its owner logs in.
#[tokio::test(flavor = "multi_thread")]
async fn a_hash_of_the_existing_product_is_replaced_at_login() {
    for backend in [Backend::Sqlite, Backend::Postgres, Backend::Mariadb] {
        let house = House::new(backend, &[]).await;
        house.add("heidi", &["user"]).await;
        // Created by Flask-Security, see `account::password`.
        let old = "$2b$12$2/LZ8ZJKgpdDS.clYBEb6.uPHQckrJz9FfaHQFaX/bnF2f1hJufL2";
        let study = Study::of(&house.server.database).await;
        let quote = if backend == Backend::Mariadb { "`user`" } else { "\"user\"" };
        let import = format!("UPDATE {quote} SET password = '{old}' WHERE username = 'heidi'");
        study.database().reader().execute_unprepared(&import).await.unwrap();
        house.log_in("heidi", "wrong horse").await.shows(422, "Wrong user name or password");
        assert_eq!(house.row("heidi").await.password, old);
        house.log_in("heidi", "correct horse").await.leads("/");
        assert!(house.row("heidi").await.password.starts_with("$argon2id$"));
        house.log_in("heidi", "correct horse").await.leads("/");
    }
}
