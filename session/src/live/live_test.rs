use std::sync::Arc;

use mqtt::{
    Connect, ConnectProperties, Packet, PacketId, Publish, QoS, ReasonCode, Subscribe,
    SubscribeOptions, Version,
};

use super::{AckKind, Admitted, Effect, Live, Opened};
use crate::{
    Answer, Command, Config, ConnectionId, Delivery, DeliveryStep, Epoch, Identity, Match, Message,
    MonoMs, NodeEpoch, Now, Seq, Subscription, Token, WallMs, WillFate,
};

pub(super) const NOW: Now = Now {
    mono: MonoMs(1_000),
    wall: WallMs(1_000_000),
};

fn at(ms: u64) -> Now {
    Now {
        mono: MonoMs(NOW.mono.0 + ms),
        wall: WallMs(NOW.wall.0 + ms),
    }
}

pub(super) fn connected(expiry_s: u32) -> Live {
    connected_with(Config::default(), expiry_s, Version::V5)
}

pub(super) fn connected_with(config: Config, expiry_s: u32, version: Version) -> Live {
    let mut live = connecting_with(config, expiry_s, version);
    let opened = Opened::Yes {
        epoch: Epoch(9),
        incarnation: Epoch(9),
        session_present: false,
    };
    live.handle_opened(opened, NOW);
    effects(&mut live);
    live
}

/// A connection whose `Open` is unanswered.
fn connecting(expiry_s: u32) -> Live {
    connecting_with(Config::default(), expiry_s, Version::V5)
}

fn connecting_with(config: Config, expiry_s: u32, version: Version) -> Live {
    let config = Arc::new(config);
    let mut live = Live::new(&config, NodeEpoch(1), ConnectionId(1), NOW);
    let connect = Connect {
        version,
        clean_start: version == Version::V5 || expiry_s == 0,
        keep_alive_s: 0,
        client_id: "c".try_into().expect("text"),
        will: None,
        user_name: None,
        password: None,
        properties: ConnectProperties {
            session_expiry_s: Some(expiry_s),
            ..ConnectProperties::default()
        },
    };
    live.handle_packet(Packet::Connect(Box::new(connect)), NOW);
    let admitted = Admitted {
        identity: Identity("c".try_into().expect("text")),
        client: "c".try_into().expect("a client id"),
    };
    live.handle_admitted(admitted, NOW);
    effects(&mut live);
    live
}

pub(super) fn effects(live: &mut Live) -> Vec<Effect> {
    std::iter::from_fn(|| live.poll_effect()).collect()
}

fn publish(qos: QoS, packet_id: u16) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic: "t".try_into().expect("a topic"),
        packet_id: PacketId::new(packet_id),
        payload: "m".into(),
        topic_alias: None,
        subscription_ids: mqtt::SubscriptionIds::new(),
        properties: None,
    })
}

pub(super) fn message(payload: &'static str) -> Arc<Message> {
    Arc::new(Message {
        topic: "t".try_into().expect("a topic"),
        payload: payload.into(),
        qos: QoS::AtLeastOnce,
        retain: false,
        properties: None,
        publisher: None,
        received: NOW.wall,
        expiry: None,
    })
}

fn matched() -> Match {
    let mut matched = Match::default();
    matched.add(&subscription(), false);
    matched
}

fn subscription() -> Subscription {
    Subscription {
        options: SubscribeOptions {
            qos: QoS::AtLeastOnce,
            ..SubscribeOptions::default()
        },
        id: None,
    }
}

fn subscribe(live: &mut Live) -> Vec<Effect> {
    let packet = Subscribe {
        packet_id: PacketId::MIN,
        filters: vec![("t".try_into().expect("a filter"), subscription().options)],
        subscription_id: None,
        user_properties: Vec::new(),
    };
    live.handle_packet(Packet::Subscribe(Box::new(packet)), NOW);
    effects(live)
}

fn payloads(effects: &[Effect]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    for effect in effects {
        if let Effect::Deliver(outgoing) = effect {
            found.push(&outgoing.message.payload[..]);
        }
    }
    found
}

