//! Isolation of a callback's program: the data of the server or worker that it can read, and the account under which it
//! runs.

use serde_json::{Value, json};
use studygovernor::entity::callback_execution;
use studygovernor::entity::kind::{ExecutionResult, ExecutionStatus};

use super::{run_with, running_study, values, workflow};
use crate::support::{Backend, Station, eventually};

const SECRETS: [(&str, &str); 9] = [
    ("PGPASSWORD", "marked-SECRET-1"),
    ("AWS_SECRET_ACCESS_KEY", "marked-SECRET-2"),
    ("AWS_PROFILE", "marked-SECRET-3"),
    ("MAIL_PASSWORD", "marked-SECRET-4"),
    ("GITHUB_TOKEN", "marked-SECRET-5"),
    ("OUR_URL", "https://user:marked-SECRET-6@example.org/"),
    ("STUDYGOV_ADMIN_PASSWORD", "marked-SECRET-7"),
    ("SECURITY_PASSWORD_SALT", "marked-SECRET-8"),
    ("SECRET_KEY", "marked-SECRET-9"),
];

/// Everything that a program can read: its own environment, that of each ancestor process, and their open files.
const LOOK: &str = "env; p=$$; while [ \"$p\" -gt 1 ]; do tr '\\0' '\\n' </proc/$p/environ; \
                    for f in /proc/$p/fd/*; do case $(readlink $f) in /memfd:*) echo file $p; cat $f;; esac; done; \
                    echo \"above $p $(cat /proc/$p/comm)\"; [ $(cat /proc/$p/comm) = studygovernor ] && exit 0; p=$(sed 's/.*) . //; s/ .*//' /proc/$p/stat); done";

fn shell(line: &str) -> String {
    format!("function: command, callback_arguments: {{binary: sh, args: [-c, {}]}}", json!(line))
}

