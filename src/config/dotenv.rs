//! Parses the `.env` file like `load_dotenv()` of python-dotenv, which version 8.1 uses: an unquoted value extends to the end of its
//! line, only `${NAME}` and `${NAME:-otherwise}` are expanded, and an invalid line is skipped and reported
//! (<https://github.com/theskumar/python-dotenv>, its README, "File format" and "Variable expansion").

use std::collections::BTreeMap;

/// The variables and the invalid lines of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Dotenv {
    pub variables: BTreeMap<String, String>,
    /// Numbers of the skipped lines.
    pub unread: Vec<usize>,
}

/// Parses the text of a file. `${NAME}` is looked up in `process` first, then in the lines above.
pub(super) fn read(text: &str, process: &BTreeMap<String, String>) -> Dotenv {
    let mut found = Dotenv::default();
    let mut rest = Rest(text);
    loop {
        rest.skip(char::is_whitespace);
        if rest.0.is_empty() {
            return found;
        }
        let line = text[..text.len() - rest.0.len()].matches('\n').count() + 1;
        match rest.binding() {
            Some(Binding::Set { key, value }) => {
                let value = expanded(&value, |name| process.get(name).or_else(|| found.variables.get(name)));
                found.variables.insert(key, value);
            }
            Some(Binding::Nothing) => {}
            None => {
                rest.skip(|c| c != '\n' && c != '\r');
                found.unread.push(line);
            }
        }
    }
}

enum Binding {
    Set {
        key: String,
        value: String,
    },
    /// A comment, or a name without `=`, which sets no variable.
    Nothing,
}

/// The part of the text that is not parsed yet.
struct Rest<'a>(&'a str);

fn is_blank(c: char) -> bool {
    c.is_whitespace() && c != '\n' && c != '\r'
}

impl<'a> Rest<'a> {
    /// Skips and returns the next characters for which `is_so` holds.
    fn skip(&mut self, is_so: impl Fn(char) -> bool) -> &'a str {
        let end = self.0.find(|c| !is_so(c)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }

    /// Parses `NAME=value`, `export NAME=value`, a name without `=`, or a comment, up to the end of the line.
    fn binding(&mut self) -> Option<Binding> {
        let binding = if self.0.starts_with('#') { Binding::Nothing } else { self.named()? };
        self.skip(is_blank);
        if self.0.starts_with('#') {
            self.skip(|c| c != '\n' && c != '\r');
        }
        (self.0.is_empty() || self.0.starts_with(['\n', '\r'])).then_some(binding)
    }

    fn named(&mut self) -> Option<Binding> {
        if let Some(after) = self.0.strip_prefix("export").filter(|after| after.starts_with(is_blank)) {
            self.0 = after;
            self.skip(is_blank);
        }
        let key = match self.0.starts_with('\'') {
            true => self.quoted('\'', &[])?,
            false => self.skip(|c| c != '=' && c != '#' && !c.is_whitespace()).to_owned(),
        };
        if key.is_empty() {
            return None;
        }
        self.skip(is_blank);
        let Some(after) = self.0.strip_prefix('=') else { return Some(Binding::Nothing) };
        self.0 = after;
        self.skip(is_blank);
        Some(Binding::Set { key, value: self.value()? })
    }

    fn value(&mut self) -> Option<String> {
        match self.0.chars().next() {
            Some('\'') => self.quoted('\'', &[]),
            Some('"') => self.quoted('"', DOUBLE_QUOTED),
            _ => {
                let line = self.skip(|c| c != '\n' && c != '\r');
                // A comment follows a blank: `a#b` is a value.
                let comment = line.match_indices('#').find(|(at, _)| line[..*at].ends_with(char::is_whitespace));
                Some(line[..comment.map_or(line.len(), |(at, _)| at)].trim_end().to_owned())
            }
        }
    }

    /// Parses a quoted text, which may span several lines. It ends at the next quote without a backslash before it; if there is none,
    /// at the last quote. A backslash escapes `\`, `'` and the characters in `escapes`.
    fn quoted(&mut self, quote: char, escapes: &[(char, char)]) -> Option<String> {
        let inside = &self.0[1..];
        let quotes = || inside.match_indices(quote).map(|(at, _)| at);
        let end = quotes().find(|at| !inside[..*at].ends_with('\\')).or_else(|| quotes().next_back())?;
        self.0 = &inside[end + 1..];
        let mut text = String::new();
        let mut letters = inside[..end].chars().peekable();
        while let Some(letter) = letters.next() {
            let escaped = letters.peek().copied().filter(|_| letter == '\\');
            let meant = escaped.and_then(|escaped| match escapes.iter().find(|(name, _)| *name == escaped) {
                Some((_, meant)) => Some(*meant),
                None => matches!(escaped, '\\' | '\'').then_some(escaped),
            });
            text.push(meant.unwrap_or(letter));
            if meant.is_some() {
                letters.next();
            }
        }
        Some(text)
    }
}

