//! Attacks on roles limited to certain cohorts: by users who give roles, by moving, by simultaneous requests, by
//! repeated requests.

use reqwest::Method;
use serde_json::json;

use super::scope::{HIDDEN, changes_of_hidden_things, two_cohorts};
use super::{GOOD, House, Visitor};
use crate::support::Backend;

/// Permissions in two cohorts are not enough to move something with a third permission from one to the other.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_moved_to_where_more_is_permitted() {
    let house = two_cohorts(Backend::Sqlite).await;
    let admin = house.server.admin();
    let roles = json!({ "roles": [{ "name": "importer", "permissions": "sample_add" }] });
    let body = json!({ "config_definition": roles.to_string() });
    admin.post("/api/v2/service/config/import-config", body).await.expect(201);
    house.add("sam", &["user"]).await;
    house.scope("sam", "importer", &json!(["hushhush-cohort"])).await;
    house.scope("sam", "superuser", &json!(["plain-cohort"])).await;
    let api = house.server.basic("sam", GOOD);
    for (version, body) in
        [("v1", json!({ "cohort": "plain-cohort" })), ("v2", json!({ "cohort_label": "plain-cohort" }))]
    {
        let refused = api.put(&format!("/api/{version}/subjects/1"), body).await.expect(403);
        assert!(refused["message"].as_str().unwrap().contains("the whole study"), "{refused}");
    }
    // Setting the current cohort moves nothing.
    let same = json!({ "cohort_label": "hushhush-cohort", "date_of_birth": "1950-01-01" });
    api.put("/api/v2/subjects/1", same).await.expect(200);
    admin.put("/api/v2/subjects/1", json!({ "cohort_label": "plain-cohort" })).await.expect(200);
    // The navigation is the same on all pages, whatever the permissions on them.
    let body = json!({ "config_definition": json!({ "roles": [{ "name": "fixer", "permissions": "action_update" }] }).to_string() });
    admin.post("/api/v2/service/config/import-config", body).await.expect(201);
    house.scope("sam", "fixer", &json!(["hushhush-cohort"])).await;
    let sam = Visitor::logged_in(house.url(), "sam", GOOD).await;
    sam.get("/experiments/3").await.shows(200, "href=\"/callback_executions\"");
    let page = sam.get("/callback_executions/5").await.shows(200, "href=\"/callback_executions\"");
    assert!(!page.text.contains("/intervene"), "{}", page.text);
    let page = sam.get("/callback_executions").await;
    assert!(!page.text.contains("href=\"/dead_letters\""), "{}", page.text);
}

/// A user who manages roles cannot gain power over others by giving them a role for a cohort, which removes their
/// permissions for the whole study as long as they have it.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_for_a_cohort_makes_nobody_easier_to_reach() {
    let house = two_cohorts(Backend::Sqlite).await;
    let admin = house.server.admin();
    // All permissions for cohorts, but fewer than `keeper` for the whole study.
    let manager = "action_update,sample_state_update,sample_add,sample_update,sample_delete,user_read,user_read_all,\
                   user_update_all,roles_manage";
    let roles = json!({ "roles": [{ "name": "manager", "permissions": manager }] });
    let body = json!({ "config_definition": roles.to_string() });
    admin.post("/api/v2/service/config/import-config", body).await.expect(201);
    house.add("dana", &["keeper", "user"]).await;
    house.add("mallory", &["manager"]).await;
    house.add("nina", &["user"]).await;
    let (mallory, api) = (Visitor::logged_in(house.url(), "mallory", GOOD).await, house.server.basic("mallory", GOOD));
    let cohorts = json!({ "cohorts": ["plain-cohort"] });
    let of_dana = "/api/v2/users/dana/roles/user/cohorts";
    let dana = admin.get("/api/v2/users").await.expect(200)["users"]
        .as_array()
        .unwrap()
        .iter()
        .find_map(|user| user["uri"].as_str().filter(|_| user["label"] == "dana" || user["username"] == "dana"))
        .map(|uri| uri.rsplit('/').next().unwrap().to_owned())
        .unwrap();
    api.put(of_dana, cohorts.clone()).await.expect(403);
    let form = [("role", "3"), ("cohort", "2")];
    mallory.post(&format!("/users/{dana}/role/cohorts"), &form).await.shows(403, "more permissions than");
    let page = mallory.get(&format!("/users/{dana}")).await.shows(200, "dana");
    assert!(!page.text.contains("/role/cohorts"), "{}", page.text);
    // Not even if another user gave it.
    admin.put(of_dana, cohorts.clone()).await.expect(200);
    api.put(&format!("/api/v2/users/{dana}"), json!({ "password": GOOD })).await.expect(403);
    api.put(of_dana, json!({ "cohorts": null })).await.expect(403);
    mallory.post(&format!("/users/{dana}/second_factor/end"), &[]).await.shows(403, "more permissions than");
    mallory.post(&format!("/users/{dana}/sessions/end"), &[]).await.shows(403, "more permissions than");
    // It is possible for users with fewer permissions.
    api.put("/api/v2/users/nina/roles/user/cohorts", cohorts).await.expect(200);
}

