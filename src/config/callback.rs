//! How callbacks are run.

use std::time::Duration;

use super::broker::parse as parse_broker;
use super::broker_parts::from_parts;
use super::environment::{Environment, SettingError, unusable};

/// Who runs the callbacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallbackMethod {
    /// The server itself.
    Local,
    /// `studygovernor worker` processes, on any machine, that hear of them from RabbitMQ.
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
    /// `amqp://…` of the broker.
    pub broker: Option<String>,
    /// Begins the names of the queues at the broker.
    pub broker_prefix: String,
    /// How long nobody may claim what was published before it is published once more.
    pub republish: Duration,
    /// Transitions that an experiment may make by itself within a minute before it is put on hold; 0 is no limit.
    pub transitions_per_minute: u32,
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
        let republish: u64 = environment.number("STUDYGOV_REPUBLISH_SECONDS", 60, "a number of seconds (1 or more)")?;
        // Of no concern to a server that runs callbacks itself.
        let broker = if method == CallbackMethod::RabbitMq { broker(environment)? } else { None };
        if method == CallbackMethod::RabbitMq && broker.is_none() {
            let hint = "is required when STUDYGOV_CALLBACK_METHOD is rabbitmq: the URL of the broker, amqp://…";
            return Err(SettingError::new("STUDYGOV_CELERY_BROKER", hint));
        }
        let republish = Duration::from_secs(republish.max(1));
        Ok(Self {
            method,
            concurrency,
            lease: Duration::from_secs(seconds),
            broker,
            broker_prefix: broker_prefix(environment)?,
            republish,
            transitions_per_minute: environment.number(
                "STUDYGOV_TRANSITIONS_PER_MINUTE",
                100,
                "a number of transitions (0 for no limit)",
            )?,
        })
    }
}

/// What begins the names of the queues at the broker: the same for the servers and workers of a study.
///
/// # Errors
/// When queues cannot be called so.
pub fn broker_prefix(environment: &Environment) -> Result<String, SettingError> {
    const NAME: &str = "STUDYGOV_BROKER_PREFIX";
    let prefix = environment.text(NAME, "studygovernor");
    if prefix.len() > 64 || prefix.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(unusable(NAME, prefix, "a name of at most 64 characters without spaces"));
    }
    Ok(prefix)
}

/// The address of the broker, under its old name or its new one, or from its parts (`STUDYGOV_BROKER_HOST` and its companions);
/// several have semicolons between them.
///
/// # Errors
/// When it is no address of a broker. The address itself is not shown: there is a password in it.
pub fn broker(environment: &Environment) -> Result<Option<String>, SettingError> {
    let Some((name, value)) = environment.first(&["STUDYGOV_BROKER", "STUDYGOV_CELERY_BROKER"]) else {
        // A semicolon stands between addresses.
        return Ok(from_parts(environment)?.map(|address| address.replace(';', "%3B")));
    };
    parse_broker(name, value).map(Some)
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
