//! Encoding and decoding is the identity, for packets drawn from any bytes; shared with `fuzz/`.

use bytes::BytesMut;
use tidewire_mqtt::*;

use crate::generate::{Source, packet};

/// Draws packets until the bytes are used up. The first byte chooses version and side.
///
/// # Panics
/// When a packet is another one after it was encoded and decoded, when its length was told wrong,
/// or when a maximum size costs more than what may be left out.
pub(crate) fn roundtrip(bytes: &[u8]) {
    let Some((side, bytes)) = bytes.split_first() else {
        return;
    };
    let version = [Version::V311, Version::V5][usize::from(side & 1)];
    let role = [Role::Server, Role::Client][usize::from(side >> 1 & 1)];
    let mut source = Source(bytes);
    let mut packets = Vec::new();
    let mut stream = BytesMut::new();
    while !source.0.is_empty() {
        let bytes_max = u32::from(source.byte());
        let packet = packet(&mut source, version, role);

        let before = stream.len();
        encode(&packet, version, &mut stream);
        let len = stream.len() - before;

        assert_eq!(len, encoded_len(&packet, version), "{packet:?}");
        assert_fits(&packet, version, role, bytes_max);
        packets.push(packet);
    }
    assert_eq!(decoded(decoder(role, version), stream), packets);
}

/// Encodes within a maximum: all of it, or without what may be left out, or nothing.
fn assert_fits(packet: &Packet, version: Version, role: Role, bytes_max: u32) {
    let mut wire = BytesMut::new();
    let full = encoded_len(packet, version);
    let smallest = encoded_len(&stripped(packet), version);
    match encode_within(packet, version, bytes_max, &mut wire) {
        Ok(()) => {
            assert!(wire.len() <= bytes_max as usize, "{packet:?}");
            let is_whole = wire.len() == full;
            let read = decoded(decoder(role, version), wire);
            match &read[..] {
                [read] if is_whole => assert_eq!(read, packet),
                [read] => assert_eq!(stripped(read), stripped(packet)),
                _ => panic!("{packet:?} is read as {read:?}"),
            }
        }
        Err(too_large) => {
            assert!(wire.is_empty(), "{packet:?}");
            assert_eq!(too_large.bytes, smallest, "{packet:?}");
            assert!(smallest > bytes_max as usize, "{packet:?}");
        }
    }
}

fn decoder(role: Role, version: Version) -> Decoder {
    match role {
        Role::Client => Decoder::client(version, Limits::default()),
        Role::Server => {
            let mut decoder = Decoder::new(Limits::default());
            decoder.set_version(version);
            decoder
        }
    }
}

fn decoded(mut decoder: Decoder, mut stream: BytesMut) -> Vec<Packet> {
    let mut packets = Vec::new();
    while let Some(packet) = decoder.decode(&mut stream).expect("valid packets") {
        packets.push(packet);
    }
    assert!(stream.is_empty(), "{stream:?} is left");
    packets
}

/// The packet without what may be left out for size.
fn stripped(packet: &Packet) -> Packet {
    let mut packet = packet.clone();
    match &mut packet {
        Packet::ConnAck(connack) => {
            connack.properties.reason_string = None;
            connack.properties.user_properties.clear();
        }
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            ack.properties = None;
        }
        Packet::SubAck(ack) | Packet::UnsubAck(ack) => ack.properties = None,
        Packet::Disconnect(disconnect) => disconnect.properties = None,
        Packet::Auth(auth) => auth.properties = None,
        _ => {}
    }
    packet
}
