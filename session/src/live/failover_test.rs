//! What a connection makes of the deliveries of a shard's old and new leader.

use mqtt::{Packet, QoS};

use super::live_test::{NOW, ack, connected, delivery, delivery_with, effects, message};
use super::{AckKind, Effect, Live};
use crate::{
    Answer, Command, ConnectionId, Delivery, DeliveryStep, Epoch, GroupDelivery, GroupSeq,
    NodeEpoch, Seq, Token,
};

const PUBACK: fn(mqtt::Ack) -> Packet = Packet::PubAck;

fn release(seq: u64) -> Delivery {
    Delivery {
        step: DeliveryStep::Release,
        ..delivery(seq)
    }
}

fn shared(seq: u64) -> GroupDelivery {
    GroupDelivery {
        node_epoch: NodeEpoch(1),
        connection: ConnectionId(1),
        epoch: Epoch(9),
        group_seq: GroupSeq {
            filter: "$share/g/t".try_into().expect("a filter"),
            incarnation: Epoch(3),
            seq: Seq(seq),
        },
        message: message("m"),
        qos: QoS::AtLeastOnce,
        retain: false,
        subscription_ids: mqtt::SubscriptionIds::new(),
        dup: true,
    }
}

/// Packet ids of the PUBLISH packets that leave.
fn published(live: &mut Live) -> Vec<u16> {
    let id = |effect: Effect| match effect {
        Effect::Deliver(outgoing) => outgoing.packet_id.map(|id| id.get()),
        _ => None,
    };
    effects(live).into_iter().filter_map(id).collect()
}

fn hand_over(live: &mut Live, seqs: impl IntoIterator<Item = u64>) -> Vec<u16> {
    for seq in seqs {
        live.handle_delivery(delivery(seq), NOW);
    }
    published(live)
}

fn hand_over_shared(live: &mut Live, seqs: impl IntoIterator<Item = u64>) -> Vec<u16> {
    for seq in seqs {
        live.handle_shared(shared(seq), NOW);
    }
    published(live)
}

#[test]
fn deliveries_of_two_leaders_reach_the_client_once_and_in_order() {
    let mut live = connected(60);
    assert_eq!(hand_over(&mut live, 5..8), [6, 7, 8]);

    // The new one begins again and gets ahead; then what the old one had still on its way.
    assert_eq!(hand_over(&mut live, 5..10), [9, 10]);
    assert_eq!(hand_over(&mut live, [8, 9, 10]), [11]);
    assert_eq!(hand_over(&mut live, [10, 12]), [13], "11 is acknowledged");
}

#[test]
fn what_waits_for_the_window_is_not_taken_twice() {
    let mut live = connected(60);
    live.receive_maximum = 1;
    assert_eq!(hand_over(&mut live, [0, 1, 0, 1]), [1]);

    live.handle_packet(PUBACK(ack(1)), NOW);

    assert_eq!(published(&mut live), [2]);
    live.handle_packet(PUBACK(ack(2)), NOW);
    assert_eq!(published(&mut live), [0_u16; 0]);
}

#[test]
fn what_is_acknowledged_is_acknowledged_again_to_a_leader_that_does_not_know() {
    let mut live = connected(60);
    hand_over(&mut live, [0, 1]);
    live.handle_packet(PUBACK(ack(1)), NOW);
    assert_eq!(effects(&mut live), [Effect::Acked(Seq(0))]);
    // Also after an idle connection gave its buffers back.
    live.handle_packet(PUBACK(ack(2)), NOW);
    effects(&mut live);
    live.trim();

    live.handle_delivery(delivery(0), NOW);
    live.handle_delivery(delivery(1), NOW);

    let acked = [Effect::Acked(Seq(0)), Effect::Acked(Seq(1))];
    assert_eq!(effects(&mut live), acked);
}

#[test]
fn a_pubrel_is_sent_once_whoever_asks_for_it() {
    let mut live = connected(60);
    live.handle_delivery(release(3), NOW);
    let sent = effects(&mut live);
    assert!(matches!(&sent[..], [Effect::Ack(ack)] if ack.kind == AckKind::PubRel));

    live.handle_delivery(release(3), NOW);
    assert_eq!(effects(&mut live), [], "PUBCOMP is awaited");
    live.handle_packet(Packet::PubComp(ack(4)), NOW);
    assert_eq!(effects(&mut live), [Effect::Acked(Seq(3))]);
    live.handle_delivery(release(3), NOW);
    assert_eq!(effects(&mut live), [Effect::Acked(Seq(3))]);
}

/// The new leader has applied `Rec`, whose answer is still on its way.
#[test]
fn a_release_before_the_answer_to_rec_sends_no_second_pubrel() {
    let mut live = connected(60);
    live.handle_delivery(delivery_with(QoS::ExactlyOnce, 0), NOW);
    effects(&mut live);
    live.handle_packet(Packet::PubRec(ack(1)), NOW);
    let token = match &effects(&mut live)[..] {
        [Effect::Propose { token, command }] if matches!(**command, Command::Rec { .. }) => *token,
        other => panic!("{other:?}"),
    };

    live.handle_delivery(release(0), NOW);
    let early = effects(&mut live);
    live.handle_answer(Token(token.0), Answer::Rec { found: true }, NOW);

    assert_eq!(early, []);
    let sent = effects(&mut live);
    assert!(matches!(&sent[..], [Effect::Ack(ack)] if ack.kind == AckKind::PubRel));
}

#[test]
fn a_message_of_a_group_that_the_client_has_comes_no_second_time() {
    let mut live = connected(60);
    assert_eq!(hand_over_shared(&mut live, [7, 4]), [32_768, 32_769]);

    // A new leader hands it what it has, and what another member had.
    assert_eq!(hand_over_shared(&mut live, [3, 4, 7]), [32_770]);

    live.handle_packet(PUBACK(ack(32_768)), NOW);
    let acked = Effect::SharedAcked(Box::new(shared(7).group_seq));
    assert_eq!(effects(&mut live), std::slice::from_ref(&acked));
    live.handle_shared(shared(7), NOW);
    assert_eq!(effects(&mut live), [acked], "the new leader is to know it");
}

#[test]
fn what_a_client_left_a_group_with_is_taken_when_it_comes_back() {
    let mut live = connected(60);
    live.receive_maximum = 1;
    assert_eq!(hand_over_shared(&mut live, [0, 1]), [32_768]);

    live.leave_groups(&["$share/g/t".try_into().expect("a filter")]);
    assert_eq!(hand_over_shared(&mut live, [0, 1]), [0_u16; 0]);
    live.handle_packet(PUBACK(ack(32_768)), NOW);

    assert_eq!(
        published(&mut live),
        [32_769],
        "0 is in flight, 1 was not sent"
    );
}
