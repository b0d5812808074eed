//! Lists: their items, order, limits and paging.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Server, WORKFLOW};
use crate::support::Backend;

fn labels(list: &Value, field: &str) -> Vec<String> {
    list[field].as_array().unwrap().iter().map(|one| one["label"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn experiments_are_filtered_ordered_and_counted() {
    for backend in [Backend::Sqlite, Backend::Postgres, Backend::Mariadb] {
        let server = Server::study(backend).await;
        let admin = server.admin();
        let second = WORKFLOW.replace("imaging_qc_2024", "other");
        admin
            .post("/api/v2/service/config/import-workflow", json!({ "workflow_definition": second }))
            .await
            .expect(201);
        admin.post("/api/v2/cohorts", json!({ "label": "followup" })).await.expect(201);
        admin.post("/api/v2/subjects", json!({ "label": "sub-01", "cohort_label": "followup" })).await.expect(201);
        let import = json!([
            { "cohort": "baseline", "label": "sub-01", "experiments": [
                { "label": "A_1", "scandate": "2024-01-01", "workflow": "imaging_qc_2024", "variables": { "age": 31, "hand": "left", "ok": true } },
                { "label": "b%2", "scandate": "2024-02-01", "workflow": "imaging_qc_2024", "variables": { "age": 64.5, "hand": "right" } } ] },
            { "cohort": "followup", "label": "sub-01", "experiments": [
                { "label": "c_3", "scandate": "2024-03-01", "workflow": "other", "variables": { "hand": "left" } } ] },
        ]);
        let taken = admin.post("/api/v2/import", import).await.expect(200);
        assert_eq!((&taken["experiments"], &taken["errors"]), (&json!(3), &json!(0)), "{taken}");
        admin
            .put("/api/v2/callback_executions/1", json!({ "status": "finished", "result": "failed" }))
            .await
            .expect(200);
        admin.put("/api/v2/callback_executions/2", json!({ "status": "skipped" })).await.expect(200);
        for (query, wanted) in [
            ("", vec!["A_1", "b%2", "c_3"]),
            ("cohort=baseline", vec!["A_1", "b%2"]),
            ("cohort=2", vec!["c_3"]),
            ("workflow=other", vec!["c_3"]),
            ("workflow=/api/v2/workflows/1", vec!["A_1", "b%2"]),
            ("subject=1", vec!["A_1", "b%2"]),
            ("subject_id=3", vec!["c_3"]),
            ("state=check", vec!["b%2", "c_3"]),
            ("state=check&workflow=imaging_qc_2024", vec!["b%2"]),
            ("state=6", vec!["A_1"]),
            ("label=_", vec!["A_1", "c_3"]),
            ("label=a_", vec!["A_1"]),
            ("label=%25", vec!["b%2"]),
            ("scandate_from=2024-01-15&scandate_to=2024-02-01", vec!["b%2"]),
            ("scandate=2024-03-01T00:00:00", vec!["c_3"]),
            ("state_since_from=2020-01-01&state_since_to=2020-12-31", vec![]),
            ("state_since_from=2020-01-01", vec!["A_1", "b%2", "c_3"]),
            ("variable.hand=left", vec!["A_1", "c_3"]),
            ("variable.hand=left&variable.age=31", vec!["A_1"]),
            ("variable.age=64.50", vec!["b%2"]),
            ("variable.ok=true", vec!["A_1"]),
            ("variable.nothing=1", vec![]),
            ("order=-scandate", vec!["c_3", "b%2", "A_1"]),
            ("order=label&limit=1&offset=1", vec!["b%2"]),
            ("order=-id&limit=2", vec!["c_3", "b%2"]),
            ("after=1&limit=1", vec!["b%2"]),
        ] {
            for version in ["v1", "v2"] {
                let list = server.bob().get(&format!("/api/{version}/experiments?{query}")).await.expect(200);
                let rows = list["experiments"].as_array().unwrap().len();
                assert_eq!(rows, wanted.len(), "{backend:?} {version} {query}: {list}");
                if version == "v2" {
                    assert_eq!(labels(&list, "experiments"), wanted, "{backend:?} {query}");
                }
                if !query.contains("limit") {
                    assert_eq!(list["count"], wanted.len(), "{query}");
                }
            }
        }
        assert_eq!(server.bob().get("/api/v2/experiments?order=label&limit=1").await.expect(200)["count"], 3);
        server.bob().get("/api/v2/experiments?cohort=nowhere").await.expect(404);
    }
}

/// Follows the links of a list from its first page to its last.

#[tokio::test(flavor = "multi_thread")]
async fn lists_link_to_their_neighbours() {
    let server = Server::study(Backend::Postgres).await;
    let subjects: Vec<Value> =
        (0..25).map(|number| json!({ "cohort": "baseline", "label": format!("many-{number:02}") })).collect();
    server.admin().post("/api/v2/import", json!(subjects)).await.expect(200);
    let bob = server.bob();
    for first in ["/api/v2/subjects?limit=10&label=many", "/api/v1/subjects?limit=10"] {
        let (mut path, mut seen, mut pages) = (first.to_owned(), 0, 0);
        loop {
            let answer = bob.get(&path).await;
            let links: Vec<String> =
                answer.headers.get_all("link").iter().map(|link| link.to_str().unwrap().to_owned()).collect();
            let list = answer.expect(200);
            seen += list["subjects"].as_array().unwrap().len();
            pages += 1;
            assert_eq!(list["count"], if first.contains("many") { 25 } else { 27 });
            let next = links.iter().find(|link| link.ends_with("rel=\"next\""));
            let Some(next) = next else { break };
            assert!(next.contains("after="), "a page costs what the first one does: {next}");
            path = next[1..next.find('>').unwrap()].to_owned();
        }
        assert_eq!((seen, pages), if first.contains("many") { (25, 3) } else { (27, 3) });
    }
    let answer = bob.get("/api/v2/experiments?order=label&limit=5&offset=5").await;
    let links: Vec<&str> = answer.headers.get_all("link").iter().map(|link| link.to_str().unwrap()).collect();
    assert!(links.iter().any(|link| link.contains("offset=0") && link.ends_with("rel=\"prev\"")), "{links:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_are_right_after_every_change() {
    let server = Server::study(Backend::Postgres).await;
    let bob = server.bob();
    for number in 1..=10 {
        server.experiment(&format!("e{number}")).await;
        assert_eq!(bob.get("/api/v2/experiments?limit=1").await.expect(200)["count"], number);
        assert_eq!(bob.get("/api/v2/experiments?limit=1&state=check").await.expect(200)["count"], number);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_gets_the_fields_that_it_wants() {
    let server = Server::study(Backend::Sqlite).await;
    let bob = server.bob();
    let get = async |mask: &str, path: &str| bob.send(bob.request(Method::GET, path).header("x-fields", mask)).await;
    assert_eq!(
        get("{label,cohort{uri}}", "/api/v2/subjects/1").await.expect(200),
        json!({
            "label": "sub-01", "cohort": { "uri": "/api/v2/cohorts/1" }
        })
    );
    assert_eq!(
        get("subjects{id}", "/api/v2/subjects").await.expect(200),
        json!({ "subjects": [{ "id": 1 }, { "id": 2 }] })
    );
    get("{label", "/api/v2/subjects/1").await.expect(400);
    get("{label}", "/api/v2/subjects/99").await.expect(404);
}
