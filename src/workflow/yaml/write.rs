//! Writes YAML that every reader reads as the same value: PyYAML by the rules of YAML 1.1, others by those of 1.2. A text that either
//! version would read as another type is quoted.

use std::fmt::Write;

use serde_json::Value;

use super::scalar;

/// The value as a document in block style.
pub(super) fn document(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(entries) if !entries.is_empty() => mapping(&mut out, entries, 0),
        Value::Array(items) if !items.is_empty() => sequence(&mut out, items, 0),
        value => {
            out.push_str(&inline(value));
            out.push('\n');
        }
    }
    out
}

fn mapping(out: &mut String, entries: &serde_json::Map<String, Value>, indent: usize) {
    for (at, (key, value)) in entries.iter().enumerate() {
        // The first key of a mapping in a list is written on the line of the dash.
        if at > 0 || out.is_empty() || out.ends_with('\n') {
            out.push_str(&" ".repeat(indent));
        }
        out.push_str(&text(key));
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                mapping(out, inner, indent + 2);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                sequence(out, items, indent);
            }
            Value::String(lines) if is_block(lines) => block(out, lines, indent + 2),
            value => {
                out.push(' ');
                out.push_str(&inline(value));
                out.push('\n');
            }
        }
    }
}

fn sequence(out: &mut String, items: &[Value], indent: usize) {
    for item in items {
        out.push_str(&" ".repeat(indent));
        out.push_str("- ");
        match item {
            Value::Object(entries) if !entries.is_empty() => mapping(out, entries, indent + 2),
            // A list in a list is written in brackets: it is rare, and easier to read that way.
            item => {
                out.push_str(&inline(item));
                out.push('\n');
            }
        }
    }
}

/// Whether a text of several lines can be written as a block without changes.
fn is_block(text: &str) -> bool {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let is_plain = |line: &str| !line.ends_with(' ') && line.chars().all(is_shown);
    body.contains('\n') && !body.ends_with('\n') && !body.starts_with([' ', '\n']) && body.split('\n').all(is_plain)
}

fn block(out: &mut String, text: &str, indent: usize) {
    out.push_str(if text.ends_with('\n') { " |\n" } else { " |-\n" });
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        if !line.is_empty() {
            let _ = write!(out, "{}{line}", " ".repeat(indent));
        }
        out.push('\n');
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => self::number(number),
        Value::String(text) => self::text(text),
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Object(entries) => {
            let entries = entries.iter().map(|(key, value)| format!("{}: {}", text(key), inline(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
    }
}

/// A number with an exponent in YAML 1.1 needs a decimal point, and a sign in the exponent.
fn number(number: &serde_json::Number) -> String {
    let text = number.to_string();
    let Some((mantissa, exponent)) = text.split_once(['e', 'E']) else { return text };
    let dot = if mantissa.contains('.') { "" } else { ".0" };
    let sign = if exponent.starts_with(['+', '-']) { "" } else { "+" };
    format!("{mantissa}{dot}e{sign}{exponent}")
}

fn text(text: &str) -> String {
    if is_safe(text) {
        return text.to_owned();
    }
    if text.chars().all(is_shown) && !text.contains(['\n', '\t']) {
        return format!("'{}'", text.replace('\'', "''"));
    }
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            shown if is_shown(shown) => out.push(shown),
            hidden => {
                let _ = match u32::from(hidden) {
                    code @ 0..=0xff => write!(out, "\\x{code:02x}"),
                    code @ 0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    code => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push('"');
    out
}

/// Whether a character is safe: not a line break, byte order mark or control character for any reader.
fn is_shown(character: char) -> bool {
    !character.is_control() && !matches!(character, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
        || character == '\t'
}

/// Whether a text needs no quotes: it begins with a letter or one of a few other characters, has no special character of YAML, and is a
/// text in both versions of YAML.
fn is_safe(text: &str) -> bool {
    let begins = |first: char| first.is_alphabetic() || matches!(first, '_' | '/' | '$');
    let goes_on = |one: char| {
        one.is_alphanumeric() || matches!(one, '_' | '/' | '$' | '.' | '-' | ' ' | '+' | '@' | '=' | '(' | ')')
    };
    text.starts_with(begins)
        && text.chars().all(goes_on)
        && !text.ends_with(' ')
        && scalar::resolve(text) == Value::String(text.to_owned())
        // Booleans in YAML 1.1, although PyYAML reads them as texts.
        && !matches!(text, "y" | "Y" | "n" | "N")
}
