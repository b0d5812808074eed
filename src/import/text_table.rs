//! Text tables with a header.

use std::collections::HashSet;
use std::path::Path;

use super::SourceError;
use super::decode::decoded;
use super::records::{Record, Records, guess_delimiter};

/// A row: its cells in the order of the columns, and its first line.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub line: u64,
    cells: Vec<String>,
}

impl Row {
    /// The cell of a column, unless it is empty or `n/a`.
    pub(super) fn get(&self, column: usize) -> Option<&str> {
        self.cells
            .get(column)
            .map(|cell| cell.trim())
            .filter(|cell| !cell.is_empty() && !cell.eq_ignore_ascii_case("n/a"))
    }

    /// Whether two rows have the same cells.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.cells == other.cells
    }
}

/// A line that could not be read as a row.
#[derive(Debug, Clone)]
pub(super) struct Broken {
    pub line: u64,
    pub message: String,
    /// The cells that could be read.
    pub row: Row,
}

/// A table: its columns and rows, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    /// Trimmed. Columns without a name (Excel leaves some at the end) are empty in every row.
    pub columns: Vec<String>,
    pub rows: Vec<Row>,
    pub broken: Vec<Broken>,
}

impl Table {
    /// The column with this name, in any case.
    pub(super) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.eq_ignore_ascii_case(name))
    }

    /// The name of a column that occurs twice.
    pub(super) fn twice(&self) -> Option<&str> {
        let mut seen = HashSet::new();
        let twice = self.columns.iter().find(|column| !column.is_empty() && !seen.insert(column.as_str()));
        twice.map(String::as_str)
    }

    /// The names of the columns, for messages.
    pub(super) fn names(&self) -> String {
        self.columns.iter().filter(|column| !column.is_empty()).map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

/// Reads a table. Without a `delimiter`, Excel's line `sep=;` names it, or it is guessed from the header.
///
/// # Errors
/// The file cannot be read, is not text, or its header is broken.
pub(super) fn read(path: &Path, delimiter: Option<u8>) -> Result<Table, SourceError> {
    let failed = |problem: &dyn std::fmt::Display| SourceError(format!("{}: {problem}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| SourceError(format!("cannot read {}: {error}", path.display())))?;
    let text = decoded(bytes).map_err(|problem| failed(&problem))?;
    let (text, named, line) = without_separator_line(&text);
    let delimiter = delimiter.or(named).unwrap_or_else(|| guess_delimiter(text));
    read_rows(&mut Records::new(text, delimiter, line)).map_err(|problem| failed(&problem))
}

/// The text after a first line `sep=;`, the character in that line, and the line number at which the text then begins.
fn without_separator_line(text: &[u8]) -> (&[u8], Option<u8>, u64) {
    let end = text.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(text.len());
    let (line, rest) = text.split_at(end);
    let line = line.trim_ascii_start();
    let line = line.strip_prefix(b"\"").map_or(line, |line| line.strip_suffix(b"\"").unwrap_or(line));
    let named = match line {
        [s, e, p, b'=', character] if [*s, *e, *p].eq_ignore_ascii_case(b"sep") => *character,
        _ => return (text, None, 1),
    };
    let rest = match rest {
        [b'\r', b'\n', rest @ ..] | [b'\r' | b'\n', rest @ ..] => rest,
        _ => rest,
    };
    (rest, Some(named), 2)
}

fn read_rows(records: &mut Records<'_>) -> Result<Table, String> {
    let mut table = Table { columns: header(records)?, ..Table::default() };
    let width = table.columns.len();
    records.expect(width);
    for record in records {
        match record {
            Record::Broken { line, message, cells } => {
                table.broken.push(Broken { line, message, row: Row { line, cells } });
            }
            Record::Cells { line, cells } if cells.iter().all(|cell| cell.trim().is_empty()) => drop((line, cells)),
            Record::Cells { line, cells } => {
                let row = Row { line, cells };
                match misfit(&row, &table.columns) {
                    Some(message) => table.broken.push(Broken { line, message, row }),
                    None => table.rows.push(row),
                }
            }
        }
    }
    Ok(table)
}

/// The names in the first line that is not empty.
fn header(records: &mut Records<'_>) -> Result<Vec<String>, String> {
    for record in records {
        match record {
            Record::Broken { line, message, .. } => return Err(format!("line {line}: {message}")),
            Record::Cells { cells, .. } if cells.iter().all(|cell| cell.trim().is_empty()) => {}
            Record::Cells { cells, .. } => {
                return Ok(cells.iter().map(|name| name.trim_start_matches('\u{feff}').trim().to_owned()).collect());
            }
        }
    }
    Err("is empty".to_owned())
}

/// Why the cells do not match the columns. Empty cells at the end may be missing, and extra ones are allowed where columns have no name.
fn misfit(row: &Row, columns: &[String]) -> Option<String> {
    let named = columns.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1);
    let filled = row.cells.iter().rposition(|cell| !cell.trim().is_empty()).map_or(0, |last| last + 1);
    if row.cells.len() < named || filled > columns.len() {
        return Some(format!("has {} cells, but the header has {}", row.cells.len(), columns.len()));
    }
    let unnamed = columns.iter().zip(&row.cells).position(|(name, cell)| name.is_empty() && !cell.trim().is_empty());
    unnamed.map(|index| format!("has '{}' in column {}, which has no name", row.cells[index].trim(), index + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("t.csv");
        std::fs::write(&file, text).unwrap();
        read(&file, None).unwrap()
    }

    #[test]
    fn columns_that_excel_leaves_at_the_end_are_passed_over() {
        let read = table("a;b;;\n1;2;;\n3;4\n5;6;;;;\n7;8;9;\n10\n");
        assert_eq!(read.rows.iter().map(|row| row.line).collect::<Vec<_>>(), [2, 3, 4]);
        let told: Vec<_> = read.broken.iter().map(|broken| (broken.line, broken.message.as_str())).collect();
        assert_eq!(told, [(5, "has '9' in column 3, which has no name"), (6, "has 1 cells, but the header has 4")]);
    }

    #[test]
    fn the_line_sep_names_the_delimiter() {
        for text in ["sep=;\na;b,c\n1;2\n", "\"sep=;\"\r\na;b,c\r\n1;2\r\n", "SEP=|\na|b,c\n1|2\n"] {
            let read = table(text);
            assert_eq!(
                (read.columns.as_slice(), read.rows[0].line),
                (&["a".to_owned(), "b,c".to_owned()][..], 3),
                "{text}"
            );
        }
    }
}