const DOUBLE_QUOTED: &[(char, char)] = &[
    ('"', '"'),
    ('a', '\u{7}'),
    ('b', '\u{8}'),
    ('f', '\u{c}'),
    ('n', '\n'),
    ('r', '\r'),
    ('t', '\t'),
    ('v', '\u{b}'),
];

/// Expands `${NAME}` and `${NAME:-otherwise}` in a value; any other `$` is kept.
fn expanded<'a>(value: &str, known: impl Fn(&str) -> Option<&'a String>) -> String {
    let mut text = String::new();
    let mut rest = value;
    while let Some(at) = rest.find("${") {
        text.push_str(&rest[..at]);
        let inside = &rest[at + 2..];
        let end = inside.find('}');
        let name = end.map(|end| &inside[..end]);
        let parts = name
            .map(|name| name.split_once(':').map_or((name, Some("")), |(name, after)| (name, after.strip_prefix('-'))));
        match (end, parts) {
            (Some(end), Some((name, Some(otherwise)))) => {
                text.push_str(known(name).map_or(otherwise, String::as_str));
                rest = &inside[end + 1..];
            }
            _ => {
                text.push_str("${");
                rest = inside;
            }
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process() -> BTreeMap<String, String> {
        BTreeMap::from([("HOME_OF".to_owned(), "/srv".to_owned())])
    }

    /// Each line with its value in python-dotenv 0.19.2 (`dotenv_values(stream=…)`, with `HOME_OF=/srv` in the process).
    #[test]
    fn lines_are_read_as_python_dotenv_reads_them() {
        let cases: &[(&str, Option<&str>)] = &[
            ("X=Study Governor Test", Some("Study Governor Test")),
            ("X=ab$cd", Some("ab$cd")),
            ("X=\"ab$cd\"", Some("ab$cd")),
            (r"X=ab\cd", Some(r"ab\cd")),
            ("X=it's", Some("it's")),
            ("X=${NOPE:-dflt}", Some("dflt")),
            ("X=${NOPE}", Some("")),
            ("X=${HOME_OF}/data", Some("/srv/data")),
            ("X='${HOME_OF}'", Some("/srv")),
            ("X=${HOME_OF:-x}$", Some("/srv$")),
            ("X=${HOME_OF:?x}", Some("${HOME_OF:?x}")),
            ("X=${unclosed", Some("${unclosed")),
            ("X=' abc '", Some(" abc ")),
            ("X = spaced  ", Some("spaced")),
            ("export X=y", Some("y")),
            ("exportX=y", None),
            ("X=a#b", Some("a#b")),
            ("X=a #b", Some("a")),
            ("X=#b", Some("#b")),
            ("X= #b", Some("#b")),
            ("X='a' # b", Some("a")),
            ("X='a'b", None),
            ("X='a", None),
            ("X", None),
            ("X=", Some("")),
            ("# X=y", None),
            (r#"X="a\nb\"c\d""#, Some("a\nb\"c\\d")),
            (r"X='a\nb\'c'", Some(r"a\nb'c")),
            ("X=\"two\nlines\"", Some("two\nlines")),
            (r"X='C:\dir\'", Some(r"C:\dir\")),
            (r"X='a\\'", Some(r"a\")),
            ("'X'=y", Some("y")),
            ("X=y\r\nZ=1", Some("y")),
            ("X=ä ö", Some("ä ö")),
            ("=y", None),
        ];
        for (line, wanted) in cases {
            let found = read(line, &process());
            assert_eq!(found.variables.get("X").map(String::as_str), *wanted, "{line:?}: {found:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_of_and_the_rest_is_read() {
        let text = "A=1\n\n# a comment\njunk in a line\nB='open\nC=3\nD=${A}${C}\nA=2\n";
        let found = read(text, &process());
        assert_eq!(found.unread, [4, 5]);
        let wanted = [("A", "2"), ("C", "3"), ("D", "13")];
        assert_eq!(found.variables, wanted.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    }
}
