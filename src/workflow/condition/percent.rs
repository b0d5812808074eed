//! Rewrites `'%s' % x`, which the interpreter does not support, to a call of `format`.

use ruff_python_ast::{Expr, ExprBinOp, Operator};

/// The replacements before and after the right side, if the left side is a text whose formats have the same meaning in `format`.
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
        // Each part of a tuple fills one place; any other value fills one alone. A mismatch is an error in Python, and here.
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

/// The text with `{…}` for each `%…`, and their number; `None` if `format` would treat one of them differently.
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

/// One place with its width and kind.
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
        // `format` treats a text with a leading zero in its width, or with a precision, differently.
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

/// A text as a Python literal.
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
