//! Settings of the machine that runs callbacks.

use std::path::Path;

use super::environment::{Environment, SettingError};
use super::table::{HOME, NETRC, STUDYGOV_PYTHON};
use super::{MailSettings, ProgramSettings, ProjectSettings};

/// See the module. Contains no secrets of the server, because workers on other machines read the same settings.
#[derive(Debug, Clone)]
pub struct WorkSettings {
    pub project: ProjectSettings,
    pub mail: MailSettings,
    /// Environment and user of programs.
    pub programs: ProgramSettings,
    /// The Python of `python_function` and `fastr`.
    pub python: String,
    /// The file with logins, if it is set, and the home directory with the default one.
    pub netrc: Option<String>,
    pub home: Option<String>,
}

impl WorkSettings {
    /// Reads the settings; paths are relative to `working_directory`.
    ///
    /// # Errors
    /// When a value is invalid.
    pub fn read(environment: &Environment, working_directory: &Path) -> Result<Self, SettingError> {
        let project = ProjectSettings::read(environment, working_directory)?;
        Ok(Self {
            mail: MailSettings::read(environment, &project.home)?,
            programs: ProgramSettings::read(environment)?,
            project,
            python: environment.text(STUDYGOV_PYTHON),
            netrc: environment.get(NETRC).map(str::to_owned),
            home: environment.get(HOME).map(str::to_owned),
        })
    }
}
