//! `studygovernor secrets …`

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};

use crate::config::{Environment, SECRETS};

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
/// containers share the folder.
#[derive(Args)]
pub(super) struct Make {
    /// Folder of the secrets [default: STUDYGOV_SECRETS_DIR]
    #[arg(long, value_name = "DIR", env = "STUDYGOV_SECRETS_DIR")]
    folder: PathBuf,
    /// Names of settings, for example SECRET_KEY
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Secrets {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let Self::Make(make) = self;
        make.run()
    }
}

impl Make {
    fn run(&self) -> Result<(), Failure> {
        if let Some(wrong) = self.names.iter().find(|name| !SECRETS.contains(&name.as_str())) {
            return Err(Failure::Usage(format!("'{wrong}' is not the name of a secret: {}", SECRETS.join(", "))));
        }
        std::fs::create_dir_all(&self.folder).map_err(|error| failed(&self.folder, &error))?;
        let environment = Environment::load(&working_directory()?)?;
        for name in &self.names {
            let path = self.folder.join(name);
            let kept = match std::fs::read_to_string(&path) {
                Ok(kept) => Some(kept),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => return Err(failed(&path, &error)),
            };
            let set = environment.get(name).map(|_| environment.exact(name).to_owned());
            match (kept, set) {
                (Some(kept), Some(set)) if kept != set => {
                    self.write(&path, &set, true)?;
                    err(&format!("{name} in {} was replaced by the value from the environment", self.folder.display()));
                }
                (Some(_), _) => {}
                (None, Some(set)) => self.write(&path, &set, false)?,
                (None, None) => {
                    self.write(&path, &URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()), false)?;
                    out(&format!("{name} is not set; created a value in {}", self.folder.display()));
                }
            }
        }
        Ok(())
    }

    /// Writes the file as a whole. Of two programs that create it at once, both use what the first has written.
    fn write(&self, path: &Path, secret: &str, replace: bool) -> Result<(), Failure> {
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            file.write_all(secret.as_bytes())?;
            // The containers that read it run as different users; the folder is theirs alone.
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
