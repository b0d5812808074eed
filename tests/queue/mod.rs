//! Callbacks on separate workers, with the real broker, whatever is killed, lost or delivered twice (Q1 to Q7).

mod brokers;
mod secrets;

use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueuePurgeOptions};
use lapin::protocol::BasicProperties;
use lapin::{Channel, Confirmation, Connection};
use serde_json::json;
use studygovernor::entity::kind::{ExecutionResult, ExecutionStatus};
use studygovernor::queue::{QueueNames, Ticket, declare_queue};

use crate::api::Caller;
use crate::support::{Backend, KEY, Proxy, Station, eventually, ledger_problems};

/// A state with the given callback, and its transition.
pub fn workflow(callback: &str) -> String {
    format!(
        "label: runs\nstates:\n  - {{label: root, transitions: [{{destination: work}}]}}\n  - label: work\n    callbacks:\n      \
         - {{label: run, {callback}}}\n    transitions: [{{destination: good, condition: \"callbacks['run'].result == 'success'\"}}, {{destination: bad}}]\n  \
         - {{label: good}}\n  - {{label: bad}}\n"
    )
}

/// A callback that runs a line of shell.
pub fn shell(line: &str) -> String {
    format!(
        "function: command, callback_arguments: {{binary: sh, args: [-c, {}, sh, $CALLBACK_EXECUTION]}}",
        json!(line)
    )
}

