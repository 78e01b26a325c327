//! The session shards as the io threads see them; `host` is where each lives.

mod answers;
mod asked;
mod backlog;
mod effects;
mod expiry;
mod host;
mod lead;
mod leading;
mod look;
mod questions;
mod reads;
mod room;
mod rooms;
mod standstill;
mod stream;
mod uplink;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use cluster::exchange::{ItemsReply, RetainedReply};
use cluster::link::Responder;
use cluster::raft::{Group, Unproposed};
use cluster::{Outcome, ShardMachine};
use cluster_core::{Batch, EpochView, NodeEpoch, NodeId, RouteVersion, RoutesAnswer, Sighting};
use ractor::ActorRef;
use runtime::ractor;
use session::{Command, ConnectionId, Counters, Membership, Message, MessageId, Token, WillId};

pub(crate) use asked::Request;
pub(crate) use host::ShardHost;
use lead::Wired;
use look::Look;
pub(crate) use questions::{RowsAt, Wanted};
pub(crate) use reads::has_applied;
pub(crate) use room::{Room, UnderWay};
use tokio::sync::oneshot;
use uplink::Flight;

use crate::ids::Owed;

/// QoS 0 messages that may wait at a shard, in bytes; beyond it they are dropped and counted.
pub(crate) const QOS0_WAITING_BYTES_LIMIT: u64 = 16 << 20;
/// How often a shard looks at the clock.
pub(crate) const TICK_MS: u64 = 250;

/// One thing for a shard, from an io thread.
#[derive(Debug)]
pub(crate) enum ShardItem {
    /// Apply; tell the connection the answer.
    Propose {
        connection: ConnectionId,
        token: Token,
        command: Box<Command>,
    },
    /// Apply an `Open`; tell the connection the answer.
    Open {
        connection: ConnectionId,
        command: Box<session::Open>,
        /// What it may replace; a lone node's may replace anything.
        sighting: Option<Arc<Sighting>>,
    },
    /// Apply; settle the obligation if somebody waits.
    Oblige {
        owed: Option<Owed>,
        command: Box<Command>,
        /// What its message occupies.
        room: Option<Room>,
    },
    /// Apply a retained message of QoS 0, for which so many bytes were admitted.
    RetainQoS0 {
        retain: Box<session::Retain>,
        bytes: u64,
    },
    /// Hand a QoS 0 message to connected subscribers, past the log.
    QoS0(Arc<Message>),
    /// Apply a membership; tell the shard that it comes from.
    Member(Box<Membership>),
    /// Every obligation of a will of the shard's outbox is settled.
    WillPublished(WillId),
    /// Read retained messages, `limit` a filter.
    Retained {
        connection: ConnectionId,
        token: Token,
        wanted: Wanted,
        limit: usize,
    },
}

/// What a shard's host is told.
///
/// The mailbox is bounded by what may be owed: the windows of the connections, of which nothing
/// more comes once [`Shards::is_full`]; and [`QOS0_WAITING_BYTES_LIMIT`] for what is owed to nobody.
#[derive(Debug)]
pub(crate) enum ShardMessage {
    /// From an io thread.
    Batch(Vec<ShardItem>),
    /// What became of a batch that was proposed to the shard's group, by this leadership.
    Landed {
        lead: u64,
        batch: Batch,
        items: Vec<Wired>,
        result: Result<Vec<Outcome>, Unproposed>,
    },
    /// What became of items that a leader on another node was to bring into the log.
    Landing {
        flight: Flight,
        reply: ItemsReply,
    },
    /// What a leader on another node did not take may be sent again.
    SendAgain,
    /// Another node asks the shard's leader.
    Asked {
        request: Request,
        responder: Responder,
    },
    /// The node's replica of the shard came, or went.
    Replica(Option<Group<ShardMachine>>),
    /// Who leads the shard.
    Leading(Leading),
    /// Which node epochs are current.
    Epochs(EpochView),
    /// The routes group answered a batch of the shard's rows; none if it is not known.
    RoutesAnswered(Option<RoutesAnswer>),
    /// The home shard of a group has the membership of this version, and so have the routes.
    Seated(u64),
    /// The leader on another node says so of these; of none if it did not answer.
    SeatedThere(Vec<u64>),
    /// The leader on another node answered the request of this number for retained messages, or did
    /// not.
    RetainedCame(u64, Option<RetainedReply>),
    /// This leadership is one still, or it is not known: questions wait for it.
    Word {
        lead: u64,
        is_led: bool,
    },
    /// Every reader of the routes sees the shard's rows up to here.
    RoutesVisible(RouteVersion),
    /// The routes have forgotten what the shard wanted before it was recovered, or have not.
    RoutesRestated(bool),
    /// Payloads came back from the disk; none where nobody needs it any more.
    Loaded(Vec<(MessageId, Option<Arc<Message>>)>),
    /// A state file that was closed may give these payloads now.
    LoadAgain(Vec<MessageId>),
    /// Acknowledged sequences have waited long enough for company.
    AcksDue,
    /// A node for which nothing more was handed out may have room again.
    Room(NodeEpoch),
    /// The shard's state was written out.
    Flushed,
    /// An operator looks. `http` bounds how many do at a time.
    Look(Look),
    /// Answered once everything that came before is answered: the node stops.
    Drain(oneshot::Sender<()>),
    Tick,
}

impl ractor::Message for ShardMessage {}

