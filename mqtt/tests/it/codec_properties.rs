//! What holds for all packets and all bytes.

use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;
use tidewire_mqtt::*;

use crate::bytes_of::*;
use crate::generate::{Source, packet};

const SIDES: [(Role, Version); 4] = [
    (Role::Server, Version::V5),
    (Role::Server, Version::V311),
    (Role::Client, Version::V5),
    (Role::Client, Version::V311),
];

fn wire_of(packet: &Packet, version: Version) -> BytesMut {
    let mut wire = BytesMut::new();
    encode(packet, version, &mut wire);
    wire
}

fn side() -> impl Strategy<Value = (Role, Version)> {
    prop::sample::select(&SIDES[..])
}

fn entropy() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5000))]

    #[test]
    fn a_packet_survives_encoding_and_decoding((role, version) in side(), entropy in entropy()) {
        let packet = packet(&mut Source(&entropy), version, role);

        let wire = wire_of(&packet, version);

        prop_assert_eq!(wire.len(), encoded_len(&packet, version));
        prop_assert_eq!(decode_with(decoder(role, version), &wire), Ok(packet));
    }

    #[test]
    fn chunked_feeding_equals_whole_feeding(
        (role, version) in side(),
        entropies in vec(entropy(), 1..5),
        cuts in vec(1..40_usize, 1..8),
    ) {
        let packets: Vec<Packet> =
            entropies.iter().map(|entropy| packet(&mut Source(entropy), version, role)).collect();
        let mut wire = BytesMut::new();
        packets.iter().for_each(|packet| encode(packet, version, &mut wire));

        let mut decoder = decoder(role, version);
        let (mut buf, mut decoded, mut cuts) = (BytesMut::new(), Vec::new(), cuts.iter().cycle());
        while !wire.is_empty() {
            let cut = *cuts.next().expect("a cycle");
            buf.unsplit(wire.split_to(cut.min(wire.len())));
            loop {
                let before = buf.clone();
                let missing = decoder.bytes_missing(&buf);
                match decoder.decode(&mut buf).expect("valid packets") {
                    Some(packet) => {
                        prop_assert_eq!(missing, Some(0));
                        decoded.push(packet);
                    }
                    None => {
                        prop_assert_eq!(&buf, &before, "not whole, and still consumed");
                        prop_assert_ne!(missing, Some(0));
                        break;
                    }
                }
            }
        }

        prop_assert_eq!(decoded, packets);
        prop_assert!(buf.is_empty());
    }

    #[test]
    fn arbitrary_bytes_never_panic((role, version) in side(), bytes in vec(any::<u8>(), 0..80)) {
        let buf = BytesMut::from(&bytes[..]);
        assert_decodes_soundly(decoder(role, version), version, buf.clone())?;
        assert_decodes_soundly(Decoder::new(Limits::default()), version, buf)?;
    }

    #[test]
    fn mutated_packets_never_panic(
        (role, version) in side(),
        entropy in entropy(),
        mutations in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut wire = wire_of(&packet(&mut Source(&entropy), version, role), version);
        for (at, byte) in mutations {
            let at = at.index(wire.len());
            wire[at] = byte;
        }

        assert_decodes_soundly(decoder(role, version), version, wire)?;
    }

    #[test]
    fn a_packet_cut_short_in_its_body_is_refused_or_another_packet(
        (role, version) in side(),
        entropy in entropy(),
        cut in 1..60_usize,
    ) {
        let wire = wire_of(&packet(&mut Source(&entropy), version, role), version);
        prop_assume!(wire.len() > 2 && wire[1] & 0x80 == 0);
        let kept = wire.len() - cut.min(wire.len() - 2);
        let mut short = BytesMut::from(&wire[..kept]);
        short[1] = (kept - 2) as u8;

        assert_decodes_soundly(decoder(role, version), version, short)?;
    }

    #[test]
    fn encode_within_keeps_to_the_maximum_and_drops_only_what_may_be_dropped(
        (role, version) in side(),
        entropy in entropy(),
        bytes_max in 0..80_u32,
    ) {
        let packet = packet(&mut Source(&entropy), version, role);
        let mut wire = BytesMut::new();

        match encode_within(&packet, version, bytes_max, &mut wire) {
            Ok(()) => {
                prop_assert!(wire.len() <= bytes_max as usize);
                let mut decoded = decode_with(decoder(role, version), &wire).expect("valid");
                if wire.len() < encoded_len(&packet, version) {
                    // Nothing else differs than what may be dropped.
                    let mut original = packet;
                    strip(&mut original);
                    strip(&mut decoded);
                    prop_assert_eq!(decoded, original);
                } else {
                    prop_assert_eq!(decoded, packet);
                }
            }
            Err(error) => {
                prop_assert!(wire.is_empty());
                let mut smallest = packet;
                strip(&mut smallest);
                prop_assert_eq!(error.bytes, encoded_len(&smallest, version));
                prop_assert!(error.bytes > bytes_max as usize);
            }
        }
    }
}

