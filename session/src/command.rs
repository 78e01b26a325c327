//! What is written to a session shard's log, and what applying it answers.

use std::sync::Arc;

use mqtt::{ClientId, Filter, PacketId, ReasonCode, Topic, Will};

use crate::{
    ConnectionId, Epoch, GroupSeq, Identity, Message, NodeEpoch, Origin, Seq, Subscription, WillId,
};

/// An entry of a shard's log. Applied whole by [`crate::Durable::apply`].
///
/// Commands of a connection name its client and epoch; under any other epoch than the session's
/// they change nothing and answer [`Answer::WrongEpoch`].
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Takes ownership of a session, or begins one. Answers [`Answer::Opened`],
    /// [`Answer::WrongEpoch`], [`Answer::OtherIdentity`] or [`Answer::Refused`].
    Open(Box<Open>),
    /// Ends an ownership. Answers [`Answer::Done`].
    Close(Close),
    /// Subscribes a persistent session, or any session to shared filters. Answers
    /// [`Answer::Subscribed`].
    Subs(Box<Subs>),
    /// Unsubscribes a persistent session, or any session from shared filters. Answers
    /// [`Answer::Unsubscribed`].
    Unsubs(Box<Unsubs>),
    /// Queues a message (QoS > 0) for every matching persistent session and group of the shard.
    /// Answers [`Answer::Enqueued`].
    Enqueue(Enqueue),
    /// Records a PUBLISH with QoS 2 from a persistent session. Answers [`Answer::Q2In`], or
    /// [`Answer::Refused`] when too many are open.
    Q2In {
        /// Publisher.
        client: ClientId,
        /// Its ownership.
        epoch: Epoch,
        /// Packet id of the PUBLISH.
        packet_id: PacketId,
    },
    /// Ends an inbound QoS 2 exchange (PUBREL came). Answers [`Answer::Q2Out`].
    Q2Out {
        /// Publisher.
        client: ClientId,
        /// Its ownership.
        epoch: Epoch,
        /// Packet id of the PUBREL.
        packet_id: PacketId,
    },
    /// Records PUBREC of an outbound QoS 2 message, which is from then on only released. Answers
    /// [`Answer::Rec`].
    Rec {
        /// Subscriber.
        client: ClientId,
        /// Its ownership.
        epoch: Epoch,
        /// Sequence of the message.
        seq: Seq,
    },
    /// Removes acknowledged messages (PUBACK, PUBCOMP) from their queues; a batch of many
    /// connections. Answers [`Answer::Done`].
    Ack(Vec<Acks>),
    /// Replaces or deletes the retained message of a topic. Answers [`Answer::Retained`].
    Retain(Retain),
    /// Queues retained messages for a new subscription and lets go what waited behind them.
    /// Answers [`Answer::Done`].
    Replay(Box<Replay>),
    /// Gives up waiting for a replay. Answers [`Answer::Done`].
    ReplayEnd {
        /// Subscriber.
        client: ClientId,
        /// Its incarnation.
        incarnation: Epoch,
        /// The subscription whose replay did not come.
        filter: Filter,
    },
    /// Ends a session whose expiry interval passed, if it is still disconnected under `epoch`.
    /// Answers [`Answer::Done`].
    Expire {
        /// Client.
        client: ClientId,
        /// Its incarnation.
        incarnation: Epoch,
        /// Its last ownership.
        epoch: Epoch,
    },
    /// Removes queued messages whose expiry interval passed and that were never sent. Answers
    /// [`Answer::Done`].
    ExpireMessages {
        /// Client.
        client: ClientId,
        /// Its incarnation.
        incarnation: Epoch,
    },
    /// Removes up to 256 retained messages whose expiry interval passed. Answers [`Answer::Done`].
    ExpireRetained,
    /// Publishes the will whose delay passed, if its connection is still away. Answers
    /// [`Answer::Done`].
    WillDelayEnd {
        /// Client.
        client: ClientId,
        /// The ended ownership.
        epoch: Epoch,
    },
    /// Removes a published will from the outbox. Answers [`Answer::Done`].
    WillDone {
        /// The outbox row.
        id: WillId,
    },
    /// Removes route rows up to a version from the outbox. Answers [`Answer::Done`].
    RoutesDone {
        /// The highest version that the routes have applied.
        version: u64,
    },
    /// Disconnects every session owned by a node whose epoch ended. Answers [`Answer::Done`].
    NodeGone {
        /// The ended epoch.
        node_epoch: NodeEpoch,
    },
    /// In the home shard of a group: a client is a member of it now, or is none any more. Answers
    /// [`Answer::Membership`].
    Membership(Box<Membership>),
    /// Removes a row of a membership from the outbox: the group's home shard has it. Answers
    /// [`Answer::Done`].
    MembershipDone {
        /// The version of the row; a newer one of the same membership stays.
        version: u64,
    },
    /// Removes messages that members of groups acknowledged (PUBACK) from the groups' queues; who
    /// acknowledges is not asked. Answers [`Answer::Done`].
    GroupAck(Vec<GroupSeq>),
    /// Removes messages of a group whose expiry interval passed and that were never sent. Answers
    /// [`Answer::Done`].
    ExpireGroup {
        /// The shared filter that names the group.
        filter: Filter,
        /// The group's incarnation.
        incarnation: Epoch,
    },
}

