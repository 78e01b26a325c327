//! Packets on their way out.

use bytes::BytesMut;

use super::encode_properties as properties;
use super::sink::{Counter, Sink, VARINT_MAX};
use super::{AckKind, PublishRef, TooLarge};
use crate::*;

/// Appends a packet.
///
/// What the version cannot say is not written: in 3.1.1 an AUTH, a DISCONNECT with another reason
/// than Success (a client without one just closes, and a server has none to send), and a CONNACK
/// whose reason has no return code `[MQTT-3.2.2-6]` (3.1.1).
///
/// # Panics
/// A binary field longer than 65 535 bytes, a packet longer than 268 435 455, or a PUBLISH whose
/// packet id or DUP does not go with its QoS: no decoded packet has them.
pub fn encode(packet: &Packet, version: Version, out: &mut BytesMut) {
    encode_keeping(packet, version, Keep::All, out);
}

/// How many bytes [`encode`] appends.
pub fn encoded_len(packet: &Packet, version: Version) -> usize {
    len_keeping(packet, version, Keep::All)
}

/// Appends a packet of at most `bytes_max` bytes, the receiver's Maximum Packet Size
/// `[MQTT-3.1.2-24]`. To fit, user properties go first, then the reason string
/// (`[MQTT-3.2.2-19]`, `[MQTT-3.2.2-20]` and their like); those of a PUBLISH never go.
///
/// # Errors
/// [`TooLarge`]: it does not fit even so, and nothing was written.
///
/// # Panics
/// As [`encode`].
pub fn encode_within(
    packet: &Packet,
    version: Version,
    bytes_max: u32,
    out: &mut BytesMut,
) -> Result<(), TooLarge> {
    let mut bytes = 0;
    for keep in [Keep::All, Keep::ReasonString, Keep::Neither] {
        bytes = len_keeping(packet, version, keep);
        if bytes <= bytes_max as usize {
            encode_keeping(packet, version, keep, out);
            return Ok(());
        }
    }
    Err(TooLarge { bytes, bytes_max })
}

/// Appends a PUBLISH; properties, alias and identifiers only in MQTT 5.
///
/// # Panics
/// As [`encode`].
pub fn encode_publish(publish: &PublishRef<'_>, version: Version, out: &mut BytesMut) {
    let remaining = publish_remaining(publish, version);
    out.reserve(5 + remaining as usize);
    out.u8(publish_first_byte(publish));
    out.varint(remaining);
    write_publish_head(publish, version, out);
    out.put(publish.payload);
}

/// How many bytes [`encode_publish`] appends.
pub fn encoded_publish_len(publish: &PublishRef<'_>, version: Version) -> usize {
    frame_len(publish_remaining(publish, version))
}

/// Appends a successful acknowledgement: 4 bytes, the same in both versions.
pub fn encode_ack(kind: AckKind, packet_id: PacketId, out: &mut BytesMut) {
    let [high, low] = packet_id.get().to_be_bytes();
    out.put(&[kind.first_byte(), 2, high, low]);
}

/// Which of the parts that may be dropped for size stay.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    All,
    ReasonString,
    Neither,
}

fn encode_keeping(packet: &Packet, version: Version, keep: Keep, out: &mut BytesMut) {
    if let Packet::Publish(publish) = packet {
        return encode_publish(&publish.into(), version, out);
    }
    if !can_say(packet, version) {
        return;
    }
    let remaining = remaining(packet, version, keep);
    out.reserve(5 + remaining as usize);
    out.u8(first_byte(packet));
    out.varint(remaining);
    write_body(packet, version, keep, out);
}

fn len_keeping(packet: &Packet, version: Version, keep: Keep) -> usize {
    match packet {
        Packet::Publish(publish) => encoded_publish_len(&publish.into(), version),
        packet if can_say(packet, version) => frame_len(remaining(packet, version, keep)),
        _ => 0,
    }
}

fn remaining(packet: &Packet, version: Version, keep: Keep) -> u32 {
    let mut counter = Counter::default();
    write_body(packet, version, keep, &mut counter);
    counter.len()
}

/// Fixed header and what follows it.
fn frame_len(remaining: u32) -> usize {
    let varint_len = match remaining {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    };
    1 + varint_len + remaining as usize
}

fn can_say(packet: &Packet, version: Version) -> bool {
    match (version, packet) {
        (Version::V5, _) => true,
        (Version::V311, Packet::Auth(_)) => false,
        (Version::V311, Packet::Disconnect(disconnect)) => disconnect.reason == ReasonCode::Success,
        (Version::V311, Packet::ConnAck(connack)) => connack.reason.return_code_v311().is_some(),
        (Version::V311, _) => true,
    }
}

