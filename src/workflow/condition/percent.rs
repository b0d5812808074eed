//! `'%s' % x`, which the interpreter does not have, as a call of `format`.

use ruff_python_ast::{Expr, ExprBinOp, Operator};

/// What stands before and behind the right side instead, when the left side is a text whose formats mean the same there.
pub(super) fn as_format(formatted: &ExprBinOp) -> Option<[String; 2]> {
    if formatted.op != Operator::Mod {
        return None;
    }
    let Expr::StringLiteral(text) = &*formatted.left else { return None };
    let (template, count) = template(text.value.to_str())?;
    let template = quoted(&template);
    match &*formatted.right {
        Expr::Tuple(tuple) => {
            let is_whole = tuple.elts.len() == count && !tuple.elts.iter().any(Expr::is_starred_expr);
            is_whole.then(|| [format!("({template}.format(*("), ")))".to_owned()])
        }
        // Of a tuple each part fills a place; anything else is one value. What does not fit is an error there, and here.
        _ if count == 1 => Some([
            format!(
                "(lambda v: {template}.format(*(v if isinstance(v, tuple) and len(v) == 1 else [][0] \
                 if isinstance(v, tuple) else [v])))("
            ),
            ")".to_owned(),
        ]),
        _ => Some([
            format!("(lambda v: {template}.format(*(v if isinstance(v, tuple) and len(v) == {count} else [][0])))("),
            ")".to_owned(),
        ]),
    }
}

/// The text with `{…}` for each `%…`, and how many there are; none when one of them means something else for `format`.
fn template(text: &str) -> Option<(String, usize)> {
    let (mut out, mut count) = (String::new(), 0);
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '{' | '}' => out.extend([character, character]),
            '%' if rest.next_if_eq(&'%').is_some() => out.push('%'),
            '%' => {
                let mut spec = String::new();
                while let Some(part) = rest.next_if(|one| one.is_ascii_digit() || matches!(one, '-' | '.')) {
                    spec.push(part);
                }
                out.push_str(&place(&spec, rest.next()?)?);
                count += 1;
            }
            other => out.push(other),
        }
    }
    Some((out, count))
}

/// One place, with its width and its kind.
fn place(spec: &str, kind: char) -> Option<String> {
    let (is_left, width) = match spec.strip_prefix('-') {
        Some(width) => (true, width),
        None => (false, spec),
    };
    let is_number = |text: &str| text.chars().all(|one| one.is_ascii_digit());
    let (whole, fraction) = width.split_once('.').unwrap_or((width, ""));
    if !is_number(whole) || !is_number(fraction) || whole.len() > 4 || fraction.len() > 4 {
        return None;
    }
    let align = match (is_left, whole.is_empty()) {
        (_, true) => "",
        (true, _) => "<",
        (false, _) => ">",
    };
    match kind {
        // A text with a zero in front of its width, or cut, is something else for `format`.
        's' | 'r' if !width.contains('.') && !whole.starts_with('0') => {
            let colon = if whole.is_empty() { "" } else { ":" };
            Some(format!("{{!{kind}{colon}{align}{whole}}}"))
        }
        'd' | 'i' if !is_left && !width.contains('.') => Some(format!("{{:{whole}d}}")),
        'x' | 'X' if !is_left && !width.contains('.') => Some(format!("{{:{whole}{kind}}}")),
        'f' | 'e' | 'g' if !is_left => Some(format!("{{:{width}{kind}}}")),
        _ => None,
    }
}

/// A text as Python writes it in quotes.
fn quoted(text: &str) -> String {
    let mut out = String::from("'");
    for character in text.chars() {
        match character {
            '\'' => out.push_str("\\'"),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            other => out.push(other),
        }
    }
    out.push('\'');
    out
}
