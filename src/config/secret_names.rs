//! Recognizes environment variables that contain secrets, by name and by value.

use super::secret_file::is_secret_setting;

/// Secrets that cannot be read from files, or that this program does not read.
const OTHERS: [&str; 3] = ["STUDYGOV_CALLBACK_SECRET", "STUDYGOV_CELERY_BACKEND", "STUDYGOV_EMAIL_PASSWORD"];

/// Whether a variable is a secret of a server or worker, or the path of its file. Callbacks never receive these, regardless of the
/// settings.
#[must_use]
pub fn is_own_secret(name: &str) -> bool {
    let name = name.strip_suffix("_FILE").unwrap_or(name);
    // All PostgreSQL clients read PGPASSWORD: a program may need it for its own database.
    (is_secret_setting(name) && name != "PGPASSWORD") || OTHERS.contains(&name)
}

/// Parts of names that indicate a secret.
const PARTS: [&str; 11] = [
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "SECRET",
    "TOKEN",
    "CREDENTIAL",
    "APIKEY",
    "API_KEY",
    "SALT",
    "PRIVATE",
    "COOKIE",
];

/// Endings of names that indicate a secret.
const ENDS: [&str; 6] = ["_PASS", "_PWD", "_KEY", "_PW", "_DSN", "_AUTH_CONFIG"];

/// Whether a variable of this name is a secret.
#[must_use]
pub fn is_secret_name(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    is_own_secret(name)
        || PARTS.iter().any(|part| upper.contains(part))
        || ENDS.iter().any(|end| upper.ends_with(end))
        || matches!(upper.as_str(), "PASS" | "MYSQL_PWD")
        || upper.starts_with("AWS_")
}

/// Whether a variable is a secret: by its name, or because its value contains an address with a password.
#[must_use]
pub fn is_secret(name: &str, value: &str) -> bool {
    is_secret_name(name) || holds_login(value)
}

/// Whether a text contains an address with a password, like `amqp://user:password@host`.
#[must_use]
pub fn holds_login(text: &str) -> bool {
    text.match_indices("://").any(|(at, mark)| {
        let rest = &text[at + mark.len()..];
        let authority = rest.split(['/', '?', '#', ' ']).next().unwrap_or(rest);
        authority.rsplit_once('@').is_some_and(|(login, _)| login.contains(':'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_names_and_by_their_looks() {
        for name in [
            "PGPASSWORD",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "AWS_PROFILE",
            "MYSQL_PWD",
            "GITHUB_TOKEN",
            "XNAT_PASS",
            "secret_key",
            "STUDYGOV_BROKER",
            "DB_PASSWORD",
            "SENTRY_DSN",
            "DOCKER_AUTH_CONFIG",
            "OPENAI_API_KEY",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in [
            "PATH",
            "HOME",
            "PGHOST",
            "LANG",
            "PWD",
            "OLDPWD",
            "SSH_AUTH_SOCK",
            "KEYBOARD",
            "PASSENGER",
            "XDG_SESSION_ID",
        ] {
            assert!(!is_secret_name(name), "{name}");
        }
        assert!(is_secret("X", "amqp://u:p@h/v") && is_secret("X", "first amqp://h;amqp://u:p@h"));
        assert!(!is_secret("X", "https://h:80/a@b:c") && !is_secret("X", "https://user@h/"));
    }
}
