//! The PROXY protocol, versions 1 and 2: a proxy that forwards bytes instead of requests sends the address of its
//! client first (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>). Headers are only read from trusted
//! proxies; if the connection of a trusted proxy begins with a request, such as a health check, it is served without
//! one.

use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::sleep;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const FIRST_WORD: &[u8; 6] = b"PROXY ";

/// Maximum length of a line of version 1.
const LONGEST_LINE: usize = 107;

/// Longer headers of version 2 are rejected: addresses need 36 bytes, and the extensions are not used.
const LONGEST_HEADER: usize = 2048;

/// Reads the header from the connection. `None` if there is no header, or if it names no client.
///
/// # Errors
/// If the data begins like a header but is not a valid one.
pub(super) async fn take_header(stream: &mut TcpStream) -> Result<Option<SocketAddr>> {
    let mut start = [0; LONGEST_LINE];
    let is_header = |bytes: &[u8]| {
        let begins = |sign: &[u8]| bytes.len() >= sign.len() && bytes.starts_with(sign) || sign.starts_with(bytes);
        begins(SIGNATURE) || begins(FIRST_WORD)
    };
    loop {
        let length = stream.peek(&mut start).await?;
        let bytes = &start[..length];
        if length == 0 || !is_header(bytes) {
            return Ok(None);
        }
        if bytes.starts_with(SIGNATURE) && length >= 16 {
            return take_second(stream).await;
        }
        if let Some(end) = bytes.windows(2).position(|two| two == b"\r\n").filter(|_| bytes.starts_with(FIRST_WORD)) {
            let mut line = vec![0; end + 2];
            stream.read_exact(&mut line).await?;
            return first(&line[..end]);
        }
        if bytes.starts_with(FIRST_WORD) && length == LONGEST_LINE {
            return Err(wrong("PROXY protocol line is not terminated"));
        }
        // The rest has not arrived yet.
        sleep(Duration::from_millis(5)).await;
    }
}

fn wrong(problem: &str) -> Error {
    Error::new(ErrorKind::InvalidData, problem)
}

/// `PROXY TCP4 192.0.2.7 192.0.2.1 5678 443`
fn first(line: &[u8]) -> Result<Option<SocketAddr>> {
    let line = std::str::from_utf8(line).map_err(|_| wrong("PROXY protocol line is not text"))?;
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        [_, "UNKNOWN", ..] => Ok(None),
        [_, "TCP4" | "TCP6", source, _, port, _] => {
            let address = source.parse::<IpAddr>().ok().zip(port.parse::<u16>().ok());
            address.map(|address| Some(SocketAddr::from(address))).ok_or_else(|| wrong("invalid PROXY protocol line"))
        }
        _ => Err(wrong("invalid PROXY protocol line")),
    }
}

async fn take_second(stream: &mut TcpStream) -> Result<Option<SocketAddr>> {
    let mut head = [0; 16];
    stream.read_exact(&mut head).await?;
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if length > LONGEST_HEADER {
        return Err(wrong("PROXY protocol header is too long"));
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    second(head[12], head[13], &rest)
}

/// `command` contains version and command, `family` address family and protocol.
fn second(command: u8, family: u8, addresses: &[u8]) -> Result<Option<SocketAddr>> {
    match (command, family >> 4) {
        (0x21, 1) => match addresses {
            [a, b, c, d, _, _, _, _, high, low, ..] => {
                let ip = Ipv4Addr::new(*a, *b, *c, *d);
                Ok(Some(SocketAddr::new(ip.into(), u16::from_be_bytes([*high, *low]))))
            }
            _ => Err(wrong("PROXY protocol header is too short")),
        },
        (0x21, 2) => {
            let source = addresses.first_chunk::<16>().zip(addresses.get(32..34));
            let (ip, port) = source.ok_or_else(|| wrong("PROXY protocol header is too short"))?;
            Ok(Some(SocketAddr::new(Ipv6Addr::from(*ip).into(), u16::from_be_bytes([port[0], port[1]]))))
        }
        // LOCAL (0x20): the proxy itself sends the request. Otherwise the client has no internet address.
        (0x20 | 0x21, _) => Ok(None),
        _ => Err(wrong("unsupported PROXY protocol version")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_name_the_client() {
        let seen = |line: &[u8]| first(line).unwrap().map(|address| address.to_string());
        assert_eq!(seen(b"PROXY TCP4 192.0.2.7 192.0.2.1 5678 443").as_deref(), Some("192.0.2.7:5678"));
        assert_eq!(seen(b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2").as_deref(), Some("[2001:db8::1]:1"));
        assert_eq!(seen(b"PROXY UNKNOWN"), None);
        for line in
            [&b"PROXY TCP4 192.0.2.7"[..], b"PROXY TCP4 a b 1 2", b"PROXY UDP4 1.1.1.1 1.1.1.1 1 2", b"PROXY \xff"]
        {
            first(line).unwrap_err();
        }
        let four = [192, 0, 2, 7, 192, 0, 2, 1, 0x16, 0x2e, 1, 187, 3, 0, 1, 0];
        assert_eq!(second(0x21, 0x11, &four).unwrap().unwrap().to_string(), "192.0.2.7:5678");
        let mut six = [0; 36];
        six[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        six[33] = 80;
        assert_eq!(second(0x21, 0x21, &six).unwrap().unwrap().to_string(), "[2001:db8::]:80");
        assert_eq!((second(0x20, 0, &[]).unwrap(), second(0x21, 0x31, &[0; 216]).unwrap()), (None, None));
        second(0x21, 0x11, &four[..9]).unwrap_err();
        second(0x31, 0x11, &four).unwrap_err();
    }
}
