//! Clauses about PUBLISH and its acknowledgements, named by their numbers.

use std::num::NonZeroU16;

use mqtt::{Packet, Publish, PublishProperties, QoS, ReasonCode, SubscribeOptions, Version};
use tidewire_session::{Config, ConnectionId, Limits};

use crate::client::{ack, connect, id_of, publish, subscribe, subscribe_with};
use crate::world::World;

fn open(world: &mut World, id: &str, version: Version) -> ConnectionId {
    let conn = world.accept();
    let packet = Packet::Connect(Box::new(connect(id, version)));
    world.exchange(conn, &packet);
    conn
}

fn open_persistent(world: &mut World, id: &str, receive_maximum: u16) -> ConnectionId {
    let conn = world.accept();
    let mut packet = connect(id, Version::V5);
    packet.clean_start = false;
    packet.properties.session_expiry_s = Some(1_000);
    packet.properties.receive_maximum = NonZeroU16::new(receive_maximum);
    world.client_sends(conn, &Packet::Connect(Box::new(packet)));
    conn
}

fn send(world: &mut World, from: ConnectionId, publish: Publish) -> Vec<Packet> {
    world.exchange(from, &Packet::Publish(publish))
}

fn publishes(packets: &[Packet]) -> Vec<&Publish> {
    let mut found = Vec::new();
    for packet in packets {
        if let Packet::Publish(publish) = packet {
            found.push(publish);
        }
    }
    found
}

fn payloads(packets: &[Packet]) -> Vec<String> {
    let text = |p: &Publish| String::from_utf8_lossy(&p.payload).into_owned();
    publishes(packets).into_iter().map(text).collect()
}

#[test]
fn mqtt_4_3_2_4_puback_leaves_only_after_the_entry_is_committed() {
    let mut world = World::new();
    let id = open(&mut world, "a", Version::V5);
    let message = publish("t", QoS::AtLeastOnce, Some(5), "m");
    world.client_sends(id, &Packet::Publish(message));

    world.move_up(id, usize::MAX);
    let before = world.move_down(id, usize::MAX);
    let after = world.settle(id);

    assert_eq!(before, []);
    assert_eq!(after, [Packet::PubAck(ack(id_of(5)))]);
}

#[test]
fn pubacks_leave_in_order_of_arrival_whatever_settles_first() {
    let mut world = World::new();
    let id = open(&mut world, "a", Version::V5);
    let now = world.now;
    let live = world.live(id);
    let mut tokens = Vec::new();
    for packet_id in [3, 1, 2] {
        let message = publish("t", QoS::AtLeastOnce, Some(packet_id), "m");
        live.handle_packet(Packet::Publish(message), now);
        let Some(tidewire_session::Effect::Publish(inbound)) = live.poll_effect() else {
            panic!("PUBLISH expected");
        };
        tokens.push(inbound.token.expect("owed"));
    }

    for token in tokens.iter().rev() {
        live.handle_settled(*token, ReasonCode::Success, now);
    }
    world.drain(id);

    let packets = world.move_down(id, usize::MAX);
    let expected = [3, 1, 2].map(|id| Packet::PubAck(ack(id_of(id))));
    assert_eq!(packets, expected);
}

#[test]
fn what_stays_unsettled_closes_the_connection_with_server_busy() {
    let mut world = World::new();
    let id = open(&mut world, "a", Version::V5);
    let message = publish("t", QoS::AtLeastOnce, Some(1), "m");
    world.client_sends(id, &Packet::Publish(message));
    world.move_up(id, usize::MAX);

    world.advance(29_999);
    assert!(world.closed(id).is_none());
    world.advance(1);

    let reason = world.closed(id).map(|closed| closed.reason);
    assert_eq!(reason, Some(ReasonCode::ServerBusy));
}

