//! The server over real sockets: connections, bodies, proxies, streams, log, and shutdown.

mod hostile;
mod log;
mod proxies;
mod replaced;
mod stop;
mod streams;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::Program;

/// `host:port` of a server.
pub fn address(program: &Program) -> String {
    program.url.trim_start_matches("http://").split('/').next().unwrap().to_owned()
}

/// `admin:admin`
pub const ADMIN: &str = "Authorization: Basic YWRtaW46YWRtaW4=";

/// Sends these bytes on a separate connection and returns the response, which ends with the connection.
pub async fn raw(address: &str, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut answer = Vec::new();
    // A reset connection ends too.
    if stream.write_all(request).await.is_ok() {
        let _ = stream.read_to_end(&mut answer).await;
    }
    answer
}

/// The number of the status line.
pub fn status(answer: &[u8]) -> u16 {
    String::from_utf8_lossy(&answer[..answer.len().min(12)]).split(' ').nth(1).map_or(0, |code| code.parse().unwrap())
}
