//! As much HTTP as the admin address needs.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a node may keep an answer back before the test gives up on it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Gets `path` and returns status code and body.
pub(crate) fn get(addr: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    // HTTP/1.0 asks for a body that ends with the connection, never in chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let incomplete = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("no HTTP answer: {answer:?}"),
        )
    };
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(incomplete)?;
    let code = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(incomplete)?;
    Ok((code, body.to_owned()))
}
