//! A client that says exactly the bytes a test wants, and a few well-formed packets for it.
//!
//! Written by hand rather than with our codec: a mistake shared by both ends would hide itself.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long an answer may take before the test fails.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) const V311: u8 = 4;
pub(crate) const V5: u8 = 5;

/// One packet as it came: the first byte and what follows the length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) first: u8,
    pub(crate) body: Vec<u8>,
}

impl Packet {
    /// The packet id of an acknowledgement.
    pub(crate) fn id(&self) -> u16 {
        u16::from_be_bytes([self.body[0], self.body[1]])
    }
}

/// A TCP connection to a node.
pub(crate) struct Wire {
    stream: TcpStream,
}

impl Wire {
    /// Opens the connection and says nothing yet.
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        Self::over(TcpStream::connect(address)?)
    }

    /// Takes a connection that was opened otherwise.
    pub(crate) fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    /// Connects with a clean session and waits for the CONNACK.
    pub(crate) fn connect(address: SocketAddr, version: u8, client_id: &str) -> io::Result<Self> {
        let mut wire = Self::open(address)?;
        wire.send(&connect(version, client_id))?;
        let connack = wire.read()?;
        // The CONNACK's second byte is the return code, 0 for success in either version.
        if connack.first == 0x20 && connack.body[1] == 0 {
            Ok(wire)
        } else {
            Err(io::Error::new(
                io::ErrorKind::ConnectionRefused,
                format!("{connack:?}"),
            ))
        }
    }

    /// The same connection for another thread.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        let stream = self.stream.try_clone()?;
        Ok(Self { stream })
    }

    /// Closes the connection for all threads that hold it.
    pub(crate) fn close(&self) {
        // It may be closed already.
        drop(self.stream.shutdown(std::net::Shutdown::Both));
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads the next packet; an end of the stream is `UnexpectedEof`.
    pub(crate) fn read(&mut self) -> io::Result<Packet> {
        let first = self.byte()?;
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            length |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(Packet { first, body })
    }

    /// Reads whatever comes until the node closes the connection.
    pub(crate) fn read_to_close(&mut self) -> Vec<Packet> {
        let mut packets = Vec::new();
        loop {
            match self.read() {
                Ok(packet) => packets.push(packet),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    panic!("the connection stays open")
                }
                // A reset is a close too: the node had not read all that was sent.
                Err(_) => return packets,
            }
        }
    }

    /// Publishes with QoS 1 and waits for its PUBACK.
    pub(crate) fn publish_acked(
        &mut self,
        version: u8,
        topic: &str,
        id: u16,
        payload: &[u8],
    ) -> io::Result<()> {
        self.send(&publish(version, topic, id, payload))?;
        let puback = self.read()?;
        assert_eq!(
            (puback.first, puback.id()),
            (0x40, id),
            "a PUBACK was expected: {puback:?}"
        );
        Ok(())
    }

    /// Whether the node answers a PINGREQ.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.send(&[0xC0, 0]).is_ok() && matches!(self.read(), Ok(Packet { first: 0xD0, .. }))
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.stream.read_exact(&mut byte)?;
        Ok(byte[0])
    }
}

/// A CONNECT with a clean session and no keepalive.
pub(crate) fn connect(version: u8, client_id: &str) -> Vec<u8> {
    let mut body = string("MQTT");
    body.extend([version, 0x02, 0, 0]);
    if version == V5 {
        body.push(0);
    }
    body.extend(string(client_id));
    packet(0x10, &body)
}

/// A PUBLISH with QoS 1.
pub(crate) fn publish(version: u8, topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = string(topic);
    body.extend(id.to_be_bytes());
    if version == V5 {
        body.push(0);
    }
    body.extend(payload);
    packet(0x32, &body)
}

/// Puts the first byte and the length before `body`.
pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut length = body.len();
    loop {
        let low = u8::try_from(length % 128).expect("below 128");
        length /= 128;
        packet.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

/// A string with its length before it.
pub(crate) fn string(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("a short text");
    [&length.to_be_bytes(), text.as_bytes()].concat()
}
