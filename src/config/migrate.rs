//! When the tables are brought up to date.

use super::environment::{Environment, SettingError, unusable};
use super::table::STUDYGOV_MIGRATE;

/// The action of a program that starts on tables that are too old for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MigrateMode {
    /// It brings them up to date itself. Of several that start at once, one does and the others wait.
    Start,
    /// Servers and workers wait until another program has done it, and say so; commands refuse to run.
    Wait,
    /// It refuses to start.
    Off,
}

impl MigrateMode {
    /// Reads `STUDYGOV_MIGRATE`.
    ///
    /// # Errors
    /// When it is another word.
    pub fn read(environment: &Environment) -> Result<Self, SettingError> {
        match environment.text(STUDYGOV_MIGRATE).to_ascii_lowercase().as_str() {
            "start" => Ok(Self::Start),
            "wait" => Ok(Self::Wait),
            "off" => Ok(Self::Off),
            other => Err(unusable(STUDYGOV_MIGRATE, other)),
        }
    }
}
