//! Pre-encoded packets, patched in place, and the little of MQTT that a load generator reads.

use serde::{Deserialize, Serialize};

/// Bytes at the start of every payload: publisher (4), zero (4), sequence (8), stamp in ns (8),
/// little endian.
pub const PAYLOAD_HEAD_BYTES: usize = 24;

/// Packet types as in the first byte of a packet, without flags.
pub mod kind {
    #![expect(missing_docs, reason = "named after the packets")]
    pub const CONNECT: u8 = 0x10;
    pub const CONNACK: u8 = 0x20;
    pub const PUBLISH: u8 = 0x30;
    pub const PUBACK: u8 = 0x40;
    pub const SUBSCRIBE: u8 = 0x80;
    pub const SUBACK: u8 = 0x90;
    pub const PINGREQ: u8 = 0xC0;
    pub const PINGRESP: u8 = 0xD0;
    pub const DISCONNECT: u8 = 0xE0;
}

/// A ping, in every version.
pub const PINGREQ: [u8; 2] = [kind::PINGREQ, 0];

/// A normal end of a connection, in every version.
pub const DISCONNECT: [u8; 2] = [kind::DISCONNECT, 0];

/// The version of MQTT that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// MQTT 3.1.1.
    #[default]
    V311,
    /// MQTT 5.
    V5,
}

/// Appends a CONNECT. `persistent`: the session outlives the connection, by an hour in MQTT 5.
pub fn connect(to: &mut Vec<u8>, version: Version, client_id: &str, persistent: bool) {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T'];
    body.push(if version == Version::V5 { 5 } else { 4 });
    body.push(if persistent { 0 } else { 2 });
    body.extend(KEEP_ALIVE_S.to_be_bytes());
    if version == Version::V5 {
        // Session Expiry Interval, and Receive Maximum as wide as 3.1.1 has it.
        body.extend([8, 0x11]);
        body.extend((if persistent { 3_600_u32 } else { 0 }).to_be_bytes());
        body.extend([0x21, 0xFF, 0xFF]);
    }
    push_text(&mut body, client_id);
    push_packet(to, kind::CONNECT, &body);
}

/// A generator that stalls this long is broken; brokers set their timers as for real clients.
const KEEP_ALIVE_S: u16 = 600;

/// Appends a SUBSCRIBE with packet id 1.
pub fn subscribe(to: &mut Vec<u8>, version: Version, filter: &str, qos: u8) {
    let mut body = vec![0, 1];
    if version == Version::V5 {
        body.push(0);
    }
    push_text(&mut body, filter);
    body.push(qos);
    push_packet(to, kind::SUBSCRIBE | 2, &body);
}

/// Appends a PUBACK with reason Success.
pub fn puback(to: &mut Vec<u8>, packet_id: u16) {
    let [high, low] = packet_id.to_be_bytes();
    to.extend_from_slice(&[kind::PUBACK, 2, high, low]);
}

fn push_text(to: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect("own topics and ids are short");
    to.extend(length.to_be_bytes());
    to.extend(text.as_bytes());
}

fn push_packet(to: &mut Vec<u8>, first: u8, body: &[u8]) {
    push_head(to, first, body.len());
    to.extend_from_slice(body);
}

fn push_head(to: &mut Vec<u8>, first: u8, mut length: usize) {
    to.push(first);
    loop {
        let byte = (length % 128) as u8;
        length /= 128;
        to.push(if length > 0 { byte | 0x80 } else { byte });
        if length == 0 {
            return;
        }
    }
}

/// Appends a PUBLISH that passes on what came, without its properties.
pub(super) fn push_publish(
    to: &mut Vec<u8>,
    version: Version,
    qos: u8,
    publish: Publish<'_>,
    packet_id: Option<u16>,
) {
    let v5 = usize::from(version == Version::V5);
    let id_bytes = if packet_id.is_some() { 2 } else { 0 };
    let length = 2 + publish.topic.len() + id_bytes + v5 + publish.payload.len();
    push_head(to, kind::PUBLISH | (qos << 1), length);
    to.extend_from_slice(&(publish.topic.len() as u16).to_be_bytes());
    to.extend_from_slice(publish.topic);
    if let Some(id) = packet_id {
        to.extend_from_slice(&id.to_be_bytes());
    }
    if v5 == 1 {
        to.push(0);
    }
    to.extend_from_slice(publish.payload);
}

/// A PUBLISH of which only packet id, sequence and stamp change.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Box<[u8]>,
    packet_id_at: Option<usize>,
    payload_at: usize,
}

