//! Typed settings from the environment, one file per area.
//!
//! All settings are declared in `table`, with their names, types, defaults and descriptions; names are those of version 8.1. An
//! invalid value stops the start with an error that names the variable; an unknown `STUDYGOV_*` name causes a warning.

mod account;
mod broker;
mod broker_parts;
mod callback;
mod database;
mod database_tls;
mod dotenv;
mod environment;
mod known;
mod mail;
mod migrate;
mod programs;
mod project;
mod proxy;
mod repository;
mod sealed;
mod secret_file;
mod secret_names;
mod security;
mod setting;
pub(crate) mod table;
mod web;
mod work;
mod worker;

use std::path::Path;

use table::{
    MAIL_SERVER, MAIL_SUPPRESS_SEND, PROJECT_BRANCH, PROJECT_PASSWORD, PROJECT_RELATIVE_PATH, PROJECT_REPO, SECRET_KEY,
    STUDYGOV_PROJECT_SYNC, STUDYGOV_XNAT_PROJECT,
};

pub use account::AdminSettings;
pub use callback::{CallbackMethod, CallbackSettings, broker as broker_address, broker_prefix};
pub use database::{DatabaseKind, DatabaseLimits, DatabaseSettings};
pub use environment::{Environment, SettingError, Source};
pub use known::IGNORED;
pub use mail::{MailSecurity, MailServer, MailSettings, mail_addresses};
pub use migrate::MigrateMode;
pub use programs::{ProgramSettings, ProgramUser};
pub use project::{ProjectSettings, Secrets};
pub use proxy::TrustedProxies;
pub use repository::{ProjectSync, RepositoryLogin, RepositorySettings};
pub use sealed::{seal_environment, sealed};
pub use secret_file::secret_settings;
pub use secret_names::{holds_login, is_secret};
pub use security::SecuritySettings;
pub use setting::{Chart, DefaultValue, Kind, Name, Reader, Setting};
pub use table::SETTINGS;
pub use web::WebSettings;
pub use work::WorkSettings;
pub use worker::{QUEUE_NAME, WorkerSettings, is_queue_name, is_web_address, time};

/// All settings of a server.
#[derive(Debug, Clone)]
pub struct Settings {
    pub database: DatabaseSettings,
    pub migrate: MigrateMode,
    pub project: ProjectSettings,
    pub work: WorkSettings,
    pub secrets: Secrets,
    pub web: WebSettings,
    pub callback: CallbackSettings,
    pub admin: Option<AdminSettings>,
    pub security: SecuritySettings,
    /// Warnings for the log, which do not stop the start.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Reads all settings; relative paths start at `working_directory`.
    ///
    /// # Errors
    /// The first invalid value, with the name of its variable.
    pub fn read(environment: &Environment, working_directory: &Path) -> Result<Self, SettingError> {
        Self::read_with(environment, working_directory, true)
    }

