use std::collections::BTreeMap;
use std::num::NonZeroU16;

use cluster_core::{
    Begin, EndReason, FeatureLevel, FolderId, Found, Group, Join, Leftover, Meta, MetaAnswer,
    MetaCommand, NodeId, Placement, RaftId, RecoverShard, ShardId, StartCount, StartMove, WallMs,
};

use super::hosted::{Hosted, Order};
use super::message::{Prepare, Prepared};

const LEVEL: FeatureLevel = FeatureLevel(1);
const G: Group = Group::Shard(ShardId(0));
const ME: NodeId = NodeId(2);

struct Cluster(Meta, u64);

impl Cluster {
    /// Nodes 1 and 2, of which the first has everything.
    fn new() -> Self {
        let mut cluster = Self(Meta::default(), 0);
        cluster.apply(&MetaCommand::Found(Found {
            node: NodeId(1),
            folder: FolderId(1),
            shards: NonZeroU16::MIN,
            buckets: NonZeroU16::MIN,
            level: LEVEL,
        }));
        cluster.apply(&MetaCommand::Join(Join {
            node: Some(ME),
            folder: FolderId(2),
            level: LEVEL,
        }));
        for node in [NodeId(1), ME] {
            cluster.apply(&MetaCommand::Begin(Begin {
                node,
                folder: FolderId(node.0.into()),
                start: StartCount(1),
                address: String::new(),
                level: LEVEL,
            }));
        }
        cluster
    }

    fn apply(&mut self, command: &MetaCommand) {
        self.1 += 1;
        let answer = self.0.apply(self.1, WallMs(0), command);
        assert!(!matches!(answer, MetaAnswer::Refused(_)), "{answer:?}");
    }

    /// Begins a move of the shard; gives this node's replica in it, and the row's version.
    fn start(&mut self, voters: &[u32], learners: &[u32]) -> (Option<RaftId>, u64) {
        let nodes = |nodes: &[u32]| nodes.iter().copied().map(NodeId).collect();
        let expected = self.0.placement(G).unwrap().version;
        self.apply(&MetaCommand::StartMove(StartMove {
            group: G,
            expected,
            to: Placement {
                voters: nodes(voters),
                learners: nodes(learners),
            },
            renewed: None,
        }));
        let row = &self.0.layout().moves[&G];
        (row.replicas.get(&ME).copied(), row.version)
    }

    fn end(&mut self) {
        let expected = self.0.layout().moves[&G].version;
        self.apply(&MetaCommand::EndMove { group: G, expected });
    }
}

fn runs(replica: RaftId) -> BTreeMap<Group, RaftId> {
    BTreeMap::from([(G, replica)])
}

#[test]
fn a_replica_that_a_move_brings_is_started_once_and_one_that_goes_is_removed_once() {
    let (mut cluster, mut hosted) = (Cluster::new(), Hosted::default());
    let none = BTreeMap::new();
    assert_eq!(hosted.poll_orders(ME, Some(&cluster.0), true, &none), []);

    let (replica, _) = cluster.start(&[1], &[2]);
    let replica = replica.unwrap();
    let start = |is_new| Order::Start {
        group: G,
        replica,
        is_new,
    };
    assert_eq!(
        hosted.poll_orders(ME, Some(&cluster.0), true, &none),
        [start(true)]
    );
    assert_eq!(hosted.poll_orders(ME, Some(&cluster.0), true, &none), []);
    cluster.end();
    let mut after_start = Hosted::default();
    let orders = after_start.poll_orders(ME, Some(&cluster.0), true, &none);
    assert_eq!(orders, [start(false)], "it must lie on the disk");

    cluster.start(&[1], &[]);
    assert_eq!(
        hosted.poll_orders(ME, Some(&cluster.0), true, &runs(replica)),
        []
    );
    cluster.end();
    let leftover = Leftover {
        node: ME,
        group: G,
        replica,
    };
    let orders = hosted.poll_orders(ME, Some(&cluster.0), true, &runs(replica));
    assert_eq!(orders, [Order::Remove(leftover)]);
    assert_eq!(hosted.poll_orders(ME, Some(&cluster.0), true, &none), []);
    hosted.handle_deleted(leftover);
    let gone = [Order::Gone(leftover)];
    assert_eq!(hosted.poll_orders(ME, Some(&cluster.0), true, &none), gone);
    assert_eq!(hosted.poll_orders(ME, Some(&cluster.0), true, &none), []);
    hosted.handle_gone(leftover, false);
    assert_eq!(hosted.poll_orders(ME, Some(&cluster.0), true, &none), gone);
    hosted.handle_gone(leftover, true);
    assert_eq!(hosted.poll_orders(ME, Some(&cluster.0), true, &none), []);
    cluster.apply(&MetaCommand::Removed(leftover));
    assert_eq!(hosted.poll_orders(ME, Some(&cluster.0), true, &none), []);
}