/// A clean session that subscribed and waits for retained messages under this token.
fn awaiting_retained() -> (Live, Token) {
    let mut live = connected(0);
    let asked = subscribe(&mut live);
    let [Effect::Subscribe { token, .. }] = asked[..] else {
        panic!("{asked:?}");
    };
    live.handle_settled(token, ReasonCode::Success, NOW);
    let after = effects(&mut live);
    let [
        Effect::Send(Packet::SubAck(_)),
        Effect::Retained { token, .. },
    ] = after[..]
    else {
        panic!("{after:?}");
    };
    (live, token)
}

#[test]
fn an_idle_connection_is_small() {
    let live = connected(0);

    assert!(size_of::<Live>() <= 512, "{} bytes", size_of::<Live>());
    assert!(size_of::<Effect>() <= 192, "{} bytes", size_of::<Effect>());
    assert!(live.inbound.is_none() && live.outbound.is_none() && live.requests.is_none());
}

#[test]
fn a_refused_qos_2_message_frees_its_id_in_the_shard_before_pubrec() {
    let mut live = connected(60);
    live.handle_packet(publish(QoS::ExactlyOnce, 3), NOW);
    let asked = effects(&mut live);
    let [Effect::Propose { token, .. }] = asked[..] else {
        panic!("{asked:?}");
    };
    live.handle_answer(token, Answer::Q2In { n: 0, floor: 0 }, NOW);
    let published = effects(&mut live);
    assert!(matches!(published[..], [Effect::Publish(_)]));

    live.handle_settled(token, ReasonCode::NotAuthorized, NOW);
    let forgets = effects(&mut live);
    let [Effect::Propose { token, command }] = &forgets[..] else {
        panic!("{forgets:?}");
    };
    assert!(matches!(**command, Command::Q2Out { .. }));
    live.handle_answer(*token, Answer::Q2Out { found: true }, NOW);

    let answered = effects(&mut live);
    let [Effect::Ack(ack)] = answered[..] else {
        panic!("{answered:?}");
    };
    assert_eq!(
        (ack.kind, ack.reason),
        (AckKind::PubRec, ReasonCode::NotAuthorized)
    );
}

/// The token of the question whether the session is still the connection's own.
fn doubted(live: &mut Live) -> Token {
    live.handle_doubt(NOW);
    let asked = effects(live);
    let [Effect::Propose { token, command }] = &asked[..] else {
        panic!("{asked:?}");
    };
    let Command::Unsubs(unsubs) = &**command else {
        panic!("{command:?}");
    };
    assert_eq!((unsubs.epoch, &unsubs.filters[..]), (live.epoch(), &[][..]));
    *token
}

#[test]
fn a_doubt_ends_when_the_shard_knows_no_newer_connection() {
    let mut live = connected(60);
    let token = doubted(&mut live);

    live.handle_answer(token, Answer::Unsubscribed(Vec::new()), NOW);

    assert_eq!(effects(&mut live), [Effect::Confirmed]);
}

#[test]
fn a_doubt_that_is_refused_is_no_answer() {
    let mut live = connected(60);
    let token = doubted(&mut live);

    live.handle_answer(token, Answer::Refused(ReasonCode::ServerUnavailable), NOW);

    assert!(!effects(&mut live).contains(&Effect::Confirmed));
    assert!(live.is_closed());
}

#[test]
fn a_doubt_of_a_connection_that_was_taken_over_ends_it() {
    let mut live = connected(60);
    let token = doubted(&mut live);

    let current = Some(Epoch(10));
    live.handle_answer(token, Answer::WrongEpoch { current }, NOW);

    let ended = effects(&mut live);
    let [Effect::Send(Packet::Disconnect(told)), Effect::Close(_)] = &ended[..] else {
        panic!("{ended:?}");
    };
    assert_eq!(told.reason, ReasonCode::SessionTakenOver);
}

