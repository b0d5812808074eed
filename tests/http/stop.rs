//! Requests while the server stops.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{ADMIN, address, status};
use crate::api::Server;
use crate::support::{Backend, Program, eventually};

async fn wait_for_end(program: &mut Program) {
    for _ in 0..2400 {
        if !program.is_running() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it did not end in two minutes:\n{}", program.log());
}

/// A request that has begun is completed, including the rest of its body; new connections are refused, and idle ones
/// and those without a useful request are closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_has_begun_is_finished() {
    let mut server = Server::empty(Backend::Sqlite).await;
    let to = address(&server.program);
    let body = format!(r#"{{"label": "late", "filler": "{}"}}"#, "x".repeat(100_000));
    let (first, rest) = body.split_at(50_000);
    let mut begun = TcpStream::connect(&to).await.unwrap();
    let head = format!("POST /api/v2/cohorts HTTP/1.1\r\nHost: x\r\n{ADMIN}\r\nContent-Length: {}\r\n\r\n", body.len());
    begun.write_all((head + first).as_bytes()).await.unwrap();
    let mut idle = TcpStream::connect(&to).await.unwrap();
    idle.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut start = [0; 12];
    idle.read_exact(&mut start).await.unwrap();
    let mut half = TcpStream::connect(&to).await.unwrap();
    half.write_all(b"GET /login HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    // The login of the first request was checked, so its sender is known.
    eventually("the login", async || {
        let events = server.admin().get("/api/v2/cohorts").await;
        (events.status == 200).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    kill_process(Pid::from_raw(i32::try_from(server.program.id()).unwrap()).unwrap(), Signal::TERM).unwrap();
    eventually("the door to be closed", async || TcpStream::connect(&to).await.is_err().then_some(())).await;
    let mut nothing = Vec::new();
    timeout(Duration::from_mins(1), idle.read_to_end(&mut nothing)).await.unwrap().unwrap();
    timeout(Duration::from_mins(1), half.read_to_end(&mut nothing)).await.unwrap().ok();
    assert!(server.program.is_running(), "{}", server.program.log());
    begun.write_all(rest.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_mins(1), begun.read_to_end(&mut answer)).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&answer);
    assert_eq!(status(&answer), 201, "{text}");
    assert!(text.to_lowercase().contains("connection: close"), "{text}");
    wait_for_end(&mut server.program).await;
    assert!(!server.program.log().contains("aborting requests"), "{}", server.program.log());
}

/// A request that does not end is cut off after the configured time.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_does_not_end_does_not_keep_the_server() {
    let mut server = Server::with(Backend::Sqlite, &[("STUDYGOV_DRAIN_SECONDS", "1")]).await;
    let to = address(&server.program);
    server.admin().get("/api/v2/cohorts").await.expect(200);
    let mut begun = TcpStream::connect(&to).await.unwrap();
    let head = format!("POST /api/v2/cohorts HTTP/1.1\r\nHost: x\r\n{ADMIN}\r\nContent-Length: 100000\r\n\r\n{{");
    begun.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    kill_process(Pid::from_raw(i32::try_from(server.program.id()).unwrap()).unwrap(), Signal::TERM).unwrap();
    wait_for_end(&mut server.program).await;
    assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
    assert!(server.program.log().contains("aborting requests"), "{}", server.program.log());
}
