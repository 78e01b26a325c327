//! Clauses about all packets but CONNECT.

use tidewire_mqtt::*;

use crate::bytes_of::*;

#[test]
fn mqtt_3_2_2_1_connack_flags_7_to_1_are_0() {
    assert_malformed(from_server_v5(0x20, "02 00 00"), "MQTT-3.2.2-1");
    assert_malformed(from_server_v311(0x20, "80 00"), "MQTT-3.2.2-1");
}

#[test]
fn mqtt_3_2_2_6_a_refusal_says_session_not_present() {
    assert_protocol_error(from_server_v5(0x20, "01 80 00"), "MQTT-3.2.2-6");
    assert_protocol_error(from_server_v311(0x20, "01 05"), "MQTT-3.2.2-6");
    assert!(from_server_v5(0x20, "01 00 00").is_ok());
}

#[test]
fn mqtt_3_2_2_9_maximum_qos_is_0_or_1() {
    assert!(from_server_v5(0x20, "00 00 02 24 01").is_ok());
    assert_protocol_error(from_server_v5(0x20, "00 00 02 24 02"), "§3.2.2.3.4");
}

#[test]
fn mqtt_3_3_1_2_dup_is_0_at_qos_0() {
    assert_malformed(from_client_v5(0x38, "0001 't' 00"), "MQTT-3.3.1-2");
    assert_malformed(from_client_v311(0x38, "0001 't'"), "MQTT-3.3.1-2");
}

#[test]
fn mqtt_3_3_1_4_qos_bits_11_are_malformed() {
    for first in [0x36, 0x37, 0x3E, 0x3F] {
        assert_malformed(from_client_v5(first, "0001 't' 0001 00"), "MQTT-3.3.1-4");
        assert_malformed(from_client_v311(first, "0001 't' 0001"), "MQTT-3.3.1-4");
    }
}

#[test]
fn mqtt_2_2_1_2_a_publish_of_qos_0_has_no_packet_id() {
    let Ok(Packet::Publish(publish)) = from_client_v311(0x30, "0001 't' 0001") else {
        panic!("refused")
    };
    assert_eq!(publish.packet_id, None);
    assert_eq!(&publish.payload[..], [0, 1]);
}

#[test]
fn mqtt_2_2_1_3_a_packet_id_is_not_0() {
    let packets = [
        (0x32, "0001 't' 0000 00"),
        (0x34, "0001 't' 0000 00"),
        (0x40, "0000"),
        (0x50, "0000"),
        (0x62, "0000"),
        (0x70, "0000"),
        (0x82, "0000 00 0001 't' 00"),
        (0xA2, "0000 00 0001 't'"),
    ];
    for (first, body) in packets {
        assert_protocol_error(from_client_v5(first, body), "MQTT-2.2.1-3");
    }
    for first in [0x90, 0xB0] {
        assert_protocol_error(from_server_v5(first, "0000 00 00"), "MQTT-2.2.1-3");
    }
}

#[test]
fn mqtt_3_3_2_1_the_topic_name_is_utf8() {
    assert_malformed(from_client_v5(0x30, "0001 FF 00"), "MQTT-1.5.4-1");
    assert_malformed(from_client_v311(0x30, "0003 EDA080"), "MQTT-1.5.4-1");
}

#[test]
fn mqtt_3_3_2_2_a_topic_name_has_no_wildcards() {
    assert_malformed(from_client_v5(0x30, "0003 'a/+' 00"), "MQTT-3.3.2-2");
    assert_malformed(from_client_v311(0x30, "0001 '#'"), "MQTT-3.3.2-2");
}

#[test]
fn an_empty_topic_name_needs_an_alias() {
    assert_protocol_error(from_client_v5(0x30, "0000 00"), "§3.3.2.1");
    assert_protocol_error(from_client_v311(0x30, "0000 'payload'"), "MQTT-4.7.3-1");
    assert!(from_client_v5(0x30, "0000 03 23 0001").is_ok());
}

#[test]
fn mqtt_3_3_2_8_an_alias_is_not_0() {
    let result = from_client_v5(0x30, "0001 't' 03 23 0000");
    assert_refused(result, ReasonCode::TopicAliasInvalid, "MQTT-3.3.2-8");
}

#[test]
fn mqtt_3_3_2_13_the_response_topic_is_utf8() {
    assert_malformed(
        from_client_v5(0x30, "0001 't' 04 08 0001 FF"),
        "MQTT-1.5.4-1",
    );
}

#[test]
fn mqtt_3_3_2_14_a_response_topic_has_no_wildcards() {
    assert_protocol_error(
        from_client_v5(0x30, "0001 't' 04 08 0001 '#'"),
        "MQTT-3.3.2-14",
    );
    assert_protocol_error(from_client_v5(0x30, "0001 't' 03 08 0000"), "MQTT-4.7.3-1");
}

