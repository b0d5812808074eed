//! When the database tables are migrated.

use super::environment::{Environment, SettingError, unusable};
use super::table::STUDYGOV_MIGRATE;

/// The action of a program that starts with outdated tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MigrateMode {
    /// The program migrates them. If several start at once, one migrates and the others wait.
    Start,
    /// Servers and workers wait until another program has migrated them, and report that they wait; commands refuse to run.
    Wait,
    /// The program refuses to start.
    Off,
}

impl MigrateMode {
    /// Reads `STUDYGOV_MIGRATE`.
    ///
    /// # Errors
    /// When the value is not one of these modes.
    pub fn read(environment: &Environment) -> Result<Self, SettingError> {
        match environment.text(STUDYGOV_MIGRATE).to_ascii_lowercase().as_str() {
            "start" => Ok(Self::Start),
            "wait" => Ok(Self::Wait),
            "off" => Ok(Self::Off),
            other => Err(unusable(STUDYGOV_MIGRATE, other)),
        }
    }
}