/// Decodes packets until an error or the end. What was accepted must be the same after it was
/// encoded and decoded again; what was not whole must be left alone.
fn assert_decodes_soundly(
    mut decoder: Decoder,
    version: Version,
    mut buf: BytesMut,
) -> Result<(), TestCaseError> {
    loop {
        let before = buf.clone();
        let mut same = decoder;
        match decoder.decode(&mut buf) {
            Err(_) => return Ok(()),
            Ok(None) => {
                prop_assert_eq!(buf, before);
                return Ok(());
            }
            Ok(Some(packet)) => {
                let version = match &packet {
                    Packet::Connect(connect) => connect.version,
                    _ => decoder.version().unwrap_or(version),
                };
                let mut again = wire_of(&packet, version);
                prop_assert!(again.len() <= before.len() - buf.len());
                prop_assert_eq!(same.decode(&mut again), Ok(Some(packet)));
            }
        }
    }
}

/// Takes away what may be dropped for size.
fn strip(packet: &mut Packet) {
    match packet {
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
}

#[test]
fn user_properties_go_before_the_reason_string() {
    let packet = Packet::PubAck(Ack {
        packet_id: id(1),
        reason: ReasonCode::QuotaExceeded,
        properties: Some(Box::new(ReasonProperties {
            reason_string: Some(text("full")),
            user_properties: vec![(text("k"), text("v"))],
        })),
    });
    let within = |bytes_max| {
        let mut wire = BytesMut::new();
        encode_within(&packet, Version::V5, bytes_max, &mut wire).map(|()| wire.to_vec())
    };

    assert_eq!(
        within(20),
        Ok(bytes(
            "40 12 0001 97 0E 1F 0004 'full' 26 0001 'k' 0001 'v'"
        ))
    );
    assert_eq!(within(19), Ok(bytes("40 0B 0001 97 07 1F 0004 'full'")));
    assert_eq!(within(12), Ok(bytes("40 03 0001 97")));
    assert_eq!(
        within(4),
        Err(TooLarge {
            bytes: 5,
            bytes_max: 4
        })
    );
}

#[test]
fn a_publish_keeps_its_properties_whatever_the_maximum() {
    let publish = Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: topic("t"),
        packet_id: None,
        payload: bytes::Bytes::new(),
        topic_alias: None,
        subscription_ids: SubscriptionIds::new(),
        properties: Some(Box::new(PublishProperties {
            user_properties: vec![(text("k"), text("v"))],
            ..PublishProperties::default()
        })),
    });
    let mut wire = BytesMut::new();

    let result = encode_within(&publish, Version::V5, 12, &mut wire);

    assert_eq!(
        result,
        Err(TooLarge {
            bytes: 13,
            bytes_max: 12
        })
    );
    assert!(wire.is_empty());
}

