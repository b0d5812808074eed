//! Folders and secrets of the project.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::RepositorySettings;
use super::environment::{Environment, SettingError};
use super::setting::Name;
use super::table::{
    SECRET_KEY, SECURITY_PASSWORD_SALT, STUDYGOV_DATA_DIR, STUDYGOV_PROJECT_BIN, STUDYGOV_PROJECT_HOME,
    STUDYGOV_PROJECT_NETWORKS, STUDYGOV_PROJECT_SCRATCH, STUDYGOV_PROJECT_TASKS, STUDYGOV_PROJECT_TEMPLATES,
    STUDYGOV_PROJECT_WORKFLOWS, STUDYGOV_XNAT_PROJECT,
};

/// The folders of the study.
#[derive(Debug, Clone)]
pub struct ProjectSettings {
    pub home: PathBuf,
    /// The git repository of the files, if one is configured.
    pub repository: Option<RepositorySettings>,
    /// The folders `bin` to `workflows` as configured.
    names: [String; 5],
    pub bin: PathBuf,
    pub networks: PathBuf,
    pub tasks: PathBuf,
    pub templates: PathBuf,
    pub workflows: PathBuf,
    pub data: PathBuf,
    pub scratch: PathBuf,
    /// The project in XNAT.
    pub xnat_project: String,
}

impl ProjectSettings {
    /// Reads `STUDYGOV_PROJECT_*`, `STUDYGOV_DATA_DIR` and `PROJECT_*`. The home is relative to the working directory, the
    /// folders are relative to the home.
    ///
    /// # Errors
    /// When a setting of the repository is invalid.
    pub fn read(environment: &Environment, working_directory: &Path) -> Result<Self, SettingError> {
        let home = working_directory.join(environment.text(STUDYGOV_PROJECT_HOME));
        let home = home.components().collect::<PathBuf>();
        let names = [
            STUDYGOV_PROJECT_BIN,
            STUDYGOV_PROJECT_NETWORKS,
            STUDYGOV_PROJECT_TASKS,
            STUDYGOV_PROJECT_TEMPLATES,
            STUDYGOV_PROJECT_WORKFLOWS,
        ];
        let names = names.map(|name| environment.text(name));
        let [bin, networks, tasks, templates, workflows] = names.each_ref().map(|name| home.join(name));
        Ok(Self {
            repository: RepositorySettings::read(environment, &home)?,
            names,
            bin,
            networks,
            tasks,
            templates,
            workflows,
            data: home.join(environment.text(STUDYGOV_DATA_DIR)),
            scratch: home.join(environment.text(STUDYGOV_PROJECT_SCRATCH)),
            xnat_project: environment.text(STUDYGOV_XNAT_PROJECT),
            home,
        })
    }

    /// The same settings with `folder` as the home. The folders of data and scratch files and absolute paths do not change.
    #[must_use]
    pub fn in_folder(&self, folder: &Path) -> Self {
        let [bin, networks, tasks, templates, workflows] = self.names.each_ref().map(|name| folder.join(name));
        Self { home: folder.to_owned(), bin, networks, tasks, templates, workflows, ..self.clone() }
    }
}

/// The two secrets of the server, which are never shown, not even in debug output.
#[derive(Clone)]
pub struct Secrets {
    /// Signs cookies and the secrets of callback executions.
    pub secret_key: String,
    /// Salt of the password hashes that version 8.1 created.
    pub password_salt: String,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secrets(…)")
    }
}

impl Secrets {
    /// Reads `SECRET_KEY` and `SECURITY_PASSWORD_SALT`. With the embedded database and `creates`, missing secrets are created and stored
    /// in `home`, readable by their owner only.
    ///
    /// # Errors
    /// When a secret is missing with another database, or its file cannot be read or written.
    pub fn read(
        environment: &Environment,
        home: &Path,
        (embedded, creates): (bool, bool),
    ) -> Result<Self, SettingError> {
        Ok(Self {
            secret_key: secret(environment, home, (embedded, creates), SECRET_KEY, ".secret_key")?,
            password_salt: secret(environment, home, (embedded, creates), SECURITY_PASSWORD_SALT, ".password_salt")?,
        })
    }
}

fn secret(
    environment: &Environment,
    home: &Path,
    (embedded, creates): (bool, bool),
    name: Name,
    file: &str,
) -> Result<String, SettingError> {
    if environment.get(name).is_some() {
        // Not trimmed: version 8.1 includes surrounding blanks in its hashes.
        return Ok(environment.exact(name).to_owned());
    }
    if !embedded {
        let hint = "is required with a configured database: set it to a long random string, identical on all servers";
        return Err(SettingError::new(name, hint));
    }
    let path = home.join(file);
    let failed = |error: std::io::Error| {
        SettingError::new(name, format!("is not set and cannot be stored in {}: {error}", path.display()))
    };
    match fs::read_to_string(&path) {
        Ok(kept) if !kept.trim().is_empty() => Ok(kept.trim().to_owned()),
        Ok(_) if !creates => Ok(String::new()),
        Ok(_) => create_secret(&path, true).map_err(failed),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !creates => Ok(String::new()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => create_secret(&path, false).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

/// Creates a secret of 32 random bytes in a file with mode 0600. Two processes that start at once both use the first one's secret.
fn create_secret(path: &Path, replace: bool) -> std::io::Result<String> {
    let value = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
    let mut options = fs::OpenOptions::new();
    options.write(true);
    if replace {
        options.truncate(true);
    } else {
        options.create_new(true);
    }
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(mut file) => {
            file.write_all(value.as_bytes())?;
            Ok(value)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            Ok(fs::read_to_string(path)?.trim().to_owned())
        }
        Err(error) => Err(error),
    }
}
