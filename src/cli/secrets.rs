//! `studygovernor secrets …`

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};

use crate::config::table::STUDYGOV_SECRETS_DIR;
use crate::config::{Environment, Name, secret_settings};

use super::console::{err, out};
use super::{Failure, working_directory};

/// Create secrets and store them in files
#[derive(Subcommand)]
pub(super) enum Secrets {
    Make(Make),
}

/// Create missing secrets in a folder, without changing existing ones
///
/// Each secret is a file, named after its setting (SECRET_KEY). A secret that is set in the environment is stored with
/// that value. Programs read the folder if STUDYGOV_SECRETS_DIR is set to it. Used by docker-compose, where several
/// containers share folders; the database has a folder with its password alone.
#[derive(Args)]
pub(super) struct Make {
    /// Folder of the secrets [default: STUDYGOV_SECRETS_DIR]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Names of settings, for example SECRET_KEY, or db/DB_PASSWORD for the folder `db` in the folder
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Secrets {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let Self::Make(make) = self;
        make.run()
    }
}

/// The setting of this name, which holds a secret.
fn secret(name: &str) -> Result<Name, Failure> {
    secret_settings().find(|secret| secret.as_str() == name).ok_or_else(|| {
        let names: Vec<&str> = secret_settings().map(|secret| secret.as_str()).collect();
        Failure::Usage(format!("'{name}' is not the name of a secret: {}", names.join(", ")))
    })
}

impl Make {
    fn run(&self) -> Result<(), Failure> {
        let environment = Environment::load(&working_directory()?)?;
        let folder = self.folder.clone().or_else(|| environment.get(STUDYGOV_SECRETS_DIR).map(PathBuf::from));
        let folder = folder.ok_or_else(|| Failure::Usage(format!("give --folder, or set {STUDYGOV_SECRETS_DIR}")))?;
        let places = self.names.iter().map(|name| Place::of(&folder, name)).collect::<Result<Vec<_>, _>>()?;
        for place in places {
            place.fill(&environment)?;
        }
        Ok(())
    }
}

/// The file of one secret.
struct Place {
    folder: PathBuf,
    name: Name,
}

impl Place {
    /// The file for the secret of an argument.
    fn of(folder: &Path, argument: &str) -> Result<Self, Failure> {
        let (below, name) = argument.rsplit_once('/').unwrap_or(("", argument));
        let name = secret(name)?;
        let below = Path::new(below);
        if !below.components().all(|component| matches!(component, Component::Normal(_))) {
            return Err(Failure::Usage(format!("'{argument}' is not below the folder {}", folder.display())));
        }
        Ok(Self { folder: folder.join(below), name })
    }

    /// Creates the secret, or stores the one that is set.
    fn fill(&self, environment: &Environment) -> Result<(), Failure> {
        std::fs::create_dir_all(&self.folder).map_err(|error| failed(&self.folder, &error))?;
        let (name, folder) = (self.name, self.folder.display());
        let path = self.folder.join(name.as_str());
        let kept = match std::fs::read_to_string(&path) {
            Ok(kept) => Some(kept),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(&path, &error)),
        };
        let set = environment.get(name).map(|_| environment.exact(name).to_owned());
        match (kept, set) {
            (Some(kept), Some(set)) if kept != set => {
                self.write(&path, &set, true)?;
                err(&format!("{name} in {folder} was replaced by the value from the environment"));
            }
            (Some(_), _) => {}
            (None, Some(set)) => self.write(&path, &set, false)?,
            (None, None) => {
                self.write(&path, &URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()), false)?;
                out(&format!("{name} is not set; created a value in {folder}"));
            }
        }
        Ok(())
    }

    /// Writes the file atomically. If two programs create it at the same time, both use the secret that was written
    /// first.
    fn write(&self, path: &Path, secret: &str, replace: bool) -> Result<(), Failure> {
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            file.write_all(secret.as_bytes())?;
            // The containers that read it run as different users, and only they can access the folder.
            file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
            if replace {
                return file.persist(path).map(drop).map_err(|error| error.error);
            }
            match file.persist_noclobber(path) {
                Err(error) if error.error.kind() != std::io::ErrorKind::AlreadyExists => Err(error.error),
                _ => Ok(()),
            }
        };
        write().map_err(|error| failed(path, &error))
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Failed(format!("cannot use {}: {error}", path.display()))
}
