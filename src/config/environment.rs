//! Environment variables and the `.env` file as one map, and the reading of typed values from it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;

use super::dotenv::{self, Dotenv};
use super::sealed;
use super::secret_file;

/// A setting that cannot be used; the start ends with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {problem}")]
pub struct SettingError {
    /// Name of the environment variable, or of the file that could not be read.
    pub variable: String,
    /// What is wrong with it and what it wants.
    pub problem: String,
}

impl SettingError {
    /// A problem with `variable`, told in a sentence.
    pub fn new(variable: &str, problem: impl Into<String>) -> Self {
        Self { variable: variable.to_owned(), problem: problem.into() }
    }
}

/// The variables that settings are read from. A variable that is set to nothing counts as not set.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    /// What of the `.env` file could not be read.
    warnings: Vec<String>,
}

impl Environment {
    /// The process's environment, with a `.env` file in `directory` for what it does not set.
    ///
    /// # Errors
    /// When there is a `.env` file, or the file of a secret (`NAME_FILE`), that cannot be read. Lines of it that say nothing are left out, as the existing product leaves
    /// them out: see [`Self::warnings`].
    pub fn load(directory: &Path) -> Result<Self, SettingError> {
        // Not `vars()`: that panics on a value that is no Unicode, even of a variable nobody asked for.
        let process =
            std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        // What was in the environment when this program was started, and is not there any longer.
        let sealed = sealed::secrets().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut process: BTreeMap<String, String> =
            process.chain(sealed).filter(|(key, _)| key != sealed::MARK).collect();
        let file = directory.join(".env");
        if !file.is_file() {
            secret_file::read(&mut process, directory)?;
            return Ok(Self { variables: process, warnings: Vec::new() });
        }
        let name = file.display().to_string();
        let text = std::fs::read_to_string(&file).map_err(|error| SettingError::new(&name, error.to_string()))?;
        let Dotenv { mut variables, unread } = dotenv::read(&text, &process);
        variables.extend(process);
        secret_file::read(&mut variables, directory)?;
        // Without the line itself: it may hold a secret.
        let warning = |line: &usize| format!("line {line} of {name} is not NAME=value; ignored");
        Ok(Self { variables, warnings: unread.iter().map(warning).collect() })
    }

    /// A sentence for each line of the `.env` file that says nothing.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The first of `names` that is set, with its value.
    #[must_use]
    pub fn first<'a>(&'a self, names: &[&'a str]) -> Option<(&'a str, &'a str)> {
        names.iter().find_map(|name| {
            let value = self.variables.get(*name)?.trim();
            (!value.is_empty()).then_some((*name, value))
        })
    }

    /// The value of `name`, when it is set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// The value of `name` with the blanks around it; nothing when it is not set.
    #[must_use]
    pub fn exact(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }

    /// The value of `name`, or `default`.
    #[must_use]
    pub fn text(&self, name: &str, default: &str) -> String {
        self.get(name).unwrap_or(default).to_owned()
    }

    /// The value of `name` as a number, or `default`.
    ///
    /// # Errors
    /// When it is set and is not what `wanted` says.
    pub fn number<T: FromStr>(&self, name: &str, default: T, wanted: &str) -> Result<T, SettingError> {
        match self.get(name) {
            None => Ok(default),
            Some(value) => value.parse().map_err(|_| unusable(name, value, wanted)),
        }
    }

    /// The value of `name` as yes or no, in any of the words that `.env` files use, or `default`.
    ///
    /// # Errors
    /// When it is set to another word.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, SettingError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        match value.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" | "t" | "y" => Ok(true),
            "0" | "false" | "no" | "off" | "f" | "n" | "none" => Ok(false),
            _ => Err(unusable(name, value, "true or false")),
        }
    }

    /// As [`Self::flag`] of something that lets people in: set to nothing it is off, as in the existing product, where
    /// `NAME=${NAME_OF_SOMETHING_UNSET}` of a compose file switches it off.
    ///
    /// # Errors
    /// As [`Self::flag`].
    pub fn switch(&self, name: &str, default: bool) -> Result<bool, SettingError> {
        match self.variables.get(name) {
            Some(value) if value.trim().is_empty() => Ok(false),
            _ => self.flag(name, default),
        }
    }

    /// All variables that are set to something.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(_, value)| !value.is_empty())
    }

    /// All names that are set.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let variables = entries.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Self { variables, warnings: Vec::new() }
    }
}

/// "`NAME`: 'value' is not …".
pub(super) fn unusable(name: &str, value: impl Display, wanted: &str) -> SettingError {
    SettingError::new(name, format!("'{value}' is not {wanted}"))
}
