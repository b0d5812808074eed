//! Callback functions with the systems that they use: Python, fastr, Docker, TaskManager, a mail server, web servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse;
use axum::routing::any;
use serde_json::{Value, json};
use studygovernor::entity::kind::{ExecutionResult, ExecutionStatus};

use super::{run, run_with, running_study, values};
use crate::api::Caller;
use crate::support::{Backend, Station, Study, eventually};

fn needed(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run the tests with `make test`"))
}

/// Starts a web server of the test and returns its URL.
pub async fn serve(routes: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    rustls::crypto::ring::default_provider().install_default().ok();
    format!("http://{address}")
}

async fn failed(study: &Study, callback: &str, settings: &[(&str, &str)]) -> String {
    let ended = run_with(study, callback, settings).await;
    assert_eq!(ended.result, ExecutionResult::Failed, "{ended:?}");
    let values = values(&ended);
    assert_eq!(values["__success__"], false);
    values["__exception__"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn python_function_calls_a_function_of_the_study() {
    let study = running_study().await;
    let package = study.home.path().join("ourstudy");
    std::fs::create_dir(&package).unwrap();
    std::fs::write(package.join("__init__.py"), "").unwrap();
    let code = "def check(data, config, number, where=None):\n    print('checking', data['experiment']['label'])\n    return {'label': data['subject']['label'], 'home': 'STUDYGOV_PROJECT_HOME' in config, 'secrets': [n for n in config if 'SECRET' in n or 'PASSWORD' in n], 'number': number, 'where': where}\n\ndef wrong():\n    raise ValueError('no such scan')\n\ndef unsuitable():\n    return {1, 2}\n\ndef leaves():\n    import os\n    os._exit(7)\n\ndef odd():\n    return {'snr': float('nan'), 'half': '\\ud800', 'big': 10**30, 3: [float('-inf')]}\n\ndef odd_error():\n    raise ValueError('half \\udc00')\n";
    std::fs::write(package.join("checks.py"), code).unwrap();
    let python = needed("TEST_PYTHON");
    // Like a worker with a configured path to the code.
    let wrapper = study.home.path().join("python");
    std::fs::write(
        &wrapper,
        format!("#!/bin/sh\nPYTHONPATH='{}' exec '{python}' \"$@\"\n", study.home.path().display()),
    )
    .unwrap();
    std::fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let settings = [("STUDYGOV_PYTHON", wrapper.to_str().unwrap())];
    let call = |function: &str, more: &str| {
        format!(
            "function: python_function, callback_arguments: {{package: ourstudy, module: checks, function: {function}{more}}}"
        )
    };
    let ended = run_with(&study, &call("check", ", args: [5], kwargs: {where: $EXPERIMENT}"), &settings).await;
    let values = values(&ended);
    assert_eq!(ended.result, ExecutionResult::Success, "{values}");
    let wanted = json!({ "label": "subject", "home": true, "secrets": [], "number": 5, "where": "http://test/prefix/api/v2/experiments/1" });
    assert_eq!(values["return_value"], wanted);
    assert_eq!(
        (&values["package"], &values["module"], &values["function"]),
        (&json!("ourstudy"), &json!("checks"), &json!("check"))
    );
    assert!(ended.run_log.unwrap().contains("checking session"));

    let study = running_study().await;
    let ended = run_with(&study, &call("wrong", ", pass_callback_data: false"), &settings).await;
    let values = super::values(&ended);
    assert_eq!(values["__exception__"], "ValueError: no such scan");
    assert!(values["__traceback__"].as_str().unwrap().contains("in wrong"), "{values}");
    for (function, reason) in [
        ("unsuitable", "the function returned set, which is not JSON-serializable"),
        ("leaves", "Python ended with return code 7 without returning a result"),
        ("absent", "AttributeError"),
    ] {
        let study = running_study().await;
        let said = failed(&study, &call(function, ", pass_callback_data: false"), &settings).await;
        assert!(said.contains(reason), "{said}");
    }
    let study = running_study().await;
    let ended = run_with(&study, &call("odd", ", pass_callback_data: false"), &settings).await;
    assert_eq!(ended.result, ExecutionResult::Success, "{ended:?}");
    let big = super::values(&ended)["return_value"]["big"].clone();
    assert_eq!(big.to_string(), format!("1{}", "0".repeat(30)), "all digits");
    let wanted = json!({ "snr": null, "half": "\u{fffd}", "big": big, "3": [null] });
    assert_eq!(super::values(&ended)["return_value"], wanted);
    assert!(ended.run_log.unwrap().contains("return_value: NaN is stored as null"));
    let study = running_study().await;
    let said = failed(&study, &call("odd_error", ", pass_callback_data: false"), &settings).await;
    assert_eq!(said, "ValueError: half \u{fffd}");
    let study = running_study().await;
    let said = failed(&study, &call("check", ""), &[("STUDYGOV_PYTHON", "/nowhere/python9")]).await;
    assert!(said.contains("cannot run /nowhere/python9: there is no such file"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_request_asks_and_says_what_was_answered() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let routes = Router::new()
        .route("/echo", any(async |request: Request| {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 10_000).await.unwrap();
            let header = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
            axum::Json(json!({ "method": parts.method.as_str(), "body": String::from_utf8_lossy(&body), "login": header("authorization"), "own": header("x-own") }))
        }))
        .route("/flaky", any(async move || {
            match counted.fetch_add(1, Ordering::SeqCst) {
                0 | 1 => (axum::http::StatusCode::SERVICE_UNAVAILABLE, "not now").into_response(),
                _ => "there".into_response(),
            }
        }))
        .route("/slow", any(async || tokio::time::sleep(std::time::Duration::from_secs(30)).await));
    let server = serve(routes).await;
    let study = running_study().await;
    let netrc = study.home.path().join("netrc");
    let host = server.trim_start_matches("http://");
    std::fs::write(&netrc, format!("machine {host} login us password pw\n")).unwrap();
    let settings = [("NETRC", netrc.to_str().unwrap())];
    let callback = format!(
        "function: http_request, callback_arguments: {{method: post, url: {server}/echo, headers: {{X-Own: $SUBJECT}}, json: {{execution: $CALLBACK_EXECUTION, n: 1}}}}"
    );
    let ended = run_with(&study, &callback, &settings).await;
    let values = values(&ended);
    assert_eq!(values["status"], 200, "{values}");
    let body = &values["body"];
    assert_eq!((&body["method"], &body["login"]), (&json!("POST"), &json!("Basic dXM6cHc=")));
    assert_eq!(body["own"], "http://test/prefix/api/v2/subjects/1");
    let sent: Value = serde_json::from_str(body["body"].as_str().unwrap()).unwrap();
    assert_eq!(sent, json!({ "execution": "http://test/prefix/api/v2/callback_executions/1", "n": 1 }));
    // Failures are retried if the workflow specifies it (Q5), otherwise the run fails.
    let study = running_study().await;
    let ended =
        run(&study, &format!("function: http_request, retries: 3, callback_arguments: {{url: {server}/flaky}}")).await;
    assert_eq!((ended.result, ended.attempt), (ExecutionResult::Success, 3));
    for (arguments, reason) in [
        (format!("url: {server}/nothing"), "returned status 404"),
        (format!("url: {server}/echo, expected_status: [201, 202]"), "returned status 200"),
        (format!("url: {server}/slow, timeout: 0.3"), "timed out"),
        ("url: 'http://127.0.0.1:1/'".to_owned(), "refused"),
        ("url: 'file:///etc/passwd'".to_owned(), "file is not http or https"),
        ("method: get".to_owned(), "missing field `url`"),
        (format!("url: {server}/echo, json: {{}}, body: x"), "cannot be combined"),
    ] {
        let study = running_study().await;
        let said = failed(&study, &format!("function: http_request, callback_arguments: {{{arguments}}}"), &[]).await;
        assert!(said.contains(reason), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn send_mail_reaches_a_mail_server() {
    let (port, folder) = (needed("TEST_SMTP_PORT"), needed("TEST_SMTP_FOLDER"));
    let server = [
        ("MAIL_SERVER", "127.0.0.1"),
        ("MAIL_PORT", port.as_str()),
        ("STUDYGOV_EMAIL_TO", "raters@example.org"),
        ("STUDYGOV_EMAIL_FROM", "study@example.org"),
    ];
    let study = running_study().await;
    let mark = uuid::Uuid::new_v4().to_string();
    let callback = format!(
        "function: send_mail, callback_arguments: {{subject: \"Look at {{experiment}}\", body: \"{mark} {{{{really}}}}: {{experiment_url}} {{experiment_api_url}} {{action_url}} {{action_api_url}}\"}}"
    );
    let ended = run_with(&study, &callback, &server).await;
    let values = values(&ended);
    assert_eq!(ended.result, ExecutionResult::Success, "{values}");
    assert_eq!((&values["sender"], &values["recipient"]), (&json!("study@example.org"), &json!("raters@example.org")));
    assert_eq!(values["subject"], "[study governor] Look at session");
    let base = "http://test/prefix";
    let body = format!(
        "{mark} {{really}}: {base}/experiments/1 {base}/api/v2/experiments/1 {base}/actions/1 {base}/api/v2/actions/1"
    );
    assert_eq!(values["body"], body);
    let received = eventually("the mail", async || {
        let mails = std::fs::read_dir(format!("{folder}/new")).ok()?;
        mails.flatten().find_map(|mail| std::fs::read_to_string(mail.path()).ok().filter(|text| text.contains(&mark)))
    })
    .await;
    assert!(
        received.contains("Subject: [study governor] Look at session") && received.contains("To: raters@example.org"),
        "{received}"
    );

    // Without a mail server the mail is stored in a folder; the log contains its path.
    let study = running_study().await;
    let ended = run_with(
        &study,
        "function: send_mail, callback_arguments: {subject: s, body: b, to: [a@example.org, b@example.org]}",
        &[],
    )
    .await;
    assert_eq!(super::values(&ended)["recipient"], "a@example.org, b@example.org");
    let log = ended.run_log.unwrap();
    let file = log.lines().find_map(|line| line.split_once("the e-mail was written to ")).unwrap().1;
    assert!(std::fs::read_to_string(file).unwrap().contains("To: a@example.org, b@example.org"));
    // Names with commas, several addresses in one text, an internationalised domain.
    let study = running_study().await;
    let to = "'\"Doe, Ann\" <ann@example.org>; \"Roe; Bob\" <bob@example.org>, Müller <m@bücher.example>'";
    let mark = uuid::Uuid::new_v4().to_string();
    let from = [server[0], server[1], ("STUDYGOV_EMAIL_FROM", "\"Study, the first\" <study@example.org>")];
    let callback = format!("function: send_mail, callback_arguments: {{subject: s, body: {mark}, to: {to}}}");
    let ended = run_with(&study, &callback, &from).await;
    assert_eq!(ended.result, ExecutionResult::Success, "{ended:?}");
    let received = eventually("the mail", async || {
        let mails = std::fs::read_dir(format!("{folder}/new")).ok()?;
        mails.flatten().find_map(|mail| std::fs::read_to_string(mail.path()).ok().filter(|text| text.contains(&mark)))
    })
    .await;
    let mail = mail_parser::MessageParser::default().parse(&received).unwrap();
    let to: Vec<_> = mail.to().unwrap().iter().map(|one| (one.name().unwrap(), one.address().unwrap())).collect();
    let wanted =
        [("Doe, Ann", "ann@example.org"), ("Roe; Bob", "bob@example.org"), ("Müller", "m@xn--bcher-kva.example")];
    assert_eq!(to, wanted, "{received}");
    assert_eq!(mail.from().unwrap().first().unwrap().name(), Some("Study, the first"));

    for (arguments, settings, reason) in [
        ("subject: s, body: b", &[][..], "the e-mail has no recipient"),
        ("subject: s, body: \"{colour}\", to: a@example.org", &[], "contains {colour}, which is not a known field"),
        ("subject: s, body: b, to: nobody", &[], "'nobody' is not a valid e-mail address"),
        (
            "subject: s, body: b, to: a@example.org",
            &[("MAIL_SERVER", "127.0.0.1"), ("MAIL_PORT", "1")],
            "127.0.0.1:1 rejected the message",
        ),
    ] {
        let study = running_study().await;
        let said = failed(&study, &format!("function: send_mail, callback_arguments: {{{arguments}}}"), settings).await;
        assert!(said.contains(reason), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fastr_runs_a_network() {
    let python = needed("TEST_FASTR_PYTHON");
    let networks = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/networks");
    let study = running_study().await;
    let scratch = study.home.path().join("scratch");
    let results = study.home.path().join("results");
    std::fs::create_dir(&results).unwrap();
    let home = study.home.path().join("fastr");
    std::fs::create_dir(&home).unwrap();
    std::fs::write(
        home.join("config.py"),
        format!("execution_plugin = 'BlockingExecution'\nmounts['results'] = '{}'\n", results.display()),
    )
    .unwrap();
    let code = std::fs::read_to_string(format!("{networks}/trivial.py")).unwrap();
    let own = study.home.path().join("networks");
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("trivial.py"), code).unwrap();
    std::fs::write(own.join("broken.py"), "def create_network():\n    raise ValueError('no network today')\n").unwrap();
    let settings = [("STUDYGOV_PYTHON", python.as_str()), ("STUDYGOV_XNAT_PROJECT", "sandbox")];
    systems(&study, "http://xnat.invalid/x/").await;
    let callback = |network: &str| {
        format!(
            "function: fastr, callback_arguments: {{network_id: {network}, fastr_home: {}, sink_mapping: {{}}, source_mapping: {{}}}}",
            home.display()
        )
    };
    // A sink needs a URL: the sum is discarded.
    std::fs::write(
        own.join("empty.py"),
        "def create_network():\n    import fastr\n    return fastr.create_network(id='empty')\n",
    )
    .unwrap();
    let ended = run_with(&study, &callback("empty"), &settings).await;
    let values = values(&ended);
    assert_eq!(ended.result, ExecutionResult::Success, "{values} {:?}", ended.run_log);
    assert_eq!((&values["return_value"], &values["cleanup_done"]), (&json!(0), &json!(true)), "{values}");
    let folder = values["scratch_dir"].as_str().unwrap();
    assert!(
        folder.starts_with(scratch.canonicalize().unwrap().to_str().unwrap()) && !std::path::Path::new(folder).exists()
    );
    assert!(std::path::Path::new(values["code_file"].as_str().unwrap()).exists());

    // A run whose sink has no destination fails, and keeps its working files.
    let said = failed_again(&study, &callback("trivial"), &settings).await;
    assert!(said.contains("fastr ended with return code"), "{said}");
    let said = failed_again(&study, &callback("broken"), &settings).await;
    assert!(said.contains("no network today") && said.contains("are kept in"), "{said}");
    let said = failed_again(&study, &callback("../trivial"), &settings).await;
    assert!(said.contains("cannot find network '../trivial'"), "{said}");
    let said = failed_again(&study, &callback("trivial"), &[("STUDYGOV_PYTHON", "/usr/bin/python3")]).await;
    assert!(said.contains("fastr"), "{said}");
}

/// Runs one more experiment of the same study, on its own workflow.
async fn failed_again(study: &Study, callback: &str, settings: &[(&str, &str)]) -> String {
    let ended = run_again(study, callback, settings).await;
    assert_eq!(ended.result, ExecutionResult::Failed, "{ended:?}");
    values(&ended)["__exception__"].as_str().unwrap().to_owned()
}

/// Like [`run_with`], in a study that already has a workflow.
pub async fn run_again(
    study: &Study,
    callback: &str,
    settings: &[(&str, &str)],
) -> studygovernor::entity::callback_execution::Model {
    let label = uuid::Uuid::new_v4().simple().to_string();
    study.load(&super::workflow(callback).replace("label: runs", &format!("label: runs_{label}"))).await;
    let experiment = study.create(&label).await;
    links(study, experiment.id).await;
    let id = study.executions(experiment.id).await["run"].id;
    let pool =
        super::Running::start_with(super::local_desk(study), study, 2, std::time::Duration::from_secs(1), settings);
    let ended = eventually("the callback to end", async || {
        let execution = study.execution(id).await;
        matches!(execution.status, ExecutionStatus::Finished | ExecutionStatus::Waiting).then_some(execution)
    })
    .await;
    pool.stop().await;
    ended
}

/// Creates external systems with this URL, and ids of the subject in them.
pub async fn systems(study: &Study, address: &str) {
    use sea_orm::ConnectionTrait;
    study.subject("subject").await;
    let connection = study.engine.database().reader();
    for (id, name) in [(1, "XNAT"), (2, "CASTOR"), (3, "TASKMANAGER")] {
        let insert = format!("INSERT INTO external_system (id, system_name, url) VALUES ({id}, '{name}', '{address}')");
        connection.execute_unprepared(&insert).await.unwrap();
    }
    let insert =
        "INSERT INTO external_subject_links (external_id, subject_id, external_system_id) VALUES ('XNAT_S1', 1, 1)";
    connection.execute_unprepared(insert).await.unwrap();
}

/// Sets the id of an experiment in XNAT.
pub async fn links(study: &Study, experiment_id: i32) {
    use sea_orm::ConnectionTrait;
    let insert = format!(
        "INSERT INTO external_experiment_links (external_id, experiment_id, external_system_id) VALUES ('XNAT_E{experiment_id}', {experiment_id}, 1)"
    );
    study.engine.database().reader().execute_unprepared(&insert).await.unwrap();
}

/// Uses a Docker engine if one exists (`make test` starts one as root); otherwise checks the error.
#[tokio::test(flavor = "multi_thread")]
async fn docker_run_runs_a_container_and_leaves_none_behind() {
    if std::env::var_os("TEST_DOCKER_HOST").is_none() {
        let study = running_study().await;
        let said =
            failed(&study, "function: docker_run, callback_arguments: {image: 'busybox:none', cmd: [true]}", &[]).await;
        assert!(said.contains("docker"), "{said}");
        return;
    }
    let study = running_study().await;
    let input = study.home.path().join("input");
    std::fs::create_dir(&input).unwrap();
    std::fs::write(input.join("scan"), "voxels\n").unwrap();
    let folder = input.display();
    let callback = format!(
        "function: docker_run, callback_arguments: {{image: 'busybox:test', cmd: [sh, -c, \"cat /in/scan; echo $COLOUR $0 $1; echo oops >&2\"], args: {{--key: $EXPERIMENT}}, environment: {{COLOUR: blue}}, volumes: {{{folder}: {{bind: /in, mode: ro}}}}}}"
    );
    let ended = run(&study, &callback).await;
    let values = values(&ended);
    assert_eq!(ended.result, ExecutionResult::Success, "{values} {:?}", ended.run_log);
    assert_eq!(values["stdout"], "voxels\nblue --key http://test/prefix/api/v2/experiments/1\n");
    assert_eq!((&values["stderr"], &values["return_code"]), (&json!("oops\n"), &json!(0)));
    assert_eq!(containers(), "", "it is removed");
    for (arguments, reason) in [
        ("image: 'busybox:test', cmd: [sh, -c, exit 3]", "ended with return code 3"),
        ("image: 'busybox:test', cmd: [/no/such]", "ended with return code 127"),
        ("image: 'busybox:absent', cmd: [true]", "cannot create a container of busybox:absent"),
        ("image: 'busybox:test', cmd: [true], volumes: {/nowhere/at/all: {bind: /in}}", "cannot create a container of"),
        ("image: 'busybox:test', volumes: {relative: {bind: /in}}", "must be absolute paths"),
    ] {
        let study = running_study().await;
        let said = failed(&study, &format!("function: docker_run, callback_arguments: {{{arguments}}}"), &[]).await;
        assert!(said.contains(reason), "{said}");
    }
    let study = running_study().await;
    let said = failed(&study, "function: docker_run, callback_arguments: {image: '--privileged'}", &[]).await;
    assert!(said.contains("'--privileged' is not the name of an image"), "{said}");
    // Q7: a manual transition stops the container.
    let study = running_study().await;
    study
        .load(&super::workflow("function: docker_run, callback_arguments: {image: 'busybox:test', cmd: [sleep, 1000]}"))
        .await;
    let experiment = study.create("session").await;
    let pool = super::Running::start(&study, 1, std::time::Duration::from_secs(1));
    eventually("the container", async || (!containers().is_empty()).then_some(())).await;
    study.move_to(experiment.id, "bad").await.unwrap();
    eventually("the container to be gone", async || containers().is_empty().then_some(())).await;
    pool.stop().await;
    q8_the_container_of_a_killed_server_is_removed().await;
}

/// The second attempt checks for another container, and none exists. This is part of the other test because both count
/// all containers of the engine.
async fn q8_the_container_of_a_killed_server_is_removed() {
    let station = Station::new(Backend::Sqlite).await;
    let host = std::env::var("DOCKER_HOST").unwrap();
    let local =
        [("STUDYGOV_LEASE_SECONDS", "2"), ("STUDYGOV_CALLBACK_METHOD", "local"), ("DOCKER_HOST", host.as_str())];
    let server = station.server(&local);
    let callback = "function: docker_run, callback_arguments: {image: 'busybox:test', cmd: [sleep, 1000]}";
    station.load(&server, &super::workflow(callback)).await;
    station.create(&server, "session").await;
    // Running, not only created: between the two calls of Docker, no guard knows the container.
    let first = eventually("the container", async || Some(running_containers()).filter(|ids| !ids.is_empty())).await;
    let owner = listed(&["inspect", "--format", "{{index .Config.Labels \"studygovernor.owner\"}}", &first]);
    server.kill();
    eventually("the container to be gone", async || containers().is_empty().then_some(())).await;
    // A container that no guard could remove, as after a power cut, is removed by the next attempt.
    let address = "http://127.0.0.1/api/v2/callback_executions/1";
    let base = [("STUDYGOV_EXTERNAL_HOSTNAME", "127.0.0.1"), ("STUDYGOV_EXTERNAL_PROTO", "http")];
    let label = format!("studygovernor.address={address}");
    let left = std::process::Command::new("docker")
        .args(["run", "--detach", "--label", &label, "busybox:test", "sleep", "1000"])
        .output()
        .unwrap();
    assert!(left.status.success(), "{left:?}");
    let second = station.server(&local.into_iter().chain(base).collect::<Vec<_>>());
    eventually("the second container alone", async || {
        let log = station.execution(1).await.run_log?;
        let ids = containers();
        ((log.contains("Removing the container") && log.contains("of an earlier attempt"))
            && ids.lines().count() == 1
            && ids != first)
            .then_some(())
    })
    .await;
    let admin = Caller::admin_at(&second.url);
    admin.put("/api/v2/experiments/1/state", json!({ "state": "bad" })).await.expect(200);
    eventually("no container", async || containers().is_empty().then_some(())).await;
    second.kill();
    // Created but not started by the first server, as if it was killed between two calls of Docker. No attempt follows:
    // the next worker removes it at its start and leaves containers of other machines alone.
    let other = owner.split_once('|').map(|(_, rest)| format!("another-machine|{rest}")).unwrap();
    let create = |owner: &str| {
        let owner = format!("studygovernor.owner={owner}");
        let labels = ["studygovernor.execution=1", "studygovernor.attempt=1", &owner];
        let labels = labels.iter().flat_map(|label| ["--label", *label]);
        listed(&["create"].into_iter().chain(labels).chain(["busybox:test", "true"]).collect::<Vec<_>>())
    };
    let (left, foreign) = (create(&owner), create(&other));
    let third = station.server(&local);
    eventually("the container that was left to be removed", async || {
        (!listed(&["ps", "--all", "--quiet", "--no-trunc"]).contains(&left)).then_some(())
    })
    .await;
    assert!(third.log().contains("the container of an attempt that has ended is removed"), "{}", third.log());
    assert_eq!(listed(&["ps", "--all", "--quiet", "--no-trunc"]), foreign);
    listed(&["rm", &foreign]);
}

fn running_containers() -> String {
    listed(&["ps", "--quiet"])
}

fn containers() -> String {
    listed(&["ps", "--all", "--quiet"])
}

fn listed(arguments: &[&str]) -> String {
    let output = std::process::Command::new("docker").args(arguments).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The real TaskManager: a task is created there, a rater completes it, and its callback moves the experiment.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_made_in_task_manager_and_come_back() {
    let task_manager = needed("TEST_TASKMANAGER_URL");
    let station = Station::new(Backend::Sqlite).await;
    let home = station.home.path();
    let host = task_manager.trim_start_matches("http://");
    std::fs::write(home.join(".netrc"), format!("machine {host} login admin password secret\n")).unwrap();
    std::fs::create_dir(home.join("tasks")).unwrap();
    std::fs::write(home.join("tasks/base.json"), "{\"session\": \"$LABEL\", \"id\": \"${EXPERIMENT_ID}\", \"of\": \"$SUBJECT_ID\", \"at\": \"$SYSTEM_URL\", \"cost\": \"$$5\"}\n").unwrap();
    let server = station.server(&[("STUDYGOV_CALLBACK_METHOD", "local"), ("HOME", home.to_str().unwrap())]);
    let admin = Caller::admin_at(&server.url);
    let configuration = json!({ "external_systems": [{ "system_name": "XNAT", "url": "http://xnat.invalid/" }, { "system_name": "TASKMANAGER", "url": format!("{task_manager}/") }] });
    admin
        .post("/api/v2/service/config/import-config", json!({ "config_definition": configuration.to_string() }))
        .await
        .expect(201);
    let workflow = "label: reading\nstates:\n  - {label: root, transitions: [{destination: arrived}]}\n  - {label: arrived, transitions: [{destination: read}]}\n  \
        - label: read\n    callbacks:\n      - {label: task, function: create_task, wait_timeout: 60, callback_arguments: {task_base: base.json, extra_tags_var: extra, task_info: {project: sandbox, template: manual_qa, tags: [QA], users: [rater1]}}}\n    transitions: [{destination: group}]\n  \
        - label: group\n    callbacks:\n      - {label: tasks, function: create_taskgroup, wait_timeout: 60, callback_arguments: {label: both, project: sandbox, tags: [QA], tasks: [{base: base.json, template: manual_qa, tags: [left]}, {base: base.json, template: manual_qa}], distribute_in_group: raters, distribute_method: same}}\n    transitions: [{destination: done}]\n  - {label: done}\n";
    station.load(&server, workflow).await;
    let session = json!({ "label": "session", "scandate": "2024-03-01T10:00:00", "external_ids": { "XNAT": "XNAT_E1" }, "variables": { "extra": ["urgent"] } });
    let subject = json!({ "cohort": "cohort", "label": "subject", "external_ids": { "XNAT": "XNAT_S1" }, "experiments": [session] });
    admin.post("/api/v2/import", json!([subject])).await.expect(200);
    let id = admin.put("/api/v2/subjects/1/external_ids/XNAT", json!({ "external_id": "XNAT_S1" })).await;
    assert!(id.status.is_success(), "{}", id.body);
    admin.put("/api/v2/experiments/1/state", json!({ "state": "read" })).await.expect(200);
    eventually("the run", async || {
        (station.execution(1).await.finished.is_some() || station.execution(1).await.wait_start.is_some()).then_some(())
    })
    .await;
    let waiting = station.execution(1).await;
    let values = values(&waiting);
    assert_eq!(waiting.status, ExecutionStatus::Waiting, "{values}");
    assert_eq!(values["response_status_code"], 201, "{values}");
    assert_eq!(values["task_info"]["tracking_id"], "session");
    let content: Value = serde_json::from_str(values["task_info"]["content"].as_str().unwrap()).unwrap();
    assert_eq!(
        content,
        json!({ "session": "session", "id": "XNAT_E1", "of": "XNAT_S1", "at": "http://xnat.invalid", "cost": "$5" })
    );
    assert_eq!(values["task_info"]["tags"], json!(["QA", "urgent"]));
    let kept = values["task_info"]["callback_content"].as_str().unwrap();
    assert!(kept.contains("***"), "the secret is for TaskManager only: {kept}");
    // The rater completes the task.
    let client = reqwest::Client::new();
    let done = async |uri: &str| {
        let request = client.put(format!("{task_manager}{uri}")).basic_auth("admin", Some("secret"));
        let answer = request.json(&json!({ "status": "done" })).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    };
    done(values["task_uri"].as_str().unwrap()).await;
    let ended = station.reaches(1, ExecutionStatus::Finished).await;
    assert_eq!(ended.result, ExecutionResult::Success);
    // The group is completed when all its tasks are.
    let waiting = station.reaches(2, ExecutionStatus::Waiting).await;
    let group = super::values(&waiting);
    let answer: Value = serde_json::from_str(group["response_text"].as_str().unwrap()).unwrap();
    let tasks: Vec<&str> =
        answer["tasks"].as_array().unwrap().iter().map(|task| task["uri"].as_str().unwrap()).collect();
    assert_eq!((tasks.len(), group["task_uri"].as_str()), (2, answer["url"].as_str()));
    done(tasks[0]).await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(station.execution(2).await.status, ExecutionStatus::Waiting, "one of two is not all");
    done(tasks[1]).await;
    station.reaches(2, ExecutionStatus::Finished).await;
    let state = admin.get("/api/v2/experiments/1/state").await.expect(200);
    assert!(state.to_string().contains("\"done\""), "{state}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_cannot_be_made_say_why() {
    let task_manager = needed("TEST_TASKMANAGER_URL");
    let study = running_study().await;
    systems(&study, &task_manager).await;
    let tasks = study.home.path().join("tasks");
    std::fs::create_dir(&tasks).unwrap();
    std::fs::write(tasks.join("base.json"), "{}").unwrap();
    std::fs::write(tasks.join("wrong.json"), "{\n\"a\": \"$COLOUR\"}").unwrap();
    let netrc = study.home.path().join("netrc");
    std::fs::write(
        &netrc,
        format!("machine {} login admin password secret\n", task_manager.trim_start_matches("http://")),
    )
    .unwrap();
    let login = [("NETRC", netrc.to_str().unwrap())];
    for (arguments, settings, reason) in [
        ("task_base: base.json, task_info: {project: p, template: absent}", &login[..], "status 404: "),
        ("task_base: base.json, task_info: {project: p, template: manual_qa}", &[], "status 401: "),
        ("task_base: wrong.json, task_info: {}", &login, "line 2: $COLOUR is not one of"),
        ("task_base: ../base.json, task_info: {}", &login, "only accepts files directly in the project's tasks"),
        (
            "task_base: base.json, task_info: {}, taskmanager_external_system_name: OTHER",
            &login,
            "unknown external system 'OTHER'",
        ),
        ("task_base: base.json", &login, "missing field `task_info`"),
    ] {
        let said =
            failed_again(&study, &format!("function: create_task, callback_arguments: {{{arguments}}}"), settings)
                .await;
        assert!(said.contains(reason), "{said}");
    }
}
