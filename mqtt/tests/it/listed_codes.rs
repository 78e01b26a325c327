//! Each packet takes the reason codes that it lists and no other.

use tidewire_mqtt::*;

use crate::bytes_of::*;
use crate::listed::*;

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