#[test]
fn mqtt_4_3_3_qos_2_goes_through_its_four_packets_both_ways() {
    for version in [Version::V311, Version::V5] {
        let mut world = World::new();
        let subscriber = open(&mut world, "s", version);
        world.exchange(subscriber, &subscribe("t", QoS::ExactlyOnce));
        let publisher = open(&mut world, "p", version);

        let message = publish("t", QoS::ExactlyOnce, Some(9), "m");
        let rec = send(&mut world, publisher, message);
        let comp = world.exchange(publisher, &Packet::PubRel(ack(id_of(9))));
        let delivered = world.settle(subscriber);
        let id = publishes(&delivered)[0].packet_id.expect("QoS 2");
        let rel = world.exchange(subscriber, &Packet::PubRec(ack(id)));
        let end = world.exchange(subscriber, &Packet::PubComp(ack(id)));

        assert_eq!(rec, [Packet::PubRec(ack(id_of(9)))]);
        assert_eq!(comp, [Packet::PubComp(ack(id_of(9)))]);
        assert_eq!(payloads(&delivered), ["m"]);
        assert_eq!(rel, [Packet::PubRel(ack(id))]);
        assert_eq!(end, []);
    }
}

#[test]
fn mqtt_4_3_3_10_a_repeated_publish_before_pubrel_is_not_delivered_again() {
    let mut world = World::new();
    let subscriber = open(&mut world, "s", Version::V5);
    world.exchange(subscriber, &subscribe("t", QoS::ExactlyOnce));
    let publisher = open_persistent(&mut world, "p", 10);
    let message = publish("t", QoS::ExactlyOnce, Some(9), "m");
    send(&mut world, publisher, message.clone());
    world.cut(publisher, 0);

    let publisher = open_persistent(&mut world, "p", 10);
    let again = Publish {
        dup: true,
        ..message.clone()
    };
    let packets = send(&mut world, publisher, again);

    assert!(packets.contains(&Packet::PubRec(ack(id_of(9)))));
    assert_eq!(payloads(&world.settle(subscriber)), ["m"]);

    // [MQTT-4.3.3-12]: after PUBCOMP the id means a new message.
    world.exchange(publisher, &Packet::PubRel(ack(id_of(9))));
    send(&mut world, publisher, message);
    assert_eq!(payloads(&world.settle(subscriber)), ["m"]);
}

#[test]
fn mqtt_3_6_2_pubrel_for_an_unknown_id_is_answered() {
    let mut world = World::new();
    let id = open(&mut world, "a", Version::V5);

    let packets = world.exchange(id, &Packet::PubRel(ack(id_of(4))));

    let [Packet::PubComp(comp)] = &packets[..] else {
        panic!("{packets:?}");
    };
    assert_eq!(comp.reason, ReasonCode::PacketIdentifierNotFound);
}

#[test]
fn mqtt_3_3_4_7_more_than_the_receive_maximum_closes_mqtt_5_and_pauses_3_1_1() {
    for version in [Version::V5, Version::V311] {
        let mut world = World::new();
        let id = open(&mut world, "a", version);
        for packet_id in 1..=33 {
            assert_eq!(
                world.live(id).is_paused(),
                version == Version::V311 && packet_id == 33
            );
            let message = publish("t", QoS::AtLeastOnce, Some(packet_id), "m");
            world.client_sends(id, &Packet::Publish(message));
            world.move_up(id, usize::MAX);
        }

        let reason = world.closed(id).map(|closed| closed.reason);
        let expected = (version == Version::V5).then_some(ReasonCode::ReceiveMaximumExceeded);
        assert_eq!(reason, expected);
    }
}

#[test]
fn mqtt_3_3_4_9_the_server_stays_within_the_clients_receive_maximum() {
    let mut world = World::new();
    let subscriber = open_persistent(&mut world, "s", 2);
    world.exchange(subscriber, &subscribe("t", QoS::AtLeastOnce));
    let publisher = open(&mut world, "p", Version::V5);
    for number in 1..=5 {
        let message = publish("t", QoS::AtLeastOnce, Some(number), &number.to_string());
        send(&mut world, publisher, message);
    }

    let first = world.settle(subscriber);
    let id = publishes(&first)[0].packet_id.expect("QoS 1");
    let second = world.exchange(subscriber, &Packet::PubAck(ack(id)));

    assert_eq!(payloads(&first), ["1", "2"]);
    assert_eq!(payloads(&second), ["3"]);
}