/// See [`Command::Open`].
#[derive(Clone, Debug, PartialEq)]
pub struct Open {
    /// Client.
    pub client: ClientId,
    /// Who it is.
    pub identity: Identity,
    /// Epoch of the session row it replaces, `None` if there is none. `Live` leaves it `None`;
    /// the shell fills it from [`crate::Durable::epoch`] or from the last
    /// [`Answer::WrongEpoch`].
    pub expected_epoch: Option<Epoch>,
    /// Node of the connection.
    pub node_epoch: NodeEpoch,
    /// The connection.
    pub connection: ConnectionId,
    /// Clean Start.
    pub clean_start: bool,
    /// Whether subscriptions and queue live in the shard. False for clean start with expiry 0:
    /// then they live on the node.
    pub persistent: bool,
    /// Session Expiry Interval in seconds, already capped.
    pub expiry_s: u32,
    /// Receive Maximum of the client.
    pub receive_maximum: u16,
    /// The will; its delay is already capped.
    pub will: Option<Box<Will>>,
}

/// See [`Command::Close`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// Client.
    pub client: ClientId,
    /// The ownership that ends.
    pub epoch: Epoch,
    /// What becomes of the will.
    pub will: WillFate,
    /// Session Expiry Interval in seconds from DISCONNECT, if given there.
    pub expiry_s: Option<u32>,
}

/// What becomes of a will when its connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WillFate {
    /// It is published after its delay or with the end of the session `[MQTT-3.1.2-8]`.
    Keep,
    /// It is deleted: DISCONNECT 0x00 `[MQTT-3.1.2-10]`.
    Discard,
}

/// See [`Command::Subs`].
#[derive(Clone, Debug, PartialEq)]
pub struct Subs {
    /// Client.
    pub client: ClientId,
    /// Its ownership.
    pub epoch: Epoch,
    /// Filters with their options.
    pub filters: Vec<(Filter, Subscription)>,
}

/// See [`Command::Unsubs`].
#[derive(Clone, Debug, PartialEq)]
pub struct Unsubs {
    /// Client.
    pub client: ClientId,
    /// Its ownership.
    pub epoch: Epoch,
    /// Filters.
    pub filters: Vec<Filter>,
}

/// See [`Command::Membership`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Shard of the client's session.
    pub source: u16,
    /// Rises with each row of that shard; what is not newer than the last one of the shard is a
    /// repeat.
    pub version: u64,
    /// The shared filter, which names the group.
    pub filter: Filter,
    /// The client.
    pub client: ClientId,
    /// What it is in the group; `None` when it has left.
    pub member: Option<Member>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The command that made it one. Another number is another membership: what waited for the
    /// old one alone is gone with it.
    pub joined: Epoch,
    /// Its connection; `None` while it is away.
    pub owner: Option<Owner>,
    /// Options as granted, and the identifier.
    pub subscription: Subscription,
    /// Whether its session outlives its connection.
    pub persistent: bool,
}

/// The connection that owns a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its node.
    pub node_epoch: NodeEpoch,
    /// The connection.
    pub connection: ConnectionId,
    /// Its ownership.
    pub epoch: Epoch,
    /// Receive Maximum of the client.
    pub receive_maximum: u16,
}

/// See [`Command::Enqueue`].
#[derive(Clone, Debug, PartialEq)]
pub struct Enqueue {
    /// The message, once for all recipients.
    pub message: Arc<Message>,
    /// Source of a QoS 2 message or will, by which repeats are dropped.
    pub origin: Option<Box<Origin>>,
}

