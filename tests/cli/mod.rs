//! The program as a process: messages, exit codes, crashes.

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use sea_orm::{ConnectionTrait, EntityTrait};
use studygovernor::clock::Clock;
use studygovernor::config::DatabaseSettings;
use studygovernor::database::Database;
use studygovernor::engine::Engine;
use studygovernor::entity::callback_execution;
use studygovernor::entity::kind::{ExecutionResult, ExecutionStatus};

use crate::support::{Program, Said, eventually, ledger_problems, studygovernor};

mod settings;

const WORKFLOW: &str = "label: w\nstates:\n  - {label: r, transitions: [{destination: s}]}\n  - {label: s, transitions: [{destination: e}]}\n  - {label: e}\n";
const TABLE: &str = "subject,date_of_birth,experiment,scan_date,var:age\ns1,1950-01-01,e1,2024-01-01,74\ns2,1960-01-01,e2,2024-01-02,64\n";

fn run(directory: &Path, arguments: &[&str]) -> Output {
    studygovernor(directory, arguments).output().unwrap()
}

fn assert_clear(output: &Output, code: i32, words: &str) {
    let said = output.err();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(words), "wanted {words:?} in {said:?}");
    assert!(!said.contains("panicked") && !said.contains("stack backtrace"), "{said}");
    let errors = said.lines().filter(|line| line.starts_with("error: ")).count();
    assert!(errors <= 1, "one sentence, not {errors}: {said}");
}

#[test]
fn every_command_has_help() {
    let home = tempfile::tempdir().unwrap();
    for command in [
        "",
        "serve",
        "worker",
        "db",
        "db migrate",
        "db status",
        "db clean",
        "db backup",
        "workflow",
        "workflow load",
        "workflow check",
        "workflow upgrade",
        "workflow list",
        "workflow show",
        "workflow schema",
        "import",
        "import bids",
        "import csv",
        "user",
        "user create",
        "audit",
        "audit verify",
        "audit seal",
        "kubernetes make-secrets",
        "secrets make",
        "settings",
        "completions",
        "manual",
        "demo",
        "health",
    ] {
        let mut arguments: Vec<&str> = command.split_whitespace().collect();
        arguments.push("--help");
        let output = run(home.path(), &arguments);
        assert_eq!(output.status.code(), Some(0), "{command}: {}", output.err());
        assert!(output.out().contains("Usage: studygovernor"), "{command}");
    }
    assert_eq!(run(home.path(), &["--version"]).out().trim(), concat!("studygovernor ", env!("CARGO_PKG_VERSION")));
    assert_eq!(run(home.path(), &["fly"]).status.code(), Some(2));
}

#[test]
fn wrong_settings_end_in_one_sentence_and_exit_code_2() {
    let home = tempfile::tempdir().unwrap();
    for (name, value, words) in [
        ("STUDYGOV_PORT", "eighty", "STUDYGOV_PORT: 'eighty' is not a port number"),
        ("DATABASE_URL", "nonsense", "DATABASE_URL: this is not a database URL"),
        ("SQLALCHEMY_DATABASE_URI", "oracle://u@h/d", "SQLALCHEMY_DATABASE_URI: 'oracle://…' is not"),
        ("DATABASE_URL", "postgresql+psycopg2://u:p@127.0.0.1:1/d", "SECRET_KEY: is required"),
        ("STUDYGOV_CALLBACK_METHOD", "pigeon", "STUDYGOV_CALLBACK_METHOD: 'pigeon'"),
        ("STUDYGOV_PROJECT_HOME", "absent/folder", "SECRET_KEY: is not set and cannot be stored in"),
    ] {
        let output = studygovernor(home.path(), &["serve"]).env(name, value).output().unwrap();
        assert_clear(&output, 2, words);
    }
    std::fs::write(home.path().join(".env"), "STUDYGOV_PORT=eighty\n").unwrap();
    assert_clear(&run(home.path(), &["serve"]), 2, "STUDYGOV_PORT: 'eighty'");
    std::fs::write(home.path().join(".env"), b"NAME=\xff\n").unwrap();
    assert_clear(&run(home.path(), &["serve"]), 2, ".env");
}