#[test]
fn mqtt_4_9_0_3_a_full_window_does_not_stall_qos_0() {
    let mut world = World::new();
    let subscriber = open_persistent(&mut world, "s", 1);
    world.exchange(subscriber, &subscribe("t", QoS::AtLeastOnce));
    let publisher = open(&mut world, "p", Version::V5);
    for number in 1..=2 {
        let message = publish("t", QoS::AtLeastOnce, Some(number), "one");
        send(&mut world, publisher, message);
    }

    send(
        &mut world,
        publisher,
        publish("t", QoS::AtMostOnce, None, "zero"),
    );

    assert_eq!(payloads(&world.settle(subscriber)), ["one", "zero"]);
}

#[test]
fn mqtt_4_4_0_1_unacknowledged_messages_come_again_with_dup_and_their_ids() {
    let mut world = World::new();
    let subscriber = open_persistent(&mut world, "s", 10);
    world.exchange(subscriber, &subscribe("t", QoS::ExactlyOnce));
    let publisher = open(&mut world, "p", Version::V5);
    let one = publish("t", QoS::AtLeastOnce, Some(1), "one");
    let two = publish("t", QoS::ExactlyOnce, Some(2), "two");
    let three = publish("t", QoS::ExactlyOnce, Some(3), "three");
    for message in [one, two, three] {
        send(&mut world, publisher, message);
    }
    let first = world.settle(subscriber);
    let ids: Vec<_> = publishes(&first).iter().map(|p| p.packet_id).collect();
    world.exchange(subscriber, &Packet::PubRec(ack(ids[1].expect("QoS 2"))));
    world.cut(subscriber, 0);

    let subscriber = open_persistent(&mut world, "s", 10);
    let again = world.settle(subscriber);

    let publishes = publishes(&again);
    let dups: Vec<_> = publishes.iter().map(|p| (p.dup, p.packet_id)).collect();
    assert_eq!(dups, [(true, ids[0]), (true, ids[2])]);
    assert_eq!(payloads(&again), ["one", "three"]);
    let rel = Packet::PubRel(ack(ids[1].expect("QoS 2")));
    assert!(again.contains(&rel), "{again:?}");
}

#[test]
fn mqtt_2_2_1_4_packet_ids_follow_from_sequences_and_clean_sessions_use_the_upper_half() {
    let mut world = World::new();
    let persistent = open_persistent(&mut world, "s", 10);
    world.exchange(persistent, &subscribe("t", QoS::AtLeastOnce));
    let clean = open(&mut world, "c", Version::V5);
    world.exchange(clean, &subscribe("t", QoS::AtLeastOnce));
    let publisher = open(&mut world, "p", Version::V5);

    let message = publish("t", QoS::AtLeastOnce, Some(1), "m");
    send(&mut world, publisher, message);

    let of = |packets: Vec<Packet>| publishes(&packets)[0].packet_id.map(u16::from);
    assert_eq!(of(world.settle(persistent)), Some(1));
    assert_eq!(of(world.settle(clean)), Some(32_768));
}

#[test]
fn packet_ids_go_round_without_meeting_one_in_use() {
    let mut world = World::new();
    let clean = open(&mut world, "c", Version::V5);
    world.exchange(clean, &subscribe("t", QoS::AtLeastOnce));
    let publisher = open(&mut world, "p", Version::V5);
    let mut seen = 0;
    for number in 0..33_000_u32 {
        let message = publish("t", QoS::AtLeastOnce, Some(1), &number.to_string());
        send(&mut world, publisher, message);
        let packets = world.settle(clean);
        let id = publishes(&packets)[0].packet_id.expect("QoS 1");
        seen += u32::from(world.exchange(clean, &Packet::PubAck(ack(id))).is_empty());
    }

    assert_eq!(seen, 33_000);
}

