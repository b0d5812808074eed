//! Strict reader for the records of a text table.
//!
//! Quotes work as in RFC 4180, also in tables with tabs, since programs quote there as well. A record with broken quoting is reported with
//! its first line, and reading continues in the next line, so that an unclosed quote does not swallow the following rows. Lines end with
//! LF, CRLF or CR.

/// A record, or a place where none could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    Cells {
        line: u64,
        cells: Vec<String>,
    },
    /// Contains the cells that were read before the problem.
    Broken {
        line: u64,
        message: String,
        cells: Vec<String>,
    },
}

/// Iterates over the records.
pub(super) struct Records<'a> {
    text: &'a [u8],
    delimiter: u8,
    at: usize,
    line: u64,
    /// Number of cells of a record, once the header has been read.
    width: Option<usize>,
}

impl<'a> Records<'a> {
    /// Begins at the start of `text`, which is the line with the number `line`.
    pub(super) fn new(text: &'a [u8], delimiter: u8, line: u64) -> Self {
        Self { text, delimiter, at: 0, line, width: None }
    }

    /// From here on, a record of several lines is valid only if it has `width` cells.
    pub(super) fn expect(&mut self, width: usize) {
        self.width = Some(width);
    }

    /// Reads the cells up to the end of the record. On an error, `cells` has the cells before it.
    fn cells(&mut self, cells: &mut Vec<String>) -> Result<(), String> {
        loop {
            let cell = self.cell()?;
            cells.push(text_of(&cell)?);
            if self.at < self.text.len() && self.text[self.at] == self.delimiter {
                self.at += 1;
                continue;
            }
            self.end_line();
            return Ok(());
        }
    }

    fn cell(&mut self) -> Result<Vec<u8>, String> {
        // Cells are trimmed, so blanks may precede a quote.
        let quote = self.after_blanks(self.at);
        if self.text.get(quote) == Some(&b'"') {
            return self.quoted(quote + 1);
        }
        let rest = &self.text[self.at..];
        let length = rest.iter().position(|byte| self.ends_cell(*byte)).unwrap_or(rest.len());
        self.at += length;
        Ok(rest[..length].to_vec())
    }

    fn quoted(&mut self, start: usize) -> Result<Vec<u8>, String> {
        let mut cell = Vec::new();
        self.at = start;
        loop {
            match self.text.get(self.at) {
                None => return Err("a quote is not closed".to_owned()),
                Some(b'"') if self.text.get(self.at + 1) == Some(&b'"') => {
                    cell.push(b'"');
                    self.at += 2;
                }
                Some(b'"') => break,
                Some(b'\r' | b'\n') => {
                    let start = self.at;
                    self.end_line();
                    cell.extend_from_slice(&self.text[start..self.at]);
                }
                Some(byte) => {
                    cell.push(*byte);
                    self.at += 1;
                }
            }
        }
        self.at = self.after_blanks(self.at + 1);
        match self.text.get(self.at) {
            Some(byte) if !self.ends_cell(*byte) => {
                Err("there is text after a closing quote (write a quote inside a quoted cell twice)".to_owned())
            }
            _ => Ok(cell),
        }
    }

    fn ends_cell(&self, byte: u8) -> bool {
        byte == self.delimiter || byte == b'\n' || byte == b'\r'
    }

    fn after_blanks(&self, from: usize) -> usize {
        let is_blank = |byte: &u8| (*byte == b' ' || *byte == b'\t') && *byte != self.delimiter;
        from + self.text.get(from..).unwrap_or_default().iter().take_while(|byte| is_blank(byte)).count()
    }

    /// Skips a line end, if there is one here.
    fn end_line(&mut self) {
        match self.text.get(self.at..).unwrap_or_default() {
            [b'\r', b'\n', ..] => self.at += 2,
            [b'\r' | b'\n', ..] => self.at += 1,
            _ => return,
        }
        self.line += 1;
    }

    /// Skips the rest of the line that begins at `start`.
    fn skip_line(&mut self, start: usize, line: u64) {
        let rest = &self.text[start..];
        self.at = start + rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(rest.len());
        self.line = line;
        self.end_line();
    }

    /// Why a record of several lines is probably a mistake: a stray quote ends at the next one, and the text between them is other rows.
    fn swallows(&self, start: usize, first: u64, cells: usize) -> Option<String> {
        let width = self.width?;
        // A record of one line, the usual case.
        if self.line <= first + 1 && self.at < self.text.len() {
            return None;
        }
        let lines: Vec<&[u8]> = lines_of(&self.text[start..self.at]).collect();
        if lines.len() < 2 {
            return None;
        }
        let end = first + u64::try_from(lines.len()).unwrap_or_default() - 1;
        if cells != width {
            return Some(format!(
                "a quoted cell ends in line {end}; the row then has {cells} cells, but the header has {width}"
            ));
        }
        let looks_like_row = |line: &&[u8]| line.split(|byte| *byte == self.delimiter).count() == width;
        (width > 2 && lines.iter().all(looks_like_row))
            .then(|| format!("a quoted cell ends in line {end}; the lines in between look like separate rows"))
    }
}

impl Iterator for Records<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        if self.at >= self.text.len() {
            return None;
        }
        let (start, line) = (self.at, self.line);
        let mut cells = Vec::new();
        let read = self.cells(&mut cells);
        let problem = match read {
            Err(problem) => Some(problem),
            Ok(()) => self.swallows(start, line, cells.len()),
        };
        match problem {
            None => Some(Record::Cells { line, cells }),
            Some(message) => {
                self.skip_line(start, line);
                Some(Record::Broken { line, message, cells })
            }
        }
    }
}

