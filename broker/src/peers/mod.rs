//! The other nodes of the cluster, as the parts of this one see them.

mod flights;
mod inbox;
mod post;
mod service;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use cluster::exchange::Said;
use cluster::link::{Ask, Channel, Lane, Links, PendingReply, RequestError};
use cluster_core::{EpochView, NodeEpoch, NodeId, Standing};
use mqtt::QoS;
use ractor::{ActorRef, MessagingErr};
use runtime::ractor;

pub(crate) use flights::{DEADLINE, Flights, RETRY_DELAY};
pub(crate) use inbox::{Inbox, InboxMessage};
pub(crate) use post::{Post, PostMessage, Posted, delivery_bytes};
pub(crate) use service::{Exchange, Parts};

/// Bytes of messages that may wait in the stream to a node before those of QoS 0 are dropped, and
/// before publishers of others are withheld.
const POST_QOS0_BYTES_LIMIT: u64 = 4 << 20;
const POST_BYTES_LIMIT: u64 = 16 << 20;
/// Bytes of deliveries from queues that may wait in the stream to a node before the shards that are
/// led here hand out no more for it. They go on once half of it is free. Each may be beyond it with
/// one message.
const DELIVERIES_BYTES_LIMIT: u64 = 16 << 20;

/// What this node says to others; cheap to clone. A lone node has nobody to say it to.
#[derive(Clone, Default)]
pub(crate) struct Peers {
    links: Option<Links>,
    streams: Arc<ArcSwap<Streams>>,
    counters: Arc<PeerCounters>,
}

/// What is counted of the streams to all other nodes.
#[derive(Debug, Default)]
pub(crate) struct PeerCounters {
    /// Messages of connections that ended, not sent to another node again.
    pub(crate) withdrawn_total: AtomicU64,
    /// Times that a shard handed out no more deliveries for a node whose stream was full.
    pub(crate) deliveries_held_total: AtomicU64,
    /// Messages of QoS 0 for sessions on another node that were dropped because its stream was full.
    pub(crate) qos0_dropped_total: AtomicU64,
}

/// The streams to all other epochs.
#[derive(Default)]
pub(crate) struct Streams {
    /// Which epochs are current.
    pub(crate) epochs: EpochView,
    pub(crate) posts: BTreeMap<NodeEpoch, PostHandle>,
}

/// What became of letters for an epoch.
#[derive(Debug)]
pub(crate) enum Given {
    /// They are in the stream.
    Taken,
    /// The epoch has ended, which settles what is owed to it.
    Ended(Vec<Posted>),
    /// It is not known here yet.
    Unknown(Vec<Posted>),
}

/// The stream to one epoch of a node.
#[derive(Clone)]
pub(crate) struct PostHandle {
    pub(crate) actor: ActorRef<PostMessage>,
    /// Bytes of letters that are not receipted, but for deliveries.
    pub(crate) bytes: Arc<AtomicU64>,
    /// Bytes of deliveries that are not receipted, or not sent yet.
    pub(crate) deliveries: Deliveries,
}

/// Counts the deliveries of a stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deliveries(Arc<AtomicU64>);

impl Deliveries {
    fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts a delivery until what is returned is dropped.
    fn take(&self, bytes: u64) -> DeliveryRoom {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        let of = self.clone();
        DeliveryRoom { of, bytes }
    }

    fn is_full(&self) -> bool {
        self.bytes() >= DELIVERIES_BYTES_LIMIT
    }

    /// Whether who found it full may go on.
    fn has_room(&self) -> bool {
        self.bytes() <= DELIVERIES_BYTES_LIMIT / 2
    }
}

/// The room of a delivery, from where it is handed out until its receipt.
#[derive(Debug)]
pub(crate) struct DeliveryRoom {
    of: Deliveries,
    bytes: u64,
}