#[test]
fn mqtt_3_3_2_19_the_content_type_is_utf8() {
    assert_malformed(
        from_client_v5(0x30, "0001 't' 04 03 0001 FF"),
        "MQTT-1.5.4-1",
    );
}

#[test]
fn the_payload_format_indicator_is_0_or_1() {
    assert_protocol_error(from_client_v5(0x30, "0001 't' 02 01 02"), "§2.2.2.2");
}

#[test]
fn mqtt_3_3_4_6_a_clients_publish_has_no_subscription_id() {
    assert_protocol_error(from_client_v5(0x30, "0001 't' 02 0B 01"), "MQTT-3.3.4-6");
    let Ok(Packet::Publish(publish)) = from_server_v5(0x30, "0001 't' 05 0B 01 0B 8001") else {
        panic!("refused")
    };
    assert_eq!(
        publish
            .subscription_ids
            .iter()
            .map(|id| id.get())
            .collect::<Vec<_>>(),
        [1, 128]
    );
    assert_protocol_error(from_server_v5(0x30, "0001 't' 02 0B 00"), "§3.8.2.1.2");
}

#[test]
fn topics_and_filters_are_limited_in_bytes_and_levels() {
    let limits = Limits {
        topic_bytes_max: 4,
        topic_levels_max: 2,
        ..Limits::default()
    };
    let decode = |first, body: &str| {
        let mut decoder = decoder(Role::Server, Version::V5);
        decoder.set_limits(limits);
        decode_with(decoder, &frame(first, body))
    };
    assert!(decode(0x30, "0004 'ab/d' 00").is_ok());
    assert_refused(
        decode(0x30, "0005 'abcde' 00"),
        ReasonCode::TopicNameInvalid,
        "§4.7.3",
    );
    assert_refused(
        decode(0x30, "0003 'a//' 00"),
        ReasonCode::TopicNameInvalid,
        "§4.7.3",
    );
    assert!(decode(0x82, "0001 00 0004 'ab/#' 00").is_ok());
    let filter_invalid = ReasonCode::TopicFilterInvalid;
    assert_refused(
        decode(0x82, "0001 00 0005 'abcde' 00"),
        filter_invalid,
        "§4.7.3",
    );
    assert_refused(decode(0xA2, "0001 00 0003 'a//'"), filter_invalid, "§4.7.3");
    let response = decode(0x30, "0001 't' 08 08 0005 'abcde'");
    assert_refused(response, ReasonCode::TopicNameInvalid, "§4.7.3");
}

#[test]
fn filters_and_codes_are_limited_in_number() {
    let limits = Limits {
        filters_max: 2,
        subscription_ids_max: 2,
        ..Limits::default()
    };
    let decode = |role, first, body: &str| {
        let mut decoder = decoder(role, Version::V5);
        decoder.set_limits(limits);
        decode_with(decoder, &frame(first, body))
    };
    let packets = [
        (Role::Server, 0x82, "0001 00", "0001 't' 00"),
        (Role::Server, 0xA2, "0001 00", "0001 't'"),
        (Role::Client, 0x90, "0001 00", "00"),
        (Role::Client, 0xB0, "0001 00", "00"),
    ];
    for (role, first, head, item) in packets {
        assert!(decode(role, first, &format!("{head} {}", item.repeat(2))).is_ok());
        let result = decode(role, first, &format!("{head} {}", item.repeat(3)));
        assert_refused(result, ReasonCode::QuotaExceeded, "§3.8.3");
    }
    assert!(decode(Role::Client, 0x30, "0001 't' 04 0B01 0B01").is_ok());
    let result = decode(Role::Client, 0x30, "0001 't' 06 0B01 0B01 0B01");
    assert_refused(result, ReasonCode::QuotaExceeded, "§3.3.2.3.8");
}

#[test]
fn mqtt_3_8_3_1_filters_are_utf8() {
    assert_malformed(from_client_v5(0x82, "0001 00 0001 FF 00"), "MQTT-1.5.4-1");
    assert_malformed(from_client_v5(0xA2, "0001 00 0001 FF"), "MQTT-1.5.4-1");
}

#[test]
fn mqtt_3_8_3_2_a_subscribe_has_a_filter() {
    assert_protocol_error(from_client_v5(0x82, "0001 00"), "MQTT-3.8.3-2");
    assert_protocol_error(from_client_v311(0x82, "0001"), "MQTT-3.8.3-2");
}

#[test]
fn mqtt_3_8_3_4_no_local_is_not_for_shared_subscriptions() {
    let shared = "0001 00 000A '$share/g/a'";
    assert_protocol_error(
        from_client_v5(0x82, &format!("{shared} 04")),
        "MQTT-3.8.3-4",
    );
    assert!(from_client_v5(0x82, &format!("{shared} 01")).is_ok());
}

