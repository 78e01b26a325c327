//! All links of a node: who listens, who dials, and the handle to ask peers by.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cluster_core::{FeatureLevel, FolderId, NodeId, StartCount};
use runtime::{Clock, Random};
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinError, JoinSet};

use super::config::LinkConfig;
use super::connection::Ended;
use super::counters::LinkCounters;
use super::dialer;
use super::frame::CloseReason;
use super::greet::Trouble;
use super::greeting::NodeIdentity;
use super::handshake::{Rejected, Roster};
use super::join::Applicants;
use super::lane::Lane;
use super::listener::{self, Lines};
use super::net::{Listen, Net};
use super::peer::{Peer, PeerState, PeerStatus};
use super::service::{Event, Service};
use super::session::Pace;
use super::stream::LinkStream;

/// How long accepting pauses when it fails, for instance because no descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a stop waits for the last frames.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// What a node's links are made of.
pub struct LinkParts {
    /// Bounds.
    pub config: LinkConfig,
    /// Who this node is.
    pub identity: NodeIdentity,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// Where jitter and nonces come from.
    pub random: Random,
    /// Who is asked.
    pub service: Arc<dyn Service>,
}

/// What all connections share.
pub(super) struct Shared {
    pub(super) config: LinkConfig,
    pub(super) counters: LinkCounters,
    pub(super) service: Arc<dyn Service>,
    clock: Arc<dyn Clock>,
    random: Mutex<Random>,
    roster: Mutex<Roster>,
    /// At most as many as the roster has nodes, and those that were set.
    peers: Mutex<BTreeMap<NodeId, Arc<PeerState>>>,
    changed: Notify,
    stopping: AtomicBool,
    lines: Mutex<Lines>,
    pub(super) applicants: Arc<Applicants>,
}

impl Shared {
    pub(super) fn now_ms(&self) -> u64 {
        self.clock.mono_ms()
    }

