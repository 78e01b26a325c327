//! Packets of MQTT 5 that a client with a session needs, written and read by hand.

use std::io;

use crate::process::wire::{self, Packet, V5};

pub(crate) const CONNACK: u8 = 0x20;
pub(crate) const PUBACK: u8 = 0x40;
pub(crate) const PUBREC: u8 = 0x50;
pub(crate) const PUBREL: u8 = 0x62;
pub(crate) const PUBCOMP: u8 = 0x70;
pub(crate) const SUBACK: u8 = 0x90;
pub(crate) const DISCONNECT: u8 = 0xE0;

/// Server unavailable, server busy, server shutting down, use another server.
const PASSING: [u8; 4] = [0x88, 0x89, 0x8B, 0x9C];

/// Reasons from here on are failures.
const FAILURES_FROM: u8 = 0x80;

/// A PUBREL whose PUBCOMP was lost may be answered so: the id is free already.
const PACKET_ID_NOT_FOUND: u8 = 0x92;

/// Filters get no retained messages with their SUBACK: those would count as second deliveries.
const NO_RETAINED: u8 = 0x20;

/// How a client connects; without expiry its session begins and ends with the connection.
pub(crate) struct Connect<'a> {
    pub(crate) id: &'a str,
    pub(crate) expiry_s: u32,
    pub(crate) receive_maximum: u16,
    pub(crate) will: Option<Will<'a>>,
}

/// A will without delay.
pub(crate) struct Will<'a> {
    pub(crate) topic: &'a str,
    pub(crate) qos: u8,
}

impl Connect<'_> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let clean_start = u8::from(self.expiry_s == 0) << 1;
        let will = self.will.as_ref().map_or(0, |will| 0x04 | (will.qos << 3));
        let mut body = wire::string("MQTT");
        body.extend([V5, clean_start | will, 0, 0]);
        body.extend([8, 0x11]);
        body.extend(self.expiry_s.to_be_bytes());
        body.push(0x21);
        body.extend(self.receive_maximum.to_be_bytes());
        body.extend(wire::string(self.id));
        if let Some(will) = &self.will {
            body.push(0);
            body.extend(wire::string(will.topic));
            body.extend(wire::string("gone"));
        }
        wire::packet(0x10, &body)
    }
}

/// Whether a CONNACK says that there is a session.
///
/// # Errors
/// `NotConnected` when it says that the client is to come again, or elsewhere.
///
/// # Panics
/// When it is none, or refuses for another reason.
pub(crate) fn session_present(connack: &Packet) -> io::Result<bool> {
    let reason = connack.body[1];
    assert_eq!(connack.first, CONNACK, "{connack:?}");
    if PASSING.contains(&reason) {
        return Err(io::Error::new(
            io::ErrorKind::NotConnected,
            format!("refused with {reason:#x}"),
        ));
    }
    assert_eq!(reason, 0, "the client may connect: {connack:?}");
    Ok(connack.body[0] & 1 == 1)
}

/// Whether a packet is anything but a DISCONNECT.
///
/// # Errors
/// `NotConnected` when it says that the client is to come again, or elsewhere.
///
/// # Panics
/// When it is a DISCONNECT for another reason.
pub(crate) fn not_closing(packet: &Packet) -> io::Result<()> {
    if packet.first != DISCONNECT {
        return Ok(());
    }
    let reason = packet.body.first().copied().unwrap_or(0);
    assert!(PASSING.contains(&reason), "closed with {reason:#x}");
    Err(io::Error::new(
        io::ErrorKind::NotConnected,
        format!("closed with {reason:#x}"),
    ))
}

/// A PUBLISH; with QoS 0 its packet id is no part of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(crate) topic: String,
    pub(crate) payload: String,
    pub(crate) qos: u8,
    pub(crate) id: u16,
    pub(crate) dup: bool,
    pub(crate) retain: bool,
}

impl Publish {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let flags = u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        let mut body = wire::string(&self.topic);
        if self.qos > 0 {
            body.extend(self.id.to_be_bytes());
        }
        body.push(0);
        body.extend(self.payload.as_bytes());
        wire::packet(0x30 | flags, &body)
    }

    /// Reads a PUBLISH; `None` for another packet.
    pub(crate) fn decode(packet: &Packet) -> Option<Self> {
        if packet.first & 0xF0 != 0x30 {
            return None;
        }
        let (length, rest) = packet.body.split_first_chunk().expect("a topic");
        let (topic, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)));
        let qos = packet.first >> 1 & 3;
        let (id, rest) = match qos {
            0 => (&[0, 0], rest),
            _ => rest.split_first_chunk().expect("QoS 1 or 2 has one"),
        };
        let (properties, rest) = rest.split_first().expect("MQTT 5");
        let payload = &rest[usize::from(*properties)..];
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("sent as text");
        Some(Self {
            topic: text(topic),
            payload: text(payload),
            qos,
            id: u16::from_be_bytes(*id),
            dup: packet.first & 0x08 != 0,
            retain: packet.first & 0x01 != 0,
        })
    }
}

/// A SUBSCRIBE with packet id 1.
pub(crate) fn subscribe(filters: &[impl AsRef<str>], qos: u8) -> Vec<u8> {
    subscribe_with(filters, qos | NO_RETAINED)
}

/// A SUBSCRIBE with packet id 1 and these options for each filter.
pub(crate) fn subscribe_with(filters: &[impl AsRef<str>], options: u8) -> Vec<u8> {
    let mut body = vec![0, 1, 0];
    for filter in filters {
        body.extend(wire::string(filter.as_ref()));
        body.push(options);
    }
    wire::packet(0x82, &body)
}

/// An acknowledgement without a reason, which means success.
pub(crate) fn ack(first: u8, id: u16) -> Vec<u8> {
    wire::packet(first, &id.to_be_bytes())
}

/// The id that a PUBACK, PUBREC, PUBREL or PUBCOMP names.
///
/// # Panics
/// When its reason is a failure.
pub(crate) fn acknowledged(packet: &Packet) -> u16 {
    let reason = packet.body.get(2).copied().unwrap_or(0);
    let known = reason < FAILURES_FROM
        || (reason == PACKET_ID_NOT_FOUND && matches!(packet.first, PUBREL | PUBCOMP));
    assert!(known, "a failure: {packet:?}");
    packet.id()
}

/// Publisher and number of a retained message that came with QoS 0.
pub(crate) fn retained_number(packet: &Packet) -> (usize, u32) {
    let (length, rest) = packet.body.split_first_chunk().expect("a topic");
    let rest = &rest[usize::from(u16::from_be_bytes(*length))..];
    let payload = &rest[1 + usize::from(rest[0])..];
    numbers(std::str::from_utf8(payload).expect("sent as text"))
}

/// Publisher and number as a payload says them.
pub(crate) fn numbers(payload: &str) -> (usize, u32) {
    let (publisher, number) = payload.split_once(' ').expect("as sent");
    let number = number.parse().expect("as sent");
    (publisher.parse().expect("as sent"), number)
}
