//! The message that queues, retained rows and deliveries share.

use bytes::{Bytes, BytesMut};
use mqtt::{
    ClientId, Filter, Publish, PublishProperties, QoS, SubscribeOptions, SubscriptionIds, Text,
    Topic,
};
use std::num::NonZeroU32;

use crate::{Epoch, Seq, WallMs};

/// Bytes accounted for a message beyond its texts and payload: the value itself, its reference
/// counts and one queue entry.
pub const MESSAGE_OVERHEAD_BYTES: usize = 256;

/// Payloads up to this many bytes are copied: in a slow subscriber's queue each would else hold a
/// whole read buffer, many times its size.
const COPIED_BYTES_MAX: usize = 8 << 10;

/// An application message on its way to subscribers. Always behind an `Arc`.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Topic it was published to.
    pub topic: Topic,
    /// Payload.
    pub payload: Bytes,
    /// QoS it was published with.
    pub qos: QoS,
    /// RETAIN flag it was published with.
    pub retain: bool,
    /// The properties that travel with it; `message_expiry_s` is as published.
    pub properties: Option<Box<PublishProperties>>,
    /// Client that published it; `None` for the broker's own messages.
    pub publisher: Option<ClientId>,
    /// When the broker received it.
    pub received: WallMs,
    /// When it expires (`received` + Message Expiry Interval), if ever.
    pub expiry: Option<WallMs>,
}

impl Message {
    /// Makes a message of a PUBLISH whose topic alias is resolved.
    ///
    /// One that may be stored (QoS > 0 or RETAIN), or is small, is copied out of the read buffer,
    /// so that [`Self::bytes`] is what it really holds; a large QoS 0 message shares the buffer.
    pub fn from_publish(publish: Publish, publisher: Option<ClientId>, received: WallMs) -> Self {
        let stored = publish.qos != QoS::AtMostOnce || publish.retain;
        let copied = stored || publish.payload.len() <= COPIED_BYTES_MAX;
        let expiry_s = publish.properties.as_ref().and_then(|p| p.message_expiry_s);
        let mut message = Self {
            topic: publish.topic,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            properties: publish.properties,
            publisher,
            received,
            expiry: expiry_s.map(|s| received.plus_s(u64::from(s))),
        };
        if copied {
            message.detach();
        }
        message
    }

    /// Bytes this message is accounted with wherever it is held: payload, topic, property texts
    /// and [`MESSAGE_OVERHEAD_BYTES`]. Each holder (queue, retained store) accounts the whole.
    pub fn bytes(&self) -> usize {
        let properties = self.properties.as_ref().map_or(0, |p| properties_bytes(p));
        MESSAGE_OVERHEAD_BYTES + self.topic.len() + self.payload.len() + properties
    }

    /// Whether its Message Expiry Interval has passed.
    pub fn is_expired(&self, now: WallMs) -> bool {
        self.expiry.is_some_and(|at| at <= now)
    }

    /// Seconds of its Message Expiry Interval that are left, at least 1, as forwarded
    /// `[MQTT-3.3.2-6]`.
    pub fn expiry_left_s(&self, now: WallMs) -> Option<u32> {
        let left = self.expiry?.0.saturating_sub(now.0).div_ceil(1000).max(1);
        Some(u32::try_from(left).unwrap_or(u32::MAX))
    }

    fn detach(&mut self) {
        self.topic = self.topic.detach();
        self.payload = copy(&self.payload);
        if let Some(properties) = &mut self.properties {
            detach_properties(properties);
        }
    }
}

fn copy(bytes: &Bytes) -> Bytes {
    BytesMut::from(&bytes[..]).freeze()
}

fn properties_bytes(p: &PublishProperties) -> usize {
    let pair = |(name, value): &(Text, Text)| 64 + name.len() + value.len();
    std::mem::size_of::<PublishProperties>()
        + p.response_topic.as_ref().map_or(0, |t| t.len())
        + p.correlation_data.as_ref().map_or(0, Bytes::len)
        + p.content_type.as_ref().map_or(0, |t| t.len())
        + p.user_properties.iter().map(pair).sum::<usize>()
}

pub(crate) fn detach_properties(p: &mut PublishProperties) {
    p.response_topic = p.response_topic.as_ref().map(Topic::detach);
    p.correlation_data = p.correlation_data.as_ref().map(copy);
    p.content_type = p.content_type.as_ref().map(Text::detach);
    for (name, value) in &mut p.user_properties {
        *name = name.detach();
        *value = value.detach();
    }
}

/// The source of a QoS 2 message or a will, by which a target drops repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Publishing client.
    pub client: ClientId,
    /// Whether a session or a will speaks; each has a row of its own at the target.
    pub kind: OriginKind,
    /// Session incarnation; for a will, the epoch of the ended connection.
    pub incarnation: Epoch,
    /// Number of the message within the incarnation.
    pub n: u64,
    /// Lowest number that may still be repeated.
    pub floor: u64,
}

/// What sent a message with an [`Origin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OriginKind {
    /// A PUBLISH with QoS 2.
    Session,
    /// A will.
    Will,
}

/// Names a message in the queue of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSeq {
    /// The shared filter that names the group.
    pub filter: Filter,
    /// The group's incarnation: a group that ended and began again counts anew.
    pub incarnation: Epoch,
    /// The message's sequence in the group.
    pub seq: Seq,
}

/// A subscription: the options of one filter and its identifier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    /// Options as granted.
    pub options: SubscribeOptions,
    /// Subscription Identifier.
    pub id: Option<NonZeroU32>,
}

/// All subscriptions of one session that match one message, merged: one copy at the highest QoS
/// `[MQTT-3.3.4-2]` with all identifiers `[MQTT-3.3.4-4]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    qos: Option<QoS>,
    retain_as_published: bool,
    ids: SubscriptionIds,
}

impl Match {
    /// Adds one matching subscription. `own` says that the publisher is the subscriber, whom No
    /// Local excludes `[MQTT-3.8.3-3]`.
    pub fn add(&mut self, subscription: &Subscription, own: bool) {
        if own && subscription.options.no_local {
            return;
        }
        self.qos = self.qos.max(Some(subscription.options.qos));
        self.retain_as_published |= subscription.options.retain_as_published;
        if let Some(id) = subscription.id
            && !self.ids.contains(&id)
        {
            self.ids.push(id);
            self.ids.sort_unstable();
        }
    }

    /// What matched at QoS 0 on another node: RETAIN flag of the delivery and identifiers.
    pub fn of_qos_0(retain: bool, ids: SubscriptionIds) -> Self {
        Self {
            qos: Some(QoS::AtMostOnce),
            retain_as_published: retain,
            ids,
        }
    }

    /// Whether nothing is to be delivered.
    pub fn is_empty(&self) -> bool {
        self.qos.is_none()
    }

    /// QoS of the delivery of a message published with `published`: the lower of both
    /// `[MQTT-3.8.4-8]`.
    pub fn qos(&self, published: QoS) -> QoS {
        self.qos.unwrap_or_default().min(published)
    }

    /// RETAIN flag of the delivery `[MQTT-3.3.1-12]`, `[MQTT-3.3.1-13]`.
    pub fn retain(&self, published: bool) -> bool {
        self.retain_as_published && published
    }

    /// The identifiers of the matching subscriptions, ascending.
    pub fn into_ids(self) -> SubscriptionIds {
        self.ids
    }
}