/// Who leads a shard, as this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leading {
    /// This node.
    Here,
    /// Another one.
    At(NodeId),
    /// Nobody, or nobody knows.
    Nobody,
}

/// Handles of all shards, shared by the node.
#[derive(Clone)]
pub(crate) struct Shards {
    seats: Arc<[Seat]>,
    under_way: Arc<UnderWay>,
}

struct Seat {
    /// Filled when the host starts.
    host: OnceLock<ActorRef<ShardMessage>>,
    qos0_bytes: AtomicU64,
    /// The shard's log has taken nothing for a while.
    is_stuck: AtomicBool,
    /// And so much waits for it that nothing more is to come.
    is_full: AtomicBool,
    held_bytes: AtomicU64,
    /// Of them, what takes no room from messages for other shards.
    excused_bytes: AtomicU64,
    withdrawn: AtomicU64,
    counters: arc_swap::ArcSwap<(Counters, usize)>,
}

impl Shards {
    /// `under_way_bytes_limit`: of messages under way to all of them together.
    pub(crate) fn new(count: u16, under_way_bytes_limit: u64) -> Self {
        let seat = || Seat {
            host: OnceLock::new(),
            qos0_bytes: AtomicU64::new(0),
            is_stuck: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            held_bytes: AtomicU64::new(0),
            excused_bytes: AtomicU64::new(0),
            withdrawn: AtomicU64::new(0),
            counters: arc_swap::ArcSwap::from_pointee((Counters::default(), 0)),
        };
        Self {
            seats: std::iter::repeat_with(seat)
                .take(usize::from(count))
                .collect(),
            under_way: Arc::new(UnderWay::new(under_way_bytes_limit)),
        }
    }

    pub(crate) fn len(&self) -> u16 {
        self.seats.len() as u16
    }

    /// Whether every shard has its host; before that, [`Shards::tell`] is for those that have.
    pub(crate) fn are_started(&self) -> bool {
        self.seats.iter().all(|seat| seat.host.get().is_some())
    }

    /// Hands a message to a shard's host. Once the host has ended the node is stopping: what was
    /// owed stays owed, and nothing of it is acknowledged.
    pub(crate) fn tell(&self, shard: u16, message: ShardMessage) {
        let host = self.seats[usize::from(shard)].host.get();
        let host = host.expect("the shards start before any connection");
        if host.cast(message).is_err() {
            tracing::debug!(shard, "the shard's host has ended: the node is stopping");
        }
    }

    /// Whether a QoS 0 message of so many bytes may be sent to the shard; takes the room.
    pub(crate) fn admit_qos0(&self, shard: u16, bytes: u64) -> bool {
        let waiting = &self.seats[usize::from(shard)].qos0_bytes;
        let before = waiting.fetch_add(bytes, Ordering::Relaxed);
        let admitted = before == 0 || before + bytes <= QOS0_WAITING_BYTES_LIMIT;
        if !admitted {
            waiting.fetch_sub(bytes, Ordering::Relaxed);
        }
        admitted
    }

    /// Counts a message of so many bytes that goes to a shard.
    pub(crate) fn take_room(&self, bytes: usize) -> Room {
        self.under_way.take(bytes as u64)
    }

    /// What is under way to all shards.
    pub(crate) fn under_way(&self) -> &UnderWay {
        &self.under_way
    }

    /// Whether the shard's log has taken nothing for a while: who connects now would wait in vain.
    pub(crate) fn is_stuck(&self, shard: u16) -> bool {
        self.seats[usize::from(shard)]
            .is_stuck
            .load(Ordering::Relaxed)
    }

    /// Whether so much waits for a stuck shard that nothing more may be put on its way there.
    pub(crate) fn is_full(&self, shard: u16) -> bool {
        self.seats[usize::from(shard)]
            .is_full
            .load(Ordering::Relaxed)
    }

    /// Bytes that wait for the log of one shard.
    pub(crate) fn held_bytes_of(&self, shard: u16) -> u64 {
        self.seats[usize::from(shard)]
            .held_bytes
            .load(Ordering::Relaxed)
    }

    /// Bytes that wait for the logs of the shards, beyond what is on its way into them.
    pub(crate) fn held_bytes(&self) -> u64 {
        let of = |seat: &Seat| seat.held_bytes.load(Ordering::Relaxed);
        self.seats.iter().map(of).sum()
    }

    /// What connections of this node had asked of shards and was not sent again once they had ended.
    pub(crate) fn withdrawn(&self) -> u64 {
        let of = |seat: &Seat| seat.withdrawn.load(Ordering::Relaxed);
        self.seats.iter().map(of).sum()
    }

    /// Waits until every shard has answered what it was asked; nobody asks any more.
    pub(crate) async fn drain(&self) {
        let ask = |shard| {
            let (done, is_done) = oneshot::channel();
            self.tell(shard, ShardMessage::Drain(done));
            is_done
        };
        let asked: Vec<_> = (0..self.len()).map(ask).collect();
        for is_done in asked {
            if is_done.await.is_err() {
                tracing::warn!("a shard's host has ended before the stop");
            }
        }
    }

    /// Sums of what the shards count, and the number of sessions.
    pub(crate) fn counters(&self) -> (Counters, usize) {
        let mut sum = (Counters::default(), 0);
        for seat in self.seats.iter() {
            let of = seat.counters.load();
            sum.0 = sum.0 + of.0;
            sum.1 += of.1;
        }
        sum
    }
}
