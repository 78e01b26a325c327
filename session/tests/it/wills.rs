//! Wills: when, once, and when not.

use mqtt::{Disconnect, Packet, Publish, QoS, ReasonCode, Version, Will};
use tidewire_session::{Command, ConnectionId};

use crate::client::{connect, subscribe};
use crate::world::{NODE, World};

fn watched() -> (World, ConnectionId) {
    let mut world = World::new();
    let watcher = world.accept();
    let packet = Packet::Connect(Box::new(connect("watcher", Version::V5)));
    world.exchange(watcher, &packet);
    world.exchange(watcher, &subscribe("will/#", QoS::AtLeastOnce));
    (world, watcher)
}

fn with_will(world: &mut World, delay_s: u32, expiry_s: u32, clean_start: bool) -> ConnectionId {
    let mut packet = connect("mortal", Version::V5);
    packet.clean_start = clean_start;
    packet.properties.session_expiry_s = Some(expiry_s);
    packet.will = Some(Box::new(Will {
        topic: "will/mortal".try_into().expect("a topic"),
        payload: "gone".into(),
        qos: QoS::AtLeastOnce,
        retain: false,
        delay_s: Some(delay_s),
        properties: None,
    }));
    let id = world.accept();
    world.exchange(id, &Packet::Connect(Box::new(packet)));
    id
}

fn wills(world: &mut World, watcher: ConnectionId) -> usize {
    let packets = world.settle(watcher);
    let is_will =
        |p: &&Packet| matches!(p, Packet::Publish(Publish { payload, .. }) if payload == "gone");
    packets.iter().filter(is_will).count()
}

fn disconnect(reason: ReasonCode) -> Packet {
    Packet::Disconnect(Box::new(Disconnect {
        reason,
        ..Disconnect::default()
    }))
}

#[test]
fn mqtt_3_1_2_8_a_will_is_published_once_after_a_lost_connection() {
    let (mut world, watcher) = watched();
    let mortal = with_will(&mut world, 0, 0, true);

    world.cut(mortal, 0);

    assert_eq!(wills(&mut world, watcher), 1);
    world.durable.handle_lead();
    assert_eq!(wills(&mut world, watcher), 0);
    assert_eq!(world.durable.counters().outbox_wills, 0);
}

#[test]
fn mqtt_3_14_4_3_a_normal_disconnect_discards_the_will() {
    let (mut world, watcher) = watched();
    let mortal = with_will(&mut world, 0, 0, true);

    world.exchange(mortal, &disconnect(ReasonCode::Success));

    assert_eq!(wills(&mut world, watcher), 0);
    assert_eq!(world.durable.sessions(), 1);
}

#[test]
fn disconnect_with_will_publishes_it() {
    let (mut world, watcher) = watched();
    let mortal = with_will(&mut world, 0, 0, true);

    world.client_sends(mortal, &disconnect(ReasonCode::DisconnectWithWill));

    assert_eq!(wills(&mut world, watcher), 1);
}

#[test]
fn mqtt_3_1_3_9_a_reconnect_within_the_delay_cancels_the_will() {
    let (mut world, watcher) = watched();
    let mortal = with_will(&mut world, 10, 100, false);
    world.cut(mortal, 0);
    world.settle(watcher);
    world.advance(9_999);
    assert_eq!(wills(&mut world, watcher), 0);

    let mortal = with_will(&mut world, 10, 100, false);
    world.advance(60_000);
    assert_eq!(wills(&mut world, watcher), 0);

    world.cut(mortal, 0);
    world.settle(watcher);
    world.advance(10_000);
    assert_eq!(wills(&mut world, watcher), 1);
}

#[test]
fn mqtt_3_1_2_8_the_end_of_the_session_ends_the_delay() {
    let (mut world, watcher) = watched();
    let mortal = with_will(&mut world, 1_000, 5, false);
    world.cut(mortal, 0);
    world.settle(watcher);

    world.advance(4_999);
    assert_eq!(wills(&mut world, watcher), 0);
    world.advance(1);

    assert_eq!(wills(&mut world, watcher), 1);
    assert_eq!(world.durable.sessions(), 1);
}

#[test]
fn a_clean_start_over_a_delayed_will_publishes_it() {
    let (mut world, watcher) = watched();
    let mortal = with_will(&mut world, 1_000, 1_000, false);
    world.cut(mortal, 0);
    world.settle(watcher);

    with_will(&mut world, 0, 0, true);

    assert_eq!(wills(&mut world, watcher), 1);
}