impl Template {
    /// Encodes a PUBLISH of `payload_bytes`, raised to [`PAYLOAD_HEAD_BYTES`] where less.
    #[must_use]
    pub fn new(
        version: Version,
        topic: &str,
        qos: u8,
        publisher: u32,
        payload_bytes: usize,
    ) -> Self {
        let mut body = Vec::new();
        push_text(&mut body, topic);
        let id_in_body = (qos > 0).then_some(body.len());
        if qos > 0 {
            body.extend([0, 0]);
        }
        if version == Version::V5 {
            body.push(0);
        }
        let payload_in_body = body.len();
        body.extend(publisher.to_le_bytes());
        body.extend([0; PAYLOAD_HEAD_BYTES - 4]);
        // Printable and not constant, so that neither side gains by a trick.
        let fill = (b' '..=b'~').cycle().skip(publisher as usize % 90);
        body.extend(fill.take(payload_bytes.saturating_sub(PAYLOAD_HEAD_BYTES)));
        let mut bytes = Vec::new();
        push_packet(&mut bytes, kind::PUBLISH | (qos << 1), &body);
        let head = bytes.len() - body.len();
        Self {
            bytes: bytes.into(),
            packet_id_at: id_in_body.map(|at| at + head),
            payload_at: payload_in_body + head,
        }
    }

    /// Length of the packet in bytes.
    #[must_use]
    pub fn packet_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Appends the packet with these values; `packet_id` counts for QoS > 0 only.
    pub fn write(&self, to: &mut Vec<u8>, packet_id: u16, sequence: u64, stamp_ns: u64) {
        let start = to.len();
        to.extend_from_slice(&self.bytes);
        let packet = &mut to[start..];
        if let Some(at) = self.packet_id_at {
            packet[at..at + 2].copy_from_slice(&packet_id.to_be_bytes());
        }
        let head = &mut packet[self.payload_at..self.payload_at + PAYLOAD_HEAD_BYTES];
        head[8..16].copy_from_slice(&sequence.to_le_bytes());
        head[16..24].copy_from_slice(&stamp_ns.to_le_bytes());
    }
}

/// A whole packet at the start of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// First byte: type and flags.
    pub first: u8,
    /// What follows the Remaining Length.
    pub body: &'a [u8],
    /// Length of the whole packet in bytes.
    pub packet_bytes: usize,
}

/// The stream is no MQTT: a Remaining Length of more than four bytes, or a packet too short for
/// its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer sent what is no MQTT")]
pub struct Malformed;

/// Returns the packet at the start of `bytes`; `None` while it is not complete.
///
/// # Errors
/// [`Malformed`].
pub fn frame(bytes: &[u8]) -> Result<Option<Frame<'_>>, Malformed> {
    let Some((&first, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let mut length = 0;
    for at in 0..4 {
        let Some(byte) = rest.get(at) else {
            return Ok(None);
        };
        length |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            let head = at + 2;
            return Ok(bytes.get(head..head + length).map(|body| Frame {
                first,
                body,
                packet_bytes: head + length,
            }));
        }
    }
    Err(Malformed)
}

/// The parts of a PUBLISH that are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Topic in bytes as sent.
    pub topic: &'a [u8],
    /// Packet id, 0 with QoS 0.
    pub packet_id: u16,
    /// Payload.
    pub payload: &'a [u8],
}

/// Reads a PUBLISH.
///
/// # Errors
/// [`Malformed`] when a field does not fit.
pub fn publish(version: Version, first: u8, body: &[u8]) -> Result<Publish<'_>, Malformed> {
    let (length, rest) = body.split_first_chunk::<2>().ok_or(Malformed)?;
    let length = usize::from(u16::from_be_bytes(*length));
    let (topic, mut rest) = rest.split_at_checked(length).ok_or(Malformed)?;
    let mut packet_id = 0;
    if first & 0x06 != 0 {
        let (id, after) = rest.split_first_chunk::<2>().ok_or(Malformed)?;
        packet_id = u16::from_be_bytes(*id);
        rest = after;
    }
    if version == Version::V5 {
        rest = skip_properties(rest)?;
    }
    Ok(Publish {
        topic,
        packet_id,
        payload: rest,
    })
}

fn skip_properties(bytes: &[u8]) -> Result<&[u8], Malformed> {
    let mut length = 0;
    for at in 0..4 {
        let byte = *bytes.get(at).ok_or(Malformed)?;
        length |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return bytes.get(at + 1 + length..).ok_or(Malformed);
        }
    }
    Err(Malformed)
}

/// What the head of a payload says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadHead {
    /// Number of the publisher.
    pub publisher: u32,
    /// Number of the message at its publisher, from 0.
    pub sequence: u64,
    /// When it was sent, or due, in ns of the machine's monotonic clock.
    pub stamp_ns: u64,
}

/// Reads the head of a payload.
///
/// # Errors
/// [`Malformed`] when the payload is shorter than that.
pub fn payload_head(payload: &[u8]) -> Result<PayloadHead, Malformed> {
    let head = payload
        .first_chunk::<PAYLOAD_HEAD_BYTES>()
        .ok_or(Malformed)?;
    let word = |at: usize| -> u64 {
        u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"))
    };
    Ok(PayloadHead {
        publisher: word(0) as u32,
        sequence: word(8),
        stamp_ns: word(16),
    })
}
