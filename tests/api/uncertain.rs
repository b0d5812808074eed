//! E15: a request with an `Idempotency-Key` whose database connection ends during the commit is executed once, whatever
//! the outcome of that commit.

use reqwest::Method;
use sea_orm::ConnectionTrait;
use serde_json::json;

use super::{Caller, Server};
use crate::support::{Answer, Backend, Proxy, Study, eventually};

/// Adds a scan with this protocol to experiment 1, which may have several equal scans, so that a second execution is
/// visible. The protocol also serves as the key.
async fn add_scan(caller: &Caller, protocol: &str) -> Answer {
    let body = json!({ "experiment_id": 1, "scantype_protocol": protocol });
    let request = caller.request(Method::POST, "/api/v2/scans").header("idempotency-key", protocol);
    caller.send(request.json(&body)).await
}

/// Repeats the request until the response is not "in progress".
async fn repeat(caller: &Caller, protocol: &str) -> Answer {
    eventually("the key to be free or answered", async || {
        let answer = add_scan(caller, protocol).await;
        let is_open =
            answer.status == 503 || answer.body["message"].as_str().unwrap_or_default().contains("in progress");
        (!is_open).then_some(answer)
    })
    .await
}

/// The number of scans with each of the protocols.
async fn scans(caller: &Caller, protocols: &[&str]) -> Vec<usize> {
    let all = caller.get("/api/v2/scans?limit=1000").await.expect(200);
    let all: Vec<String> = all["scans"].as_array().unwrap().iter().map(ToString::to_string).collect();
    let of = |protocol: &&str| all.iter().filter(|scan| scan.contains(&format!("\"{protocol}\""))).count();
    protocols.iter().map(of).collect()
}

/// Sends a request whose database connection is cut at the commit; the request is still in progress when this returns.
async fn cut(server: &Server, proxy: &Proxy, protocol: &'static str, reaches: bool) -> Sent {
    let admin = server.admin();
    let definition = format!("scantypes: [{{modality: MR, protocol: {protocol}}}]");
    let body = json!({ "config_definition": definition });
    admin.post("/api/v2/service/config/import-config", body).await.expect(201);
    proxy.cut_at_commit(protocol, reaches);
    let sent = tokio::spawn(async move { add_scan(&admin, protocol).await });
    eventually("the commit", async || proxy.is_cut().then_some(())).await;
    sent
}

type Sent = tokio::task::JoinHandle<Answer>;

fn is_replayed(answer: &Answer) -> bool {
    answer.header("idempotency-replayed") == "true"
}

async fn a_key_is_used_once_whatever_the_commit_did(backend: Backend) {
    // The outcome of a commit is looked up for four times this limit.
    let limit = [("STUDYGOV_DATABASE_LOCK_SECONDS", "1")];
    let (server, proxy) = Server::behind_proxy(backend, &limit).await;
    let admin = server.admin();
    server.experiment("e").await;

    // The database returns soon: the caller gets the response, or may repeat the request.
    let sent = cut(&server, &proxy, "soon-done", true).await;
    proxy.mend();
    let first = sent.await.unwrap().expect(201);
    let again = repeat(&admin, "soon-done").await;
    assert!(is_replayed(&again));
    assert_eq!(again.expect(201), first);
    let sent = cut(&server, &proxy, "soon-undone", false).await;
    proxy.mend();
    let first = sent.await.unwrap();
    if first.status != 201 {
        assert_eq!((first.status.as_u16(), first.header("retry-after")), (503, "5"), "{}", first.body);
        assert!(first.body["message"].as_str().unwrap().contains("nothing was changed"), "{}", first.body);
        repeat(&admin, "soon-undone").await.expect(201);
    }

    // The database is unavailable for longer than the caller waits.
    let sent = cut(&server, &proxy, "later-done", true).await;
    let first = sent.await.unwrap().expect(503);
    assert!(first["message"].as_str().unwrap().contains("whether it was saved"), "{first}");
    proxy.mend();
    let again = repeat(&admin, "later-done").await;
    assert!(is_replayed(&again));
    let told = again.expect(409);
    assert!(told["message"].as_str().unwrap().contains("its answer was lost"), "{told}");
    let sent = cut(&server, &proxy, "later-undone", false).await;
    sent.await.unwrap().expect(503);
    proxy.mend();
    repeat(&admin, "later-undone").await.expect(201);

    // The server is killed meanwhile. After some minutes the key no longer counts as in progress.
    let sent = cut(&server, &proxy, "killed-done", true).await;
    let Server { program, home, database } = server;
    program.kill();
    sent.abort();
    proxy.mend();
    let server = Server { program: super::serve(home.path(), &proxy.address(&database), &limit), home, database };
    let sent = cut(&server, &proxy, "killed-undone", false).await;
    server.program.kill();
    sent.abort();
    let program = super::serve(server.home.path(), &server.database, &limit);
    let server = Server { program, home: server.home, database: server.database };
    let admin = server.admin();
    for protocol in ["killed-done", "killed-undone"] {
        let early = add_scan(&admin, protocol).await.expect(409);
        assert!(early["message"].as_str().unwrap().contains("in progress"), "{early}");
    }
    let study = Study::of(&server.database).await;
    let hour = studygovernor::clock::Clock::System.now() - chrono::TimeDelta::hours(1);
    let created = hour.format("%Y-%m-%d %H:%M:%S");
    let earlier = format!("UPDATE idempotency_key SET created = '{created}' WHERE status IS NULL");
    study.database().writer().execute_unprepared(&earlier).await.unwrap();
    let told = add_scan(&admin, "killed-done").await.expect(409);
    assert!(told["message"].as_str().unwrap().contains("its answer was lost"), "{told}");
    let again = add_scan(&admin, "killed-undone").await;
    assert!(!is_replayed(&again));
    again.expect(201);

    let protocols = ["soon-done", "soon-undone", "later-done", "later-undone", "killed-done", "killed-undone"];
    assert_eq!(scans(&admin, &protocols).await, [1; 6]);
    for protocol in protocols {
        assert!(is_replayed(&add_scan(&admin, protocol).await), "{protocol}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e15_a_key_is_used_once_whatever_the_commit_did_on_postgres() {
    a_key_is_used_once_whatever_the_commit_did(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e15_a_key_is_used_once_whatever_the_commit_did_on_mariadb() {
    a_key_is_used_once_whatever_the_commit_did(Backend::Mariadb).await;
}
