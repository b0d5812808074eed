//! The filter language in the parameter `q` (docs/reference/filters.md), on the three databases.

use serde_json::json;

use super::moment::Visitor;
use super::{Server, WORKFLOW};
use crate::support::Backend;

/// Three experiments: `A_1` moved to `failed` after a failed run, `b%2` and `c_3` are in `check` with queued runs.
async fn study(backend: Backend) -> Server {
    let server = Server::study(backend).await;
    let admin = server.admin();
    let second = json!({ "workflow_definition": WORKFLOW.replace("imaging_qc_2024", "other") });
    admin.post("/api/v2/service/config/import-workflow", second).await.expect(201);
    admin.post("/api/v2/cohorts", json!({ "label": "follow up" })).await.expect(201);
    let import = json!([
        { "cohort": "baseline", "label": "S 01", "experiments": [
            { "label": "A_1", "scandate": "2024-01-01", "workflow": "imaging_qc_2024",
              "variables": { "age": 31, "hand": "left", "ok": true, "read": "2024-05-31" } },
            { "label": "b%2", "scandate": "2024-02-01T10:30:00", "workflow": "imaging_qc_2024",
              "variables": { "age": 64.5, "hand": "right", "read": "2024-06-01T08:00:00" } } ] },
        { "cohort": "follow up", "label": "sub-01", "experiments": [
            { "label": "c_3", "scandate": "2024-03-01", "workflow": "other", "variables": { "hand": "left", "age": "old" } } ] },
    ]);
    let taken = admin.post("/api/v2/import", import).await.expect(200);
    assert_eq!((&taken["experiments"], &taken["errors"]), (&json!(3), &json!(0)), "{taken}");
    let id = json!({ "external_id": "X:1" });
    assert!(admin.put("/api/v2/experiments/1/external_ids/XNAT", id).await.status.is_success());
    let scan = json!({ "experiment_id": 2, "scantype_protocol": "T1w" });
    admin.post("/api/v2/scans", scan).await.expect(201);
    let failed = json!({ "status": "finished", "result": "failed", "result_log": "It DID not converge." });
    admin.put("/api/v2/callback_executions/1", failed).await.expect(200);
    admin.put("/api/v2/callback_executions/2", json!({ "status": "skipped" })).await.expect(200);
    server
}