#[test]
fn a_lost_ownership_closes_without_a_command() {
    let mut live = connected(60);
    live.handle_packet(publish(QoS::ExactlyOnce, 3), NOW);
    let asked = effects(&mut live);
    let [Effect::Propose { token, .. }] = asked[..] else {
        panic!("{asked:?}");
    };

    let current = Some(Epoch(10));
    live.handle_answer(token, Answer::WrongEpoch { current }, NOW);

    let ended = effects(&mut live);
    let [
        Effect::Send(Packet::Disconnect(disconnect)),
        Effect::Close(closed),
    ] = &ended[..]
    else {
        panic!("{ended:?}");
    };
    assert_eq!(disconnect.reason, ReasonCode::SessionTakenOver);
    assert_eq!(closed.command, None);
}

#[test]
fn a_clean_session_holds_what_it_subscribed_behind_its_retained_messages() {
    let (mut live, token) = awaiting_retained();
    live.handle_message(message("later"), matched(), NOW);
    assert_eq!(effects(&mut live), []);

    live.handle_retained(token, vec![vec![message("retained")]], NOW);

    let sent = effects(&mut live);
    assert_eq!(payloads(&sent), [&b"retained"[..], b"later"]);
    assert_eq!(live.queue_bytes(), 0);
}

#[test]
fn retained_messages_that_do_not_come_are_given_up_after_five_seconds() {
    let (mut live, _) = awaiting_retained();
    live.handle_message(message("later"), matched(), NOW);

    live.handle_timeout(at(4_999));
    assert_eq!(effects(&mut live), []);
    assert_eq!(live.deadline(), Some(at(5_000).mono));
    live.handle_timeout(at(5_000));

    assert_eq!(payloads(&effects(&mut live)), [b"later"]);
}

#[test]
fn what_the_router_sends_a_persistent_session_with_qos_1_is_left_to_its_queue() {
    let mut live = connected(60);

    live.handle_message(message("m"), matched(), NOW);

    assert_eq!(effects(&mut live), []);
}

#[test]
fn an_expired_message_is_not_sent_and_counted() {
    let mut live = connected(0);
    live.handle_blocked();
    let mut short_lived = (*message("m")).clone();
    short_lived.expiry = Some(at(10).wall);
    live.handle_message(Arc::new(short_lived), matched(), NOW);

    live.handle_writable(at(10));

    assert_eq!(effects(&mut live), []);
    assert_eq!(live.dropped().expired, 1);
}

#[test]
fn too_many_unanswered_requests_close_the_connection() {
    let mut live = connected(0);
    for _ in 0..64 {
        subscribe(&mut live);
    }
    assert!(!live.is_closed());

    subscribe(&mut live);

    assert!(live.is_closed());
}

#[test]
fn a_subscription_identifier_from_a_client_is_a_protocol_error() {
    // [MQTT-3.3.4-6]
    let mut live = connected(0);
    let Packet::Publish(mut packet) = publish(QoS::AtMostOnce, 0) else {
        panic!("a PUBLISH");
    };
    packet.subscription_ids.push(std::num::NonZeroU32::MIN);

    live.handle_packet(Packet::Publish(packet), NOW);

    let ended = effects(&mut live);
    let [
        Effect::Send(Packet::Disconnect(disconnect)),
        Effect::Close(_),
    ] = &ended[..]
    else {
        panic!("{ended:?}");
    };
    assert_eq!(disconnect.reason, ReasonCode::ProtocolError);
}

#[test]
fn every_reason_to_refuse_a_client_becomes_one_that_connack_may_carry() {
    // [MQTT-3.2.2-8]
    for reason in (0x80..=0xFF).filter_map(|code| ReasonCode::try_from(code).ok()) {
        let mut live = connecting(0);

        live.handle_kick(reason, NOW);

        let refused = effects(&mut live);
        let [Effect::Send(packet)] = &refused[..] else {
            assert_eq!(reason, ReasonCode::SessionTakenOver, "{refused:?}");
            continue;
        };
        assert_client_reads(packet);
    }
}

