//! Golden bytes, written by hand after the standard: each is decoded to its packet, and the packet
//! encoded to it. Properties stand in the order in which we write them.

use std::num::NonZeroU32;

use bytes::{Bytes, BytesMut};
use tidewire_mqtt::*;

use crate::bytes_of::*;

#[track_caller]
fn assert_golden(role: Role, versions: &[Version], wire: &str, packet: &Packet) {
    let wire = bytes(wire);
    for version in versions {
        let decoded = decode_with(decoder(role, *version), &wire);
        assert_eq!(decoded.as_ref(), Ok(packet), "{version:?}");
        let mut encoded = BytesMut::new();
        encode(packet, *version, &mut encoded);
        assert_eq!(
            format!("{:02x?}", &encoded[..]),
            format!("{wire:02x?}"),
            "{version:?}"
        );
    }
}

const BOTH: &[Version] = &[Version::V311, Version::V5];
const V311: &[Version] = &[Version::V311];
const V5: &[Version] = &[Version::V5];

fn pairs() -> Vec<(Text, Text)> {
    vec![(text("k"), text("v1")), (text("k"), text("v2"))]
}

fn reason_properties() -> Option<Box<ReasonProperties>> {
    let properties = ReasonProperties {
        reason_string: Some(text("why")),
        user_properties: pairs(),
    };
    Some(Box::new(properties))
}

/// 6 + 16 = 22 bytes.
const REASON_PROPERTIES: &str = "1F 0003 'why' 26 0001 'k' 0002 'v1' 26 0001 'k' 0002 'v2'";

fn message_properties() -> Option<Box<PublishProperties>> {
    Some(Box::new(PublishProperties {
        payload_is_utf8: Some(true),
        message_expiry_s: Some(600),
        response_topic: Some(topic("re/ply")),
        correlation_data: Some(Bytes::from_static(&[0, 0xFF])),
        content_type: Some(text("json")),
        user_properties: pairs(),
    }))
}

/// 2 + 5 + 9 + 5 + 7 + 16 = 44 bytes.
const MESSAGE_PROPERTIES: &str = "01 01 02 00000258 08 0006 're/ply' 09 0002 00FF \
     03 0004 'json' 26 0001 'k' 0002 'v1' 26 0001 'k' 0002 'v2'";

fn plain_connect(version: Version) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive_s: 10,
        client_id: Text::default(),
        will: None,
        user_name: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

#[test]
fn connect_of_3_1_1() {
    // The flags of figure 3.6: user name, password, will QoS 1, will, clean session.
    let packet = Packet::Connect(Box::new(Connect {
        client_id: text("car42"),
        will: Some(Box::new(Will {
            topic: topic("will/t"),
            payload: Bytes::from_static(b"gone"),
            qos: QoS::AtLeastOnce,
            retain: false,
            delay_s: None,
            properties: None,
        })),
        user_name: Some(text("user")),
        password: Some(Bytes::from_static(&[0xFF])),
        ..plain_connect(Version::V311)
    }));
    assert_golden(
        Role::Server,
        V311,
        "10 28 0004 'MQTT' 04 CE 000A 0005 'car42' 0006 'will/t' 0004 'gone' 0004 'user' 0001 FF",
        &packet,
    );
}

#[test]
fn connect_without_anything() {
    let connect = |version| Packet::Connect(Box::new(plain_connect(version)));
    let v311 = "10 0C 0004 'MQTT' 04 02 000A 0000";
    assert_golden(Role::Server, V311, v311, &connect(Version::V311));
    let v5 = "10 0D 0004 'MQTT' 05 02 000A 00 0000";
    assert_golden(Role::Server, V5, v5, &connect(Version::V5));
}

#[test]
fn connect_of_5_with_all_properties() {
    let packet = Packet::Connect(Box::new(Connect {
        clean_start: false,
        client_id: text("car42"),
        will: Some(Box::new(Will {
            topic: topic("will/t"),
            payload: Bytes::from_static(b"gone"),
            qos: QoS::ExactlyOnce,
            retain: true,
            delay_s: Some(30),
            properties: message_properties(),
        })),
        password: Some(Bytes::from_static(b"pw")),
        properties: ConnectProperties {
            session_expiry_s: Some(u32::MAX),
            receive_maximum: Some(id(32)),
            maximum_packet_size: NonZeroU32::new(1_048_576),
            topic_alias_maximum: Some(16),
            request_response_information: Some(true),
            request_problem_information: Some(false),
            user_properties: pairs(),
            authentication_method: Some(text("SCRAM")),
            authentication_data: Some(Bytes::from_static(&[1, 2])),
        },
        ..plain_connect(Version::V5)
    }));
    // Properties: 5 + 3 + 5 + 3 + 2 + 2 + 16 + 8 + 5 = 49; will properties: 5 + 44 = 49.
    let wire = format!(
        "10 8701 0004 'MQTT' 05 74 000A \
         31 11 FFFFFFFF 21 0020 27 00100000 22 0010 19 01 17 00 \
         26 0001 'k' 0002 'v1' 26 0001 'k' 0002 'v2' 15 0005 'SCRAM' 16 0002 0102 \
         0005 'car42' 31 18 0000001E {MESSAGE_PROPERTIES} 0006 'will/t' 0004 'gone' 0002 'pw'"
    );
    assert_golden(Role::Server, V5, &wire, &packet);
}

