//! Settings of callbacks and of the pool that runs them.

use std::time::Duration;

use super::broker::parse as parse_broker;
use super::broker_parts::from_parts;
use super::environment::{Environment, SettingError, unusable};
use super::table::{
    STUDYGOV_BROKER, STUDYGOV_BROKER_PREFIX, STUDYGOV_CALLBACK_METHOD, STUDYGOV_CELERY_BROKER, STUDYGOV_LEASE_SECONDS,
    STUDYGOV_REPUBLISH_SECONDS, STUDYGOV_TRANSITIONS_PER_MINUTE, STUDYGOV_WORKER_CONCURRENCY,
};

/// The processes that run callbacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallbackMethod {
    /// The server itself.
    Local,
    /// `studygovernor worker` processes on any machine, which receive callbacks from RabbitMQ.
    RabbitMq,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct CallbackSettings {
    pub method: CallbackMethod,
    /// Maximum number of concurrent callbacks in one pool.
    pub concurrency: usize,
    /// A claim is valid for this long without a heartbeat; heartbeats are sent three times as often.
    pub lease: Duration,
    /// `amqp://…` of the broker.
    pub broker: Option<String>,
    /// Prefix of the queue names at the broker.
    pub broker_prefix: String,
    /// A message that no worker claims within this time is published again.
    pub republish: Duration,
    /// An experiment with more automatic transitions within a minute is put on hold; 0 means no limit.
    pub transitions_per_minute: u32,
}

impl CallbackSettings {
    /// # Errors
    /// When a value is invalid.
    pub fn read(environment: &Environment) -> Result<Self, SettingError> {
        let method = method(environment)?;
        // A server that runs callbacks itself does not need it.
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

/// Maximum number of concurrent callbacks in this process; by default the number of cores, but at least 4.
///
/// # Errors
/// When the setting is not a number within its limits.
pub(super) fn concurrency(environment: &Environment) -> Result<u16, SettingError> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from).clamp(4, 1000);
    environment.number_or(STUDYGOV_WORKER_CONCURRENCY, u16::try_from(cores).unwrap_or(4))
}

/// The prefix of the queue names at the broker, which must be the same for all servers and workers of a study.
///
/// # Errors
/// When a queue name cannot begin with it.
pub fn broker_prefix(environment: &Environment) -> Result<String, SettingError> {
    let prefix = environment.text(STUDYGOV_BROKER_PREFIX);
    if prefix.len() > 64 || prefix.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(unusable(STUDYGOV_BROKER_PREFIX, prefix));
    }
    Ok(prefix)
}

/// The address of the broker: from `STUDYGOV_BROKER`, `STUDYGOV_CELERY_BROKER`, or the parts (`STUDYGOV_BROKER_HOST` …). Several
/// addresses are separated by semicolons.
///
/// # Errors
/// When it is not the address of a broker. The error does not show the address, because it contains a password.
pub fn broker(environment: &Environment) -> Result<Option<String>, SettingError> {
    let Some((name, value)) = environment.first(&[STUDYGOV_BROKER, STUDYGOV_CELERY_BROKER]) else {
        // A semicolon separates addresses.
        return Ok(from_parts(environment)?.map(|address| address.replace(';', "%3B")));
    };
    parse_broker(&name, value).map(Some)
}

fn method(environment: &Environment) -> Result<CallbackMethod, SettingError> {
    match environment.text(STUDYGOV_CALLBACK_METHOD).to_ascii_lowercase().as_str() {
        "local" => Ok(CallbackMethod::Local),
        // Configurations of version 8.1 say `celery`.
        "rabbitmq" | "celery" => Ok(CallbackMethod::RabbitMq),
        other => Err(unusable(STUDYGOV_CALLBACK_METHOD, other)),
    }
}
