//! What a shard asks its host to do.

use std::sync::Arc;

use mqtt::{ClientId, Filter, QoS, SubscriptionIds};

use crate::{
    ConnectionId, Epoch, GroupSeq, Member, Membership, Message, MessageId, NodeEpoch, Origin,
    OriginKind, Seq, Stamp, WillId,
};

/// Work for the shard's host.
#[derive(Clone, Debug, PartialEq)]
pub enum DurableEffect {
    /// Hand to the owning connection: [`crate::Live::handle_delivery`]. One whose connection is
    /// gone is dropped; the successor gets it again.
    Deliver(Delivery),
    /// Hand to a member of a group: [`crate::Live::handle_shared`]. One whose connection is gone
    /// is dropped; another member gets it.
    DeliverShared(GroupDelivery),
    /// Read the message's row; then [`crate::Durable::handle_loaded`].
    Load {
        /// The message.
        message: MessageId,
    },
    /// Tell the connection that it lost its session ([`crate::Live::handle_kick`] with 0x8E).
    TakenOver {
        /// Client.
        client: ClientId,
        /// Node of the old connection.
        node_epoch: NodeEpoch,
        /// The old connection.
        connection: ConnectionId,
        /// The old ownership.
        epoch: Epoch,
    },
    /// Tell the routes; then commit [`crate::Command::RoutesDone`].
    Route(RouteRow),
    /// Publish a will; once every obligation of it is settled, commit
    /// [`crate::Command::WillDone`].
    WillDue(WillRow),
    /// Commit [`crate::Command::Membership`] in the home shard of the group; once it is answered
    /// and the routes have the version of the answer, commit
    /// [`crate::Command::MembershipDone`].
    Membership(MembershipRow),
}

/// A message (or its release) for the connection that owns a session.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// Client.
    pub client: ClientId,
    /// Ownership it is for.
    pub epoch: Epoch,
    /// Node of the owner.
    pub node_epoch: NodeEpoch,
    /// Connection of the owner.
    pub connection: ConnectionId,
    /// Sequence in the session; fixes the packet id.
    pub seq: Seq,
    /// What to send.
    pub step: DeliveryStep,
}

/// What a [`Delivery`] asks to send.
#[derive(Clone, Debug, PartialEq)]
pub enum DeliveryStep {
    /// PUBLISH.
    Publish {
        /// The message.
        message: Arc<Message>,
        /// QoS of the delivery, 1 or 2.
        qos: QoS,
        /// RETAIN flag of the delivery.
        retain: bool,
        /// Identifiers of the matching subscriptions.
        subscription_ids: SubscriptionIds,
        /// Whether an earlier connection may have sent it.
        dup: bool,
    },
    /// PUBREL: its PUBREC is recorded `[MQTT-4.4.0-1]`.
    Release,
}

/// A message of a group for one of its members.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupDelivery {
    /// Node of the member's connection.
    pub node_epoch: NodeEpoch,
    /// The member's connection.
    pub connection: ConnectionId,
    /// Ownership it is for.
    pub epoch: Epoch,
    /// What acknowledges it.
    pub group_seq: GroupSeq,
    /// The message.
    pub message: Arc<Message>,
    /// QoS of the delivery, 0 or 1.
    pub qos: QoS,
    /// RETAIN flag of the delivery.
    pub retain: bool,
    /// Identifier of the member's subscription.
    pub subscription_ids: SubscriptionIds,
    /// Whether some member may have been sent it.
    pub dup: bool,
}

/// A client joined a group or left it, came or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembershipRow {
    /// Rises with each row of this shard.
    pub version: u64,
    /// The lowest version that this row stands for: rows of the membership that were replaced
    /// before anybody had heard of them.
    pub since: u64,
    /// The shared filter, which names the group.
    pub filter: Filter,
    /// The client.
    pub client: ClientId,
    /// What it is in the group; `None` when it has left.
    pub member: Option<Member>,
}

impl MembershipRow {
    /// What tells the home shard, if the row is one of shard `source`.
    pub fn to_command(self, source: u16) -> Membership {
        Membership {
            source,
            version: self.version,
            filter: self.filter,
            client: self.client,
            member: self.member,
        }
    }
}

/// A filter's first subscriber in the shard came, or its last one left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRow {
    /// The filter.
    pub filter: Filter,
    /// Whether the shard wants messages that match it.
    pub wanted: bool,
    /// Rises with each row of this shard.
    pub version: u64,
}

/// A will to be published.
#[derive(Clone, Debug, PartialEq)]
pub struct WillRow {
    /// The outbox row.
    pub id: WillId,
    /// Client whose will it is.
    pub client: ClientId,
    /// Ownership of the ended connection.
    pub epoch: Epoch,
    /// The message; authorise it as the client's.
    pub message: Arc<Message>,
}

impl WillRow {
    /// The source that the fan-out items carry, so that a repeat is dropped.
    pub fn origin(&self) -> Origin {
        Origin {
            client: self.client.clone(),
            kind: OriginKind::Will,
            incarnation: self.epoch,
            n: 0,
            floor: 0,
        }
    }

    /// The stamp of its retained message: above all of that connection, below any newer one's.
    pub fn stamp(&self) -> Stamp {
        Stamp {
            publisher: Some(self.client.clone()),
            epoch: self.epoch,
            seq: u64::MAX,
        }
    }
}

/// A connected persistent session, or a member of a group, that takes a message at QoS 0, past
/// any queue.
#[derive(Clone, Debug, PartialEq)]
pub struct QoS0Recipient {
    /// Node of the owner.
    pub node_epoch: NodeEpoch,
    /// Connection of the owner.
    pub connection: ConnectionId,
    /// Its merged subscriptions.
    pub matched: crate::Match,
}
