//! The names that are read, so that a misspelled one can be pointed out, and one that meant something to the existing product and
//! means nothing here.

use super::{Environment, SECRETS};

/// Every `STUDYGOV_*`, `SECURITY_*` and `MAIL_*` name that this product or the existing one reads.
const KNOWN: &[&str] = &[
    "MAIL_DEFAULT_SENDER",
    "MAIL_PASSWORD",
    "MAIL_PORT",
    "MAIL_SERVER",
    "MAIL_SUPPRESS_SEND",
    "MAIL_USERNAME",
    "MAIL_USE_SSL",
    "MAIL_USE_TLS",
    "SECURITY_CHANGEABLE",
    "SECURITY_CONFIRMABLE",
    "SECURITY_CONFIRM_EMAIL_WITHIN",
    "SECURITY_EMAIL_SENDER",
    "SECURITY_PASSWORD_LENGTH_MIN",
    "SECURITY_PASSWORD_SALT",
    "SECURITY_RECOVERABLE",
    "SECURITY_REGISTERABLE",
    "SECURITY_REMEMBER",
    "SECURITY_RESET_PASSWORD_WITHIN",
    "SECURITY_SESSION_IDLE",
    "SECURITY_SESSION_LONGEST",
    "STUDYGOV_ADMIN_EMAIL",
    "STUDYGOV_ADMIN_FORCE_UPDATE",
    "STUDYGOV_ADMIN_PASSWORD",
    "STUDYGOV_ADMIN_USERNAME",
    "STUDYGOV_BROKER",
    "STUDYGOV_BROKER_HOST",
    "STUDYGOV_BROKER_PASSWORD",
    "STUDYGOV_BROKER_PORT",
    "STUDYGOV_BROKER_PREFIX",
    "STUDYGOV_BROKER_TLS",
    "STUDYGOV_BROKER_USER",
    "STUDYGOV_BROKER_VHOST",
    "STUDYGOV_CALLBACK_ENVIRONMENT",
    "STUDYGOV_CALLBACK_METHOD",
    "STUDYGOV_CALLBACK_SECRET",
    "STUDYGOV_CALLBACK_USER",
    "STUDYGOV_CELERY_BACKEND",
    "STUDYGOV_CELERY_BROKER",
    "STUDYGOV_CLOCK_LIMIT_SECONDS",
    "STUDYGOV_DATABASE_CONNECTIONS",
    "STUDYGOV_DATABASE_IDLE_SECONDS",
    "STUDYGOV_DATABASE_LOCK_SECONDS",
    "STUDYGOV_DATABASE_NETWORK_SECONDS",
    "STUDYGOV_DATABASE_STATEMENT_SECONDS",
    "STUDYGOV_DATA_DIR",
    "STUDYGOV_DRAIN_SECONDS",
    "STUDYGOV_EMAIL_FROM",
    "STUDYGOV_EMAIL_PREFIX",
    "STUDYGOV_EMAIL_TO",
    "STUDYGOV_EXTERNAL_HOSTNAME",
    "STUDYGOV_EXTERNAL_PORT",
    "STUDYGOV_EXTERNAL_PROTO",
    "STUDYGOV_FAULT",
    "STUDYGOV_HOST",
    "STUDYGOV_INSTANCE_NAME",
    "STUDYGOV_LEASE_SECONDS",
    "STUDYGOV_LOG",
    "STUDYGOV_METRICS_LISTEN",
    "STUDYGOV_MIGRATE",
    "STUDYGOV_PORT",
    "STUDYGOV_PROJECT_BIN",
    "STUDYGOV_PROJECT_HOME",
    "STUDYGOV_PROJECT_LOAD",
    "STUDYGOV_PROJECT_NAME",
    "STUDYGOV_PROJECT_NETWORKS",
    "STUDYGOV_PROJECT_SCRATCH",
    "STUDYGOV_PROJECT_SYNC",
    "STUDYGOV_PROJECT_TASKS",
    "STUDYGOV_PROJECT_TEMPLATES",
    "STUDYGOV_PROJECT_WORKFLOWS",
    "STUDYGOV_PROXY_PROTOCOL",
    "STUDYGOV_PYTHON",
    "STUDYGOV_QUEUES",
    "STUDYGOV_REPUBLISH_SECONDS",
    "STUDYGOV_SECRETS_DIR",
    "STUDYGOV_SERVER",
    "STUDYGOV_TRANSITIONS_PER_MINUTE",
    "STUDYGOV_TRUSTED_PROXIES",
    "STUDYGOV_UPLOAD_LIMIT",
    "STUDYGOV_WORKER_CONCURRENCY",
    "STUDYGOV_WORKER_GRACE",
    "STUDYGOV_WORKER_LISTEN",
    "STUDYGOV_XNAT_PROJECT",
];

/// One sentence for each name that begins like ours, is set and is read by nobody, with the nearest known name. The existing product
/// handed all of `SECURITY_*` and `MAIL_*` to Flask-Security and Flask-Mail.
#[must_use]
pub fn unknown_names(environment: &Environment) -> Vec<String> {
    environment
        .names()
        .filter(|name| ["STUDYGOV_", "SECURITY_", "MAIL_"].iter().any(|start| name.starts_with(start)))
        .filter(|name| !KNOWN.contains(name) && !is_secret_file(name))
        .map(|name| {
            let nearest = KNOWN.iter().min_by_key(|known| strsim::damerau_levenshtein(name, known));
            match nearest {
                Some(known) if strsim::damerau_levenshtein(name, known) <= nearly(name) => {
                    format!("unknown setting {name}; did you mean {known}?")
                }
                _ => format!("unknown setting {name}; ignored"),
            }
        })
        .collect()
}

/// Of names that are ours only a mistake is likely; what `SECURITY_*` names mean is many things.
fn nearly(name: &str) -> usize {
    if name.starts_with("STUDYGOV_") { 6 } else { 2 }
}

/// Whether it is a secret's name with `_FILE` behind it.
fn is_secret_file(name: &str) -> bool {
    name.strip_suffix("_FILE").is_some_and(|secret| SECRETS.contains(&secret))
}
