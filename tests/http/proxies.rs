//! Client addresses with and without proxies, origins of requests, and redirects after a login.

use reqwest::Method;
use serde_json::json;

use super::{address, raw, status};
use crate::api::Server;
use crate::people::House;
use crate::support::{Backend, studygovernor};

/// Logs in with these headers and returns the address in the list of sessions.
async fn seen_from(house: &House, headers: &[(&str, &str)]) -> String {
    let visitor = house.visitor();
    let mut request =
        visitor.request(Method::POST, "/login").header("content-type", "application/x-www-form-urlencoded");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    visitor.page(request.body("login=admin&password=admin").send().await.unwrap()).await.leads("/");
    let events = house.server.admin().get("/api/v2/cohorts").await;
    assert_eq!(events.status, 200);
    let page = visitor.get("/audit?verb=log_in").await.text;
    let known = ["203.0.113.7", "203.0.113.9", "2001:db8::1", "10.0.0.3", "1.2.3.4", "127.0.0.1"];
    let first = known.into_iter().filter_map(|address| Some((page.find(address)?, address))).min();
    first.map_or_else(|| page.clone(), |(_, address)| address.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_a_client_comes_from_trusted_proxies_with_and_without_a_port() {
    let https = [("STUDYGOV_EXTERNAL_HOSTNAME", "study.example.org"), ("STUDYGOV_EXTERNAL_PROTO", "https")];
    let behind = House::new(Backend::Sqlite, &https).await;
    for (headers, wanted) in [
        (vec![("x-forwarded-for", "203.0.113.7:5678")], "203.0.113.7"),
        (vec![("x-forwarded-for", "1.2.3.4, [2001:db8::1]:443")], "2001:db8::1"),
        (vec![("forwarded", "for=\"203.0.113.9:80\";proto=https")], "203.0.113.9"),
        (vec![("x-forwarded-for", "203.0.113.7, unknown")], "127.0.0.1"),
        (vec![], "127.0.0.1"),
    ] {
        assert_eq!(seen_from(&behind, &headers).await, wanted, "{headers:?}");
    }
    let other = [https[0], https[1], ("STUDYGOV_TRUSTED_PROXIES", "192.0.2.1")];
    let other = House::new(Backend::Sqlite, &other).await;
    assert_eq!(seen_from(&other, &[("x-forwarded-for", "203.0.113.7")]).await, "127.0.0.1");
    assert!(other.server.program.log().contains("STUDYGOV_TRUSTED_PROXIES"), "{}", other.server.program.log());
    let named = House::new(Backend::Sqlite, &[("STUDYGOV_TRUSTED_PROXIES", "127.0.0.1, 10.0.0.0/8")]).await;
    let hops = [("x-forwarded-for", "1.2.3.4, 203.0.113.9:80, 10.0.0.3")];
    assert_eq!(seen_from(&named, &hops).await, "203.0.113.9");
    let alone = House::new(Backend::Sqlite, &[]).await;
    assert_eq!(seen_from(&alone, &hops).await, "127.0.0.1");
}

/// A proxy that forwards bytes sends the address of its client first.
#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_protocol_is_read_from_trusted_proxies_only() {
    let on = ("STUDYGOV_PROXY_PROTOCOL", "true");
    let trusted = House::new(Backend::Sqlite, &[on, ("STUDYGOV_TRUSTED_PROXIES", "127.0.0.0/8")]).await;
    let other = House::new(Backend::Sqlite, &[on, ("STUDYGOV_TRUSTED_PROXIES", "192.0.2.1")]).await;
    let off = House::new(Backend::Sqlite, &[("STUDYGOV_TRUSTED_PROXIES", "127.0.0.0/8")]).await;
    let mut second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    second.extend([203, 0, 113, 9, 127, 0, 0, 1, 0x16, 0x2e, 1, 187]);
    let form = "login=admin&password=wrong";
    let post = format!(
        "POST /login HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    );
    let healthy = "GET /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let first = b"PROXY TCP4 203.0.113.7 127.0.0.1 5678 443\r\n".to_vec();
    let ask = async |house: &House, header: &[u8], request: &str| {
        let answer = raw(&address(&house.server.program), &[header, request.as_bytes()].concat()).await;
        status(&answer)
    };
    for header in [&first, &second, &b"PROXY UNKNOWN\r\n".to_vec(), &Vec::new()] {
        assert_eq!(ask(&trusted, header, healthy).await, 200, "{header:?}");
        let refused = if header.is_empty() { 200 } else { 400 };
        assert_eq!(ask(&other, header, healthy).await, refused);
        assert_eq!(ask(&off, header, healthy).await, refused);
    }
    // An invalid header ends the connection.
    assert_eq!(ask(&trusted, b"PROXY TCP4 nonsense\r\n", healthy).await, 0);
    // Failures are counted for the client that the header names.
    let mut tries: Vec<u16> = Vec::new();
    for _ in 0..3 {
        let four = tokio::join!(
            ask(&trusted, &first, &post),
            ask(&trusted, &first, &post),
            ask(&trusted, &first, &post),
            ask(&trusted, &first, &post)
        );
        tries.extend([four.0, four.1, four.2, four.3]);
    }
    assert_eq!(tries.iter().filter(|status| **status == 422).count(), 10, "{tries:?}");
    assert_eq!(ask(&trusted, &first, &post).await, 429);
    assert_eq!(ask(&trusted, &second, &post).await, 422);
}

#[test]
fn a_proxy_that_is_no_address_stops_the_start() {
    let home = tempfile::tempdir().unwrap();
    let mut command = studygovernor(home.path(), &["serve"]);
    let output = command.env("STUDYGOV_TRUSTED_PROXIES", "10.0.0.1, proxy.example.org").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("STUDYGOV_TRUSTED_PROXIES: 'proxy.example.org' is not"), "{said}");
}

/// The scheme of an origin matters if users come by https.
#[tokio::test(flavor = "multi_thread")]
async fn an_origin_without_tls_is_another_one() {
    let external = [("STUDYGOV_EXTERNAL_HOSTNAME", "study.example.org"), ("STUDYGOV_EXTERNAL_PROTO", "https")];
    let external = Server::with(Backend::Sqlite, &external).await;
    let named = Server::with(Backend::Sqlite, &[("STUDYGOV_TRUSTED_PROXIES", "127.0.0.1")]).await;
    let alone = Server::with(Backend::Sqlite, &[]).await;
    let ask = async |server: &Server, origin: &str, proto: &str| {
        let caller = server.nobody();
        let request = caller.request(Method::POST, "/logout").header("host", "study.example.org");
        let request = if proto.is_empty() { request } else { request.header("x-forwarded-proto", proto) };
        caller.send(request.header("origin", origin)).await.status.as_u16()
    };
    let (plain, tls) = ("http://study.example.org", "https://study.example.org");
    for (server, origin, proto, wanted) in [
        (&external, tls, "", 303),
        (&external, plain, "", 403),
        (&external, "HTTP://study.example.org", "", 403),
        (&external, plain, "https", 403),
        (&named, tls, "https", 303),
        (&named, plain, "https", 403),
        (&named, plain, "http", 303),
        (&alone, plain, "", 303),
        // No proxy is configured: any client may have written the header.
        (&alone, plain, "https", 303),
        (&alone, "https://evil.example", "", 403),
    ] {
        // A redirect is followed to the login page.
        let status = ask(server, origin, proto).await;
        let wanted = if wanted == 303 { 200 } else { wanted };
        assert_eq!(status, wanted, "{origin} {proto}");
    }
    // URLs in responses are those that the client uses.
    let admin = named.admin();
    admin.post("/api/v2/cohorts", json!({ "label": "c" })).await.expect(201);
    let request = admin.request(Method::GET, "/api/v1/cohorts/1").header("x-forwarded-proto", "https");
    admin.send(request.header("x-forwarded-host", "seen.example.org")).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_page_leads_to_the_login_and_back_to_its_page() {
    for prefix in ["", "/studies/one"] {
        let server = Server::with(Backend::Sqlite, &[("SCRIPT_NAME", prefix)]).await;
        let base = server.program.url.clone();
        let host = address(&server.program);
        let client = reqwest::Client::new();
        let next = |path: &str| {
            let query = url::form_urlencoded::byte_serialize(format!("{prefix}{path}").as_bytes()).collect::<String>();
            format!("{prefix}/login?next={query}")
        };
        let bare = format!("{prefix}/login");
        for (shown, wanted) in [
            (format!("http://{host}{prefix}/experiments/1"), next("/experiments/1")),
            (format!("http://{host}{prefix}/experiments?q=a%20b&below=3"), next("/experiments?q=a%20b&below=3")),
            (format!("{prefix}/cohorts"), next("/cohorts")),
            (format!("http://evil.example{prefix}/experiments/1"), bare.clone()),
            (format!("http://{host}//evil.example/"), bare.clone()),
            (format!("http://{host}{prefix}/login?next=/"), bare.clone()),
            ("javascript:alert(1)".to_owned(), bare.clone()),
            ("not an address at all".to_owned(), bare.clone()),
        ] {
            let request = client.get(format!("{base}/experiments/1")).header("hx-request", "true");
            let answer = request.header("hx-current-url", &shown).send().await.unwrap();
            let seen = (answer.status().as_u16(), answer.headers()["hx-redirect"].to_str().unwrap().to_owned());
            assert_eq!(seen, (401, wanted), "{shown}");
        }
        let answer = client.get(format!("{base}/experiments/1")).header("hx-request", "true").send().await.unwrap();
        assert_eq!(answer.headers()["hx-redirect"], bare.as_str());
    }
}