#[test]
fn a_takeover_publishes_an_undelayed_will_and_cancels_a_delayed_one() {
    let (mut world, watcher) = watched();
    with_will(&mut world, 0, 1_000, false);

    with_will(&mut world, 50, 1_000, false);
    assert_eq!(wills(&mut world, watcher), 1);

    with_will(&mut world, 50, 1_000, false);
    world.advance(100_000);
    assert_eq!(wills(&mut world, watcher), 0);
}

#[test]
fn the_death_of_a_node_publishes_the_wills_of_its_connections() {
    let (mut world, watcher) = watched();
    with_will(&mut world, 0, 0, true);
    let mut shard = std::mem::take(&mut world.durable);
    let index = shard.index() + 1;

    shard.apply(
        index,
        world.now.wall,
        &Command::NodeGone { node_epoch: NODE },
    );

    assert_eq!(shard.counters().outbox_wills, 1);
    assert_eq!(shard.sessions(), 0);
    world.durable = shard;
    assert!(world.closed(watcher).is_none());
}

#[test]
fn mqtt_3_1_2_10_a_reconnect_without_a_will_has_none() {
    let (mut world, watcher) = watched();
    let mortal = with_will(&mut world, 10, 100, false);
    world.cut(mortal, 0);
    let mut packet = connect("mortal", Version::V5);
    packet.clean_start = false;
    packet.properties.session_expiry_s = Some(100);
    let id = world.accept();
    world.exchange(id, &Packet::Connect(Box::new(packet)));

    world.cut(id, 0);
    world.settle(watcher);
    world.advance(50_000);

    assert_eq!(wills(&mut world, watcher), 0);
}

#[test]
fn a_disconnect_before_connack_discards_the_will_though_the_socket_ends() {
    let (mut world, watcher) = watched();
    let mut packet = connect("mortal", Version::V5);
    packet.will = Some(Box::new(Will {
        topic: "will/mortal".try_into().expect("a topic"),
        payload: "gone".into(),
        qos: QoS::AtLeastOnce,
        retain: false,
        delay_s: None,
        properties: None,
    }));
    let id = world.accept();
    world.client_sends(id, &Packet::Connect(Box::new(packet)));
    world.client_sends(id, &disconnect(ReasonCode::Success));
    world.move_up(id, usize::MAX);

    world.cut(id, 0);

    assert_eq!(wills(&mut world, watcher), 0);
    assert!(world.closed(id).is_some());
    assert_eq!(world.durable.sessions(), 1);
}

#[test]
fn mqtt_3_1_2_15_a_retained_will_yields_to_what_a_newer_connection_retained() {
    let (mut world, watcher) = watched();
    let retained = |world: &World| {
        let filter = "state".try_into().expect("a filter");
        let rows = world.durable.retained_matching(&filter, 10, world.now.wall);
        rows.iter().map(|m| m.payload.clone()).collect::<Vec<_>>()
    };
    let connect_with_will = |world: &mut World| {
        let mut packet = connect("device", Version::V5);
        packet.will = Some(Box::new(Will {
            topic: "state".try_into().expect("a topic"),
            payload: "offline".into(),
            qos: QoS::AtLeastOnce,
            retain: true,
            delay_s: None,
            properties: None,
        }));
        let id = world.accept();
        world.exchange(id, &Packet::Connect(Box::new(packet)));
        let mut online = crate::client::publish("state", QoS::AtLeastOnce, Some(1), "online");
        online.retain = true;
        (id, online)
    };
    let (first, online) = connect_with_will(&mut world);
    world.exchange(first, &Packet::Publish(online));
    assert_eq!(retained(&world), ["online"]);
    world.cut(first, 0);
    world.settle(watcher);
    assert_eq!(retained(&world), ["offline"]);

    let (second, online) = connect_with_will(&mut world);
    world.exchange(second, &Packet::Publish(online));
    // The will of the first connection is fanned out once more, late.
    let stamp = tidewire_session::Stamp {
        publisher: Some(crate::world::client_id("device")),
        epoch: tidewire_session::Epoch(1),
        seq: u64::MAX,
    };
    let late = tidewire_session::Retain {
        topic: "state".try_into().expect("a topic"),
        message: None,
        stamp,
    };
    let index = world.durable.index() + 1;
    let now = world.now.wall;
    world.durable.apply(index, now, &Command::Retain(late));

    assert_eq!(retained(&world), ["online"]);
}
