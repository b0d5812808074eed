//! One clock decides for all servers (E11): that of the database. Real servers, on machines whose clocks are changed.

use chrono::{NaiveDateTime, TimeDelta};
use sea_orm::EntityTrait;
use sea_orm::sea_query::Expr;
use serde_json::{Value, json};
use studygovernor::clock::StudyClock;
use studygovernor::entity::kind::{ExecutionResult, ExecutionStatus};
use studygovernor::entity::{callback_execution, study_clock};

use crate::support::{Backend, Caller, Program, SetClock, Station, Study, eventually, on_every_database};

on_every_database! {
    e11_the_time_of_the_study_does_not_go_back;
    e11_the_time_of_the_study_follows_the_database_again;
}

const HOUR: i64 = 3600;

/// One callback that takes `seconds`, and one that fails the first time and is retried a moment later.
fn workflow(seconds: u32, folder: &std::path::Path) -> String {
    let once = "test -e $1/$STUDYGOV_EXECUTION_ID || { touch $1/$STUDYGOV_EXECUTION_ID; exit 1; }";
    format!(
        "label: clock\nstates:\n  - {{label: root, transitions: [{{destination: go}}]}}\n  - label: go\n    callbacks:\n      \
         - {{label: slow, function: sleep, run_timeout: 30, callback_arguments: {{seconds: {seconds}}}}}\n      \
         - {{label: retried, function: command, retries: 1, retry_delay: 2, callback_arguments: {{binary: sh, args: [-c, \"{once}\", \
         sh, {folder}]}}}}\n    transitions: [{{destination: end}}]\n  - {{label: end}}\n",
        folder = folder.display()
    )
}

fn server(station: &Station, clock: &SetClock, environment: &[(&str, &str)]) -> Program {
    let mut all = vec![("STUDYGOV_CALLBACK_METHOD", "local"), ("STUDYGOV_WORKER_CONCURRENCY", "1")];
    all.extend(clock.environment());
    all.extend_from_slice(environment);
    station.server(&all)
}

async fn is_running(station: &Station, count: usize) {
    eventually(&format!("{count} callbacks to run"), async || {
        let all = station.executions().await;
        (all.iter().filter(|one| one.status == ExecutionStatus::Running).count() >= count).then_some(())
    })
    .await;
}

async fn all_succeeded(station: &Station) {
    for one in station.executions().await {
        assert_eq!((one.status, one.result), (ExecutionStatus::Finished, ExecutionResult::Success), "{one:#?}");
    }
}

