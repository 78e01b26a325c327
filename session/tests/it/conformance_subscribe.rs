//! Clauses about subscriptions and retained messages, named by their numbers.

use mqtt::{
    Packet, Publish, QoS, ReasonCode, RetainHandling, Subscribe, SubscribeOptions, Unsubscribe,
    Version,
};
use tidewire_session::{Config, ConnectionId, Limits};

use crate::client::{connect, id_of, publish, subscribe, subscribe_with};
use crate::world::World;

/// A clean and a persistent session have to behave alike.
const KINDS: [bool; 2] = [true, false];

fn open(world: &mut World, id: &str, version: Version, clean: bool) -> ConnectionId {
    let conn = world.accept();
    let mut packet = connect(id, version);
    packet.clean_start = clean;
    if !clean && version == Version::V5 {
        packet.properties.session_expiry_s = Some(1_000);
    }
    world.exchange(conn, &Packet::Connect(Box::new(packet)));
    conn
}

fn retain(world: &mut World, topic: &str, payload: &str) {
    let publisher = open(world, "retainer", Version::V5, true);
    let mut message = publish(topic, QoS::AtLeastOnce, Some(1), payload);
    message.retain = true;
    world.exchange(publisher, &Packet::Publish(message));
    world.exchange(publisher, &Packet::Disconnect(Box::default()));
}