#[test]
fn mqtt_3_1_2_25_a_message_too_large_for_the_client_counts_as_completed() {
    let mut world = World::new();
    let subscriber = world.accept();
    let mut packet = connect("s", Version::V5);
    packet.clean_start = false;
    packet.properties.session_expiry_s = Some(1_000);
    packet.properties.maximum_packet_size = 200.try_into().ok();
    world.exchange(subscriber, &Packet::Connect(Box::new(packet)));
    world.exchange(subscriber, &subscribe("t", QoS::AtLeastOnce));
    let publisher = open(&mut world, "p", Version::V5);
    let large = "x".repeat(300);

    let message = publish("t", QoS::AtLeastOnce, Some(1), &large);
    send(&mut world, publisher, message);
    let message = publish("t", QoS::AtLeastOnce, Some(2), "small");
    send(&mut world, publisher, message);

    assert_eq!(payloads(&world.settle(subscriber)), ["small"]);
    assert_eq!(world.durable.counters().queue_messages, 1);
    assert_eq!(world.live(subscriber).dropped().too_large, 1);
}

#[test]
fn mqtt_3_3_2_topic_aliases_are_resolved_within_the_maximum() {
    let mut world = World::new();
    let subscriber = open(&mut world, "s", Version::V5);
    world.exchange(subscriber, &subscribe("t", QoS::AtMostOnce));
    let publisher = open(&mut world, "p", Version::V5);
    let mut named = publish("t", QoS::AtMostOnce, None, "named");
    named.topic_alias = NonZeroU16::new(16);
    let mut short = named.clone();
    short.topic = mqtt::Topic::default();
    short.payload = "short".into();
    let mut above = named.clone();
    above.topic_alias = NonZeroU16::new(17);

    send(&mut world, publisher, named);
    send(&mut world, publisher, short.clone());
    send(&mut world, publisher, above);

    let packets = world.settle(subscriber);
    assert_eq!(payloads(&packets), ["named", "short"]);
    assert!(publishes(&packets).iter().all(|p| p.topic_alias.is_none()));
    let reason = world.closed(publisher).map(|closed| closed.reason);
    assert_eq!(reason, Some(ReasonCode::TopicAliasInvalid));

    // [MQTT-3.3.2-7]: the alias died with the connection.
    let publisher = open(&mut world, "p", Version::V5);
    send(&mut world, publisher, short);
    let reason = world.closed(publisher).map(|closed| closed.reason);
    assert_eq!(reason, Some(ReasonCode::ProtocolError));
}

#[test]
fn mqtt_3_3_2_5_and_3_3_2_6_expiry_counts_down_in_the_queue_and_deletes() {
    let mut world = World::new();
    let subscriber = open_persistent(&mut world, "s", 10);
    world.exchange(subscriber, &subscribe("t", QoS::AtLeastOnce));
    world.cut(subscriber, 0);
    let publisher = open(&mut world, "p", Version::V5);
    for (packet_id, expiry_s) in [(1, 10), (2, 60)] {
        let mut message = publish("t", QoS::AtLeastOnce, Some(packet_id), "m");
        message.properties = Some(Box::new(PublishProperties {
            message_expiry_s: Some(expiry_s),
            ..PublishProperties::default()
        }));
        send(&mut world, publisher, message);
    }

    world.advance(20_000);
    world.settle(publisher);
    assert_eq!(world.durable.counters().dropped_expired, 1);
    let subscriber = open_persistent(&mut world, "s", 10);
    let packets = world.settle(subscriber);

    let publishes = publishes(&packets);
    assert_eq!(publishes.len(), 1);
    let properties = publishes[0].properties.as_ref().expect("forwarded");
    assert_eq!(properties.message_expiry_s, Some(40));
}

