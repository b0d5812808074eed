//! The first account.

use super::environment::{Environment, SettingError};
use super::table::{
    STUDYGOV_ADMIN_EMAIL, STUDYGOV_ADMIN_FORCE_UPDATE, STUDYGOV_ADMIN_PASSWORD, STUDYGOV_ADMIN_USERNAME,
};

/// The administrator's account that is made when the server starts.
#[derive(Clone)]
pub struct AdminSettings {
    pub username: String,
    pub email: String,
    pub password: String,
    /// Set name, e-mail and password again at each start.
    pub force_update: bool,
}

impl std::fmt::Debug for AdminSettings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "AdminSettings({})", self.username)
    }
}

impl AdminSettings {
    /// Reads `STUDYGOV_ADMIN_*`; none unless both a user name and a password are given. One alone gives a line in `warnings`: with
    /// version 8.1, operators remove the password once the account exists.
    ///
    /// # Errors
    /// When `STUDYGOV_ADMIN_FORCE_UPDATE` cannot be read.
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
