//! Packets as text: hexadecimal digits, with strings in quotes.

use bytes::BytesMut;
use tidewire_mqtt::*;

/// `"30 07 0003 'a/b' 6869"` as bytes. Spaces mean nothing outside quotes.
pub(crate) fn bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, part) in text.split('\'').enumerate() {
        if at % 2 == 1 {
            out.extend_from_slice(part.as_bytes());
            continue;
        }
        let digits: Vec<u8> = part
            .chars()
            .filter(|c| !c.is_whitespace())
            .map(|c| c.to_digit(16).expect("a hexadecimal digit") as u8)
            .collect();
        assert!(digits.len().is_multiple_of(2), "half a byte in {part:?}");
        out.extend(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]));
    }
    out
}

/// A packet of less than 128 bytes: first byte, counted length, body.
pub(crate) fn frame(first: u8, body: &str) -> Vec<u8> {
    let body = bytes(body);
    let len = u8::try_from(body.len()).expect("a short packet");
    assert!(len < 0x80, "a short packet");
    [vec![first, len], body].concat()
}

pub(crate) fn decoder(role: Role, version: Version) -> Decoder {
    match role {
        Role::Client => Decoder::client(version, Limits::default()),
        Role::Server => {
            let mut decoder = Decoder::new(Limits::default());
            decoder.set_version(version);
            decoder
        }
    }
}

/// Decodes one packet and checks that nothing is left of it.
pub(crate) fn decode_with(mut decoder: Decoder, wire: &[u8]) -> Result<Packet, DecodeError> {
    let mut buf = BytesMut::from(wire);
    let packet = decoder.decode(&mut buf)?.expect("a whole packet");
    assert!(buf.is_empty(), "{packet:?} leaves {buf:?}");
    Ok(packet)
}

/// What a server with a client of MQTT 5 makes of the packet.
pub(crate) fn from_client_v5(first: u8, body: &str) -> Result<Packet, DecodeError> {
    decode_with(decoder(Role::Server, Version::V5), &frame(first, body))
}

/// What a server with a client of 3.1.1 makes of the packet.
pub(crate) fn from_client_v311(first: u8, body: &str) -> Result<Packet, DecodeError> {
    decode_with(decoder(Role::Server, Version::V311), &frame(first, body))
}

/// What a client of MQTT 5 makes of the packet.
pub(crate) fn from_server_v5(first: u8, body: &str) -> Result<Packet, DecodeError> {
    decode_with(decoder(Role::Client, Version::V5), &frame(first, body))
}

/// What a client of 3.1.1 makes of the packet.
pub(crate) fn from_server_v311(first: u8, body: &str) -> Result<Packet, DecodeError> {
    decode_with(decoder(Role::Client, Version::V311), &frame(first, body))
}

/// What a server makes of a first packet.
pub(crate) fn first_packet(first: u8, body: &str) -> Result<Packet, DecodeError> {
    decode_with(Decoder::new(Limits::default()), &frame(first, body))
}

#[track_caller]
pub(crate) fn assert_refused(
    result: Result<Packet, DecodeError>,
    reason: ReasonCode,
    clause: &str,
) {
    match result {
        Ok(packet) => panic!("accepted {packet:?} against [{clause}]"),
        Err(error) => assert_eq!((error.reason, error.clause), (reason, clause), "{error}"),
    }
}

#[track_caller]
pub(crate) fn assert_malformed(result: Result<Packet, DecodeError>, clause: &str) {
    assert_refused(result, ReasonCode::MalformedPacket, clause);
}

#[track_caller]
pub(crate) fn assert_protocol_error(result: Result<Packet, DecodeError>, clause: &str) {
    assert_refused(result, ReasonCode::ProtocolError, clause);
}

pub(crate) fn text(text: &str) -> Text {
    Text::try_from(text).expect("an MQTT string")
}

pub(crate) fn topic(text: &str) -> Topic {
    Topic::try_from(text).expect("a topic name")
}

pub(crate) fn filter(text: &str) -> Filter {
    Filter::try_from(text).expect("a topic filter")
}

pub(crate) fn id(id: u16) -> PacketId {
    PacketId::new(id).expect("not zero")
}
