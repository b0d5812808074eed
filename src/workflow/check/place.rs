//! Places inside of texts in a file.

use super::super::yaml::{Node, Place};

/// The place of a position inside a condition, if the file contains the text without escapes; otherwise the beginning of the condition.
/// `line` and `column` refer to the text and begin at 1.
pub(super) fn inner_place(node: &Node, text: &str, (line, column): (usize, usize), lines: &[&str]) -> Place {
    let found = if line > 1 { in_block(node, text, line, column, lines) } else { in_line(node, text, column, lines) };
    found.unwrap_or(node.place)
}

/// In the first line: directly after the quote, if there is one.
fn in_line(node: &Node, text: &str, column: usize, lines: &[&str]) -> Option<Place> {
    let written = lines.get(usize::try_from(node.place.line).ok()?.checked_sub(1)?)?;
    let skipped = usize::try_from(node.place.column).ok()?.checked_sub(1)?;
    let (start, _) = written.char_indices().nth(skipped)?;
    let rest = &written[start..];
    let quote = |text: &str| text.starts_with(['"', '\'']);
    let first = text.lines().next()?;
    if !rest.trim_start_matches(['"', '\'']).starts_with(first.trim_start_matches(['"', '\''])) {
        return None;
    }
    let is_quoted = quote(rest) && !quote(text);
    let column = u32::try_from(column).ok()?.saturating_sub(1) + u32::from(is_quoted);
    Some(Place { column: node.place.column + column, ..node.place })
}

/// In a later line of a block (`|`), whose lines follow one another in the file.
fn in_block(node: &Node, text: &str, line: usize, column: usize, lines: &[&str]) -> Option<Place> {
    let own = text.lines().nth(line - 1)?;
    let at = usize::try_from(node.place.line).ok()? + line - 2;
    let written = lines.get(at)?;
    if own.trim().is_empty() || written.trim() != own.trim() {
        return None;
    }
    let indent = |text: &str| text.chars().take_while(|one| one.is_whitespace()).count();
    let column = (column + indent(written)).checked_sub(indent(own))?;
    Some(Place { line: u32::try_from(at + 1).ok()?, column: u32::try_from(column).ok()? })
}
