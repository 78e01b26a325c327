//! The wire format of both versions, and the only place that knows how they differ.

mod error;

use bytes::BytesMut;

use crate::{Limits, Packet, PacketId, PublishProperties, QoS, Version};
pub use error::DecodeError;
use std::num::{NonZeroU16, NonZeroU32};

/// Which side decodes, since each packet goes in certain directions only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads what clients send.
    Server,
    /// Reads what a server sends.
    Client,
}

/// Takes packets from the front of a receive buffer.
///
/// Holds no buffer. A server's decoder learns the version from the CONNECT; before it knows one
/// it accepts nothing else `[MQTT-3.1.0-1]`.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    role: Role,
    version: Option<Version>,
    limits: Limits,
}

impl Decoder {
    /// A server's decoder, for what a client sends from its CONNECT on.
    pub fn new(limits: Limits) -> Self {
        Self {
            role: Role::Server,
            version: None,
            limits,
        }
    }

    /// A client's decoder, for what the server sends to a CONNECT of this version.
    pub fn client(version: Version, limits: Limits) -> Self {
        Self {
            role: Role::Client,
            version: Some(version),
            limits,
        }
    }

    /// The version in use, once it is known.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// Sets the version.
    pub fn set_version(&mut self, version: Version) {
        self.version = Some(version);
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Sets the limits, for instance wider ones after authentication.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// How many bytes the front packet still lacks; `None` while its length is not yet known.
    ///
    /// A hint for the size of the next read: memory is to be taken for bytes received, not for
    /// bytes announced.
    pub fn bytes_missing(&self, received: &[u8]) -> Option<usize> {
        let _ = received;
        unimplemented!()
    }

    /// Takes one packet from the front of the buffer. `Ok(None)` when it is not whole yet; then
    /// the buffer is unchanged.
    ///
    /// Strings and payloads share the buffer's memory; [`crate::Text::detach`] what is kept long.
    ///
    /// # Errors
    /// The packet breaks a rule or a limit; a length above the limit at once, before its bytes
    /// arrive. The connection has to be closed.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Packet>, DecodeError> {
        let _ = (buf, self.role);
        unimplemented!()
    }
}

/// Appends a packet.
///
/// What the version cannot say is not written: in 3.1.1 an AUTH, a DISCONNECT with another reason
/// than Success (a client without one just closes, and a server has none to send), and a CONNACK
/// whose reason has no return code `[MQTT-3.2.2-6]` (3.1.1).
///
/// # Panics
/// A binary field longer than 65 535 bytes or a packet longer than 268 435 455: no decoded
/// packet has them.
pub fn encode(packet: &Packet, version: Version, out: &mut BytesMut) {
    let _ = (packet, version, out);
    unimplemented!()
}

/// How many bytes [`encode`] appends.
pub fn encoded_len(packet: &Packet, version: Version) -> usize {
    let _ = (packet, version);
    unimplemented!()
}

/// Appends a packet of at most `bytes_max` bytes, the receiver's Maximum Packet Size
/// `[MQTT-3.1.2-24]`. To fit, user properties go first, then the reason string
/// (`[MQTT-3.2.2-19]`, `[MQTT-3.2.2-20]` and their like); those of a PUBLISH never go.
///
/// # Errors
/// [`TooLarge`]: it does not fit even so, and nothing was written.
pub fn encode_within(
    packet: &Packet,
    version: Version,
    bytes_max: u32,
    out: &mut BytesMut,
) -> Result<(), TooLarge> {
    let _ = (packet, version, bytes_max, out);
    unimplemented!()
}

/// The packet exceeds the receiver's Maximum Packet Size `[MQTT-3.1.2-24]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("packet of {bytes} bytes exceeds the receiver's maximum of {bytes_max} [MQTT-3.1.2-24]")]
pub struct TooLarge {
    /// Bytes it takes at least.
    pub bytes: usize,
    /// The receiver's maximum.
    pub bytes_max: u32,
}

/// A PUBLISH put together from borrowed parts, to be encoded without a [`crate::Publish`].
#[derive(Clone, Copy, Debug)]
pub struct PublishRef<'a> {
    /// Whether this may be a re-delivery.
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// RETAIN flag.
    pub retain: bool,
    /// Topic name; empty when `topic_alias` stands for it.
    pub topic: &'a str,
    /// Packet id, present exactly with QoS > 0.
    pub packet_id: Option<PacketId>,
    /// Payload.
    pub payload: &'a [u8],
    /// Topic alias.
    pub topic_alias: Option<NonZeroU16>,
    /// Subscription identifiers.
    pub subscription_ids: &'a [NonZeroU32],
    /// Properties that travel with the message.
    pub properties: Option<&'a PublishProperties>,
    /// What is left of the message expiry, in seconds; replaces the one in `properties`
    /// `[MQTT-3.3.2-6]`.
    pub message_expiry_s: Option<u32>,
}

/// Appends a PUBLISH; properties, alias and identifiers only in MQTT 5.
///
/// # Panics
/// As [`encode`].
pub fn encode_publish(publish: &PublishRef<'_>, version: Version, out: &mut BytesMut) {
    let _ = (publish, version, out);
    unimplemented!()
}

/// How many bytes [`encode_publish`] appends.
pub fn encoded_publish_len(publish: &PublishRef<'_>, version: Version) -> usize {
    let _ = (publish, version);
    unimplemented!()
}

/// The four acknowledgements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckKind {
    /// PUBACK.
    PubAck,
    /// PUBREC.
    PubRec,
    /// PUBREL.
    PubRel,
    /// PUBCOMP.
    PubComp,
}

/// Appends a successful acknowledgement: 4 bytes, the same in both versions.
pub fn encode_ack(kind: AckKind, packet_id: PacketId, out: &mut BytesMut) {
    let _ = (kind, packet_id, out);
    unimplemented!()
}