#[test]
fn connack_of_3_1_1_for_each_return_code() {
    let codes = [
        ReasonCode::Success,
        ReasonCode::UnsupportedProtocolVersion,
        ReasonCode::ClientIdentifierNotValid,
        ReasonCode::ServerUnavailable,
        ReasonCode::BadUserNameOrPassword,
        ReasonCode::NotAuthorized,
    ];
    for (code, reason) in codes.into_iter().enumerate() {
        let packet = Packet::ConnAck(Box::new(ConnAck {
            reason,
            ..ConnAck::default()
        }));
        assert_golden(Role::Client, V311, &format!("20 02 00 {code:02X}"), &packet);
    }
    let present = ConnAck {
        session_present: true,
        ..ConnAck::default()
    };
    assert_golden(
        Role::Client,
        V311,
        "20 02 01 00",
        &Packet::ConnAck(Box::new(present)),
    );
}

#[test]
fn connack_of_5() {
    let plain = Packet::ConnAck(Box::default());
    assert_golden(Role::Client, V5, "20 03 00 00 00", &plain);
    let packet = Packet::ConnAck(Box::new(ConnAck {
        session_present: true,
        reason: ReasonCode::Success,
        properties: ConnAckProperties {
            session_expiry_s: Some(1),
            receive_maximum: Some(id(32)),
            maximum_qos: Some(QoS::AtLeastOnce),
            retain_available: Some(true),
            maximum_packet_size: NonZeroU32::new(1_048_576),
            assigned_client_id: Some(text("auto-1")),
            topic_alias_maximum: Some(16),
            reason_string: Some(text("why")),
            user_properties: pairs(),
            wildcard_subscription_available: Some(true),
            subscription_ids_available: Some(true),
            shared_subscription_available: Some(false),
            server_keep_alive_s: Some(60),
            response_information: Some(text("re")),
            server_reference: Some(text("b")),
            authentication_method: Some(text("m")),
            authentication_data: Some(Bytes::from_static(b"d")),
        },
    }));
    // 5+3+2+2+5+9+3+6+16+2+2+2+3+5+4+4+4 = 77
    assert_golden(
        Role::Client,
        V5,
        "20 50 01 00 4D 11 00000001 21 0020 24 01 25 01 27 00100000 12 0006 'auto-1' 22 0010 \
         1F 0003 'why' 26 0001 'k' 0002 'v1' 26 0001 'k' 0002 'v2' 28 01 29 01 2A 00 13 003C \
         1A 0002 're' 1C 0001 'b' 15 0001 'm' 16 0001 'd'",
        &packet,
    );
}

fn publish(qos: QoS) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: topic("a/b"),
        packet_id: (qos != QoS::AtMostOnce).then(|| id(10)),
        payload: Bytes::from_static(b"hi"),
        topic_alias: None,
        subscription_ids: SubscriptionIds::new(),
        properties: None,
    }
}

#[test]
fn publish_of_3_1_1() {
    // Figure 3.11: topic a/b, packet identifier 10.
    let qos_1 = Packet::Publish(publish(QoS::AtLeastOnce));
    assert_golden(Role::Server, V311, "32 09 0003 'a/b' 000A 'hi'", &qos_1);
    let qos_0 = Packet::Publish(Publish {
        retain: true,
        ..publish(QoS::AtMostOnce)
    });
    assert_golden(Role::Server, V311, "31 07 0003 'a/b' 'hi'", &qos_0);
    let qos_2 = Packet::Publish(Publish {
        dup: true,
        ..publish(QoS::ExactlyOnce)
    });
    assert_golden(Role::Client, V311, "3C 09 0003 'a/b' 000A 'hi'", &qos_2);
}

