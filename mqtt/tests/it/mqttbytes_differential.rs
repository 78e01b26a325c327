//! Our 3.1.1 codec beside mqttbytes 0.6.0, whose known defects are the allowed differences.

use bytes::BytesMut;
use mqttbytes::{Protocol, v4};
use proptest::collection::vec;
use proptest::prelude::*;
use tidewire_mqtt::*;

use crate::bytes_of::{bytes, decoder};
use crate::generate::{Source, packet};

/// Defects of mqttbytes: the clause that we refuse by, and a packet that it reads all the same.
const DEFECTS: &[(&str, Role, &str)] = &[
    // It ignores flags, and takes bytes behind the end for nothing.
    ("MQTT-2.1.3-1", Role::Server, "C1 00"),
    ("MQTT-3.6.1-1", Role::Server, "60 02 0001"),
    ("MQTT-3.8.1-1", Role::Server, "80 06 0001 0001 't' 00"),
    ("MQTT-3.10.1-1", Role::Server, "A0 05 0001 0001 't'"),
    ("MQTT-3.14.1-1", Role::Server, "E1 00"),
    ("§2.1.4", Role::Server, "C0 01 00"),
    // It has no sides.
    ("§2.1.2", Role::Server, "D0 00"),
    // Lengths need not be minimal.
    ("MQTT-1.5.5-1", Role::Server, "C0 80 00"),
    // Strings may hold U+0000, topics and filters anything.
    ("MQTT-1.5.4-2", Role::Server, "30 03 0001 00"),
    ("MQTT-3.3.2-2", Role::Server, "30 03 0001 '#'"),
    ("MQTT-4.7.1-1", Role::Server, "82 07 0001 0002 'a#' 00"),
    ("MQTT-4.7.1-2", Role::Server, "82 07 0001 0002 'a+' 00"),
    ("MQTT-4.7.3-1", Role::Server, "82 05 0001 0000 00"),
    ("MQTT-4.8.2-1", Role::Server, "82 0C 0001 0007 '$share/' 00"),
    (
        "MQTT-4.8.2-2",
        Role::Server,
        "82 0D 0001 0008 '$share/g' 00",
    ),
    // Packet identifier 0 is refused in PUBLISH only, empty lists of filters are not.
    ("MQTT-2.2.1-3", Role::Server, "40 02 0000"),
    ("MQTT-3.8.3-2", Role::Server, "82 02 0001"),
    ("MQTT-3.10.3-2", Role::Server, "A2 02 0001"),
    // Flags of CONNECT, CONNACK and PUBLISH, and options of SUBSCRIBE.
    (
        "MQTT-3.1.2-3",
        Role::Server,
        "10 0C 0004 'MQTT' 04 01 0000 0000",
    ),
    (
        "MQTT-3.1.2-22 (3.1.1)",
        Role::Server,
        "10 0F 0004 'MQTT' 04 40 0000 0000 0001 'p'",
    ),
    ("MQTT-3.2.2-1", Role::Client, "20 02 02 00"),
    ("MQTT-3.2.2-6", Role::Client, "20 02 01 05"),
    ("MQTT-3.3.1-2", Role::Server, "38 03 0001 't'"),
    (
        "MQTT-3.8.3-4 (3.1.1)",
        Role::Server,
        "82 06 0001 0001 't' 04",
    ),
];

#[test]
fn each_listed_defect_of_mqttbytes_is_one() {
    for (clause, role, wire) in DEFECTS {
        let wire = bytes(wire);
        let refused = ours(*role, &wire).expect_err(clause);
        assert_eq!(refused.clause, *clause, "{refused}");
        assert!(theirs(&wire).is_ok(), "{clause}: {:?}", theirs(&wire));
    }
}

fn ours(role: Role, wire: &[u8]) -> Result<Option<Packet>, DecodeError> {
    decoder(role, Version::V311).decode(&mut BytesMut::from(wire))
}

fn theirs(wire: &[u8]) -> Result<v4::Packet, mqttbytes::Error> {
    v4::read(&mut BytesMut::from(wire), 1024 * 1024)
}

