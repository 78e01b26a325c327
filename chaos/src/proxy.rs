//! Ways between nodes on which everything comes later: each node is dialed at a proxy, which dials it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Pieces of a stream that are on their way, one way, at most; behind them the sender waits.
const UNDER_WAY_MAX: usize = 256;
/// Bytes of a piece.
const PIECE_BYTES: usize = 64 << 10;
/// Connections through one proxy at a time.
const CONNECTIONS_MAX: usize = 256;

/// Is the way to one node; dropped, its connections end.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// Where others dial.
    pub(crate) address: SocketAddr,
    delay_us: Arc<AtomicU64>,
    _serving: JoinSet<()>,
}

impl Proxy {
    /// Listens at `at` and leads to `node`.
    ///
    /// # Errors
    /// What the system says of the listener.
    pub(crate) async fn open(at: SocketAddr, node: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(at).await?;
        let address = listener.local_addr()?;
        let delay_us = Arc::new(AtomicU64::new(0));
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, node, Arc::clone(&delay_us)));
        Ok(Self {
            address,
            delay_us,
            _serving: serving,
        })
    }

    /// Has everything come so much later from now on, each way.
    pub(crate) fn delay(&self, delay: Duration) {
        let us = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        self.delay_us.store(us, Ordering::Relaxed);
    }
}

async fn serve(listener: TcpListener, node: SocketAddr, delay_us: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                match accepted {
                    Ok((stream, from)) => {
                        connections.spawn(lead(stream, from.ip(), node, Arc::clone(&delay_us)));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a proxy cannot accept");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Leads one connection until either side ends it.
async fn lead(stream: TcpStream, from: IpAddr, node: SocketAddr, delay_us: Arc<AtomicU64>) {
    let onward = match dial(from, node).await {
        Ok(onward) => onward,
        Err(error) => {
            tracing::debug!(%node, %error, "a proxy cannot dial");
            return;
        }
    };
    for side in [&stream, &onward] {
        if let Err(error) = side.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
    }
    let (there_in, back_out) = stream.into_split();
    let (back_in, there_out) = onward.into_split();
    // Either end is the end of both: a link between nodes has no half.
    tokio::select! {
        () = pass(there_in, there_out, Arc::clone(&delay_us)) => {}
        () = pass(back_in, back_out, delay_us) => {}
    }
}

/// Dials from the address of who dialed, so that the packets say between whom they go.
async fn dial(from: IpAddr, node: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(node).await
}

/// Passes one way on until its sender ends it, and what is under way then.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay_us: Arc<AtomicU64>) {
    let (put, mut take) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY_MAX);
    let reading = async move {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let delay = Duration::from_micros(delay_us.load(Ordering::Relaxed));
            let piece = (Instant::now() + delay, buffer[..count].to_vec());
            if put.send(piece).await.is_err() {
                break;
            }
        }
    };
    let writing = async move {
        while let Some((due, piece)) = take.recv().await {
            sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(reading, writing);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[tokio::test]
    async fn what_goes_through_comes_as_it_was_and_later() {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let node = TcpListener::bind(loopback).await.expect("a port");
        let address = node.local_addr().expect("bound");
        let proxy = Proxy::open(loopback, address).await.expect("a port");
        let delay = Duration::from_millis(50);
        proxy.delay(delay);

        let mut client = TcpStream::connect(proxy.address).await.expect("listens");
        let (mut served, _) = node.accept().await.expect("dialed");
        let begun = Instant::now();
        client.write_all(b"there").await.expect("sent");
        let mut got = [0; 5];
        served.read_exact(&mut got).await.expect("came");
        assert_eq!(&got, b"there");
        assert!(begun.elapsed() >= delay);
        served.write_all(b"and b").await.expect("sent");
        client.read_exact(&mut got).await.expect("came");
        assert_eq!(&got, b"and b");
        assert!(begun.elapsed() >= 2 * delay);
    }
}
