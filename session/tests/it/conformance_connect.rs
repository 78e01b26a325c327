//! Clauses about CONNECT, sessions, keep alive and DISCONNECT, named by their numbers.

use mqtt::{ConnAck, Disconnect, Packet, QoS, ReasonCode, Version};
use tidewire_session::{ClosedBy, Config, ConnectionId, Limits, WillFate};

use crate::client::{connect, publish, subscribe};
use crate::world::World;

fn open(world: &mut World, packet: mqtt::Connect) -> (ConnectionId, ConnAck) {
    let id = world.accept();
    let packets = world.exchange(id, &Packet::Connect(Box::new(packet)));
    let [Packet::ConnAck(connack), ..] = &packets[..] else {
        panic!("no CONNACK but {packets:?}");
    };
    (id, (**connack).clone())
}

fn persistent(id: &str) -> mqtt::Connect {
    let mut packet = connect(id, Version::V5);
    packet.clean_start = false;
    packet.properties.session_expiry_s = Some(100);
    packet
}

fn disconnect_reason(packets: &[Packet]) -> Option<ReasonCode> {
    packets.iter().find_map(|packet| match packet {
        Packet::Disconnect(disconnect) => Some(disconnect.reason),
        _ => None,
    })
}

#[test]
fn mqtt_3_1_0_1_a_connection_that_does_not_begin_with_connect_is_closed() {
    let mut world = World::new();
    let id = world.accept();
    let now = world.now;

    world.live(id).handle_packet(Packet::PingReq, now);
    world.drain(id);

    let closed = world.closed(id).expect("closed");
    assert_eq!(closed.reason, ReasonCode::ProtocolError);
    assert_eq!(closed.command, None);
    assert!(!world.has_down(id));
}

#[test]
fn mqtt_3_1_0_2_a_second_connect_closes_with_protocol_error() {
    let mut world = World::new();
    let (id, _) = open(&mut world, connect("a", Version::V5));

    let connect = Packet::Connect(Box::new(connect("a", Version::V5)));
    let packets = world.exchange(id, &connect);

    assert_eq!(disconnect_reason(&packets), Some(ReasonCode::ProtocolError));
    assert!(world.closed(id).is_some());
}

#[test]
fn mqtt_3_1_2_4_clean_start_wipes_the_session() {
    let mut world = World::new();
    let (id, _) = open(&mut world, persistent("a"));
    world.exchange(id, &subscribe("t", QoS::AtLeastOnce));
    world.cut(id, 0);
    let mut clean = persistent("a");
    clean.clean_start = true;

    let (id, connack) = open(&mut world, clean);
    let (publisher, _) = open(&mut world, connect("p", Version::V5));
    let message = publish("t", QoS::AtLeastOnce, Some(1), "m");
    world.exchange(publisher, &Packet::Publish(message));

    assert!(!connack.session_present);
    assert_eq!(world.settle(id), []);
}

#[test]
fn mqtt_3_1_2_5_and_3_2_2_3_an_existing_session_is_resumed_and_said_to_be() {
    let mut world = World::new();
    let (id, first) = open(&mut world, persistent("a"));
    world.exchange(id, &subscribe("t", QoS::AtLeastOnce));
    world.cut(id, 0);
    let (publisher, _) = open(&mut world, connect("p", Version::V5));
    let message = publish("t", QoS::AtLeastOnce, Some(1), "while away");
    world.exchange(publisher, &Packet::Publish(message));

    let id = world.accept();
    let packets = world.exchange(id, &Packet::Connect(Box::new(persistent("a"))));

    assert!(!first.session_present);
    let [Packet::ConnAck(connack), Packet::Publish(message)] = &packets[..] else {
        panic!("CONNACK and a message expected, not {packets:?}");
    };
    assert!(connack.session_present);
    assert_eq!(message.payload, "while away");
    assert!(!message.dup);
}

#[test]
fn mqtt_3_1_2_6_without_a_session_a_new_one_begins() {
    let mut world = World::new();

    let (_, connack) = open(&mut world, persistent("a"));

    assert!(!connack.session_present);
    assert_eq!(world.durable.sessions(), 1);
}

#[test]
fn mqtt_3_1_2_22_silence_for_one_and_a_half_keep_alives_closes() {
    let mut world = World::new();
    let mut packet = connect("a", Version::V5);
    packet.keep_alive_s = 10;
    let (id, _) = open(&mut world, packet);

    world.advance(14_999);
    assert!(world.closed(id).is_none());
    world.exchange(id, &Packet::PingReq);
    world.advance(14_999);
    assert!(world.closed(id).is_none());
    world.advance(1);

    let reason = world.closed(id).map(|closed| closed.reason);
    assert_eq!(reason, Some(ReasonCode::KeepAliveTimeout));
}

