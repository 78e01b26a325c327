//! The accepting actor: deals each socket once, to the io thread with the fewest connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use runtime::ractor;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::counters::Counters;
use crate::io::{IoMessage, Threads};

/// How long accepting pauses when the process has no descriptor left.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections of one address.
pub(crate) struct Listener {
    pub(crate) socket: Arc<TcpListener>,
    pub(crate) threads: Threads,
    pub(crate) counters: Vec<Arc<Counters>>,
    /// Connections that the node accepted, wrapping; it outlives a listener that panics.
    pub(crate) accepted: Arc<AtomicU32>,
}

/// Binds an address.
///
/// # Errors
/// What the operating system says, for instance that the port is taken.
pub(crate) fn bind(address: SocketAddr, backlog: u32) -> std::io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A node that was killed and starts again must get its port back at once.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    TcpListener::from_std(socket.into())
}

/// Accept the next one; the actor tells it itself, so that a stop comes between two.
pub(crate) struct Accept;

impl ractor::Message for Accept {}

impl Actor for Listener {
    type Msg = Accept;
    /// Sockets dealt to each thread since the node began.
    type State = Vec<u64>;
    type Arguments = ();

    async fn pre_start(
        &self,
        me: ActorRef<Accept>,
        (): (),
    ) -> Result<Vec<u64>, ActorProcessingErr> {
        me.cast(Accept)?;
        let accepted = self.counters.iter();
        Ok(accepted
            .map(|of| of.connections_accepted_total.get())
            .collect())
    }

    async fn handle(
        &self,
        me: ActorRef<Accept>,
        _: Accept,
        dealt: &mut Vec<u64>,
    ) -> Result<(), ActorProcessingErr> {
        match self.socket.accept().await {
            Ok((socket, peer)) => self.deal(socket, peer, dealt).await,
            Err(error) => {
                // Usually EMFILE: the connection waits in the backlog meanwhile.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
        me.cast(Accept)?;
        Ok(())
    }
}

impl Listener {
    async fn deal(&self, socket: tokio::net::TcpStream, peer: SocketAddr, dealt: &mut [u64]) {
        // Small packets must not wait for each other's acknowledgements.
        let prepared = socket.set_nodelay(true).and_then(|()| socket.into_std());
        let socket = match prepared {
            Ok(socket) => socket,
            Err(error) => {
                tracing::debug!(%peer, %error, "the connection ended before it began");
                return;
            }
        };
        // Those on their way to a thread count as well, or a storm would all go to one.
        let load = |thread: usize| {
            let counters = &self.counters[thread];
            let on_their_way =
                dealt[thread].saturating_sub(counters.connections_accepted_total.get());
            on_their_way + counters.connections_open.get()
        };
        let thread = (0..self.threads.len())
            .min_by_key(|thread| load(*thread))
            .expect("a node has an io thread");
        dealt[thread] += 1;
        let number = self.accepted.fetch_add(1, Ordering::Relaxed);
        self.threads
            .send(thread, IoMessage::Accepted(socket, peer, number))
            .await;
    }
}