#[test]
fn mqtt_3_8_3_5_reserved_option_bits_are_malformed() {
    for options in ["40", "80", "C1"] {
        assert_malformed(
            from_client_v5(0x82, &format!("0001 00 0001 't' {options}")),
            "MQTT-3.8.3-5",
        );
    }
}

#[test]
fn maximum_qos_3_and_retain_handling_3_are_protocol_errors() {
    for options in ["03", "30"] {
        assert_protocol_error(
            from_client_v5(0x82, &format!("0001 00 0001 't' {options}")),
            "§3.8.3.1",
        );
    }
}

#[test]
fn mqtt_3_8_3_4_of_3_1_1_reserved_bits_and_qos_3_are_malformed() {
    for options in ["03", "04", "08", "10", "40", "80"] {
        assert_malformed(
            from_client_v311(0x82, &format!("0001 0001 't' {options}")),
            "MQTT-3.8.3-4 (3.1.1)",
        );
    }
}

#[test]
fn a_subscription_id_is_not_0() {
    assert_protocol_error(
        from_client_v5(0x82, "0001 02 0B 00 0001 't' 00"),
        "§3.8.2.1.2",
    );
}

#[test]
fn mqtt_4_7_1_filters_are_checked_where_they_arrive() {
    assert_malformed(
        from_client_v5(0x82, "0001 00 0003 'a#/' 00"),
        "MQTT-4.7.1-1",
    );
    assert_malformed(from_client_v311(0x82, "0001 0002 'a+' 00"), "MQTT-4.7.1-2");
    assert_malformed(from_client_v5(0xA2, "0001 00 0000"), "MQTT-4.7.3-1");
    assert_malformed(
        from_client_v5(0x82, "0001 00 0009 '$share//a' 00"),
        "MQTT-4.8.2-1",
    );
    assert_malformed(
        from_client_v5(0x82, "0001 00 0008 '$share/g' 00"),
        "MQTT-4.8.2-2",
    );
}

#[test]
fn mqtt_3_8_4_6_a_suback_has_a_code() {
    assert_protocol_error(from_server_v5(0x90, "0001 00"), "MQTT-3.8.4-6");
    assert_protocol_error(from_server_v311(0x90, "0001"), "MQTT-3.8.4-6");
}

#[test]
fn mqtt_3_10_3_2_an_unsubscribe_has_a_filter() {
    assert_protocol_error(from_client_v5(0xA2, "0001 00"), "MQTT-3.10.3-2");
    assert_protocol_error(from_client_v311(0xA2, "0001"), "MQTT-3.10.3-2");
}

#[test]
fn a_disconnect_without_a_byte_is_a_normal_one() {
    for result in [
        from_client_v5(0xE0, ""),
        from_client_v5(0xE0, "00"),
        from_client_v311(0xE0, ""),
    ] {
        assert_eq!(result, Ok(Packet::Disconnect(Box::default())));
    }
}

#[test]
fn mqtt_3_14_2_2_a_server_sends_no_session_expiry() {
    assert_protocol_error(from_server_v5(0xE0, "80 05 11 00000001"), "MQTT-3.14.2-2");
}

#[test]
fn a_client_sends_no_server_reference() {
    assert_protocol_error(from_client_v5(0xE0, "80 04 1C 0001 's'"), "§3.14.2.2.5");
}

#[test]
fn an_auth_names_its_method_unless_it_is_the_short_success() {
    assert_protocol_error(from_client_v5(0xF0, "18 00"), "§3.15.2.2.2");
    assert_malformed(from_client_v5(0xF0, "18"), "§2.1.4");
    assert!(from_server_v5(0xF0, "").is_ok());
}

#[test]
fn a_packet_that_ends_inside_a_field_is_malformed() {
    for (first, body) in [
        (0x30, "00"),
        (0x30, "0002 't'"),
        (0x32, "0001 't' 00"),
        (0x30, "0001 't'"),
        (0x30, "0001 't' 02 01"),
        (0x40, "00"),
        (0x82, "0001 00 0001 't'"),
        (0x82, "0001 00 0002 't'"),
        (0x30, "0001 't' 04 23"),
        (0x30, "0001 't' 02 02 00"),
    ] {
        assert_malformed(from_client_v5(first, body), "§2.1.4");
    }
}

#[test]
fn an_error_says_rule_value_and_clause() {
    let error = from_client_v5(0x82, "0001 00 0001 't' C0").expect_err("refused");
    assert_eq!(
        error.to_string(),
        "reserved bits of the subscription options are not 0: 192 [MQTT-3.8.3-5]"
    );
    assert_eq!(error.version, Some(Version::V5));
}
