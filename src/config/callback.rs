//! How callbacks are run.

use std::time::Duration;

use super::broker::parse as parse_broker;
use super::broker_parts::from_parts;
use super::environment::{Environment, SettingError, unusable};
use super::table::{
    STUDYGOV_BROKER, STUDYGOV_BROKER_PREFIX, STUDYGOV_CALLBACK_METHOD, STUDYGOV_CELERY_BROKER, STUDYGOV_LEASE_SECONDS,
    STUDYGOV_REPUBLISH_SECONDS, STUDYGOV_TRANSITIONS_PER_MINUTE, STUDYGOV_WORKER_CONCURRENCY,
};

/// Where callbacks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallbackMethod {
    /// The server itself.
    Local,
    /// In `studygovernor worker` processes, on any machine, that receive them from RabbitMQ.
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
    /// A message that no worker claims within this time is published again.
    pub republish: Duration,
    /// Automatic transitions that an experiment may make within a minute before it is put on hold; 0 is no limit.
    pub transitions_per_minute: u32,
}

impl CallbackSettings {
    /// # Errors
    /// When a value cannot be used.
    pub fn read(environment: &Environment) -> Result<Self, SettingError> {
        let method = method(environment)?;
        // Of no concern to a server that runs callbacks itself.
        let broker = if method == CallbackMethod::RabbitMq { broker(environment)? } else { None };
        if method == CallbackMethod::RabbitMq && broker.is_none() {
            let hint = "is required when STUDYGOV_CALLBACK_METHOD is rabbitmq: the URL of the broker, amqp://…";
            return Err(SettingError::new(STUDYGOV_CELERY_BROKER, hint));
        }
        Ok(Self {
            method,
            concurrency: concurrency(environment)?.into(),
            lease: Duration::from_secs(environment.number(STUDYGOV_LEASE_SECONDS)?),
            broker,
            broker_prefix: broker_prefix(environment)?,
            republish: Duration::from_secs(environment.number(STUDYGOV_REPUBLISH_SECONDS)?),
            transitions_per_minute: environment.number(STUDYGOV_TRANSITIONS_PER_MINUTE)?,
        })
    }
}

/// Callbacks that run at the same time in this process: as many as there are cores, at least 4, unless it is set.
///
/// # Errors
/// When the number cannot be used.
pub(super) fn concurrency(environment: &Environment) -> Result<u16, SettingError> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from).clamp(4, 1000);
    environment.number_or(STUDYGOV_WORKER_CONCURRENCY, u16::try_from(cores).unwrap_or(4))
}

/// The beginning of the names of the queues at the broker: the same for the servers and workers of a study.
///
/// # Errors
/// When queues cannot be called so.
pub fn broker_prefix(environment: &Environment) -> Result<String, SettingError> {
    let prefix = environment.text(STUDYGOV_BROKER_PREFIX);
    if prefix.len() > 64 || prefix.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(unusable(STUDYGOV_BROKER_PREFIX, prefix));
    }
    Ok(prefix)
}

/// The address of the broker, under its old name or its new one, or from its parts (`STUDYGOV_BROKER_HOST` and its companions);
/// several have semicolons between them.
///
/// # Errors
/// When it is not the address of a broker. The address itself is not shown: there is a password in it.
pub fn broker(environment: &Environment) -> Result<Option<String>, SettingError> {
    let Some((name, value)) = environment.first(&[STUDYGOV_BROKER, STUDYGOV_CELERY_BROKER]) else {
        // A semicolon stands between addresses.
        return Ok(from_parts(environment)?.map(|address| address.replace(';', "%3B")));
    };
    parse_broker(&name, value).map(Some)
}

fn method(environment: &Environment) -> Result<CallbackMethod, SettingError> {
    match environment.text(STUDYGOV_CALLBACK_METHOD).to_ascii_lowercase().as_str() {
        "local" => Ok(CallbackMethod::Local),
        // The second is the word of old configurations.
        "rabbitmq" | "celery" => Ok(CallbackMethod::RabbitMq),
        other => Err(unusable(STUDYGOV_CALLBACK_METHOD, other)),
    }
}
