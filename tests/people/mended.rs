//! Defects in account management that a review of the running program found, and the correct behaviour.

use reqwest::Method;
use sea_orm::ConnectionTrait;
use serde_json::json;
use studygovernor::audit::{self, Event};

use super::{GOOD, House, Visitor};
use crate::support::{Backend, Study, ctx};

/// An ended session is not restored by requests of its browser that change it at the same moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_ended_does_not_come_back() {
    let house = House::new(Backend::Postgres, &[]).await;
    house.add("mia", &["user"]).await;
    let owner = Visitor::logged_in(house.url(), "mia", GOOD).await;
    for _ in 0..5 {
        let thief = Visitor::logged_in(house.url(), "mia", GOOD).await;
        // Each of these requests changes the session.
        let ask = || async { thief.get("/account/second_factor").await.status };
        let asking = async { tokio::join!(ask(), ask(), ask(), ask(), ask(), ask(), ask(), ask()) };
        tokio::join!(asking, owner.post("/account/sessions/end", &[]));
        thief.get("/").await.leads("/login?next=%2F");
        owner.get("/").await.shows(200, "Overview");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remembered_session_stays_one_when_something_is_noted_in_it() {
    let house = House::new(Backend::Sqlite, &[]).await;
    house.add("mia", &["user"]).await;
    let mia = house.visitor();
    mia.post("/login", &[("login", "mia"), ("password", GOOD), ("remember", "1")]).await.leads("/");
    let page = mia.get("/account/second_factor").await;
    assert!(page.cookie.contains("Max-Age="), "{}", page.cookie);
}

/// SQLite converts only the letters a to z to lower case.
#[tokio::test(flavor = "multi_thread")]
async fn names_are_found_as_they_are_written() {
    for backend in [Backend::Sqlite, Backend::Postgres, Backend::Mariadb] {
        let house = House::new(backend, &[]).await;
        let admin = house.server.admin();
        let body = json!({ "username": "Änne", "password": GOOD, "name": "Änne Öz", "email": "aenne@example.com", "active": true });
        admin.post("/api/v2/users", body).await.expect(201);
        house.server.basic("Änne", GOOD).get("/api/v2/cohorts").await.expect(200);
        house.admin().await.get("/users?q=%C3%84nne+%C3%96").await.shows(200, "1 account");
        let again =
            json!({ "username": "Änne", "password": GOOD, "name": "n", "email": "other@example.com", "active": true });
        admin.post("/api/v2/users", again).await.expect(409);
    }
}

/// An earlier import may have created such accounts; a configuration does not.
#[tokio::test(flavor = "multi_thread")]
async fn accounts_that_differ_by_case_only_can_be_put_out() {
    for (backend, table) in
        [(Backend::Sqlite, "\"user\""), (Backend::Postgres, "\"user\""), (Backend::Mariadb, "`user`")]
    {
        let house = House::new(backend, &[]).await;
        house.add("bob", &["user"]).await;
        house.add("erin", &["user"]).await;
        let admin = house.admin().await;
        let text = "users: [{username: erin, password: another of erin, email: BOB@example.com}]";
        admin
            .post("/configuration", &[("text", text), ("overwrite", "1"), ("what", "apply")])
            .await
            .shows(422, "already");
        let engine = Study::of(&house.server.database).await;
        let same = format!("UPDATE {table} SET email = 'Bob@example.com' WHERE username = 'erin'");
        engine.database().reader().execute_unprepared(&same).await.unwrap();
        for id in [2, 3] {
            admin
                .post(&format!("/users/{id}/active"), &[("active", "0")])
                .await
                .leads(&format!("/users/{id}?told=saved"));
        }
    }
}

/// The name of the administrator in the settings is found again at the next start.
#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_of_the_settings_may_be_called_asa() {
    use crate::support::{Program, studygovernor};
    let home = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let mut command = studygovernor(home.path(), &["serve"]);
        command.env("STUDYGOV_ADMIN_USERNAME", "Åsa").env("STUDYGOV_ADMIN_PASSWORD", GOOD);
        let server = Program::start(command);
        Visitor::logged_in(&server.url, "Åsa", GOOD).await;
    }
}

/// The back button after a search requests the whole page, not the part that the search changed.
#[tokio::test(flavor = "multi_thread")]
async fn back_to_a_search_shows_a_page() {
    let house = House::new(Backend::Sqlite, &[]).await;
    let admin = house.admin().await;
    let part = admin.request(Method::GET, "/users?q=a").header("hx-request", "true");
    assert!(!admin.page(part.send().await.unwrap()).await.text.contains("<title>"));
    let back = admin.request(Method::GET, "/users?q=a").header("hx-request", "true");
    let back = back.header("hx-history-restore-request", "true");
    admin.page(back.send().await.unwrap()).await.shows(200, "<title>");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_the_trail_is_whole() {
    let house = House::new(Backend::Sqlite, &[]).await;
    let admin = house.admin().await;
    let engine = Study::of(&house.server.database).await;
    let transaction = engine.database().begin().await.unwrap();
    for number in 0..4_100 {
        let event = Event::new("create", "cohort", number, format!("c{number}"));
        audit::record(ctx(), &*transaction, event).await.unwrap();
    }
    transaction.commit().await.unwrap();
    let table = admin.get("/audit.csv?kind=cohort").await.shows(200, "c0,").text;
    assert_eq!((table.lines().count(), table.matches("subject_type").count()), (4_101, 1));
    for day in ["%2B262142-12-31", "0001-01-01", "yesterday"] {
        admin.get(&format!("/audit?until={day}")).await.shows(400, "is not a date");
    }
}

/// However an account is activated, its owner is notified.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_let_in_by_a_script_hears_of_it() {
    let house = House::new(Backend::Postgres, &[]).await;
    let admin = house.server.admin();
    for name in ["ada", "bea"] {
        let body = json!({ "username": name, "password": GOOD, "name": name, "email": format!("{name}@example.com"), "active": false });
        admin.post("/api/v2/users", body).await.expect(201);
    }
    admin.put("/api/v2/users/2", json!({ "active": true })).await.expect(200);
    house.mail("ada@example.com", "is active").await;
    let text = format!("users: [{{username: bea, password: {GOOD}, email: bea@example.com, active: true}}]");
    house
        .admin()
        .await
        .post("/configuration", &[("text", &text), ("overwrite", "1"), ("what", "apply")])
        .await
        .shows(200, "applied");
    house.mail("bea@example.com", "is active").await;
    admin.put("/api/v2/users/2", json!({ "active": true, "name": "Ada" })).await.expect(200);
    assert_eq!(house.mails_to("ada@example.com").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_files_none_is_kept_and_a_role_of_a_file_is_called_like_any_other() {
    let house = House::new(Backend::Sqlite, &[]).await;
    let admin = house.admin().await;
    let file = |name: &str| {
        format!("--mark\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\nx\r\n")
    };
    let request =
        admin.request(Method::POST, "/upload_data").header("content-type", "multipart/form-data; boundary=mark");
    let request = request.body(format!("{}{}--mark--\r\n", file("a.txt"), file("b.txt")));
    admin.page(request.send().await.unwrap()).await.shows(400, "Upload one file at a time");
    let page = admin.get("/upload_data").await;
    assert!(!page.text.contains("a.txt") && !page.text.contains("b.txt"));
    for name in ["ADMIN", "a/b"] {
        let text = format!("roles: [{{name: {name}, permissions: [user_read]}}]");
        admin.post("/configuration", &[("text", &text), ("what", "plan")]).await.shows(422, "its name");
    }
}
