//! The first account.

use super::environment::{Environment, SettingError};
use super::table::{
    STUDYGOV_ADMIN_EMAIL, STUDYGOV_ADMIN_FORCE_UPDATE, STUDYGOV_ADMIN_PASSWORD, STUDYGOV_ADMIN_USERNAME,
};

/// The administrator's account that the server creates when it starts.
#[derive(Clone)]
pub struct AdminSettings {
    pub username: String,
    pub email: String,
    pub password: String,
    /// Whether each start resets the e-mail address and the password.
    pub force_update: bool,
}

impl std::fmt::Debug for AdminSettings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "AdminSettings({})", self.username)
    }
}

impl AdminSettings {
    /// Reads `STUDYGOV_ADMIN_*`; `None` unless both a user name and a password are set. One without the other adds a warning and
    /// is no error, because operators of version 8.1 remove the password once the account exists.
    ///
    /// # Errors
    /// When `STUDYGOV_ADMIN_FORCE_UPDATE` is not a flag.
    pub fn read(environment: &Environment, warnings: &mut Vec<String>) -> Result<Option<Self>, SettingError> {
        let force_update = environment.flag(STUDYGOV_ADMIN_FORCE_UPDATE)?;
        match (environment.get(STUDYGOV_ADMIN_USERNAME), environment.get(STUDYGOV_ADMIN_PASSWORD)) {
            (None, None) => Ok(None),
            (Some(username), Some(password)) => Ok(Some(Self {
                username: username.to_owned(),
                email: environment.text_or(STUDYGOV_ADMIN_EMAIL, &format!("{username}@localhost")),
                password: password.to_owned(),
                force_update,
            })),
            (username, _) => {
                let names = [STUDYGOV_ADMIN_USERNAME, STUDYGOV_ADMIN_PASSWORD];
                let [wanted, given] = if username.is_some() { [names[1], names[0]] } else { names };
                warnings.push(format!("{given} is set without {wanted}; no account is created or changed"));
                Ok(None)
            }
        }
    }
}
