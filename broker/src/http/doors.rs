//! Connections of the admin HTTP: so many at a time, and none for ever.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

/// How long a connection may say and take nothing before it is closed: longer than scrapes are apart
/// and answers take, or who keeps connections open would keep others out.
const IDLE_MAX: Duration = Duration::from_secs(300);

/// Accepts connections while there is room; others wait in the kernel.
pub(crate) struct Doors {
    socket: TcpListener,
    room: Arc<Semaphore>,
    idle_max: Duration,
}

impl Doors {
    pub(crate) fn new(socket: TcpListener, connections_limit: usize) -> Self {
        Self {
            socket,
            room: Arc::new(Semaphore::new(
                connections_limit.min(Semaphore::MAX_PERMITS),
            )),
            idle_max: IDLE_MAX,
        }
    }
}

impl Listener for Doors {
    type Io = Door;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Door, SocketAddr) {
        let room = Arc::clone(&self.room).acquire_owned().await;
        let room = room.expect("nobody closes it");
        let (stream, peer) = Listener::accept(&mut self.socket).await;
        let door = Door {
            stream,
            idle: Box::pin(sleep(self.idle_max)),
            idle_max: self.idle_max,
            _room: room,
        };
        (door, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// One connection, and its part of the room.
pub(crate) struct Door {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    idle_max: Duration,
    _room: OwnedSemaphorePermit,
}

impl Door {
    /// Something came or went: the time begins anew.
    fn used(&mut self) {
        self.idle.set(sleep(self.idle_max));
    }
}

impl AsyncRead for Door {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let door = self.get_mut();
        // While it answers, hyper reads on to notice the end of the connection.
        if let Poll::Ready(read) = Pin::new(&mut door.stream).poll_read(context, buffer) {
            door.used();
            return Poll::Ready(read);
        }
        ready!(door.idle.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Door {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let door = self.get_mut();
        let written = ready!(Pin::new(&mut door.stream).poll_write(context, bytes));
        door.used();
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let door = self.get_mut();
        let written = ready!(Pin::new(&mut door.stream).poll_write_vectored(context, slices));
        door.used();
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    async fn doors(limit: usize, idle_max: Duration) -> Doors {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Doors {
            idle_max,
            ..Doors::new(socket, limit)
        }
    }

    #[tokio::test]
    async fn a_connection_more_waits_until_one_has_ended() {
        let mut doors = doors(1, IDLE_MAX).await;
        let address = doors.local_addr().expect("bound");
        let _clients = (
            TcpStream::connect(address).await.expect("the first"),
            TcpStream::connect(address).await.expect("the second"),
        );
        let (first, _) = doors.accept().await;

        let mut accepting = Looked(Box::pin(doors.accept()));
        assert!(accepting.poll().is_pending());
        drop(first);
        accepting.until_ready().await;
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_is_closed() {
        let mut doors = doors(1, Duration::from_millis(1)).await;
        let address = doors.local_addr().expect("bound");
        let _client = TcpStream::connect(address).await.expect("there is room");
        let (mut door, _) = doors.accept().await;

        let read = door.read_u8().await.expect_err("nothing comes");

        assert_eq!(read.kind(), io::ErrorKind::TimedOut);
    }

    /// A future that can be looked at once.
    struct Looked<F>(Pin<Box<F>>);

    impl<F: Future> Looked<F> {
        fn poll(&mut self) -> Poll<F::Output> {
            self.0
                .as_mut()
                .poll(&mut Context::from_waker(std::task::Waker::noop()))
        }

        async fn until_ready(self) -> F::Output {
            self.0.await
        }
    }
}
