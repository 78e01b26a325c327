//! Turmoil's network as links see it. Whatever a node reads is noted.

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tidewire_cluster::link::{ByteStream, Listen, Net};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

use super::record::Record;

const PORT: u16 = 7000;

/// The name of a simulated machine; also its address.
pub(crate) fn address(node: u32) -> String {
    format!("node-{node}")
}

/// The network, at one node.
#[derive(Clone)]
pub(crate) struct SimNet {
    pub(crate) record: Record,
    pub(crate) node: u32,
}

pub(crate) struct SimListener {
    listener: TcpListener,
    net: SimNet,
}

pub(crate) struct SimStream {
    stream: TcpStream,
    net: SimNet,
}

impl Net for SimNet {
    type Stream = SimStream;
    type Listener = SimListener;

    async fn connect(&self, address: &str) -> io::Result<SimStream> {
        match TcpStream::connect((address, PORT)).await {
            Ok(stream) => Ok(SimStream {
                stream,
                net: self.clone(),
            }),
            // Turmoil drops what goes into a partition, and then says at once that nobody listens.
            // A network says nothing: whoever dials is told by his own patience.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                if self.record.is_cut(self.node, address) {
                    return std::future::pending().await;
                }
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    async fn listen(&self, _: &str) -> io::Result<SimListener> {
        let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
        Ok(SimListener {
            listener,
            net: self.clone(),
        })
    }
}

impl Listen for SimListener {
    type Stream = SimStream;
    type Opening = Ready<io::Result<SimStream>>;

    async fn accept(&mut self) -> io::Result<(Self::Opening, String)> {
        let (stream, from) = self.listener.accept().await?;
        let net = self.net.clone();
        Ok((ready(Ok(SimStream { stream, net })), from.to_string()))
    }

    fn local_address(&self) -> io::Result<String> {
        Ok(address(self.net.node))
    }
}

impl ByteStream for SimStream {}

impl AsyncRead for SimStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buf);
        if let Poll::Ready(Ok(())) = &read {
            let bytes = &buf.filled()[before..];
            this.net.record.delivered(this.net.node, bytes);
        }
        read
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
