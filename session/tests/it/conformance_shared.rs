//! Clauses about shared subscriptions (§4.8.2), named by their numbers.

use mqtt::{Packet, Publish, QoS, ReasonCode, Subscribe, SubscribeOptions, Unsubscribe, Version};
use tidewire_session::ConnectionId;

use crate::client::{ack, connect, id_of, publish, subscribe, subscribe_with};
use crate::world::World;

const SHARED: &str = "$share/g/t/#";
/// A clean and a persistent session have to behave alike, in both versions.
const KINDS: [(bool, Version); 4] = [
    (true, Version::V5),
    (false, Version::V5),
    (true, Version::V311),
    (false, Version::V311),
];

fn open(world: &mut World, id: &str, (clean, version): (bool, Version)) -> ConnectionId {
    let conn = world.accept();
    let mut packet = connect(id, version);
    packet.clean_start = clean;
    if !clean && version == Version::V5 {
        packet.properties.session_expiry_s = Some(1_000);
    }
    world.exchange(conn, &Packet::Connect(Box::new(packet)));
    conn
}

fn join(world: &mut World, id: &str, kind: (bool, Version), qos: QoS) -> ConnectionId {
    let conn = open(world, id, kind);
    let packets = world.exchange(conn, &subscribe(SHARED, qos));
    assert!(matches!(packets[..], [Packet::SubAck(_)]), "{packets:?}");
    conn
}

fn publisher(world: &mut World) -> ConnectionId {
    open(world, "p", (true, Version::V5))
}

fn send(world: &mut World, from: ConnectionId, qos: QoS, payload: &str) {
    let packet_id = (qos != QoS::AtMostOnce).then_some(1);
    let message = publish("t/1", qos, packet_id, payload);
    world.exchange(from, &Packet::Publish(message));
    if qos == QoS::ExactlyOnce {
        world.exchange(from, &Packet::PubRel(ack(id_of(1))));
    }
}

fn got(world: &mut World, at: ConnectionId) -> Vec<Publish> {
    let packets = world.settle(at).into_iter();
    let publishes = packets.filter_map(|packet| match packet {
        Packet::Publish(publish) => Some(publish),
        _ => None,
    });
    publishes.collect()
}

fn payloads(publishes: &[Publish]) -> Vec<&[u8]> {
    publishes
        .iter()
        .map(|publish| &publish.payload[..])
        .collect()
}

fn reasons(packets: &[Packet]) -> Vec<ReasonCode> {
    let only = |packet: &Packet| match packet {
        Packet::SubAck(suback) | Packet::UnsubAck(suback) => Some(suback.reasons.clone()),
        _ => None,
    };
    packets.iter().find_map(only).expect("an answer")
}

#[test]
fn mqtt_4_8_2_each_message_goes_to_one_member() {
    for kind in KINDS {
        let mut world = World::new();
        let a = join(&mut world, "a", kind, QoS::AtLeastOnce);
        let b = join(&mut world, "b", (true, Version::V5), QoS::AtLeastOnce);
        let p = publisher(&mut world);
        for payload in ["1", "2", "3", "4"] {
            send(&mut world, p, QoS::AtLeastOnce, payload);
        }
        let (a, b) = (got(&mut world, a), got(&mut world, b));
        assert_eq!((a.len(), b.len()), (2, 2), "{kind:?}");
        // Ids of messages that the session's own shard does not number.
        let ids = a.iter().filter_map(|publish| publish.packet_id);
        assert!(ids.map(|id| id.get()).all(|id| id >= 32_768));
    }
}

#[test]
fn mqtt_4_8_2_qos_0_goes_to_one_member() {
    for kind in KINDS {
        let mut world = World::new();
        let a = join(&mut world, "a", kind, QoS::AtLeastOnce);
        let b = join(&mut world, "b", kind, QoS::AtLeastOnce);
        let p = publisher(&mut world);
        for payload in ["1", "2"] {
            send(&mut world, p, QoS::AtMostOnce, payload);
        }
        assert_eq!((got(&mut world, a).len(), got(&mut world, b).len()), (1, 1));
    }
}

