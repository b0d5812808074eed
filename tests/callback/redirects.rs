//! Requests of callbacks that are redirected elsewhere, which headers and bodies they send, and which login they use.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::IntoResponse;
use axum::routing::any;
use serde_json::{Value, json};
use studygovernor::entity::kind::ExecutionResult;

use super::outside::{run_again, serve, systems};
use super::{run_with, running_study, values};

/// The requests that a server received: method, path, headers and body.
type Seen = Arc<Mutex<Vec<(String, String, String, String)>>>;

/// A server that records its requests and answers `/to/307?http://…` with a redirect to that URL.
async fn server() -> (String, Seen) {
    let seen = Seen::default();
    let kept = Arc::clone(&seen);
    let answer = async move |request: Request| {
        let (parts, body) = request.into_parts();
        let body = String::from_utf8(axum::body::to_bytes(body, 100_000).await.unwrap().to_vec()).unwrap();
        let headers = format!("{:?}", parts.headers);
        kept.lock().unwrap().push((parts.method.to_string(), parts.uri.path().to_owned(), headers, body));
        match parts.uri.path().strip_prefix("/to/").and_then(|status| status.parse::<u16>().ok()) {
            Some(status) => {
                let target = parts.uri.query().unwrap_or_default().to_owned();
                (StatusCode::from_u16(status).unwrap(), [(LOCATION, target)]).into_response()
            }
            None => axum::Json(json!({ "at": parts.uri.path() })).into_response(),
        }
    };
    (serve(Router::new().fallback(any(answer))).await, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn http_request_sends_nothing_of_its_own_to_another_origin() {
    let ((near, here), (far, there)) = (server().await, server().await);
    let study = running_study().await;
    let netrc = study.home.path().join("netrc");
    // A login for both hosts: it is only meant for the one that the workflow names.
    std::fs::write(&netrc, "machine 127.0.0.1 login marked-user password marked-password\n").unwrap();
    let settings = [("NETRC", netrc.to_str().unwrap())];
    for (method, status, body, is_followed) in [
        ("GET", 302, "", true),
        ("GET", 307, "", true),
        ("GET", 308, "", true),
        ("HEAD", 301, "", true),
        ("POST", 303, ", json: {of: marked-body}", true),
        ("POST", 302, ", body: marked-body", true),
        ("POST", 307, ", json: {of: marked-body}", false),
        ("PUT", 308, ", body: marked-body", false),
    ] {
        let study = running_study().await;
        let url = format!("{near}/to/{status}?{far}/to/302?{far}/end");
        let callback = format!(
            "function: http_request, callback_arguments: {{method: {method}, url: '{url}', headers: {{X-Api-Key: marked-key, Cookie: marked-cookie}}{body}}}"
        );
        let ended = run_with(&study, &callback, &settings).await;
        let requests = std::mem::take(&mut *there.lock().unwrap());
        let text = format!("{requests:?}");
        assert!(!text.contains("marked-") && !text.contains("authorization"), "{method} {status}: {text}");
        assert_eq!(requests.len(), if is_followed { 2 } else { 0 }, "{method} {status}: {text}");
        let result = if is_followed { ExecutionResult::Success } else { ExecutionResult::Failed };
        assert_eq!(ended.result, result, "{method} {status}: {ended:?}");
        let first = std::mem::take(&mut *here.lock().unwrap()).remove(0);
        assert!(first.2.contains("marked-key") && first.2.contains("authorization"), "{first:?}");
    }
    // Within one origin everything is sent; an expected redirect is the result.
    let url = format!("{near}/to/307?{near}/end");
    let callback = format!(
        "function: http_request, callback_arguments: {{method: POST, url: '{url}', headers: {{X-Api-Key: marked-key}}, json: {{a: 1}}}}"
    );
    let study = running_study().await;
    let ended = run_with(&study, &callback, &settings).await;
    assert_eq!(values(&ended)["body"], json!({ "at": "/end" }));
    let last = here.lock().unwrap().pop().unwrap();
    assert_eq!((last.0.as_str(), last.3.as_str()), ("POST", r#"{"a":1}"#));
    assert!(last.2.contains("marked-key") && last.2.contains("authorization"), "{last:?}");
    let study = running_study().await;
    let callback =
        format!("function: http_request, callback_arguments: {{url: '{near}/to/302?{far}/end', expected_status: 302}}");
    let ended = run_with(&study, &callback, &settings).await;
    assert_eq!((ended.result, &values(&ended)["status"]), (ExecutionResult::Success, &json!(302)));
    assert!(there.lock().unwrap().is_empty());
}

/// TaskManager and XNAT answer with a redirect to another host: neither tasks nor logins are sent there.
#[tokio::test(flavor = "multi_thread")]
async fn other_systems_get_nothing_that_is_not_for_them() {
    let (far, there) = server().await;
    let target = far.clone();
    let elsewhere = any(async move || (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, format!("{target}/end"))]));
    let near = serve(Router::new().fallback(elsewhere)).await;
    let study = running_study().await;
    systems(&study, &near).await;
    std::fs::create_dir(study.home.path().join("tasks")).unwrap();
    std::fs::write(study.home.path().join("tasks/base.json"), "{}").unwrap();
    let netrc = study.home.path().join("netrc");
    std::fs::write(&netrc, "machine 127.0.0.1 login marked-user password marked-password\n").unwrap();
    let settings = [("NETRC", netrc.to_str().unwrap())];
    for callback in [
        "function: create_task, callback_arguments: {task_base: base.json, task_info: {project: p}}",
        "function: castor, callback_arguments: {field_files: resources/f/files/a.json, templates: t, castor_study_name: s, castor_site_name: s, castor_visit_name: v}",
    ] {
        let ended = run_again(&study, callback, &settings).await;
        let said = values(&ended)["__exception__"].to_string();
        assert!(said.contains("status 307 (it redirects to") && said.contains("another origin"), "{said}");
    }
    assert!(there.lock().unwrap().is_empty(), "{:?}", there.lock().unwrap());
}

/// A value from the data remains a single segment of the path.
#[tokio::test(flavor = "multi_thread")]
async fn external_ids_stay_in_their_place_of_an_address() {
    use sea_orm::ConnectionTrait;
    let (near, here) = server().await;
    let study = running_study().await;
    systems(&study, &near).await;
    let odd = "UPDATE external_subject_links SET external_id = '../S?x=#/' WHERE subject_id = 1";
    study.engine.database().reader().execute_unprepared(odd).await.unwrap();
    std::fs::create_dir(study.home.path().join("networks")).unwrap();
    std::fs::write(study.home.path().join("networks/n.py"), "").unwrap();
    let castor = "function: castor, callback_arguments: {field_files: resources/f/files/a.json, templates: t, castor_study_name: s, castor_site_name: s, castor_visit_name: v}";
    run_again(&study, castor, &[]).await;
    let asked: Vec<String> = here.lock().unwrap().iter().map(|one| one.1.clone()).collect();
    let path = asked.into_iter().find(|path| path.contains("/data/archive/")).unwrap();
    let fastr = "function: fastr, callback_arguments: {network_id: n, source_mapping: {scan: /scans/T1}}";
    let python = [("STUDYGOV_PYTHON", "/bin/false")];
    let source: Value = values(&run_again(&study, fastr, &python).await)["source_data"]["scan"].clone();
    let uri = source.as_object().unwrap().values().next().unwrap().as_str().unwrap();
    for address in [path.as_str(), uri] {
        assert!(address.contains("/subjects/..%2FS%3Fx%3D%23%2F/experiments/XNAT_E"), "{address}");
    }
    let up = "UPDATE external_subject_links SET external_id = '..' WHERE subject_id = 1";
    study.engine.database().reader().execute_unprepared(up).await.unwrap();
    let said = values(&run_again(&study, castor, &[]).await)["__exception__"].to_string();
    assert!(said.contains("'..' cannot be part of a URL"), "{said}");
}

/// Forms of netrc files that curl and Python read, and a file that cannot be read.
#[tokio::test(flavor = "multi_thread")]
async fn the_login_is_that_of_the_file_and_its_mistakes_are_in_the_log() {
    let (near, here) = server().await;
    for (file, login, noted) in [
        (
            &b"macdef init\nmachine 127.0.0.1 login wrong password wrong\n\nmachine 127.0.0.1 login u password #p1\n"[..],
            Some("u:#p1"),
            "",
        ),
        (b"\xef\xbb\xbfmachine 127.0.0.1 login u password \"a\\\"b\"\r\n", Some("u:a\"b"), ""),
        (b"machine 127.0.0.1 login u password \xfc", Some("u:\u{fc}"), ""),
        (b"machine 127.0.0.1 login u password \"open\n", Some("u:open"), "line 1 has an unclosed quote"),
        (b"", None, ""),
    ] {
        let study = running_study().await;
        let netrc = study.home.path().join("netrc");
        std::fs::write(&netrc, file).unwrap();
        let callback = format!("function: http_request, callback_arguments: {{url: '{near}/'}}");
        let ended = run_with(&study, &callback, &[("NETRC", netrc.to_str().unwrap())]).await;
        let headers = here.lock().unwrap().pop().unwrap().2;
        match login {
            Some(login) => {
                use base64::Engine;
                let wanted = base64::engine::general_purpose::STANDARD.encode(login);
                assert!(headers.contains(&format!("Basic {wanted}")), "{login}: {headers}");
            }
            None => assert!(!headers.contains("authorization"), "{headers}"),
        }
        let log = ended.run_log.unwrap();
        assert!(log.contains(noted) && log.to_lowercase().contains("login file") != noted.is_empty(), "{log}");
    }
    let study = running_study().await;
    let folder = study.home.path().to_str().unwrap().to_owned();
    let callback = format!("function: http_request, callback_arguments: {{url: '{near}/'}}");
    let ended = run_with(&study, &callback, &[("NETRC", &folder)]).await;
    let log = ended.run_log.unwrap();
    assert!(log.contains(&format!("Cannot read the login file {folder}")), "{log}");
}
