//! Placeholders in arguments: `$EXPERIMENT`, `$SUBJECT`, `$XNAT`, `$CALLBACK_EXECUTION`, `$CALLBACK_SECRET`.

use serde_json::Value;

use super::{Failure, Run};

/// Replaces the placeholders in texts.
pub(super) struct Substitution<'a> {
    run: &'a Run<'a>,
    xnat_system: &'a str,
}

impl<'a> Substitution<'a> {
    /// `$XNAT` stands for the external system `xnat_system`.
    pub(super) fn new(run: &'a Run<'_>, xnat_system: &'a str) -> Self {
        Self { run, xnat_system }
    }

    /// An argument as text for a program.
    ///
    /// # Errors
    /// When `$XNAT` is used and the system is unknown.
    pub(super) fn apply(&self, argument: &Value) -> Result<String, Failure> {
        let text = match argument {
            Value::String(text) => text.clone(),
            // As Python writes them, for compatibility with version 8.1.
            Value::Bool(true) => "True".to_owned(),
            Value::Bool(false) => "False".to_owned(),
            Value::Null => "None".to_owned(),
            other => other.to_string(),
        };
        self.text(text)
    }

    /// Replaces the placeholders in a text.
    ///
    /// # Errors
    /// When `$XNAT` is used and the system is unknown.
    pub(super) fn text(&self, text: String) -> Result<String, Failure> {
        if !text.contains('$') {
            return Ok(text);
        }
        let mut text = text;
        if text.contains("$XNAT") {
            let xnat =
                self.run.system(self.xnat_system).map_err(|error| Failure(format!("$XNAT is used, but {error}")))?;
            text = text.replace("$XNAT", xnat);
        }
        // None of the names is a prefix of another, so the order does not matter.
        Ok(text
            .replace("$CALLBACK_EXECUTION", self.run.text("/api_uri"))
            .replace("$CALLBACK_SECRET", self.run.secret)
            .replace("$EXPERIMENT", self.run.text("/experiment/api_uri"))
            .replace("$SUBJECT", self.run.text("/subject/api_uri")))
    }

    /// Replaces the placeholders in all texts of a value; other values stay unchanged.
    ///
    /// # Errors
    /// When `$XNAT` is used and the system is unknown.
    pub(super) fn value(&self, value: &Value) -> Result<Value, Failure> {
        Ok(match value {
            Value::String(text) => Value::String(self.text(text.clone())?),
            Value::Array(items) => Value::Array(items.iter().map(|item| self.value(item)).collect::<Result<_, _>>()?),
            Value::Object(entries) => {
                let entry = |(key, value): (&String, &Value)| Ok((key.clone(), self.value(value)?));
                Value::Object(entries.iter().map(entry).collect::<Result<_, Failure>>()?)
            }
            other => other.clone(),
        })
    }
}
