//! The study's files from a git repository: real repositories, and servers and workers as processes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use serde_json::Value;
use studygovernor::callback::FUNCTIONS;
use studygovernor::clock::Clock;
use studygovernor::config::{Environment, WorkSettings};
use studygovernor::entity::kind::{ExecutionResult, ExecutionStatus};
use studygovernor::project::{Keeper, Project, noted};
use tempfile::TempDir;

use crate::api::Caller;
use crate::support::{Backend, Program, Said, Station, Study, ctx, eventually, on_every_database, studygovernor};
use crate::web::Browser;

/// A bare repository and a working copy.
struct Repository {
    root: TempDir,
}

impl Repository {
    /// The study is in the folder `study` of the branch `main`.
    fn new() -> Self {
        let new = Self { root: tempfile::tempdir().unwrap() };
        new.git(new.root.path(), &["init", "--quiet", "--bare", "-b", "main", "bare"]);
        new.git(new.root.path(), &["clone", "--quiet", "bare", "copy"]);
        new.git(&new.copy(), &["checkout", "--quiet", "-B", "main"]);
        new
    }

    fn bare(&self) -> PathBuf {
        self.root.path().join("bare")
    }

    fn address(&self) -> String {
        self.bare().display().to_string()
    }

    fn copy(&self) -> PathBuf {
        self.root.path().join("copy")
    }

    fn git(&self, folder: &Path, arguments: &[&str]) -> String {
        let mut command = Command::new("git");
        command.args(arguments).current_dir(folder).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        for role in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{role}_NAME"), "test").env(format!("GIT_{role}_EMAIL"), "test@example.org");
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", output.err());
        output.out().trim().to_owned()
    }