fn first_byte(packet: &Packet) -> u8 {
    match packet {
        Packet::Connect(_) => 0x10,
        Packet::ConnAck(_) => 0x20,
        Packet::Publish(publish) => publish_first_byte(&publish.into()),
        Packet::PubAck(_) => AckKind::PubAck.first_byte(),
        Packet::PubRec(_) => AckKind::PubRec.first_byte(),
        Packet::PubRel(_) => AckKind::PubRel.first_byte(),
        Packet::PubComp(_) => AckKind::PubComp.first_byte(),
        Packet::Subscribe(_) => 0x82,
        Packet::SubAck(_) => 0x90,
        Packet::Unsubscribe(_) => 0xA2,
        Packet::UnsubAck(_) => 0xB0,
        Packet::PingReq => 0xC0,
        Packet::PingResp => 0xD0,
        Packet::Disconnect(_) => 0xE0,
        Packet::Auth(_) => 0xF0,
    }
}

impl AckKind {
    fn first_byte(self) -> u8 {
        match self {
            Self::PubAck => 0x40,
            Self::PubRec => 0x50,
            Self::PubRel => 0x62,
            Self::PubComp => 0x70,
        }
    }
}

fn write_body(packet: &Packet, version: Version, keep: Keep, out: &mut impl Sink) {
    match packet {
        Packet::Connect(connect) => write_connect(connect, out),
        Packet::ConnAck(connack) => write_connack(connack, version, keep, out),
        Packet::Publish(publish) => {
            write_publish_head(&publish.into(), version, out);
            out.put(&publish.payload);
        }
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            write_ack(ack, version, keep, out);
        }
        Packet::Subscribe(subscribe) => write_subscribe(subscribe, version, out),
        Packet::SubAck(suback) => {
            write_codes_head(suback, version, keep, out);
            for reason in &suback.reasons {
                out.u8(suback_code(*reason, version));
            }
        }
        Packet::Unsubscribe(unsubscribe) => write_unsubscribe(unsubscribe, version, out),
        Packet::UnsubAck(unsuback) => {
            write_codes_head(unsuback, version, keep, out);
            if version == Version::V5 {
                unsuback
                    .reasons
                    .iter()
                    .for_each(|reason| out.u8(*reason as u8));
            }
        }
        Packet::PingReq | Packet::PingResp => {}
        Packet::Disconnect(disconnect) => {
            if version == Version::V5 {
                write_disconnect(disconnect, keep, out);
            }
        }
        Packet::Auth(auth) => write_auth(auth, keep, out),
    }
}

fn write_connect(connect: &Connect, out: &mut impl Sink) {
    out.binary(b"MQTT");
    out.u8(match connect.version {
        Version::V311 => 4,
        Version::V5 => 5,
    });
    let mut flags = u8::from(connect.clean_start) << 1;
    if let Some(will) = &connect.will {
        flags |= 0x04 | (will.qos as u8) << 3 | u8::from(will.retain) << 5;
    }
    flags |= u8::from(connect.password.is_some()) << 6;
    flags |= u8::from(connect.user_name.is_some()) << 7;
    out.u8(flags);
    out.u16(connect.keep_alive_s);
    let has_properties = connect.version == Version::V5;
    if has_properties {
        out.block(|out| properties::connect(&connect.properties, out));
    }
    out.text(&connect.client_id);
    if let Some(will) = &connect.will {
        if has_properties {
            out.block(|out| properties::will(will, out));
        }
        out.text(will.topic.text());
        out.binary(&will.payload);
    }
    if let Some(user_name) = &connect.user_name {
        out.text(user_name);
    }
    if let Some(password) = &connect.password {
        out.binary(password);
    }
}

fn write_connack(connack: &ConnAck, version: Version, keep: Keep, out: &mut impl Sink) {
    out.u8(u8::from(connack.session_present));
    match version {
        Version::V311 => {
            out.u8(connack
                .reason
                .return_code_v311()
                .expect("else it is not written at all"));
        }
        Version::V5 => {
            out.u8(connack.reason as u8);
            out.block(|out| properties::connack(&connack.properties, keep, out));
        }
    }
}

impl<'a> From<&'a Publish> for PublishRef<'a> {
    fn from(publish: &'a Publish) -> Self {
        Self {
            dup: publish.dup,
            qos: publish.qos,
            retain: publish.retain,
            topic: &publish.topic,
            packet_id: publish.packet_id,
            payload: &publish.payload,
            topic_alias: publish.topic_alias,
            subscription_ids: &publish.subscription_ids,
            properties: publish.properties.as_deref(),
            message_expiry_s: None,
        }
    }
}

