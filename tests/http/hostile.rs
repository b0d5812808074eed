//! Attacks without a login on the server's memory, connections and time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use studygovernor::queue::execution_secret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{ADMIN, address, raw, status};
use crate::api::Server;
use crate::support::{Backend, eventually};

/// The peak resident memory of a process, in MB.
fn peak(id: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().split(' ').next().unwrap().parse::<u64>().unwrap() / 1024
}

/// This process holds the other ends of the connections.
fn raise_own_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
}

/// Connects, sends these bytes, and then nothing. `None` if the server closes the connection meanwhile.
async fn hold(address: &str, bytes: &[u8]) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(bytes).await.ok()?;
    Some(stream)
}

/// The durations of health checks until `stop`.
async fn poll_health(address: String, stop: Arc<AtomicBool>) -> Vec<Duration> {
    let mut taken = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let answer = raw(&address, b"GET /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert_eq!(status(&answer), 200, "{}", String::from_utf8_lossy(&answer));
        taken.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    taken
}

fn post(path: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// 16 MB of small values, which would need 600 MB as a tree.
fn values(length: usize) -> String {
    let mut text =
        String::from(r#"{"secret": "no", "attempt": 1, "worker": "w", "success": true, "result_values": {"a": ["#);
    text.push_str(&"0,".repeat((length - text.len() - 4) / 2));
    text.push_str("0]}}");
    text.push_str(&" ".repeat(length - text.len()));
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hostile_minute_costs_little_memory_and_others_are_answered() {
    raise_own_file_limit();
    let server = Server::empty(Backend::Sqlite).await;
    let (to, id) = (address(&server.program), server.program.id());
    server.admin().get("/api/v2/cohorts").await.expect(200);
    let stop = Arc::new(AtomicBool::new(false));
    let health = tokio::spawn(poll_health(to.clone(), Arc::clone(&stop)));

    // 1,100 connections: silent ones, and large heads without an end.
    let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Filler: {}", "x".repeat(30_000));
    let mut held = Vec::new();
    for number in 0..1100 {
        held.extend(hold(&to, if number % 3 == 0 { head.as_bytes() } else { b"" }).await);
    }
    server.admin().get("/api/v2/cohorts").await.expect(200);
    // 150 bodies without their last byte: small ones, and bodies of the maximum size for workers.
    let report = "/api/v2/callback_executions/1/report";
    for number in 0..150 {
        let (path, length) = if number % 2 == 0 { (report, 1 << 20) } else { ("/login", 60_000) };
        let bytes = post(path, length) + values(length).as_str();
        let (to, bytes) = (to.clone(), bytes.as_bytes()[..bytes.len() - 1].to_vec());
        // Bytes that the server does not read yet remain here.
        held.extend(timeout(Duration::from_millis(50), hold(&to, &bytes)).await.ok().flatten());
    }
    server.admin().get("/api/v2/cohorts").await.expect(200);
    // Bodies of 16 MB, complete and one byte short, with and without a length.
    let body = Arc::new(values(16 << 20));
    let mut sending = JoinSet::new();
    for number in 0..30 {
        let (to, body) = (to.clone(), Arc::clone(&body));
        sending.spawn(async move {
            let head = match number % 3 {
                0 => format!(
                    "POST {report} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
                    body.len()
                ),
                _ => post(report, body.len()),
            };
            let mut stream = hold(&to, head.as_bytes()).await?;
            let sent = &body.as_bytes()[..body.len() - usize::from(number % 3 == 1)];
            let mut answer = [0; 12];
            let (mut reading, mut writing) = stream.split();
            let (read, _) = tokio::join!(reading.read_exact(&mut answer), writing.write_all(sent));
            read.ok().map(|_| status(&answer))
        });
    }
    let answers: Vec<Option<u16>> = timeout(Duration::from_mins(1), sending.join_all()).await.unwrap();
    // 503 if there was no memory for the body, 403 or 408 if less was read; none was accepted.
    let refused = answers.iter().flatten().filter(|status| [403, 408, 413, 503].contains(status)).count();
    assert_eq!(refused, answers.iter().flatten().count(), "{answers:?}");
    assert!(answers.iter().flatten().any(|status| *status == 413), "{answers:?}");
    server.admin().get("/api/v2/cohorts").await.expect(200);

    stop.store(true, Ordering::Relaxed);
    let mut taken = health.await.unwrap();
    taken.sort_unstable();
    assert!(taken.len() > 20, "{taken:?}");
    let (median, longest) = (taken[taken.len() / 2], taken[taken.len() - 1]);
    assert!(median < Duration::from_millis(100), "half of the health checks took longer than {median:?}");
    assert!(longest < Duration::from_secs(30), "a health check took {longest:?}");
    let memory = peak(id);
    assert!(memory < 300, "{memory} MB");
    drop(held);
}

/// Bodies of known users may be large, but their values are counted.
#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_are_for_those_who_are_known_before() {
    let server = Server::study(Backend::Sqlite).await;
    server.experiment("one").await;
    let to = address(&server.program);
    let secret = execution_secret("a key of the tests", 1, 1);
    let report = "/api/v2/callback_executions/1/report";
    let send = async |path: &str, headers: &str, body: &str| {
        let head = post(path, body.len()).replace("\r\n\r\n", &format!("\r\nConnection: close\r\n{headers}\r\n"));
        let answer = raw(&to, (head + body).as_bytes()).await;
        (status(&answer), String::from_utf8_lossy(&answer).into_owned())
    };
    let log = "a line of the log\n".repeat(100_000);
    let body = json!({ "worker": "w", "attempt": 1, "secret": secret, "success": true, "run_log": log }).to_string();
    let shown = format!("X-Callback-Secret: {secret}\r\nX-Callback-Attempt: 1\r\n");
    server
        .nobody()
        .post("/api/v2/callback_executions/1/claim", json!({ "worker": "w", "attempt": 1, "secret": secret }))
        .await
        .expect(200);
    // 1.9 MB: too large for a body with a secret in it.
    let (code, text) = send(report, "", &body).await;
    assert_eq!(code, 413, "{text}");
    for wrong in ["X-Callback-Secret: no\r\nX-Callback-Attempt: 1\r\n", &shown.replace("Attempt: 1", "Attempt: 2")] {
        assert_eq!(send(report, wrong, &body).await.0, 403, "{wrong}");
        assert_eq!(send("/api/v2/callback_executions/1", wrong, "{}").await.0, 405, "there is no POST");
    }
    // Without a login, even an empty list is refused.
    assert_eq!(send("/api/v2/import", "", &values(1 << 20)).await.0, 401);
    // More values than any list of subjects has.
    let (code, text) = send("/api/v2/import", &format!("{ADMIN}\r\n"), &format!("[{}0]", "0,".repeat(4 << 20))).await;
    assert!(code == 413 && text.contains("values"), "{text}");
    let (code, text) = send(report, &shown, &body).await;
    assert_eq!(code, 204, "{text}");
    let shown = server.admin().get("/api/v2/callback_executions/1").await.expect(200);
    assert_eq!((&shown["status"], &shown["result"]), (&json!("finished"), &json!("success")), "{shown}");
    // A report by PUT, with the secret in the header, in both versions.
    for (version, execution) in [(1, 2), (2, 2)] {
        let path = format!("/api/v{version}/callback_executions/{execution}");
        let secret = execution_secret("a key of the tests", execution, 1);
        let answer = server.nobody();
        let ask = answer.request(reqwest::Method::GET, &path).header("x-callback-secret", &secret);
        answer.send(ask).await.expect(200);
        let ask = answer.request(reqwest::Method::GET, &path).header("x-callback-secret", "no");
        answer.send(ask).await.expect(403);
        let body = json!({ "run_log": log, "result_values": { "n": version } });
        let put =
            |secret: &str| answer.request(reqwest::Method::PUT, &path).header("x-callback-secret", secret).json(&body);
        answer.send(put("no")).await.expect(403);
        answer.send(put(&secret)).await.expect(200);
    }
}

/// Incomplete heads and bodies are cut off after their time limit.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_request_is_cut_off() {
    let server = Server::empty(Backend::Sqlite).await;
    let to = address(&server.program);
    let wait = async |bytes: &str| timeout(Duration::from_mins(2), raw(&to, bytes.as_bytes())).await.unwrap();
    let silent = wait("");
    let head = wait("GET /login HTTP/1.1\r\nHost: x\r\nX-Half: ");
    let body = wait(
        "POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 30\r\n\r\nlogin=ad",
    );
    let api = wait("POST /api/v2/cohorts HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\n{\"label\"");
    let (silent, head, body, api) = tokio::join!(silent, head, body, api);
    assert!(silent.is_empty() && head.is_empty());
    assert_eq!((status(&body), status(&api)), (408, 408), "{}", String::from_utf8_lossy(&api));
    // A client that needs a moment between two parts is served.
    let mut slow = TcpStream::connect(&to).await.unwrap();
    for part in ["GET /-/hea", "lthy HTTP/1.1\r\nHost: x\r\n", "Connection: close\r\n\r\n"] {
        slow.write_all(part.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let mut answer = Vec::new();
    slow.read_to_end(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 200);
}

/// A slow client uses the only place for requests, and health checks are still answered.
#[tokio::test(flavor = "multi_thread")]
async fn health_checks_do_not_wait_for_a_place() {
    let server =
        Server::with(Backend::Sqlite, &[("GUNICORN_WORKER_CONNECTIONS", "1"), ("SCRIPT_NAME", "/study")]).await;
    let to = address(&server.program);
    let slow = hold(&to, (post("/study/login", 100) + "login=").as_bytes()).await.unwrap();
    let waiting =
        tokio::spawn(raw_owned(to.clone(), "GET /study/login HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    for path in ["/study/-/healthy", "/study/-/ready", "/study/-/versions"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = timeout(Duration::from_secs(10), raw(&to, request.as_bytes())).await.unwrap();
        assert_eq!(status(&answer), 200, "{path}: {}", String::from_utf8_lossy(&answer));
    }
    drop(slow);
    assert_eq!(status(&waiting.await.unwrap()), 200);
    eventually("the place to be free", async || (server.nobody().get("/login").await.status == 200).then_some(()))
        .await;
}

async fn raw_owned(address: String, request: &'static str) -> Vec<u8> {
    raw(&address, request.as_bytes()).await
}