impl Drop for DeliveryRoom {
    fn drop(&mut self) {
        self.of.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What a delivery found in the stream to its node.
#[derive(Debug)]
pub(crate) struct FoundRoom {
    /// Its own; none where there is no stream.
    pub(crate) room: Option<DeliveryRoom>,
    /// No more is to be handed out for the node until [`Peers::has_delivery_room`].
    pub(crate) is_full: bool,
}

impl Peers {
    /// The peers that these links reach.
    pub(crate) fn new(links: Links) -> Self {
        Self {
            links: Some(links),
            ..Self::default()
        }
    }

    /// What is counted of all streams.
    pub(crate) fn counters(&self) -> &PeerCounters {
        &self.counters
    }

    /// Asks a node, on the lane of requests; returns at once.
    ///
    /// # Errors
    /// Nothing was sent.
    pub(crate) fn ask(
        &self,
        node: NodeId,
        channel: Channel,
        said: &impl Said,
        reply_bytes_max: u32,
        deadline: Duration,
    ) -> Result<PendingReply, RequestError> {
        let lane = Lane::Requests;
        let peer = self.links.as_ref().and_then(|links| links.peer(node));
        let peer = peer.ok_or(RequestError::NotConnected { node, lane })?;
        let ask = Ask {
            channel,
            payload: said.encode(),
            reply_bytes_max,
            deadline,
        };
        peer.send(lane, ask)
    }

    /// Whether the stream to an epoch has room for a message of this QoS. One of QoS 0 is dropped
    /// where there is none, one of QoS > 0 withheld.
    pub(crate) fn has_room(&self, to: NodeEpoch, qos: QoS) -> bool {
        let limit = match qos {
            QoS::AtMostOnce => POST_QOS0_BYTES_LIMIT,
            QoS::AtLeastOnce | QoS::ExactlyOnce => POST_BYTES_LIMIT,
        };
        let streams = self.streams.load();
        let post = streams.posts.get(&to);
        post.is_none_or(|post| post.bytes.load(Ordering::Relaxed) < limit)
    }

    /// Takes room for a delivery of so many bytes; it is taken in any case.
    pub(crate) fn find_room(&self, to: NodeEpoch, bytes: u64) -> FoundRoom {
        let streams = self.streams.load();
        match streams.posts.get(&to) {
            Some(post) => FoundRoom {
                room: Some(post.deliveries.take(bytes)),
                is_full: post.deliveries.is_full(),
            },
            // Until it is known here, one delivery of each shard waits for it.
            None => FoundRoom {
                room: None,
                is_full: streams.epochs.standing(to) != Standing::Ended,
            },
        }
    }

    /// Whether deliveries for a node that was full may go on; so may those for one that has ended.
    pub(crate) fn has_delivery_room(&self, to: NodeEpoch) -> bool {
        let streams = self.streams.load();
        match streams.posts.get(&to) {
            Some(post) => post.deliveries.has_room(),
            None => streams.epochs.standing(to) == Standing::Ended,
        }
    }

    /// Calls this once [`Self::has_delivery_room`] may have become true; perhaps never, if the stream
    /// has ended or is not there yet.
    pub(crate) fn notify_room(&self, to: NodeEpoch, notify: Box<dyn FnOnce() + Send>) {
        let streams = self.streams.load();
        if let Some(post) = streams.posts.get(&to)
            && post.actor.cast(PostMessage::NotifyRoom(notify)).is_err()
        {
            tracing::debug!(%to, "the stream has ended");
        }
    }

    /// Bytes of deliveries in the streams to all nodes.
    pub(crate) fn deliveries_bytes(&self) -> u64 {
        let streams = self.streams.load();
        let posts = streams.posts.values();
        posts.map(|post| post.deliveries.bytes()).sum()
    }

    /// Puts letters into the stream to a node's epoch.
    pub(crate) fn post(&self, to: NodeEpoch, letters: Vec<Posted>) -> Given {
        let streams = self.streams.load();
        let Some(post) = streams.posts.get(&to) else {
            return match streams.epochs.standing(to) {
                Standing::Ended => Given::Ended(letters),
                Standing::Current | Standing::Unknown => Given::Unknown(letters),
            };
        };
        let bytes = letters.iter().map(Posted::counted_bytes).sum();
        post.bytes.fetch_add(bytes, Ordering::Relaxed);
        match post.actor.cast(PostMessage::Letters(letters)) {
            Ok(()) => Given::Taken,
            // It has ended with its epoch.
            Err(MessagingErr::SendErr(PostMessage::Letters(letters))) => Given::Ended(letters),
            Err(error) => unreachable!("a message is refused as it was sent: {error}"),
        }
    }

    /// Puts something into the streams to all other epochs.
    pub(crate) fn post_to_all(&self, letter: impl Fn() -> Posted) {
        for to in self.streams.load().posts.keys() {
            // One that ends just now needs it no more.
            drop(self.post(*to, vec![letter()]));
        }
    }

    /// The streams are these from now on.
    pub(crate) fn set_streams(&self, streams: Streams) {
        self.streams.store(Arc::new(streams));
    }
}
