//! One peer: its connections, and how one asks it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cluster_core::{NodeId, StartCount};
use tokio::sync::{Notify, oneshot};

use super::connection::Line;
use super::credits::Exceeded;
use super::frame::{CloseReason, Failure};
use super::lane::{Channel, Lane};
use super::links::Shared;
use super::session::{Asked, Unsent};

/// Nothing was ever heard.
const NEVER: u64 = u64::MAX;

/// What links keep of a peer.
pub(super) struct PeerState {
    pub(super) node: NodeId,
    places: Mutex<Places>,
    /// Wakes those who wait to dial again.
    pub(super) redial: Notify,
    /// Streams that the peer has open here.
    pub(super) streams: Arc<AtomicU32>,
    heard_ms: AtomicU64,
    refusals: AtomicU32,
}

#[derive(Default)]
struct Places {
    address: Option<String>,
    is_dialed: bool,
    is_removed: bool,
    start: Option<StartCount>,
    dialed: [Option<Arc<Line>>; 3],
    accepted: [Option<Arc<Line>>; 3],
}

impl Places {
    fn of(&mut self, lane: Lane, dialed: bool) -> &mut Option<Arc<Line>> {
        let lines = if dialed {
            &mut self.dialed
        } else {
            &mut self.accepted
        };
        &mut lines[lane.index()]
    }

    fn lines(&self) -> impl Iterator<Item = &Arc<Line>> {
        self.dialed.iter().chain(&self.accepted).flatten()
    }
}

impl PeerState {
    pub(super) fn new(node: NodeId) -> Arc<Self> {
        Arc::new(Self {
            node,
            places: Mutex::default(),
            redial: Notify::new(),
            streams: Arc::default(),
            heard_ms: AtomicU64::new(NEVER),
            refusals: AtomicU32::new(0),
        })
    }

    /// Where to dial, unless the peer was removed.
    pub(super) fn address(&self) -> Option<String> {
        let places = self.places();
        let address = places.address.clone();
        address.filter(|_| !places.is_removed)
    }

    /// Sets where to dial. Another address than before is dialed at once.
    pub(super) fn set_address(&self, address: &str) {
        let mut places = self.places();
        if places.address.as_deref() != Some(address) {
            places.address = Some(address.to_owned());
            drop(places);
            self.redial.notify_waiters();
        }
    }

    /// Whether somebody has to begin to dial: true once.
    pub(super) fn wants_dialers(&self) -> bool {
        let mut places = self.places();
        let wants = places.address.is_some() && !places.is_dialed && !places.is_removed;
        places.is_dialed |= wants;
        wants
    }

    /// Puts a connection into its place; ends the one that it takes it from. False if the peer was
    /// removed.
    pub(super) fn install(&self, line: &Arc<Line>, dialed: bool, start: StartCount) -> bool {
        let mut places = self.places();
        if places.is_removed {
            return false;
        }
        places.start = places.start.max(Some(start));
        let before = places.of(line.lane, dialed).replace(Arc::clone(line));
        drop(places);
        if let Some(before) = before {
            before.close(CloseReason::Replaced);
        }
        true
    }

    /// Takes a connection out of its place, unless another has taken it.
    pub(super) fn uninstall(&self, line: &Arc<Line>, dialed: bool) {
        let mut places = self.places();
        let place = places.of(line.lane, dialed);
        if place.as_ref().is_some_and(|own| Arc::ptr_eq(own, line)) {
            *place = None;
        }
    }

    /// Ends every connection.
    pub(super) fn close(&self, reason: CloseReason) {
        let lines: Vec<_> = self.places().lines().cloned().collect();
        lines.iter().for_each(|line| line.close(reason));
    }

    /// Ends every connection, and lets no other begin.
    pub(super) fn remove(&self) {
        self.places().is_removed = true;
        self.close(CloseReason::Removed);
        self.redial.notify_waiters();
    }

