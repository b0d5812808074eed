//! The first account.

use super::environment::{Environment, SettingError};

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
    /// Reads `STUDYGOV_ADMIN_*`; none when no user name is given.
    ///
    /// # Errors
    /// When there is a user name without a password, or a password without a user name.
    pub fn read(environment: &Environment) -> Result<Option<Self>, SettingError> {
        let force_update = environment.flag("STUDYGOV_ADMIN_FORCE_UPDATE", false)?;
        match (environment.get("STUDYGOV_ADMIN_USERNAME"), environment.get("STUDYGOV_ADMIN_PASSWORD")) {
            (None, None) => Ok(None),
            (Some(username), Some(password)) => Ok(Some(Self {
                username: username.to_owned(),
                email: environment.text("STUDYGOV_ADMIN_EMAIL", &format!("{username}@localhost")),
                password: password.to_owned(),
                force_update,
            })),
            (Some(_), None) => {
                Err(SettingError::new("STUDYGOV_ADMIN_PASSWORD", "is needed together with STUDYGOV_ADMIN_USERNAME"))
            }
            (None, Some(_)) => {
                Err(SettingError::new("STUDYGOV_ADMIN_USERNAME", "is needed together with STUDYGOV_ADMIN_PASSWORD"))
            }
        }
    }
}
