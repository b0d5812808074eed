//! Decodes the bytes of a text file to UTF-8.
//!
//! Excel saves tables with a byte order mark, as UTF-16 ("Unicode text"), or in the code page of the machine. The first two are decoded; a
//! code page cannot be recognised, so rows with such bytes are refused.

/// The text without its byte order mark. Bytes that are not UTF-8 are kept; the rows that contain them are refused later.
///
/// # Errors
/// The file is not text: a workbook, an archive, or UTF-16 that is broken or has no byte order mark.
pub(super) fn decoded(bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    match bytes.as_slice() {
        [0xef, 0xbb, 0xbf, rest @ ..] => Ok(rest.to_vec()),
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Err("is UTF-32 text; save it as UTF-8".to_owned()),
        [0xff, 0xfe, rest @ ..] => from_utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => from_utf16(rest, u16::from_be_bytes),
        [b'P', b'K', 3, 4, ..] | [0xd0, 0xcf, 0x11, 0xe0, ..] => {
            Err("is a workbook or an archive, not a table of text; save it as CSV (UTF-8)".to_owned())
        }
        [0x1f, 0x8b, ..] => Err("is compressed; unpack it first".to_owned()),
        _ if is_utf16_without_mark(&bytes) => {
            Err("looks like UTF-16 text without a byte order mark; save it as UTF-8".to_owned())
        }
        _ => Ok(bytes),
    }
}

fn from_utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<Vec<u8>, String> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let units: Vec<u16> = pairs.iter().map(|pair| unit(*pair)).collect();
    match String::from_utf16(&units) {
        Ok(text) if rest.is_empty() => Ok(text.into_bytes()),
        _ => Err("is invalid UTF-16; save it as UTF-8".to_owned()),
    }
}

/// In UTF-16, every second byte of Latin letters is zero.
fn is_utf16_without_mark(bytes: &[u8]) -> bool {
    let start = &bytes[..bytes.len().min(1000)];
    let zeros = |offset: usize| start.iter().skip(offset).step_by(2).filter(|byte| **byte == 0).count();
    start.len() >= 8 && (zeros(0) * 4 > start.len() || zeros(1) * 4 > start.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_utf16_are_read_and_what_is_no_text_is_named() {
        let wide = |mark: [u8; 2], unit: fn(u16) -> [u8; 2]| {
            mark.into_iter().chain("é;b\n".encode_utf16().flat_map(unit)).collect::<Vec<u8>>()
        };
        for bytes in [
            "\u{feff}é;b\n".as_bytes().to_vec(),
            wide([0xff, 0xfe], u16::to_le_bytes),
            wide([0xfe, 0xff], u16::to_be_bytes),
            "é;b\n".as_bytes().to_vec(),
        ] {
            assert_eq!(decoded(bytes).unwrap(), "é;b\n".as_bytes());
        }
        let without_mark: Vec<u8> = "subject,age\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(decoded(without_mark).unwrap_err().contains("UTF-16"));
        assert!(decoded(vec![0xff, 0xfe, b'a']).unwrap_err().contains("invalid UTF-16"));
        assert!(decoded(b"PK\x03\x04....".to_vec()).unwrap_err().contains("workbook"));
    }
}
