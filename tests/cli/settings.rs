//! `studygovernor settings`, the documents that it writes, and values that are refused.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use studygovernor::config::{DefaultValue, Environment, Kind, Name, Reader, SETTINGS, Settings};

use super::{assert_clear, run};
use crate::support::{Program, Said, create_database, studygovernor};

#[test]
fn the_documents_are_those_that_the_program_writes() {
    let home = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (option, file) in [("--markdown", "docs/reference/settings.md"), ("--env", ".env.example")] {
        let written = std::fs::read_to_string(root.join(file)).unwrap();
        assert!(run(home.path(), &["settings", option]).out() == written, "{file} is old: run `make documents`");
    }
    let names: BTreeSet<&str> = SETTINGS.iter().map(|setting| setting.name.as_str()).collect();
    assert_eq!(names.len(), SETTINGS.len(), "each setting is declared once");
    let list: serde_json::Value = serde_json::from_str(&run(home.path(), &["settings", "--json"]).out()).unwrap();
    let listed = list["settings"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap());
    assert_eq!(listed.collect::<BTreeSet<_>>(), names);
}

/// Values of the example that select another database or broker when they are set.
const SELECTING: [&str; 5] =
    ["DB_SCHEMA", "DB_HOST", "STUDYGOV_BROKER_VHOST", "STUDYGOV_BROKER_USER", "STUDYGOV_BROKER_PASSWORD"];

#[test]
fn setting_each_default_of_the_example_changes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let shown = || {
        let output = studygovernor(home.path(), &["settings"]).env_remove("STUDYGOV_XNAT_PROJECT").output().unwrap();
        assert_clear(&output, 0, "");
        output.out()
    };
    let values = |text: &str| text.lines().map(|line| line.split("  (").next().unwrap().to_owned()).collect::<Vec<_>>();
    let before = shown();
    let example = run(home.path(), &["settings", "--env"]).out();
    let lines = example.lines().filter_map(|line| line.strip_prefix('#')?.split_once('='));
    let set: Vec<(&str, &str)> = lines.filter(|(name, value)| !name.contains(' ') && !value.is_empty()).collect();
    let set: Vec<(&str, &str)> = set.into_iter().filter(|(name, _)| !SELECTING.contains(name)).collect();
    assert!(set.len() > 40 && set.contains(&("STUDYGOV_PORT", "8000")), "{set:?}");
    let file: String = set.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    std::fs::write(home.path().join(".env"), file).unwrap();
    let after = shown();
    assert_eq!(values(&before), values(&after));
    assert_eq!(after.matches("(.env)").count(), set.len());
}

#[test]
fn the_settings_in_effect_are_shown_with_their_origins_and_without_secrets() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join(".env"), "STUDYGOV_PORT=8123\nSECRET_KEY_FILE=key\nSECURITY_CHANGEABLE=\n")
        .unwrap();
    std::fs::write(home.path().join("key"), "a-hidden-key-of-the-tests\n").unwrap();
    let command = |url: &str| {
        let mut command = studygovernor(home.path(), &["settings", "--set"]);
        command.env("DATABASE_URL", url).env("SECURITY_PASSWORD_SALT", "hidden-salt").env("STUDYGOV_PORT_", "1");
        command.env("STUDYGOV_SERVER", "http://u:hidden-login@h/").env("GUNICORN_WORKER_CLASS", "gevent");
        command.output().unwrap()
    };
    let output = command("postgresql://u:hidden-password@db/study");
    assert_clear(&output, 0, "warning: unknown setting STUDYGOV_PORT_; did you mean STUDYGOV_PORT?");
    let all = format!("{}{}", output.out(), output.err());
    assert!(!all.contains("hidden"), "{all}");
    for (name, value) in [
        ("STUDYGOV_PORT", "8123  (.env)".to_owned()),
        ("SECRET_KEY", format!("***  (file {})", home.path().join("key").display())),
        ("DATABASE_URL", "***  (environment)".to_owned()),
        ("STUDYGOV_SERVER", "***  (environment)".to_owned()),
        ("SECURITY_CHANGEABLE", "false  (empty, .env)".to_owned()),
    ] {
        let line = all.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap();
        assert!(line.ends_with(&format!("  {value}")), "{line}");
    }
    assert!(all.contains("Database: postgres://u:***@db/study") && !all.contains("STUDYGOV_HOST"), "{all}");
    assert!(all.contains("GUNICORN_WORKER_CLASS is accepted and ignored"), "{all}");

    // The list comes before the error; and looking at a folder changes nothing in it.
    let output = command("nonsense");
    assert_clear(&output, 2, "error: DATABASE_URL: this is not a database URL");
    assert!(output.out().contains("STUDYGOV_PORT"));
    let empty = tempfile::tempdir().unwrap();
    assert_clear(&run(empty.path(), &["settings"]), 0, "");
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0);
}

