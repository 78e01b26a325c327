//! The network as links see it, so that a simulation can take its place.

use std::future::Future;
use std::io;

use cluster_core::NodeId;
use tokio::io::{AsyncRead, AsyncWrite};

/// A way to other nodes: real, in memory, or simulated.
pub trait Net: Send + Sync + 'static {
    /// A connection.
    type Stream: ByteStream;
    /// Where connections come in.
    type Listener: Listen<Stream = Self::Stream>;

    /// Connects to an address of another node. Its caller bounds the time.
    ///
    /// # Errors
    /// What the network says, for instance that nobody listens there.
    fn connect(&self, address: &str) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Listens on an address of this node.
    ///
    /// # Errors
    /// What the network says, for instance that the address is taken.
    fn listen(&self, address: &str) -> impl Future<Output = io::Result<Self::Listener>> + Send;
}

/// Where connections come in.
pub trait Listen: Send + 'static {
    /// A connection.
    type Stream: ByteStream;
    /// What is left to do before bytes can be read, a TLS handshake for instance. Its caller bounds
    /// the time, so that one who dials and is silent keeps nobody waiting.
    type Opening: Future<Output = io::Result<Self::Stream>> + Send + 'static;

    /// The next connection, and who dialed, for logs. Cancel-safe.
    ///
    /// # Errors
    /// What the network says; the next one may be good.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Opening, String)>> + Send;

    /// The address that others may dial, with the port that was found for port 0.
    ///
    /// # Errors
    /// What the network says.
    fn local_address(&self) -> io::Result<String>;
}

/// A connection: bytes in order, both ways.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// The node number that the other side's certificate names, where there are certificates.
    fn certified(&self) -> Option<NodeId> {
        None
    }
}
