//! Features of accounts and lifetimes of links and sessions. The names are those of Flask-Security, as in version 8.1.

use chrono::TimeDelta;

use super::environment::{Environment, SettingError, unusable};
use super::setting::Name;
use super::table::{
    SECURITY_CHANGEABLE, SECURITY_CONFIRM_EMAIL_WITHIN, SECURITY_CONFIRMABLE, SECURITY_PASSWORD_LENGTH_MIN,
    SECURITY_RECOVERABLE, SECURITY_REGISTERABLE, SECURITY_REMEMBER, SECURITY_RESET_PASSWORD_WITHIN,
    SECURITY_SESSION_IDLE, SECURITY_SESSION_LONGEST, STUDYGOV_UPLOAD_LIMIT,
};

/// See the module.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Debug, Clone)]
pub struct SecuritySettings {
    pub registerable: bool,
    pub confirmable: bool,
    pub recoverable: bool,
    pub changeable: bool,
    /// Minimum number of characters of a password that is chosen in a form.
    pub password_length: usize,
    /// Lifetime of the link in a confirmation or an invitation.
    pub confirm_within: TimeDelta,
    /// Lifetime of the link for a forgotten password.
    pub reset_within: TimeDelta,
    /// A session ends after this time without use.
    pub session_idle: TimeDelta,
    /// A session ends after this time, even if it is used.
    pub session_longest: TimeDelta,
    /// Maximum duration of a session of users who stay logged in; `session_idle` does not apply to them.
    pub remembered: TimeDelta,
    /// Size limit of an uploaded file in bytes.
    pub largest_upload: u64,
}

impl SecuritySettings {
    /// Reads `SECURITY_*` and `STUDYGOV_UPLOAD_LIMIT`.
    ///
    /// # Errors
    /// When a value is invalid.
    pub fn read(environment: &Environment) -> Result<Self, SettingError> {
        let within = |name: Name| {
            let text = environment.text(name);
            span(&text).ok_or_else(|| unusable(name, text))
        };
        let largest = environment.text(STUDYGOV_UPLOAD_LIMIT);
        Ok(Self {
            registerable: environment.switch(SECURITY_REGISTERABLE)?,
            confirmable: environment.switch(SECURITY_CONFIRMABLE)?,
            recoverable: environment.switch(SECURITY_RECOVERABLE)?,
            changeable: environment.switch(SECURITY_CHANGEABLE)?,
            password_length: environment.number(SECURITY_PASSWORD_LENGTH_MIN)?,
            confirm_within: within(SECURITY_CONFIRM_EMAIL_WITHIN)?,
            reset_within: within(SECURITY_RESET_PASSWORD_WITHIN)?,
            session_idle: within(SECURITY_SESSION_IDLE)?,
            session_longest: within(SECURITY_SESSION_LONGEST)?,
            remembered: within(SECURITY_REMEMBER)?,
            largest_upload: bytes(&largest).ok_or_else(|| unusable(STUDYGOV_UPLOAD_LIMIT, largest))?,
        })
    }
}

/// Parses a duration as Flask-Security writes it: `5 days`, `1 day, 12 hours`.
fn span(text: &str) -> Option<TimeDelta> {
    let mut total = TimeDelta::zero();
    for part in text.split(',') {
        let (number, unit) = part.trim().split_once(char::is_whitespace)?;
        let number: i64 = number.parse().ok().filter(|number| (0..=100_000).contains(number))?;
        total += match unit.trim().trim_end_matches('s') {
            "week" => TimeDelta::weeks(number),
            "day" => TimeDelta::days(number),
            "hour" => TimeDelta::hours(number),
            "minute" => TimeDelta::minutes(number),
            "second" => TimeDelta::seconds(number),
            _ => return None,
        };
    }
    (total > TimeDelta::zero()).then_some(total)
}

/// Parses a size like `500 MB`, `4GB` or `1000000`; units are powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(entries: &[(&str, &str)]) -> Result<SecuritySettings, SettingError> {
        SecuritySettings::read(&entries.iter().copied().collect())
    }

    #[test]
    fn times_and_sizes_are_read_as_people_write_them() {
        let settings = read(&[
            ("SECURITY_CONFIRM_EMAIL_WITHIN", "2 days"),
            ("SECURITY_RESET_PASSWORD_WITHIN", "1 hour, 30 minutes"),
            ("STUDYGOV_UPLOAD_LIMIT", "500 MB"),
            ("SECURITY_REGISTERABLE", "False"),
            ("SECURITY_CHANGEABLE", ""),
        ])
        .unwrap();
        assert_eq!(settings.confirm_within, TimeDelta::days(2));
        assert_eq!(settings.reset_within, TimeDelta::minutes(90));
        assert_eq!(settings.largest_upload, 500 << 20);
        assert!(!settings.registerable && !settings.changeable && settings.recoverable);
        for (name, value) in [
            ("SECURITY_CONFIRM_EMAIL_WITHIN", "soon"),
            ("SECURITY_SESSION_IDLE", "0 days"),
            ("STUDYGOV_UPLOAD_LIMIT", "much"),
            ("SECURITY_PASSWORD_LENGTH_MIN", "0"),
            ("SECURITY_CONFIRMABLE", "maybe"),
        ] {
            assert_eq!(read(&[(name, value)]).unwrap_err().variable, name);
        }
    }
}