/// Acknowledged sequences of one session.
#[derive(Clone, Debug, PartialEq)]
pub struct Acks {
    /// Client.
    pub client: ClientId,
    /// Its ownership.
    pub epoch: Epoch,
    /// Sequences, in any order.
    pub seqs: Vec<Seq>,
}

/// See [`Command::Retain`].
#[derive(Clone, Debug, PartialEq)]
pub struct Retain {
    /// Topic.
    pub topic: Topic,
    /// The message, or `None` to delete it `[MQTT-3.3.1-6]`.
    pub message: Option<Arc<Message>>,
    /// Orders it among those of the same publisher.
    pub stamp: Stamp,
}

impl Retain {
    /// The command that a retained message stands for: an empty payload deletes
    /// `[MQTT-3.3.1-6]`, `[MQTT-3.3.1-7]`.
    pub fn of(message: &Arc<Message>, stamp: Stamp) -> Self {
        Self {
            topic: message.topic.clone(),
            message: (!message.payload.is_empty()).then(|| Arc::clone(message)),
            stamp,
        }
    }
}

/// Orders retained messages of one publisher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Publisher; `None` for the broker itself.
    pub publisher: Option<ClientId>,
    /// Its ownership.
    pub epoch: Epoch,
    /// Number of the PUBLISH within its connection; `u64::MAX` for the will.
    pub seq: u64,
}

/// See [`Command::Replay`].
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    /// Client.
    pub client: ClientId,
    /// Its ownership.
    pub epoch: Epoch,
    /// The subscription.
    pub filter: Filter,
    /// Retained messages that match it and are delivered with QoS > 0, in order of their topics.
    pub rows: Vec<Arc<Message>>,
}

/// What applying a [`Command`] answers. A repeat is answered as the first was.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Nothing more to say.
    Done,
    /// The session is owned.
    Opened {
        /// The new ownership.
        epoch: Epoch,
        /// The session's incarnation.
        incarnation: Epoch,
        /// Whether a session existed and goes on.
        session_present: bool,
    },
    /// Nothing changed: the session's ownership is another one.
    WrongEpoch {
        /// The session's ownership; `None` if there is no session.
        current: Option<Epoch>,
    },
    /// Nothing changed: the session belongs to another identity (0x85; 3.1.1: 2).
    OtherIdentity,
    /// Nothing changed: a limit is reached.
    Refused(ReasonCode),
    /// One result per filter, in order.
    Subscribed(Vec<Subscribed>),
    /// One result per filter, in order.
    Unsubscribed(Vec<Unsubscribed>),
    /// The message is queued wherever it matches.
    Enqueued {
        /// Sessions that took it.
        taken: u32,
        /// Messages that full queues dropped because of it.
        dropped: u32,
        /// Whether it was a repeat, and nothing was done.
        repeat: bool,
    },
    /// The inbound QoS 2 message has its number.
    Q2In {
        /// Number within the session's incarnation.
        n: u64,
        /// Lowest number still open.
        floor: u64,
    },
    /// The inbound QoS 2 exchange is ended.
    Q2Out {
        /// Whether it was open.
        found: bool,
    },
    /// The outbound QoS 2 message is received.
    Rec {
        /// Whether it was queued.
        found: bool,
    },
    /// What became of a retained message.
    Retained(Retained),
    /// The group knows the membership.
    Membership {
        /// Version of the route row of the group's filter, 0 without one: who waits for the
        /// membership waits until the routes have it.
        version: u64,
    },
}

/// Result of one filter of [`Command::Subs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// Granted QoS or failure.
    pub reason: ReasonCode,
    /// Version of the filter's route row: SUBACK waits until the routes have it.
    pub version: u64,
    /// Whether a replay of retained messages is awaited.
    pub replay: bool,
    /// Of a shared filter, version of the membership's row: SUBACK waits until the group's home
    /// shard has it. Else 0.
    pub membership: u64,
}

/// Result of one filter of [`Command::Unsubs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsubscribed {
    /// Success or No subscription existed.
    pub reason: ReasonCode,
    /// Version of the filter's route row, 0 if there never was one.
    pub version: u64,
    /// Of a shared filter, version of the membership's row. Else 0.
    pub membership: u64,
}

/// Result of [`Command::Retain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retained {
    /// It is the topic's retained message now, or the topic has none now.
    Stored,
    /// The same publisher's newer one stays.
    Older,
    /// The store is full; the topic keeps what it had. Counted.
    Full,
}