#[test]
fn a_reference_to_a_publish_may_shorten_its_expiry() {
    let properties = PublishProperties {
        message_expiry_s: Some(60),
        ..PublishProperties::default()
    };
    let mut publish = PublishRef {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: true,
        topic: "t",
        packet_id: Some(id(7)),
        payload: b"x",
        topic_alias: None,
        subscription_ids: &[],
        properties: Some(&properties),
        message_expiry_s: Some(59),
    };
    let wire = |publish: &PublishRef<'_>| {
        let mut wire = BytesMut::new();
        encode_publish(publish, Version::V5, &mut wire);
        assert_eq!(wire.len(), encoded_publish_len(publish, Version::V5));
        wire.to_vec()
    };

    assert_eq!(
        wire(&publish),
        bytes("33 0C 0001 't' 0007 05 02 0000003B 'x'")[..].to_vec()
    );
    publish.message_expiry_s = None;
    assert_eq!(
        wire(&publish),
        bytes("33 0C 0001 't' 0007 05 02 0000003C 'x'")
    );
}

#[test]
fn the_short_acknowledgement_is_the_same_in_both_versions() {
    let kinds = [
        (AckKind::PubAck, 0x40),
        (AckKind::PubRec, 0x50),
        (AckKind::PubRel, 0x62),
        (AckKind::PubComp, 0x70),
    ];
    for (kind, first) in kinds {
        let mut wire = BytesMut::new();
        encode_ack(kind, id(0x1234), &mut wire);
        assert_eq!(wire.to_vec(), [first, 2, 0x12, 0x34]);
    }
}

#[test]
fn what_3_1_1_cannot_say_is_not_written() {
    let unsayable = [
        Packet::Auth(Box::new(Auth {
            reason: ReasonCode::ContinueAuthentication,
            authentication_method: Some(text("m")),
            authentication_data: None,
            properties: None,
        })),
        Packet::Disconnect(Box::new(Disconnect {
            reason: ReasonCode::SessionTakenOver,
            ..Disconnect::default()
        })),
        Packet::ConnAck(Box::new(ConnAck {
            reason: ReasonCode::MalformedPacket,
            ..ConnAck::default()
        })),
    ];
    for packet in unsayable {
        assert!(wire_of(&packet, Version::V311).is_empty(), "{packet:?}");
        assert_eq!(encoded_len(&packet, Version::V311), 0);
        assert!(!wire_of(&packet, Version::V5).is_empty(), "{packet:?}");
    }
}

#[test]
fn a_decoded_payload_shares_the_read_buffer() {
    let wire = frame(0x30, "0001 't' 'payload'");
    let mut buf = BytesMut::from(&wire[..]);
    let range = buf.as_ptr_range();

    let packet = decoder(Role::Server, Version::V311).decode(&mut buf);

    let Ok(Some(Packet::Publish(publish))) = packet else {
        panic!("{packet:?}")
    };
    assert!(range.contains(&publish.payload.as_ptr()));
    assert!(range.contains(&publish.topic.as_ptr()));
    assert!(!range.contains(&publish.topic.detach().as_ptr()));
}

#[test]
fn lengths_are_right_where_they_grow_by_a_byte() {
    for remaining in [127, 128, 16_383, 16_384, 2_097_151, 2_097_152] {
        let publish = Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: topic("t"),
            packet_id: None,
            payload: vec![7; remaining - 3].into(),
            topic_alias: None,
            subscription_ids: SubscriptionIds::new(),
            properties: None,
        });

        let wire = wire_of(&publish, Version::V311);

        assert_eq!(encoded_len(&publish, Version::V311), wire.len());
        let mut decoder = decoder(Role::Server, Version::V311);
        decoder.set_limits(Limits {
            packet_bytes_max: wire.len() as u32,
            ..Limits::default()
        });
        assert_eq!(decode_with(decoder, &wire), Ok(publish));
    }
}

#[test]
fn an_acknowledgement_that_lost_its_properties_is_in_its_shortest_form() {
    let packet = Packet::PubAck(Ack {
        packet_id: id(1),
        reason: ReasonCode::Success,
        properties: Some(Box::new(ReasonProperties {
            reason_string: None,
            user_properties: vec![(text("k"), text("v"))],
        })),
    });
    let mut wire = BytesMut::new();

    encode_within(&packet, Version::V5, 12, &mut wire).expect("it fits without properties");

    assert_eq!(wire.to_vec(), bytes("40 02 0001"));
}