fn publish_first_byte(publish: &PublishRef<'_>) -> u8 {
    0x30 | u8::from(publish.dup) << 3 | (publish.qos as u8) << 1 | u8::from(publish.retain)
}

fn publish_remaining(publish: &PublishRef<'_>, version: Version) -> u32 {
    let mut counter = Counter::default();
    write_publish_head(publish, version, &mut counter);
    counter.put(publish.payload);
    counter.len()
}

fn write_publish_head(publish: &PublishRef<'_>, version: Version, out: &mut impl Sink) {
    //# [MQTT-2.2.1-2] A PUBLISH packet MUST NOT contain a Packet Identifier if its QoS value is
    //# set to 0.
    assert_eq!(
        publish.packet_id.is_some(),
        publish.qos != QoS::AtMostOnce,
        "packet id present exactly with QoS > 0 [MQTT-2.2.1-2] [MQTT-2.2.1-4]"
    );
    //# [MQTT-3.3.1-2] The DUP flag MUST be set to 0 for all QoS 0 messages.
    assert!(
        !publish.dup || publish.qos != QoS::AtMostOnce,
        "DUP at QoS 0 [MQTT-3.3.1-2]"
    );
    out.binary(publish.topic.as_bytes());
    if let Some(packet_id) = publish.packet_id {
        out.u16(packet_id.get());
    }
    if version == Version::V5 {
        out.block(|out| properties::publish(publish, out));
    }
}

fn write_ack(ack: &Ack, version: Version, keep: Keep, out: &mut impl Sink) {
    out.u16(ack.packet_id.get());
    if version == Version::V311 {
        return;
    }
    if properties::has_reason_properties(ack.properties.as_deref(), keep) {
        out.u8(ack.reason as u8);
        out.block(|out| properties::reason(ack.properties.as_deref(), keep, out));
    } else if ack.reason != ReasonCode::Success {
        out.u8(ack.reason as u8);
    }
}

fn write_subscribe(subscribe: &Subscribe, version: Version, out: &mut impl Sink) {
    out.u16(subscribe.packet_id.get());
    if version == Version::V5 {
        out.block(|out| properties::subscribe(subscribe, out));
    }
    for (filter, options) in &subscribe.filters {
        out.text(filter.text());
        out.u8(match version {
            Version::V311 => options.qos as u8,
            Version::V5 => {
                options.qos as u8
                    | u8::from(options.no_local) << 2
                    | u8::from(options.retain_as_published) << 3
                    | (options.retain_handling as u8) << 4
            }
        });
    }
}

fn write_unsubscribe(unsubscribe: &Unsubscribe, version: Version, out: &mut impl Sink) {
    out.u16(unsubscribe.packet_id.get());
    if version == Version::V5 {
        out.block(|out| properties::user(&unsubscribe.user_properties, out));
    }
    for filter in &unsubscribe.filters {
        out.text(filter.text());
    }
}

fn write_codes_head(suback: &SubAck, version: Version, keep: Keep, out: &mut impl Sink) {
    out.u16(suback.packet_id.get());
    if version == Version::V5 {
        out.block(|out| properties::reason(suback.properties.as_deref(), keep, out));
    }
}

/// `[MQTT-3.9.3-2]` (3.1.1): only 0, 1, 2 and 0x80.
fn suback_code(reason: ReasonCode, version: Version) -> u8 {
    match version {
        Version::V311 if reason.is_error() => 0x80,
        _ => reason as u8,
    }
}

fn write_disconnect(disconnect: &Disconnect, keep: Keep, out: &mut impl Sink) {
    if properties::disconnect_has_any(disconnect, keep) {
        out.u8(disconnect.reason as u8);
        out.block(|out| properties::disconnect(disconnect, keep, out));
    } else if disconnect.reason != ReasonCode::Success {
        out.u8(disconnect.reason as u8);
    }
}

/// Reason and length may be left out only together (§3.15.2.1).
fn write_auth(auth: &Auth, keep: Keep, out: &mut impl Sink) {
    let has_properties = auth.authentication_method.is_some()
        || auth.authentication_data.is_some()
        || properties::has_reason_properties(auth.properties.as_deref(), keep);
    if has_properties || auth.reason != ReasonCode::Success {
        out.u8(auth.reason as u8);
        out.block(|out| properties::auth(auth, keep, out));
    }
}

const _: () = assert!(
    VARINT_MAX as usize <= usize::MAX - 5,
    "a frame's length fits a usize"
);