    pub(super) fn handle_heard(&self, now_ms: u64) {
        self.heard_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Takes note of an attempt to dial: whether nobody listened there.
    pub(super) fn handle_dialed(&self, was_refused: bool) {
        if was_refused {
            self.refusals.fetch_add(1, Ordering::Relaxed);
        } else {
            self.refusals.store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn status(&self, now_ms: u64) -> PeerStatus {
        let heard_ms = self.heard_ms.load(Ordering::Relaxed);
        let places = self.places();
        let lane = |lane: Lane| {
            let dialed = places.dialed[lane.index()].as_ref();
            let accepted = places.accepted[lane.index()].as_ref();
            let queued = |line: &Arc<Line>| line.session().queue_bytes();
            LaneStatus {
                dialed: dialed.is_some(),
                accepted: accepted.is_some(),
                asked: dialed.map_or(0, |line| line.session().open()),
                owed: accepted.map_or(0, |line| line.session().open()),
                queue_bytes: dialed.map_or(0, queued) + accepted.map_or(0, queued),
            }
        };
        let control = places.dialed[Lane::Control.index()].as_ref();
        PeerStatus {
            node: self.node,
            address: places.address.clone(),
            start: places.start,
            silent_ms: (heard_ms != NEVER).then(|| now_ms.saturating_sub(heard_ms)),
            round_trip_ms: control.and_then(|line| line.session().round_trip_ms()),
            connects_refused: self.refusals.load(Ordering::Relaxed),
            lanes: Lane::FRAMED.map(lane),
        }
    }

    fn dialed(&self, lane: Lane) -> Option<Arc<Line>> {
        self.places().of(lane, true).clone()
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a peer is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer.
    pub node: NodeId,
    /// Where it is dialed, if that is known.
    pub address: Option<String>,
    /// Its latest run that greeted.
    pub start: Option<StartCount>,
    /// How long nothing was heard of it, on any connection, in milliseconds; none if it was never
    /// heard.
    pub silent_ms: Option<u64>,
    /// How long the last answered ping of the control lane took, in milliseconds.
    pub round_trip_ms: Option<u64>,
    /// How often in a row nobody listened at its address.
    pub connects_refused: u32,
    /// Of control, requests, bulk.
    pub lanes: [LaneStatus; 3],
}

/// The two connections of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneStatus {
    /// Whether this node can ask.
    pub dialed: bool,
    /// Whether the peer can ask.
    pub accepted: bool,
    /// Requests of this node that are unanswered.
    pub asked: u32,
    /// Requests of the peer that are unanswered.
    pub owed: u32,
    /// Bytes that wait to be written.
    pub queue_bytes: usize,
}

/// What to ask of a peer.
#[derive(Clone, Debug)]
pub struct Ask {
    /// What it is about.
    pub channel: Channel,
    /// What is said.
    pub payload: Bytes,
    /// Bytes to reserve for the reply: a longer one does not come.
    pub reply_bytes_max: u32,
    /// How long the answer may take; 2^32 milliseconds stand for all that is longer.
    pub deadline: Duration,
}

/// Why there is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// There is no connection; the peer was asked nothing.
    #[error("the {lane} lane to node {node} is not connected")]
    NotConnected {
        /// The peer.
        node: NodeId,
        /// The lane.
        lane: Lane,
    },
    /// The peer's grant is taken up, or the request can never fit; the peer was asked nothing.
    #[error("the {lane} lane to node {node} is busy: {why}")]
    Busy {
        /// The peer.
        node: NodeId,
        /// The lane.
        lane: Lane,
        /// Which bound.
        why: Exceeded,
    },
    /// The deadline passed; whether the peer did anything is not known.
    #[error("node {node} gave no answer in time")]
    Deadline {
        /// The peer.
        node: NodeId,
    },
    /// The connection ended; whether the peer did anything is not known.
    #[error("the connection to node {node} ended before the answer")]
    Lost {
        /// The peer.
        node: NodeId,
    },
    /// The peer answered that there is no reply.
    #[error("node {node}: {failure}")]
    Failed {
        /// The peer.
        node: NodeId,
        /// Why.
        failure: Failure,
    },
}

/// A peer, to be asked. Cheap to clone; stays good over reconnects.
#[derive(Clone)]
pub struct Peer {
    pub(super) shared: Arc<Shared>,
    pub(super) state: Arc<PeerState>,
}

impl Peer {
    /// The peer.
    pub fn node(&self) -> NodeId {
        self.state.node
    }

    /// How it is reached.
    pub fn status(&self) -> PeerStatus {
        self.state.status(self.shared.now_ms())
    }

    /// Sends a request; returns at once. What is sent by one caller arrives in order, as long as
    /// the connection lasts.
    ///
    /// # Errors
    /// [`RequestError::NotConnected`] or [`RequestError::Busy`]: nothing was sent.
    ///
    /// # Panics
    /// For [`Lane::Stream`], which has no requests.
    pub fn send(&self, lane: Lane, ask: Ask) -> Result<PendingReply, RequestError> {
        let node = self.state.node;
        let counters = self.shared.counters.lane(lane);
        let not_connected = RequestError::NotConnected { node, lane };
        let deadline_ms = u32::try_from(ask.deadline.as_millis()).unwrap_or(u32::MAX);
        let line = self.state.dialed(lane).ok_or(not_connected)?;
        let asked = Asked {
            channel: ask.channel,
            payload: ask.payload,
            reply_bytes_max: ask.reply_bytes_max,
            deadline_ms,
        };
        let answer = line.request(asked).map_err(|unsent| match unsent {
            Unsent::Closing => not_connected,
            Unsent::Exceeded(why) => {
                counters.requests_busy_total.add(1);
                RequestError::Busy { node, lane, why }
            }
        })?;
        counters.requests_sent_total.add(1);
        Ok(PendingReply {
            shared: Arc::clone(&self.shared),
            node,
            lane,
            deadline: tokio::time::Instant::now() + Duration::from_millis(deadline_ms.into()),
            answer,
        })
    }

    /// Sends a request and waits for its answer. Cancelled, the request may have been served.
    ///
    /// # Errors
    /// See [`RequestError`].
    ///
    /// # Panics
    /// As [`Peer::send`].
    pub async fn request(&self, lane: Lane, ask: Ask) -> Result<Bytes, RequestError> {
        self.send(lane, ask)?.wait().await
    }
}

/// A request that was sent.
///
/// Dropped, nobody waits; the request holds its share of the grant until the peer has answered all
/// the same, because it holds the peer's memory.
pub struct PendingReply {
    shared: Arc<Shared>,
    node: NodeId,
    lane: Lane,
    deadline: tokio::time::Instant,
    answer: oneshot::Receiver<Result<Bytes, Failure>>,
}

impl PendingReply {
    /// Waits for the answer, at most until the deadline.
    ///
    /// # Errors
    /// [`RequestError::Deadline`], [`RequestError::Lost`] or [`RequestError::Failed`].
    pub async fn wait(self) -> Result<Bytes, RequestError> {
        let node = self.node;
        match tokio::time::timeout_at(self.deadline, self.answer).await {
            Ok(Ok(Ok(reply))) => Ok(reply),
            Ok(Ok(Err(failure))) => Err(RequestError::Failed { node, failure }),
            Ok(Err(_)) => Err(RequestError::Lost { node }),
            Err(_) => {
                let counters = self.shared.counters.lane(self.lane);
                counters.requests_late_total.add(1);
                Err(RequestError::Deadline { node })
            }
        }
    }
}
