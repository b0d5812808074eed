//! Settings that only `studygovernor worker` uses.

use std::time::Duration;

use super::callback::concurrency;
use super::environment::{Environment, SettingError, unusable};
use super::table::{STUDYGOV_QUEUES, STUDYGOV_SERVER, STUDYGOV_WORKER_GRACE, STUDYGOV_WORKER_LISTEN};

/// See the module.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Address of the server as this machine reaches it; `None`: the address in each message.
    pub server: Option<String>,
    /// The configured queues; empty: the default queue.
    pub queues: Vec<String>,
    /// Maximum number of concurrent callbacks.
    pub concurrency: u16,
    /// Time that running callbacks get to finish when the worker stops.
    pub grace: Duration,
    /// Listen address for probes, `host:port`.
    pub listen: Option<String>,
}

impl WorkerSettings {
    /// Reads the settings.
    ///
    /// # Errors
    /// When a value is invalid.
    pub fn read(environment: &Environment) -> Result<Self, SettingError> {
        let server = environment.get(STUDYGOV_SERVER);
        if let Some(wrong) = server.filter(|server| !is_web_address(server)) {
            return Err(unusable(STUDYGOV_SERVER, wrong));
        }
        let grace = environment.text(STUDYGOV_WORKER_GRACE);
        let queues = environment.get(STUDYGOV_QUEUES).unwrap_or_default().split(',').map(str::trim);
        let queues: Vec<String> = queues.filter(|queue| !queue.is_empty()).map(str::to_owned).collect();
        if let Some(wrong) = queues.iter().find(|queue| !is_queue_name(queue)) {
            return Err(SettingError::new(STUDYGOV_QUEUES, format!("'{wrong}' is not {QUEUE_NAME}")));
        }
        Ok(Self {
            server: server.map(str::to_owned),
            queues,
            concurrency: concurrency(environment)?,
            grace: time(&grace).ok_or_else(|| unusable(STUDYGOV_WORKER_GRACE, grace))?,
            listen: environment.listen(STUDYGOV_WORKER_LISTEN)?,
        })
    }
}

/// Description of a valid queue name, for errors.
pub const QUEUE_NAME: &str = "a valid queue name (at most 100 characters, no spaces)";

/// Whether a queue can have this name: at most 100 bytes, without spaces and control characters.
#[must_use]
pub fn is_queue_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 100 && name.chars().all(|c| !c.is_control() && !c.is_whitespace())
}

/// Whether a text is an http or https URL.
#[must_use]
pub fn is_web_address(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
}

/// Parses a duration: `90` or `90s` (seconds), `15m`, `1h`, `1d`; at most a year (366 days).
#[must_use]
pub fn time(text: &str) -> Option<Duration> {
    const LONGEST: u64 = 366 * 86_400;
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    let seconds = number.parse::<u64>().ok()?.checked_mul(factor)?;
    (seconds <= LONGEST).then(|| Duration::from_secs(seconds))
}