/// What mqttbytes writes for a packet.
fn written_by_mqttbytes(packet: &v4::Packet) -> BytesMut {
    let mut out = BytesMut::new();
    let written = match packet {
        v4::Packet::Connect(packet) => packet.write(&mut out),
        v4::Packet::ConnAck(packet) => packet.write(&mut out),
        v4::Packet::Publish(packet) => packet.write(&mut out),
        v4::Packet::PubAck(packet) => packet.write(&mut out),
        v4::Packet::PubRec(packet) => packet.write(&mut out),
        v4::Packet::PubRel(packet) => packet.write(&mut out),
        v4::Packet::PubComp(packet) => packet.write(&mut out),
        v4::Packet::Subscribe(packet) => packet.write(&mut out),
        v4::Packet::SubAck(packet) => packet.write(&mut out),
        v4::Packet::Unsubscribe(packet) => packet.write(&mut out),
        v4::Packet::UnsubAck(packet) => packet.write(&mut out),
        v4::Packet::PingReq => v4::PingReq.write(&mut out),
        v4::Packet::PingResp => v4::PingResp.write(&mut out),
        v4::Packet::Disconnect => v4::Disconnect.write(&mut out),
    };
    written.expect("a packet that was read");
    out
}

/// What mqttbytes cannot represent of a packet that we accept.
fn is_beyond_mqttbytes(packet: &Packet) -> bool {
    match packet {
        // Its password is a string; an empty user name or password is none.
        Packet::Connect(connect) => {
            connect.version == Version::V5
                || connect.user_name.as_deref() == Some("")
                || connect
                    .password
                    .as_deref()
                    .is_some_and(|it| it.is_empty() || std::str::from_utf8(it).is_err())
        }
        _ => false,
    }
}

fn role() -> impl Strategy<Value = Role> {
    prop::sample::select(&[Role::Server, Role::Client][..])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn both_write_and_read_the_same_packets(
        role in role(),
        entropy in vec(any::<u8>(), 0..120),
    ) {
        let packet = packet(&mut Source(&entropy), Version::V311, role);
        prop_assume!(!is_beyond_mqttbytes(&packet));
        let mut wire = BytesMut::new();
        encode(&packet, Version::V311, &mut wire);

        let read = theirs(&wire).expect("a valid packet");

        prop_assert_eq!(written_by_mqttbytes(&read), wire, "{:?}", packet);
    }

    #[test]
    fn both_accept_the_same_bytes_but_for_the_defects_listed(
        role in role(),
        entropy in vec(any::<u8>(), 0..120),
        mutations in vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let mut wire = BytesMut::new();
        encode(&packet(&mut Source(&entropy), Version::V311, role), Version::V311, &mut wire);
        for (at, byte) in mutations {
            // Early bytes matter most.
            let at = at.index(wire.len().min(24));
            wire[at] = byte;
        }

        match (ours(role, &wire), theirs(&wire)) {
            (Ok(Some(packet)), _) if is_beyond_mqttbytes(&packet) => {}
            // A mutation may name MQTT 5: its CONNECT has properties, which mqttbytes' v4 does not know of.
            (Err(_), Ok(v4::Packet::Connect(connect))) if connect.protocol == Protocol::V5 => {}
            (Ok(Some(packet)), Ok(read)) => {
                let mut again = BytesMut::new();
                encode(&packet, Version::V311, &mut again);
                prop_assert_eq!(written_by_mqttbytes(&read), again, "{:?}", packet);
            }
            (Ok(Some(packet)), Err(error)) => {
                prop_assert!(false, "mqttbytes refuses with {error:?}: {packet:?}");
            }
            (Ok(None), Ok(read)) => prop_assert!(false, "mqttbytes reads {read:?}"),
            (Err(error), Ok(read)) => prop_assert!(
                DEFECTS.iter().any(|(clause, ..)| *clause == error.clause),
                "mqttbytes reads {:?}, we say {}", read, error
            ),
            (Ok(None) | Err(_), Err(_)) => {}
        }
    }
}
