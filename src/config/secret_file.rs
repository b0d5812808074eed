//! Secrets from files, as Docker, Kubernetes and systemd provide them: `SECRET_KEY_FILE=/run/secrets/key` sets `SECRET_KEY` to the text
//! of that file. `STUDYGOV_SECRETS_DIR` is a folder with a file per secret, named like the setting, for secrets that are not set in
//! another way; `studygovernor secrets make` fills it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::environment::SettingError;
use super::setting::Name;
use super::table::{SETTINGS, STUDYGOV_SECRETS_DIR};

/// The settings that contain a secret. Each can be set by `NAME_FILE`.
pub fn secret_settings() -> impl Iterator<Item = Name> {
    SETTINGS.iter().map(|setting| setting.name).filter(|name| name.kind().is_secret())
}

/// Whether the setting of this name contains a secret.
pub(super) fn is_secret_setting(name: &str) -> bool {
    secret_settings().any(|secret| secret.as_str() == name)
}

/// Sets `NAME` for each `NAME_FILE` of a secret. Paths are relative to `directory`. One line end after the secret is removed, because
/// editors add it; other blanks are kept. Returns the files that were read, by the name of the setting.
///
/// # Errors
/// When both forms are set, or the file cannot be read or is empty. The error names the variable, never the secret.
pub(super) fn read(
    variables: &mut BTreeMap<String, String>,
    directory: &Path,
) -> Result<BTreeMap<String, PathBuf>, SettingError> {
    let folder = variables.get(STUDYGOV_SECRETS_DIR.as_str()).map(|folder| folder.trim());
    let folder = folder.filter(|folder| !folder.is_empty()).map(|folder| directory.join(folder));
    let mut files = BTreeMap::new();
    for name in secret_settings() {
        let name = name.as_str();
        let file_name = format!("{name}_FILE");
        let is_set = |name: &str| variables.get(name).is_some_and(|value| !value.trim().is_empty());
        if let Some(folder) = &folder
            && !is_set(name)
            && !is_set(&file_name)
            && folder.join(name).is_file()
        {
            let path = folder.join(name).display().to_string();
            variables.insert(file_name.clone(), path);
        }
        let Some(path) = variables.get(&file_name).map(|path| path.trim()).filter(|path| !path.is_empty()) else {
            continue;
        };
        if variables.get(name).is_some_and(|value| !value.trim().is_empty()) {
            return Err(SettingError::new(&file_name, format!("{name} is also set; set only one of them")));
        }
        let text = std::fs::read_to_string(directory.join(path))
            .map_err(|error| SettingError::new(&file_name, format!("cannot read {path}: {error}")))?;
        let secret = text.strip_suffix('\n').unwrap_or(&text);
        let secret = secret.strip_suffix('\r').unwrap_or(secret);
        if secret.trim().is_empty() {
            return Err(SettingError::new(&file_name, format!("{path} is empty")));
        }
        let secret = secret.to_owned();
        files.insert(name.to_owned(), directory.join(path));
        variables.insert(name.to_owned(), secret);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_from_its_file() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("key"), " with blanks \r\n").unwrap();
        std::fs::write(home.path().join("empty"), "\n").unwrap();
        let run = |entries: &[(&str, &str)]| {
            let mut variables = entries
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect::<BTreeMap<_, _>>();
            read(&mut variables, home.path()).map(|_| variables)
        };
        let variables = run(&[("SECRET_KEY_FILE", "key"), ("SECRET_KEY", "")]).unwrap();
        assert_eq!(variables["SECRET_KEY"], " with blanks ");
        // The folder of secrets applies unless the secret is set in another way.
        let folder = ("STUDYGOV_SECRETS_DIR", ".");
        std::fs::write(home.path().join("DB_PASSWORD"), "from the folder").unwrap();
        assert_eq!(run(&[folder]).unwrap()["DB_PASSWORD"], "from the folder");
        assert_eq!(run(&[folder, ("DB_PASSWORD", "set")]).unwrap()["DB_PASSWORD"], "set");
        assert_eq!(run(&[folder, ("DB_PASSWORD_FILE", "key")]).unwrap()["DB_PASSWORD"], " with blanks ");
        // Not a secret: its file is not read.
        assert!(!run(&[("STUDYGOV_PORT_FILE", "key")]).unwrap().contains_key("STUDYGOV_PORT"));
        for (entries, words) in [
            (vec![("SECRET_KEY_FILE", "key"), ("SECRET_KEY", "k")], "SECRET_KEY is also set"),
            (vec![("DB_PASSWORD_FILE", "absent")], "cannot read absent"),
            (vec![("MAIL_PASSWORD_FILE", "empty")], "empty is empty"),
        ] {
            let error = run(&entries).unwrap_err();
            assert_eq!(error.variable, entries[0].0);
            assert!(error.problem.contains(words), "{error}");
        }
    }
}