#[test]
fn every_reason_to_disconnect_a_client_becomes_one_that_disconnect_may_carry() {
    // [MQTT-3.14.2-1]
    for reason in (0x80..=0xFF).filter_map(|code| ReasonCode::try_from(code).ok()) {
        let mut live = connected(0);

        live.handle_malformed(reason, NOW);

        let ended = effects(&mut live);
        let [Effect::Send(packet), Effect::Close(closed)] = &ended[..] else {
            panic!("{ended:?}");
        };
        assert_client_reads(packet);
        assert_eq!(closed.reason, reason);
    }
}

fn assert_client_reads(packet: &Packet) {
    let mut wire = bytes::BytesMut::new();
    mqtt::encode(packet, Version::V5, &mut wire);
    let mut client = mqtt::Decoder::client(Version::V5, mqtt::Limits::default());
    let read = client.decode(&mut wire);
    assert_eq!(read.as_ref(), Ok(&Some(packet.clone())));
}

#[test]
fn an_id_of_clean_sessions_acknowledges_nothing_of_a_persistent_one() {
    let mut live = connected(60);
    live.handle_delivery(delivery(0), NOW);
    let sent = effects(&mut live);
    let [Effect::Deliver(outgoing)] = &sent[..] else {
        panic!("{sent:?}");
    };
    assert_eq!(outgoing.packet_id, PacketId::new(1));

    // One span further.
    live.handle_packet(Packet::PubAck(ack(1 + 32_767)), NOW);
    assert_eq!(effects(&mut live), []);
    live.handle_packet(Packet::PubAck(ack(1)), NOW);

    assert_eq!(effects(&mut live), [Effect::Acked(Seq(0))]);
}

#[test]
fn a_client_may_acknowledge_its_whole_window_before_the_shard_has_recorded_any_of_it() {
    const WINDOW: u16 = 10_000;
    let mut live = connected(60);
    for seq in 0..u64::from(WINDOW) {
        live.handle_delivery(delivery_with(QoS::ExactlyOnce, seq), NOW);
    }
    effects(&mut live);

    for packet_id in 1..=WINDOW {
        live.handle_packet(Packet::PubRec(ack(packet_id)), NOW);
    }

    let proposed = effects(&mut live);
    let is_rec = |effect: &Effect| match effect {
        Effect::Propose { command, .. } => matches!(**command, Command::Rec { .. }),
        _ => false,
    };
    assert!(!live.is_closed());
    assert_eq!(proposed.len(), usize::from(WINDOW));
    assert!(proposed.iter().all(is_rec));
}

pub(super) fn delivery(seq: u64) -> Delivery {
    delivery_with(QoS::AtLeastOnce, seq)
}

pub(super) fn delivery_with(qos: QoS, seq: u64) -> Delivery {
    Delivery {
        client: "c".try_into().expect("a client id"),
        epoch: Epoch(9),
        node_epoch: NodeEpoch(1),
        connection: ConnectionId(1),
        seq: Seq(seq),
        step: DeliveryStep::Publish {
            message: message("m"),
            qos,
            retain: false,
            subscription_ids: mqtt::SubscriptionIds::new(),
            dup: false,
        },
    }
}

pub(super) fn ack(packet_id: u16) -> mqtt::Ack {
    mqtt::Ack {
        packet_id: PacketId::new(packet_id).expect("above 0"),
        reason: ReasonCode::Success,
        properties: None,
    }
}