#[test]
fn mqtt_4_8_2_3_the_granted_qos_is_respected() {
    let grants = [
        (QoS::AtMostOnce, ReasonCode::Success),
        (QoS::AtLeastOnce, ReasonCode::GrantedQoS1),
        (QoS::ExactlyOnce, ReasonCode::GrantedQoS1),
    ];
    for kind in KINDS {
        for (wanted, granted) in grants {
            let mut world = World::new();
            let a = open(&mut world, "a", kind);
            let packets = world.exchange(a, &subscribe(SHARED, wanted));
            assert_eq!(reasons(&packets), [granted]);
            let p = publisher(&mut world);
            send(&mut world, p, QoS::ExactlyOnce, "1");
            let publishes = got(&mut world, a);
            assert_eq!(publishes[0].qos, wanted.min(QoS::AtLeastOnce));
            assert_eq!(publishes.len(), 1);
        }
    }
}

#[test]
fn mqtt_4_8_2_3_a_member_of_qos_0_among_others_gets_qos_0() {
    let mut world = World::new();
    let a = join(&mut world, "a", (true, Version::V5), QoS::AtMostOnce);
    let b = join(&mut world, "b", (true, Version::V5), QoS::AtLeastOnce);
    let p = publisher(&mut world);
    send(&mut world, p, QoS::AtLeastOnce, "1");
    send(&mut world, p, QoS::AtLeastOnce, "2");
    let (a, b) = (got(&mut world, a), got(&mut world, b));
    assert_eq!(a.first().map(|one| one.qos), Some(QoS::AtMostOnce));
    assert_eq!(b.first().map(|one| one.qos), Some(QoS::AtLeastOnce));
    // What went at QoS 0 needs no acknowledgement.
    assert_eq!(world.durable.counters().queue_messages, b.len() as u64);
}

#[test]
fn mqtt_4_8_2_6_a_message_that_a_member_refused_goes_to_nobody_else() {
    let mut world = World::new();
    let kind = (false, Version::V5);
    let a = join(&mut world, "a", kind, QoS::AtLeastOnce);
    let p = publisher(&mut world);
    send(&mut world, p, QoS::AtLeastOnce, "1");
    let publishes = got(&mut world, a);
    let mut refusal = ack(publishes[0].packet_id.expect("QoS 1"));
    refusal.reason = ReasonCode::UnspecifiedError;
    world.exchange(a, &Packet::PubAck(refusal));

    let b = join(&mut world, "b", kind, QoS::AtLeastOnce);
    world.exchange(a, &Packet::Disconnect(Box::default()));
    assert!(got(&mut world, b).is_empty());
    assert_eq!(world.durable.counters().queue_messages, 0);
}

#[test]
fn mqtt_4_8_2_what_a_lost_member_had_goes_to_the_next_with_dup() {
    for kind in KINDS {
        let mut world = World::new();
        let a = join(&mut world, "a", kind, QoS::AtLeastOnce);
        let p = publisher(&mut world);
        send(&mut world, p, QoS::AtLeastOnce, "1");
        assert_eq!(got(&mut world, a).len(), 1);
        let b = join(&mut world, "b", kind, QoS::AtLeastOnce);
        world.cut(a, usize::MAX);

        let publishes = got(&mut world, b);
        assert_eq!(payloads(&publishes), [b"1"]);
        assert!(publishes[0].dup);
        let id = publishes[0].packet_id.expect("QoS 1");
        world.exchange(b, &Packet::PubAck(ack(id)));
        assert_eq!(world.durable.counters().queue_messages, 0);
    }
}

#[test]
fn mqtt_4_8_2_a_persistent_member_finds_what_waited() {
    for version in [Version::V5, Version::V311] {
        let mut world = World::new();
        let kind = (false, version);
        let a = join(&mut world, "a", kind, QoS::AtLeastOnce);
        world.cut(a, usize::MAX);
        let p = publisher(&mut world);
        send(&mut world, p, QoS::AtLeastOnce, "1");

        let a = world.accept();
        let mut again = connect("a", version);
        again.clean_start = false;
        world.client_sends(a, &Packet::Connect(Box::new(again)));
        assert_eq!(payloads(&got(&mut world, a)), [b"1"]);
    }
}