#[test]
fn what_is_not_there_ends_in_one_sentence_and_exit_code_1() {
    let home = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = studygovernor(home.path(), &["serve"]).env("STUDYGOV_PORT", &port).output().unwrap();
    assert_clear(&output, 1, &format!("cannot listen on 127.0.0.1:{port}"));
    assert!(output.err().contains("set STUDYGOV_PORT to a free one"));

    for url in ["postgresql+psycopg2://u:secretword@127.0.0.1:1/d", "mysql+pymysql://u:secretword@127.0.0.1:1/d"] {
        let mut command = studygovernor(home.path(), &["db", "status"]);
        command.env("DATABASE_URL", url).env("SECRET_KEY", "k").env("SECURITY_PASSWORD_SALT", "s");
        let output = command.output().unwrap();
        assert_clear(&output, 1, "error: cannot open the database");
        assert!(output.err().contains("refused"), "{}", output.err());
        assert!(!output.err().contains("secretword"), "{}", output.err());
    }

    // The folder cannot be written, because it belongs to another user or the disk is read-only. /proc is such a folder
    // for root, too.
    let mut command = studygovernor(home.path(), &["db", "migrate"]);
    command.env("DATABASE_URL", "sqlite:////proc/study.db").env("SECRET_KEY", "k").env("SECURITY_PASSWORD_SALT", "s");
    assert_clear(&command.output().unwrap(), 1, "cannot open the SQLite file /proc/study.db");

    assert_clear(&run(home.path(), &["workflow", "load", "absent.yaml"]), 1, "cannot read absent.yaml");
    assert_clear(&run(home.path(), &["import", "bids", "absent", "--cohort", "c"]), 1, "cannot read absent");
    assert_clear(&run(home.path(), &["import", "csv", "absent.csv"]), 1, "cannot read absent.csv");
    assert_clear(&run(home.path(), &["health", "--url", "http://127.0.0.1:1"]), 1, "no response");
    assert_clear(&run(home.path(), &["health", "--url", "nonsense"]), 1, "not a valid URL");
}

#[test]
fn a_workflow_is_checked_loaded_shown_and_upgraded() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("w.yaml");
    std::fs::write(&file, WORKFLOW.replace("destination: e}", "destination: x, condition: 1 +}")).unwrap();
    let output = run(home.path(), &["workflow", "check", "w.yaml"]);
    assert_clear(&output, 1, "w.yaml: line 4, column 44: error: unknown state 'x'");
    assert!(output.err().contains("w.yaml: line 4, column 61: error: condition: "), "{}", output.err());
    assert_clear(&run(home.path(), &["workflow", "load", "w.yaml"]), 1, "error: w.yaml has 2 errors");
    assert!(!home.path().join("studygovernor.db").exists(), "a bad file touches no database");

    std::fs::write(&file, WORKFLOW).unwrap();
    assert_clear(&run(home.path(), &["workflow", "check", "w.yaml"]), 0, "is valid");
    assert_clear(&run(home.path(), &["workflow", "load", "w.yaml"]), 0, "workflow w loaded with 3 states");
    assert_clear(&run(home.path(), &["workflow", "load", "w.yaml"]), 1, "Workflow w already exists.");
    assert_clear(&run(home.path(), &["workflow", "load", "w.yaml", "--if-missing"]), 0, "already loaded");
    assert_eq!(run(home.path(), &["workflow", "list"]).out(), "1\tw\t3 states\t0 experiments\n");
    for source in ["w", "1", "w.yaml"] {
        assert!(run(home.path(), &["workflow", "show", source]).out().starts_with("digraph \"w\" {"), "{source}");
        assert!(run(home.path(), &["workflow", "show", source, "--format", "svg"]).out().starts_with("<svg "));
    }
    assert_clear(&run(home.path(), &["workflow", "show", "absent"]), 1, "unknown workflow 'absent'");
    run(home.path(), &["workflow", "show", "w", "--format", "svg", "--output", "w.svg"]);
    assert!(home.path().join("w.svg").is_file());

    std::fs::write(
        &file,
        format!("{WORKFLOW}  - {{label: more, freetext: x, transitions: [{{destination: e}}]}}\n")
            .replace("{destination: e}]}\n  - {label: e}", "{destination: e}, {destination: more}]}\n  - {label: e}"),
    )
    .unwrap();
    let plan = run(home.path(), &["workflow", "upgrade", "w.yaml"]);
    assert_clear(&plan, 0, "dry run");
    assert_eq!(plan.out(), "add state more\nadd transition s → more (always)\nadd transition more → e (always)\n");
    assert_clear(&run(home.path(), &["workflow", "upgrade", "w.yaml", "--apply"]), 0, "3 changes applied");
    assert_clear(&run(home.path(), &["workflow", "upgrade", "w.yaml", "--apply"]), 0, "already up to date");
}