/// The value of a metric of the server.
async fn metric(server: &Program, name: &str) -> f64 {
    let text = Caller::admin_at(&server.url).get("/-/metrics").await.expect(200);
    let text = text.as_str().unwrap().to_owned();
    let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("{text}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// The clock is set back by an hour while callbacks wait, run, and are about to be retried; then the server is killed
/// and started again.
async fn e11_a_clock_that_is_set_back_delays_nothing(backend: Backend) {
    let station = Station::new(backend).await;
    let clock = SetClock::new(station.home.path());
    let first = server(&station, &clock, &[]);
    station.load(&first, &workflow(1, station.home.path())).await;
    for label in ["1", "2", "3"] {
        station.create(&first, label).await;
    }
    is_running(&station, 1).await;
    clock.set(-HOUR);
    station.is_done(3).await;
    all_succeeded(&station).await;

    for label in ["4", "5"] {
        station.create(&first, label).await;
    }
    is_running(&station, 1).await;
    first.kill();
    let second = server(&station, &clock, &[("STUDYGOV_LEASE_SECONDS", "3")]);
    station.is_done(5).await;
    all_succeeded(&station).await;
    let history = station.executions().await;
    assert!(
        history.iter().all(|one| one.finished >= one.run_start && one.run_start >= Some(one.created)),
        "{history:#?}"
    );

    let admin = Caller::admin_at(&second.url);
    let page = crate::people::Visitor::logged_in(&second.url, "admin", "admin").await.get("/").await;
    assert!(page.text.contains("data-clock"), "the start page says it to administrators");
    let ready = admin.get("/-/ready").await;
    let difference = metric(&second, "studygovernor_clock_difference_seconds").await;
    let ahead = metric(&second, "studygovernor_clock_ahead_seconds").await;
    if backend == Backend::Sqlite {
        // The clock of the database was set, not that of one server: no other server is better, so this one remains
        // ready.
        assert_eq!(ready.status.as_u16(), 200);
        assert!(difference.abs() < 1.0 && ahead > 3500.0, "{difference} {ahead}");
    } else {
        assert_eq!(ready.status.as_u16(), 503, "{}", ready.body);
        assert!(ready.body["clock"].as_str().unwrap().contains("behind the database clock"), "{}", ready.body);
        assert!(difference < -3500.0 && ahead.abs() < 1.0, "{difference} {ahead}");
        clock.set(0);
        eventually("the server to be ready again", async || {
            (admin.get("/-/ready").await.status.as_u16() == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e11_a_clock_that_is_set_back_delays_nothing_on_sqlite() {
    e11_a_clock_that_is_set_back_delays_nothing(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e11_a_clock_that_is_set_back_delays_nothing_on_postgres() {
    e11_a_clock_that_is_set_back_delays_nothing(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e11_a_clock_that_is_set_back_delays_nothing_on_mariadb() {
    e11_a_clock_that_is_set_back_delays_nothing(Backend::Mariadb).await;
}

/// Messages that must be published, or published again, remain due at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn e11_a_clock_that_is_set_back_delays_no_message() {
    let station = Station::new(Backend::Mariadb).await;
    let clock = SetClock::new(station.home.path());
    let server = station.server(&clock.environment());
    let worker = station.worker(&["--concurrency", "1"], &clock.environment());
    station.load(&server, &workflow(1, station.home.path())).await;
    station.create(&server, "1").await;
    is_running(&station, 1).await;
    clock.set(-HOUR);
    for label in ["2", "3"] {
        station.create(&server, label).await;
    }
    station.is_done(3).await;
    all_succeeded(&station).await;
    drop(worker);
}

/// Another server, whose clock is an hour ahead, neither ends runs of this one nor claims them.
async fn e11_a_server_whose_clock_is_ahead_ends_nothing_of_others(backend: Backend) {
    let station = Station::new(backend).await;
    let (right, ahead) = (SetClock::new(station.home.path()), SetClock::new(station.home.path()));
    ahead.set(HOUR);
    let lease = ("STUDYGOV_LEASE_SECONDS", "3");
    let own = server(&station, &right, &[lease, ("STUDYGOV_WORKER_CONCURRENCY", "8")]);
    station.load(&own, &workflow(10, station.home.path())).await;
    for label in ["1", "2", "3", "4"] {
        station.create(&own, label).await;
    }
    is_running(&station, 4).await;
    let other = server(&station, &ahead, &[lease]);
    let admin = Caller::admin_at(&other.url);
    let ready = admin.get("/-/ready").await;
    assert_eq!(ready.status.as_u16(), 503, "{}", ready.body);
    assert!(metric(&other, "studygovernor_clock_difference_seconds").await > 3500.0);
    let counts: Value = admin.post("/api/v2/service/check_timeouts", json!({})).await.body;
    assert!(counts.to_string().contains("\"run_timeouts\":0"), "{counts}");
    eventually("the server to report its clock", async || {
        other.log().contains("ahead of the database clock").then_some(())
    })
    .await;
    station.is_done(4).await;
    all_succeeded(&station).await;
    let slow: Vec<_> = station.executions().await.into_iter().filter(|one| one.failures == 0).collect();
    assert!(slow.len() == 4 && slow.iter().all(|one| one.attempt == 1), "{slow:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn e11_a_server_whose_clock_is_ahead_ends_nothing_of_others_on_postgres() {
    e11_a_server_whose_clock_is_ahead_ends_nothing_of_others(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e11_a_server_whose_clock_is_ahead_ends_nothing_of_others_on_mariadb() {
    e11_a_server_whose_clock_is_ahead_ends_nothing_of_others(Backend::Mariadb).await;
}

/// SQLite uses the clock of the machine. If that is set forward by an hour, a callback with a limit of half an hour is
/// not ended.
#[tokio::test(flavor = "multi_thread")]
async fn e11_a_clock_that_is_set_forward_ends_nothing() {
    let station = Station::new(Backend::Sqlite).await;
    let clock = SetClock::new(station.home.path());
    let server = server(&station, &clock, &[("STUDYGOV_LEASE_SECONDS", "3")]);
    station.load(&server, &workflow(9, station.home.path())).await;
    station.create(&server, "1").await;
    is_running(&station, 1).await;
    clock.set(HOUR);
    eventually("the server to see that its clock was set", async || {
        (metric(&server, "studygovernor_clock_ahead_seconds").await < -3500.0).then_some(())
    })
    .await;
    // Another process on the same file has the same time from its start.
    let other = self::server(&station, &clock, &[("STUDYGOV_LEASE_SECONDS", "3")]);
    assert!(metric(&other, "studygovernor_clock_ahead_seconds").await < -3500.0);
    station.is_done(1).await;
    all_succeeded(&station).await;
    assert!(station.executions().await.iter().all(|one| one.attempt == one.failures + 1));
}

/// Recorded times remain valid if the clock of the database is set back while no server runs, and all processes agree
/// on the correction.
async fn e11_the_time_of_the_study_does_not_go_back(study: Study) {
    let database = study.engine.database();
    let (before, after, third) = (StudyClock::default(), StudyClock::default(), StudyClock::default());
    database.read_time(&before).await.unwrap();
    assert!(before.difference().unwrap().abs() < TimeDelta::seconds(10));
    let later = before.now() + TimeDelta::seconds(HOUR);
    // As recorded by a server whose database clock was an hour ahead of today's.
    database.note_time(later).await.unwrap();
    database.note_time(before.now()).await.unwrap();
    database.read_time(&after).await.unwrap();
    assert!(after.now() >= later, "{} {later}", after.now());
    assert!((after.ahead() - TimeDelta::seconds(HOUR)).abs() < TimeDelta::minutes(2));
    for clock in [&before, &third] {
        database.read_time(clock).await.unwrap();
        assert_eq!(clock.ahead(), after.ahead(), "made up for once");
        assert!((clock.now() - after.now()).abs() < TimeDelta::seconds(5));
    }
}

/// After the clock of the database was set, the time of the study follows it again when no server has run for a while.
/// Everything that is due later is moved too, so that each delay keeps its length.
async fn e11_the_time_of_the_study_follows_the_database_again(study: Study) {
    let database = study.engine.database();
    let workflow = "label: w\nstates: [{label: root, transitions: [{destination: go}]}, {label: go, callbacks: [{label: c, \
                    function: sleep}], transitions: [{destination: end}]}, {label: end}]";
    study.load(workflow).await;
    let experiment = study.create("e").await;
    let execution = study.executions(experiment.id).await["c"].id;
    let clock = StudyClock::default();
    database.read_time(&clock).await.unwrap();
    let right = clock.now();
    // The clock of the database was an hour ahead until a minute ago.
    let hour = TimeDelta::seconds(HOUR);
    database.note_time(right + hour).await.unwrap();
    database.read_time(&clock).await.unwrap();
    let set = |noted: NaiveDateTime, available: NaiveDateTime| async move {
        study_clock::Entity::update_many()
            .col_expr(study_clock::Column::NotedAt, Expr::value(noted))
            .exec(database.writer())
            .await
            .unwrap();
        callback_execution::Entity::update_many()
            .col_expr(callback_execution::Column::AvailableAt, Expr::value(available))
            .exec(database.writer())
            .await
            .unwrap();
    };
    let due = right + TimeDelta::minutes(5);
    set(clock.now(), due + hour).await;
    database.reset_time().await.unwrap();
    assert_eq!(study.execution(execution).await.available_at, due + hour, "a server may run");

    set(clock.now() - TimeDelta::minutes(1), due + hour).await;
    database.reset_time().await.unwrap();
    let moved = study.execution(execution).await.available_at;
    assert!((moved - due).abs() < TimeDelta::minutes(1), "{moved} {due}");
    // A server that was stopped meanwhile uses it too.
    database.read_time(&clock).await.unwrap();
    assert_eq!(clock.ahead(), TimeDelta::zero());
    assert!((clock.now() - right).abs() < TimeDelta::minutes(1));
}
