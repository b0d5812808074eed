//! The number of statements for each list: the same for one row and for many, counted by PostgreSQL.

use sea_orm::{ConnectionTrait, DbBackend, Statement};
use serde_json::{Value, json};
use studygovernor::config::DatabaseSettings;
use studygovernor::database::Database;

use super::Server;
use crate::support::{Backend, eventually};

/// Counts the statements that were executed in this database since the last call.
struct Counter(Database);

impl Counter {
    async fn of(url: &str) -> Self {
        let settings = DatabaseSettings::parse("DATABASE_URL", url).unwrap();
        let database = Database::connect(&settings).await.unwrap();
        database.reader().execute_unprepared("CREATE EXTENSION IF NOT EXISTS pg_stat_statements").await.unwrap();
        Self(database)
    }

    async fn read(&self) -> i64 {
        // The sweeper of the server runs every second; its statements do not count. Neither do the beginning and the
        // end of a snapshot: it ends after the response.
        let text = "SELECT COALESCE(SUM(calls), 0)::bigint AS calls FROM pg_stat_statements \
            WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
            AND query NOT LIKE '%pg_stat_statements%' AND query NOT LIKE '%deadline%' AND query NOT LIKE '%leased_until%' \
            AND query NOT LIKE '%expires_at%' AND query NOT LIKE '%audit_%' AND query <> '' \
            AND query NOT LIKE 'BEGIN%' AND query NOT LIKE 'SET TRANSACTION%' AND query NOT LIKE 'ROLLBACK%'";
        let row = self.0.reader().query_one_raw(Statement::from_string(DbBackend::Postgres, text.to_owned()));
        row.await.unwrap().unwrap().try_get("", "calls").unwrap()
    }

    /// The number of statements that were discarded to make room for others, in any database of the server.
    async fn forgotten(&self) -> i64 {
        let text = "SELECT dealloc FROM pg_stat_statements_info";
        let row = self.0.reader().query_one_raw(Statement::from_string(DbBackend::Postgres, text));
        row.await.unwrap().unwrap().try_get("", "dealloc").unwrap()
    }
}

/// Waits until all audit events are sealed, which the server does a moment after they were written.
async fn sealed(counter: &Counter) {
    let text = "SELECT (SELECT COUNT(*) FROM audit_event) - (SELECT COUNT(*) FROM audit_seal) AS open";
    eventually("the audit trail to be sealed", async || {
        let statement = Statement::from_string(DbBackend::Postgres, text);
        let row = counter.0.reader().query_one_raw(statement).await.unwrap().unwrap();
        (row.try_get::<i64>("", "open").unwrap() == 0).then_some(())
    })
    .await;
}

const LISTS: [&str; 20] = [
    "/api/v2/cohorts",
    "/api/v2/subjects",
    "/api/v2/subjects?cohort_label=baseline&limit=50",
    "/api/v2/experiments?limit=50",
    "/api/v2/experiments?state=check&limit=50",
    "/api/v2/experiments?cohort=baseline&variable.age=1&order=-scandate&limit=50",
    "/api/v2/scans",
    "/api/v2/external_subject_links",
    "/api/v2/external_experiment_links",
    "/api/v2/actions",
    "/api/v2/experiments/1/actions",
    "/api/v2/callback_executions",
    "/api/v2/states/2/experiments",
    "/api/v2/cohorts/baseline/subjects",
    "/api/v2/users",
    "/api/v1/subjects",
    "/api/v1/experiments?state=check",
    "/api/v1/scans",
    "/api/v1/external_subject_links",
    "/api/v2/cohorts/1",
];

async fn costs(server: &Server, counter: &Counter) -> Vec<i64> {
    let admin = server.admin();
    let mut all = Vec::new();
    for path in LISTS {
        let cost = eventually("a count that nothing was taken away from", async || {
            let forgotten = counter.forgotten().await;
            // The login is cached, and its permissions are read again every two seconds.
            admin.get("/api/v2/scantypes").await.expect(200);
            let before = counter.read().await;
            admin.get(path).await.expect(200);
            let cost = counter.read().await - before;
            (counter.forgotten().await == forgotten).then_some(cost)
        });
        all.push(cost.await);
    }
    all
}

fn people(from: usize, to: usize) -> Value {
    let experiment = |number: usize| {
        json!({ "label": format!("e{number}"), "scandate": "2024-01-01", "variables": { "age": 1 },
            "scans": [{ "modality": "MR", "protocol": "T1w" }], "external_ids": { "XNAT": format!("E{number}") } })
    };
    let subject = |number: usize| {
        json!({ "cohort": "baseline", "label": format!("s{number}"), "external_ids": { "XNAT": format!("S{number}") },
            "experiments": [experiment(number)] })
    };
    (from..to).map(subject).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_costs_the_same_statements_for_one_row_and_for_many() {
    let server = Server::study(Backend::Postgres).await;
    let counter = Counter::of(&server.database).await;
    server.admin().post("/api/v2/import", people(0, 1)).await.expect(200);
    sealed(&counter).await;
    let one = costs(&server, &counter).await;
    server.admin().post("/api/v2/import", people(1, 60)).await.expect(200);
    sealed(&counter).await;
    let many = costs(&server, &counter).await;
    for ((path, one), many) in LISTS.iter().zip(&one).zip(&many) {
        // The total is counted if there are more rows than the first time, and the login may be checked again: two
        // more.
        assert!(many - one <= 3, "{path}: {one} statements for one row, {many} for sixty");
        assert!((1..=10).contains(many), "{path}: {many} statements");
    }
}
