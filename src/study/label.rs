//! Labels, validated at the edges so that the rest of the code only sees valid ones.

/// A name of 1 to 100 characters, without leading or trailing blanks and without control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

/// Reason why a text is not a valid label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    #[error("is empty")]
    Empty,
    #[error("must be at most 100 characters (got {0})")]
    TooLong(usize),
    #[error("contains line breaks or invisible characters")]
    ControlCharacter,
    /// `.` and `..` have another meaning in a URL.
    #[error("must not consist of dots only")]
    Dots,
}

impl Label {
    /// # Errors
    /// The text is empty, too long, or has characters that are not allowed.
    pub fn parse(text: &str) -> Result<Self, LabelError> {
        let text = text.trim();
        let length = text.chars().count();
        if length == 0 {
            Err(LabelError::Empty)
        } else if length > 100 {
            Err(LabelError::TooLong(length))
        } else if text == "." || text == ".." {
            Err(LabelError::Dots)
        } else if text.chars().any(|c| c.is_control() || is_invisible(c)) {
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

/// Zero-width characters and characters that change the direction of writing: with them, different labels could look alike.
#[must_use]
pub fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{00ad}' | '\u{115f}'..='\u{1160}' | '\u{3164}' | '\u{ffa0}' | '\u{e0000}'..='\u{e007f}')
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
        for text in ["a\nb", "\u{200b}", "\u{202e}a", "a\u{feff}"] {
            assert_eq!(Label::parse(text), Err(LabelError::ControlCharacter), "{text:?}");
        }
        assert_eq!(Label::parse(".."), Err(LabelError::Dots));
    }
}
