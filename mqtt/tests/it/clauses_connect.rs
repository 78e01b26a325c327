//! Clauses about CONNECT and what every packet has in common.

use bytes::BytesMut;
use tidewire_mqtt::*;

use crate::bytes_of::*;

/// A first packet of MQTT 5 with these flags and what follows the keep alive.
fn connect_v5(flags: &str, rest: &str) -> Result<Packet, DecodeError> {
    first_packet(0x10, &format!("0004 'MQTT' 05 {flags} 003C {rest}"))
}

fn connect_v311(flags: &str, rest: &str) -> Result<Packet, DecodeError> {
    first_packet(0x10, &format!("0004 'MQTT' 04 {flags} 003C {rest}"))
}

#[test]
fn mqtt_3_1_0_1_the_first_packet_is_a_connect() {
    for first in [0x30, 0x40, 0x62, 0x82, 0xA2, 0xC0, 0xE0, 0xF0, 0x20] {
        let result = first_packet(first, "0001 00");
        assert_protocol_error(result.clone(), "MQTT-3.1.0-1");
        assert_eq!(result.expect_err("refused").version, None);
    }
}

#[test]
fn mqtt_3_1_2_1_another_protocol_name_is_refused() {
    let error = first_packet(0x10, "0004 'MQTX' 05 02 003C 00 0000").expect_err("refused");
    assert_eq!(error.reason, ReasonCode::UnsupportedProtocolVersion);
    assert_eq!((error.clause, error.version), ("MQTT-3.1.2-1", None));

    let error = first_packet(0x10, "0006 'MQIsdp' 03 02 003C 0001 'a'").expect_err("refused");
    assert_eq!(error.reason, ReasonCode::UnsupportedProtocolVersion);
    assert_eq!(
        (error.clause, error.version),
        ("MQTT-3.1.2-1", Some(Version::V311))
    );
    assert_eq!(error.reason.return_code_v311(), Some(1));
}

#[test]
fn mqtt_3_1_2_2_an_unsupported_version_is_refused_in_words_the_client_may_know() {
    let answers = [
        (0x03, Version::V311),
        (0x84, Version::V311),
        (0x06, Version::V5),
        (0x7F, Version::V5),
    ];
    for (level, version) in answers {
        let body = format!("0004 'MQTT' {level:02X} 02 003C 00 0000");
        let error = first_packet(0x10, &body).expect_err("refused");
        assert_eq!(error.reason, ReasonCode::UnsupportedProtocolVersion);
        assert_eq!(
            (error.clause, error.version),
            ("MQTT-3.1.2-2", Some(version))
        );
        assert_eq!(error.value, Some(level));
    }
}

#[test]
fn mqtt_3_1_2_3_the_reserved_connect_flag_is_checked() {
    assert_malformed(connect_v5("03", "00 0000"), "MQTT-3.1.2-3");
    let result = connect_v311("03", "0000");
    assert_malformed(result.clone(), "MQTT-3.1.2-3");
    assert_eq!(result.expect_err("refused").version, Some(Version::V311));
}

#[test]
fn mqtt_3_1_2_9_a_will_flag_asks_for_topic_and_payload() {
    assert_malformed(connect_v5("06", "00 0000"), "§2.1.4");
    assert_malformed(connect_v5("06", "00 0000 00 0001 't'"), "§2.1.4");
    assert!(connect_v5("06", "00 0000 00 0001 't' 0000").is_ok());
}

#[test]
fn mqtt_3_1_2_11_no_will_no_will_qos() {
    assert_malformed(connect_v5("0A", "00 0000"), "MQTT-3.1.2-11");
    assert_malformed(connect_v311("12", "0000"), "MQTT-3.1.2-11");
}

#[test]
fn mqtt_3_1_2_12_will_qos_3_is_malformed() {
    assert_malformed(
        connect_v5("1E", "00 0000 00 0001 't' 0000"),
        "MQTT-3.1.2-12",
    );
    assert_malformed(connect_v311("1E", "0000 0001 't' 0000"), "MQTT-3.1.2-12");
}

