//! Labels, parsed at the border so that rooms never see a bad one.

/// A name of 1 to 100 characters, without blanks at its ends and without control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

/// Why a text is no label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    #[error("is empty")]
    Empty,
    #[error("has {0} characters; at most 100 are kept")]
    TooLong(usize),
    #[error("has a line break or another control character in it")]
    ControlCharacter,
}

impl Label {
    /// # Errors
    /// When the text is empty, too long, or not plain.
    pub fn parse(text: &str) -> Result<Self, LabelError> {
        let text = text.trim();
        let length = text.chars().count();
        if length == 0 {
            Err(LabelError::Empty)
        } else if length > 100 {
            Err(LabelError::TooLong(length))
        } else if text.chars().any(char::is_control) {
            Err(LabelError::ControlCharacter)
        } else {
            Ok(Self(text.to_owned()))
        }
    }

    /// The label as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Label {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_short_plain_and_not_empty() {
        assert_eq!(Label::parse(" sub-01 ").unwrap().as_str(), "sub-01");
        assert_eq!(Label::parse("  "), Err(LabelError::Empty));
        assert_eq!(Label::parse(&"x".repeat(101)), Err(LabelError::TooLong(101)));
        assert_eq!(Label::parse("a\nb"), Err(LabelError::ControlCharacter));
    }
}
