//! One connection: packets in, packets out.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use mqtt::{Connect, Decoder, Limits, Packet, Version, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// Time for TCP to connect.
const DIAL_DEADLINE: Duration = Duration::from_secs(3);

/// Time from CONNECT to CONNACK; a node answers 0x88 after 5 s.
const CONNACK_DEADLINE: Duration = Duration::from_secs(8);

/// Time for the system to take what is written; beyond, the node reads nothing.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// Time for a node to close the connection after DISCONNECT.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(2);

/// Room for what is read at once: all that waits for a client that has read nothing for a while, up to the
/// DISCONNECT behind it. Who answered the first of it before would write to a closed socket and never see the last.
const READ_BYTES: usize = 16 * 1_024;

/// Says why a connection is lost.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    /// Nobody listens there.
    #[error("cannot be reached: {0}")]
    Unreachable(io::Error),
    /// It broke or was closed.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// The node closed it.
    #[error("the node closed the connection")]
    Closed,
    /// It took too long.
    #[error("{0} took too long")]
    Slow(&'static str),
    /// What came is no MQTT, or not the packet that was due.
    #[error("no MQTT came: {0}")]
    Malformed(String),
}

/// Is a connection.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    received: BytesMut,
    /// What is to be written at the next [`Wire::flush`].
    pub(crate) out: BytesMut,
    decoder: Decoder,
    /// When something was written last.
    pub(crate) last_write: Instant,
}

impl Wire {
    /// Dials, sends CONNECT and returns the packet that comes: the CONNACK, if all is well.
    pub(crate) async fn open(
        address: SocketAddr,
        connect: Connect,
    ) -> Result<(Self, Packet), Lost> {
        let stream = timeout(DIAL_DEADLINE, TcpStream::connect(address))
            .await
            .map_err(|_| Lost::Unreachable(io::ErrorKind::TimedOut.into()))?
            .map_err(Lost::Unreachable)?;
        stream.set_nodelay(true)?;
        let mut wire = Self {
            stream,
            received: BytesMut::new(),
            out: BytesMut::new(),
            decoder: Decoder::client(Version::V5, Limits::default()),
            last_write: Instant::now(),
        };
        wire.send(&Packet::Connect(Box::new(connect)));
        wire.flush().await?;
        let first = timeout(CONNACK_DEADLINE, wire.read_packet()).await;
        let first = first.map_err(|_| Lost::Slow("CONNACK"))??;
        Ok((wire, first))
    }

    /// Appends a packet to what is written next.
    pub(crate) fn send(&mut self, packet: &Packet) {
        encode(packet, Version::V5, &mut self.out);
    }

    /// Writes what was gathered.
    pub(crate) async fn flush(&mut self) -> Result<(), Lost> {
        if self.out.is_empty() {
            return Ok(());
        }
        let written = timeout(WRITE_DEADLINE, self.stream.write_all(&self.out)).await;
        written.map_err(|_| Lost::Slow("a write"))??;
        self.out.clear();
        self.last_write = Instant::now();
        Ok(())
    }

    /// Waits for more bytes. Cancel-safe.
    pub(crate) async fn read_more(&mut self) -> Result<(), Lost> {
        self.received.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.received).await? {
            0 => Err(Lost::Closed),
            _ => Ok(()),
        }
    }

    /// Takes a packet out of what was received; `None` while it is incomplete.
    pub(crate) fn next_packet(&mut self) -> Result<Option<Packet>, Lost> {
        let decoded = self.decoder.decode(&mut self.received);
        decoded.map_err(|error| Lost::Malformed(error.to_string()))
    }

    async fn read_packet(&mut self) -> Result<Packet, Lost> {
        loop {
            if let Some(packet) = self.next_packet()? {
                return Ok(packet);
            }
            self.read_more().await?;
        }
    }

    /// Sends DISCONNECT and waits until the node has closed the connection; true if it did.
    pub(crate) async fn leave(mut self) -> bool {
        self.send(&Packet::Disconnect(Box::default()));
        if self.flush().await.is_err() {
            return false;
        }
        let closed = async {
            loop {
                self.received.clear();
                match self.stream.read_buf(&mut self.received).await {
                    Ok(0) => return true,
                    Ok(_) => {}
                    Err(_) => return false,
                }
            }
        };
        timeout(GOODBYE_DEADLINE, closed).await.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mqtt::{ConnAck, ConnectProperties, Disconnect, ReasonCode, Text};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn who_reads_again_finds_the_disconnect_behind_all_that_waited() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let connect = Connect {
            version: Version::V5,
            clean_start: true,
            keep_alive_s: 60,
            client_id: Text::default(),
            will: None,
            user_name: None,
            password: None,
            properties: ConnectProperties::default(),
        };
        let opened = tokio::spawn(Wire::open(address, connect));
        let (mut node, _) = listener.accept().await.expect("a client");
        let mut out = BytesMut::new();
        let connack = Packet::ConnAck(Box::<ConnAck>::default());
        encode(&connack, Version::V5, &mut out);
        node.write_all(&out).await.expect("written");
        let (mut wire, first) = opened.await.expect("no panic").expect("connected");
        assert!(matches!(first, Packet::ConnAck(_)), "{first:?}");

        out.clear();
        for _ in 0..500 {
            encode(&Packet::PingResp, Version::V5, &mut out);
        }
        let away = Disconnect {
            reason: ReasonCode::UseAnotherServer,
            ..Disconnect::default()
        };
        encode(&Packet::Disconnect(Box::new(away)), Version::V5, &mut out);
        node.write_all(&out).await.expect("written");
        drop(node);
        wire.stream.readable().await.expect("it came");

        wire.read_more().await.expect("it came");
        let mut last = None;
        while let Some(packet) = wire.next_packet().expect("MQTT") {
            last = Some(packet);
        }
        assert!(matches!(last, Some(Packet::Disconnect(_))), "{last:?}");
    }
}
