//! What the tests share: a study on a database of its own, a server, a browser.

mod process;
mod study;

pub use process::{Program, Said, studygovernor};
pub(crate) use study::on_every_database;
pub use study::{Backend, Study, create_database, ledger_problems, moment};

use std::time::Duration;

use studygovernor::workflow::condition;

/// Conditions are evaluated by the real program; the test runner is another one.
pub fn use_condition_worker() {
    condition::use_worker(env!("CARGO_BIN_EXE_studygovernor"), vec!["condition-worker".into()]);
}

/// Waits until `check` gives something; a test never just sleeps and hopes.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    for _ in 0..2400 {
        if let Some(found) = check().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("waited two minutes for {what}");
}