/// The lines of a text, without line ends and without an empty line at the end.
fn lines_of(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let length = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(rest.len());
        let (line, after) = rest.split_at(length);
        rest = match after {
            [b'\r', b'\n', after @ ..] | [b'\r' | b'\n', after @ ..] => after,
            _ => after,
        };
        Some(line)
    })
}

fn text_of(cell: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(cell).map_err(|error| {
        let byte = cell.get(error.valid_up_to()).copied().unwrap_or_default();
        format!("is not UTF-8 text (byte 0x{byte:02X}); save the table as UTF-8")
    })?;
    if text.contains('\0') { Err("contains a null character".to_owned()) } else { Ok(text.to_owned()) }
}

/// Tab, semicolon or comma: whichever is the most frequent, outside of quotes, in the first line that contains names.
pub(super) fn guess_delimiter(text: &[u8]) -> u8 {
    const KNOWN: [u8; 3] = [b'\t', b';', b','];
    let (mut counts, mut is_quoted, mut has_names) = ([0; 3], false, false);
    for byte in text {
        match (byte, KNOWN.iter().position(|known| known == byte)) {
            (b'"', _) => is_quoted = !is_quoted,
            (_, Some(index)) if !is_quoted => counts[index] += 1,
            (b'\n' | b'\r', _) if !is_quoted && has_names => break,
            (b'\n' | b'\r', _) if !is_quoted => counts = [0; 3],
            _ => has_names |= !byte.is_ascii_whitespace(),
        }
    }
    // The first one wins a tie: commas occur in texts more often than the others.
    match counts.iter().max() {
        Some(most) if *most > 0 => counts.iter().position(|count| count == most).map_or(b',', |index| KNOWN[index]),
        _ => b',',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Record> {
        let mut records = Records::new(text.as_bytes(), b',', 1);
        records.expect(3);
        records.collect()
    }

    fn cells(line: u64, cells: [&str; 3]) -> Record {
        Record::Cells { line, cells: cells.map(str::to_owned).to_vec() }
    }

    fn broken(record: &Record) -> Option<(u64, &str)> {
        if let Record::Broken { line, message, .. } = record { Some((*line, message)) } else { None }
    }

    #[test]
    fn quotes_and_line_ends_are_read_as_programs_write_them() {
        for end in ["\n", "\r\n", "\r"] {
            let text = ["a,\"b \"\"c\"\", d\",e", "\"two", "lines\", x , \"y\" ", "5\" coil,,z"].join(end);
            assert_eq!(
                read(&text),
                [
                    cells(1, ["a", "b \"c\", d", "e"]),
                    cells(2, [&format!("two{end}lines"), " x ", "y"]),
                    cells(4, ["5\" coil", "", "z"])
                ],
                "{end:?}"
            );
        }
    }

    #[test]
    fn broken_quoting_is_reported_and_takes_no_row_along() {
        for (text, wanted) in [
            ("a,b,\"c\nd,e,f\ng,h,i\n", "a quote is not closed"),
            ("a,\"b,c\nd,e,f\ng,h,i\n", "a quote is not closed"),
            ("a,b,\"c\" x\nd,e,f\ng,h,i\n", "after a closing quote"),
            // The next quote closes it, and the text after that is invalid.
            ("a,b,\"c\nd,e,f\ng,h,i\n\"x\",y,z", "after a closing quote"),
            // It closes at an inch sign: the record has too few cells, or swallows rows.
            ("a,\"b,c\nd,e,f\ng,h,i\nx\",y,z\n", "ends in line 4"),
            ("a,b,\"c\nd,e,f\ng,h,i\nx,y,z\"\n", "look like separate rows"),
        ] {
            let records = read(text);
            let (line, message) = broken(&records[0]).unwrap_or_else(|| panic!("{text:?}: {records:?}"));
            assert!(line == 1 && message.contains(wanted), "{text:?}: {message}");
            assert_eq!(records[1..3], [cells(2, ["d", "e", "f"]), cells(3, ["g", "h", "i"])], "{text:?}");
        }
        assert_eq!(read("a,b,\"one, two\nthree\"\n"), [cells(1, ["a", "b", "one, two\nthree"])]);
    }

    #[test]
    fn bytes_that_are_no_text_are_reported() {
        let records: Vec<Record> = Records::new(b"a,caf\xe9,c\nd\0,e,f\ng,h,i\n", b',', 1).collect();
        assert!(broken(&records[0]).unwrap().1.contains("byte 0xE9"));
        assert!(broken(&records[1]).unwrap().1.contains("null character"));
        assert_eq!(records[2], cells(3, ["g", "h", "i"]));
    }

    #[test]
    fn the_delimiter_is_found_outside_of_quotes() {
        assert_eq!(guess_delimiter(b"a,b,\"c;d;e;f\"\n1;2;3;4;5;6"), b',');
        assert_eq!(guess_delimiter(b"a,b,c,d,\"var:a;b;c;d;e\"\n1,2,3,4,5\n"), b',');
        assert_eq!(guess_delimiter(b"\n;;;;\na;b;c,d,e,f,g\n"), b',');
        assert_eq!(guess_delimiter(b"a,b,c;d\n"), b',');
        assert_eq!(guess_delimiter(b"\"a,b,c,d\";e;f\n"), b';');
        assert_eq!(guess_delimiter(b"a\tb\r1\t2"), b'\t');
        assert_eq!(guess_delimiter(b"a"), b',');
    }
}
