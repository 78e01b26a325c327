//! The state of a shard as rows, so that what changed can be stored without the rest.
//!
//! These are plain values; how they look as bytes is decided where they are stored. What can be
//! derived (subscription trie, deadlines, sums) and what is not replicated (how far deliveries
//! were handed out) is not in them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mqtt::{ClientId, Filter, PacketId, QoS, SubscriptionIds, Topic, Will};

use super::{Counters, WillRow};
use crate::{
    ConnectionId, Epoch, Identity, Member, Message, MessageId, NodeEpoch, OriginKind, Seq, Stamp,
    Subscription, WallMs, WillId,
};

/// Where a queued message stands among those of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QueuePlace {
    /// It has its sequence.
    Sequenced(Seq),
    /// It waits behind a replay; the number orders it among those that do.
    Held(u64),
}

/// Names a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowKey {
    /// The one [`HeadRow`].
    Head,
    /// A session.
    Session(ClientId),
    /// A queued message of a session, without its payload.
    Queued(ClientId, QueuePlace),
    /// A queued message, once for all sessions.
    Message(MessageId),
    /// A topic with a retained message, or whose deletion is remembered.
    Retained(Topic),
    /// A source of QoS 2 messages or wills.
    Origin(ClientId, OriginKind),
    /// A will in the outbox.
    Will(WillId),
    /// A filter that the shard wants, or of which the routes do not know yet that it is unwanted.
    Route(Filter),
    /// The one [`GroupsRow`], once there was a membership.
    Groups,
    /// A client's membership in a group of any shard.
    Membership(ClientId, Filter),
    /// A group whose home it is.
    Group(Filter),
    /// A member of such a group.
    Member(Filter, ClientId),
    /// A queued message of such a group, without its payload.
    GroupQueued(Filter, QueuePlace),
}

/// A row.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    /// See [`RowKey::Head`].
    Head(HeadRow),
    /// See [`RowKey::Session`].
    Session(ClientId, Box<SessionRow>),
    /// See [`RowKey::Queued`].
    Queued(ClientId, QueuePlace, QueuedRow),
    /// See [`RowKey::Message`].
    Message(MessageId, Arc<Message>),
    /// See [`RowKey::Retained`].
    Retained(Topic, RetainedRow),
    /// See [`RowKey::Origin`].
    Origin(ClientId, OriginKind, OriginRow),
    /// See [`RowKey::Will`].
    Will(WillRow),
    /// See [`RowKey::Route`].
    Route(Filter, RouteState),
    /// See [`RowKey::Groups`].
    Groups(GroupsRow),
    /// See [`RowKey::Membership`].
    Membership(ClientId, Filter, MembershipState),
    /// See [`RowKey::Group`].
    Group(Filter, GroupRow),
    /// See [`RowKey::Member`].
    Member(Filter, ClientId, Member),
    /// See [`RowKey::GroupQueued`].
    GroupQueued(Filter, QueuePlace, QueuedRow),
}

/// What the shard has once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeadRow {
    /// The highest index applied.
    pub index: u64,
    /// Shard time.
    pub time: WallMs,
    /// The id of the next queued message.
    pub next_message: u64,
    /// The version of the last route row.
    pub route_version: u64,
    /// The id of the last will.
    pub will_ids: u64,
    /// Ended node epochs.
    pub gone: BTreeSet<NodeEpoch>,
    /// Totals. What is held now is counted anew.
    pub counters: Counters,
}

/// A session without its queue.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionRow {
    /// Whose it is.
    pub identity: Identity,
    /// The `Open` that began it.
    pub incarnation: Epoch,
    /// The last `Open`.
    pub epoch: Epoch,
    /// The connection of that.
    pub connection: ConnectionId,
    /// The node of that.
    pub node_epoch: NodeEpoch,
    /// When the owner went; `None` while it is there.
    pub disconnected: Option<WallMs>,
    /// What the last `Open` answered.
    pub session_present: bool,
    /// Session Expiry Interval in seconds.
    pub expiry_s: u32,
    /// Receive Maximum of the client.
    pub receive_maximum: u16,
    /// The will that waits.
    pub will: Option<Box<Will>>,
    /// Sequences below this may have been sent by an earlier owner.
    pub dup_end: u64,
    /// `None` for a clean session.
    pub persistent: Option<PersistentRow>,
}

