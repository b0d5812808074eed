//! Environment variables and the `.env` file as one map, and the reading of typed values from it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;

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
}

impl Environment {
    /// The process's environment, with a `.env` file in `directory` for what it does not set.
    ///
    /// # Errors
    /// When there is a `.env` file that cannot be read or parsed; the message names the line.
    pub fn load(directory: &Path) -> Result<Self, SettingError> {
        let mut variables = BTreeMap::new();
        let file = directory.join(".env");
        if file.is_file() {
            let name = file.display().to_string();
            let entries =
                dotenvy::from_path_iter(&file).map_err(|error| SettingError::new(&name, error.to_string()))?;
            for entry in entries {
                // Without the line itself: it may hold a secret.
                let (key, value) =
                    entry.map_err(|_| SettingError::new(&name, "a line is not of the form NAME=value"))?;
                variables.insert(key, value);
            }
        }
        // Not `vars()`: that panics on a value that is no Unicode, even of a variable nobody asked for.
        variables.extend(
            std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?))),
        );
        Ok(Self { variables })
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

    /// All names that are set.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        Self { variables: entries.into_iter().map(|(key, value)| (key.into(), value.into())).collect() }
    }
}

/// "`NAME`: 'value' is not …".
pub(super) fn unusable(name: &str, value: impl Display, wanted: &str) -> SettingError {
    SettingError::new(name, format!("'{value}' is not {wanted}"))
}
