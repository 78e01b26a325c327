//! Where operators want shards to be, and what members offer.

use super::test_log::Log;
use super::*;
use crate::NodeState;

const SHARD: ShardId = ShardId(0);
const GROUP: Group = Group::Shard(SHARD);

impl Log {
    fn drain(&mut self, node: u32) {
        let node = NodeId(node);
        let is_leaving = true;
        self.apply(&MetaCommand::Drain { node, is_leaving });
    }

    fn holders(&self) -> BTreeSet<u32> {
        let placement = &self.meta.placement(GROUP).unwrap().placement;
        placement.nodes().map(|node| node.0).collect()
    }

    /// A move of the first shard from one of its nodes, which does not lead it, to the one that has none.
    fn wish(&self) -> Pin {
        let row = self.meta.placement(GROUP).unwrap();
        let nodes: BTreeSet<NodeId> = row.placement.nodes().collect();
        let without = (1..=4).map(NodeId).find(|node| !nodes.contains(node));
        Pin {
            shard: SHARD,
            expected: row.version,
            from: row.placement.voters[1],
            to: without.expect("one of four has none"),
        }
    }

    fn pin(&mut self, pin: Pin) -> MetaAnswer {
        self.apply(&MetaCommand::Pin(pin))
    }

    fn most_held(&self) -> usize {
        let rows = || self.meta.placements();
        let shards = || rows().filter(|(group, _)| matches!(group, Group::Shard(_)));
        let held = |node: u32| {
            let held = shards().filter(|(_, row)| row.placement.nodes().any(|n| n.0 == node));
            held.count()
        };
        (1..=4).map(held).max().unwrap()
    }
}

#[test]
fn a_replica_is_where_an_operator_wants_it_and_stays_there() {
    let mut log = Log::of(4);
    let wish = log.wish();

    assert_eq!(log.pin(wish), MetaAnswer::Done);
    assert!(log.settle() >= 1);

    let holders = log.holders();
    assert!(holders.contains(&wish.to.0) && !holders.contains(&wish.from.0));
    assert_eq!(log.most_held(), 6, "the others made room");
    // A node that comes and goes is no reason.
    log.end(wish.from);
    log.begin(wish.from);
    log.settle();
    assert_eq!(log.holders(), holders);
    assert_eq!(log.pin(wish), MetaAnswer::Done, "a repeat");
}

#[test]
fn without_the_pin_the_same_move_would_be_undone_by_the_planner() {
    let mut log = Log::of(4);
    let wish = log.wish();
    let before = log.most_held();
    log.pin(wish);
    let expected = log.meta.placement(GROUP).unwrap().version;
    let mut to = log.meta.placement(GROUP).unwrap().placement.clone();
    to.voters[1] = wish.to;
    log.apply(&MetaCommand::Unpin { shard: SHARD });
    let start = StartMove {
        group: GROUP,
        expected,
        to,
        renewed: None,
    };
    log.apply(&MetaCommand::StartMove(start));
    let expected = log.index;
    log.apply(&MetaCommand::EndMove {
        group: GROUP,
        expected,
    });
    assert_eq!(log.most_held(), before + 1);
    assert_ne!(log.settle(), 0, "one of its shards goes");
    assert_eq!(log.most_held(), before);
}

#[test]
fn what_cannot_be_moved_there_is_refused_with_the_reason() {
    let mut log = Log::of(4);
    let wish = log.wish();
    let refusal = |log: &mut Log, pin| match log.pin(pin) {
        MetaAnswer::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    };
    let of = |from: NodeId, to: NodeId| Pin { from, to, ..wish };
    let third = log.meta.placement(GROUP).unwrap().placement.voters[2];

    assert_eq!(
        refusal(&mut log, of(wish.from, third)),
        Refusal::HoldsOne(third)
    );
    assert_eq!(
        refusal(&mut log, of(wish.to, third)),
        Refusal::HoldsNone(wish.to)
    );
    let stranger = NodeId(9);
    assert_eq!(
        refusal(&mut log, of(wish.from, stranger)),
        Refusal::NoMember(stranger)
    );
    let expected = wish.expected + 1;
    assert_eq!(
        refusal(&mut log, Pin { expected, ..wish }),
        Refusal::Changed {
            current: wish.expected
        }
    );
    let shard = ShardId(8);
    assert_eq!(
        refusal(&mut log, Pin { shard, ..wish }),
        Refusal::Invalid("no such shard")
    );
    log.end(wish.to);
    assert_eq!(refusal(&mut log, wish), Refusal::Away(wish.to));
    log.begin(wish.to);
    log.drain(wish.to.0);
    assert_eq!(refusal(&mut log, wish), Refusal::Leaving(wish.to));
    assert!(log.meta.pins().is_empty());
}