#[test]
fn a_group_comes_back_only_after_its_former_replica_is_gone() {
    let (mut cluster, mut hosted) = (Cluster::new(), Hosted::default());
    let former = cluster.start(&[1], &[2]).0.unwrap();
    cluster.end();
    cluster.start(&[1], &[]);
    cluster.end();
    let next = cluster.start(&[1], &[2]).0.unwrap();
    assert_ne!(former, next);
    let leftover = Leftover {
        node: ME,
        group: G,
        replica: former,
    };
    let orders = hosted.poll_orders(ME, Some(&cluster.0), true, &runs(former));
    assert_eq!(orders, [Order::Remove(leftover)]);
    hosted.handle_deleted(leftover);
    let none = BTreeMap::new();
    let orders = hosted.poll_orders(ME, Some(&cluster.0), true, &none);
    assert_eq!(orders, [Order::Gone(leftover)]);
    cluster.apply(&MetaCommand::Removed(leftover));
    let start = Order::Start {
        group: G,
        replica: next,
        is_new: true,
    };
    assert_eq!(
        hosted.poll_orders(ME, Some(&cluster.0), true, &none),
        [start]
    );
}

#[test]
fn an_announcement_counts_for_a_node_whose_meta_is_older_or_missing() {
    let (mut cluster, mut hosted) = (Cluster::new(), Hosted::default());
    let early = cluster.0.clone();
    let (replica, version) = cluster.start(&[1], &[2]);
    let replica = replica.unwrap();
    let prepare = Prepare {
        group: G,
        replica,
        version,
    };
    for meta in [None, Some(&early)] {
        let mut hosted = Hosted::default();
        assert_eq!(hosted.poll_orders(ME, meta, true, &BTreeMap::new()), []);
        assert_eq!(
            hosted.handle_prepare(prepare, ME, meta, None),
            Prepared::NotYet
        );
        let start = Order::Start {
            group: G,
            replica,
            is_new: true,
        };
        assert_eq!(
            hosted.poll_orders(ME, meta, true, &BTreeMap::new()),
            [start]
        );
        assert_eq!(
            hosted.handle_prepare(prepare, ME, meta, Some(replica)),
            Prepared::Ready
        );
    }
    // One that comes late brings nothing back.
    cluster.end();
    cluster.start(&[1], &[]);
    cluster.end();
    assert_eq!(
        hosted.handle_prepare(prepare, ME, Some(&cluster.0), None),
        Prepared::Unwanted
    );
    let orders = hosted.poll_orders(ME, Some(&cluster.0), true, &BTreeMap::new());
    let is_start = |order: &Order| matches!(order, Order::Start { .. });
    assert!(!orders.iter().any(is_start), "{orders:?}");
}