#[test]
fn keep_alive_is_suspended_while_the_shell_does_not_read() {
    let mut world = World::new();
    let mut packet = connect("a", Version::V5);
    packet.keep_alive_s = 10;
    let (id, _) = open(&mut world, packet);
    let now = world.now;

    world.live(id).handle_read_stopped(true, now);
    world.advance(100_000);

    assert!(world.closed(id).is_none());
}

#[test]
fn mqtt_3_1_2_23_and_4_1_0_2_a_session_lives_until_its_expiry() {
    let mut world = World::new();
    let (id, _) = open(&mut world, persistent("a"));
    world.cut(id, 0);
    world.settle(id);

    world.advance(99_999);
    world.settle(id);
    assert_eq!(world.durable.sessions(), 1);
    world.advance(1);
    world.settle(id);

    assert_eq!(world.durable.sessions(), 0);
}

#[test]
fn a_connected_session_never_expires() {
    let mut world = World::new();
    let (id, _) = open(&mut world, persistent("a"));

    world.advance(1_000_000);
    world.settle(id);

    assert_eq!(world.durable.sessions(), 1);
    assert!(world.closed(id).is_none());
}

#[test]
fn a_session_whose_time_passed_is_not_resumed_even_before_expire_is_proposed() {
    let mut world = World::new();
    let (id, _) = open(&mut world, persistent("a"));
    world.cut(id, 0);
    world.settle(id);
    world.now.wall.0 += 100_000;

    let (_, connack) = open(&mut world, persistent("a"));

    assert!(!connack.session_present);
}

#[test]
fn mqtt_3_1_3_6_and_3_1_3_7_an_empty_client_id_is_assigned_and_returned() {
    let mut world = World::new();

    let (_, first) = open(&mut world, connect("", Version::V5));
    let (_, second) = open(&mut world, connect("", Version::V5));

    assert!(first.properties.assigned_client_id.is_some());
    assert_ne!(
        first.properties.assigned_client_id,
        second.properties.assigned_client_id
    );
}

#[test]
fn mqtt_3_1_3_8_v311_an_empty_client_id_without_clean_session_is_refused() {
    let mut world = World::new();
    let mut packet = connect("", Version::V311);
    packet.clean_start = false;

    let (id, connack) = open(&mut world, packet);

    assert_eq!(connack.reason, ReasonCode::ClientIdentifierNotValid);
    assert!(world.closed(id).is_some());
}

#[test]
fn mqtt_3_1_4_3_takeover_tells_and_closes_the_old_connection() {
    let mut world = World::new();
    let (old, _) = open(&mut world, persistent("a"));

    let (new, connack) = open(&mut world, persistent("a"));

    let packets = world.settle(old);
    let reason = disconnect_reason(&packets);
    assert_eq!(reason, Some(ReasonCode::SessionTakenOver));
    let closed = world.closed(old).expect("closed");
    assert_eq!(closed.command, None);
    assert!(connack.session_present);
    assert!(world.closed(new).is_none());
}

#[test]
fn mqtt_3_1_4_3_takeover_closes_a_clean_session_and_its_subscriptions() {
    let mut world = World::new();
    let (old, _) = open(&mut world, connect("a", Version::V311));
    world.exchange(old, &subscribe("t", QoS::AtMostOnce));

    let (new, connack) = open(&mut world, connect("a", Version::V311));
    let message = publish("t", QoS::AtMostOnce, None, "m");
    let packets = world.exchange(new, &Packet::Publish(message));

    assert!(world.closed(old).is_some());
    assert!(!connack.session_present);
    assert_eq!(packets, []);
}

#[test]
fn mqtt_3_1_4_5_and_3_2_0_1_connack_comes_before_what_early_packets_ask() {
    let mut world = World::new();
    let id = world.accept();
    world.client_sends(id, &Packet::Connect(Box::new(connect("a", Version::V5))));
    world.client_sends(id, &subscribe("t", QoS::AtLeastOnce));
    let message = publish("t", QoS::AtLeastOnce, Some(1), "m");
    world.client_sends(id, &Packet::Publish(message));

    let packets = world.settle(id);

    assert!(
        matches!(
            &packets[..],
            [
                Packet::ConnAck(_),
                Packet::SubAck(_),
                Packet::Publish(_),
                Packet::PubAck(_)
            ] | [
                Packet::ConnAck(_),
                Packet::SubAck(_),
                Packet::PubAck(_),
                Packet::Publish(_)
            ]
        ),
        "{packets:?}"
    );
}