#[test]
fn mqtt_3_10_4_unsubscribe_names_the_whole_shared_filter() {
    for kind in KINDS {
        let mut world = World::new();
        let a = join(&mut world, "a", kind, QoS::AtLeastOnce);
        let unsubscribe = |filters: &[&str]| {
            let filters = filters.iter().map(|f| (*f).try_into().expect("a filter"));
            Packet::Unsubscribe(Box::new(Unsubscribe {
                packet_id: id_of(78),
                filters: filters.collect(),
                user_properties: Vec::new(),
            }))
        };
        world.exchange(a, &subscribe("own", QoS::AtLeastOnce));
        let filters = ["t/#", SHARED, "own", "$share/h/t/#"];
        let packets = world.exchange(a, &unsubscribe(&filters));
        let (gone, never) = (ReasonCode::Success, ReasonCode::NoSubscriptionExisted);
        if kind.1 == Version::V5 {
            assert_eq!(reasons(&packets), [never, gone, gone, never], "{kind:?}");
        }
        let p = publisher(&mut world);
        send(&mut world, p, QoS::AtLeastOnce, "1");
        assert!(got(&mut world, a).is_empty());
    }
}

#[test]
fn mqtt_3_8_4_shared_and_other_filters_of_one_packet_are_both_granted() {
    for kind in KINDS {
        let mut world = World::new();
        let a = open(&mut world, "a", kind);
        let option = |qos| SubscribeOptions {
            qos,
            ..SubscribeOptions::default()
        };
        let filters = [("own", QoS::ExactlyOnce), (SHARED, QoS::ExactlyOnce)];
        let filter = |&(f, qos): &(&str, QoS)| (f.try_into().expect("a filter"), option(qos));
        let packets = world.exchange(
            a,
            &Packet::Subscribe(Box::new(Subscribe {
                packet_id: id_of(77),
                filters: filters.iter().map(filter).collect(),
                subscription_id: None,
                user_properties: Vec::new(),
            })),
        );
        let granted = [ReasonCode::GrantedQoS2, ReasonCode::GrantedQoS1];
        assert_eq!(reasons(&packets), granted, "{kind:?}");
        let p = publisher(&mut world);
        send(&mut world, p, QoS::AtLeastOnce, "1");
        let own = publish("own", QoS::AtLeastOnce, Some(2), "2");
        world.exchange(p, &Packet::Publish(own));
        let mut publishes = got(&mut world, a);
        publishes.sort_by(|a, b| a.payload.cmp(&b.payload));
        assert_eq!(payloads(&publishes), [b"1", b"2"]);
        assert_ne!(publishes[0].packet_id, publishes[1].packet_id);
    }
}

#[test]
fn mqtt_4_8_2_nothing_retained_is_sent_and_the_identifier_is() {
    for kind in [(true, Version::V5), (false, Version::V5)] {
        let mut world = World::new();
        let p = publisher(&mut world);
        let mut retained = publish("t/1", QoS::AtLeastOnce, Some(1), "old");
        retained.retain = true;
        world.exchange(p, &Packet::Publish(retained));
        let a = open(&mut world, "a", kind);
        let options = SubscribeOptions {
            qos: QoS::AtLeastOnce,
            ..SubscribeOptions::default()
        };
        let packets = world.exchange(a, &subscribe_with(SHARED, options, Some(5)));
        assert!(matches!(packets[..], [Packet::SubAck(_)]), "{packets:?}");
        send(&mut world, p, QoS::AtLeastOnce, "1");
        let publishes = got(&mut world, a);
        assert_eq!(payloads(&publishes), [b"1"]);
        let ids = publishes[0].subscription_ids.iter().map(|id| id.get());
        assert!(ids.eq([5]));
    }
}
