//! Tables of text with a header.

use std::collections::HashMap;
use std::path::Path;

use super::SourceError;

/// A row of a table: cells by column name, and the line that it begins in.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub line: u64,
    cells: HashMap<String, String>,
}

impl Row {
    /// The cell, unless it is empty or `n/a`.
    pub(super) fn get(&self, column: &str) -> Option<&str> {
        self.cells
            .get(column)
            .map(|cell| cell.trim())
            .filter(|cell| !cell.is_empty() && !cell.eq_ignore_ascii_case("n/a"))
    }
}

/// A table: its columns in their order, and its rows.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub columns: Vec<String>,
    pub rows: Vec<Row>,
    /// Rows that have another number of cells than the header: line, and what is wrong.
    pub broken: Vec<(u64, String)>,
}

/// Reads a table. Columns are named without blanks at their ends.
pub(super) fn read(path: &Path, delimiter: u8) -> Result<Table, SourceError> {
    let failed = |error: csv::Error| match error.kind() {
        csv::ErrorKind::Io(error) => SourceError(format!("cannot read {}: {error}", path.display())),
        _ => SourceError(format!("{} is not a table of UTF-8 text", path.display())),
    };
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        // BIDS tables have no quoting; a quote in a cell is a quote.
        .quoting(delimiter != b'\t')
        .flexible(true)
        .from_path(path)
        .map_err(failed)?;
    let header = reader.headers().map_err(failed)?;
    let columns: Vec<String> =
        header.iter().map(|name| name.trim_start_matches('\u{feff}').trim().to_owned()).collect();
    let mut table = Table { columns, ..Table::default() };
    for record in reader.records() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                let line = error.position().map_or(0, csv::Position::line);
                table.broken.push((line, "is not readable as UTF-8 text".to_owned()));
                continue;
            }
        };
        let line = record.position().map_or(0, csv::Position::line);
        if record.iter().all(|cell| cell.trim().is_empty()) {
            continue;
        }
        if record.len() != table.columns.len() {
            table.broken.push((line, format!("has {} cells, the header has {}", record.len(), table.columns.len())));
            continue;
        }
        let cells = table.columns.iter().cloned().zip(record.iter().map(str::to_owned)).collect();
        table.rows.push(Row { line, cells });
    }
    Ok(table)
}
