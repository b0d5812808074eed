//! Roles limited to certain cohorts: giving, changing and removing them, and their effect in each cohort.

use serde_json::{Value, json};

use super::scope::two_cohorts;
use super::{GOOD, Visitor};
use crate::support::Backend;

#[tokio::test(flavor = "multi_thread")]
async fn each_role_holds_in_its_own_cohorts() {
    let house = two_cohorts(Backend::Postgres).await;
    house.add("sam", &["user"]).await;
    house.scope("sam", "superuser", &json!(["plain-cohort"])).await;
    house.scope("sam", "user", &json!(["hushhush-cohort"])).await;
    let (sam, api) = (Visitor::logged_in(house.url(), "sam", GOOD).await, house.server.basic("sam", GOOD));
    let admin = house.server.admin();
    admin.put("/api/v2/experiments/1/state", json!({ "state": "failed" })).await.expect(200);
    admin.put("/api/v2/experiments/3/state", json!({ "state": "failed" })).await.expect(200);
    assert_eq!(api.get("/api/v2/experiments").await.expect(200)["count"], 2);
    // The button is only shown where it works.
    let button = "action=\"/experiments/3/transition\"";
    sam.get("/experiments/3").await.shows(200, button);
    let page = sam.get("/experiments/1").await.shows(200, "hushhush-experiment-1");
    assert!(!page.text.contains("/transition\""), "{}", page.text);
    let to = json!({ "state": "check" });
    let refused = api.put("/api/v2/experiments/1/state", to.clone()).await.expect(404);
    assert_eq!(
        refused["message"],
        "There is no experiment 1 in the cohorts in which you have the permission 'sample_state_update'."
    );
    api.put("/api/v2/experiments/3/state", to).await.expect(200);
    let version = admin.get("/api/v2/experiments/1").await.expect(200)["version"].as_i64().unwrap_or(2).to_string();
    sam.post("/experiments/1/transition", &[("state", "2"), ("version", &version)])
        .await
        .shows(404, "in which you have the permission");
    for (cohort, status) in [("hushhush-cohort", 404), ("plain-cohort", 201)] {
        let body = json!({ "label": "z", "cohort_label": cohort });
        api.post("/api/v2/subjects", body).await.expect(status);
    }
    // Her account page shows the permissions in each cohort.
    let own = sam.get("/account").await.shows(200, "sample_add in plain-cohort");
    assert!(
        own.text.contains("<dd>hushhush-cohort, plain-cohort</dd>") && !own.text.contains("user_read in"),
        "{}",
        own.text
    );
    // A third role for the whole study adds its permissions, but shows no more cohorts.
    admin.post("/api/v2/cohorts", json!({ "label": "third" })).await.expect(201);
    admin.put("/api/v2/users/sam/roles/keeper", json!({})).await.expect(200);
    assert_eq!(api.get("/api/v2/cohorts").await.expect(200)["count"], 2);
    api.put("/api/v2/experiments/1/state", json!({ "state": "check" })).await.expect(200);
    api.get("/api/v2/users").await.expect(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_gives_a_role_for_cohorts_and_nobody_sees_more_by_accident() {
    let house = two_cohorts(Backend::Mariadb).await;
    house.add("rita", &["user"]).await;
    let admin = house.admin().await;
    let (rita, api) = (Visitor::logged_in(house.url(), "rita", GOOD).await, house.server.basic("rita", GOOD));
    let count = async || api.get("/api/v2/cohorts").await.expect(200)["count"].as_u64().unwrap();
    // The id after the administrator, alice and bob.
    let path = "/users/4".to_owned();
    let cohorts_form = format!("{path}/role/cohorts");
    assert_eq!(count().await, 2);
    admin.get(&path).await.shows(200, "Can see the whole study").shows(200, "user: for the whole study");
    // `user` is role 3. An empty form is an error, and nothing changes.
    admin.post(&cohorts_form, &[("role", "3")]).await.shows(422, "select at least one");
    admin
        .post(&cohorts_form, &[("role", "3"), ("cohort", "2"), ("cohort", "4711")])
        .await
        .shows(422, "a cohort that does not exist");
    admin.post(&cohorts_form, &[("role", "4711"), ("cohort", "2")]).await.shows(404, "role 4711");
    assert_eq!(count().await, 2);
    admin.post(&cohorts_form, &[("role", "3"), ("cohort", "2")]).await.leads(&format!("{path}?told=saved"));
    // Effective immediately: in the session and for the cached password.
    assert_eq!(count().await, 1);
    rita.get("/cohorts/1").await.shows(404, "in the cohorts to which your role is limited");
    rita.get("/cohorts/2").await.shows(200, "plain-cohort");
    admin
        .get(&path)
        .await
        .shows(200, "Can see only the cohort <b>plain-cohort</b>")
        .shows(200, "limited to certain cohorts");
    admin.get("/users?q=rita").await.shows(200, ": plain-cohort</span>");
    admin.get("/audit").await.shows(200, "give role").shows(200, "plain-cohort");

    // The last limited role cannot be removed: she would see everything.
    let switch = format!("{path}/role");
    admin.post(&switch, &[("role", "3"), ("on", "0")]).await.shows(409, "access to the whole study");
    let all = house.server.admin();
    all.delete("/api/v2/users/rita/roles/user").await.expect(409);
    all.delete("/api/v1/users/rita/roles/user").await.expect(409);
    // A configuration with other roles cannot do it either, and one with the same roles does not change the cohorts.
    let configuration = |role: &str| {
        let user = json!({ "users": [{ "username": "rita", "password": GOOD, "name": "rita", "email": "rita@example.com", "active": true, "roles": [role] }] });
        json!({ "config_definition": user.to_string() })
    };
    all.put("/api/v2/service/config/import-config", configuration("superuser")).await.expect(409);
    all.put("/api/v2/service/config/import-config", configuration("user")).await.expect(200);
    // A configuration sets the password, which ends the session.
    let rita = Visitor::logged_in(house.url(), "rita", GOOD).await;
    assert_eq!(count().await, 1);
    // Giving it again changes nothing; neither does another role for the whole study.
    admin.post(&switch, &[("role", "3"), ("on", "1")]).await.leads(&format!("{path}?told=saved"));
    admin.post(&switch, &[("role", "2"), ("on", "1")]).await.leads(&format!("{path}?told=saved"));
    assert_eq!(count().await, 1);
    // With another limited role, the first one and its cohorts can be removed.
    house.scope("rita", "superuser", &json!(["hushhush-cohort"])).await;
    assert_eq!(count().await, 2);
    admin.post(&switch, &[("role", "3"), ("on", "0")]).await.leads(&format!("{path}?told=saved"));
    assert_eq!(count().await, 1);
    rita.get("/cohorts/1").await.shows(200, "hushhush-cohort");
    all.put("/api/v2/users/rita/roles/user", json!({})).await.expect(200);
    let of_user = all.get("/api/v2/users/rita/roles/user/cohorts").await.expect(200);
    assert_eq!((&of_user["has_role"], &of_user["cohorts"]), (&json!(true), &Value::Null));

    // A user is invited with limited cohorts from the beginning.
    admin.get("/users/new").await.shows(200, "Limit to certain cohorts").shows(200, "hushhush-cohort");
    let form = |name: &'static str, more: &[(&'static str, &'static str)]| {
        let email: &'static str = format!("{name}@example.com").leak();
        let mut form = vec![("username", name), ("name", name), ("email", email), ("how", "hand"), ("password", GOOD)];
        form.extend_from_slice(more);
        form
    };
    let refused = admin.post("/users/new", &form("tom", &[("cohort", "2")])).await.shows(422, "requires a role");
    assert!(refused.text.contains("id=\"cohort-2\" checked"), "{}", refused.text);
    let wrong = form("tom", &[("cohort", "4711"), ("role", "user")]);
    admin.post("/users/new", &wrong).await.shows(422, "a cohort that does not exist");
    let wrong = form("tom", &[("cohort", "abc"), ("role", "user")]);
    admin.post("/users/new", &wrong).await.shows(422, "a cohort that does not exist");
    let wrong = form("tom", &[("cohort", "2"), ("role", "admin")]);
    admin.post("/users/new", &wrong).await.shows(422, "for the whole study");
    let toms = form("tom", &[("cohort", "2"), ("role", "user"), ("role", "superuser")]);
    let made = admin.post("/users/new", &toms).await;
    assert!(made.status == 303 && made.location.ends_with("?told=created"), "{} {}", made.status, made.text);
    let tom = house.server.basic("tom", GOOD);
    assert_eq!(tom.get("/api/v2/cohorts").await.expect(200)["cohorts"][0]["label"], "plain-cohort");
    assert_eq!(tom.get("/api/v2/experiments").await.expect(200)["count"], 1);

    // For an administrator, such a role can be removed: the visible data does not change.
    house.add("ada", &["admin", "user"]).await;
    house.scope("ada", "user", &json!(["plain-cohort"])).await;
    all.delete("/api/v2/users/ada/roles/admin").await.expect(200);
    all.delete("/api/v2/users/ada/roles/user").await.expect(409);
    all.put("/api/v2/users/ada/roles/admin", json!({})).await.expect(200);
    all.delete("/api/v2/users/ada/roles/user").await.expect(200);

    // `admin` cannot be limited; users cannot give permissions that they do not have.
    let path_of = |role: &str| format!("/api/v2/users/rita/roles/{role}/cohorts");
    all.put(&path_of("admin"), json!({ "cohorts": [1] })).await.expect(400);
    for body in [json!({}), json!({ "cohorts": [] }), json!({ "cohorts": "x" })] {
        all.put(&path_of("user"), body).await.expect(400);
    }
    all.put(&path_of("user"), json!({ "cohorts": ["nowhere"] })).await.expect(404);
    api.put(&path_of("superuser"), json!({ "cohorts": null })).await.expect(403);
    rita.post(&cohorts_form, &[("role", "2"), ("whole", "1")]).await.shows(403, "roles_manage");
    // Removing the limit, with an explanation on the form.
    admin.post(&cohorts_form, &[("role", "2"), ("whole", "1")]).await.leads(&format!("{path}?told=saved"));
    assert_eq!(count().await, 2);
}
