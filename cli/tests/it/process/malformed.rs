//! Bytes that are no MQTT close the connection they came on, and no other.

use super::node::Place;
use super::wire::{V5, V311, Wire, connect, packet, string};

#[test]
fn malformed_packets_close_their_own_connection_only() {
    let place = Place::new();
    let _node = place.start();
    let mut neighbour = Wire::connect(place.mqtt, V311, "neighbour").expect("the node serves");

    for version in [V311, V5] {
        for (what, bytes) in malformed(version) {
            let mut bad = Wire::connect(place.mqtt, version, "bad").expect("the node serves");
            bad.send(&bytes).expect("the connection is open");
            bad.read_to_close();

            assert!(
                neighbour.is_alive(),
                "{what} (protocol {version}) closed another connection"
            );
        }
    }
}

#[test]
fn mqtt_5_names_the_reason_before_it_closes() {
    let place = Place::new();
    let _node = place.start();
    let mut bad = Wire::connect(place.mqtt, V5, "bad").expect("the node serves");

    bad.send(&packet(0x36, &[&string("a")[..], &[0, 1, 0]].concat()))
        .expect("the connection is open");

    let last = bad.read_to_close().pop().expect("a DISCONNECT comes first");
    assert_eq!(
        (last.first, last.body.first()),
        (0xE0, Some(&0x81)),
        "malformed packet: {last:?}"
    );
}

#[test]
fn the_first_packet_must_be_connect_and_may_come_once_only() {
    let place = Place::new();
    let _node = place.start();
    let mut first = Wire::open(place.mqtt).expect("the node listens");
    let mut twice = Wire::connect(place.mqtt, V311, "twice").expect("the node serves");

    first.send(&[0xC0, 0]).expect("the connection is open");
    twice
        .send(&connect(V311, "twice"))
        .expect("the connection is open");

    assert_eq!(first.read_to_close(), []);
    assert_eq!(twice.read_to_close(), []);
}

fn malformed(version: u8) -> [(&'static str, Vec<u8>); 6] {
    let properties: &[u8] = if version == V5 { &[0] } else { &[] };
    [
        (
            "a length of five bytes",
            vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
        ),
        ("a reserved packet type", vec![0x00, 0x00]),
        (
            "reserved flags of SUBSCRIBE",
            packet(0x80, &[&[0, 1], properties, &string("a"), &[0]].concat()),
        ),
        (
            "QoS 3",
            packet(0x36, &[&string("a"), &[0, 1][..], properties].concat()),
        ),
        (
            "a wildcard in a topic",
            packet(0x30, &[&string("a/#"), properties].concat()),
        ),
        (
            "U+0000 in a topic",
            packet(0x30, &[&string("a\0b"), properties].concat()),
        ),
    ]
}
