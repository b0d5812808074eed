//! Shared by the tests: a study on its own database, a server, a browser.

mod caller;
mod process;
mod proxy;
mod set_clock;
mod small_disk;
mod station;
mod study;

pub use caller::{Answer, Caller, Login};
pub use process::{Program, Said, studygovernor};
pub use proxy::Proxy;
pub use set_clock::SetClock;
pub use small_disk::{SmallDisk, give_to_postgres};
pub use station::{KEY, Station};
pub(crate) use study::on_every_database;
pub use study::{Backend, Study, create_database, ctx, ledger_problems, moment};

use std::time::Duration;

use studygovernor::workflow::condition;

/// Conditions are evaluated by the real program, because the test runner is another program.
pub fn use_condition_worker() {
    // Callbacks of this process send HTTP requests; the only possible error is that the provider is already installed.
    rustls::crypto::ring::default_provider().install_default().ok();
    studygovernor::audit::use_key("a key of the tests");
    condition::use_worker(env!("CARGO_BIN_EXE_studygovernor"), vec!["condition-worker".into()]);
    // The same applies to the guards of programs.
    let guard = studygovernor::callback::GUARD_ARGUMENT;
    studygovernor::callback::use_guard(env!("CARGO_BIN_EXE_studygovernor"), vec![guard.into()]);
}

/// Waits until `check` returns a value, so that no test depends on a fixed sleep.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    for _ in 0..2400 {
        if let Some(found) = check().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("waited two minutes for {what}");
}

/// A port that is free at this moment.
pub fn free_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port().to_string()
}
