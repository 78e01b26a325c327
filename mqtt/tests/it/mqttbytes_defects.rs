//! What mqttbytes 0.6.0 does wrong beyond the bytes that it reads although we refuse them, and
//! why it cannot read the wire alone: each as a test that fails when a newer version mends it.
//!
//! Not shown here: its MQTT 5 UNSUBSCRIBE prints to standard output whenever it is written.

use bytes::BytesMut;
use mqttbytes::{Error, v4, v5};
use tidewire_mqtt::*;

use crate::bytes_of::{bytes, decoder};

fn ours(role: Role, version: Version, wire: &[u8]) -> Result<Option<Packet>, DecodeError> {
    decoder(role, version).decode(&mut BytesMut::from(wire))
}

fn theirs_v4(wire: &[u8]) -> Result<v4::Packet, Error> {
    v4::read(&mut BytesMut::from(wire), 1024 * 1024)
}

fn theirs_v5(wire: &[u8]) -> Result<v5::Packet, Error> {
    v5::read(&mut BytesMut::from(wire), 1024 * 1024)
}

#[test]
fn it_refuses_the_disconnect_of_mqtt_5_without_a_reason() {
    // §3.14.2.1: taken for a lost connection, it would fire the will.
    let wire = bytes("E0 00");

    let read = ours(Role::Server, Version::V5, &wire);

    assert_eq!(read, Ok(Some(Packet::Disconnect(Box::default()))));
    assert_eq!(theirs_v5(&wire), Err(Error::PayloadRequired));
}

#[test]
fn it_writes_a_connack_of_mqtt_5_without_the_length_of_properties() {
    let connack = v5::ConnAck::new(v5::ConnectReturnCode::Success, false);
    let mut wire = BytesMut::new();
    connack.write(&mut wire).expect("it writes");

    assert_eq!(wire.to_vec(), bytes("20 02 00 00"));
    assert!(ours(Role::Client, Version::V5, &wire).is_err());
}

#[test]
fn it_knows_no_auth() {
    let wire = bytes("F0 06 18 04 15 0001 'm'");

    assert!(matches!(
        ours(Role::Server, Version::V5, &wire),
        Ok(Some(Packet::Auth(_)))
    ));
    assert!(theirs_v5(&wire).is_err());
}

#[test]
fn it_takes_a_property_behind_two_subscription_identifiers_for_payload() {
    let wire = bytes("30 0B 0001 't' 06 0B 01 0B 02 01 01 'x'");

    let Ok(Some(Packet::Publish(read))) = ours(Role::Client, Version::V5, &wire) else {
        panic!("a valid PUBLISH");
    };
    let Ok(v5::Packet::Publish(misread)) = theirs_v5(&wire) else {
        panic!("it reads something");
    };

    assert_eq!(read.payload, "x");
    assert_eq!(misread.payload.to_vec(), bytes("01 01 'x'"));
}

#[test]
fn it_asks_for_more_bytes_of_a_bad_packet_that_is_whole() {
    // A loop that waits for them waits for ever.
    let wire = bytes("30 03 0001 't'");

    assert!(ours(Role::Server, Version::V5, &wire).is_err());
    assert_eq!(theirs_v5(&wire), Err(Error::InsufficientBytes(1)));
}

#[test]
fn it_cuts_the_length_of_a_string_beyond_65535_bytes() {
    let topic = "t".repeat(65_536 + 1);
    let publish = v4::Publish::new(topic.as_str(), mqttbytes::QoS::AtMostOnce, "x");
    let mut wire = BytesMut::new();
    publish.write(&mut wire).expect("it writes");

    let Ok(v4::Packet::Publish(read)) = theirs_v4(&wire) else {
        panic!("it reads something");
    };

    assert_eq!(read.topic, "t");
    assert!(Text::try_from(topic.as_str()).is_err());
}

#[test]
fn its_matching_panics_on_a_topic_that_begins_beyond_ascii() {
    let theirs = std::panic::catch_unwind(|| mqttbytes::matches("é", "+"));

    assert!(theirs.is_err());
    let filter = Filter::try_from("+").expect("a filter");
    assert!(filter.matches(&Topic::try_from("é").expect("a topic")));
}
