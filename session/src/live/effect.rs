//! What a connection asks its shell to do.

use std::sync::Arc;

use bytes::Bytes;
pub use mqtt::AckKind;
use mqtt::{ClientId, Filter, Packet, PacketId, Publish, QoS, ReasonCode, SubscriptionIds, Text};

use crate::{
    Acks, Close, Command, Epoch, GroupSeq, Identity, Message, Open, Origin, Seq, Subscription,
    Token,
};

/// Work for the shell, in order. Nothing is sent after [`Effect::Close`].
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Write a packet.
    Send(Packet),
    /// Write PUBACK, PUBREC, PUBREL or PUBCOMP without properties.
    Ack(Ack),
    /// Write a PUBLISH straight from a shared message.
    Deliver(Outgoing),
    /// Check credentials; answer with [`crate::Live::handle_admitted`] or
    /// [`crate::Live::handle_refused`].
    Authenticate(Box<Credentials>),
    /// Commit [`Command::Open`]; the shell fills `expected_epoch` and tries again on
    /// [`crate::Answer::WrongEpoch`] while the socket is open. Answer with
    /// [`crate::Live::handle_opened`].
    Open(Box<Open>),
    /// Fan a PUBLISH out; its topic alias is resolved. With a token, call
    /// [`crate::Live::handle_settled`] once every obligation is settled; without one (QoS 0)
    /// nothing comes back. Authorisation belongs here: a refusal is settled with
    /// [`ReasonCode::NotAuthorized`] before anything is fanned out.
    Publish(Box<Inbound>),
    /// Commit a command of the client's own shard; answer with [`crate::Live::handle_answer`].
    /// For [`Command::Subs`] and [`Command::Unsubs`] only once the versions in the answer are
    /// applied wherever they must be, and the memberships in the home shards.
    Propose {
        /// Ties the answer to the request.
        token: Token,
        /// The command.
        command: Box<Command>,
    },
    /// [`crate::Live::handle_doubt`] is answered: the session is this connection's.
    Confirmed,
    /// The subscriber acknowledged (PUBACK, PUBCOMP) a persistent session's message: batch it
    /// into [`Command::Ack`] (see [`crate::Live::acks`]).
    Acked(Seq),
    /// The subscriber acknowledged a message of a group, or needs not to: batch it into
    /// [`Command::GroupAck`] of the group's home shard.
    SharedAcked(Box<GroupSeq>),
    /// Put these subscriptions of a clean session into the node's router, replacing those with
    /// the same filter; then [`crate::Live::handle_settled`]. Messages may arrive at once.
    Subscribe {
        /// Ties the answer to the request.
        token: Token,
        /// The subscriptions.
        subscriptions: Vec<(Filter, Subscription)>,
    },
    /// Take these filters of a clean session out of the router; then
    /// [`crate::Live::handle_settled`].
    Unsubscribe {
        /// Ties the answer to the request.
        token: Token,
        /// The filters.
        filters: Vec<Filter>,
    },
    /// Ask every shard that may have some for the retained messages of each filter
    /// ([`crate::Durable::retained_matching`], at most `limit` rows a filter); answer with
    /// [`crate::Live::handle_retained`].
    Retained {
        /// Ties the answer to the request.
        token: Token,
        /// The filters, each once.
        filters: Vec<Filter>,
        /// Most rows wanted for one filter.
        limit: usize,
    },
    /// A filter of a persistent session met this one of [`crate::Config::persistent_rules`],
    /// and its policy was followed: count it. Nothing comes back.
    PersistentRule(usize),
    /// Flush, close the socket, drop the connection's router rows. The last effect.
    Close(Box<Closed>),
}

/// An acknowledgement without properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Which packet.
    pub kind: AckKind,
    /// The packet id it answers.
    pub packet_id: PacketId,
    /// Result, not written in 3.1.1.
    pub reason: ReasonCode,
}

