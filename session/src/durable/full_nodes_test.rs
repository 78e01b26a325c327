use mqtt::QoS;

use super::durable_test::{Shard, client, open};
use super::{DurableEffect, Limits};
use crate::{Acks, Answer, Command, Epoch, NodeEpoch, Seq};

const FULL: NodeEpoch = NodeEpoch(7);
const OTHER: NodeEpoch = NodeEpoch(8);

/// Opens the session on a node.
fn open_on(shard: &mut Shard, name: &str, connection: u64, node: NodeEpoch) -> Epoch {
    let mut open = open(name, connection, shard.durable.epoch(&client(name)));
    open.node_epoch = node;
    match shard.apply(&Command::Open(Box::new(open))) {
        Answer::Opened { epoch, .. } => epoch,
        other => panic!("not opened: {other:?}"),
    }
}

/// A session on either node, subscribed to all.
fn on_two_nodes() -> Shard {
    let mut shard = Shard::new(Limits::default());
    for (name, connection, node) in [("a", 1, FULL), ("b", 2, OTHER)] {
        let epoch = open_on(&mut shard, name, connection, node);
        shard.subscribe(name, epoch, &["t"]);
    }
    shard.effects();
    shard
}

fn enqueue(shard: &mut Shard, count: usize) {
    for _ in 0..count {
        shard.enqueue("t", QoS::ExactlyOnce, None);
    }
}

/// Who is handed what.
fn handed(shard: &mut Shard) -> Vec<(String, NodeEpoch, u64)> {
    let delivery = |effect| match effect {
        DurableEffect::Deliver(one) => Some((one.client.to_string(), one.node_epoch, one.seq.0)),
        _ => None,
    };
    shard.effects().into_iter().filter_map(delivery).collect()
}

fn of(name: &str, node: NodeEpoch, seqs: std::ops::Range<u64>) -> Vec<(String, NodeEpoch, u64)> {
    seqs.map(|seq| (name.to_owned(), node, seq)).collect()
}

#[test]
fn a_full_node_is_handed_nothing_until_it_has_room_and_then_what_it_lacks() {
    let mut shard = on_two_nodes();
    enqueue(&mut shard, 2);
    assert_eq!(handed(&mut shard).len(), 4);

    shard.durable.handle_full(FULL);
    enqueue(&mut shard, 3);
    assert_eq!(handed(&mut shard), of("b", OTHER, 2..5));
    // What it acknowledges meanwhile is no reason either.
    let epoch = shard.durable.epoch(&client("a")).expect("a session");
    shard.apply(&Command::Ack(vec![Acks {
        client: client("a"),
        epoch,
        seqs: vec![Seq(0)],
    }]));
    assert_eq!(handed(&mut shard), []);

    shard.durable.handle_room(FULL);
    assert_eq!(handed(&mut shard), of("a", FULL, 2..5), "and nothing twice");
    enqueue(&mut shard, 1);
    assert_eq!(handed(&mut shard).len(), 2);
}

#[test]
fn a_node_that_fills_amid_a_queue_is_handed_the_rest_of_it_later() {
    let mut shard = on_two_nodes();
    enqueue(&mut shard, 3);
    let first = shard.durable.poll_effect();
    let Some(DurableEffect::Deliver(first)) = first else {
        panic!("{first:?}");
    };
    assert_eq!((first.node_epoch, first.seq), (FULL, Seq(0)));

    shard.durable.handle_full(FULL);

    assert_eq!(handed(&mut shard), of("b", OTHER, 0..3));
    shard.durable.handle_room(FULL);
    assert_eq!(handed(&mut shard), of("a", FULL, 1..3));
}

#[test]
fn a_session_that_leaves_a_full_node_is_handed_everything_at_the_next() {
    let mut shard = on_two_nodes();
    shard.durable.handle_full(FULL);
    enqueue(&mut shard, 2);
    assert_eq!(handed(&mut shard), of("b", OTHER, 0..2));

    open_on(&mut shard, "a", 3, OTHER);
    assert_eq!(handed(&mut shard), of("a", OTHER, 0..2));
    shard.durable.handle_room(FULL);
    assert_eq!(handed(&mut shard), []);

    // And one whose node ended while it was full.
    open_on(&mut shard, "a", 4, FULL);
    shard.durable.handle_full(FULL);
    shard.apply(&Command::NodeGone { node_epoch: FULL });
    open_on(&mut shard, "a", 5, OTHER);
    assert_eq!(handed(&mut shard), of("a", OTHER, 0..2));
}

#[test]
fn another_lead_knows_of_no_full_node() {
    let mut shard = on_two_nodes();
    shard.durable.handle_full(FULL);
    enqueue(&mut shard, 1);
    handed(&mut shard);

    shard.durable.handle_lead();

    assert_eq!(handed(&mut shard).len(), 2);
    shard.durable.handle_follow();
    shard.durable.handle_full(FULL);
    shard.durable.handle_lead();
    assert_eq!(handed(&mut shard).len(), 2);
}