#[test]
fn a_table_with_a_bad_row_writes_nothing_unless_told_to() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("w.yaml"), WORKFLOW).unwrap();
    std::fs::write(home.path().join("t.csv"), format!("{TABLE}s3,soon,e3,2024-01-01,\n")).unwrap();
    let import = |more: &[&str]| run(home.path(), &[&["import", "csv", "t.csv", "--cohort", "c"], more].concat());
    assert_clear(&import(&[]), 1, "line 4: date_of_birth: 'soon' is not a valid date");
    assert_clear(&import(&["--skip-bad-rows"]), 1, "no workflow has been loaded yet");
    run(home.path(), &["workflow", "load", "w.yaml"]);
    assert_clear(&import(&["--skip-bad-rows", "--workflow", "other"]), 1, "unknown workflow 'other'");
    let planned = import(&["--skip-bad-rows", "--dry-run"]);
    assert_eq!(
        planned.out(),
        "would be added: 1 cohorts, 2 subjects, 2 experiments, 0 scans; 0 experiments already exist\n"
    );
    assert!(import(&["--skip-bad-rows"]).out().starts_with("added: 1 cohorts, 2 subjects, 2 experiments"));
    assert!(import(&["--skip-bad-rows"]).out().starts_with("added: 0 cohorts, 0 subjects, 0 experiments"));
    assert_eq!(run(home.path(), &["workflow", "list"]).out(), "1\tw\t3 states\t2 experiments\n");
}

#[test]
fn the_database_is_migrated_described_and_cleaned() {
    use migration::MigratorTrait;

    let home = tempfile::tempdir().unwrap();
    let status = run(home.path(), &["db", "status"]);
    assert_eq!(status.status.code(), Some(1));
    assert!(status.out().lines().all(|line| line.starts_with("pending ")));
    let all = migration::Migrator::migrations().len();
    assert_clear(&run(home.path(), &["db", "migrate"]), 0, &format!("{all} migrations applied"));
    assert_clear(&run(home.path(), &["db", "migrate"]), 0, "0 migrations applied");
    assert_eq!(run(home.path(), &["db", "status"]).status.code(), Some(0));
    assert_clear(&run(home.path(), &["db", "clean"]), 2, "use --yes");
    assert_clear(&run(home.path(), &["db", "clean", "--yes"]), 0, "is now empty");
    assert_eq!(run(home.path(), &["db", "status"]).status.code(), Some(1));
}

/// The database of version 8.1 is not changed: it may contain the only data of a study.
#[tokio::test(flavor = "multi_thread")]
async fn the_database_of_another_program_is_left_alone() {
    use crate::support::create_database;
    for (variable, tables) in [
        ("TEST_POSTGRES_URL", "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"),
        ("TEST_MARIADB_URL", "SELECT count(*) FROM information_schema.tables WHERE table_schema = database()"),
    ] {
        let home = tempfile::tempdir().unwrap();
        let url = create_database(variable).await;
        let connection = sea_orm::Database::connect(&url).await.unwrap();
        connection.execute_unprepared("CREATE TABLE workflow (id INTEGER PRIMARY KEY)").await.unwrap();
        let mut command = studygovernor(home.path(), &["db", "migrate"]);
        command.env("DATABASE_URL", &url).env("SECRET_KEY", "a key of the tests").env("SECURITY_PASSWORD_SALT", "x");
        assert_clear(&command.output().unwrap(), 1, "tables of another program, such as Study Governor 8.1");
        let count = sea_orm::Statement::from_string(connection.get_database_backend(), tables);
        let count: i64 = connection.query_one_raw(count).await.unwrap().unwrap().try_get_by_index(0).unwrap();
        assert_eq!(count, 1, "nothing was made");
    }
}

