//! Listen address, external address and limits of the server.

use std::time::Duration;

use super::TrustedProxies;
use super::environment::{Environment, SettingError, unusable};
use super::table::{
    APPLICATION_ROOT, GUNICORN_TIMEOUT, GUNICORN_WORKER_CONNECTIONS, SCRIPT_NAME, STUDYGOV_CLOCK_LIMIT_SECONDS,
    STUDYGOV_DRAIN_SECONDS, STUDYGOV_EXTERNAL_HOSTNAME, STUDYGOV_EXTERNAL_PORT, STUDYGOV_EXTERNAL_PROTO, STUDYGOV_HOST,
    STUDYGOV_INSTANCE_NAME, STUDYGOV_METRICS_LISTEN, STUDYGOV_PORT, STUDYGOV_PROJECT_NAME, STUDYGOV_PROXY_PROTOCOL,
};

/// See the module.
#[derive(Debug, Clone)]
pub struct WebSettings {
    pub host: String,
    pub port: u16,
    /// Path prefix with a leading slash and without a trailing one; may be empty.
    pub prefix: String,
    /// `https://host:port` as users reach the server; `None`: taken from the request.
    pub external: Option<String>,
    /// Proxies whose headers on the origin of a request are trusted.
    pub proxies: TrustedProxies,
    /// Listen address of `/-/metrics` and `/-/queues`, as `host:port` or `:port`; `None`: on the port of the pages.
    pub metrics_listen: Option<String>,
    /// Whether these proxies may use the PROXY protocol.
    pub proxy_protocol: bool,
    /// Time limit of a request in seconds.
    pub request_timeout: u64,
    /// Maximum number of concurrent requests; further requests wait. A few more connections than that may be open.
    pub connections: usize,
    /// Time that running requests get to finish when the server stops.
    pub drain: Duration,
    pub instance_name: String,
    pub project_name: String,
    /// A server whose clock differs from the database's by more than this is not ready.
    pub clock_limit: Duration,
}

impl WebSettings {
    /// # Errors
    /// When a value is invalid.
    pub fn read(environment: &Environment) -> Result<Self, SettingError> {
        let external = external(environment)?;
        Ok(Self {
            host: environment.host(STUDYGOV_HOST)?,
            port: environment.number(STUDYGOV_PORT)?,
            prefix: prefix(environment)?,
            proxies: TrustedProxies::read(environment, external.is_some())?,
            proxy_protocol: environment.flag(STUDYGOV_PROXY_PROTOCOL)?,
            metrics_listen: environment.listen(STUDYGOV_METRICS_LISTEN)?,
            external,
            drain: Duration::from_secs(environment.number(STUDYGOV_DRAIN_SECONDS)?),
            request_timeout: environment.number(GUNICORN_TIMEOUT)?,
            connections: environment.number(GUNICORN_WORKER_CONNECTIONS)?,
            instance_name: environment.text(STUDYGOV_INSTANCE_NAME),
            project_name: environment.text(STUDYGOV_PROJECT_NAME),
            clock_limit: Duration::from_secs(environment.number(STUDYGOV_CLOCK_LIMIT_SECONDS)?),
        })
    }

    /// Base of absolute URLs, without a trailing slash: the external address, or else the listen address.
    #[must_use]
    pub fn base_url(&self) -> String {
        match &self.external {
            Some(external) => format!("{external}{}", self.prefix),
            None => format!("http://{}:{}{}", self.host, self.port, self.prefix),
        }
    }

    /// Whether users connect over https, so that cookies are limited to it.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.external.as_deref().is_some_and(|external| external.starts_with("https://"))
    }
}

fn prefix(environment: &Environment) -> Result<String, SettingError> {
    let Some((name, value)) = environment.first(&[SCRIPT_NAME, APPLICATION_ROOT]) else {
        return Ok(String::new());
    };
    let path = value.trim_matches('/');
    if path.is_empty() {
        return Ok(String::new());
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./~".contains(c);
    if !path.chars().all(plain) || path.contains("//") {
        return Err(unusable(name, value));
    }
    Ok(format!("/{path}"))
}

fn external(environment: &Environment) -> Result<Option<String>, SettingError> {
    let proto = environment.text(STUDYGOV_EXTERNAL_PROTO);
    if proto != "http" && proto != "https" {
        return Err(unusable(STUDYGOV_EXTERNAL_PROTO, proto));
    }
    let default_port = if proto == "https" { 443 } else { 80 };
    let port: u16 = environment.number_or(STUDYGOV_EXTERNAL_PORT, default_port)?;
    let Some(host) = environment.get(STUDYGOV_EXTERNAL_HOSTNAME) else { return Ok(None) };
    let address = if port == default_port { format!("{proto}://{host}") } else { format!("{proto}://{host}:{port}") };
    match url::Url::parse(&address) {
        Ok(parsed) if parsed.path() == "/" && parsed.query().is_none() => Ok(Some(address)),
        _ => Err(unusable(STUDYGOV_EXTERNAL_HOSTNAME, host)),
    }
}