#[test]
fn a_shard_that_is_being_moved_is_not_moved_elsewhere() {
    let mut log = Log::of(4);
    let wish = log.wish();
    let mut to = log.meta.placement(GROUP).unwrap().placement.clone();
    to.voters[2] = wish.to;
    let start = StartMove {
        group: GROUP,
        expected: wish.expected,
        to,
        renewed: None,
    };
    assert_eq!(log.apply(&MetaCommand::StartMove(start)), MetaAnswer::Done);
    let version = log.index;
    assert_eq!(
        log.pin(wish),
        MetaAnswer::Refused(Refusal::Moving { version })
    );
}

#[test]
fn a_drain_and_a_word_release_a_shard() {
    let mut log = Log::of(4);
    let wish = log.wish();
    log.pin(wish);
    log.settle();
    log.drain(wish.from.0);
    assert_eq!(log.meta.pins().len(), 1, "it is another's matter");
    log.drain(wish.to.0);
    assert!(log.meta.pins().is_empty());
    log.settle();
    assert!(!log.holders().contains(&wish.to.0));

    let mut log = Log::of(4);
    log.pin(wish);
    assert_eq!(
        log.apply(&MetaCommand::Unpin { shard: SHARD }),
        MetaAnswer::Done
    );
    assert!(log.meta.pins().is_empty());
}

#[test]
fn any_pins_can_be_kept_even_if_no_table_keeps_to_the_bounds_then() {
    let mut log = Log::of(4);
    // Everything at three of four nodes.
    for shard in (0..8).map(ShardId) {
        let row = log.meta.placement(Group::Shard(shard)).unwrap();
        let nodes: BTreeSet<NodeId> = row.placement.nodes().collect();
        let (four, expected) = (NodeId(4), row.version);
        let to = (1..=3).map(NodeId).find(|node| !nodes.contains(node));
        if let Some(to) = to {
            let from = four;
            assert_eq!(
                log.pin(Pin {
                    shard,
                    expected,
                    from,
                    to
                }),
                MetaAnswer::Done
            );
        }
    }
    log.settle();
    for nodes in log.meta.pins().values() {
        assert!(!nodes.contains(&NodeId(4)));
    }
    for (shard, nodes) in log.meta.pins() {
        let row = log.meta.placement(Group::Shard(*shard)).unwrap();
        let held: BTreeSet<NodeId> = row.placement.nodes().collect();
        assert_eq!(held, *nodes, "{shard:?}");
    }
}

#[test]
fn a_member_says_what_it_offers_until_it_has_left() {
    let mut log = Log::of(4);
    let node = NodeId(4);
    assert_eq!(log.meta.offer(node), Offer::default());
    let offer = Offer {
        stores: false,
        server: "mqtt4:1883".to_owned(),
    };
    let said = MetaCommand::Offer {
        node,
        offer: offer.clone(),
    };
    assert_eq!(log.apply(&said), MetaAnswer::Done);
    assert_eq!(log.meta.offer(node), offer);
    assert_eq!(log.meta.offer(NodeId(3)), Offer::default());

    let server = "x".repeat(ADDRESS_BYTES_MAX + 1);
    let long = MetaCommand::Offer {
        node,
        offer: Offer { server, ..offer },
    };
    assert!(matches!(
        log.apply(&long),
        MetaAnswer::Refused(Refusal::Full { .. })
    ));
    log.drain(4);
    log.settle();
    log.end(NodeId(4));
    log.settle();
    assert_eq!(log.meta.node_states()[&node], NodeState::Gone);
    assert_eq!(log.apply(&MetaCommand::Leave { node }), MetaAnswer::Done);
    assert!(log.meta.offers().is_empty());
    assert!(matches!(
        log.apply(&said),
        MetaAnswer::Refused(Refusal::NoMember(_))
    ));
}