#[test]
fn an_account_is_made_with_a_password_from_the_standard_input() {
    let home = tempfile::tempdir().unwrap();
    let create = |name: &str, role: &str, password: &str| {
        let mut command = studygovernor(home.path(), &["user", "create", name, "--role", role]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    assert_clear(&create("ada", "admin", "a long password\n"), 0, "ada can now log in");
    assert_clear(&create("ada", "admin", "a long password\n"), 1, "already");
    assert_clear(&create("bob", "king", "a long password\n"), 1, "unknown role 'king'");
    assert_clear(&create("eve", "user", ""), 2, "no password");
    assert_clear(&create(" ", "user", "x\n"), 1, "username: is empty");
    let mut command = studygovernor(home.path(), &["user", "create", "fay", "--inactive"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"a long password\n").unwrap();
    assert_clear(&child.wait_with_output().unwrap(), 0, "fay can log in after an administrator activates the account");
}

/// On a terminal, the password is not shown and has to be repeated.
#[test]
fn a_password_that_is_typed_is_not_shown() {
    let home = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/terminal.py");
    let typed = |lines: [&str; 2]| {
        let mut command = std::process::Command::new(std::env::var("TEST_PYTHON").unwrap());
        command.arg(&script).args(lines).args(["--", env!("CARGO_BIN_EXE_studygovernor"), "user", "create", "ada"]);
        let output = command.current_dir(home.path()).env_clear().output().unwrap();
        (output.status.code(), output.out(), output.err())
    };
    let (code, shown, err) = typed(["a long password", "another password"]);
    assert!(code == Some(2) && shown.contains("the passwords do not match"), "{code:?} {shown}{err}");
    let (code, shown, err) = typed(["a long password", "a long password"]);
    assert!(code == Some(0) && shown.contains("ada can now log in"), "{code:?} {shown}{err}");
    assert!(!shown.contains("a long password"), "{shown}");
}

/// The server is killed while callbacks run; after the restart they run again as the next attempt, and every experiment
/// reaches its end (Q3, Q4).
#[tokio::test(flavor = "multi_thread")]
async fn q4_a_server_killed_with_sigkill_loses_no_callback() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("bin")).unwrap();
    let script = home.path().join("bin/work.sh");
    std::fs::write(&script, "#!/bin/sh\necho \"$1\" >> \"$STUDYGOV_PROJECT_HOME/effects\"\nsleep 3\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let workflow = "label: w\nstates:\n  - {label: r, transitions: [{destination: s}]}\n  - label: s\n    callbacks: [{label: work, function: external_program, callback_arguments: {binary: work.sh, args: [$CALLBACK_EXECUTION]}}]\n    transitions: [{destination: e, condition: \"callbacks['work'].result == 'success'\"}]\n  - {label: e}\n";
    std::fs::write(home.path().join("w.yaml"), workflow).unwrap();
    let mut table = "subject,date_of_birth,experiment,scan_date\n".to_owned();
    for number in 0..12 {
        table.push_str(&format!("s{number},1950-01-01,e{number},2024-01-01\n"));
    }
    std::fs::write(home.path().join("t.csv"), table).unwrap();
    assert_clear(&run(home.path(), &["workflow", "load", "w.yaml"]), 0, "loaded");
    assert!(run(home.path(), &["import", "csv", "t.csv", "--cohort", "c"]).status.success());

    let start = || {
        let mut command = studygovernor(home.path(), &["serve"]);
        command.env("STUDYGOV_LEASE_SECONDS", "5").env("STUDYGOV_WORKER_CONCURRENCY", "6");
        Program::start(command)
    };
    let effects = || std::fs::read_to_string(home.path().join("effects")).unwrap_or_default();
    let first = start();
    eventually("six to run", async || (effects().lines().count() >= 6).then_some(())).await;
    drop(first);

    let url = format!("sqlite:///{}", home.path().join("studygovernor.db").display());
    let database = Database::connect(&DatabaseSettings::parse("x", &url).unwrap()).await.unwrap();
    let engine = Engine::new(database.clone(), Clock::System);
    let all = async || callback_execution::Entity::find().all(database.reader()).await.unwrap();
    let running = all().await.iter().filter(|one| one.status == ExecutionStatus::Running).count();
    assert!(running >= 1, "killed too late");

    let second = start();
    eventually("all to arrive", async || {
        all().await.iter().all(|one| one.status == ExecutionStatus::Finished).then_some(())
    })
    .await;
    let executions = all().await;
    assert_eq!(executions.len(), 12);
    assert!(executions.iter().all(|one| one.result == ExecutionResult::Success), "{executions:#?}");
    assert_eq!(executions.iter().filter(|one| one.attempt == 2).count(), running, "exactly the lost ones run again");
    let text = effects();
    // Each server listens on its own port here.
    let id = |line: &str| line.rsplit('/').next().map(str::to_owned);
    let distinct: std::collections::HashSet<_> = text.lines().map(id).collect();
    assert_eq!(distinct.len(), 12, "each effect is there at least once");
    let problems = ledger_problems(&engine).await;
    assert!(problems.is_empty(), "{problems:#?}");
    assert_eq!(second.terminate(), Some(0));
}

#[test]
fn a_server_is_healthy_until_it_is_told_to_stop() {
    let home = tempfile::tempdir().unwrap();
    let server = Program::start(studygovernor(home.path(), &["serve"]));
    let output = run(home.path(), &["health", "--url", &server.url]);
    assert_eq!((output.out().as_str(), output.status.code()), ("ready\n", Some(0)));
    assert!(server.log().contains("no accounts exist yet"));
    let began = std::time::Instant::now();
    assert_eq!(server.terminate(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(30));
}

/// The format that users of version 8.1 have.
#[tokio::test(flavor = "multi_thread")]
async fn a_dotenv_file_of_before_is_read() {
    let home = tempfile::tempdir().unwrap();
    let file = "STUDYGOV_INSTANCE_NAME=It's the Study\nmade by hand\nSECURITY_PASSWORD_SALT=ab$cd\nSTUDYGOV_PORT=0\n";
    std::fs::write(home.path().join(".env"), file).unwrap();
    let server = Program::start(studygovernor(home.path(), &["serve"]));
    assert!(server.log().contains(".env is not NAME=value") && server.log().contains("line 2 of"));
    assert!(!server.log().contains("made by hand"), "it may be a secret");
    crate::people::Visitor::at(&server.url).get("/login").await.shows(200, "It&#x27;s the Study");
}

#[test]
fn a_misspelled_setting_is_pointed_out() {
    let home = tempfile::tempdir().unwrap();
    let mut command = studygovernor(home.path(), &["serve"]);
    command.env("STUDYGOV_INSTANCE_NAM", "x").env("GUNICORN_WORKER_CLASS", "gevent");
    let server = Program::start(command);
    assert!(server.log().contains("did you mean STUDYGOV_INSTANCE_NAME?"), "{}", server.log());
    assert!(server.log().contains("GUNICORN_WORKER_CLASS is accepted and ignored"), "{}", server.log());
}

/// A file name is not a URL: blanks, `?`, `%` and `#` are ordinary characters.
#[test]
fn a_database_lies_in_a_file_of_any_name() {
    let home = tempfile::tempdir().unwrap();
    for name in ["sub dir", "a?b", "a%20b", "ü#1", "a&b=c"] {
        let folder = home.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let mut command = studygovernor(home.path(), &["db", "migrate"]);
        let output = command.env("STUDYGOV_PROJECT_HOME", name).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{name}: {}", output.err());
        assert!(folder.join("studygovernor.db").is_file(), "{name}");
        let mut command = studygovernor(home.path(), &["db", "status"]);
        assert_eq!(command.env("STUDYGOV_PROJECT_HOME", name).output().unwrap().status.code(), Some(0), "{name}");
    }
    let mut command = studygovernor(home.path(), &["db", "migrate"]);
    command.env("DATABASE_URL", "sqlite:///sub dir/x%41.db").env("SECRET_KEY", "k").env("SECURITY_PASSWORD_SALT", "s");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", output.err());
    assert!(home.path().join("sub dir/x%41.db").is_file());
}
