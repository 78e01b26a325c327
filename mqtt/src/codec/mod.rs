//! The wire format of both versions, and the only place that knows how they differ.

mod decode;
mod decode_properties;
mod encode;
mod encode_properties;
mod error;
mod header;
mod listed;
mod property;
mod reader;
mod sink;

use std::num::{NonZeroU16, NonZeroU32};

use bytes::{Buf, Bytes, BytesMut};

use crate::{Limits, Packet, PacketId, PublishProperties, QoS, ReasonCode, Version};
use decode::Reading;
pub use encode::{
    encode, encode_ack, encode_publish, encode_within, encoded_len, encoded_publish_len,
};
pub use error::DecodeError;
use header::PacketType;
use reader::peek_varint;

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
        match peek_varint(received.get(1..)?) {
            Ok(Some((remaining, varint_len))) => {
                Some((1 + varint_len + remaining as usize).saturating_sub(received.len()))
            }
            // What is wrong is for `decode` to say.
            Ok(None) | Err(_) => None,
        }
    }

    /// Takes one packet from the front of the buffer. `Ok(None)` when it is not whole yet; then
    /// the buffer is unchanged.
    ///
    /// Strings and payloads share the buffer's memory; [`crate::Text::detach`] what is kept long.
    ///
    /// # Errors
    /// The packet breaks a rule or a limit; a fixed header that is wrong, or announces more than
    /// the limit, at once, before further bytes arrive. The connection has to be closed.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Packet>, DecodeError> {
        let packet = self.decode_front(buf).map_err(|mut error| {
            error.version = error.version.or(self.version);
            error
        })?;
        if let Some(Packet::Connect(connect)) = &packet {
            // A second CONNECT is a protocol error of the session [MQTT-3.1.0-2].
            self.version.get_or_insert(connect.version);
        }
        Ok(packet)
    }

    fn decode_front(&self, buf: &mut BytesMut) -> Result<Option<Packet>, DecodeError> {
        let Some(first_byte) = buf.first().copied() else {
            return Ok(None);
        };
        let kind = PacketType::of(first_byte, self.role, self.version)?;
        let Some((remaining, varint_len)) = peek_varint(&buf[1..])? else {
            return Ok(None);
        };
        let header_len = 1 + varint_len;
        let frame_len = header_len + remaining as usize;
        if frame_len > self.limits.packet_bytes_max as usize {
            return Err(DecodeError::new(
                ReasonCode::PacketTooLarge,
                "packet exceeds the maximum packet size",
                "MQTT-3.2.2-15",
            )
            .with_len(frame_len));
        }
        if buf.len() < frame_len {
            return Ok(None);
        }
        let mut body = buf.split_to(frame_len).freeze();
        body.advance(header_len);
        self.decode_body(kind, first_byte & 0x0F, body).map(Some)
    }

    fn decode_body(&self, kind: PacketType, flags: u8, body: Bytes) -> Result<Packet, DecodeError> {
        let Some(version) = self.version else {
            return decode::connect(body, &self.limits).map(|it| Packet::Connect(Box::new(it)));
        };
        let reading = Reading {
            role: self.role,
            version,
            limits: &self.limits,
        };
        let (received, released) = (listed::received, listed::released);
        Ok(match kind {
            PacketType::Connect => Packet::Connect(Box::new(decode::connect(body, &self.limits)?)),
            PacketType::ConnAck => Packet::ConnAck(Box::new(decode::connack(body, reading)?)),
            PacketType::Publish => Packet::Publish(decode::publish(flags, body, reading)?),
            PacketType::PubAck => {
                Packet::PubAck(decode::ack(body, reading, received, "MQTT-3.4.2-1")?)
            }
            PacketType::PubRec => {
                Packet::PubRec(decode::ack(body, reading, received, "MQTT-3.5.2-1")?)
            }
            PacketType::PubRel => {
                Packet::PubRel(decode::ack(body, reading, released, "MQTT-3.6.2-1")?)
            }
            PacketType::PubComp => {
                Packet::PubComp(decode::ack(body, reading, released, "MQTT-3.7.2-1")?)
            }
            PacketType::Subscribe => Packet::Subscribe(Box::new(decode::subscribe(body, reading)?)),
            PacketType::SubAck => Packet::SubAck(Box::new(decode::suback(body, reading)?)),
            PacketType::Unsubscribe => {
                Packet::Unsubscribe(Box::new(decode::unsubscribe(body, reading)?))
            }
            PacketType::UnsubAck => Packet::UnsubAck(Box::new(decode::unsuback(body, reading)?)),
            PacketType::PingReq => decode::empty(body, Packet::PingReq)?,
            PacketType::PingResp => decode::empty(body, Packet::PingResp)?,
            PacketType::Disconnect => {
                Packet::Disconnect(Box::new(decode::disconnect(body, reading)?))
            }
            PacketType::Auth => Packet::Auth(Box::new(decode::auth(body, reading)?)),
        })
    }
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
