//! How callbacks are run.

use std::time::Duration;

use super::environment::{Environment, SettingError, unusable};

/// Who runs the callbacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallbackMethod {
    /// The server itself.
    Local,
    /// Workers elsewhere. Dispatch over RabbitMQ is not in this version: callbacks wait in the queue of the database until
    /// somebody reports on them through the API, or a `studygovernor worker` with access to the database takes them.
    RabbitMq,
}

/// How callbacks are run, and the worker pool that does it.
#[derive(Debug, Clone)]
pub struct CallbackSettings {
    pub method: CallbackMethod,
    /// Callbacks that run at the same time in one pool.
    pub concurrency: usize,
    /// How long a claim is good without a heartbeat; heartbeats come three times as often.
    pub lease: Duration,
}

impl CallbackSettings {
    /// # Errors
    /// When a value cannot be used.
    pub fn read(environment: &Environment) -> Result<Self, SettingError> {
        let method = method(environment)?;
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
        Ok(Self { method, concurrency, lease: Duration::from_secs(seconds) })
    }
}

fn method(environment: &Environment) -> Result<CallbackMethod, SettingError> {
    const NAME: &str = "STUDYGOV_CALLBACK_METHOD";
    match environment.text(NAME, "local").to_ascii_lowercase().as_str() {
        "local" => Ok(CallbackMethod::Local),
        // The second is the word of old configurations.
        "rabbitmq" | "celery" => Ok(CallbackMethod::RabbitMq),
        other => Err(unusable(NAME, other, "one of local, rabbitmq")),
    }
}