    pub(super) fn roster(&self) -> MutexGuard<'_, Roster> {
        lock(&self.roster)
    }

    pub(super) fn draw<T>(&self, draw: impl FnOnce(&mut Random) -> T) -> T {
        draw(&mut lock(&self.random))
    }

    pub(super) fn nonce(&self) -> u128 {
        self.draw(|random| u128::from(random.next_u64()) << 64 | u128::from(random.next_u64()))
    }

    pub(super) fn pace(&self, lane: Lane) -> Pace {
        let limits = self.config.lane(lane);
        Pace {
            ping_interval_ms: limits.ping_interval_ms,
            silence_limit_ms: limits.silence_limit_ms,
            turn_bytes: self.config.turn_bytes,
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(super) fn peer_or_new(&self, node: NodeId) -> Arc<PeerState> {
        let mut peers = lock(&self.peers);
        let peer = peers.entry(node).or_insert_with(|| PeerState::new(node));
        Arc::clone(peer)
    }

    pub(super) fn may_say(&self) -> bool {
        let may = lock(&self.lines).may_say(self.now_ms());
        if !may {
            self.counters.lines_suppressed_total.add(1);
        }
        may
    }

    /// Takes note of a handshake that ended badly.
    pub(super) fn handle_rejected(&self, address: &str, dialed: bool, rejected: Rejected) {
        let (here, refusal) = match rejected {
            Rejected::Ours(refusal) => (true, refusal),
            Rejected::Theirs(refusal) => (false, refusal),
        };
        if here {
            self.counters.refused_here_total.add(1);
        } else {
            self.counters.refused_there_total.add(1);
        }
        self.service.handle_event(Event::Refused {
            address: address.to_owned(),
            dialed,
            here,
            refusal,
        });
    }

    /// Takes note of a connection that ended.
    pub(super) fn handle_ended(&self, peer: &PeerState, lane: Lane, dialed: bool, why: Ended) {
        let node = peer.node;
        match why {
            Ended::Silent { .. } => self.counters.silent_total.add(1),
            Ended::Malformed(_) | Ended::Violation(_) => self.counters.violations_total.add(1),
            _ => {}
        }
        if dialer::is_trouble(why) && self.may_say() {
            tracing::warn!(%node, %lane, dialed, reason = %why, "link down");
        } else {
            tracing::debug!(%node, %lane, dialed, reason = %why, "link down");
        }
        self.service.handle_event(Event::Down {
            node,
            lane,
            dialed,
            why,
        });
    }

    fn peers(&self) -> Vec<Arc<PeerState>> {
        lock(&self.peers).values().cloned().collect()
    }
}

/// The links of a node, as its other parts see them. Cheap to clone.
#[derive(Clone)]
pub struct Links {
    shared: Arc<Shared>,
    opener: Arc<dyn OpenStream>,
    address: Arc<str>,
}

/// Listens and dials. Runs until it is stopped.
pub struct LinkService<N: Net> {
    shared: Arc<Shared>,
    net: Arc<N>,
    listener: N::Listener,
}

/// A task of the links panicked: its supervisor decides.
#[derive(Debug, thiserror::Error)]
#[error("a task of the links panicked: {0}")]
pub struct Broken(JoinError);

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
#[error("no stream to node {node}: {why}")]
pub struct NoStream {
    node: NodeId,
    why: String,
}

impl Links {
    /// Listens on an address; nothing is accepted and nobody dialed before
    /// [`LinkService::run`].
    ///
    /// # Errors
    /// What the network says, for instance that the address is taken.
    pub async fn bind<N: Net>(
        net: N,
        listen: &str,
        parts: LinkParts,
    ) -> io::Result<(Self, LinkService<N>)> {
        let net = Arc::new(net);
        let listener = net.listen(listen).await?;
        let address = listener.local_address()?.into();
        let shared = Arc::new(Shared {
            config: parts.config,
            counters: LinkCounters::default(),
            service: parts.service,
            clock: parts.clock,
            random: Mutex::new(parts.random),
            roster: Mutex::new(Roster::new(parts.identity)),
            peers: Mutex::default(),
            changed: Notify::new(),
            stopping: AtomicBool::new(false),
            lines: Mutex::default(),
            applicants: Arc::default(),
        });
        let links = Self {
            shared: Arc::clone(&shared),
            opener: Arc::new(Opener(Arc::clone(&net))),
            address,
        };
        let service = LinkService {
            shared,
            net,
            listener,
        };
        Ok((links, service))
    }

    /// The address that others may dial, with the port that was found.
    pub fn local_address(&self) -> &str {
        &self.address
    }

    /// Dials a node from now on, and again whenever the connection ends; a new address replaces the
    /// old one at the next attempt. Nothing happens for a node that was removed.
    ///
    /// # Panics
    /// If the node is this one.
    pub fn set_peer(&self, node: NodeId, address: &str) {
        assert_ne!(
            node,
            self.shared.roster().own().node,
            "a node is not its peer"
        );
        self.shared.peer_or_new(node).set_address(address);
        self.shared.changed.notify_one();
    }

    /// Ends every connection with a node that left the cluster, and refuses it from now on.
    pub fn remove_peer(&self, node: NodeId) {
        self.shared.roster().remove(node);
        let peer = self.shared.peer_or_new(node);
        peer.remove();
    }

    /// Takes note of what the meta group says of a member, so that another folder or an earlier run
    /// under its number is refused.
    pub fn learn(&self, node: NodeId, folder: FolderId, start: StartCount) {
        self.shared.roster().learn(node, folder, start);
    }

    /// Takes note of the feature level that is in use from now on. Open connections stay.
    pub fn set_level(&self, level: FeatureLevel) {
        self.shared.roster().set_level(level);
    }

    /// Takes note that this node has counted another start of itself: peers that know of it by meta
    /// refuse the one before. Open connections stay.
    pub fn set_start(&self, start: StartCount) {
        self.shared.roster().set_start(start);
    }

    /// A peer that was set, or that dialed this node.
    pub fn peer(&self, node: NodeId) -> Option<Peer> {
        let state = lock(&self.shared.peers).get(&node).cloned()?;
        let shared = Arc::clone(&self.shared);
        Some(Peer { shared, state })
    }

    /// How every peer is reached, by number.
    pub fn statuses(&self) -> Vec<PeerStatus> {
        let now_ms = self.shared.now_ms();
        let peers = self.shared.peers();
        peers.iter().map(|peer| peer.status(now_ms)).collect()
    }

    /// What was done so far.
    pub fn counters(&self) -> &LinkCounters {
        &self.shared.counters
    }

    /// Opens a connection without frames to a peer. It is not opened again when it ends.
    ///
    /// # Errors
    /// Says why there is none.
    pub async fn open_stream(&self, node: NodeId) -> Result<LinkStream, NoStream> {
        let failed = |why: String| NoStream { node, why };
        let peer = self.peer(node).map(|peer| peer.state);
        let peer = peer.ok_or_else(|| failed("the peer is not known".to_owned()))?;
        let opened = self.opener.open(Arc::clone(&self.shared), peer).await;
        opened.map_err(|trouble| failed(trouble.to_string()))
    }
}

impl<N: Net> LinkService<N> {
    /// Accepts and dials until `stop` is ready; then tells the peers and ends every connection,
    /// within a second.
    ///
    /// # Errors
    /// A task panicked; every connection is ended. What one connection's service panics about ends
    /// that connection alone.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), Broken> {
        let shared = &self.shared;
        let handshakes = Arc::new(Semaphore::new(shared.config.handshakes_max));
        let mut dialers = JoinSet::new();
        // Bounded by `handshakes_max`, and by a connection a lane of each node of the roster.
        let mut accepted = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            for peer in shared.peers() {
                if peer.wants_dialers() {
                    for lane in Lane::FRAMED {
                        let (shared, net) = (Arc::clone(shared), Arc::clone(&self.net));
                        dialers.spawn(dialer::keep(shared, net, Arc::clone(&peer), lane));
                    }
                }
            }
            tokio::select! {
                () = &mut stop => break,
                () = shared.changed.notified() => {}
                Some(done) = dialers.join_next() => done.map_err(Broken)?,
                Some(done) = accepted.join_next() => {
                    if let Err(error) = done {
                        tracing::error!(%error, "a connection ended by a panic");
                    }
                }
                incoming = self.listener.accept() => match incoming {
                    Ok((opening, address)) => match Arc::clone(&handshakes).try_acquire_owned() {
                        Ok(permit) => {
                            let shared = Arc::clone(shared);
                            let serve =
                                listener::serve::<N::Listener>(shared, opening, address, permit);
                            accepted.spawn(serve);
                        }
                        // The newest goes: those who greet have begun.
                        Err(_) => shared.counters.crowded_total.add(1),
                    },
                    Err(error) => {
                        if shared.may_say() {
                            tracing::warn!(%error, "no connection can be accepted");
                        }
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(self.listener);
        shared.stopping.store(true, Ordering::Release);
        for peer in shared.peers() {
            peer.close(CloseReason::Stopping);
            peer.redial.notify_waiters();
        }
        let ended = async {
            while dialers.join_next().await.is_some() {}
            while accepted.join_next().await.is_some() {}
        };
        // What is left then is cut off.
        let _ = tokio::time::timeout(STOP_PATIENCE, ended).await;
        Ok(())
    }
}

type Opened = Pin<Box<dyn Future<Output = Result<LinkStream, Trouble>> + Send>>;

/// Opens streams by a network whose type is not named.
trait OpenStream: Send + Sync {
    fn open(&self, shared: Arc<Shared>, peer: Arc<PeerState>) -> Opened;
}

struct Opener<N>(Arc<N>);

impl<N: Net> OpenStream for Opener<N> {
    fn open(&self, shared: Arc<Shared>, peer: Arc<PeerState>) -> Opened {
        let net = Arc::clone(&self.0);
        Box::pin(async move {
            let nowhere = || io::Error::new(io::ErrorKind::AddrNotAvailable, "no address is known");
            let address = peer.address();
            let address = address.ok_or_else(|| Trouble::Connect(nowhere()))?;
            let dialed = dialer::dial(&shared, &*net, &peer, Lane::Stream, &address).await;
            if let Err(Trouble::Rejected(rejected)) = &dialed {
                shared.handle_rejected(&address, true, *rejected);
            }
            let (stream, _, rest) = dialed?;
            Ok(LinkStream::new(stream, rest, None))
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
