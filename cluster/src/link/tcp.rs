//! The network as TCP without TLS.

use std::future::{Ready, ready};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::net::{ByteStream, Listen, Net};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1_024;
/// When a silent connection is probed, and how often then. Framed lanes have their pings; this is
/// for the lane without frames.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// TCP; whoever reaches the port may speak. By default the system chooses the address from which it
/// dials.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpNet {
    from: Option<IpAddr>,
}

impl TcpNet {
    /// Dials from the address that the node listens at, so that peers, their logs and the rules of a
    /// firewall know it by one address. An unspecified one leaves the choice to the system.
    #[must_use]
    pub fn listening_at(listen: IpAddr) -> Self {
        Self {
            from: (!listen.is_unspecified()).then_some(listen),
        }
    }

    async fn dial(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = match to {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if let Some(from) = self.from.filter(|from| from.is_ipv4() == to.is_ipv4()) {
            socket.bind(SocketAddr::new(from, 0))?;
        }
        socket.connect(to).await
    }
}

/// A listening socket.
#[derive(Debug)]
pub struct TcpListening(TcpListener);

impl Net for TcpNet {
    type Stream = TcpStream;
    type Listener = TcpListening;

    async fn connect(&self, address: &str) -> io::Result<TcpStream> {
        let mut last = no_address();
        for to in tokio::net::lookup_host(address).await? {
            match self.dial(to).await {
                Ok(stream) => return prepare(&stream).map(|()| stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn listen(&self, address: &str) -> io::Result<TcpListening> {
        let mut last = no_address();
        for address in tokio::net::lookup_host(address).await? {
            match listen(address) {
                Ok(listener) => return Ok(TcpListening(listener)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl Listen for TcpListening {
    type Stream = TcpStream;
    type Opening = Ready<io::Result<TcpStream>>;

    async fn accept(&mut self) -> io::Result<(Self::Opening, String)> {
        let (stream, from) = self.0.accept().await?;
        Ok((ready(prepare(&stream).map(|()| stream)), from.to_string()))
    }

    fn local_address(&self) -> io::Result<String> {
        Ok(self.0.local_addr()?.to_string())
    }
}

impl ByteStream for TcpStream {}

fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address")
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A node that was killed and starts again must get its port back at once.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    // A turn is written whole; there is nothing to wait for.
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}