    /// Commits files and pushes them; returns the id of the commit.
    fn push(&self, files: &[(&str, &str)]) -> String {
        for (name, text) in files {
            let path = self.copy().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            #[cfg(unix)]
            if text.starts_with("#!") {
                use std::os::unix::fs::PermissionsExt;
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        self.git(&self.copy(), &["add", "--all"]);
        self.git(&self.copy(), &["commit", "--quiet", "--allow-empty", "-m", "a change"]);
        self.git(&self.copy(), &["push", "--quiet", "origin", "main"]);
        self.git(&self.copy(), &["rev-parse", "HEAD"])
    }
}

const WORKFLOW: &str = "label: from-git\nstates:\n  - {label: root, transitions: [{destination: work}]}\n  - label: work\n    callbacks:\n      \
     - {label: run, function: external_program, callback_arguments: {binary: run.sh}}\n";

/// Waits for `go` if `wait` exists in the home of the test, then prints the file next to the script.
fn script(home: &Path) -> String {
    let home = home.display();
    format!(
        "#!/bin/sh\nif [ -e {home}/wait ]; then touch {home}/waiting; while [ ! -e {home}/go ]; do sleep 0.1; done; fi\n\
         cat \"$STUDYGOV_PROJECT_BIN/words\"; echo \"of $STUDYGOV_PROJECT_REVISION\"\n"
    )
}

async fn json(url: &str) -> Value {
    let text = reqwest::get(url).await.unwrap().text().await.unwrap();
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

async fn revision_of(url: &str) -> String {
    json(&format!("{url}/-/versions")).await["project"]["revision"].as_str().unwrap_or_default().to_owned()
}

async fn has_revision(url: &str, commit: &str) {
    eventually("the revision to be in use", async || (revision_of(url).await == commit[..10]).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_runs_from_its_repository() {
    let repository = Repository::new();
    let station = Station::new(Backend::Sqlite).await;
    let home = station.home.path();
    let bad = "label: bad\nstates:\n  - {label: root, transitions: [{destination: nowhere}]}\n";
    let first = repository.push(&[
        ("study/bin/run.sh", &script(home)),
        ("study/bin/words", "first words\n"),
        ("study/workflows/good.yaml", WORKFLOW),
        ("study/workflows/wrong.yml", bad),
    ]);
    let address = repository.address();
    let settings = [
        ("PROJECT_REPO", address.as_str()),
        ("PROJECT_BRANCH", "main"),
        ("PROJECT_RELATIVE_PATH", "study"),
        ("STUDYGOV_PROJECT_SYNC", "interval:1s"),
        ("STUDYGOV_PROJECT_LOAD", "new"),
    ];
    let server = station.server(&settings);
    let of_worker = [("STUDYGOV_PROJECT_HOME", "of-the-worker"), ("STUDYGOV_WORKER_LISTEN", "127.0.0.1:0")];
    let command = station.worker_command(&[], &[&settings[..3], &of_worker[..]].concat());
    let worker = Program::start_until(command, "serving probes on ");
    let of_worker = worker.url.trim_end_matches("/-/healthy").to_owned();

    // The revision is shown, and the file with an error is reported with its line; the other file was loaded.
    has_revision(&server.url, &first).await;
    assert_eq!(json(&format!("{}/-/versions", server.url)).await["project"]["branch"], "main");
    let log = server.log();
    assert!(log.contains("workflows/wrong.yml: line 3, column"), "{log}");
    let admin = Caller::admin_at(&server.url);
    let mut browser = Browser::at(&server.url);
    browser.log_in("admin", "admin").await;
    let page = browser.get("/workflows").await.1.replace("&#x2f;", "/");
    assert!(page.contains(&format!("data-revision=\"{first}\"")) && page.contains("workflows/wrong.yml"), "{page}");
    assert!(page.contains("from-git") && page.contains("line 3, column"), "{page}");
    let label = serde_json::json!({ "label": "cohort" });
    admin.post("/api/v2/cohorts", label).await.expect(201);
    let subject = serde_json::json!({ "label": "subject", "cohort_label": "cohort" });
    admin.post("/api/v2/subjects", subject).await.expect(201);

    // One run begins with the first revision and ends after the second one was fetched.
    std::fs::write(home.join("wait"), "").unwrap();
    station.create(&server, "long").await;
    eventually("the run to begin", async || home.join("waiting").exists().then_some(())).await;
    std::fs::remove_file(home.join("wait")).unwrap();
    let second = repository.push(&[("study/bin/words", "second words\n")]);
    has_revision(&server.url, &second).await;
    station.create(&server, "short").await;
    let ended = async |id| {
        let ended = station.reaches(id, ExecutionStatus::Finished).await;
        assert_eq!(ended.result, ExecutionResult::Success, "{:?}", ended.run_log);
        ended.run_log.unwrap()
    };
    let log = ended(2).await;
    assert!(log.contains("second words") && log.contains(&format!("of {second}")), "{log}");
    std::fs::write(home.join("go"), "").unwrap();
    let log = ended(1).await;
    assert!(log.contains("first words") && log.contains(&format!("of {first}")), "{log}");
    assert_eq!(revision_of(&of_worker).await, second[..10]);

    // An unavailable repository: the old revision remains in use, and the problem is reported.
    std::fs::rename(repository.bare(), repository.root.path().join("away")).unwrap();
    let problem = eventually("the problem to be said", async || {
        let ready = json(&format!("{}/-/ready", server.url)).await;
        ready["project"].as_str().map(str::to_owned)
    })
    .await;
    assert!(problem.starts_with("PROJECT_REPO: the repository "), "{problem}");
    assert_eq!(reqwest::get(format!("{}/-/ready", server.url)).await.unwrap().status(), 200);
    let metrics = reqwest::get(format!("{}/-/metrics", server.url)).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("studygovernor_project_problem 1"), "{metrics}");
    station.create(&server, "meanwhile").await;
    assert!(ended(3).await.contains("second words"));
    // A worker that starts now uses the revision that it had.
    assert_eq!(worker.terminate(), Some(0));
    let worker = station.worker(&[], &[&settings[..3], &[("STUDYGOV_PROJECT_HOME", "of-the-worker")]].concat());
    assert!(worker.log().contains("of the revision that was used last"), "{}", worker.log());
    std::fs::rename(repository.root.path().join("away"), repository.bare()).unwrap();
    let third = repository.push(&[("study/bin/words", "third words\n")]);
    has_revision(&server.url, &third).await;
    let ready = reqwest::get(format!("{}/-/ready", server.url)).await.unwrap();
    assert_eq!(ready.text().await.unwrap(), "");
    station.create(&server, "later").await;
    assert!(ended(4).await.contains("third words"));
}

/// Runs a command with the repository in a separate home.
fn command(home: &Path, arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    studygovernor(home, arguments).envs(settings.iter().copied()).output().unwrap()
}

#[test]
fn a_password_is_in_no_log_no_argument_and_no_file() {
    let repository = Repository::new();
    let commit = repository.push(&[("workflows/good.yaml", WORKFLOW)]);
    let password = "marked%SECRET'\"$x";
    let mut server = Command::new("python3");
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/deployment/git_server.py");
    server.args([program, &repository.root.path().display().to_string(), "ada", password]);
    let server = Program::start_until(server, "serves git on ");
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("secret"), password).unwrap();
    let here = ["project", "sync", "--here"];
    let host = server.url.trim_start_matches("http://");
    let address = format!("http://ada@{host}/bare");
    let log = ("STUDYGOV_LOG", "trace");
    let from_file = ("PROJECT_PASSWORD_FILE", "secret");
    let output = command(home.path(), &here, &[("PROJECT_REPO", &address), from_file, log]);
    assert!(output.status.success(), "{}", output.err());
    assert!(output.out().starts_with(&format!("revision\t{commit}\tmain\n")), "{}", output.out());
    assert!(output.out().contains("workflows/good.yaml\tworkflow from-git has no errors"), "{}", output.out());
    let mut said = vec![output];

    // Password in the URL, escaped; it is sent to no other host, even if the server redirects there.
    let escaped = "marked%25SECRET%27%22%24x";
    let other = tempfile::tempdir().unwrap();
    let inside = format!("http://ada:{escaped}@{host}/bare");
    said.push(command(other.path(), &here, &[("PROJECT_REPO", &inside), log]));
    assert!(said[1].status.success(), "{}", said[1].err());
    let elsewhere = format!("http://ada@{host}/elsewhere/bare");
    said.push(command(other.path(), &here, &[("PROJECT_REPO", &elsewhere), ("PROJECT_PASSWORD", password)]));
    assert_eq!(said[2].status.code(), Some(1));
    assert!(!repository.root.path().join("given-elsewhere").exists());

    // A wrong or missing password: the setting is named.
    let wrong = command(other.path(), &here, &[("PROJECT_REPO", &address), ("PROJECT_PASSWORD", "wrong"), log]);
    assert!(wrong.err().contains("error: PROJECT_PASSWORD: the login is refused by the repository"), "{}", wrong.err());
    let none = command(other.path(), &here, &[("PROJECT_REPO", &format!("http://{host}/bare"))]);
    assert!(none.err().contains("error: PROJECT_PASSWORD: is not set"), "{}", none.err());
    assert_eq!((wrong.status.code(), none.status.code()), (Some(1), Some(1)));

    said.extend([wrong, none]);
    for output in &said {
        let text = format!("{}{}", output.out(), output.err());
        assert!(!text.contains("SECRET"), "{text}");
    }
    let leaks = std::fs::read_to_string(repository.root.path().join("leaks")).unwrap_or_default();
    assert_eq!(leaks, "", "a command line shows the password");
    for folder in [home.path(), other.path()] {
        let found = Command::new("grep").args(["-rl", "SECRET"]).arg(folder.join("repository")).output().unwrap();
        assert_eq!(found.out(), "");
    }
}

/// Settings, exit code, and words of the last line.
type Case<'a> = (&'a [(&'a str, &'a str)], i32, &'a str);

#[test]
fn what_is_wrong_is_one_sentence_that_names_the_setting() {
    let repository = Repository::new();
    repository.push(&[("study/bin/x", "x\n")]);
    std::os::unix::fs::symlink("/usr", repository.copy().join("outer")).unwrap();
    let commit = repository.push(&[]);
    repository.git(&repository.copy(), &["tag", "-a", "v1", "-m", "a tag"]);
    repository.git(&repository.copy(), &["push", "--quiet", "origin", "v1"]);
    let home = tempfile::tempdir().unwrap();
    let address = repository.address();
    let ours = ("PROJECT_REPO", address.as_str());
    let marker = home.path().join("called");
    let option = format!("--upload-pack=touch {}", marker.display());
    let transport = format!("ext::touch {}", marker.display());
    let cases: &[Case<'_>] = &[
        (&[], 2, "PROJECT_REPO: is not set"),
        (&[("PROJECT_REPO", &option)], 2, "PROJECT_REPO: is not an address of a git repository"),
        (&[("PROJECT_REPO", &transport)], 2, "PROJECT_REPO: is not an address of a git repository"),
        (
            &[("PROJECT_REPO", "/no/such/repository")],
            1,
            "PROJECT_REPO: the repository /no/such/repository cannot be read",
        ),
        (
            &[("PROJECT_REPO", "http://127.0.0.1:1/x")],
            1,
            "PROJECT_REPO: the repository http://127.0.0.1:1/x cannot be read",
        ),
        (
            &[ours, ("PROJECT_BRANCH", "--upload-pack=x")],
            2,
            "PROJECT_BRANCH: '--upload-pack=x' is not the name of a branch",
        ),
        (&[ours, ("PROJECT_BRANCH", "absent")], 1, "has no branch or tag 'absent'"),
        (
            &[ours, ("PROJECT_RELATIVE_PATH", "../x")],
            2,
            "PROJECT_RELATIVE_PATH: '../x' is not a folder inside the repository",
        ),
        (&[ours, ("PROJECT_RELATIVE_PATH", "absent")], 1, "has no folder 'absent' inside it"),
        (&[ours, ("PROJECT_RELATIVE_PATH", "outer/lib")], 1, "has no folder 'outer/lib' inside it"),
        (&[ours, ("STUDYGOV_PROJECT_SYNC", "hourly")], 2, "STUDYGOV_PROJECT_SYNC: 'hourly' is not one of start"),
        (&[ours, ("PATH", "/nonexistent")], 1, "PROJECT_REPO: needs the program git"),
    ];
    for (settings, code, words) in cases {
        let output = command(home.path(), &["project", "sync", "--here"], settings);
        let text = output.err();
        assert_eq!(output.status.code(), Some(*code), "{settings:?}: {text}");
        let last = text.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: ") && last.contains(words), "{settings:?}: {text}");
    }
    assert!(!marker.exists(), "a value of a setting was run");
    // A tag stands for the commit that it points to.
    let output = command(home.path(), &["project", "sync", "--here"], &[ours, ("PROJECT_BRANCH", "v1")]);
    assert_eq!(output.out(), format!("revision\t{commit}\tv1\n"), "{}", output.err());

    // Servers and workers end with the same sentence if they have no revision.
    let empty = tempfile::tempdir().unwrap();
    let away = ("PROJECT_REPO", "/no/such/repository");
    for (arguments, settings, words) in [
        (&["serve"][..], &[away][..], "error: PROJECT_REPO: the repository /no/such/repository cannot be read"),
        (&["worker", "--broker", "amqp://127.0.0.1:1"], &[away], "error: PROJECT_REPO: the repository /no/such/"),
        (&["serve"], &[ours, ("STUDYGOV_PROJECT_SYNC", "off")], "error: STUDYGOV_PROJECT_SYNC: is off"),
        (&["serve"], &[ours, ("PROJECT_BRANCH", "absent")], "error: PROJECT_BRANCH: "),
    ] {
        let output = command(empty.path(), arguments, &[settings, &[("STUDYGOV_PORT", "0")]].concat());
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", output.err());
        assert!(output.err().contains(words), "{arguments:?}: {}", output.err());
    }
    // With the revision that was used before, a server starts anyway.
    std::fs::rename(repository.bare(), repository.root.path().join("away")).unwrap();
    let mut serve = studygovernor(home.path(), &["serve"]);
    serve.envs([ours, ("PROJECT_BRANCH", "v1")]);
    let server = Program::start(serve);
    let log = server.log();
    assert!(log.contains("of the revision that was used last") && log.contains("cannot be read"), "{log}");
}

on_every_database! {
    servers_agree_on_the_revision;
}

/// The keeper of a server, in a separate home.
fn keeper(study: &Study, home: &str, repository: &Repository, sync: &str) -> Keeper {
    let home = study.home.path().join(home);
    let path = std::env::var("PATH").unwrap();
    let address = repository.address();
    let entries = [("PROJECT_REPO", address.as_str()), ("STUDYGOV_PROJECT_SYNC", sync), ("PATH", &path)];
    let settings = WorkSettings::read(&entries.into_iter().collect::<Environment>(), &home).unwrap();
    let project = Arc::new(Project::new(&settings.project, Clock::System).unwrap());
    Keeper { project, engine: study.engine.clone(), functions: &FUNCTIONS, loads_workflows: true, ctx: ctx().clone() }
}

async fn servers_agree_on_the_revision(study: Study) {
    let repository = Repository::new();
    let first = repository.push(&[("workflows/good.yaml", WORKFLOW)]);
    let keepers: Vec<_> = ["a", "b", "c"].into_iter().map(|home| keeper(&study, home, &repository, "start")).collect();
    // All of them at once on an empty database: one is first, and each workflow is loaded once.
    let (a, b, c) = tokio::join!(keepers[0].start(), keepers[1].start(), keepers[2].start());
    [a, b, c].into_iter().for_each(Result::unwrap);
    let database = study.engine.database();
    assert_eq!(noted(database).await.unwrap().unwrap().commit_name, first);
    // One syncs; the others follow, including one that does not sync itself.
    let second = repository.push(&[("bin/x", "x\n")]);
    keepers[0].sync().await.unwrap();
    assert_eq!(noted(database).await.unwrap().unwrap().commit_name, second);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let keeping = tokio::spawn(studygovernor::project::keep(keepers[1].clone(), stopped));
    eventually("the other server to follow", async || {
        (keepers[1].project.current().unwrap().commit == second).then_some(())
    })
    .await;
    let silent = keeper(&study, "d", &repository, "off");
    silent.start().await.unwrap();
    assert_eq!(silent.project.current().unwrap().commit, second);
    // A branch that was reset: all follow the revision that the study uses, even if it is older.
    repository.git(&repository.copy(), &["push", "--quiet", "--force", "origin", &format!("{first}:main")]);
    keepers[2].sync().await.unwrap();
    eventually("the other server to go back", async || {
        (keepers[1].project.current().unwrap().commit == first).then_some(())
    })
    .await;
    stop.send(true).unwrap();
    keeping.await.unwrap();
    assert_eq!(study.engine.revision().get().unwrap(), first);
}