#[test]
fn p_4_11_a_client_that_is_sent_away_is_told_where_to_in_the_packet_of_its_time() {
    let reference: Option<mqtt::Text> = "n2:1883".try_into().ok();
    // While it connects: CONNACK 0x9C (§3.2.2.3.16), and no session was opened.
    let mut live = connecting(60);
    live.handle_sent_away(reference.as_ref(), NOW);
    let said = effects(&mut live);
    let [Effect::Send(packet @ Packet::ConnAck(connack))] = &said[..] else {
        panic!("{said:?}");
    };
    assert_eq!(connack.reason, ReasonCode::UseAnotherServer);
    assert_eq!(connack.properties.server_reference, reference);
    assert_client_reads(packet);

    // Later: DISCONNECT 0x9C (§3.14.2.2.5), and a session that lasts goes on.
    let mut live = connected(60);
    live.handle_sent_away(reference.as_ref(), NOW);
    let said = effects(&mut live);
    let [
        Effect::Send(packet @ Packet::Disconnect(disconnect)),
        Effect::Close(closed),
    ] = &said[..]
    else {
        panic!("{said:?}");
    };
    assert_eq!(disconnect.reason, ReasonCode::UseAnotherServer);
    assert_eq!(disconnect.server_reference, reference);
    assert_client_reads(packet);
    let close = closed.command.as_ref().expect("it owned the session");
    assert_eq!(close.expiry_s, None, "as it was agreed");
    live.handle_sent_away(reference.as_ref(), NOW);
    assert_eq!(effects(&mut live), [], "nothing is sent after it");

    // In 3.1.1 there is no such packet.
    let mut live = connected_with(Config::default(), 60, Version::V311);
    live.handle_sent_away(reference.as_ref(), NOW);
    assert!(matches!(effects(&mut live)[..], [Effect::Close(_)]));
}

#[test]
fn a_connection_that_is_kicked_takes_its_session_along_only_if_told_to() {
    let closed_with = |live: &mut Live| {
        let last = effects(live).pop();
        let Some(Effect::Close(closed)) = last else {
            panic!("{last:?}");
        };
        closed.command.expect("it owned the session").expiry_s
    };
    let reason = ReasonCode::AdministrativeAction;
    let mut live = connected(60);
    live.handle_kick(reason, NOW);
    assert_eq!(closed_with(&mut live), None);

    let mut live = connected(60);
    live.handle_end(reason, NOW);
    assert_eq!(closed_with(&mut live), Some(0));

    // Before the session is open, with the answer.
    let mut live = connecting(60);
    live.handle_end(reason, NOW);
    let opened = Opened::Yes {
        epoch: Epoch(9),
        incarnation: Epoch(9),
        session_present: true,
    };
    live.handle_opened(opened, NOW);
    assert_eq!(closed_with(&mut live), Some(0));
}

#[test]
fn the_will_of_a_connect_that_was_refused_while_it_opened_is_discarded() {
    let will_of = |ending: fn(&mut Live)| {
        let mut live = connecting(60);
        ending(&mut live);
        let opened = Opened::Yes {
            epoch: Epoch(9),
            incarnation: Epoch(9),
            session_present: false,
        };
        live.handle_opened(opened, NOW);
        let last = effects(&mut live).pop();
        let Some(Effect::Close(closed)) = last else {
            panic!("{last:?}");
        };
        closed.command.expect("it owned the session").will
    };
    // It was never connected (§3.1.2.5).
    let refused = will_of(|live| live.handle_kick(ReasonCode::ServerUnavailable, NOW));
    assert_eq!(refused, WillFate::Discard);
    // Nobody told it that it was not accepted.
    let cut = will_of(|live| live.handle_closed(NOW));
    assert_eq!(cut, WillFate::Keep);
}

#[test]
fn a_view_of_a_connection_says_what_is_open() {
    let mut live = connected(0);
    let subscribe = Subscribe {
        packet_id: PacketId::MIN,
        filters: ["a/+", "b"]
            .map(|f| (f.try_into().expect("a filter"), SubscribeOptions::default()))
            .into(),
        subscription_id: None,
        user_properties: Vec::new(),
    };
    live.handle_packet(Packet::Subscribe(Box::new(subscribe)), NOW);

    let of_a = |filter: &mqtt::Filter| filter.as_str() == "a/+";
    let view = live.view(of_a, 9, at(1_500));
    assert_eq!((view.connected_ms, view.silent_ms), (1_500, 1_500));
    assert_eq!(
        (view.version, view.inflight, view.owed),
        (Version::V5, 0, 0)
    );
    assert_eq!((view.subscriptions.len(), view.subscriptions_total), (1, 2));
    assert_eq!(live.view(|_| true, 1, at(0)).subscriptions.len(), 1);
}