async fn channel(station: &Station) -> (Connection, Channel) {
    let connection = studygovernor::queue::connect(&station.broker, "a test").await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

/// Publishes a message, and repeats it while the broker rejects it: the first publisher to a quorum queue is rejected
/// if the queue does not answer in time, for example on a busy machine (`register_enqueuer` of `rabbit_fifo_client`).
/// `channel` uses publisher confirms.
async fn publish(channel: &Channel, queue: &str, body: &[u8]) {
    eventually("the broker to take a message", async || {
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let sent = channel.basic_publish("".into(), queue.into(), options, body, properties).await.unwrap();
        match sent.await.unwrap() {
            Confirmation::Ack(_) => Some(()),
            Confirmation::Nack(_) => None,
            Confirmation::NotRequested => panic!("the channel does not confirm"),
        }
    })
    .await;
}

/// The number of messages in a queue.
async fn ready(station: &Station, queue: &str) -> u32 {
    let (_connection, channel) = channel(station).await;
    let name = QueueNames::new(&station.prefix).work(queue);
    let options = lapin::options::QueueDeclareOptions { passive: true, ..Default::default() };
    channel
        .queue_declare(name.into(), options, lapin::types::FieldTable::default())
        .await
        .map_or(0, |queue| queue.message_count())
}

/// Q1 to Q3, on each database: from the transition through the broker to the next state, with workers that have neither
/// the database nor a secret of the server; one of two servers is enough to publish all messages.
async fn q1_q3_callbacks_run_on_workers_elsewhere(backend: Backend) {
    let station = Station::new(backend).await;
    let servers = [station.server(&[]), station.server(&[])];
    station.load(&servers[0], &workflow(&shell("echo \"ran $1\"; echo \"$STUDYGOV_EXPERIMENT_LABEL\""))).await;
    let worker = station.worker(&["--concurrency", "4"], &[]);
    for number in 0..20 {
        station.create(&servers[number % 2], &format!("session-{number}")).await;
    }
    station.is_done(20).await;
    for execution in station.executions().await {
        assert_eq!((execution.result, execution.attempt), (ExecutionResult::Success, 1));
        assert_eq!(execution.relay_at, None, "nothing is left to dispatch");
        let log = execution.run_log.unwrap();
        assert!(log.contains("ran http://") && log.contains("session-"), "{log}");
    }
    let problems = ledger_problems(&station.engine).await;
    assert!(problems.is_empty(), "{problems:#?}");
    // No message was published twice, though both servers checked.
    let mut published = 0;
    for server in &servers {
        let metrics = Caller::admin_at(&server.url).get("/-/metrics").await.expect(200);
        let metrics = metrics.as_str().unwrap();
        let count = metrics.lines().find_map(|line| line.strip_prefix("studygovernor_published_total "));
        published += count.map_or(0, |count| count.parse::<u32>().unwrap());
        assert!(metrics.contains("studygovernor_broker_up 1"), "{metrics}");
    }
    assert_eq!(published, 20);
    assert_eq!(worker.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn q1_q3_callbacks_run_on_workers_elsewhere_on_sqlite() {
    q1_q3_callbacks_run_on_workers_elsewhere(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn q1_q3_callbacks_run_on_workers_elsewhere_on_postgres() {
    q1_q3_callbacks_run_on_workers_elsewhere(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn q1_q3_callbacks_run_on_workers_elsewhere_on_mariadb() {
    q1_q3_callbacks_run_on_workers_elsewhere(Backend::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_goes_to_the_queue_that_it_asks_for() {
    let station = Station::new(Backend::Postgres).await;
    let server = station.server(&[]);
    station.load(&server, &workflow("function: sleep, callback_arguments: {seconds: 0, queue: gpu}")).await;
    let everything_else = station.worker(&[], &[]);
    station.create(&server, "session").await;
    let queued = station.reaches(1, ExecutionStatus::Queued).await;
    assert_eq!(queued.queue.as_deref(), Some("gpu"));
    eventually("the message to lie there", async || (ready(&station, "gpu").await == 1).then_some(())).await;
    let gpu = station.worker(&["--queue", "gpu", "--queue", "other"], &[]);
    let ended = station.reaches(1, ExecutionStatus::Finished).await;
    assert!(ended.worker.unwrap().contains(&format!(":{}:", gpu.id())));
    // A key that the function does not know is returned without the queue.
    assert!(!ended.result_values.unwrap().contains("unknown"));
    let admin = Caller::admin_at(&server.url);
    let workers = eventually("both workers to be known", async || {
        let workers = admin.get("/api/v2/workers").await.expect(200);
        (workers["count"] == 2).then_some(workers)
    })
    .await;
    let queues: Vec<String> =
        workers["workers"].as_array().unwrap().iter().map(|one| one["queues"].to_string()).collect();
    assert!(
        queues.contains(&r#"["gpu","other"]"#.to_owned()) && queues.contains(&r#"["default"]"#.to_owned()),
        "{queues:?}"
    );
    drop(everything_else);
}

#[tokio::test(flavor = "multi_thread")]
async fn q4_what_a_killed_worker_had_in_hand_is_done_by_another() {
    let station = Station::new(Backend::Postgres).await;
    let server = station.server(&[("STUDYGOV_LEASE_SECONDS", "6")]);
    station.load(&server, &workflow(&shell("echo begun; [ -e done ] || sleep 1000"))).await;
    let first = station.worker(&[], &[]);
    station.create(&server, "session").await;
    let running = station.reaches(1, ExecutionStatus::Running).await;
    let worker = running.worker.clone().unwrap();
    eventually("the log of the run", async || station.execution(1).await.run_log.filter(|log| log.contains("begun")))
        .await;
    let said = first.kill();
    assert!(said.contains("running"), "{said}");
    std::fs::write(station.home.path().join("done"), "").unwrap();
    let second = station.worker(&[], &[]);
    let ended = station.reaches(1, ExecutionStatus::Finished).await;
    assert_eq!((ended.result, ended.attempt), (ExecutionResult::Success, 2));
    let log = ended.run_log.unwrap();
    assert!(log.contains(&format!("no heartbeat from worker {worker}")) && log.contains("=== attempt 2 ==="), "{log}");
    // The dead worker reports: too late.
    let late = Ticket::new(1, 1, &server.url, KEY);
    let body = json!({ "attempt": 1, "secret": late.secret, "worker": worker, "success": true });
    Caller::admin_at(&server.url).post("/api/v2/callback_executions/1/report", body).await.expect(409);
    assert_eq!(station.execution(1).await.attempt, 2);
    let metrics = Caller::admin_at(&server.url).get("/-/metrics").await.expect(200);
    assert!(metrics.as_str().unwrap().contains("studygovernor_lease_expiries_total 1"), "{metrics}");
    drop(second);
}

#[tokio::test(flavor = "multi_thread")]
async fn q4_a_message_that_the_broker_lost_is_sent_again() {
    let station = Station::new(Backend::Postgres).await;
    let server = station.server(&[("STUDYGOV_REPUBLISH_SECONDS", "1")]);
    station.load(&server, &workflow("function: sleep")).await;
    station.create(&server, "session").await;
    station.reaches(1, ExecutionStatus::Queued).await;
    let (_connection, channel) = channel(&station).await;
    let queue = QueueNames::new(&station.prefix).work("default");
    let lost = channel.queue_purge(queue.clone().into(), QueuePurgeOptions::default()).await.unwrap();
    assert!(lost >= 1);
    eventually("another message", async || (ready(&station, "default").await > 0).then_some(())).await;
    // The whole queue is deleted: it is declared again.
    channel.queue_delete(queue.into(), lapin::options::QueueDeleteOptions::default()).await.unwrap();
    let worker = station.worker(&[], &[]);
    let ended = station.reaches(1, ExecutionStatus::Finished).await;
    assert_eq!((ended.result, ended.attempt), (ExecutionResult::Success, 1));
    drop(worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn q3_a_message_that_comes_twice_runs_once() {
    let station = Station::new(Backend::Postgres).await;
    let server = station.server(&[]);
    station.load(&server, &workflow(&shell("echo x >> effects; sleep 1"))).await;
    station.create(&server, "session").await;
    station.reaches(1, ExecutionStatus::Queued).await;
    let (_connection, channel) = channel(&station).await;
    let names = QueueNames::new(&station.prefix);
    declare_queue(&channel, &names, "default").await.unwrap();
    let ticket = serde_json::to_vec(&Ticket::new(1, 1, &server.url, KEY)).unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    for _ in 0..5 {
        publish(&channel, &names.work("default"), &ticket).await;
    }
    let workers = [station.worker(&[], &[]), station.worker(&[], &[])];
    station.reaches(1, ExecutionStatus::Finished).await;
    eventually("all messages to be taken", async || (ready(&station, "default").await == 0).then_some(())).await;
    assert_eq!(std::fs::read_to_string(station.home.path().join("effects")).unwrap(), "x\n");
    drop(workers);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_nobody_can_read_are_dead_letters() {
    let station = Station::new(Backend::Postgres).await;
    let server = station.server(&[]);
    station.load(&server, &workflow("function: sleep")).await;
    let worker = station.worker(&[], &[]);
    let (_connection, channel) = channel(&station).await;
    let names = QueueNames::new(&station.prefix);
    declare_queue(&channel, &names, "default").await.unwrap();
    let queue = names.work("default");
    let forged = Ticket { secret: "forged".to_owned(), ..Ticket::new(4711, 1, &server.url, KEY) };
    // With confirms, so that a rejected publish is distinguished from a missing dead letter.
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    for body in [b"no json at all".to_vec(), serde_json::to_vec(&forged).unwrap()] {
        publish(&channel, &queue, &body).await;
    }
    let admin = Caller::admin_at(&server.url);
    let letters = eventually("the dead letters", async || {
        let letters = admin.get("/api/v2/dead_letters").await.expect(200);
        (letters["count"] == 2).then_some(letters)
    })
    .await;
    let text = letters.to_string();
    assert!(text.contains("no json at all") && text.contains("rejected") && text.contains(&queue), "{text}");
    assert!(text.contains("/api/v2/callback_executions/4711") && !text.contains("forged"), "{text}");
    // The queue still works.
    station.create(&server, "session").await;
    station.reaches(1, ExecutionStatus::Finished).await;
    drop(worker);
}

/// Like `studygov-run-callback` of version 8.1: with the secret of the attempt, and with a login.
#[tokio::test(flavor = "multi_thread")]
async fn one_execution_is_run_by_hand() {
    use crate::support::{Said, studygovernor};
    let station = Station::new(Backend::Postgres).await;
    let server = station.server(&[]);
    station
        .load(&server, &workflow(&shell("echo \"by hand $STUDYGOV_EXPERIMENT_LABEL\"; echo '__VALUES__ = {\"n\": 3}'")))
        .await;
    for label in ["one", "two", "three"] {
        station.create(&server, label).await;
    }
    station.reaches(3, ExecutionStatus::Queued).await;
    let home = station.home.path();
    let host = server.url.trim_start_matches("http://").to_owned();
    let run = |id: i32, environment: &[(&str, &str)]| {
        let url = format!("{}/api/v2/callback_executions/{id}", server.url);
        studygovernor(home, &["callback", "run", &url]).envs(environment.iter().copied()).output().unwrap()
    };
    let secret = Ticket::new(1, 1, "", KEY).secret;
    let by_secret = run(1, &[("STUDYGOV_CALLBACK_SECRET", &secret)]);
    assert!(by_secret.status.success() && by_secret.err().contains("by hand one"), "{}", by_secret.err());
    assert!(by_secret.out().contains("\"n\": 3"), "{}", by_secret.out());
    let ended = station.execution(1).await;
    assert_eq!((ended.status, ended.result), (ExecutionStatus::Finished, ExecutionResult::Success));
    assert!(ended.run_log.unwrap().contains("by hand one"));
    std::fs::write(home.join(".netrc"), format!("machine {host} login admin password admin\n")).unwrap();
    let by_login = run(2, &[("HOME", home.to_str().unwrap())]);
    assert!(by_login.status.success(), "{}", by_login.err());
    assert_eq!(station.execution(2).await.result, ExecutionResult::Success);
    let again = run(2, &[("HOME", home.to_str().unwrap())]);
    assert!(again.err().contains("it is already finished"), "{}", again.err());
    for (environment, reason) in [(&[][..], "403"), (&[("STUDYGOV_CALLBACK_SECRET", "wrong")], "403")] {
        let refused = run(3, environment);
        assert!(refused.status.code() == Some(1) && refused.err().contains(reason), "{}", refused.err());
    }
}

/// Q7: a manual transition kills the callback with all its processes; executions of a stopped worker are passed to
/// another one, which costs no attempt.
#[tokio::test(flavor = "multi_thread")]
async fn q6_q7_logs_arrive_and_stop_means_stop() {
    let station = Station::new(Backend::Postgres).await;
    let server = station.server(&[("STUDYGOV_LEASE_SECONDS", "10")]);
    station.load(&server, &workflow(&shell("sleep 1000 & echo \"child $!\"; wait"))).await;
    let worker = station.worker(&["--grace", "5"], &[]);
    let child = async |id: i32, attempt: i32| {
        eventually("the log", async || {
            let row = station.execution(id).await;
            let log = row.run_log.filter(|_| row.attempt == attempt)?;
            log.lines().rev().find_map(|line| line.strip_prefix("child ")?.parse::<i32>().ok())
        })
        .await
    };
    station.create(&server, "cancelled").await;
    let first = child(1, 1).await;
    let body = json!({ "state": "bad" });
    Caller::admin_at(&server.url).put("/api/v2/experiments/1/state", body).await.expect(200);
    eventually("the child to be gone", async || crate::callback::is_gone(first).then_some(())).await;
    station.create(&server, "released").await;
    let second = child(2, 1).await;
    let began = std::time::Instant::now();
    assert_eq!(worker.terminate(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(30));
    assert!(crate::callback::is_gone(second));
    let back = station.execution(2).await;
    assert_eq!((back.attempt, back.max_attempts, back.leased_until), (2, 4, None));
    assert!(back.run_log.unwrap().contains("the worker was stopped"));
    let other = station.worker(&[], &[]);
    child(2, 2).await;
    drop(other);
}

/// A worker without free places does not hold messages that another one could process.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_worker_hands_back_what_it_cannot_begin() {
    let station = Station::new(Backend::Postgres).await;
    let server = station.server(&[]);
    station.load(&server, &workflow(&shell("[ -e go ] || sleep 1000"))).await;
    let busy = station.worker(&["--concurrency", "2"], &[]);
    for number in 0..6 {
        station.create(&server, &format!("session-{number}")).await;
    }
    station.reaches(2, ExecutionStatus::Running).await;
    eventually("the others to be handed back", async || (ready(&station, "default").await == 4).then_some(())).await;
    std::fs::write(station.home.path().join("go"), "").unwrap();
    let free = station.worker(&["--concurrency", "2"], &[]);
    for id in 3..=6 {
        let ended = station.reaches(id, ExecutionStatus::Finished).await;
        assert_eq!((ended.result, ended.attempt), (ExecutionResult::Success, 1));
    }
    drop((busy, free));
}

/// Servers and workers start without the broker, report that, and continue automatically when it is available.
#[tokio::test(flavor = "multi_thread")]
async fn everybody_waits_for_a_broker_that_is_not_there_yet() {
    let mut station = Station::new(Backend::Postgres).await;
    let proxy = Proxy::to(&station.broker).await;
    station.broker = proxy.address(&station.broker);
    proxy.cut();
    let server = station.server(&[]);
    let admin = Caller::admin_at(&server.url);
    station.load(&server, &workflow("function: sleep")).await;
    let command = station.worker_command(&[], &[]);
    let mut worker = crate::support::Program::start_until(command, "broker unavailable");
    station.create(&server, "session").await;
    let ready = admin.get("/-/ready").await.expect(200);
    assert!(ready["broker"].is_string(), "{ready}");
    let metrics = admin.get("/-/metrics").await.expect(200);
    let metrics = metrics.as_str().unwrap();
    assert!(metrics.contains("studygovernor_broker_up 0"), "{metrics}");
    assert!(metrics.contains("studygovernor_executions{status=\"queued\"} 1"), "{metrics}");
    assert!(worker.is_running());
    proxy.delay(Duration::from_millis(100));
    proxy.mend();
    station.reaches(1, ExecutionStatus::Finished).await;
    eventually("the server to be well", async || admin.get("/-/ready").await.body.is_null().then_some(())).await;
    drop(worker);
}

/// A worker that cannot send its report keeps trying; the work is not done twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_for_a_while_loses_no_report() {
    let station = Station::new(Backend::Postgres).await;
    let port = crate::support::free_port();
    let settings = [("STUDYGOV_PORT", port.as_str()), ("STUDYGOV_LEASE_SECONDS", "2")];
    let server = station.server(&settings);
    station.load(&server, &workflow(&shell("echo x >> effects; while [ ! -e go ]; do sleep 0.1; done"))).await;
    let worker = station.worker(&[], &[]);
    station.create(&server, "session").await;
    // Waits for the callback itself: the execution is marked as running before the worker gets the answer to its claim,
    // and stopping the server in between would lose that answer instead of the report.
    let begun = station.home.path().join("effects");
    eventually("the callback to begin", async || begun.exists().then_some(())).await;
    server.kill();
    std::fs::write(station.home.path().join("go"), "").unwrap();
    eventually("the worker to report in vain", async || worker.log().contains("report failed").then_some(())).await;
    // Longer than the lease.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let server = station.server(&settings);
    let ended = station.reaches(1, ExecutionStatus::Finished).await;
    assert_eq!((ended.result, ended.attempt), (ExecutionResult::Success, 1), "{}\n{}", worker.log(), server.log());
    assert_eq!(std::fs::read_to_string(begun).unwrap(), "x\n");
    drop(server);
}
