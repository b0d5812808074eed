//! Names of the environment that are not settings: misspelled ones, those of version 8.1 that have no meaning here, and those that this
//! program sets or its tests use.

use super::Environment;
use super::secret_file::is_secret_setting;
use super::table::SETTINGS;

/// Names that version 8.1 read and that are ignored, with the reason. One that is set gets a line in the log.
pub const IGNORED: &[(&str, &str)] = &[
    ("FLASK_APP", "the program starts without it"),
    ("FLASK_DEBUG", "STUDYGOV_LOG=debug logs more"),
    ("FLASK_ENV", "there is one way to run the program"),
    ("GUNICORN_WORKER_CLASS", "the server has one kind of worker"),
    ("STUDYGOV_CELERY_BACKEND", "results of callbacks are stored in the database"),
];

/// Names that are not for people: the secret that a callback's program receives, and the failures that tests cause.
const INTERNAL: [&str; 2] = ["STUDYGOV_CALLBACK_SECRET", "STUDYGOV_FAULT"];

/// Whether a variable of this name has a meaning, or is known to have none.
fn is_known(name: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.name.as_str() == name)
        || IGNORED.iter().any(|(ignored, _)| *ignored == name)
        || INTERNAL.contains(&name)
        || name.strip_suffix("_FILE").is_some_and(is_secret_setting)
}

/// A sentence for each variable that is set and ignored.
pub(super) fn ignored_names(environment: &Environment) -> Vec<String> {
    let is_set = |name: &str| environment.by_name(name).is_some();
    let set = IGNORED.iter().filter(|(name, _)| is_set(name));
    set.map(|(name, reason)| format!("{name} is accepted and ignored: {reason}")).collect()
}

/// A sentence for each variable that begins like ours, is set and has no meaning, with the nearest known name. Version 8.1
/// passed all of `SECURITY_*` and `MAIL_*` to Flask-Security and Flask-Mail.
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

/// Of names that are ours only a mistake is likely; other names may mean anything.
fn nearly(name: &str) -> usize {
    if name.starts_with("STUDYGOV_") { 6 } else { 2 }
}