    /// As [`Self::read`], but does not create missing secrets (they are empty then), and also checks the settings of workers.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn inspect(environment: &Environment, working_directory: &Path) -> Result<Self, SettingError> {
        WorkerSettings::read(environment)?;
        broker_address(environment)?;
        Self::read_with(environment, working_directory, false)
    }

    fn read_with(
        environment: &Environment,
        working_directory: &Path,
        creates_secrets: bool,
    ) -> Result<Self, SettingError> {
        let project = ProjectSettings::read(environment, working_directory)?;
        let database = DatabaseSettings::read(environment, &project.home)?;
        let mut warnings = environment.warnings().to_vec();
        warnings.extend(known::unknown_names(environment));
        warnings.extend(known::ignored_names(environment));
        if environment.get(STUDYGOV_XNAT_PROJECT).is_none() {
            warnings.push(format!("{STUDYGOV_XNAT_PROJECT} is not set; using '{}'", project.xnat_project));
        }
        if environment.get(SECRET_KEY).is_some_and(|key| key.len() < 16) {
            warnings.push("SECRET_KEY is too short: it could be guessed and used to forge callback reports".to_owned());
        }
        if project.repository.is_none() {
            let left = [PROJECT_BRANCH, PROJECT_PASSWORD, PROJECT_RELATIVE_PATH, STUDYGOV_PROJECT_SYNC];
            let unused = left.into_iter().filter(|name| environment.get(*name).is_some());
            warnings.extend(unused.map(|name| format!("{name} has no meaning without {PROJECT_REPO}")));
        }
        if environment.flag(MAIL_SUPPRESS_SEND)? {
            let warning = "MAIL_SUPPRESS_SEND is set: e-mails are written to a folder instead of being sent";
            warnings.push(warning.to_owned());
        }
        let callback = CallbackSettings::read(environment)?;
        let web = WebSettings::read(environment)?;
        if web.external.is_none() && environment.get(MAIL_SERVER).is_some() {
            let base = web.base_url();
            warnings.push(format!("STUDYGOV_EXTERNAL_HOSTNAME is not set: links in e-mails start with {base}"));
        }
        let admin = AdminSettings::read(environment, &mut warnings)?;
        Ok(Self {
            secrets: Secrets::read(environment, &project.home, (database.is_default, creates_secrets))?,
            web,
            callback,
            work: WorkSettings::read(environment, working_directory)?,
            admin,
            security: SecuritySettings::read(environment)?,
            database,
            migrate: MigrateMode::read(environment)?,
            project,
            warnings,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(entries: &[(&str, &str)]) -> Result<Settings, SettingError> {
        let home = tempfile::tempdir().unwrap();
        Settings::read(&entries.iter().copied().collect(), home.path())
    }

    #[test]
    fn a_broken_value_names_its_variable() {
        for (name, value) in [
            ("STUDYGOV_PORT", "eighty"),
            ("STUDYGOV_PORT", "70000"),
            ("STUDYGOV_CALLBACK_METHOD", "carrier-pigeon"),
            ("STUDYGOV_EXTERNAL_PROTO", "gopher"),
            ("STUDYGOV_WORKER_CONCURRENCY", "0"),
            ("GUNICORN_TIMEOUT", "soon"),
            ("SCRIPT_NAME", "/a b"),
            ("SECURITY_REGISTERABLE", "maybe"),
            ("DATABASE_URL", "nonsense"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert_eq!(error.variable, name);
            assert!(error.to_string().starts_with(name), "{error}");
        }
    }

    #[test]
    fn an_unknown_name_is_pointed_out_with_the_nearest() {
        let warnings = read(&[("STUDYGOV_PROT", "1")]).unwrap().warnings;
        assert!(warnings.iter().any(|warning| warning.contains("STUDYGOV_PORT")), "{warnings:?}");
        let set = [
            ("SECURITY_PASSWORD_HASH", "bcrypt"),
            ("MAIL_SEVER", "h"),
            ("STUDYGOV_ADMIN_USERNAME", "admin"),
            ("MAIL_SERVER", "h"),
            ("STUDYGOV_HOST", "0.0.0.0"),
        ];
        let settings = read(&set).unwrap();
        assert!(settings.admin.is_none());
        let said = |words: &str| settings.warnings.iter().any(|warning| warning.contains(words));
        assert!(said("unknown setting SECURITY_PASSWORD_HASH; ignored"));
        assert!(said("did you mean MAIL_SERVER?"));
        assert!(said("without STUDYGOV_ADMIN_PASSWORD; no account"));
        assert!(said("links in e-mails start with http://0.0.0.0:8000"), "{:?}", settings.warnings);
    }

    #[test]
    fn secrets_are_made_once_for_the_embedded_default_and_required_otherwise() {
        let home = tempfile::tempdir().unwrap();
        let first = Settings::read(&Environment::default(), home.path()).unwrap();
        let second = Settings::read(&Environment::default(), home.path()).unwrap();
        assert_eq!(first.secrets.secret_key, second.secrets.secret_key);
        assert_ne!(first.secrets.secret_key, first.secrets.password_salt);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(home.path().join(".secret_key")).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(read(&[("DATABASE_URL", "postgres://h/d")]).unwrap_err().variable, "SECRET_KEY");
    }

    #[test]
    fn the_prefix_and_the_external_address_make_absolute_urls() {
        let settings = read(&[
            ("SCRIPT_NAME", "/studies/one/"),
            ("STUDYGOV_EXTERNAL_HOSTNAME", "example.org"),
            ("STUDYGOV_EXTERNAL_PROTO", "https"),
        ])
        .unwrap();
        assert_eq!(settings.web.base_url(), "https://example.org/studies/one");
        assert!(settings.web.is_secure());
    }
}
