//! Merges environment variables, the `.env` file and secret files, and reads typed values from them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use super::dotenv::{self, Dotenv};
use super::sealed;
use super::secret_file;
use super::setting::{Kind, Name};

/// An invalid setting, which stops the start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {problem}")]
pub struct SettingError {
    /// Name of the environment variable, or of the file that could not be read.
    pub variable: String,
    /// The problem and the accepted values.
    pub problem: String,
}

impl SettingError {
    /// An error for `variable`; `problem` does not repeat the name.
    pub fn new(variable: impl AsRef<str>, problem: impl Into<String>) -> Self {
        Self { variable: variable.as_ref().to_owned(), problem: problem.into() }
    }
}

/// The origin of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The environment of the process.
    Environment,
    /// The file `.env` in the working directory.
    Dotenv,
    /// A file with one secret: named by `NAME_FILE`, or in `STUDYGOV_SECRETS_DIR`.
    File(PathBuf),
}

/// The variables that settings are read from. An empty variable counts as not set.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    /// The origin of each variable that does not come from the environment of the process.
    sources: BTreeMap<String, Source>,
    /// A warning for each invalid line of the `.env` file.
    warnings: Vec<String>,
}

impl Environment {
    /// Loads the environment of the process, and variables that it does not set from `.env` in `directory`.
    ///
    /// # Errors
    /// When the `.env` file or the file of a secret (`NAME_FILE`) cannot be read. Invalid lines are skipped, as in version 8.1; see
    /// [`Self::warnings`].
    pub fn load(directory: &Path) -> Result<Self, SettingError> {
        // Not `vars()`: it panics if any variable is not Unicode, even an unrelated one.
        let process =
            std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        // Secrets that `seal_environment` removed from the environment.
        let sealed = sealed::secrets().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut process: BTreeMap<String, String> =
            process.chain(sealed).filter(|(key, _)| key != sealed::MARK).collect();
        let mut sources = BTreeMap::new();
        let mut warnings = Vec::new();
        let file = directory.join(".env");
        if file.is_file() {
            let name = file.display().to_string();
            let text = std::fs::read_to_string(&file).map_err(|error| SettingError::new(&name, error.to_string()))?;
            let Dotenv { variables, unread } = dotenv::read(&text, &process);
            for (variable, value) in variables {
                process.entry(variable).or_insert_with_key(|variable| {
                    sources.insert(variable.clone(), Source::Dotenv);
                    value
                });
            }
            // The line itself is not shown: it may contain a secret.
            let warning = |line: &usize| format!("line {line} of {name} is not NAME=value; ignored");
            warnings.extend(unread.iter().map(warning));
        }
        let files = secret_file::read(&mut process, directory)?;
        sources.extend(files.into_iter().map(|(name, path)| (name, Source::File(path))));
        Ok(Self { variables: process, sources, warnings })
    }

    /// A sentence for each invalid line of the `.env` file.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The first of `names` that is set, with its value.
    #[must_use]
    pub fn first(&self, names: &[Name]) -> Option<(Name, &str)> {
        names.iter().find_map(|name| Some((*name, self.get(*name)?)))
    }

    /// The trimmed value of a setting; `None` when it is not set.
    #[must_use]
    pub fn get(&self, name: Name) -> Option<&str> {
        self.by_name(&name)
    }

    /// As [`Self::get`], for any variable; not meant for reading settings.
    pub(super) fn by_name(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// Whether a setting is set, even to an empty value.
    #[must_use]
    pub fn is_set(&self, name: Name) -> bool {
        self.variables.contains_key(name.as_str())
    }

    /// The origin of a variable.
    #[must_use]
    pub fn source(&self, name: &str) -> Source {
        self.sources.get(name).cloned().unwrap_or(Source::Environment)
    }

    /// The untrimmed value of a setting; empty when it is not set.
    #[must_use]
    pub fn exact(&self, name: Name) -> &str {
        self.variables.get(name.as_str()).map_or("", String::as_str)
    }

    /// The value of a setting, or its default; empty without a default.
    #[must_use]
    pub fn text(&self, name: Name) -> String {
        self.get(name).unwrap_or(name.default_text()).to_owned()
    }

    /// The value of a setting, or `default` when it is not set.
    #[must_use]
    pub fn text_or(&self, name: Name, default: &str) -> String {
        self.get(name).unwrap_or(default).to_owned()
    }

    /// The value of a setting of kind `Number` or `Port`, or its default.
    ///
    /// # Errors
    /// When it is not a number within the limits of the setting.
    pub fn number<T: TryFrom<u64>>(&self, name: Name) -> Result<T, SettingError> {
        let text = self.get(name).unwrap_or(name.default_text());
        let (least, most) = match name.kind() {
            Kind::Number(_, least, most) => (least, most),
            Kind::Port(least) => (least, u64::from(u16::MAX)),
            _ => (0, u64::MAX),
        };
        let number = text.parse().ok().filter(|number| (least..=most).contains(number));
        number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| unusable(name, text))
    }

    /// As [`Self::number`], for a setting whose default depends on others.
    ///
    /// # Errors
    /// As [`Self::number`].
    pub fn number_or<T: TryFrom<u64>>(&self, name: Name, default: T) -> Result<T, SettingError> {
        if self.get(name).is_some() { self.number(name) } else { Ok(default) }
    }

    /// Whether a flag is on, in any of the spellings that `.env` files use; its default when it is not set.
    ///
    /// # Errors
    /// When the value is none of these spellings.
    pub fn flag(&self, name: Name) -> Result<bool, SettingError> {
        let value = self.get(name).unwrap_or(name.default_text());
        match value.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" | "t" | "y" => Ok(true),
            "0" | "false" | "no" | "off" | "f" | "n" | "none" => Ok(false),
            _ => Err(unusable(name, value)),
        }
    }

    /// As [`Self::flag`], for a feature that grants access: an empty value means off, as in version 8.1, where a compose file turns the
    /// feature off with `NAME=${UNSET_VARIABLE}`.
    ///
    /// # Errors
    /// As [`Self::flag`].
    pub fn switch(&self, name: Name) -> Result<bool, SettingError> {
        match self.variables.get(name.as_str()) {
            Some(value) if value.trim().is_empty() => Ok(false),
            _ => self.flag(name),
        }
    }

    /// A host name or IP address, or the default.
    ///
    /// # Errors
    /// When it contains characters that are valid in neither.
    pub fn host(&self, name: Name) -> Result<String, SettingError> {
        let host = self.text(name);
        if host.contains(|c: char| c.is_whitespace() || c.is_control() || "/@?#".contains(c)) {
            return Err(unusable(name, host));
        }
        Ok(host)
    }

    /// A listen address, `host:port` or `:port`; `None` when it is not set.
    ///
    /// # Errors
    /// When it has no port.
    pub fn listen(&self, name: Name) -> Result<Option<String>, SettingError> {
        let is_listen = |text: &str| text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        match self.get(name) {
            Some(wrong) if !is_listen(wrong) => Err(unusable(name, wrong)),
            listen => Ok(listen.map(str::to_owned)),
        }
    }

    /// All variables that are not empty.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(_, value)| !value.is_empty())
    }

    /// The names of all variables.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let variables = entries.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Self { variables, ..Self::default() }
    }
}

/// The error "`NAME`: 'value' is not …" with the accepted values.
pub(super) fn unusable(name: Name, value: impl Display) -> SettingError {
    SettingError::new(name, format!("'{value}' is not {}", name.kind().wanted()))
}
