//! Worker-local configuration and credentials available to callback functions.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};

use crate::config::{ProjectSettings, WorkSettings};
use crate::mail::Mailer;

use super::Failure;
use super::containers::Owner;
use super::guard::{As, Programs};
use super::netrc::Logins;

/// Folders, programs and logins of the worker's machine.
#[derive(Debug, Clone)]
pub struct Workplace {
    /// The folder of `external_program`.
    pub bin: PathBuf,
    /// The folder of `fastr` networks.
    pub networks: PathBuf,
    /// The folder of task texts.
    pub tasks: PathBuf,
    /// The scratch space of pipelines.
    pub scratch: PathBuf,
    /// Project in XNAT.
    pub xnat_project: String,
    /// The Python of `python_function` and `fastr`.
    pub python: String,
    /// Environment variables for programs: the folders of the project.
    pub variables: Vec<(String, String)>,
    /// Variables of the machine that the settings pass on to programs.
    pub environment: Vec<(OsString, OsString)>,
    /// The user that programs run as, if it is not the worker's.
    pub(super) user: Option<As>,
    /// The running programs.
    pub programs: Programs,
    /// The owner of containers that are created here.
    pub(super) owner: Owner,
    /// Subject and recipients of `send_mail`, and the mail transport.
    pub mail: Mailer,
    /// Logins for other systems.
    pub logins: Logins,
}

impl Workplace {
    /// Creates it from the settings.
    #[must_use]
    pub fn new(settings: &WorkSettings) -> Self {
        let project = &settings.project;
        Self {
            variables: variables(project),
            environment: settings.programs.variables.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            user: settings.programs.user.as_ref().map(|user| As { uid: user.uid, gid: user.gid }),
            programs: Programs::default(),
            owner: Owner::new(),
            python: settings.python.clone(),
            mail: Mailer::new(settings.mail.clone()),
            logins: Logins::find(settings.netrc.as_deref(), settings.home.as_deref()),
            bin: project.bin.clone(),
            networks: project.networks.clone(),
            tasks: project.tasks.clone(),
            scratch: project.scratch.clone(),
            xnat_project: project.xnat_project.clone(),
        }
    }

    /// The same with the study's files of a `revision` (the name of a commit) of its repository.
    #[must_use]
    pub fn at(&self, project: &ProjectSettings, revision: &str) -> Self {
        let mut variables = variables(project);
        variables.push(("STUDYGOV_PROJECT_REVISION".to_owned(), revision.to_owned()));
        Self {
            variables,
            bin: project.bin.clone(),
            networks: project.networks.clone(),
            tasks: project.tasks.clone(),
            ..self.clone()
        }
    }

    /// The machine's user name and password for a URL, and problems of the login files.
    #[must_use]
    pub fn login(&self, address: &url::Url) -> (Option<(String, String)>, Vec<String>) {
        let (login, problems) = self.logins.at(address);
        (login.map(|login| (login.name, login.password)), problems)
    }

    /// Changes the owner of a folder with all its contents to the user of the program that uses it.
    pub(super) fn hand_over(&self, folder: &Path) -> std::io::Result<()> {
        let Some(user) = self.user else { return Ok(()) };
        std::os::unix::fs::lchown(folder, Some(user.uid), Some(user.gid))?;
        if folder.symlink_metadata()?.is_dir() {
            for entry in folder.read_dir()? {
                self.hand_over(&entry?.path())?;
            }
        }
        Ok(())
    }

    /// The settings that Python functions get, without the server's secrets.
    pub(super) fn configuration(&self) -> Map<String, Value> {
        self.variables.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect()
    }
}

/// The folders of the project, as variables for programs.
fn variables(project: &ProjectSettings) -> Vec<(String, String)> {
    let folders = [
        ("STUDYGOV_PROJECT_HOME", &project.home),
        ("STUDYGOV_PROJECT_BIN", &project.bin),
        ("STUDYGOV_PROJECT_NETWORKS", &project.networks),
        ("STUDYGOV_PROJECT_TASKS", &project.tasks),
        ("STUDYGOV_PROJECT_TEMPLATES", &project.templates),
        ("STUDYGOV_PROJECT_WORKFLOWS", &project.workflows),
        ("STUDYGOV_DATA_DIR", &project.data),
        ("STUDYGOV_PROJECT_SCRATCH", &project.scratch),
    ];
    let mut variables: Vec<(String, String)> =
        folders.iter().map(|(name, path)| ((*name).to_owned(), path.display().to_string())).collect();
    variables.push(("STUDYGOV_XNAT_PROJECT".to_owned(), project.xnat_project.clone()));
    variables
}

/// The file `name` directly in `folder`; dots, links and paths that lead elsewhere are rejected. `function` and `place` are
/// for the message.
pub(super) fn direct_file(folder: &Path, name: &str, function: &str, place: &str) -> Result<PathBuf, Failure> {
    let refused = || Failure(format!("{function} only accepts files directly in the project's {place}, not '{name}'"));
    let mut components = Path::new(name).components();
    let plain = matches!(components.next(), Some(Component::Normal(part)) if part == name);
    if !plain || components.next().is_some() {
        return Err(refused());
    }
    let absent = |what: &Path, error: std::io::Error| Failure(format!("cannot find {}: {error}", what.display()));
    let folder = folder.canonicalize().map_err(|error| absent(folder, error))?;
    let file = folder.join(name);
    let real = file.canonicalize().map_err(|error| absent(&file, error))?;
    if real.parent() != Some(folder.as_path()) || !real.is_file() {
        return Err(refused());
    }
    Ok(real)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_directly_in_the_folder_is_run() {
        let home = tempfile::tempdir().unwrap();
        let bin = home.path().join("bin");
        std::fs::create_dir_all(bin.join("inner")).unwrap();
        std::fs::write(bin.join("good.sh"), "").unwrap();
        std::fs::write(bin.join("inner/deep.sh"), "").unwrap();
        std::fs::write(home.path().join("outside.sh"), "").unwrap();
        std::os::unix::fs::symlink(home.path().join("outside.sh"), bin.join("link.sh")).unwrap();
        std::os::unix::fs::symlink(bin.join("good.sh"), bin.join("alias.sh")).unwrap();
        assert!(direct_file(&bin, "good.sh", "external_program", "bin").is_ok());
        assert!(direct_file(&bin, "alias.sh", "external_program", "bin").is_ok());
        for name in [
            "../outside.sh",
            "inner/deep.sh",
            "/bin/sh",
            "link.sh",
            "..",
            ".",
            "",
            "./good.sh",
            "good.sh/",
            "inner",
            "absent",
        ] {
            assert!(direct_file(&bin, name, "external_program", "bin").is_err(), "{name}");
        }
    }
}