const FOUND: &[(&str, &[&str])] = &[
    ("", &["A_1", "b%2", "c_3"]),
    ("state:check", &["b%2", "c_3"]),
    ("state:check,failed workflow:imaging_qc_2024", &["A_1", "b%2"]),
    ("-state:check", &["A_1"]),
    ("cohort:\"follow up\"", &["c_3"]),
    ("-cohort:\"follow up\"", &["A_1", "b%2"]),
    ("subject:\"S 01\" -label:A_1", &["b%2"]),
    ("a_", &["A_1"]),
    ("-\"a_\" \"s 01\"", &["b%2"]),
    ("%", &["b%2"]),
    ("var.hand:left", &["A_1", "c_3"]),
    ("-var.hand:left", &["b%2"]),
    ("var.age:>31", &["b%2"]),
    ("var.age:>=31", &["A_1", "b%2"]),
    ("var.age:30..64.5", &["A_1", "b%2"]),
    ("var.age:..64", &["A_1"]),
    ("var.age:64.50", &["b%2"]),
    ("var.age:old", &["c_3"]),
    ("var.ok:true", &["A_1"]),
    ("var.read:2024-05..2024-06", &["A_1", "b%2"]),
    ("var.read:<2024-06", &["A_1"]),
    ("var.read:>2024-05-31", &["b%2"]),
    ("var.read:>=2024-06-01T09:00", &[]),
    ("var.nothing:1", &[]),
    ("id.XNAT:X:1", &["A_1"]),
    ("has:id.XNAT", &["A_1"]),
    ("no:id", &["b%2", "c_3"]),
    ("has:scan", &["b%2"]),
    ("no:scan has:error", &["A_1"]),
    ("no:error,scan", &["c_3"]),
    ("has:var.ok", &["A_1"]),
    ("no:var", &[]),
    ("error:\"did not\"", &["A_1"]),
    ("error:\"did converge\"", &[]),
    ("is:running", &["b%2", "c_3"]),
    ("-is:running", &["A_1"]),
    ("is:waiting,overdue", &[]),
    ("is:problem", &[]),
    ("is:final", &[]),
    ("-is:held", &["A_1", "b%2", "c_3"]),
    ("is:archived", &[]),
    ("kind:callbacks", &["b%2", "c_3"]),
    ("kind:person", &["A_1"]),
    ("instate:<1h", &["A_1", "b%2", "c_3"]),
    ("instate:>1h", &[]),
    ("age:>1y", &["A_1", "b%2", "c_3"]),
    ("age:..1w", &[]),
    ("scandate:2024-02", &["b%2"]),
    ("scandate:2024-01-01..2024-02-01", &["A_1", "b%2"]),
    ("scandate:>2024-01 scandate:<2024-03-01", &["b%2"]),
    ("scandate:2024-02-01T10:30,2024-03-01", &["b%2", "c_3"]),
    ("sort:-scandate", &["c_3", "b%2", "A_1"]),
    ("sort:-label state:check", &["c_3", "b%2"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_finds_the_same_on_three_databases() {
    for backend in [Backend::Sqlite, Backend::Postgres, Backend::Mariadb] {
        let server = study(backend).await;
        let bob = server.bob();
        for (q, wanted) in FOUND {
            for version in ["v1", "v2"] {
                let path = format!("/api/{version}/experiments?{}", query(&[("q", q)]));
                let list = bob.get(&path).await.expect(200);
                let rows = list["experiments"].as_array().unwrap();
                assert_eq!(list["count"], wanted.len(), "{backend:?} {version} {q}: {list}");
                if version == "v2" {
                    let labels: Vec<&str> = rows.iter().map(|row| row["label"].as_str().unwrap()).collect();
                    assert_eq!(labels, *wanted, "{backend:?} {q}");
                }
            }
        }
        // Combined with the other parameters.
        let path = format!("/api/v2/experiments?cohort=baseline&{}", query(&[("q", "state:check")]));
        assert_eq!(bob.get(&path).await.expect(200)["count"], 1);
        // An archived experiment is only in the list of archived ones.
        server.admin().delete("/api/v2/experiments/2?reason=wrong").await.expect(200);
        for (q, count) in [("is:archived", 1), ("is:archived state:check", 1), ("state:check", 1)] {
            let path = format!("/api/v2/experiments?{}", query(&[("q", q)]));
            assert_eq!(bob.get(&path).await.expect(200)["count"], count, "{backend:?} {q}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e13_pages_of_a_sorted_filter_lose_nothing() {
    let server = study(Backend::Postgres).await;
    let many: Vec<_> = (0..25)
        .map(|number| {
            json!({ "cohort": "baseline", "label": "many", "experiments": [
            { "label": format!("m-{number:02}"), "scandate": "2024-04-01", "workflow": "other" } ] })
        })
        .collect();
    server.admin().post("/api/v2/import", json!(many)).await.expect(200);
    let mut path = format!("/api/v2/experiments?limit=10&{}", query(&[("q", "m- sort:-instate")]));
    let mut seen = Vec::new();
    loop {
        let answer = server.bob().get(&path).await;
        let links: Vec<String> =
            answer.headers.get_all("link").iter().map(|link| link.to_str().unwrap().to_owned()).collect();
        let list = answer.expect(200);
        seen.extend(
            list["experiments"].as_array().unwrap().iter().map(|row| row["label"].as_str().unwrap().to_owned()),
        );
        let Some(next) = links.iter().find(|link| link.ends_with("rel=\"next\"")) else { break };
        path = next[1..next.find('>').unwrap()].to_owned();
    }
    seen.sort();
    assert_eq!(seen, (0..25).map(|number| format!("m-{number:02}")).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_answered_with_their_place() {
    let server = study(Backend::Sqlite).await;
    for (q, part) in [
        ("stat:check", "at character 1: 'stat' is not a key; the nearest are 'state'"),
        ("state:chek", "at character 7: there is no state 'chek'; the nearest are 'check'"),
        ("x cohort:base", "at character 10: there is no cohort 'base'; the nearest are 'baseline'"),
        ("id.XNA:1", "there is no external system 'XNA'"),
        ("subject:\"S 01", "at character 9: this quote is not closed"),
        ("is:lost instate:>3", "'lost' is not a value of 'is'"),
    ] {
        for version in ["v1", "v2"] {
            let path = format!("/api/{version}/experiments?{}", query(&[("q", q)]));
            let answer = server.bob().get(&path).await.expect(400);
            assert!(answer.to_string().contains(part), "{version} {q}: {answer}");
        }
    }
    let path = format!("/api/v2/experiments?order=label&{}", query(&[("q", "sort:label")]));
    assert!(server.bob().get(&path).await.expect(400).to_string().contains("sort:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_filters_sorts_and_turns() {
    let server = study(Backend::Postgres).await;
    let many: Vec<_> = (0..120)
        .map(|number| {
            json!({ "cohort": "baseline", "label": "many", "experiments": [
            { "label": format!("m-{number:03}"), "scandate": "2024-04-01", "workflow": "other" } ] })
        })
        .collect();
    server.admin().post("/api/v2/import", json!(many)).await.expect(200);
    let visitor = Visitor::new(&server.program).await;
    for sort in ["", " sort:label", " sort:-instate", " sort:scandate"] {
        let first = format!("/experiments?{}", query(&[("q", &format!("m- -cohort:\"follow up\"{sort}"))]));
        let (mut pages, mut path) = (Vec::new(), first.clone());
        loop {
            let page = visitor.get(&path).await;
            assert!(page.contains(">120 experiments<"), "{page}");
            pages.push(labels(&page));
            let Some(next) = link(&page, "next") else { break };
            path = next;
        }
        let mut all: Vec<String> = pages.concat();
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [50, 50, 20], "{sort}");
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 120, "{sort}");
        // Back to the first page, through the same pages.
        let mut back = vec![labels(&visitor.get(&path).await)];
        while let Some(previous) = link(&visitor.get(&path).await, "prev") {
            path = previous;
            back.insert(0, labels(&visitor.get(&path).await));
        }
        assert_eq!(back, pages, "{sort}");
    }
    // The header of a column sorts by it, and in reverse order when it is used again.
    let page = visitor.get("/experiments?q=m-&cohort=1").await;
    assert!(page.contains("sort%3Alabel"), "{page}");
    let page = visitor.get("/experiments?q=m-+sort:label").await;
    assert!(page.contains("aria-sort=\"ascending\"") && page.contains("sort%3A-label"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_a_mistake_beside_the_filter() {
    let server = study(Backend::Sqlite).await;
    let visitor = Visitor::new(&server.program).await;
    let (status, page) = visitor.look("/experiments?q=stat:check").await;
    assert_eq!(status, 422);
    assert!(page.contains("role=\"alert\"") && page.contains("the nearest are"), "{page}");
    assert!(page.contains("value=\"stat:check\"") && page.contains("aria-invalid=\"true\""), "the text stays: {page}");
}

/// Labels of the experiments on a page.
fn labels(page: &str) -> Vec<String> {
    let rows = page.split("<a class=\"fw-semibold\" href=\"/experiments/").skip(1);
    rows.map(|row| row.split_once('>').unwrap().1.split('<').next().unwrap().to_owned()).collect()
}

fn link(page: &str, rel: &str) -> Option<String> {
    let (_, behind) = page.split_once(&format!("rel=\"{rel}\" href=\""))?;
    Some(behind.split('"').next().unwrap().replace("&amp;", "&").replace("&#x2f;", "/"))
}

fn query(pairs: &[(&str, &str)]) -> String {
    let mut url = reqwest::Url::parse("http://localhost/").unwrap();
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap().to_owned()
}