#[test]
fn publish_of_5() {
    let plain = Packet::Publish(publish(QoS::AtLeastOnce));
    assert_golden(Role::Server, V5, "32 0A 0003 'a/b' 000A 00 'hi'", &plain);
    let alias = Packet::Publish(Publish {
        topic: Topic::default(),
        topic_alias: Some(id(3)),
        payload: Bytes::new(),
        ..publish(QoS::AtMostOnce)
    });
    assert_golden(Role::Server, V5, "30 06 0000 03 23 0003", &alias);
    let full = Packet::Publish(Publish {
        topic_alias: Some(id(3)),
        subscription_ids: [1, 268_435_455].map(|id| NonZeroU32::new(id).expect("not 0"))[..].into(),
        properties: message_properties(),
        ..publish(QoS::ExactlyOnce)
    });
    // 3 + 2 + 5 + 44 = 54
    let wire =
        format!("34 40 0003 'a/b' 000A 36 23 0003 0B 01 0B FFFFFF7F {MESSAGE_PROPERTIES} 'hi'");
    assert_golden(Role::Client, V5, &wire, &full);
}

#[test]
fn acknowledgements() {
    type Kind = (u8, fn(Ack) -> Packet, ReasonCode);
    let kinds: [Kind; 4] = [
        (0x40, Packet::PubAck, ReasonCode::NoMatchingSubscribers),
        (0x50, Packet::PubRec, ReasonCode::QuotaExceeded),
        (0x62, Packet::PubRel, ReasonCode::PacketIdentifierNotFound),
        (0x70, Packet::PubComp, ReasonCode::PacketIdentifierNotFound),
    ];
    for (first, packet, reason) in kinds {
        let ack = |reason, properties| {
            packet(Ack {
                packet_id: id(0x1234),
                reason,
                properties,
            })
        };
        for role in [Role::Server, Role::Client] {
            let plain = ack(ReasonCode::Success, None);
            assert_golden(role, BOTH, &format!("{first:02X} 02 1234"), &plain);
            let code = reason as u8;
            let wire = format!("{first:02X} 03 1234 {code:02X}");
            assert_golden(role, V5, &wire, &ack(reason, None));
            let wire = format!("{first:02X} 1A 1234 {code:02X} 16 {REASON_PROPERTIES}");
            assert_golden(role, V5, &wire, &ack(reason, reason_properties()));
        }
    }
}

#[test]
fn subscribe() {
    // Figure 3.23 of 3.1.1: a/b at QoS 1, c/d at QoS 2.
    let options = |qos| SubscribeOptions {
        qos,
        ..SubscribeOptions::default()
    };
    let packet = Packet::Subscribe(Box::new(Subscribe {
        packet_id: id(10),
        filters: vec![
            (filter("a/b"), options(QoS::AtLeastOnce)),
            (filter("c/d"), options(QoS::ExactlyOnce)),
        ],
        subscription_id: None,
        user_properties: Vec::new(),
    }));
    assert_golden(
        Role::Server,
        V311,
        "82 0E 000A 0003 'a/b' 01 0003 'c/d' 02",
        &packet,
    );
    assert_golden(
        Role::Server,
        V5,
        "82 0F 000A 00 0003 'a/b' 01 0003 'c/d' 02",
        &packet,
    );
    let packet = Packet::Subscribe(Box::new(Subscribe {
        packet_id: id(10),
        filters: vec![(
            filter("+/b/#"),
            SubscribeOptions {
                qos: QoS::AtLeastOnce,
                no_local: true,
                retain_as_published: true,
                retain_handling: RetainHandling::DoNotSend,
            },
        )],
        subscription_id: NonZeroU32::new(128),
        user_properties: pairs(),
    }));
    let wire = "82 1E 000A 13 0B 8001 26 0001 'k' 0002 'v1' 26 0001 'k' 0002 'v2' 0005 '+/b/#' 2D";
    assert_golden(Role::Server, V5, wire, &packet);
}

#[test]
fn suback() {
    let packet = |reasons: &[ReasonCode], properties| {
        let reasons = reasons.to_vec();
        Packet::SubAck(Box::new(SubAck {
            packet_id: id(10),
            reasons,
            properties,
        }))
    };
    // Figure 3.26 of 3.1.1.
    let codes = [
        ReasonCode::Success,
        ReasonCode::GrantedQoS2,
        ReasonCode::UnspecifiedError,
    ];
    assert_golden(
        Role::Client,
        V311,
        "90 05 000A 00 02 80",
        &packet(&codes, None),
    );
    assert_golden(
        Role::Client,
        V5,
        "90 06 000A 00 00 02 80",
        &packet(&codes, None),
    );
    let shared = packet(
        &[ReasonCode::SharedSubscriptionsNotSupported],
        reason_properties(),
    );
    let wire = format!("90 1A 000A 16 {REASON_PROPERTIES} 9E");
    assert_golden(Role::Client, V5, &wire, &shared);

    let mut encoded = BytesMut::new();
    encode(&shared, Version::V311, &mut encoded);
    assert_eq!(encoded, bytes("90 03 000A 80"), "[MQTT-3.9.3-2] of 3.1.1");
}

