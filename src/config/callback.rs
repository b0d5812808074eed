//! How callbacks are run.

use std::time::Duration;

use super::environment::{Environment, SettingError, unusable};

/// The embedded worker pool.
#[derive(Debug, Clone)]
pub struct CallbackSettings {
    /// Callbacks that run at the same time in one pool.
    pub concurrency: usize,
    /// How long a claim is good without a heartbeat; heartbeats come three times as often.
    pub lease: Duration,
}

impl CallbackSettings {
    /// # Errors
    /// When a value cannot be used.
    pub fn read(environment: &Environment) -> Result<Self, SettingError> {
        method(environment)?;
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let concurrency =
            environment.number("STUDYGOV_WORKER_CONCURRENCY", cores.max(4), "a number of callbacks (1 or more)")?;
        let seconds: u64 = environment.number("STUDYGOV_LEASE_SECONDS", 15, "a number of seconds (1 or more)")?;
        if concurrency == 0 {
            return Err(unusable("STUDYGOV_WORKER_CONCURRENCY", 0, "a number of callbacks (1 or more)"));
        }
        if seconds == 0 {
            return Err(unusable("STUDYGOV_LEASE_SECONDS", 0, "a number of seconds (1 or more)"));
        }
        Ok(Self { concurrency, lease: Duration::from_secs(seconds) })
    }
}

/// `local` is the one method of this version; the words for the other are known and refused in a clear sentence
/// rather than taken and not served.
fn method(environment: &Environment) -> Result<(), SettingError> {
    const NAME: &str = "STUDYGOV_CALLBACK_METHOD";
    match environment.text(NAME, "local").to_ascii_lowercase().as_str() {
        "local" => Ok(()),
        method @ ("rabbitmq" | "celery") => Err(SettingError::new(
            NAME,
            format!("'{method}' (workers over RabbitMQ) is not in this version yet; use 'local'"),
        )),
        other => Err(unusable(NAME, other, "one of local, rabbitmq")),
    }
}
