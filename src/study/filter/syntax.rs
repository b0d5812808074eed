//! Splits the text of a filter into terms, without interpreting them.

use std::fmt;

use super::Mistake;

/// A term in its written form: `-key:value,value`, or a word without a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawTerm {
    /// Position of its first character; the filter begins at 1.
    pub at: usize,
    pub negated: bool,
    pub key: Option<String>,
    /// At least one.
    pub values: Vec<RawValue>,
}

/// A value in its written form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawValue {
    pub at: usize,
    /// The comparison before the value: empty, `>`, `>=`, `<` or `<=`.
    pub operator: &'static str,
    /// Without quotes.
    pub text: String,
    /// Whether it is in quotes, where `..` and operators are ordinary text.
    pub is_quoted: bool,
}

const OPERATORS: [&str; 4] = [">=", "<=", ">", "<"];

/// Reads the terms of a filter.
///
/// # Errors
/// Unclosed quotes and missing values.
pub(super) fn read(text: &str) -> Result<Vec<RawTerm>, Vec<Mistake>> {
    let mut reader = Reader { characters: text.chars().collect(), next: 0, mistakes: Vec::new() };
    let mut terms = Vec::new();
    loop {
        reader.skip_spaces();
        if reader.peek().is_none() {
            break;
        }
        terms.extend(reader.term());
    }
    if reader.mistakes.is_empty() { Ok(terms) } else { Err(reader.mistakes) }
}

struct Reader {
    characters: Vec<char>,
    next: usize,
    mistakes: Vec<Mistake>,
}

impl Reader {
    fn peek(&self) -> Option<char> {
        self.characters.get(self.next).copied()
    }

    /// If the next characters are `wanted`, skips them and returns true.
    fn accept(&mut self, wanted: &str) -> bool {
        let length = wanted.chars().count();
        let is_next = self.characters[self.next..].iter().take(length).copied().eq(wanted.chars());
        if is_next {
            self.next += length;
        }
        is_next
    }

    fn place(&self) -> usize {
        self.next + 1
    }

    fn skip_spaces(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.next += 1;
        }
    }

    fn mistake(&mut self, at: usize, message: impl Into<String>) {
        self.mistakes.push(Mistake { at, message: message.into() });
    }

    fn term(&mut self) -> Option<RawTerm> {
        let at = self.place();
        // A minus on its own is a word.
        let is_alone = self.characters.get(self.next + 1).is_none_or(|next| next.is_whitespace());
        let negated = !is_alone && self.accept("-");
        let key = self.key();
        let values = match key {
            Some(_) => self.values()?,
            None => vec![self.value(|_| false)?],
        };
        Some(RawTerm { at, negated, key, values })
    }

    /// A key up to its colon, if there is one before the next space or quote.
    fn key(&mut self) -> Option<String> {
        let ends_key = |character: &char| character.is_whitespace() || *character == '"' || *character == ':';
        let rest = &self.characters[self.next..];
        let length = rest.iter().position(ends_key).filter(|length| *length > 0)?;
        if rest[length] != ':' {
            return None;
        }
        let key = rest[..length].iter().collect();
        self.next += length + 1;
        Some(key)
    }

    fn values(&mut self) -> Option<Vec<RawValue>> {
        let mut values = Vec::new();
        loop {
            let at = self.place();
            if self.peek().is_none_or(|next| next.is_whitespace() || next == ',') {
                self.mistake(at, "a value is missing here");
                // Continues with the rest, to find all mistakes.
                self.word(|_| false);
                return None;
            }
            values.push(self.value(|next| next == ',')?);
            if !self.accept(",") {
                return Some(values);
            }
        }
    }

    fn value(&mut self, ends: fn(char) -> bool) -> Option<RawValue> {
        let at = self.place();
        let operator = OPERATORS.into_iter().find(|operator| self.accept(operator)).unwrap_or_default();
        if self.peek() == Some('"') {
            return Some(RawValue { at, operator, text: self.quoted()?, is_quoted: true });
        }
        let text = self.word(ends);
        if text.is_empty() {
            self.mistake(at, "a value is missing here");
            return None;
        }
        Some(RawValue { at, operator, text, is_quoted: false })
    }

    fn word(&mut self, ends: fn(char) -> bool) -> String {
        let begin = self.next;
        while self.peek().is_some_and(|next| !next.is_whitespace() && !ends(next)) {
            self.next += 1;
        }
        self.characters[begin..self.next].iter().collect()
    }

    /// A quoted text; `\"` and `\\` stand for a quote and a backslash.
    fn quoted(&mut self) -> Option<String> {
        let at = self.place();
        self.next += 1;
        let mut text = String::new();
        while let Some(character) = self.peek() {
            self.next += 1;
            match character {
                '"' => return Some(text),
                '\\' if matches!(self.peek(), Some('"' | '\\')) => text.extend(self.word_of_one()),
                character => text.push(character),
            }
        }
        self.mistake(at, "this quote is not closed");
        None
    }

    fn word_of_one(&mut self) -> Option<char> {
        let character = self.peek();
        self.next += 1;
        character
    }
}

impl fmt::Display for RawTerm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.negated {
            formatter.write_str("-")?;
        }
        if let Some(key) = &self.key {
            write!(formatter, "{key}:")?;
        }
        for (number, value) in self.values.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(formatter, "{comma}{}", value.written(self.key.is_none()))?;
        }
        Ok(())
    }
}

impl RawValue {
    fn written(&self, is_word: bool) -> String {
        let text = &self.text;
        let needs_quotes = text.is_empty()
            || text.contains(|character: char| character.is_whitespace() || matches!(character, '"' | ','))
            || (self.is_quoted && (text.contains("..") || text.starts_with(['<', '>'])))
            || (is_word && (text.contains(':') || text.starts_with('-')));
        if !needs_quotes {
            return format!("{}{text}", self.operator);
        }
        format!("{}\"{}\"", self.operator, text.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        let terms = read(text).unwrap();
        terms.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_filter_is_written_in_one_form() {
        for (text, form) in [
            ("", ""),
            ("  state:a,b   -cohort:pilot ", "state:a,b -cohort:pilot"),
            ("subject:\"S 01\" \"two words\"", "subject:\"S 01\" \"two words\""),
            ("state:\"plain\"", "state:plain"),
            ("var.q:>=3 var.q:\">=3\"", "var.q:>=3 var.q:\">=3\""),
            ("\"a:b\" \"-01\" -01", "\"a:b\" \"-01\" -01"),
            ("error:\"say \\\"no\\\"\"", "error:\"say \\\"no\\\"\""),
            ("a\"b", "\"a\\\"b\""),
            ("- a-b", "\"-\" a-b"),
        ] {
            assert_eq!(written(text), form, "{text}");
            assert_eq!(written(&written(text)), form, "twice: {text}");
        }
    }

    #[test]
    fn mistakes_say_their_place() {
        let mistakes = |text: &str| -> Vec<usize> { read(text).unwrap_err().iter().map(|one| one.at).collect() };
        assert_eq!(mistakes("state: cohort:x"), [7]);
        assert_eq!(mistakes("state:a,,b cohort:"), [9, 19]);
        assert_eq!(mistakes("ä subject:\"S 01"), [11]);
        assert_eq!(mistakes("var.q:>="), [7]);
    }
}