#[test]
fn mqtt_3_2_2_announced_limits_are_the_configured_ones() {
    let mut world = World::new();
    let mut packet = connect("a", Version::V5);
    packet.properties.session_expiry_s = Some(u32::MAX);

    let (_, connack) = open(&mut world, packet);

    let properties = connack.properties;
    assert_eq!(properties.receive_maximum.map(u16::from), Some(32));
    assert_eq!(properties.maximum_packet_size.map(u32::from), Some(1 << 20));
    assert_eq!(properties.topic_alias_maximum, Some(16));
    assert_eq!(properties.shared_subscription_available, Some(true));
    assert_eq!(properties.session_expiry_s, Some(7 * 24 * 3_600));
    assert_eq!(properties.assigned_client_id, None);
    assert_eq!(properties.server_keep_alive_s, None);
}

#[test]
fn mqtt_3_2_2_22_a_capped_keep_alive_is_announced_and_holds() {
    let config = Config {
        keep_alive_s_max: Some(60),
        ..Config::default()
    };
    let mut world = World::with(config, Limits::default());

    let (id, connack) = open(&mut world, connect("a", Version::V5));
    world.advance(90_000);

    assert_eq!(connack.properties.server_keep_alive_s, Some(60));
    assert!(world.closed(id).is_some());
}

#[test]
fn mqtt_3_2_2_6_a_session_of_another_identity_is_refused_with_session_present_0() {
    let mut world = World::new();
    let (id, _) = open(&mut world, persistent("a"));
    world.cut(id, 0);
    world.settle(id);
    let index = world.durable.index() + 1;
    let client = crate::world::client_id("a");
    let open = tidewire_session::Open {
        expected_epoch: world.durable.epoch(&client),
        client,
        identity: tidewire_session::Identity("mallory".try_into().expect("text")),
        node_epoch: crate::world::NODE,
        connection: ConnectionId(99),
        clean_start: true,
        persistent: false,
        expiry_s: 0,
        receive_maximum: 10,
        will: None,
    };

    let command = tidewire_session::Command::Open(Box::new(open));
    let answer = world.durable.apply(index, world.now.wall, &command);

    assert_eq!(answer, tidewire_session::Answer::OtherIdentity);
}

#[test]
fn mqtt_3_2_2_7_a_refused_client_gets_connack_and_is_closed() {
    let mut world = World::new();
    let mut packet = connect("a", Version::V5);
    packet.client_id = "x".repeat(257).as_str().try_into().expect("text");
    let id = world.accept();
    let now = world.now;

    world
        .live(id)
        .handle_packet(Packet::Connect(Box::new(packet)), now);
    world.drain(id);

    let closed = world.closed(id).expect("closed");
    assert_eq!(closed.reason, ReasonCode::ClientIdentifierNotValid);
    assert!(world.has_down(id));
}

#[test]
fn mqtt_3_12_4_1_pingreq_is_answered() {
    let mut world = World::new();
    let (id, _) = open(&mut world, connect("a", Version::V5));

    assert_eq!(world.exchange(id, &Packet::PingReq), [Packet::PingResp]);
}

#[test]
fn mqtt_3_14_4_2_disconnect_closes_and_ends_a_clean_session() {
    let mut world = World::new();
    let (id, _) = open(&mut world, connect("a", Version::V5));

    world.exchange(id, &Packet::Disconnect(Box::default()));

    let closed = world.closed(id).expect("closed");
    assert_eq!(closed.by, ClosedBy::Client);
    let will = closed.command.as_ref().map(|close| close.will);
    assert_eq!(will, Some(WillFate::Discard));
    assert_eq!(world.durable.sessions(), 0);
}

#[test]
fn disconnect_may_shorten_the_expiry_but_not_revive_a_session_without_one() {
    let mut world = World::new();
    let (kept, _) = open(&mut world, persistent("kept"));
    let (clean, _) = open(&mut world, connect("clean", Version::V5));
    let with_expiry = |session_expiry_s| {
        Packet::Disconnect(Box::new(Disconnect {
            session_expiry_s: Some(session_expiry_s),
            ..Disconnect::default()
        }))
    };

    world.exchange(kept, &with_expiry(0));
    let packets = world.exchange(clean, &with_expiry(10));

    assert_eq!(world.durable.sessions(), 0);
    assert_eq!(disconnect_reason(&packets), Some(ReasonCode::ProtocolError));
}