#[test]
fn mqtt_3_1_2_13_no_will_no_will_retain() {
    assert_malformed(connect_v5("22", "00 0000"), "MQTT-3.1.2-13");
}

#[test]
fn mqtt_3_1_2_16_to_19_user_name_and_password_are_there_as_the_flags_say() {
    let Ok(Packet::Connect(connect)) = connect_v5("C2", "00 0000 0001 'u' 0001 'p'") else {
        panic!("refused")
    };
    assert_eq!(connect.user_name, Some(text("u")));
    assert_eq!(connect.password.as_deref(), Some(&b"p"[..]));
    assert_malformed(connect_v5("82", "00 0000"), "§2.1.4");
    assert_malformed(connect_v5("42", "00 0000"), "§2.1.4");
    assert_malformed(connect_v5("02", "00 0000 0001 'u'"), "§2.1.4");
    assert_malformed(connect_v5("82", "00 0000 0001 'u' 0001 'p'"), "§2.1.4");
}

#[test]
fn mqtt_3_1_2_22_of_3_1_1_no_password_without_a_user_name() {
    assert_malformed(connect_v311("42", "0000 0001 'p'"), "MQTT-3.1.2-22 (3.1.1)");
    assert!(connect_v5("42", "00 0000 0001 'p'").is_ok());
}

#[test]
fn mqtt_3_1_3_3_the_client_id_is_always_there() {
    assert_malformed(connect_v5("02", "00"), "§2.1.4");
    assert_malformed(connect_v311("02", ""), "§2.1.4");
}

#[test]
fn mqtt_3_1_3_4_the_client_id_is_utf8() {
    assert_malformed(connect_v5("02", "00 0001 FF"), "MQTT-1.5.4-1");
}

#[test]
fn mqtt_3_1_3_8_a_long_client_id_is_refused_as_such() {
    for version in ["04", "05 "] {
        let properties = if version == "04" { "" } else { "00" };
        let body = bytes(&format!("0004 'MQTT' {version} 02 003C {properties} 0101"));
        let body = [body, vec![b'c'; 257]].concat();
        let wire = [
            &[
                0x10,
                0x80 | (body.len() % 128) as u8,
                (body.len() / 128) as u8,
            ][..],
            &body,
        ]
        .concat();
        let result = decode_with(Decoder::new(Limits::default()), &wire);
        assert_refused(result, ReasonCode::ClientIdentifierNotValid, "MQTT-3.1.3-8");
    }
}

#[test]
fn mqtt_3_1_3_11_the_will_topic_is_a_topic_name() {
    assert_malformed(connect_v5("06", "00 0000 00 0001 FF 0000"), "MQTT-1.5.4-1");
    assert_malformed(connect_v5("06", "00 0000 00 0001 '#' 0000"), "MQTT-3.3.2-2");
    assert_protocol_error(connect_v5("06", "00 0000 00 0000 0000"), "MQTT-4.7.3-1");
}

#[test]
fn mqtt_3_1_3_12_the_user_name_is_utf8() {
    assert_malformed(connect_v5("82", "00 0000 0001 FF"), "MQTT-1.5.4-1");
}

#[test]
fn connect_properties_stay_in_their_ranges() {
    for (property, clause) in [
        ("21 0000", "§3.1.2.11.3"),
        ("27 00000000", "§3.1.2.11.4"),
        ("19 02", "§2.2.2.2"),
        ("17 02", "§2.2.2.2"),
        ("16 0001 'd'", "§3.1.2.11.10"),
    ] {
        let len = bytes(property).len();
        let result = connect_v5("02", &format!("{len:02X} {property} 0000"));
        assert_protocol_error(result, clause);
    }
}

