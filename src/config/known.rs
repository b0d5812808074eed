//! Environment variables that are not settings: misspelled names, names of version 8.1 that are ignored, and names that this program
//! sets or its tests use.

use super::Environment;
use super::secret_file::is_secret_setting;
use super::table::SETTINGS;

/// Ignored settings of version 8.1 with the reason. Each one that is set is logged.
pub const IGNORED: &[(&str, &str)] = &[
    ("FLASK_APP", "the program starts without it"),
    ("FLASK_DEBUG", "STUDYGOV_LOG=debug logs more"),
    ("FLASK_ENV", "there is one way to run the program"),
    ("GUNICORN_WORKER_CLASS", "the server has one kind of worker"),
    ("STUDYGOV_CELERY_BACKEND", "results of callbacks are stored in the database"),
];

/// Names that operators do not set: the secret that a callback's program receives, and the failures that tests inject.
const INTERNAL: [&str; 2] = ["STUDYGOV_CALLBACK_SECRET", "STUDYGOV_FAULT"];

/// Whether a name is a setting, the file of a secret, a known ignored name or an internal name.
fn is_known(name: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.name.as_str() == name)
        || IGNORED.iter().any(|(ignored, _)| *ignored == name)
        || INTERNAL.contains(&name)
        || name.strip_suffix("_FILE").is_some_and(is_secret_setting)
}

/// A warning for each variable that is set and ignored.
pub(super) fn ignored_names(environment: &Environment) -> Vec<String> {
    let is_set = |name: &str| environment.by_name(name).is_some();
    let set = IGNORED.iter().filter(|(name, _)| is_set(name));
    set.map(|(name, reason)| format!("{name} is accepted and ignored: {reason}")).collect()
}

/// A warning with the most similar known name for each unknown variable with one of our prefixes. Version 8.1 passes all of
/// `SECURITY_*` and `MAIL_*` to Flask-Security and Flask-Mail.
pub(super) fn unknown_names(environment: &Environment) -> Vec<String> {
    let starts = ["STUDYGOV_", "SECURITY_", "MAIL_"];
    let is_ours = |name: &str| starts.iter().any(|start| name.starts_with(start));
    environment
        .names()
        .filter(|name| is_ours(name) && !is_known(name))
        .map(|name| {
            let known = SETTINGS.iter().map(|setting| setting.name.as_str()).filter(|known| is_ours(known));
            let distance = |known: &str| strsim::damerau_levenshtein(name, known);
            match known.min_by_key(|known| distance(known)) {
                Some(known) if distance(known) <= nearly(name) => {
                    format!("unknown setting {name}; did you mean {known}?")
                }
                _ => format!("unknown setting {name}; ignored"),
            }
        })
        .collect()
}

/// The largest distance of a typing error. It is larger for `STUDYGOV_*`, because no other program uses that prefix.
fn nearly(name: &str) -> usize {
    if name.starts_with("STUDYGOV_") { 6 } else { 2 }
}
