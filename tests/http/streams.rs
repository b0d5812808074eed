//! Responses that are streamed while they are created, in the encodings that browsers accept.

use std::io::Write;
use std::process::Stdio;

use super::{address, raw, status};
use crate::api::python;
use crate::people::{House, Visitor};
use crate::support::Backend;

/// Head and body of a response; the body is decoded from its chunks, which must be complete.
fn parts(answer: &[u8]) -> (String, Vec<u8>) {
    let at = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&answer[..at]).to_lowercase();
    let mut rest = &answer[at + 4..];
    if !head.contains("transfer-encoding: chunked") {
        return (head, rest.to_vec());
    }
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|two| two == b"\r\n").expect("the answer breaks off");
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        rest = &rest[line + 2..];
        if length == 0 {
            return (head, body);
        }
        body.extend_from_slice(&rest[..length]);
        rest = &rest[length + 2..];
    }
}

fn unzip(bytes: &[u8]) -> String {
    let script = "import sys,gzip; sys.stdout.buffer.write(gzip.decompress(sys.stdin.buffer.read()))";
    let mut child = python().args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_table_is_whole_in_every_encoding() {
    let house = House::new(Backend::Sqlite, &[]).await;
    let admin = house.admin().await;
    for number in 0..40 {
        house.add(&format!("person{number}"), &["user"]).await;
    }
    let cookie =
        admin.request(reqwest::Method::GET, "/").build().unwrap().headers()["cookie"].to_str().unwrap().to_owned();
    let to = address(&house.server.program);
    let ask = async |version: &str, path: &str, encoding: &str| {
        let accept = if encoding.is_empty() { String::new() } else { format!("Accept-Encoding: {encoding}\r\n") };
        let request =
            format!("GET {path} HTTP/{version}\r\nHost: x\r\nCookie: {cookie}\r\n{accept}Connection: close\r\n\r\n");
        let answer = raw(&to, request.as_bytes()).await;
        assert_eq!(status(&answer), 200, "{path} {encoding}");
        parts(&answer)
    };
    let (_, plain) = ask("1.1", "/audit.csv", "").await;
    let plain = String::from_utf8(plain).unwrap();
    assert!(plain.lines().count() > 40 && plain.contains("person39"), "{plain}");
    for version in ["1.1", "1.0"] {
        for encoding in ["", "identity", "gzip", "br", "gzip, deflate, br, zstd", "deflate", "*", "gzip;q=0"] {
            let (head, body) = ask(version, "/audit.csv", encoding).await;
            match head.split_once("content-encoding: ").map(|(_, rest)| rest.split("\r\n").next().unwrap()) {
                Some("gzip") => assert_eq!(unzip(&body), plain, "{version} {encoding}"),
                // Not decompressed; the body is complete.
                Some("br") => assert!(body.len() > 500, "{version} {encoding}: {} bytes", body.len()),
                None => assert_eq!(String::from_utf8(body).unwrap(), plain, "{version} {encoding}"),
                Some(other) => panic!("{other} of {encoding}"),
            }
        }
        // Also responses that are not streamed.
        for path in ["/audit", "/users", "/static/app.css", "/api/v2/users"] {
            let request = format!(
                "GET {path} HTTP/{version}\r\nHost: x\r\nCookie: {cookie}\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n"
            );
            let answer = raw(&to, request.as_bytes()).await;
            let (head, body) = parts(&answer);
            if head.contains("content-encoding: gzip") {
                assert!(unzip(&body).len() > body.len() / 2, "{path}");
            }
        }
    }
    assert!(!house.server.program.log().contains("panicked"), "{}", house.server.program.log());
    Visitor::logged_in(house.url(), "admin", "admin").await;
}
