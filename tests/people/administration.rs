//! Management of accounts and roles.

use super::{GOOD, House, Visitor, address};
use crate::support::Backend;

#[tokio::test(flavor = "multi_thread")]
async fn somebody_is_invited_and_comes() {
    let house = House::with_mail_server(Backend::Sqlite).await;
    let admin = house.admin().await;
    let email = address();
    admin.get("/users/new").await.shows(200, "Send an invitation");
    let form =
        [("username", "sven"), ("name", "Sven"), ("email", email.as_str()), ("how", "mail"), ("role", "superuser")];
    admin.post("/users/new", &form).await.leads("/users/2?told=invited");
    let mail = house.mail(&email, "invites you").await;
    let sven = house.visitor();
    let link = mail.link(house.url());
    sven.get(&link).await.shows(200, "sven");
    sven.post("/login", &[("login", "sven"), ("password", "!")]).await.shows(422, "Wrong user name or password");
    admin.get("/users").await.shows(200, ">invited<");
    // A second invitation: the newer link is valid, the older one is not.
    admin.post("/users/2/invite", &[]).await.leads("/users/2?told=invited");
    let newer = crate::support::eventually("the second invitation", async || {
        house.mails_to(&email).iter().map(|mail| mail.link(house.url())).find(|one| *one != link)
    })
    .await;
    sven.post(&link, &[("password", GOOD), ("again", GOOD)]).await.shows(410, "This link has expired");
    sven.post(&newer, &[("password", GOOD), ("again", GOOD)]).await.leads("/login?told=password");
    sven.get("/login?told=password").await.shows(200, "Your password has been set");
    let sven = Visitor::logged_in(house.url(), "sven", GOOD).await;
    sven.get("/account").await.shows(200, "superuser");
    // A password that an administrator sets must be strong; the form keeps the input.
    let form =
        [("username", "tina"), ("name", "Tina"), ("email", "tina@example.com"), ("how", "hand"), ("password", "tina")];
    let page = admin.post("/users/new", &form).await.shows(422, "12 characters");
    assert!(page.text.contains("tina@example.com"));
    let form = [("username", "sven"), ("name", "S"), ("email", "s@example.com"), ("how", "hand"), ("password", GOOD)];
    admin.post("/users/new", &form).await.shows(422, "is already in use");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_switched_with_a_click_and_nobody_reaches_above_themselves() {
    let house = House::new(Backend::Postgres, &[]).await;
    let admin = house.admin().await;
    admin.get("/roles/new").await.shows(200, "create accounts and invite users");
    let form = [("name", "warden"), ("description", "looks after raters"), ("permission", "user_read_all")];
    let form: Vec<_> = form
        .into_iter()
        .chain(["roles_manage", "user_update_all", "user_add"].map(|one| ("permission", one)))
        .collect();
    admin.post("/roles/new", &form).await.leads("/roles");
    admin.post("/roles/new", &form).await.shows(422, "is already the name of another role");
    admin.get("/roles").await.shows(200, "looks after raters");
    // Two role names are reserved.
    for (path, name) in [("/roles/new", "Admin "), ("/roles/4", "admin"), ("/roles/3", "reader")] {
        admin.post(path, &[("name", name)]).await.shows(422, "cannot be changed to or from");
    }
    house.add("wilma", &["warden"]).await;
    house.add("xaver", &[]).await;
    let wilma = Visitor::logged_in(house.url(), "wilma", GOOD).await;
    let has_role = async || admin.get("/users/3").await.text.contains("Remove the role from xaver: looks after raters");
    // She may give her own role and lesser ones, but no role with permissions that she does not have.
    let switch = |role: &'static str, on: &'static str| [("role", role), ("on", on)];
    wilma.post("/users/3/role", &switch("4", "1")).await.leads("/users/3?told=saved");
    assert!(has_role().await);
    for role in ["1", "2"] {
        wilma.post("/users/3/role", &switch(role, "1")).await.shows(403, "has more permissions than");
    }
    wilma.post("/users/1/role", &switch("1", "0")).await.shows(403, "more permissions than");
    for (path, form) in [
        ("/users/1", vec![("username", "admin"), ("name", "x"), ("email", "wilma2@example.com")]),
        ("/users/1/active", vec![("active", "0")]),
        ("/users/1/sessions/end", vec![]),
        ("/users/1/second_factor/end", vec![]),
        ("/roles/1", vec![("name", "admin")]),
        ("/roles/4", vec![("name", "warden"), ("permission", "sample_delete")]),
        ("/roles/new", vec![("name", "x"), ("permission", "sample_delete")]),
        (
            "/users/new",
            vec![("username", "y"), ("name", "y"), ("email", "y@example.com"), ("how", "mail"), ("role", "admin")],
        ),
    ] {
        let page = wilma.post(path, &form).await;
        assert_eq!(page.status, 403, "{path}: {}", page.text);
    }
    // With htmx, only the switches are returned.
    let request = admin.request(reqwest::Method::POST, "/users/3/role").header("hx-request", "true");
    let request = request.header("content-type", "application/x-www-form-urlencoded").body("role=4&on=0");
    let page = admin.page(request.send().await.unwrap()).await.shows(200, "switches-3");
    assert!(!page.text.contains("<html") && page.text.contains("aria-pressed=\"false\""));
    assert!(!has_role().await);
    // At least one administrator who can activate accounts must remain.
    admin.post("/users/1/role", &switch("1", "0")).await.shows(409, "last active administrator account");
    // The changes are listed.
    admin.get("/users/2").await.shows(200, "give role").shows(200, "xaver");
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_are_found_changed_and_put_out() {
    let house = House::new(Backend::Mariadb, &[]).await;
    for (name, role) in [("uma", "user"), ("viktor", "superuser"), ("wanda", "user")] {
        house.add(name, &[role]).await;
    }
    let admin = house.admin().await;
    let list = async |query: &str| {
        let text = admin.get(&format!("/users?{query}")).await.shows(200, "People").text;
        ["admin@", "uma@", "viktor@", "wanda@"].map(|name| text.contains(&format!("{name}example.com")))
    };
    assert_eq!(list("").await, [true; 4]);
    assert_eq!(list("q=VIKT").await, [false, false, true, false]);
    assert_eq!(list("role=3").await, [false, true, false, true]);
    assert_eq!(list("state=inactive").await, [false; 4]);
    assert_eq!(list("q=%25").await, [false; 4]);
    admin.get("/users?state=odd").await.shows(400, "not one of active, waiting, inactive");
    let uma = Visitor::logged_in(house.url(), "uma", GOOD).await;
    let made =
        house.server.basic("uma", GOOD).post("/api/v2/tokens", serde_json::json!({ "label": "t" })).await.expect(201);
    let umas = made["token"].as_str().unwrap().to_owned();
    let token = |secret: &str| house.server.bearer(secret);
    token(&umas).get("/api/v2/cohorts").await.expect(200);
    admin.post("/users/2/active", &[("active", "0")]).await.leads("/users/2?told=saved");
    uma.get("/").await.leads("/login?next=%2F");
    token(&umas).get("/api/v2/cohorts").await.expect(401);
    assert_eq!(list("state=inactive").await, [false, true, false, false]);
    // Neither sessions nor tokens are restored with the account; the API behaves in the same way.
    admin.post("/users/2/active", &[("active", "1")]).await.leads("/users/2?told=saved");
    uma.get("/").await.leads("/login?next=%2F");
    token(&umas).get("/api/v2/cohorts").await.expect(401);
    let uma = Visitor::logged_in(house.url(), "uma", GOOD).await;
    for active in [false, true] {
        house.server.admin().put("/api/v2/users/2", serde_json::json!({ "active": active })).await.expect(200);
    }
    uma.get("/").await.leads("/login?next=%2F");
    admin.post("/users/1/active", &[("active", "0")]).await.shows(409, "last active administrator account");
    let form = [("username", "uma"), ("name", "Uma U."), ("email", "not an address")];
    admin.post("/users/2", &form).await.shows(422, "email-problem");
    let form = [("username", "viktor"), ("name", "Uma U."), ("email", "uma@example.com")];
    admin.post("/users/2", &form).await.shows(422, "is already in use");
    let form = [("username", "uma2"), ("name", "Uma U."), ("email", "uma2@example.com")];
    admin.post("/users/2", &form).await.leads("/users/2?told=saved");
    admin.get("/users/2").await.shows(200, "uma2@example.com");
    // For MariaDB, a name with a trailing space is equal; for the check of permissions it is not.
    let form = [("name", "porter"), ("permission", "user_add"), ("permission", "user_read_all")];
    admin.post("/roles/new", &form).await.leads("/roles");
    house.add("zoe", &["porter"]).await;
    let zoe = Visitor::logged_in(house.url(), "zoe", GOOD).await;
    for role in ["admin ", "ADMIN", "nothing"] {
        let form =
            [("username", "evil"), ("name", "e"), ("email", "e@example.com"), ("how", "hand"), ("password", GOOD)];
        let form: Vec<_> = form.into_iter().chain([("role", role)]).collect();
        let page = zoe.post("/users/new", &form).await.shows(422, "unknown role");
        assert!(page.text.contains("e@example.com"), "nothing that was typed is lost");
    }
    let user = r#"{"users": [{"username": "evil", "password": "p", "email": "e@example.com", "roles": ["admin "]}]}"#;
    let body = serde_json::json!({ "config_definition": user });
    house.server.admin().post("/api/v2/service/config/import-config", body).await.expect(400);
    assert_eq!(list("q=evil").await, [false; 4]);
    assert!(!admin.get("/users?q=evil").await.text.contains("e@example.com"));
    // `Admin` and `admin` would be confused.
    let form = [("username", "Viktor"), ("name", "x"), ("email", "x@example.com"), ("how", "mail")];
    admin.post("/users/new", &form).await.shows(422, "is already in use");
    admin.get("/users/1").await.shows(200, "Recent activity").shows(200, "username: uma2");
    admin.get("/users/4711").await.shows(404, "user 4711");
}