/// Two roles for cohorts that are removed at the same moment: one of them remains; otherwise the whole study would be
/// visible.
async fn of_two_roles_taken_at_once_one_stays(backend: Backend) {
    let house = two_cohorts(backend).await;
    house.add("rita", &["user"]).await;
    let (admin, api) = (house.server.admin(), house.server.basic("rita", GOOD));
    for round in 0..10 {
        for role in ["user", "superuser"] {
            house.scope("rita", role, &json!(["plain-cohort"])).await;
        }
        let take = async |role: &str| admin.delete(&format!("/api/v2/users/rita/roles/{role}")).await.status.as_u16();
        let (one, other) = tokio::join!(take("user"), take("superuser"));
        let mut came = [one, other];
        came.sort_unstable();
        assert_eq!(came, [200, 409], "round {round}");
        assert_eq!(api.get("/api/v2/cohorts").await.expect(200)["count"], 1, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_roles_taken_at_once_one_stays_on_postgres() {
    of_two_roles_taken_at_once_one_stays(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_roles_taken_at_once_one_stays_on_mariadb() {
    of_two_roles_taken_at_once_one_stays(Backend::Mariadb).await;
}

/// A repeated request with its `Idempotency-Key` gets a response that matches the current cohorts of its caller.
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_answer_is_for_the_cohorts_that_it_was_given_for() {
    let house = two_cohorts(Backend::Sqlite).await;
    house.add("rita", &["user"]).await;
    house.scope("rita", "keeper", &json!(["plain-cohort"])).await;
    let api = house.server.basic("rita", GOOD);
    let ask = async |key: &str, label: &str| {
        let request = api.request(Method::POST, "/api/v2/subjects").header("idempotency-key", key);
        api.send(request.json(&json!({ "label": label, "cohort_label": "hushhush-cohort" }))).await
    };
    ask("one", "a").await.expect(404);
    house.scope("rita", "keeper", &json!(["plain-cohort", "hushhush-cohort"])).await;
    ask("one", "a").await.expect(201);
    ask("two", "b").await.expect(201);
    let again = ask("two", "b").await.expect(201);
    assert_eq!(again["label"], "b");
    house.scope("rita", "keeper", &json!(["plain-cohort"])).await;
    let refused = ask("two", "b").await;
    assert!(refused.status == 422 && !refused.body.to_string().contains(HIDDEN), "{}", refused.body);
}

/// Every changing operation of the API is either tried on hidden resources, or unrelated to cohorts.
#[tokio::test(flavor = "multi_thread")]
async fn no_operation_is_left_out_of_what_is_tried() {
    /// About accounts, workflows and shared resources; creating a cohort requires the whole study.
    const NOT_OF_COHORTS: &[&str] = &[
        "POST /cohorts",
        "POST /users",
        "PUT /users/{id}",
        "DELETE /users/{id}",
        "PUT /users/{username}/roles/{role_name}",
        "DELETE /users/{username}/roles/{role_name}",
        "PUT /users/{username}/roles/{role_name}/cohorts",
        "POST /tokens",
        "DELETE /tokens/{id}",
        "PUT /callbacks/{id}",
        "POST /service/check_timeouts",
        "POST /service/config/import-config",
        "PUT /service/config/import-config",
        "POST /service/config/import-workflow",
    ];
    /// Tested in other ways: with lists. Also operations that require the secret of an attempt and no login.
    const ELSEWHERE: &[&str] = &[
        "POST /import",
        "POST /experiments/bulk/transition",
        "POST /callback_executions/{id}/claim",
        "POST /callback_executions/{id}/heartbeat",
        "POST /callback_executions/{id}/report",
        "POST /callback_executions/{id}/release",
    ];
    let house = House::new(Backend::Sqlite, &[]).await;
    let document = house.server.nobody().get("/api/v2/swagger.json").await.expect(200);
    let tried: Vec<String> = changes_of_hidden_things()
        .iter()
        .map(|(method, path, _)| format!("{method} /{}", path.split('?').next().unwrap()))
        .collect();
    let mut left = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys().filter(|method| *method != "get") {
            let operation = format!("{} {path}", method.to_uppercase());
            // `{id}` is a number, `{system}` a name.
            let fits = |tried: &String| {
                let (one, other) = (tried.split('/'), operation.split('/'));
                one.clone().count() == other.clone().count()
                    && one.zip(other).all(|(one, other)| one == other || other.starts_with('{'))
            };
            let known = NOT_OF_COHORTS.iter().chain(ELSEWHERE).any(|known| *known == operation);
            if !known && !tried.iter().any(fits) {
                left.push(operation);
            }
        }
    }
    assert!(left.is_empty(), "{left:#?}");
}
