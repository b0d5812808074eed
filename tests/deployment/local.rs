//! The local development that the documentation of version 8.1 describes, step by step, with the `.env` file that it shows.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use reqwest::StatusCode;
use sea_orm::{ConnectionTrait, Database};

use crate::support::{Program, Said, studygovernor, use_condition_worker};

#[tokio::test(flavor = "multi_thread")]
async fn the_local_development_of_version_8_1_runs_as_it_is_described() {
    use_condition_worker();
    // The statements, with names of this test in place of `studygovernor`.
    let server = std::env::var("TEST_MARIADB_URL").expect("run the tests with `make test`");
    let name = format!("test_{}", &uuid::Uuid::new_v4().simple().to_string()[..20]);
    let administrator = Database::connect(&server).await.unwrap();
    for statement in [
        format!("CREATE USER '{name}'@'localhost' IDENTIFIED BY 'blaat123'"),
        format!("CREATE DATABASE {name}"),
        format!("GRANT ALL PRIVILEGES ON {name}.* TO '{name}'@'localhost'"),
    ] {
        administrator.execute_unprepared(&statement).await.unwrap();
    }

    let port = url::Url::parse(&server).unwrap().port().unwrap();
    let home = tempfile::tempdir().unwrap();
    let text = format!(
        "FLASK_APP=studygovernor\n\
         SQLALCHEMY_DATABASE_URI = \"mysql+pymysql://{name}:blaat123@localhost:{port}/{name}\"\n\
         SECURITY_PASSWORD_SALT = \"some_random_text\"\n\
         SECRET_KEY=\"another_random_text\"\n\
         STUDYGOV_XNAT_PROJECT=\"TEST\"\n"
    );
    std::fs::write(home.path().join(".env"), text).unwrap();
    let command = |arguments: &[&str]| {
        let mut command = studygovernor(home.path(), arguments);
        command.env_remove("STUDYGOV_XNAT_PROJECT");
        command
    };
    let shown = command(&["settings", "--set"]).output().unwrap().out();
    assert!(shown.contains("TEST  (.env)") && shown.contains("Database: mysql://"), "{shown}");

    // One command starts it, an account is made beside it, and its user logs in.
    let program = Program::start(command(&["serve"]));
    let password = "a long password of the tests";
    let mut account = command(&["user", "create", "ann", "--email", "ann@example.org", "--role", "admin"]);
    account.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut making = account.spawn().unwrap();
    writeln!(making.stdin.take().unwrap(), "{password}").unwrap();
    let made = making.wait_with_output().unwrap();
    assert_eq!(made.status.code(), Some(0), "{}", made.err());
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let answer = client
        .post(format!("{}/login", program.url))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(format!("login=ann&password={}", password.replace(' ', "+")))
        .timeout(Duration::from_mins(1))
        .send()
        .await
        .unwrap();
    assert_eq!((answer.status(), &answer.headers()["location"]), (StatusCode::SEE_OTHER, &"/".parse().unwrap()));

    let log = program.log();
    assert!(log.contains("FLASK_APP is accepted and ignored"), "{log}");
    assert!(!log.contains("STUDYGOV_XNAT_PROJECT is not set") && !log.contains("/.env is not"), "{log}");
    drop(program);
    for statement in [format!("DROP DATABASE {name}"), format!("DROP USER '{name}'@'localhost'")] {
        administrator.execute_unprepared(&statement).await.unwrap();
    }
}
