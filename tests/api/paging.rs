//! Reads sorted lists page by page while experiments move, are created and are archived: no row is lost, and none is
//! returned twice (E13).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use reqwest::Method;
use sea_orm::{ActiveModelTrait, Set};
use serde_json::{Value, json};
use studygovernor::entity::user;

use super::moment::Visitor;
use super::{Caller, Server};
use crate::support::{Backend, Login, Study, moment};

const WORKFLOW: &str = "
label: w
states:
  - label: a
    transitions: [{destination: b}]
  - label: b
    transitions: [{destination: c}]
  - label: c
    transitions: [{destination: b}]
";

const ORDERS: [&str; 8] = ["id", "-id", "label", "-label", "scandate", "-scandate", "state_since", "-state_since"];

/// 60 experiments in `b`, with three scan dates, and labels that differ only in case; ids start at 1.
async fn study(backend: Backend) -> Server {
    // Without a limit of transitions.
    let server = Server::with(backend, &[("STUDYGOV_TRANSITIONS_PER_MINUTE", "0")]).await;
    let admin = server.admin();
    let body = json!({ "workflow_definition": WORKFLOW });
    admin.post("/api/v2/service/config/import-workflow", body).await.expect(201);
    for subject in ["s", "S"] {
        let session = |number: usize| {
            let label = if number.is_multiple_of(2) { format!("e{number:02}") } else { format!("E{:02}", number - 1) };
            json!({ "label": format!("{subject}{label}"), "scandate": format!("2024-01-0{}", number % 3 + 1) })
        };
        let sessions: Vec<Value> = (0..30).map(session).collect();
        let import = json!([{ "cohort": format!("cohort-{}", u8::from(subject == "s")), "label": subject, "experiments": sessions }]);
        let taken = admin.post("/api/v2/import", import).await.expect(200);
        assert_eq!((&taken["experiments"], &taken["errors"]), (&json!(30), &json!(0)), "{taken}");
    }
    server
}

/// The URL of the link with this relation.
fn link(headers: &reqwest::header::HeaderMap, relation: &str) -> Option<String> {
    let links = headers.get_all("link").iter().map(|link| link.to_str().unwrap());
    let wanted = format!("rel=\"{relation}\"");
    let link = links.into_iter().find(|link| link.ends_with(&wanted))?;
    Some(link[1..link.find('>').unwrap()].to_owned())
}

/// The number of times each id was returned, from the first page to the last.
async fn walk(caller: &Caller, first: &str) -> BTreeMap<i64, usize> {
    let mut seen = BTreeMap::new();
    let mut path = Some(first.to_owned());
    while let Some(address) = path {
        let answer = caller.get(&address).await;
        path = link(&answer.headers, "next");
        let list = answer.expect(200);
        let rows = list["experiments"].as_array().unwrap();
        assert!(list["count"].as_u64().unwrap() >= rows.len() as u64, "{address}: {list}");
        for row in rows {
            // v1 lists URIs.
            let id = row["id"].as_i64().or_else(|| row.as_str()?.rsplit('/').next()?.parse().ok()).unwrap();
            *seen.entry(id).or_default() += 1;
        }
    }
    seen
}

/// Moves experiments back and forth in no particular order, until `is_over`.
async fn move_to_and_fro(caller: &Caller, salt: i64, is_over: &AtomicBool) -> usize {
    let mut moves = 0;
    let mut number = salt;
    while !is_over.load(Ordering::Relaxed) {
        number = (number * 17 + 11) % 50;
        let path = format!("/api/v2/experiments/{}/state", number + 1);
        let moved = caller.put(&path, json!({ "state": "c" })).await;
        if moved.status != 200 {
            caller.put(&path, json!({ "state": "b" })).await;
        }
        moves += 1;
    }
    moves
}

