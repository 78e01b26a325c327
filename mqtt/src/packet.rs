//! The fifteen packets, in one shape for both protocol versions.
//!
//! What only MQTT 5 carries stands in properties that are absent from a 3.1.1 packet. Rare parts
//! are boxed, so that a [`Publish`] without properties allocates nothing.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;

use crate::{Filter, ReasonCode, Text, Topic};

/// The protocol version a client announced in CONNECT (§3.1.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// MQTT 3.1.1, protocol level 4.
    V311,
    /// MQTT 5.0, protocol level 5.
    V5,
}

/// The quality of service of a message (§4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum QoS {
    /// At most once: no acknowledgement.
    #[default]
    AtMostOnce = 0,
    /// At least once: PUBACK.
    AtLeastOnce = 1,
    /// Exactly once: PUBREC, PUBREL, PUBCOMP.
    ExactlyOnce = 2,
}

/// A non-zero packet identifier `[MQTT-2.2.1-3]`.
pub type PacketId = NonZeroU16;

/// One control packet.
#[derive(Clone, Debug, PartialEq)]
pub enum Packet {
    /// Client requests a connection.
    Connect(Box<Connect>),
    /// Server answers it.
    ConnAck(Box<ConnAck>),
    /// A message, either way.
    Publish(Publish),
    /// QoS 1 acknowledgement.
    PubAck(Ack),
    /// QoS 2, first step of the receiver.
    PubRec(Ack),
    /// QoS 2, second step of the sender.
    PubRel(Ack),
    /// QoS 2, last step of the receiver.
    PubComp(Ack),
    /// Client subscribes.
    Subscribe(Box<Subscribe>),
    /// Server answers it.
    SubAck(Box<SubAck>),
    /// Client unsubscribes.
    Unsubscribe(Box<Unsubscribe>),
    /// Server answers it; in 3.1.1 the codes are not on the wire.
    UnsubAck(Box<SubAck>),
    /// Client asks whether the server lives.
    PingReq,
    /// Server answers it.
    PingResp,
    /// Either side ends the connection (the server only in MQTT 5).
    Disconnect(Box<Disconnect>),
    /// Extended authentication, MQTT 5 only.
    Auth(Box<Auth>),
}

/// CONNECT (§3.1).
#[derive(Clone, Debug, PartialEq)]
pub struct Connect {
    /// Protocol version.
    pub version: Version,
    /// Clean Start (MQTT 5), Clean Session (3.1.1).
    pub clean_start: bool,
    /// Keep alive in seconds, 0 = none.
    pub keep_alive_s: u16,
    /// The client identifier; empty when the client leaves the choice to the server.
    pub client_id: Text,
    /// The will, if any.
    pub will: Option<Box<Will>>,
    /// User name.
    pub user_name: Option<Text>,
    /// Password.
    pub password: Option<Bytes>,
    /// Properties, all at their defaults in 3.1.1.
    pub properties: ConnectProperties,
}

/// Properties of CONNECT (§3.1.2.11).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConnectProperties {
    /// Session Expiry Interval in seconds; `u32::MAX` = never; absent = 0.
    pub session_expiry_s: Option<u32>,
    /// Receive Maximum; absent = 65 535.
    pub receive_maximum: Option<NonZeroU16>,
    /// Maximum Packet Size in bytes; absent = no limit.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Topic Alias Maximum; absent = 0.
    pub topic_alias_maximum: Option<u16>,
    /// Request Response Information; absent = false.
    pub request_response_information: Option<bool>,
    /// Request Problem Information; absent = true.
    pub request_problem_information: Option<bool>,
    /// User properties in order.
    pub user_properties: Vec<(Text, Text)>,
    /// Authentication Method.
    pub authentication_method: Option<Text>,
    /// Authentication Data.
    pub authentication_data: Option<Bytes>,
}

/// The will of a CONNECT (§3.1.3.2).
#[derive(Clone, Debug, PartialEq)]
pub struct Will {
    /// Topic it is published to.
    pub topic: Topic,
    /// Payload.
    pub payload: Bytes,
    /// Quality of service.
    pub qos: QoS,
    /// Whether it is published as a retained message.
    pub retain: bool,
    /// Will Delay Interval in seconds; absent = 0.
    pub delay_s: Option<u32>,
    /// The properties that are forwarded with it.
    pub properties: Option<Box<PublishProperties>>,
}

/// CONNACK (§3.2).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConnAck {
    /// Whether the server holds a session of this client.
    pub session_present: bool,
    /// Result; the codec writes the 3.1.1 return code that stands for it.
    pub reason: ReasonCode,
    /// Properties, not written in 3.1.1.
    pub properties: ConnAckProperties,
}

/// Properties of CONNACK (§3.2.2.3).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConnAckProperties {
    /// Session Expiry Interval in seconds, if the server chose another than the client.
    pub session_expiry_s: Option<u32>,
    /// Receive Maximum; absent = 65 535.
    pub receive_maximum: Option<NonZeroU16>,
    /// Maximum QoS, 0 or 1; absent = 2.
    pub maximum_qos: Option<QoS>,
    /// Retain Available; absent = true.
    pub retain_available: Option<bool>,
    /// Maximum Packet Size in bytes; absent = no limit.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Assigned Client Identifier.
    pub assigned_client_id: Option<Text>,
    /// Topic Alias Maximum; absent = 0.
    pub topic_alias_maximum: Option<u16>,
    /// Reason String.
    pub reason_string: Option<Text>,
    /// User properties in order.
    pub user_properties: Vec<(Text, Text)>,
    /// Wildcard Subscription Available; absent = true.
    pub wildcard_subscription_available: Option<bool>,
    /// Subscription Identifiers Available; absent = true.
    pub subscription_ids_available: Option<bool>,
    /// Shared Subscription Available; absent = true.
    pub shared_subscription_available: Option<bool>,
    /// Server Keep Alive in seconds.
    pub server_keep_alive_s: Option<u16>,
    /// Response Information.
    pub response_information: Option<Text>,
    /// Server Reference.
    pub server_reference: Option<Text>,
    /// Authentication Method.
    pub authentication_method: Option<Text>,
    /// Authentication Data.
    pub authentication_data: Option<Bytes>,
}

