//! E12: an experiment that does not stop moving is put on hold, and a user releases it.

use reqwest::StatusCode;
use serde_json::{Value, json};
use studygovernor::engine::{EngineError, Intervention};
use studygovernor::entity::kind::ExecutionStatus;

use crate::support::{Caller, Program, Study, ctx, eventually, on_every_database, studygovernor};
use crate::web::Browser;

on_every_database! {
    e12_a_circle_of_quick_callbacks_is_held_until_a_person_releases_it;
    e12_a_circle_in_which_nothing_runs_is_held;
}

const CIRCLE: &str = "
label: circle
states:
  - {label: root, transitions: [{destination: a}]}
  - {label: a, callbacks: [{label: x, function: sleep, callback_arguments: {seconds: 0}}], transitions: [{destination: b}]}
  - {label: b, callbacks: [{label: x, function: sleep, callback_arguments: {seconds: 0}}], transitions: [{destination: a}, {destination: end}]}
  - {label: end}
";

/// Reports success until the experiment no longer moves; returns the number of reports.
async fn round(study: &Study, experiment: i32) -> usize {
    for reports in 0..50 {
        let execution = study.executions(experiment).await.remove("x").unwrap();
        if execution.status.is_resolved() {
            return reports;
        }
        study.succeed(execution.id).await;
    }
    panic!("it is never held");
}

async fn e12_a_circle_of_quick_callbacks_is_held_until_a_person_releases_it(mut study: Study) {
    study.engine = study.engine.clone().with_transition_limit(5);
    study.load(CIRCLE).await;
    let id = study.create("session").await.id;
    // One transition was made when it was created.
    assert_eq!(round(&study, id).await, 5);
    let held = study.experiment(id).await;
    let (made, reason) = (study.actions(id).await, held.held_reason.clone().unwrap());
    assert_eq!((made.len(), study.state(id).await.as_str(), held.held_since), (5, "a", Some(study.clock.now())));
    assert!(reason.contains("5 automatic transitions") && reason.contains("from 'a' to 'b'"), "{reason}");
    assert_eq!(made[4].end_time, None, "its end is decided when it is released");

    // Reports are accepted, but the experiment does not move.
    let execution = study.executions(id).await["x"].id;
    let again = study.engine.intervene(ctx(), execution, Intervention::Retry, "again").await.unwrap();
    assert_eq!(again.status, ExecutionStatus::Queued);
    study.succeed(execution).await;
    assert_eq!(
        (study.actions(id).await.len(), study.execution(execution).await.status),
        (5, ExecutionStatus::Finished)
    );
    // Time alone does not release it.
    study.clock.advance(chrono::TimeDelta::hours(1));
    study.engine.check_timeouts(ctx()).await.unwrap();
    assert_eq!(study.actions(id).await.len(), 5);

    // When released, it makes its next step immediately, and may make the same number of transitions again.
    let released = study.engine.release_experiment(ctx(), id).await.unwrap();
    assert_eq!((released.held_since, released.held_reason, study.state(id).await.as_str()), (None, None, "b"));
    let twice = study.engine.release_experiment(ctx(), id).await;
    assert!(matches!(twice, Err(EngineError::NotHeld(_))), "{twice:?}");
    round(&study, id).await;
    assert!(study.experiment(id).await.held_since.is_some());
    assert_eq!(study.actions(id).await.len(), 10);

    // A user who moves the experiment releases it, and is never blocked.
    let target = if study.state(id).await == "a" { "b" } else { "a" };
    study.move_to(id, target).await.unwrap();
    assert_eq!(study.experiment(id).await.held_since, None);
    for target in ["a", "b"].into_iter().cycle().skip(usize::from(target == "a")).take(12) {
        study.move_to(id, target).await.unwrap();
    }
    assert_eq!(study.experiment(id).await.held_since, None, "transitions by hand do not count");
}