#[test]
fn mqtt_4_12_0_1_an_authentication_method_is_refused() {
    let mut world = World::new();
    let mut packet = connect("a", Version::V5);
    packet.properties.authentication_method = Some("SCRAM-SHA-1".try_into().expect("text"));

    let (id, connack) = open(&mut world, packet);

    assert_eq!(connack.reason, ReasonCode::BadAuthenticationMethod);
    assert!(world.closed(id).is_some());
}

#[test]
fn a_connection_that_says_nothing_is_closed_in_time() {
    let mut world = World::new();
    let id = world.accept();

    world.advance(5_000);

    assert!(world.closed(id).is_some());
}

#[test]
fn a_connection_lost_before_its_open_commits_closes_what_was_opened() {
    let mut world = World::new();
    let id = world.accept();
    let packet = Packet::Connect(Box::new(connect("a", Version::V5)));
    world.client_sends(id, &packet);
    world.move_up(id, usize::MAX);

    world.cut(id, 0);
    assert!(world.closed(id).is_none());
    world.settle(id);

    assert!(world.closed(id).is_some());
    assert_eq!(world.durable.sessions(), 0);
    assert!(world.is_quiet());
}

#[test]
fn mqtt_3_1_2_4_v311_a_session_without_clean_session_is_kept() {
    let mut world = World::new();
    let mut packet = connect("a", Version::V311);
    packet.clean_start = false;
    let (id, first) = open(&mut world, packet.clone());
    world.cut(id, 0);
    world.settle(id);
    world.advance(6 * 24 * 3_600_000);
    world.settle(id);

    let (_, second) = open(&mut world, packet);

    assert!(!first.session_present);
    assert!(second.session_present);
}

#[test]
fn mqtt_4_12_0_7_auth_without_a_method_is_a_protocol_error() {
    let mut world = World::new();
    let (id, _) = open(&mut world, connect("a", Version::V5));
    let auth = mqtt::Auth {
        reason: ReasonCode::ReAuthenticate,
        authentication_method: Some("m".try_into().expect("text")),
        authentication_data: None,
        properties: None,
    };
    let now = world.now;

    world
        .live(id)
        .handle_packet(Packet::Auth(Box::new(auth)), now);
    world.drain(id);

    let reason = world.closed(id).map(|closed| closed.reason);
    assert_eq!(reason, Some(ReasonCode::ProtocolError));
}

#[test]
fn mqtt_4_13_1_1_malformed_bytes_close_with_their_reason_and_nobody_else() {
    let mut world = World::new();
    let (id, _) = open(&mut world, connect("a", Version::V5));
    let (other, _) = open(&mut world, connect("b", Version::V5));
    let now = world.now;

    world
        .live(id)
        .handle_malformed(ReasonCode::MalformedPacket, now);
    world.drain(id);

    let packets = world.settle(id);
    let reason = disconnect_reason(&packets);
    assert_eq!(reason, Some(ReasonCode::MalformedPacket));
    assert_eq!(world.exchange(other, &Packet::PingReq), [Packet::PingResp]);
}

#[test]
fn mqtt_3_1_2_2_an_unsupported_version_is_answered_with_0x84() {
    let mut world = World::new();
    let id = world.accept();
    let now = world.now;

    let reason = ReasonCode::UnsupportedProtocolVersion;
    world.live(id).handle_malformed(reason, now);
    world.drain(id);

    let packets = world.settle(id);
    let [Packet::ConnAck(connack)] = &packets[..] else {
        panic!("{packets:?}");
    };
    assert_eq!(connack.reason, reason);
    assert!(world.closed(id).is_some());
}

#[test]
fn mqtt_3_1_4_2_a_failed_authentication_is_answered_and_closed() {
    let mut world = World::new();
    let id = world.accept();
    let now = world.now;
    let live = world.live(id);
    let packet = Packet::Connect(Box::new(connect("a", Version::V5)));
    live.handle_packet(packet, now);
    assert!(live.is_connecting());
    live.poll_effect();

    live.handle_refused(ReasonCode::BadUserNameOrPassword, now);
    live.handle_packet(Packet::PingReq, now);
    world.drain(id);

    let packets = world.settle(id);
    let [Packet::ConnAck(connack)] = &packets[..] else {
        panic!("{packets:?}");
    };
    assert_eq!(connack.reason, ReasonCode::BadUserNameOrPassword);
    assert!(!connack.session_present);
    assert!(world.closed(id).is_some());
}