/// What only a persistent session has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PersistentRow {
    /// Its subscriptions, in the order in which they came.
    pub subscriptions: Vec<(Filter, Subscription)>,
    /// Its open inbound QoS 2 exchanges with their numbers.
    pub q2_open: Vec<(PacketId, u64)>,
    /// The number of the next inbound QoS 2 exchange.
    pub q2_next: u64,
    /// Subscriptions whose retained messages are awaited, and until when.
    pub replays: Vec<(Filter, WallMs)>,
    /// The next sequence.
    pub next_seq: u64,
    /// One above what a client may have been sent.
    pub sent_end: u64,
    /// The next number of a message that is held behind a replay.
    pub next_held: u64,
}

/// A queued message of a session.
#[derive(Clone, Debug, PartialEq)]
pub struct QueuedRow {
    /// The message.
    pub message: MessageId,
    /// What it is accounted with ([`Message::bytes`]).
    pub bytes: u32,
    /// When it expires.
    pub expiry: Option<WallMs>,
    /// QoS of the delivery, 1 or 2.
    pub qos: QoS,
    /// RETAIN flag of the delivery.
    pub retain: bool,
    /// Identifiers of the matching subscriptions.
    pub ids: SubscriptionIds,
    /// Whether its PUBREC is recorded.
    pub released: bool,
    /// Its topic, if it is held behind a replay.
    pub held_topic: Option<Topic>,
}

/// A topic's retained message, or its deletion.
#[derive(Clone, Debug, PartialEq)]
pub struct RetainedRow {
    /// The message, or when it was deleted.
    pub content: Result<Arc<Message>, WallMs>,
    /// Orders it among those of the same publisher.
    pub stamp: Stamp,
}

/// What is remembered of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginRow {
    /// Its incarnation.
    pub incarnation: Epoch,
    /// Numbers below this are repeats.
    pub floor: u64,
    /// Numbers from there on that were seen.
    pub seen: BTreeSet<u64>,
    /// When it was heard last.
    pub used: WallMs,
}

/// What the routes are to know of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteState {
    /// The version of the row.
    pub version: u64,
    /// Whether the shard wants messages that match it.
    pub wanted: bool,
    /// Whether the routes are still to be told.
    pub pending: bool,
}

/// What the shard has once about groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupsRow {
    /// The version of the last membership row.
    pub memberships: u64,
    /// Of each shard, the version of the last membership that was applied here.
    pub applied: BTreeMap<u16, u64>,
}

/// A client's membership, or that it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MembershipState {
    /// What it asked for; `None` once it has left.
    pub share: Option<Share>,
    /// The version of the row.
    pub version: u64,
    /// Whether the home shard is still to be told.
    pub pending: bool,
}

/// A session's subscription to a shared filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Options as granted, and the identifier.
    pub subscription: Subscription,
    /// The command that made it.
    pub joined: Epoch,
}

/// A group without its members and its queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRow {
    /// The command that began it.
    pub incarnation: Epoch,
    /// The next sequence.
    pub next_seq: u64,
    /// One above what members may have been sent.
    pub sent_end: u64,
}

/// Why rows are no state of a shard. Nothing of them was kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// There are rows, and none of the head.
    #[error("no head row is there")]
    NoHead,
    /// A row is there twice, or two pending routes have one version.
    #[error("row {0:?} is there twice")]
    Twice(RowKey),
    /// A queued message belongs to no persistent session.
    #[error("queued message {place:?} belongs to session {client:?}, which there is not")]
    NoSession {
        /// The session.
        client: ClientId,
        /// The place of the message in its queue.
        place: QueuePlace,
    },
    /// A row has a number that was not given yet.
    #[error("row {key:?} has the number {number}, and the next one is {next}")]
    NotGiven {
        /// The row.
        key: RowKey,
        /// A sequence, message id, route version, will id or log index.
        number: u64,
        /// What the row says that counts them.
        next: u64,
    },
    /// A queued message is held with no topic, or not held with one, or has a state that its QoS
    /// does not know.
    #[error("queued message {place:?} of {client:?} is of no kind that is queued")]
    Queued {
        /// The session.
        client: ClientId,
        /// The place of the message in its queue.
        place: QueuePlace,
    },
    /// A membership belongs to no session, a member or queued message to no group, or a group has
    /// no member.
    #[error("row {0:?} is there without what it belongs to")]
    Group(RowKey),
    /// The route row of a filter and the subscriptions disagree on whether it is wanted.
    #[error("the route row of {0:?} disagrees with the subscriptions")]
    Route(Filter),
}