/// No callbacks run in this circle, so the experiment moves within one transaction; it is held too.
async fn e12_a_circle_in_which_nothing_runs_is_held(study: Study) {
    let skipped = CIRCLE.replace("function: sleep,", "function: sleep, condition: 'False',");
    study.load(&skipped).await;
    let id = study.create("session").await.id;
    let held = study.experiment(id).await;
    assert_eq!(study.actions(id).await.len(), 100);
    assert!(held.held_reason.unwrap().contains("100 automatic transitions"));
}

/// With a real server: a warning on the page of the experiment and on the start page, a list, a metric, a line in the
/// log, and two ways to release it.
#[tokio::test(flavor = "multi_thread")]
async fn e12_people_see_what_is_held_and_release_it() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("w.yaml"), CIRCLE).unwrap();
    let loaded = studygovernor(home.path(), &["workflow", "load", "w.yaml"]).output().unwrap();
    assert!(loaded.status.success(), "{loaded:?}");
    let mut command = studygovernor(home.path(), &["serve"]);
    command.env("STUDYGOV_TRANSITIONS_PER_MINUTE", "8").env("STUDYGOV_ADMIN_USERNAME", "admin");
    command.env("STUDYGOV_ADMIN_EMAIL", "admin@example.com").env("STUDYGOV_ADMIN_PASSWORD", "admin");
    let server = Program::start(command);
    let admin = Caller::admin_at(&server.url);
    let session = json!([{"cohort": "c", "label": "s", "experiments": [{"label": "e", "scandate": "2024-01-01"}, {"label": "f", "scandate": "2024-01-01"}]}]);
    admin.post("/api/v2/import", session).await.expect(200);
    let held = async |id: i32| {
        let answer = admin.get(&format!("/api/v2/experiments/{id}")).await.expect(200);
        answer["held"]["reason"].as_str().map(str::to_owned)
    };
    let reason = eventually("both to be held", async || held(1).await.and(held(2).await)).await;
    assert!(reason.contains("8 automatic transitions within a minute"), "{reason}");
    let metrics = admin.get("/-/metrics").await.body;
    assert!(metrics.as_str().unwrap().contains("studygovernor_holds_total 2"), "{metrics}");
    assert!(server.log().contains("experiment put on hold"));
    let mut browser = Browser::at(&server.url);
    browser.log_in("admin", "admin").await;
    let (_, start) = browser.get("/").await;
    assert!(start.contains("2 experiments are on hold"), "{start}");
    let (_, list) = browser.get("/experiments?held=1").await;
    assert!(list.contains(">e</a>") && list.contains(">f</a>"), "{list}");
    let (_, shown) = browser.get("/experiments/1").await;
    assert!(shown.contains("data-held") && shown.contains("Release experiment"), "{shown}");

    // It is held again after eight more transitions; its history continues after the release.
    let count = async |id: i32| {
        admin.get(&format!("/api/v2/experiments/{id}/actions")).await.expect(200)["actions"]
            .as_array()
            .map_or(0, Vec::len)
    };
    assert_eq!((count(1).await, count(2).await), (8, 8));
    let (status, to, _) = browser.post("/experiments/1/release", &[]).await;
    assert_eq!((status, to.ends_with("/experiments/1")), (StatusCode::SEE_OTHER, true));
    eventually("eight more", async || (count(1).await == 16 && held(1).await.is_some()).then_some(())).await;
    assert_eq!(admin.post("/api/v2/experiments/2/release", json!({})).await.expect(200)["held"], Value::Null);
    eventually("eight more", async || (count(2).await == 16 && held(2).await.is_some()).then_some(())).await;
    // Both releases are in the audit trail, and the hold before them.
    let (_, events) = browser.get("/audit.csv").await;
    assert_eq!((events.matches("hold").count() >= 2, events.matches("release").count() >= 2), (true, true), "{events}");
    // A manual transition leaves the circle, and the experiment is no longer on hold.
    admin.put("/api/v2/experiments/2/state", json!({ "state": "end" })).await.expect(200);
    assert_eq!(held(2).await, None);
    let (_, list) = browser.get("/experiments?held=1").await;
    assert!(list.contains(">e</a>") && !list.contains(">f</a>"), "{list}");
}
