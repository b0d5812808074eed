//! The words that are replaced in arguments: `$EXPERIMENT`, `$SUBJECT`, `$XNAT`, `$CALLBACK_EXECUTION`,
//! `$CALLBACK_SECRET`.

use serde_json::Value;

use crate::queue::Assignment;

use super::Failure;

/// Replaces the words in texts.
pub(super) struct Substitution<'a> {
    assignment: &'a Assignment,
    secret: &'a str,
    xnat_system: &'a str,
}

impl<'a> Substitution<'a> {
    /// `xnat_system` is the external system that `$XNAT` stands for.
    pub(super) fn new(assignment: &'a Assignment, secret: &'a str, xnat_system: &'a str) -> Self {
        Self { assignment, secret, xnat_system }
    }

    /// An argument as the text that a program gets.
    ///
    /// # Errors
    /// When `$XNAT` is used and the system is not known.
    pub(super) fn apply(&self, argument: &Value) -> Result<String, Failure> {
        let text = match argument {
            Value::String(text) => text.clone(),
            // As Python writes them, which the existing product did.
            Value::Bool(true) => "True".to_owned(),
            Value::Bool(false) => "False".to_owned(),
            Value::Null => "None".to_owned(),
            other => other.to_string(),
        };
        if !text.contains('$') {
            return Ok(text);
        }
        let mut text = text;
        if text.contains("$XNAT") {
            text = text.replace("$XNAT", self.xnat()?);
        }
        // The execution before the experiment: neither name begins the other, the order is for the reader.
        Ok(text
            .replace("$CALLBACK_EXECUTION", self.address("/api_uri"))
            .replace("$CALLBACK_SECRET", self.secret)
            .replace("$EXPERIMENT", self.address("/experiment/api_uri"))
            .replace("$SUBJECT", self.address("/subject/api_uri")))
    }

    fn address(&self, pointer: &str) -> &str {
        let mut steps = pointer.split('/').skip(1);
        let first = steps.next().and_then(|step| self.assignment.data.get(step));
        steps.fold(first, |value, step| value.and_then(|value| value.get(step))).and_then(Value::as_str).unwrap_or("")
    }

    fn xnat(&self) -> Result<&str, Failure> {
        let systems = self.assignment.data.get("external_systems");
        let url = systems.and_then(|systems| systems.get(self.xnat_system)).and_then(Value::as_str);
        match url {
            Some(url) if !url.is_empty() => Ok(url.trim_end_matches('/')),
            Some(_) => Err(Failure(format!("$XNAT is used and external system '{}' has no address", self.xnat_system))),
            None => Err(Failure(format!("$XNAT is used and there is no external system '{}'", self.xnat_system))),
        }
    }
}