/// PUBLISH (§3.3).
#[derive(Clone, Debug, PartialEq)]
pub struct Publish {
    /// Whether this may be a re-delivery.
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// Whether it is (to be) retained.
    pub retain: bool,
    /// Topic name; empty exactly when a topic alias stands for it.
    pub topic: Topic,
    /// Packet id, present exactly with QoS > 0.
    pub packet_id: Option<PacketId>,
    /// Payload.
    pub payload: Bytes,
    /// Topic Alias, MQTT 5.
    pub topic_alias: Option<NonZeroU16>,
    /// Subscription identifiers, only from server to client.
    pub subscription_ids: SubscriptionIds,
    /// The properties that travel with the message; absent in 3.1.1 and when all are absent.
    pub properties: Option<Box<PublishProperties>>,
}

/// Subscription identifiers of a delivery, 1 to 268 435 455 each.
pub type SubscriptionIds = smallvec::SmallVec<[NonZeroU32; 1]>;

/// The properties of PUBLISH that are forwarded with the message (§3.3.2.3).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PublishProperties {
    /// Payload Format Indicator; true = UTF-8.
    pub payload_is_utf8: Option<bool>,
    /// Message Expiry Interval in seconds.
    pub message_expiry_s: Option<u32>,
    /// Response Topic.
    pub response_topic: Option<Topic>,
    /// Correlation Data.
    pub correlation_data: Option<Bytes>,
    /// Content Type.
    pub content_type: Option<Text>,
    /// User properties in order.
    pub user_properties: Vec<(Text, Text)>,
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP (§3.4 to §3.7).
#[derive(Clone, Debug, PartialEq)]
pub struct Ack {
    /// The packet id it answers.
    pub packet_id: PacketId,
    /// Result; `Success` in 3.1.1.
    pub reason: ReasonCode,
    /// Reason string and user properties.
    pub properties: Option<Box<ReasonProperties>>,
}

/// Reason String and User Property, which several packets share.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReasonProperties {
    /// Reason String.
    pub reason_string: Option<Text>,
    /// User properties in order.
    pub user_properties: Vec<(Text, Text)>,
}

/// SUBSCRIBE (§3.8).
#[derive(Clone, Debug, PartialEq)]
pub struct Subscribe {
    /// Packet id.
    pub packet_id: PacketId,
    /// Filters with their options; at least one `[MQTT-3.8.3-2]`.
    pub filters: Vec<(Filter, SubscribeOptions)>,
    /// Subscription Identifier, 1 to 268 435 455.
    pub subscription_id: Option<NonZeroU32>,
    /// User properties in order.
    pub user_properties: Vec<(Text, Text)>,
}

/// Options of one filter in a SUBSCRIBE (§3.8.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SubscribeOptions {
    /// Maximum QoS the client wants.
    pub qos: QoS,
    /// Do not send back what this client published.
    pub no_local: bool,
    /// Keep the RETAIN flag as published.
    pub retain_as_published: bool,
    /// What happens with retained messages at SUBSCRIBE.
    pub retain_handling: RetainHandling,
}

/// Retain Handling (§3.8.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RetainHandling {
    /// Send retained messages at each SUBSCRIBE.
    #[default]
    Send = 0,
    /// Send them only if the subscription is new.
    SendIfNew = 1,
    /// Send none.
    DoNotSend = 2,
}

/// SUBACK or UNSUBACK (§3.9, §3.11).
#[derive(Clone, Debug, PartialEq)]
pub struct SubAck {
    /// The packet id it answers.
    pub packet_id: PacketId,
    /// One code per filter, in the order of the request.
    pub reasons: Vec<ReasonCode>,
    /// Reason string and user properties.
    pub properties: Option<Box<ReasonProperties>>,
}

/// UNSUBSCRIBE (§3.10).
#[derive(Clone, Debug, PartialEq)]
pub struct Unsubscribe {
    /// Packet id.
    pub packet_id: PacketId,
    /// Filters; at least one `[MQTT-3.10.3-2]`.
    pub filters: Vec<Filter>,
    /// User properties in order.
    pub user_properties: Vec<(Text, Text)>,
}

/// DISCONNECT (§3.14).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Disconnect {
    /// Why; `Success` (0x00, normal disconnection) in 3.1.1.
    pub reason: ReasonCode,
    /// Session Expiry Interval in seconds, only from the client.
    pub session_expiry_s: Option<u32>,
    /// Server Reference, only from the server.
    pub server_reference: Option<Text>,
    /// Reason string and user properties.
    pub properties: Option<Box<ReasonProperties>>,
}

/// AUTH (§3.15).
#[derive(Clone, Debug, PartialEq)]
pub struct Auth {
    /// 0x00, 0x18 or 0x19.
    pub reason: ReasonCode,
    /// Authentication Method.
    pub authentication_method: Option<Text>,
    /// Authentication Data.
    pub authentication_data: Option<Bytes>,
    /// Reason string and user properties.
    pub properties: Option<Box<ReasonProperties>>,
}
