//! The reason codes that each packet lists, copied from the tables of the standard.

use tidewire_mqtt::*;

use crate::bytes_of::*;

/// Table 3-1.
pub(crate) const CONNACK: &[u8] = &[
    0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97,
    0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
];
/// The reasons that a return code of 3.1.1 stands for, in the order of the codes.
pub(crate) const CONNACK_V311: &[u8] = &[0x00, 0x84, 0x85, 0x88, 0x86, 0x87];
/// PUBACK and PUBREC.
pub(crate) const RECEIVED: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
/// PUBREL and PUBCOMP.
pub(crate) const RELEASED: &[u8] = &[0x00, 0x92];
pub(crate) const SUBACK: &[u8] = &[
    0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2,
];
pub(crate) const SUBACK_V311: &[u8] = &[0x00, 0x01, 0x02, 0x80];
pub(crate) const UNSUBACK: &[u8] = &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91];
pub(crate) const DISCONNECT_BY_CLIENT: &[u8] = &[
    0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
];
/// 0x8C is listed in §2.4 for DISCONNECT, not in §3.14.
pub(crate) const DISCONNECT_BY_SERVER: &[u8] = &[
    0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96,
    0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
];
pub(crate) const AUTH_BY_CLIENT: &[u8] = &[0x18, 0x19];
pub(crate) const AUTH_BY_SERVER: &[u8] = &[0x00, 0x18];

#[track_caller]
fn assert_listed(
    listed: &[u8],
    clause: &str,
    decode: impl Fn(&str) -> Result<Packet, DecodeError>,
) {
    for code in 0..=0xFF {
        let result = decode(&format!("{code:02X}"));
        if listed.contains(&code) {
            assert!(result.is_ok(), "0x{code:02X}: {result:?}");
        } else {
            assert_protocol_error(result, clause);
        }
    }
}

#[test]
fn mqtt_3_2_2_8_connack_uses_only_listed_codes() {
    assert_listed(CONNACK, "MQTT-3.2.2-8", |code| {
        from_server_v5(0x20, &format!("00 {code} 00"))
    });
}

#[test]
fn mqtt_3_4_2_1_puback_uses_only_listed_codes() {
    assert_listed(RECEIVED, "MQTT-3.4.2-1", |code| {
        from_client_v5(0x40, &format!("0001 {code}"))
    });
}

#[test]
fn mqtt_3_5_2_1_pubrec_uses_only_listed_codes() {
    assert_listed(RECEIVED, "MQTT-3.5.2-1", |code| {
        from_client_v5(0x50, &format!("0001 {code}"))
    });
}

#[test]
fn mqtt_3_6_2_1_pubrel_uses_only_listed_codes() {
    assert_listed(RELEASED, "MQTT-3.6.2-1", |code| {
        from_client_v5(0x62, &format!("0001 {code}"))
    });
}

#[test]
fn mqtt_3_7_2_1_pubcomp_uses_only_listed_codes() {
    assert_listed(RELEASED, "MQTT-3.7.2-1", |code| {
        from_client_v5(0x70, &format!("0001 {code}"))
    });
}

#[test]
fn mqtt_3_9_3_2_suback_uses_only_listed_codes() {
    assert_listed(SUBACK, "MQTT-3.9.3-2", |code| {
        from_server_v5(0x90, &format!("0001 00 {code}"))
    });
    assert_listed(SUBACK_V311, "MQTT-3.9.3-2 (3.1.1)", |code| {
        from_server_v311(0x90, &format!("0001 {code}"))
    });
}

#[test]
fn mqtt_3_11_3_2_unsuback_uses_only_listed_codes() {
    assert_listed(UNSUBACK, "MQTT-3.11.3-2", |code| {
        from_server_v5(0xB0, &format!("0001 00 {code}"))
    });
}

#[test]
fn mqtt_3_14_2_1_disconnect_uses_only_codes_listed_for_its_sender() {
    assert_listed(DISCONNECT_BY_CLIENT, "MQTT-3.14.2-1", |code| {
        from_client_v5(0xE0, code)
    });
    assert_listed(DISCONNECT_BY_SERVER, "MQTT-3.14.2-1", |code| {
        from_server_v5(0xE0, code)
    });
}

#[test]
fn mqtt_3_15_2_1_auth_uses_only_codes_listed_for_its_sender() {
    assert_listed(AUTH_BY_CLIENT, "MQTT-3.15.2-1", |code| {
        from_client_v5(0xF0, &format!("{code} 04 15 0001 'm'"))
    });
    assert_listed(AUTH_BY_SERVER, "MQTT-3.15.2-1", |code| {
        from_server_v5(0xF0, &format!("{code} 04 15 0001 'm'"))
    });
}

#[test]
fn connack_of_3_1_1_knows_six_return_codes() {
    for code in 0..=0xFF_u8 {
        let result = from_server_v311(0x20, &format!("00 {code:02X}"));
        match CONNACK_V311.get(usize::from(code)) {
            Some(reason) => {
                let Ok(Packet::ConnAck(connack)) = result else {
                    panic!("{code}: {result:?}")
                };
                assert_eq!(connack.reason as u8, *reason);
                assert_eq!(connack.reason.return_code_v311(), Some(code));
            }
            None => assert_protocol_error(result, "§3.2.2.3 (3.1.1)"),
        }
    }
}
