//! Access rules: every route of the pages and of both versions of the API, for each kind of user, compared with the
//! table in `routes.txt`. `tests/api/access.rs` tests the API with each permission alone.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use reqwest::Method;
use studygovernor::app::App;
use studygovernor::clock::Clock;
use studygovernor::config::{Environment, Settings};
use studygovernor::web;

use super::{GOOD, House, Visitor};
use crate::support::Backend;

/// The table of the program.
pub async fn table() -> Vec<web::Entry> {
    let home = tempfile::tempdir().unwrap();
    let settings = Settings::read(&Environment::default(), home.path()).unwrap();
    let app = App::connect(settings, Clock::System).await.unwrap();
    web::pages(&app).table().to_vec()
}

/// The outcome of a request: `in` if the handler was reached, whatever its response.
fn outcome(status: u16, location: &str) -> &'static str {
    match (status, location) {
        (303, to) if to.starts_with("/login?next=") => "login",
        (401, _) => "login",
        (403, _) => "no",
        _ => "in",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_open_to_whom_the_table_says() {
    let house = House::new(Backend::Sqlite, &[]).await;
    for (name, role) in [("inactive", "user"), ("user", "user"), ("superuser", "superuser"), ("boss", "admin")] {
        house.add(name, &[role]).await;
    }
    let nobody = house.visitor();
    let inactive = Visitor::logged_in(house.url(), "inactive", GOOD).await;
    let people = [
        ("user", Visitor::logged_in(house.url(), "user", GOOD).await),
        ("superuser", Visitor::logged_in(house.url(), "superuser", GOOD).await),
        ("admin", Visitor::logged_in(house.url(), "boss", GOOD).await),
    ];
    // A session that was started while the account was active.
    let changes = serde_json::json!({ "active": false });
    house.server.admin().put("/api/v2/users/2", changes).await.expect(200);

    let mut shown = String::from("# method path need: nobody inactive user superuser admin\n");
    let table = table().await;
    for entry in &table {
        let method: Method = entry.method.parse().unwrap();
        // An id that does not exist: the request is refused, or the resource is missing, but nothing is changed.
        let path = entry.path.replace("{id}", "4711").replace("{secret}", "none");
        let ask = async |visitor: &Visitor| {
            let request = visitor.request(method.clone(), &path);
            let request = request.header("content-type", "application/x-www-form-urlencoded");
            let answer = request.send().await.unwrap();
            let location = answer.headers().get("location").map_or("", |to| to.to_str().unwrap()).to_owned();
            outcome(answer.status().as_u16(), &location)
        };
        // These routes end sessions, so they are requested without one.
        let is_door = entry.path.starts_with("/log") || entry.path.ends_with("sessions/end");
        let mut outcomes = vec![ask(&nobody).await, ask(&inactive).await];
        for (name, visitor) in &people {
            outcomes.push(match (is_door, *name) {
                (true, _) if entry.path.starts_with("/log") => ask(&nobody).await,
                _ => ask(visitor).await,
            });
        }
        writeln!(shown, "{} {} {}: {}", entry.method, entry.path, entry.need, outcomes.join(" ")).unwrap();
    }
    // A part of a page is refused like the page: htmx is redirected to the login page.
    for entry in table.iter().filter(|entry| entry.method == "GET" && entry.need != web::Need::Nothing) {
        let path = entry.path.replace("{id}", "4711");
        let answer = nobody.request(Method::GET, &path).header("hx-request", "true").send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["hx-redirect"]),
            (401, &"/login".parse().unwrap()),
            "{path}"
        );
    }
    walk_api(&house, &nobody, &inactive, &people, &mut shown).await;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/people/routes.txt");
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&file, &shown).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(&file).unwrap_or_default(),
        shown,
        "look at each line before UPDATE_REFERENCE=1"
    );
    // The table of the repository agrees with the permissions of the roles.
    for line in shown.lines().skip(1) {
        let (route, outcomes) = line.rsplit_once(": ").unwrap();
        let need = route.rsplit_once(' ').unwrap().1;
        let outcomes: Vec<&str> = outcomes.split(' ').collect();
        let (need, is_open) = need.strip_suffix("|secret").map_or((need, false), |need| (need, true));
        let mut wanted = match need {
            "nothing" => ["in"; 5],
            "login" | "account" => ["login", "login", "in", "in", "in"],
            // The secret of an attempt is sufficient, and a login is no substitute.
            "secret" => ["no"; 5],
            "sample_state_update" | "sample_add" | "upload_data" => ["login", "login", "no", "in", "in"],
            // `user_read` too: it covers only the user's own account, and 4711 is another one.
            _ => ["login", "login", "no", "no", "in"],
        };
        if is_open {
            wanted[..2].fill("no");
        }
        assert_eq!(outcomes, wanted, "{line}");
    }
    let routes: BTreeSet<(&str, &str)> = table.iter().map(|entry| (entry.method, entry.path)).collect();
    assert_eq!(routes.len(), table.len());
    assert!(routes.len() > 60 && shown.lines().count() > 200, "{}", shown.lines().count());
}

/// Adds the operations of both versions of the API.
async fn walk_api(
    house: &House,
    nobody: &Visitor,
    inactive: &Visitor,
    people: &[(&str, Visitor); 3],
    shown: &mut String,
) {
    for version in ["v1", "v2"] {
        let document = house.server.nobody().get(&format!("/api/{version}/swagger.json")).await.expect(200);
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let mut asked = format!("/api/{version}{path}");
                while let (Some(begin), Some(end)) = (asked.find('{'), asked.find('}')) {
                    asked.replace_range(begin..=end, "4711");
                }
                let method: Method = method.to_uppercase().parse().unwrap();
                let ask = async |visitor: &Visitor| {
                    let request = visitor.request(method.clone(), &asked).json(&serde_json::json!({}));
                    outcome(request.send().await.unwrap().status().as_u16(), "")
                };
                let mut outcomes = vec![ask(nobody).await, ask(inactive).await];
                for (_, visitor) in people {
                    outcomes.push(ask(visitor).await);
                }
                let security = operation["security"].as_array().unwrap();
                let need = match security.last().unwrap()["session"].as_array() {
                    None => "secret".to_owned(),
                    Some(scopes) => scopes.first().map_or("login", |scope| scope.as_str().unwrap()).to_owned(),
                };
                // Operations on an execution: a caller with the secret of its attempt needs no login.
                let is_open = need != "secret" && security.contains(&serde_json::json!({}));
                let need = if is_open { format!("{need}|secret") } else { need };
                writeln!(shown, "{method} /api/{version}{path} {need}: {}", outcomes.join(" ")).unwrap();
            }
        }
    }
}
