//! The network of a node that runs: TCP, under TLS where it has certificates.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use cluster_core::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::net::{ByteStream, Listen, Net};
use super::tcp::{TcpListening, TcpNet};
use super::tls::{TlsLinkStream, TlsListening, TlsNet};

/// TCP with or without TLS; the peers of a node do the same.
#[derive(Clone)]
pub enum PeerNet {
    /// Whoever reaches the port may speak.
    Plain(TcpNet),
    /// Both sides show certificates.
    Tls(TlsNet),
}

/// A listening socket.
pub enum PeerListening {
    /// Without TLS.
    Plain(TcpListening),
    /// With it.
    Tls(TlsListening),
}

/// A connection.
pub enum PeerStream {
    /// Without TLS.
    Plain(TcpStream),
    /// With it.
    Tls(Box<TlsLinkStream>),
}

impl Net for PeerNet {
    type Stream = PeerStream;
    type Listener = PeerListening;

    async fn connect(&self, address: &str) -> io::Result<PeerStream> {
        Ok(match self {
            Self::Plain(net) => PeerStream::Plain(net.connect(address).await?),
            Self::Tls(net) => PeerStream::Tls(Box::new(net.connect(address).await?)),
        })
    }

    async fn listen(&self, address: &str) -> io::Result<PeerListening> {
        Ok(match self {
            Self::Plain(net) => PeerListening::Plain(net.listen(address).await?),
            Self::Tls(net) => PeerListening::Tls(net.listen(address).await?),
        })
    }
}

impl Listen for PeerListening {
    type Stream = PeerStream;
    type Opening = Pin<Box<dyn Future<Output = io::Result<PeerStream>> + Send>>;

    async fn accept(&mut self) -> io::Result<(Self::Opening, String)> {
        match self {
            Self::Plain(listening) => {
                let (opening, from) = listening.accept().await?;
                let opening = async { opening.await.map(PeerStream::Plain) };
                Ok((Box::pin(opening), from))
            }
            Self::Tls(listening) => {
                let (opening, from) = listening.accept().await?;
                let opening = async { Ok(PeerStream::Tls(Box::new(opening.await?))) };
                Ok((Box::pin(opening), from))
            }
        }
    }

    fn local_address(&self) -> io::Result<String> {
        match self {
            Self::Plain(listening) => listening.local_address(),
            Self::Tls(listening) => listening.local_address(),
        }
    }
}

impl ByteStream for PeerStream {
    fn certified(&self) -> Option<NodeId> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.certified(),
        }
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buf),
        }
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