#[test]
fn retained_messages_in_parts_are_those_at_once_in_the_same_order() {
    let mut world = World::new();
    let topics = ["a", "a/b", "a/b/c", "a-", "a-/b", "a/", "a/!", "b", "$x/a"];
    for topic in topics {
        retain(&mut world, topic, topic);
    }
    for filter in ["#", "a/#", "+/b", "a", "$x/+"] {
        let filter = filter.try_into().expect("a filter");
        let now = world.now.wall;
        let at_once = world.durable.retained_matching(&filter, 100, now);
        for size in 1..4 {
            let mut parts: Vec<std::sync::Arc<tidewire_session::Message>> = Vec::new();
            loop {
                let after = parts.last().map(|last| last.topic.clone());
                let part = world
                    .durable
                    .retained_behind(&filter, after.as_ref(), size, now);
                if part.is_empty() {
                    break;
                }
                parts.extend(part);
                assert!(parts.len() <= topics.len());
            }
            assert_eq!(parts, at_once, "{filter:?} in parts of {size}");
        }
    }
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

fn reasons(packets: &[Packet]) -> Vec<ReasonCode> {
    let only = |packet: &Packet| match packet {
        Packet::SubAck(suback) | Packet::UnsubAck(suback) => Some(suback.reasons.clone()),
        _ => None,
    };
    packets.iter().find_map(only).expect("an answer")
}

fn options(qos: QoS) -> SubscribeOptions {
    SubscribeOptions {
        qos,
        ..SubscribeOptions::default()
    }
}

fn many(filters: &[(&str, QoS)]) -> Packet {
    let filter = |&(f, qos): &(&str, QoS)| (f.try_into().expect("a filter"), options(qos));
    Packet::Subscribe(Box::new(Subscribe {
        packet_id: id_of(77),
        filters: filters.iter().map(filter).collect(),
        subscription_id: None,
        user_properties: Vec::new(),
    }))
}

fn unsubscribe(filters: &[&str]) -> Packet {
    Packet::Unsubscribe(Box::new(Unsubscribe {
        packet_id: id_of(78),
        filters: filters
            .iter()
            .map(|f| (*f).try_into().expect("a filter"))
            .collect(),
        user_properties: Vec::new(),
    }))
}

#[test]
fn mqtt_3_8_4_one_suback_with_the_packets_id_and_a_code_per_filter_in_order() {
    for clean in KINDS {
        let mut world = World::new();
        let id = open(&mut world, "s", Version::V5, clean);

        let filters = [
            ("a", QoS::ExactlyOnce),
            ("$share/g/b", QoS::AtMostOnce),
            ("c", QoS::AtMostOnce),
            ("d", QoS::AtLeastOnce),
        ];
        let packets = world.exchange(id, &many(&filters));

        let [Packet::SubAck(suback)] = &packets[..] else {
            panic!("{packets:?}");
        };
        assert_eq!(suback.packet_id, id_of(77));
        let expected = [
            ReasonCode::GrantedQoS2,
            ReasonCode::Success,
            ReasonCode::Success,
            ReasonCode::GrantedQoS1,
        ];
        assert_eq!(suback.reasons, expected);
    }
}

#[test]
fn mqtt_3_8_3_4_no_local_on_a_shared_subscription_is_a_protocol_error() {
    let mut world = World::new();
    let id = open(&mut world, "s", Version::V5, true);
    let no_local = SubscribeOptions {
        no_local: true,
        ..SubscribeOptions::default()
    };

    world.exchange(id, &subscribe_with("$share/g/b", no_local, None));

    let reason = world.closed(id).map(|closed| closed.reason);
    assert_eq!(reason, Some(ReasonCode::ProtocolError));
}

#[test]
fn mqtt_3_8_3_3_no_local_never_echoes() {
    for clean in KINDS {
        let mut world = World::new();
        let id = open(&mut world, "s", Version::V5, clean);
        let no_local = SubscribeOptions {
            no_local: true,
            ..options(QoS::AtLeastOnce)
        };
        world.exchange(id, &subscribe_with("t", no_local, None));

        let message = publish("t", QoS::AtLeastOnce, Some(1), "m");
        let packets = world.exchange(id, &Packet::Publish(message));
        let message = publish("t", QoS::AtMostOnce, None, "m");
        world.exchange(id, &Packet::Publish(message));

        assert!(publishes(&packets).is_empty());
        assert!(publishes(&world.settle(id)).is_empty());
    }
}

#[test]
fn mqtt_3_3_4_2_and_3_3_4_4_overlapping_filters_give_one_copy_at_the_highest_qos() {
    for clean in KINDS {
        let mut world = World::new();
        let id = open(&mut world, "s", Version::V5, clean);
        let first = subscribe_with("t/+", options(QoS::AtMostOnce), Some(1));
        let second = subscribe_with("t/#", options(QoS::AtLeastOnce), Some(2));
        world.exchange(id, &first);
        world.exchange(id, &second);
        let publisher = open(&mut world, "p", Version::V5, true);

        let message = publish("t/x", QoS::ExactlyOnce, Some(1), "m");
        world.exchange(publisher, &Packet::Publish(message));

        let packets = world.settle(id);
        let publishes = publishes(&packets);
        assert_eq!(publishes.len(), 1);
        // [MQTT-3.8.4-8]: the lower of published and granted.
        assert_eq!(publishes[0].qos, QoS::AtLeastOnce);
        let ids: Vec<u32> = publishes[0]
            .subscription_ids
            .iter()
            .map(|i| i.get())
            .collect();
        assert_eq!(ids, [1, 2]);
    }
}

#[test]
fn mqtt_3_8_4_3_the_same_filter_again_replaces_the_subscription() {
    for clean in KINDS {
        let mut world = World::new();
        let id = open(&mut world, "s", Version::V5, clean);
        world.exchange(id, &subscribe_with("t", options(QoS::ExactlyOnce), Some(1)));
        world.exchange(id, &subscribe_with("t", options(QoS::AtMostOnce), Some(2)));
        let publisher = open(&mut world, "p", Version::V5, true);

        let message = publish("t", QoS::AtLeastOnce, Some(1), "m");
        world.exchange(publisher, &Packet::Publish(message));

        let packets = world.settle(id);
        let publishes = publishes(&packets);
        assert_eq!(publishes.len(), 1);
        assert_eq!(publishes[0].qos, QoS::AtMostOnce);
        assert_eq!(publishes[0].subscription_ids[0].get(), 2);
    }
}

#[test]
fn mqtt_3_10_4_unsubscribe_is_always_answered_and_stops_new_messages() {
    for clean in KINDS {
        let mut world = World::new();
        let id = open(&mut world, "s", Version::V5, clean);
        world.exchange(id, &subscribe("t", QoS::AtLeastOnce));
        let publisher = open(&mut world, "p", Version::V5, true);

        let packets = world.exchange(id, &unsubscribe(&["never", "t"]));
        let nothing = world.exchange(id, &unsubscribe(&["t"]));
        let message = publish("t", QoS::AtLeastOnce, Some(1), "m");
        world.exchange(publisher, &Packet::Publish(message));

        let [Packet::UnsubAck(unsuback)] = &packets[..] else {
            panic!("{packets:?}");
        };
        assert_eq!(unsuback.packet_id, id_of(78));
        let expected = [ReasonCode::NoSubscriptionExisted, ReasonCode::Success];
        assert_eq!(unsuback.reasons, expected);
        assert_eq!(reasons(&nothing), [ReasonCode::NoSubscriptionExisted]);
        assert!(publishes(&world.settle(id)).is_empty());
    }
}

#[test]
fn mqtt_3_3_1_5_and_3_3_1_9_the_last_retained_message_comes_with_the_subscription() {
    for clean in KINDS {
        let mut world = World::new();
        retain(&mut world, "t/a", "old");
        retain(&mut world, "t/a", "new");
        retain(&mut world, "t/b", "other");
        retain(&mut world, "u", "elsewhere");
        let id = open(&mut world, "s", Version::V5, clean);

        let packets = world.exchange(id, &subscribe("t/#", QoS::AtLeastOnce));

        assert!(matches!(packets[0], Packet::SubAck(_)));
        let publishes = publishes(&packets);
        let payloads: Vec<_> = publishes.iter().map(|p| &p.payload[..]).collect();
        assert_eq!(payloads, [&b"new"[..], &b"other"[..]]);
        assert!(publishes.iter().all(|p| p.retain));
    }
}

#[test]
fn mqtt_3_3_1_6_and_3_3_1_7_an_empty_retained_payload_deletes() {
    let mut world = World::new();
    retain(&mut world, "t", "m");
    retain(&mut world, "t", "");
    let id = open(&mut world, "s", Version::V5, true);

    let packets = world.exchange(id, &subscribe("t", QoS::AtLeastOnce));

    assert!(publishes(&packets).is_empty());
    assert_eq!(world.durable.counters().retained_messages, 0);
    assert_eq!(world.durable.counters().retained_bytes, 0);
}

#[test]
fn mqtt_3_3_1_10_and_3_3_1_11_retain_handling_decides_what_a_subscription_gets() {
    for clean in KINDS {
        let mut world = World::new();
        retain(&mut world, "t", "m");
        let id = open(&mut world, "s", Version::V5, clean);
        let with = |retain_handling| SubscribeOptions {
            retain_handling,
            ..options(QoS::AtLeastOnce)
        };
        let mut got = |handling| {
            let packet = subscribe_with("t", with(handling), None);
            publishes(&world.exchange(id, &packet)).len()
        };

        assert_eq!(got(RetainHandling::DoNotSend), 0);
        assert_eq!(got(RetainHandling::SendIfNew), 0);
        assert_eq!(got(RetainHandling::Send), 1);
        world.exchange(id, &unsubscribe(&["t"]));
        let packet = subscribe_with("t", with(RetainHandling::SendIfNew), None);
        assert_eq!(publishes(&world.exchange(id, &packet)).len(), 1);
    }
}

#[test]
fn mqtt_3_3_1_12_and_3_3_1_13_retain_is_forwarded_only_as_published() {
    for clean in KINDS {
        let mut world = World::new();
        let plain = open(&mut world, "plain", Version::V5, clean);
        world.exchange(plain, &subscribe("t", QoS::AtLeastOnce));
        let keeping = open(&mut world, "keeping", Version::V5, clean);
        let as_published = SubscribeOptions {
            retain_as_published: true,
            ..options(QoS::AtLeastOnce)
        };
        world.exchange(keeping, &subscribe_with("t", as_published, None));

        retain(&mut world, "t", "m");

        assert!(!publishes(&world.settle(plain))[0].retain);
        assert!(publishes(&world.settle(keeping))[0].retain);
    }
}

#[test]
fn what_a_new_subscription_matches_waits_for_its_retained_messages() {
    let mut world = World::new();
    retain(&mut world, "t", "retained");
    let id = open(&mut world, "s", Version::V5, false);
    let publisher = open(&mut world, "p", Version::V5, true);
    world.client_sends(id, &subscribe("t", QoS::AtLeastOnce));
    let message = publish("t", QoS::AtLeastOnce, Some(1), "later");
    world.client_sends(publisher, &Packet::Publish(message));

    // Subscribes and publishes commit before the replay, which the SUBACK asks for.
    let packets = world.settle(id);

    let payloads: Vec<_> = publishes(&packets)
        .iter()
        .map(|p| p.payload.clone())
        .collect();
    assert_eq!(payloads, ["retained", "later"]);
}

#[test]
fn mqtt_4_7_2_1_wildcards_leave_dollar_topics_alone() {
    for clean in KINDS {
        let mut world = World::new();
        let id = open(&mut world, "s", Version::V5, clean);
        world.exchange(
            id,
            &many(&[("#", QoS::AtLeastOnce), ("+/x", QoS::AtLeastOnce)]),
        );
        let publisher = open(&mut world, "p", Version::V5, true);

        let message = publish("$own/x", QoS::AtLeastOnce, Some(1), "m");
        world.exchange(publisher, &Packet::Publish(message));

        assert!(publishes(&world.settle(id)).is_empty());
    }
}

#[test]
fn a_client_has_a_bounded_number_of_subscriptions() {
    for clean in KINDS {
        let config = Config {
            subscriptions: 2,
            ..Config::default()
        };
        let limits = Limits {
            subscriptions: 2,
            ..Limits::default()
        };
        let mut world = World::with(config, limits);
        let id = open(&mut world, "s", Version::V5, clean);
        let qos = QoS::AtMostOnce;

        let packets = world.exchange(id, &many(&[("a", qos), ("b", qos), ("c", qos)]));
        let again = world.exchange(id, &many(&[("a", qos)]));

        let expected = [
            ReasonCode::Success,
            ReasonCode::Success,
            ReasonCode::QuotaExceeded,
        ];
        assert_eq!(reasons(&packets), expected);
        assert_eq!(reasons(&again), [ReasonCode::Success]);
    }
}