/// Values that a setting of this kind refuses.
fn nonsense(kind: Kind) -> Vec<String> {
    let texts: &[&str] = match kind {
        Kind::Text | Kind::Secret | Kind::Path => &[],
        Kind::Number(_, least, most) => {
            let mut values = vec!["many".to_owned(), "-1".to_owned(), "1.5".to_owned(), format!("{}", most + 1)];
            values.push("99999999999999999999999".to_owned());
            values.extend(least.checked_sub(1).map(|below| below.to_string()));
            return values;
        }
        Kind::Port(least) => {
            let mut values = vec!["eighty".to_owned(), "65536".to_owned(), "-1".to_owned()];
            values.extend(least.checked_sub(1).map(|below| below.to_string()));
            return values;
        }
        Kind::Flag | Kind::Switch => &["maybe", "2"],
        Kind::Choice(_) => &["pigeon"],
        Kind::Span => &["soon", "0 days", "5", "99999999999999999999 days", "5 days 3"],
        Kind::Time => &["soon", "1.5h", "99999999999999999999", "99999999999d"],
        Kind::Size => &["much", "4 XB", "0", "99999999999999999999 TB"],
        Kind::Prefix => &["/a b", "/a?b"],
        Kind::Host => &["no such host", "a/b"],
        Kind::Listen => &["nowhere", "host:port", "127.0.0.1:70000"],
        Kind::Url => &["nonsense", "ftp://h/"],
        Kind::Database | Kind::Broker => &["nonsense", "carrier://pigeon"],
        Kind::Mailbox | Kind::Mailboxes => &["nonsense", "@", "Study <study at example>"],
        Kind::Word => &["two words"],
        Kind::List => &["no such-thing/"],
        Kind::User => &["no-such-user", "-1"],
        Kind::Repository => &["nonsense", "ftp://h/x", "-u"],
        Kind::Branch => &["-b", "a..b", "a b"],
        Kind::Inside => &["..", "/etc", "a/.git"],
        Kind::Sync => &["hourly", "interval:5", "interval:0s"],
        Kind::Log => &["studygovernor=loud"],
    };
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// The settings without which this one is not read.
fn companions(name: Name) -> Vec<(&'static str, &'static str)> {
    let own = [("SECRET_KEY", "a key of the tests"), ("SECURITY_PASSWORD_SALT", "a salt of the tests")];
    let more: &[(&str, &str)] = match name.as_str() {
        "DB_HOST" | "DB_PORT" | "DB_SCHEMA" | "DB_SSL_MODE" => {
            &[("DB_SCHEMA", "mysql"), ("DB_HOST", "127.0.0.1"), ("DB_NAME", "d")]
        }
        "STUDYGOV_BROKER_PORT" | "STUDYGOV_BROKER_TLS" | "STUDYGOV_BROKER_PREFIX" => {
            &[("STUDYGOV_BROKER_HOST", "127.0.0.1"), ("STUDYGOV_CALLBACK_METHOD", "rabbitmq")]
        }
        "PROJECT_BRANCH" | "PROJECT_RELATIVE_PATH" | "STUDYGOV_PROJECT_SYNC" | "STUDYGOV_PROJECT_LOAD" => {
            &[("PROJECT_REPO", "/nowhere/study.git")]
        }
        name if name.contains("BROKER") => &[("STUDYGOV_CALLBACK_METHOD", "rabbitmq")],
        _ => &[],
    };
    own.iter().chain(more).copied().filter(|(other, _)| *other != name.as_str()).collect()
}

/// The program, ended after a minute: a value that is not refused would let it run.
fn limited(home: &Path, command: &str) -> Command {
    let program = studygovernor(home, &[]);
    let mut limited = Command::new("timeout");
    limited.arg("60").arg(program.get_program()).arg(command).current_dir(home).env_clear();
    limited.env("PATH", std::env::var_os("PATH").unwrap());
    limited
}

#[test]
fn each_setting_refuses_nonsense_with_its_name() {
    let home = tempfile::tempdir().unwrap();
    let mut walked = 0;
    for setting in SETTINGS {
        let (name, values) = (setting.name, nonsense(setting.name.kind()));
        assert_eq!(name.kind().is_checked(), !values.is_empty(), "{name}");
        let Some(value) = values.first() else { continue };
        walked += 1;
        let command = if setting.readers.contains(&Reader::Server) { "serve" } else { "worker" };
        let entries = companions(name);
        let output = limited(home.path(), command).envs(entries.iter().copied()).env(&*name, value).output().unwrap();
        assert_clear(&output, 2, &format!("error: {name}: "));
        if name.kind() == Kind::Log {
            continue;
        }
        for value in values {
            let all = entries.iter().copied().chain([(name.as_str(), value.as_str())]);
            let error = Settings::inspect(&all.collect(), home.path()).unwrap_err();
            assert_eq!(error.variable, name.as_str(), "{value}: {error}");
            assert!(!error.to_string().contains('\n') && error.problem.len() < 400, "{error}");
        }
    }
    assert!(walked > 50, "{walked}");
}

#[test]
fn each_secret_file_that_cannot_be_read_is_named() {
    let home = tempfile::tempdir().unwrap();
    let secrets: Vec<String> =
        SETTINGS.iter().filter(|one| one.name.kind().is_secret()).map(|one| format!("{}_FILE", one.name)).collect();
    assert!(secrets.len() > 10);
    for name in secrets {
        let output = limited(home.path(), "settings").env(&name, "absent/file").output().unwrap();
        assert_clear(&output, 2, &format!("error: {name}: cannot read absent/file"));
    }
}

#[test]
fn a_default_can_always_be_read() {
    let home = tempfile::tempdir().unwrap();
    Settings::inspect(&Environment::default(), home.path()).unwrap();
    for setting in SETTINGS {
        let DefaultValue::Is(text) = setting.name.default() else { continue };
        let entries = companions(setting.name).into_iter().chain([(setting.name.as_str(), text)]);
        let known = Settings::inspect(&entries.collect(), home.path());
        let needs_more = known.as_ref().err().map(|error: &studygovernor::config::SettingError| error.variable.clone());
        assert!(known.is_ok() || SELECTING.contains(&setting.name.as_str()), "{}: {needs_more:?}", setting.name);
    }
}

fn ready(program: &Program) -> Output {
    Command::new(env!("CARGO_BIN_EXE_studygovernor"))
        .args(["health", "--url", &program.url])
        .env_remove("STUDYGOV_LOG")
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_works_at_the_limits_of_all_numbers() {
    crate::support::use_condition_worker();
    for (variable, is_most) in [
        (None, true),
        (None, false),
        (Some("TEST_POSTGRES_URL"), true),
        (Some("TEST_MARIADB_URL"), true),
        (Some("TEST_MARIADB_URL"), false),
    ] {
        let home = tempfile::tempdir().unwrap();
        let mut command = studygovernor(home.path(), &["serve"]);
        for name in SETTINGS.iter().map(|setting| setting.name) {
            if let Kind::Number(_, least, most) = name.kind() {
                command.env(&*name, if is_most { most } else { least }.to_string());
            }
        }
        if let Some(variable) = variable {
            command.env("DATABASE_URL", create_database(variable).await);
            command.env("SECRET_KEY", "a key of the tests").env("SECURITY_PASSWORD_SALT", "a salt of the tests");
        }
        let program = Program::start(command);
        assert_clear(&ready(&program), 0, "");
        assert_eq!(program.terminate(), Some(0), "{variable:?}, most: {is_most}");
    }
}