#[test]
fn mqtt_3_3_2_properties_are_forwarded_unaltered_and_in_order() {
    let mut world = World::new();
    let subscriber = open(&mut world, "s", Version::V5);
    world.exchange(subscriber, &subscribe("t", QoS::AtLeastOnce));
    let publisher = open(&mut world, "p", Version::V5);
    let text = |s: &str| mqtt::Text::try_from(s).expect("text");
    let properties = Some(Box::new(PublishProperties {
        payload_is_utf8: Some(true),
        message_expiry_s: None,
        response_topic: Some("r".try_into().expect("a topic")),
        correlation_data: Some("c".into()),
        content_type: Some(text("text/plain")),
        user_properties: vec![(text("b"), text("1")), (text("a"), text("2"))],
    }));
    let mut message = publish("t", QoS::AtLeastOnce, Some(1), "m");
    message.properties.clone_from(&properties);
    // [MQTT-3.3.1-3]: the DUP flag does not travel.
    message.dup = true;

    send(&mut world, publisher, message);

    let packets = world.settle(subscriber);
    assert_eq!(publishes(&packets)[0].properties, properties);
    assert!(!publishes(&packets)[0].dup);
}

#[test]
fn mqtt_4_4_0_2_a_negative_acknowledgement_ends_the_message() {
    let mut world = World::new();
    let subscriber = open_persistent(&mut world, "s", 10);
    world.exchange(subscriber, &subscribe("t", QoS::ExactlyOnce));
    let publisher = open(&mut world, "p", Version::V5);
    let message = publish("t", QoS::ExactlyOnce, Some(1), "m");
    send(&mut world, publisher, message);
    let packets = world.settle(subscriber);
    let mut rec = ack(publishes(&packets)[0].packet_id.expect("QoS 2"));
    rec.reason = ReasonCode::QuotaExceeded;

    let packets = world.exchange(subscriber, &Packet::PubRec(rec));

    assert_eq!(packets, []);
    assert_eq!(world.durable.counters().queue_messages, 0);
}

#[test]
fn a_blocked_socket_queues_by_the_policy_and_drops_qos_0_first() {
    let config = Config {
        queue_messages: 3,
        ..Config::default()
    };
    let mut world = World::with(config, Limits::default());
    let subscriber = open(&mut world, "s", Version::V5);
    world.exchange(subscriber, &subscribe("t", QoS::ExactlyOnce));
    world.live(subscriber).handle_blocked();
    let publisher = open(&mut world, "p", Version::V5);
    send(
        &mut world,
        publisher,
        publish("t", QoS::AtMostOnce, None, "zero"),
    );
    for (number, qos) in [(1, QoS::ExactlyOnce), (2, QoS::AtLeastOnce)] {
        let message = publish("t", qos, Some(number), &number.to_string());
        send(&mut world, publisher, message);
    }
    for number in 3..=4 {
        let message = publish("t", QoS::AtLeastOnce, Some(number), &number.to_string());
        send(&mut world, publisher, message);
    }
    let now = world.now;

    assert_eq!(world.settle(subscriber), []);
    world.live(subscriber).handle_writable(now);
    world.drain(subscriber);

    assert_eq!(payloads(&world.settle(subscriber)), ["1", "3", "4"]);
    assert_eq!(world.live(subscriber).dropped().full, 2);
}

#[test]
fn mqtt_3_3_1_2_qos_0_for_a_persistent_session_passes_its_queue() {
    let mut world = World::new();
    let subscriber = open_persistent(&mut world, "s", 10);
    let at_most_once = SubscribeOptions::default();
    world.exchange(subscriber, &subscribe_with("t", at_most_once, Some(7)));
    let publisher = open(&mut world, "p", Version::V5);

    let message = publish("t", QoS::AtLeastOnce, Some(1), "m");
    send(&mut world, publisher, message);

    let packets = world.settle(subscriber);
    let publishes = publishes(&packets);
    assert_eq!(publishes.len(), 1);
    assert_eq!(publishes[0].packet_id, None);
    assert!(!publishes[0].dup);
    assert_eq!(world.durable.counters().queued, 0);
}
