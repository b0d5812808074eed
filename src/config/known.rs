//! The names that are read, so that a misspelled one can be pointed out.

use super::Environment;

/// Every `STUDYGOV_*` name that this product or the existing one reads.
const KNOWN: &[&str] = &[
    "STUDYGOV_ADMIN_EMAIL",
    "STUDYGOV_ADMIN_FORCE_UPDATE",
    "STUDYGOV_ADMIN_PASSWORD",
    "STUDYGOV_ADMIN_USERNAME",
    "STUDYGOV_BROKER",
    "STUDYGOV_BROKER_PREFIX",
    "STUDYGOV_CALLBACK_METHOD",
    "STUDYGOV_CALLBACK_SECRET",
    "STUDYGOV_CELERY_BACKEND",
    "STUDYGOV_CELERY_BROKER",
    "STUDYGOV_DATA_DIR",
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
    "STUDYGOV_PORT",
    "STUDYGOV_PROJECT_BIN",
    "STUDYGOV_PROJECT_HOME",
    "STUDYGOV_PROJECT_NAME",
    "STUDYGOV_PROJECT_NETWORKS",
    "STUDYGOV_PROJECT_SCRATCH",
    "STUDYGOV_PROJECT_TASKS",
    "STUDYGOV_PROJECT_TEMPLATES",
    "STUDYGOV_PROJECT_WORKFLOWS",
    "STUDYGOV_PYTHON",
    "STUDYGOV_QUEUES",
    "STUDYGOV_REPUBLISH_SECONDS",
    "STUDYGOV_SERVER",
    "STUDYGOV_UPLOAD_LIMIT",
    "STUDYGOV_WORKER_CONCURRENCY",
    "STUDYGOV_XNAT_PROJECT",
];

/// One sentence for each `STUDYGOV_*` name that is set and that nobody reads, with the nearest known name.
#[must_use]
pub fn unknown_names(environment: &Environment) -> Vec<String> {
    environment
        .names()
        .filter(|name| name.starts_with("STUDYGOV_") && !KNOWN.contains(name))
        .map(|name| {
            let nearest = KNOWN.iter().min_by_key(|known| strsim::damerau_levenshtein(name, known));
            match nearest {
                Some(known) if strsim::damerau_levenshtein(name, known) <= 6 => {
                    format!("{name} is not a setting of Study Governor; did you mean {known}?")
                }
                _ => format!("{name} is not a setting of Study Governor and is ignored"),
            }
        })
        .collect()
}