/// Creates experiments at both ends and archives the last ten of the first sixty, one by one.
async fn come_and_go(caller: &Caller, is_over: &AtomicBool) {
    let mut number = 0;
    while !is_over.load(Ordering::Relaxed) {
        let sessions = json!([{ "label": format!("0{number}"), "scandate": "2020-01-01" },
            { "label": format!("z{number}"), "scandate": "2030-01-01" }]);
        let import = json!([{ "cohort": "cohort-0", "label": "S", "experiments": sessions }]);
        caller.post("/api/v2/import", import).await.expect(200);
        if number < 10 {
            caller.delete(&format!("/api/v2/experiments/{}?reason=gone", 51 + number)).await.expect(200);
        }
        number += 1;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

async fn nothing_is_lost_or_doubled(backend: Backend) {
    let server = study(backend).await;
    let is_over = AtomicBool::new(false);
    let (one, two, three, reader) = (server.admin(), server.admin(), server.admin(), server.admin());
    let read = async {
        let mut problems = Vec::new();
        for (round, order) in ORDERS.iter().chain(&["state_since", "-state_since"]).enumerate() {
            let version = 1 + round % 2;
            let filter = ["", "&label=e", "&workflow=w"][round % 3];
            let seen = walk(&reader, &format!("/api/v{version}/experiments?limit=7&order={order}{filter}")).await;
            let lost: Vec<i64> = (1..=50).filter(|id| !seen.contains_key(id)).collect();
            let twice: Vec<i64> = seen.iter().filter(|(_, times)| **times > 1).map(|(id, _)| *id).collect();
            if !lost.is_empty() || !twice.is_empty() {
                problems.push(format!("v{version} {order}{filter}: lost {lost:?}, twice {twice:?}"));
            }
        }
        is_over.store(true, Ordering::Relaxed);
        problems
    };
    let moves = (move_to_and_fro(&one, 3, &is_over), move_to_and_fro(&two, 40, &is_over));
    let (problems, first, second, ()) = tokio::join!(read, moves.0, moves.1, come_and_go(&three, &is_over));
    assert_eq!(problems, Vec::<String>::new(), "{backend:?}");
    assert!(first + second > 20, "{backend:?}: they moved {first} and {second} times only");
}

#[tokio::test(flavor = "multi_thread")]
async fn e13_nothing_is_lost_or_doubled_in_a_walk_sqlite() {
    nothing_is_lost_or_doubled(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e13_nothing_is_lost_or_doubled_in_a_walk_postgres() {
    nothing_is_lost_or_doubled(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e13_nothing_is_lost_or_doubled_in_a_walk_mariadb() {
    nothing_is_lost_or_doubled(Backend::Mariadb).await;
}

/// The rows are returned in order, with ties broken by id; the order by time is that of the first page.
#[tokio::test(flavor = "multi_thread")]
async fn e13_a_walk_keeps_its_order() {
    for backend in [Backend::Sqlite, Backend::Postgres, Backend::Mariadb] {
        let server = study(backend).await;
        let admin = server.admin();
        for order in ORDERS {
            let whole = admin.get(&format!("/api/v2/experiments?order={order}")).await.expect(200);
            let whole: Vec<i64> =
                whole["experiments"].as_array().unwrap().iter().map(|row| row["id"].as_i64().unwrap()).collect();
            let (mut path, mut walked) =
                (Some(format!("/api/v2/experiments?limit=8&offset=3&order={order}")), Vec::new());
            while let Some(address) = path {
                // The first and the last rows move: none is returned again, and none is lost.
                for id in [whole[4], whole[55]] {
                    let state = format!("/api/v2/experiments/{id}/state");
                    if admin.put(&state, json!({ "state": "c" })).await.status != 200 {
                        admin.put(&state, json!({ "state": "b" })).await.expect(200);
                    }
                }
                let answer = admin.get(&address).await;
                // The first page is read after the first move, so moved rows are at their new place.
                path = link(&answer.headers, "next");
                assert!(path.as_ref().is_none_or(|path| !path.contains("offset=")), "{path:?}");
                let rows = answer.expect(200)["experiments"].clone();
                walked.extend(rows.as_array().unwrap().iter().map(|row| row["id"].as_i64().unwrap()));
            }
            if !order.ends_with("state_since") {
                assert_eq!(walked, whole[3..], "{backend:?} {order}");
            }
            walked.sort_unstable();
            walked.dedup();
            assert_eq!(walked.len(), 57, "{backend:?} {order}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e13_a_cursor_that_is_none_is_refused_by_its_name() {
    let server = study(Backend::Sqlite).await;
    let admin = server.admin();
    let first = admin.get("/api/v2/experiments?limit=5&order=-scandate").await;
    let next = link(&first.headers, "next").unwrap();
    let cursor = next.rsplit_once("cursor=").unwrap().1.to_owned();
    admin.get(&next).await.expect(200);
    for query in [
        "order=-scandate&cursor=nonsense".to_owned(),
        "order=-scandate&cursor=%00".to_owned(),
        format!("order=-scandate&cursor={}", &cursor[..cursor.len() - 1]),
        format!("order=-scandate&cursor=A{cursor}"),
        format!("order=scandate&cursor={cursor}"),
        format!("order=state_since&cursor={cursor}"),
        format!("cursor={cursor}"),
        format!("order=-scandate&offset=1&cursor={cursor}"),
        format!("order=-scandate&after=1&cursor={cursor}"),
    ] {
        for version in ["v1", "v2"] {
            let answer = admin.get(&format!("/api/{version}/experiments?limit=5&{query}")).await.expect(400);
            assert!(answer.to_string().contains("cursor"), "{query}: {answer}");
        }
    }
}

/// The names on the pages of the account list, following the links between them.
async fn account_pages(server: &Server, relation: &str, first: &str, between: impl AsyncFn()) -> Vec<Vec<String>> {
    let visitor = Visitor::new(&server.program).await;
    let (mut pages, mut path) = (Vec::new(), Some(first.to_owned()));
    while let Some(address) = path {
        let html = visitor.get(&address).await;
        let rows = html.split("class=\"fw-semibold\" href=\"").skip(1);
        pages.push(rows.map(|row| row.split(['>', '<']).nth(1).unwrap().to_owned()).collect());
        let begin = format!("rel=\"{relation}\" href=\"");
        let link = html.split_once(&begin).map(|(_, rest)| rest.split('"').next().unwrap());
        path = link.map(|link| link.replace("&amp;", "&"));
        between().await;
    }
    pages
}

#[tokio::test(flavor = "multi_thread")]
async fn e13_no_account_is_lost_or_doubled_in_the_list() {
    for backend in [Backend::Sqlite, Backend::Postgres, Backend::Mariadb] {
        let server = Server::empty(backend).await;
        let engine = Study::of(&server.database).await;
        let database = engine.database();
        let add = async |name: String, waits: bool| {
            let made = moment("2026-01-01T00:00:00");
            let row = user::ActiveModel {
                username: Set(name.clone()),
                name: Set(name.clone()),
                email: Set(format!("{name}@example.com")),
                password: Set(String::new()),
                active: Set(!waits),
                fs_uniquifier: Set(name.clone()),
                login_count: Set(0),
                weak_password: Set(false),
                last_code_step: Set(0),
                confirmed_at: Set(Some(made)),
                create_time: Set(made),
                ..Default::default()
            };
            row.insert(database.reader()).await.unwrap();
        };
        for number in 0..120 {
            let name = if number % 2 == 0 { format!("name {number:03}") } else { format!("Name.{number:03}") };
            add(name, number % 10 == 0).await;
        }
        let added = AtomicUsize::new(0);
        // New accounts are inserted at the front of both groups, and one at the end.
        let pages = account_pages(&server, "next", "/users?q=name", async || {
            let number = added.fetch_add(1, Ordering::Relaxed);
            add(format!("a name {number}"), number.is_multiple_of(2)).await;
            add(format!("z name {number}"), false).await;
        });
        let pages = pages.await;
        let old = |pages: &[Vec<String>]| {
            let names = pages.iter().flatten().filter(|name| name.to_lowercase().starts_with("name")).cloned();
            names.collect::<Vec<_>>()
        };
        let names = old(&pages);
        let mut once = names.clone();
        once.sort();
        once.dedup();
        assert_eq!((names.len(), once.len()), (120, 120), "{backend:?}: {names:?}");
        assert!(names[..2] == ["name 000", "name 010"] && names[11] == "name 110", "{backend:?}: {names:?}");

        let last = format!("/users?q=name&before=0.{}.zzzz", i32::MAX);
        let mut back = account_pages(&server, "prev", &last, async || {}).await;
        back.reverse();
        assert_eq!(old(&back), names, "{backend:?}");
        let visitor = Caller::at(&server.program.url, Login::Nobody);
        let wrong = visitor
            .request(Method::GET, "/users?after=nonsense")
            .header("cookie", Visitor::new(&server.program).await.cookie);
        assert_eq!(visitor.send(wrong).await.status, 400);
    }
}
