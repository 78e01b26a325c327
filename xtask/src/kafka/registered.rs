//! Which brokers a broker knows, asked over a bare socket.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

/// `Metadata` in version 1 about no topic, the oldest in which a broker tells its peers alone: length, API key 3,
/// version 1, correlation id 7, client id `xtask`, 0 topics.
const REQUEST: [u8; 23] = *b"\0\0\0\x13\0\x03\0\x01\0\0\0\x07\0\x05xtask\0\0\0\0";

/// A broker that takes longer is not ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// No cluster of ours has an answer as long.
const ANSWER_MAX: u32 = 65_536;

/// The numbers of the brokers that the one at `port` has as registered and not fenced, itself included.
pub(super) fn registered(port: u16) -> io::Result<Vec<i32>> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&REQUEST)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > ANSWER_MAX {
        return Err(io::Error::other(format!("an answer of {length} bytes")));
    }
    let mut answer = vec![0; length as usize];
    stream.read_exact(&mut answer)?;
    brokers(&answer).ok_or_else(|| io::Error::other("an answer that is no metadata"))
}

/// Reads correlation id and brokers; what follows is of no interest here.
fn brokers(answer: &[u8]) -> Option<Vec<i32>> {
    let mut rest = answer;
    if integer(&mut rest)? != 7 {
        return None;
    }
    let count = integer(&mut rest)?;
    (0..count)
        .map(|_| {
            let number = integer(&mut rest)?;
            skip_string(&mut rest)?;
            let _port = integer(&mut rest)?;
            skip_string(&mut rest)?;
            Some(number)
        })
        .collect()
}

fn integer(rest: &mut &[u8]) -> Option<i32> {
    let (bytes, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(i32::from_be_bytes(*bytes))
}

/// Passes over a host or a rack; the latter is null where its length is -1.
fn skip_string(rest: &mut &[u8]) -> Option<()> {
    let (bytes, after) = rest.split_first_chunk()?;
    let length = usize::try_from(i16::from_be_bytes(*bytes)).unwrap_or(0);
    *rest = after.get(length..)?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"\0\0\0\x07\0\0\0\x02\
        \0\0\0\x01\0\x09127.0.0.1\0\0\x4e\x20\xff\xff\
        \0\0\0\x03\0\x09127.0.0.1\0\0\x4e\x22\0\x02r1\
        \0\0\0\x01\0\0\0\0";

    #[test]
    fn the_brokers_of_an_answer_are_read() {
        assert_eq!(brokers(ANSWER), Some(vec![1, 3]));
    }

    #[test]
    fn a_cut_or_foreign_answer_names_no_brokers() {
        let brokers_end = ANSWER.len() - 8;
        for cut in 0..brokers_end {
            assert_eq!(brokers(&ANSWER[..cut]), None, "cut at {cut}");
        }
        assert_eq!(brokers(b"HTTP/1.1 400 Bad Request\r\n"), None);
    }

    #[test]
    fn the_request_tells_its_own_length() {
        let length = u32::from_be_bytes(*REQUEST.first_chunk().unwrap());

        assert_eq!(length as usize, REQUEST.len() - 4);
    }
}
