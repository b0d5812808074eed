//! What people may do about their own accounts, and for how long things are good. The names are those of
//! Flask-Security, as the existing product has them.

use chrono::TimeDelta;

use super::environment::{Environment, SettingError, unusable};

/// See the module.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Debug, Clone)]
pub struct SecuritySettings {
    pub registerable: bool,
    pub confirmable: bool,
    pub recoverable: bool,
    pub changeable: bool,
    /// Characters that a password has at least when somebody chooses it in a form.
    pub password_length: usize,
    /// How long the link of a confirmation (or an invitation) is good.
    pub confirm_within: TimeDelta,
    /// How long the link of a recovery is good.
    pub reset_within: TimeDelta,
    /// A session that nobody used for so long ends.
    pub session_idle: TimeDelta,
    /// However much it is used, a session ends after this.
    pub session_longest: TimeDelta,
    /// The same for who wants to be remembered, without a limit for being idle.
    pub remembered: TimeDelta,
    /// Bytes that an uploaded file may have.
    pub largest_upload: u64,
}

impl Default for SecuritySettings {
    fn default() -> Self {
        Self {
            registerable: true,
            confirmable: true,
            recoverable: true,
            changeable: true,
            password_length: 12,
            confirm_within: TimeDelta::days(5),
            reset_within: TimeDelta::days(1),
            session_idle: TimeDelta::hours(12),
            session_longest: TimeDelta::days(7),
            remembered: TimeDelta::days(30),
            largest_upload: 4 << 30,
        }
    }
}

impl SecuritySettings {
    /// Reads `SECURITY_*` and `STUDYGOV_UPLOAD_LIMIT`.
    ///
    /// # Errors
    /// When a value cannot be used.
    pub fn read(environment: &Environment) -> Result<Self, SettingError> {
        let default = Self::default();
        let password_length =
            environment.number("SECURITY_PASSWORD_LENGTH_MIN", default.password_length, "a number of characters")?;
        if !(1..=128).contains(&password_length) {
            return Err(unusable("SECURITY_PASSWORD_LENGTH_MIN", password_length, "a number from 1 to 128"));
        }
        let within = |name: &str, default: TimeDelta| match environment.get(name) {
            None => Ok(default),
            Some(text) => span(text).ok_or_else(|| unusable(name, text, "a time like '5 days' or '90 minutes'")),
        };
        Ok(Self {
            registerable: environment.switch("SECURITY_REGISTERABLE", true)?,
            confirmable: environment.switch("SECURITY_CONFIRMABLE", true)?,
            recoverable: environment.switch("SECURITY_RECOVERABLE", true)?,
            changeable: environment.switch("SECURITY_CHANGEABLE", true)?,
            password_length,
            confirm_within: within("SECURITY_CONFIRM_EMAIL_WITHIN", default.confirm_within)?,
            reset_within: within("SECURITY_RESET_PASSWORD_WITHIN", default.reset_within)?,
            session_idle: within("SECURITY_SESSION_IDLE", default.session_idle)?,
            session_longest: within("SECURITY_SESSION_LONGEST", default.session_longest)?,
            remembered: within("SECURITY_REMEMBER", default.remembered)?,
            largest_upload: match environment.get("STUDYGOV_UPLOAD_LIMIT") {
                None => default.largest_upload,
                Some(text) => bytes(text)
                    .ok_or_else(|| unusable("STUDYGOV_UPLOAD_LIMIT", text, "a size like '500 MB' or '4 GB'"))?,
            },
        })
    }
}

/// `5 days`, `1 day, 12 hours`, as Flask-Security writes it.
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

/// `500 MB`, `4GB`, `1000000`: of 1024.
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