#[test]
fn a_property_stands_at_most_once_except_user_properties() {
    let twice = [
        "11 00000001",
        "21 0001",
        "27 00000001",
        "22 0001",
        "19 01",
        "17 01",
        "15 0001 'm'",
    ];
    for property in twice {
        let len = 2 * bytes(property).len();
        let result = connect_v5("02", &format!("{len:02X} {property} {property} 0000"));
        assert_protocol_error(result, "§2.2.2.2");
    }
    let data = "15 0001 'm' 16 0001 'd' 16 0001 'd'";
    let result = connect_v5("02", &format!("{:02X} {data} 0000", bytes(data).len()));
    assert_protocol_error(result, "§2.2.2.2");
    assert!(connect_v5("02", "0E 26 0001 'k' 0001 'v' 26 0001 'k' 0001 'v' 0000").is_ok());
}

/// Each property with a valid value, and the packets it belongs to, as in table 2-4.
#[test]
fn a_property_is_valid_in_its_packets_only() {
    let properties = [
        ("01 01", "PW"),
        ("02 00000001", "PW"),
        ("03 0001 'c'", "PW"),
        ("08 0001 't'", "PW"),
        ("09 0001 'c'", "PW"),
        ("0B 01", "PS"),
        ("11 00000001", "CAD"),
        ("12 0001 'c'", "A"),
        ("13 0001", "A"),
        ("15 0001 'm'", "CAX"),
        ("16 0001 'd'", "AX"),
        ("17 01", "C"),
        ("18 00000001", "W"),
        ("19 01", "C"),
        ("1A 0001 'r'", "A"),
        ("1C 0001 's'", "AE"),
        ("1F 0001 'r'", "A4567sudEX"),
        ("21 0001", "CA"),
        ("22 0001", "CA"),
        ("23 0001", "P"),
        ("24 01", "A"),
        ("25 01", "A"),
        ("26 0001 'k' 0001 'v'", "CAPW4567SsUudDEX"),
        ("27 00000001", "CA"),
        ("28 01", "A"),
        ("29 01", "A"),
        ("2A 01", "A"),
    ];
    // DISCONNECT: D from the client, E from the server, d what both have.
    for (property, packets) in properties {
        let block = format!("{:02X} {property}", bytes(property).len());
        let results = [
            ('C', connect_v5("02", &format!("{block} 0000"))),
            (
                'W',
                connect_v5("06", &format!("00 0000 {block} 0001 't' 0000")),
            ),
            ('A', from_server_v5(0x20, &format!("00 00 {block}"))),
            ('P', from_server_v5(0x30, &format!("0001 't' {block}"))),
            ('4', from_client_v5(0x40, &format!("0001 00 {block}"))),
            ('5', from_client_v5(0x50, &format!("0001 00 {block}"))),
            ('6', from_client_v5(0x62, &format!("0001 00 {block}"))),
            ('7', from_client_v5(0x70, &format!("0001 00 {block}"))),
            (
                'S',
                from_client_v5(0x82, &format!("0001 {block} 0001 't' 00")),
            ),
            ('s', from_server_v5(0x90, &format!("0001 {block} 00"))),
            ('U', from_client_v5(0xA2, &format!("0001 {block} 0001 't'"))),
            ('u', from_server_v5(0xB0, &format!("0001 {block} 00"))),
            ('D', from_client_v5(0xE0, &format!("00 {block}"))),
            ('E', from_server_v5(0xE0, &format!("80 {block}"))),
        ];
        for (packet, result) in results {
            let both = matches!(packet, 'D' | 'E') && packets.contains('d');
            assert_eq!(
                result.is_ok(),
                packets.contains(packet) || both,
                "{property} in {packet}: {result:?}"
            );
        }
        // AUTH needs a method beside it.
        let method = if property.starts_with("15") {
            ""
        } else {
            "15 0001 'm'"
        };
        let block = format!("{method} {property}");
        let auth = from_client_v5(0xF0, &format!("18 {:02X} {block}", bytes(&block).len()));
        assert_eq!(auth.is_ok(), packets.contains('X'), "{property}: {auth:?}");
    }
}

