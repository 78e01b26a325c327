//! A client's connection: packets of MQTT 3.1.1 out and in.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use mqttbytes::v4::{Connect, ConnectReturnCode, Packet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::ledger;

/// Time for the TCP connect and, separately, for CONNACK.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for a write; a peer that takes nothing for so long counts as gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// Largest packet a client takes from the node.
const PACKET_BYTES_MAX: usize = 64 * 1024;

/// Says why one connection ended. Its client goes on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0} took too long")]
    Slow(&'static str),
    #[error("the node closed the connection")]
    Closed,
    #[error("the node refused the connection: {0:?}")]
    Refused(ConnectReturnCode),
    #[error("the node sent what is no packet: {0:?}")]
    Malformed(mqttbytes::Error),
    #[error("the node sent an unexpected packet: {0}")]
    Unexpected(&'static str),
    #[error(transparent)]
    Ledger(ledger::Error),
}

/// Is an established connection.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    received: BytesMut,
    /// What [`Wire::flush`] writes.
    pub(crate) out: BytesMut,
    /// When something was written last.
    pub(crate) last_write: Instant,
    /// Whether the node had the client's session.
    pub(crate) is_resumed: bool,
}

impl Wire {
    /// Connects and waits for CONNACK.
    pub(crate) async fn open(address: SocketAddr, connect: &Connect) -> Result<Self, Lost> {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
            .await
            .map_err(|_| Lost::Slow("connect"))??;
        stream.set_nodelay(true)?;
        let mut wire = Self {
            stream,
            received: BytesMut::new(),
            out: BytesMut::new(),
            last_write: Instant::now(),
            is_resumed: false,
        };
        connect.write(&mut wire.out).map_err(Lost::Malformed)?;
        wire.flush().await?;
        let first = timeout(CONNECT_TIMEOUT, wire.read_packet())
            .await
            .map_err(|_| Lost::Slow("CONNACK"))??;
        match first {
            Packet::ConnAck(connack) if connack.code == ConnectReturnCode::Success => {
                wire.is_resumed = connack.session_present;
                Ok(wire)
            }
            Packet::ConnAck(connack) => Err(Lost::Refused(connack.code)),
            _ => Err(Lost::Unexpected("another before CONNACK")),
        }
    }

    /// Writes what was put out.
    pub(crate) async fn flush(&mut self) -> Result<(), Lost> {
        if self.out.is_empty() {
            return Ok(());
        }
        timeout(WRITE_TIMEOUT, self.stream.write_all(&self.out))
            .await
            .map_err(|_| Lost::Slow("a write"))??;
        self.out.clear();
        self.last_write = Instant::now();
        Ok(())
    }

    /// Sends DISCONNECT. The client has nothing more to say: an error now changes nothing for it.
    pub(crate) async fn disconnect(&mut self, client_id: &str) -> Result<(), Lost> {
        mqttbytes::v4::Disconnect
            .write(&mut self.out)
            .map_err(Lost::Malformed)?;
        if let Err(lost) = self.flush().await {
            tracing::debug!(client_id, %lost, "DISCONNECT was not sent");
        }
        Ok(())
    }

    /// Waits for more bytes. Cancel-safe.
    pub(crate) async fn read_more(&mut self) -> Result<(), Lost> {
        match self.stream.read_buf(&mut self.received).await? {
            0 => Err(Lost::Closed),
            _ => Ok(()),
        }
    }

    /// Waits for a whole packet. Cancel-safe.
    pub(crate) async fn read_packet(&mut self) -> Result<Packet, Lost> {
        loop {
            if let Some(packet) = self.next_packet()? {
                return Ok(packet);
            }
            self.read_more().await?;
        }
    }

    /// Takes a packet out of what was received; `None` while it is incomplete.
    pub(crate) fn next_packet(&mut self) -> Result<Option<Packet>, Lost> {
        let before = self.received.len();
        match mqttbytes::v4::read(&mut self.received, PACKET_BYTES_MAX) {
            Ok(packet) => Ok(Some(packet)),
            // The decoder says this of complete but wrong packets too, and has then taken them
            // out of the buffer.
            Err(mqttbytes::Error::InsufficientBytes(_)) if self.received.len() == before => {
                Ok(None)
            }
            Err(error) => Err(Lost::Malformed(error)),
        }
    }
}