#[test]
fn unsubscribe() {
    // Figure 3.30 of 3.1.1.
    let packet = |user_properties| {
        Packet::Unsubscribe(Box::new(Unsubscribe {
            packet_id: id(10),
            filters: vec![filter("a/b"), filter("c/d")],
            user_properties,
        }))
    };
    let plain = packet(Vec::new());
    assert_golden(
        Role::Server,
        V311,
        "A2 0C 000A 0003 'a/b' 0003 'c/d'",
        &plain,
    );
    assert_golden(
        Role::Server,
        V5,
        "A2 0D 000A 00 0003 'a/b' 0003 'c/d'",
        &plain,
    );
    let wire = "A2 1D 000A 10 26 0001 'k' 0002 'v1' 26 0001 'k' 0002 'v2' 0003 'a/b' 0003 'c/d'";
    assert_golden(Role::Server, V5, wire, &packet(pairs()));
}

#[test]
fn unsuback() {
    let packet = |reasons: &[ReasonCode], properties| {
        let reasons = reasons.to_vec();
        Packet::UnsubAck(Box::new(SubAck {
            packet_id: id(10),
            reasons,
            properties,
        }))
    };
    assert_golden(Role::Client, V311, "B0 02 000A", &packet(&[], None));
    let codes = [ReasonCode::Success, ReasonCode::NoSubscriptionExisted];
    assert_golden(
        Role::Client,
        V5,
        "B0 05 000A 00 00 11",
        &packet(&codes, None),
    );
    let wire = format!("B0 1B 000A 16 {REASON_PROPERTIES} 00 11");
    assert_golden(
        Role::Client,
        V5,
        &wire,
        &packet(&codes, reason_properties()),
    );

    let mut encoded = BytesMut::new();
    encode(&packet(&codes, None), Version::V311, &mut encoded);
    assert_eq!(encoded, bytes("B0 02 000A"), "3.1.1 has no codes here");
}

#[test]
fn pings() {
    assert_golden(Role::Server, BOTH, "C0 00", &Packet::PingReq);
    assert_golden(Role::Client, BOTH, "D0 00", &Packet::PingResp);
}

#[test]
fn disconnect() {
    assert_golden(
        Role::Server,
        BOTH,
        "E0 00",
        &Packet::Disconnect(Box::default()),
    );
    let with_will = Disconnect {
        reason: ReasonCode::DisconnectWithWill,
        ..Disconnect::default()
    };
    assert_golden(
        Role::Server,
        V5,
        "E0 01 04",
        &Packet::Disconnect(Box::new(with_will)),
    );
    let expiry = Disconnect {
        session_expiry_s: Some(0),
        ..Disconnect::default()
    };
    let expiry = Packet::Disconnect(Box::new(expiry));
    assert_golden(Role::Server, V5, "E0 07 00 05 11 00000000", &expiry);
    let moved = Packet::Disconnect(Box::new(Disconnect {
        reason: ReasonCode::UseAnotherServer,
        session_expiry_s: None,
        server_reference: Some(text("b")),
        properties: reason_properties(),
    }));
    let wire = format!("E0 1C 9C 1A 1C 0001 'b' {REASON_PROPERTIES}");
    assert_golden(Role::Client, V5, &wire, &moved);
}

#[test]
fn auth() {
    let short = Packet::Auth(Box::new(Auth {
        reason: ReasonCode::Success,
        authentication_method: None,
        authentication_data: None,
        properties: None,
    }));
    assert_golden(Role::Client, V5, "F0 00", &short);
    let packet = |reason| {
        Packet::Auth(Box::new(Auth {
            reason,
            authentication_method: Some(text("m")),
            authentication_data: Some(Bytes::from_static(b"d")),
            properties: reason_properties(),
        }))
    };
    let wire = format!("F0 20 18 1E 15 0001 'm' 16 0001 'd' {REASON_PROPERTIES}");
    for role in [Role::Server, Role::Client] {
        assert_golden(role, V5, &wire, &packet(ReasonCode::ContinueAuthentication));
    }
    let wire = format!("F0 20 19 1E 15 0001 'm' 16 0001 'd' {REASON_PROPERTIES}");
    assert_golden(Role::Server, V5, &wire, &packet(ReasonCode::ReAuthenticate));
}