#[test]
fn an_unknown_property_is_malformed() {
    for unknown in ["00", "04", "2B 00", "7F 00", "8101"] {
        let len = bytes(unknown).len();
        assert_malformed(
            connect_v5("02", &format!("{len:02X} {unknown} 0000")),
            "§2.2.2.2",
        );
    }
}

#[test]
fn mqtt_1_5_5_1_a_length_is_in_its_shortest_form() {
    let mut buf = BytesMut::from(&bytes("C0 80 00")[..]);
    let result = decoder(Role::Server, Version::V5).decode(&mut buf);
    assert_eq!(result.expect_err("refused").clause, "MQTT-1.5.5-1");
    assert_malformed(connect_v5("02", "8000 0000"), "MQTT-1.5.5-1");
    assert_malformed(
        from_client_v5(0x82, "0001 03 0B 8100 0001 't' 00"),
        "MQTT-1.5.5-1",
    );
}

#[test]
fn a_length_of_five_bytes_is_malformed_at_its_fourth() {
    let mut buf = BytesMut::from(&bytes("30 FFFFFF")[..]);
    let mut decoder = decoder(Role::Server, Version::V5);
    assert_eq!(decoder.decode(&mut buf), Ok(None));
    buf.extend_from_slice(&[0xFF]);
    assert_eq!(
        decoder.decode(&mut buf).expect_err("refused").clause,
        "§1.5.5"
    );
}

#[test]
fn mqtt_1_5_4_2_u0000_in_a_string_is_malformed() {
    assert_malformed(connect_v5("02", "00 0001 00"), "MQTT-1.5.4-2");
    assert_malformed(from_client_v5(0x30, "0001 00 00"), "MQTT-1.5.4-2");
}

#[test]
fn mqtt_1_5_7_1_both_halves_of_a_pair_are_strings() {
    assert_malformed(
        connect_v5("02", "07 26 0001 FF 0001 'v' 0000"),
        "MQTT-1.5.4-1",
    );
    assert_malformed(
        connect_v5("02", "07 26 0001 'k' 0001 00 0000"),
        "MQTT-1.5.4-2",
    );
}

#[test]
fn mqtt_2_1_3_1_reserved_flags_carry_the_listed_value() {
    let from_client: [(u8, u8, &str, &str); 9] = [
        (1, 0, "", "MQTT-2.1.3-1"),
        (4, 0, "0001", "MQTT-2.1.3-1"),
        (5, 0, "0001", "MQTT-2.1.3-1"),
        (6, 2, "0001", "MQTT-3.6.1-1"),
        (7, 0, "0001", "MQTT-2.1.3-1"),
        (8, 2, "0001 00 0001 't' 00", "MQTT-3.8.1-1"),
        (10, 2, "0001 00 0001 't'", "MQTT-3.10.1-1"),
        (12, 0, "", "MQTT-2.1.3-1"),
        (14, 0, "", "MQTT-3.14.1-1"),
    ];
    for (kind, listed, body, clause) in from_client {
        for flags in (0..16).filter(|flags| *flags != listed) {
            assert_malformed(from_client_v5(kind << 4 | flags, body), clause);
        }
    }
    for flags in 1..16 {
        assert_malformed(
            from_client_v5(0xF0 | flags, "18 04 15 0001 'm'"),
            "MQTT-3.15.1-1",
        );
        for kind in [0x20, 0x90, 0xB0, 0xD0] {
            assert_malformed(from_server_v5(kind | flags, "0001"), "MQTT-2.1.3-1");
        }
    }
}

#[test]
fn packet_types_go_in_their_directions_only() {
    for first in [0x20, 0x90, 0xB0, 0xD0] {
        assert_protocol_error(from_client_v5(first, "0001 00"), "§2.1.2");
    }
    for first in [0x10, 0x82, 0xA2, 0xC0] {
        assert_protocol_error(from_server_v5(first, "0001 00"), "§2.1.2");
    }
    assert_protocol_error(from_server_v311(0xE0, ""), "§2.1.2");
    assert_malformed(from_client_v5(0x00, ""), "§2.1.2");
    assert_malformed(from_client_v311(0xF0, ""), "§2.2.1 (3.1.1)");
}