#[test]
fn a_meta_from_before_this_run_starts_nothing_and_what_it_no_longer_wants_is_removed() {
    let (mut cluster, mut hosted) = (Cluster::new(), Hosted::default());
    let replica = cluster.start(&[1], &[2]).0.unwrap();
    cluster.end();
    let (none, runs) = (BTreeMap::new(), runs(replica));
    let early = cluster.0.clone();
    assert_eq!(hosted.poll_orders(ME, Some(&early), false, &none), []);
    assert_eq!(hosted.poll_orders(ME, Some(&early), true, &runs), []);

    // Meta goes on, and forgets the replica, before this node sees any of it.
    cluster.start(&[1], &[]);
    cluster.end();
    let leftover = Leftover {
        node: ME,
        group: G,
        replica,
    };
    cluster.apply(&MetaCommand::Removed(leftover));
    assert_eq!(hosted.poll_orders(ME, Some(&cluster.0), false, &runs), []);
    let orders = hosted.poll_orders(ME, Some(&cluster.0), true, &runs);
    assert_eq!(orders, [Order::Remove(leftover)]);
    assert_eq!(hosted.poll_orders(ME, Some(&cluster.0), true, &runs), []);
    hosted.handle_deleted(leftover);
    assert_eq!(hosted.poll_orders(ME, Some(&cluster.0), true, &none), []);
}

#[test]
fn of_a_replica_that_is_renewed_the_new_one_alone_is_wanted() {
    let (mut cluster, mut hosted) = (Cluster::new(), Hosted::default());
    let lost = cluster.start(&[1], &[2]).0.unwrap();
    cluster.end();
    let row = cluster.0.placement(G).unwrap().clone();
    cluster.apply(&MetaCommand::StartMove(StartMove {
        group: G,
        expected: row.version,
        to: row.placement,
        renewed: Some(ME),
    }));
    let replica = cluster.0.layout().moves[&G].replicas[&ME];
    let start = Order::Start {
        group: G,
        replica,
        is_new: true,
    };
    let none = BTreeMap::new();
    assert_eq!(
        hosted.poll_orders(ME, Some(&cluster.0), true, &none),
        [start]
    );
    assert_eq!(hosted.poll_orders(ME, Some(&cluster.0), true, &none), []);
    // A damaged one that runs makes room first.
    let damaged = Leftover {
        node: ME,
        group: G,
        replica: lost,
    };
    let mut hosted = Hosted::default();
    let orders = hosted.poll_orders(ME, Some(&cluster.0), true, &runs(lost));
    assert_eq!(orders, [Order::Remove(damaged)]);
    assert_eq!(
        hosted.poll_orders(ME, Some(&cluster.0), true, &none),
        [start]
    );
}

#[test]
fn what_survives_of_a_lost_shard_goes_on_as_another_and_is_not_removed() {
    let mut cluster = Cluster::new();
    let from = cluster.start(&[1], &[2]).0.unwrap();
    cluster.end();
    let founder = cluster.0.member(NodeId(1)).unwrap().epoch.unwrap();
    cluster.apply(&MetaCommand::End {
        epoch: founder,
        reason: EndReason::Dead,
    });
    let expected = cluster.0.placement(G).unwrap().version;
    cluster.apply(&MetaCommand::RecoverShard(RecoverShard {
        shard: ShardId(0),
        expected,
        node: ME,
    }));
    let recovered = cluster.0.recovery_of(G, ME).unwrap();
    assert_eq!(recovered.from, from);
    let recover = Order::Recover {
        group: G,
        recovered,
    };
    let none = BTreeMap::new();

    let mut hosted = Hosted::default();
    for (running, orders) in [
        (runs(from), vec![recover]),
        (runs(from), vec![]),
        (none.clone(), vec![]),
        (runs(recovered.replica), vec![]),
    ] {
        let polled = hosted.poll_orders(ME, Some(&cluster.0), true, &running);
        assert_eq!(polled, orders);
    }
    // After a start nothing runs, and what lies on the disk may be either.
    let mut hosted = Hosted::default();
    let polled = hosted.poll_orders(ME, Some(&cluster.0), true, &none);
    assert_eq!(polled, [recover]);
    // The lost one deletes what it has once it is back.
    let polled = Hosted::default().poll_orders(NodeId(1), Some(&cluster.0), true, &runs(RaftId(1)));
    let lost = Leftover {
        node: NodeId(1),
        group: G,
        replica: RaftId(1),
    };
    assert!(polled.contains(&Order::Remove(lost)), "{polled:?}");
}
