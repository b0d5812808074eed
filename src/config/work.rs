//! Settings of the machine that runs callbacks.

use std::path::Path;

use super::environment::{Environment, SettingError};
use super::table::{HOME, NETRC, STUDYGOV_PYTHON};
use super::{MailSettings, ProgramSettings, ProjectSettings};

/// See the module. None of the server's secrets are in it: a worker elsewhere reads the same.
#[derive(Debug, Clone)]
pub struct WorkSettings {
    pub project: ProjectSettings,
    pub mail: MailSettings,
    /// The environment and the user of programs.
    pub programs: ProgramSettings,
    /// The Python of `python_function` and `fastr`.
    pub python: String,
    /// The file with logins that was named, and the home directory with the usual one.
    pub netrc: Option<String>,
    pub home: Option<String>,
}

impl WorkSettings {
    /// Reads them; relative paths start at `working_directory`.
    ///
    /// # Errors
    /// When a value cannot be used.
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
