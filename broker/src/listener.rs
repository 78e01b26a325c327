//! The accepting actor: asks the gate about each socket, and deals it once, to the io thread with
//! the fewest connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use runtime::{Clock, ractor};
use session::MonoMs;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::admission::{Decision, Gate, Rates, Refusal, Refusals};
use crate::counters::Counters;
use crate::io::{Arrival, IoMessage, Threads};

/// How long accepting pauses when the process has no descriptor left, or too many are refused.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections of one address.
pub(crate) struct Listener {
    pub(crate) socket: Arc<TcpListener>,
    pub(crate) threads: Threads,
    pub(crate) counters: Vec<Arc<Counters>>,
    /// Connections that the node accepted, wrapping; it outlives a listener that panics.
    pub(crate) accepted: Arc<AtomicU32>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rates: Rates,
    pub(crate) refusals: Arc<Refusals>,
}

/// What a listener knows of the sockets that it accepted.
pub(crate) struct Accepted {
    gate: Gate,
    /// Sockets dealt to each thread since the node began.
    dealt: Vec<u64>,
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
    type State = Accepted;
    type Arguments = ();

    async fn pre_start(
        &self,
        me: ActorRef<Accept>,
        (): (),
    ) -> Result<Accepted, ActorProcessingErr> {
        me.cast(Accept)?;
        let accepted = self.counters.iter();
        Ok(Accepted {
            gate: Gate::new(self.rates),
            dealt: accepted
                .map(|of| of.connections_accepted_total.get())
                .collect(),
        })
    }

    async fn handle(
        &self,
        me: ActorRef<Accept>,
        _: Accept,
        accepted: &mut Accepted,
    ) -> Result<(), ActorProcessingErr> {
        match self.socket.accept().await {
            Ok((socket, peer)) => self.admit(socket, peer, accepted).await,
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
    async fn admit(&self, socket: TcpStream, peer: SocketAddr, accepted: &mut Accepted) {
        let now = MonoMs(self.clock.mono_ms());
        let decision = accepted.gate.handle_socket(peer.ip(), now);
        if let Decision::Tell(refusal) | Decision::Close { refusal, .. } = decision {
            self.refusals.count(refusal, now);
        }
        let refusal = match decision {
            Decision::Admit => None,
            Decision::Tell(refusal) => Some(refusal),
            Decision::Close { pauses, .. } => {
                // With RST: nothing of it is kept, by the kernel neither.
                if let Err(error) = SockRef::from(&socket).set_linger(Some(Duration::ZERO)) {
                    tracing::debug!(%peer, %error, "the connection ended before it began");
                }
                drop(socket);
                if pauses {
                    tokio::time::sleep(PAUSE).await;
                }
                return;
            }
        };
        self.deal(socket, peer, refusal, &mut accepted.dealt).await;
    }

    async fn deal(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        refusal: Option<Refusal>,
        dealt: &mut [u64],
    ) {
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
        let arrival = Arrival {
            socket,
            peer,
            number,
            refusal,
        };
        self.threads
            .send(thread, IoMessage::Accepted(arrival))
            .await;
    }
}
