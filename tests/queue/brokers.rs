//! URLs of brokers in the format of Celery: lists, of which any reachable one is used; passwords are not shown.

use studygovernor::entity::kind::{ExecutionResult, ExecutionStatus};

use super::workflow;
use crate::api::Caller;
use crate::support::{Backend, Station, eventually, free_port};

#[tokio::test(flavor = "multi_thread")]
async fn q1_any_broker_of_a_list_is_used_by_servers_and_workers() {
    let mut station = Station::new(Backend::Sqlite).await;
    let real = std::mem::take(&mut station.broker);
    let password = "marked-SECRET";
    station.broker = format!("amqp://u:{password}@127.0.0.1:{}/v; py{real}", free_port());
    let server = station.server(&[]);
    let worker = station.worker(&[], &[]);
    station.load(&server, &workflow("function: sleep")).await;
    station.create(&server, "session").await;
    let ended = station.reaches(1, ExecutionStatus::Finished).await;
    assert_eq!(ended.result, ExecutionResult::Success);
    for log in [server.log(), worker.log()] {
        assert!(!log.contains(password), "{log}");
    }
}

/// The broker is unreachable, or refuses the login: `/-/ready`, which needs no login, shows its address without the
/// password.
#[tokio::test(flavor = "multi_thread")]
async fn q2_a_broker_that_cannot_be_used_is_named_without_its_password() {
    let mut station = Station::new(Backend::Sqlite).await;
    let real = url::Url::parse(&std::mem::take(&mut station.broker)).unwrap();
    let place = format!("127.0.0.1:{}", real.port().unwrap());
    let (first, second) = (format!("127.0.0.1:{}", free_port()), "marked%2DSECRET");
    station.broker = format!("amqp://u:marked-SECRET@{first}/v;amqp://u2:{second}@{place}/v?heartbeat=5");
    let server = station.server(&[]);
    let admin = Caller::at(&server.url, crate::support::Login::Nobody);
    let problem = eventually("the reasons of both", async || {
        let body = admin.get("/-/ready").await.expect(200)["broker"].as_str()?.to_owned();
        (body.contains(&first) && body.contains(&place)).then_some(body)
    })
    .await;
    assert!(!problem.contains("SECRET") && !server.log().contains("SECRET"), "{problem}\n{}", server.log());
}

#[test]
fn a_list_that_cannot_be_read_stops_the_start_with_the_name_of_the_variable() {
    let home = tempfile::tempdir().unwrap();
    for command in ["serve", "worker"] {
        let output = crate::support::studygovernor(home.path(), &[command])
            .env("STUDYGOV_CALLBACK_METHOD", "rabbitmq")
            .env("STUDYGOV_CELERY_BROKER", "amqp://u:SECRET@host/v;other/v")
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains("STUDYGOV_CELERY_BROKER: URL 2 of 2 is not a RabbitMQ URL") && !said.contains("SECRET"),
            "{said}"
        );
    }
}