impl Ack {
    /// The packet it stands for.
    pub fn to_packet(self) -> Packet {
        let ack = mqtt::Ack {
            packet_id: self.packet_id,
            reason: self.reason,
            properties: None,
        };
        match self.kind {
            AckKind::PubAck => Packet::PubAck(ack),
            AckKind::PubRec => Packet::PubRec(ack),
            AckKind::PubRel => Packet::PubRel(ack),
            AckKind::PubComp => Packet::PubComp(ack),
        }
    }
}

/// A PUBLISH to the client, from a message that others share.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    /// The message; its own `qos`, `retain` and expiry are overridden by the fields here.
    pub message: Arc<Message>,
    /// Present exactly with QoS > 0.
    pub packet_id: Option<PacketId>,
    /// QoS of this delivery.
    pub qos: QoS,
    /// RETAIN flag of this delivery.
    pub retain: bool,
    /// Whether it may be a re-delivery `[MQTT-3.3.1-1]`.
    pub dup: bool,
    /// Identifiers of the matching subscriptions.
    pub subscription_ids: SubscriptionIds,
    /// Message Expiry Interval that is left, in seconds `[MQTT-3.3.2-6]`.
    pub expiry_s: Option<u32>,
}

impl Outgoing {
    /// The same for [`mqtt::encode_publish`], borrowed.
    pub fn as_publish_ref(&self) -> mqtt::PublishRef<'_> {
        mqtt::PublishRef {
            dup: self.dup,
            qos: self.qos,
            retain: self.retain,
            topic: &self.message.topic,
            packet_id: self.packet_id,
            payload: &self.message.payload,
            topic_alias: None,
            subscription_ids: &self.subscription_ids,
            properties: self.message.properties.as_deref(),
            message_expiry_s: self.expiry_s,
        }
    }

    /// The packet it stands for. Copies the properties, if there are any.
    pub fn to_publish(&self) -> Publish {
        let properties = self.message.properties.as_ref().map(|p| {
            let mut p = p.clone();
            p.message_expiry_s = self.expiry_s;
            p
        });
        Publish {
            dup: self.dup,
            qos: self.qos,
            retain: self.retain,
            topic: self.message.topic.clone(),
            packet_id: self.packet_id,
            payload: self.message.payload.clone(),
            topic_alias: None,
            subscription_ids: self.subscription_ids.clone(),
            properties,
        }
    }
}

/// A PUBLISH from the client.
#[derive(Clone, Debug, PartialEq)]
pub struct Inbound {
    /// Present with QoS > 0: something is owed.
    pub token: Option<Token>,
    /// The packet, its topic complete.
    pub publish: Publish,
    /// Number of this PUBLISH within the connection, from 0: the `seq` of a
    /// [`crate::Stamp`].
    pub seq: u64,
    /// Source of a QoS 2 message of a persistent session, for the fan-out items.
    pub origin: Option<Box<Origin>>,
}

/// What an authenticator needs.
#[derive(Clone, PartialEq)]
pub struct Credentials {
    /// The client id; `None` when the server shall assign one.
    pub client: Option<ClientId>,
    /// User name.
    pub user_name: Option<Text>,
    /// Password; never printed.
    pub password: Option<Bytes>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("client", &self.client)
            .field("user_name", &self.user_name)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .finish()
    }
}

/// Result of authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Who the client is.
    pub identity: Identity,
    /// The client id: the one in [`Credentials`], or a new unique one where that is `None`
    /// `[MQTT-3.1.3-6]`.
    pub client: ClientId,
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Why.
    pub reason: ReasonCode,
    /// Who ended it.
    pub by: ClosedBy,
    /// To be committed (may be batched); `None` when there is no ownership left to end.
    pub command: Option<Close>,
}

/// Who ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosedBy {
    /// The client, by DISCONNECT.
    Client,
    /// The network, without DISCONNECT.
    Network,
    /// The server, because of what the client sent or failed to send, or on command.
    Server,
}

/// Builds the batch entry for acknowledged sequences.
pub(crate) fn acks(client: &ClientId, epoch: Epoch, seqs: Vec<Seq>) -> Acks {
    Acks {
        client: client.clone(),
        epoch,
        seqs,
    }
}