async fn ended(station: &Station) -> callback_execution::Model {
    let ended = station.reaches(1, ExecutionStatus::Finished).await;
    assert_eq!(ended.result, ExecutionResult::Success, "{:?}", ended.run_log);
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_find_no_secret_in_any_environment() {
    for is_embedded in [true, false] {
        let station = Station::new(Backend::Sqlite).await;
        let admin_password = ("STUDYGOV_ADMIN_PASSWORD", "admin");
        let secrets: Vec<(&str, &str)> = SECRETS.into_iter().filter(|one| one.0 != admin_password.0).collect();
        let more = [
            ("STUDYGOV_CALLBACK_ENVIRONMENT", "OUR_LICENSE,OUR_L*"),
            ("OUR_LICENSE", "a-license"),
            ("OTHER", "not-added"),
        ];
        let environment: Vec<(&str, &str)> = secrets.iter().copied().chain(more).collect();
        let method = if is_embedded { "local" } else { "rabbitmq" };
        let own = [("STUDYGOV_CALLBACK_METHOD", method), admin_password];
        let server = station.server(&environment.iter().copied().chain(own).collect::<Vec<_>>());
        let _worker = (!is_embedded).then(|| station.worker(&[], &environment));
        station.load(&server, &workflow(&shell(LOOK))).await;
        station.create(&server, "session").await;
        let output = values(&ended(&station).await)["stdout"].as_str().unwrap().to_owned();
        // It has read the server or the worker.
        assert!(output.lines().any(|line| line.starts_with("above ") && line.ends_with(" studygovernor")), "{output}");
        let found: Vec<&str> = output.lines().filter(|line| line.contains("SECRET-")).collect();
        assert!(found.is_empty(), "{found:?}");
        let password = station.broker.split(['/', ':', '@']).nth(4).unwrap();
        assert!(!output.contains(&format!(":{password}@")), "{output}");
        assert!(output.contains("OUR_LICENSE=a-license") && output.contains("PATH="), "{output}");
        let own = output.split("above ").next().unwrap();
        assert!(!own.contains("not-added"), "{own}");
        assert!(own.contains("STUDYGOV_EXECUTION_ID=1") && own.contains("STUDYGOV_PROJECT_HOME="), "{own}");
    }
}

/// The settings still contain the secrets that are no longer in the environment.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_uses_the_secrets_that_it_took_out_of_its_environment() {
    let station = Station::new(Backend::Postgres).await;
    let mut address = url::Url::parse(&station.database).unwrap();
    let password = address.password().unwrap_or("any").to_owned();
    address.set_password(None).unwrap();
    let server = station.server(&[("DATABASE_URL", address.as_str()), ("PGPASSWORD", &password)]);
    let environment = std::fs::read(format!("/proc/{}/environ", server.id())).unwrap();
    let environment = String::from_utf8_lossy(&environment).into_owned();
    assert!(environment.contains("STUDYGOV_SEALED=") && !environment.contains("PASSWORD="), "{environment}");
    let name = std::fs::read_to_string(format!("/proc/{}/comm", server.id())).unwrap();
    assert_eq!(name.trim(), "studygovernor", "it is found by its name");
    station.load(&server, &workflow("function: sleep")).await;
    assert!(!server.log().contains("STUDYGOV_SEALED"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_run_as_another_user() {
    if !rustix::process::geteuid().is_root() {
        let environment = [("STUDYGOV_CALLBACK_USER", "0")].into_iter().collect();
        let refused = studygovernor::config::ProgramSettings::read(&environment).unwrap_err();
        assert!(refused.to_string().contains("if Study Governor runs as root"), "{refused}");
        return;
    }
    let study = running_study().await;
    let private = study.home.path().join("private");
    std::fs::write(&private, "the database").unwrap();
    std::fs::set_permissions(&private, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let line = format!(
        "id -u; id -g; id -G; echo $HOME; cat {} 2>&1 | sed 's/.*: //'; kill -0 $PPID 2>&1 | wc -l",
        private.display()
    );
    let line = format!("{line}; setsid sleep 1000 >/dev/null 2>&1 & echo left $!");
    let settings = [("STUDYGOV_CALLBACK_USER", "65534:65533")];
    let ended = run_with(&study, &shell(&line), &settings).await;
    let values = values(&ended);
    let lines: Vec<&str> = values["stdout"].as_str().unwrap().lines().collect();
    assert!(lines.starts_with(&["65534", "65533", "65533"]), "{lines:?}");
    let left: i32 = lines.iter().find_map(|line| line.strip_prefix("left ")).unwrap().parse().unwrap();
    assert!(lines.contains(&"Permission denied"), "{lines:?}");
    eventually("what it left to be gone", async || super::is_gone(left).then_some(())).await;

    // Python writes its answer to a file that it may write.
    let python = std::env::var("TEST_PYTHON").expect("TEST_PYTHON is not set: run the tests with `make test`");
    let readable = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65533", "--clear-groups", &python, "-c", "import os"])
        .status();
    if readable.is_ok_and(|status| status.success()) {
        let study = running_study().await;
        let callback =
            "function: python_function, callback_arguments: {module: os, function: getuid, pass_callback_data: false}";
        let ended = run_with(&study, callback, &[settings[0], ("STUDYGOV_PYTHON", &python)]).await;
        assert_eq!(super::values(&ended)["return_value"], json!(65534), "{:?}", ended.run_log);
    }
}

/// A report is limited by the bytes that are sent: a control character has six of them in JSON.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_full_of_control_characters_arrives() {
    let station = Station::new(Backend::Sqlite).await;
    let server = station.server(&[]);
    let noise = "head -c 1500000 /dev/zero | tr '\\0' '\\1'";
    let line =
        format!("echo first; {noise}; echo last; ({noise}; echo end) >&2; echo '__VALUES__ = {{\"n\": 5}}'; sleep 3");
    station.load(&server, &workflow(&shell(&line))).await;
    let worker = station.worker(&[], &[]);
    station.create(&server, "session").await;
    let log: String = eventually("a heartbeat with the log", async || {
        station.execution(1).await.run_log.filter(|log| log.contains("bytes omitted"))
    })
    .await;
    assert!(serde_json::to_string(&log).unwrap().len() < 3 * 1024 * 1024);
    let ended = ended(&station).await;
    let values = values(&ended);
    assert_eq!(values["values"], json!({ "n": 5 }));
    let stdout = values["stdout"].as_str().unwrap();
    assert!(stdout.starts_with("first\n") && stdout.contains("last\n") && stdout.contains("bytes omitted"));
    assert!(values["stderr"].as_str().unwrap().ends_with("end\n"));
    assert!(!worker.log().contains("413"), "{}", worker.log());

    // Result values are data and are not truncated: the run fails with an explanation.
    let value: Value = json!("\u{1}".repeat(170_000));
    let many = vec![value; 14];
    let study = running_study().await;
    let file = study.home.path().join("values.py");
    std::fs::write(
        &file,
        format!("def many():\n    import json\n    return json.loads({:?})\n", json!(many).to_string()),
    )
    .unwrap();
    let python = std::env::var("TEST_PYTHON").expect("TEST_PYTHON is not set: run the tests with `make test`");
    let settings = [
        ("STUDYGOV_PYTHON", python.as_str()),
        ("STUDYGOV_CALLBACK_ENVIRONMENT", "PYTHONPATH"),
        ("PYTHONPATH", study.home.path().to_str().unwrap()),
    ];
    let callback =
        "function: python_function, callback_arguments: {module: values, function: many, pass_callback_data: false}";
    let failed = run_with(&study, callback, &settings).await;
    assert_eq!(failed.result, ExecutionResult::Failed);
    let said = super::values(&failed)["__exception__"].to_string();
    assert!(said.contains("MiB as JSON; the limit is 12 MiB"), "{said}");
}