#[test]
fn bytes_behind_a_packets_end_are_malformed() {
    assert_malformed(connect_v5("02", "00 0000 00"), "§2.1.4");
    assert_malformed(from_server_v5(0x20, "00 00 00 00"), "§2.1.4");
    assert_malformed(from_server_v311(0x20, "00 00 00"), "§2.1.4");
    assert_malformed(from_client_v5(0x40, "0001 00 00 00"), "§2.1.4");
    assert_malformed(from_client_v311(0x40, "0001 00"), "§2.1.4");
    assert_malformed(from_server_v311(0xB0, "0001 00"), "§2.1.4");
    assert_malformed(from_client_v5(0xC0, "00"), "§2.1.4");
    assert_malformed(from_client_v5(0xE0, "00 00 00"), "§2.1.4");
    assert_malformed(from_client_v311(0xE0, "00"), "§2.1.4");
    assert_malformed(from_client_v5(0xF0, "18 04 15 0001 'm' 00"), "§2.1.4");
}

#[test]
fn an_announced_length_above_the_limit_is_refused_before_its_bytes_come() {
    let mut decoder = Decoder::new(Limits::default().unauthenticated());
    // 65 536 - 4 announced: with the fixed header exactly 64 KiB.
    let mut buf = BytesMut::from(&bytes("10 FCFF03")[..]);
    assert_eq!(decoder.decode(&mut buf), Ok(None));
    assert_eq!(decoder.bytes_missing(&buf), Some(65_532));
    let mut buf = BytesMut::from(&bytes("10 FDFF03")[..]);
    let error = decoder.decode(&mut buf).expect_err("refused");
    assert_eq!(
        (error.reason, error.value),
        (ReasonCode::PacketTooLarge, Some(65_537))
    );

    decoder.set_limits(Limits::default());
    let mut buf = BytesMut::from(&bytes("10 FDFF03")[..]);
    assert_eq!(decoder.decode(&mut buf), Ok(None));
    assert!(
        buf.capacity() < 64,
        "nothing is taken for what was announced"
    );
}

#[test]
fn a_decoder_learns_the_version_from_connect_and_keeps_it() {
    let mut decoder = Decoder::new(Limits::default());
    let mut buf = BytesMut::from(&frame(0x10, "0004 'MQTT' 04 02 003C 0000")[..]);
    assert!(matches!(
        decoder.decode(&mut buf),
        Ok(Some(Packet::Connect(_)))
    ));
    assert_eq!(decoder.version(), Some(Version::V311));

    // A second one is for the session to refuse [MQTT-3.1.0-2].
    let mut buf = BytesMut::from(&frame(0x10, "0004 'MQTT' 05 02 003C 00 0000")[..]);
    assert!(matches!(
        decoder.decode(&mut buf),
        Ok(Some(Packet::Connect(_)))
    ));
    assert_eq!(decoder.version(), Some(Version::V311));
}

#[test]
fn user_properties_are_limited_in_number_and_bytes() {
    let limits = Limits {
        user_properties_max: 2,
        user_properties_bytes_max: 6,
        ..Limits::default()
    };
    let decode = |properties: &str| {
        let len = bytes(properties).len();
        let body = format!("0004 'MQTT' 05 02 003C {len:02X} {properties} 0000");
        decode_with(Decoder::new(limits), &frame(0x10, &body))
    };
    let pair = "26 0001 'k' 0001 'v'";
    assert!(decode(&pair.repeat(2)).is_ok());
    assert_refused(
        decode(&pair.repeat(3)),
        ReasonCode::QuotaExceeded,
        "§2.2.2.2",
    );
    assert!(decode("26 0003 'key' 0003 'val'").is_ok());
    assert_refused(
        decode("26 0003 'key' 0004 'valu'"),
        ReasonCode::QuotaExceeded,
        "§2.2.2.2",
    );
}
