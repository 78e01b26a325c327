//! Moves, Raft ids, members that leave, and who may speak with the cluster.

use std::num::NonZeroU16;

use super::*;
use crate::{FolderId, NodeState, RaftId, StartCount};

const SHARD: Group = Group::Shard(ShardId(0));

struct Log {
    meta: Meta,
    index: u64,
}

impl Log {
    /// Node 1 with two shards, and three more that have an epoch.
    fn of_four() -> Self {
        let mut log = Self {
            meta: Meta::default(),
            index: 0,
        };
        log.apply(&MetaCommand::Found(Found {
            node: NodeId(1),
            folder: FolderId(1),
            shards: NonZeroU16::new(4).unwrap(),
            buckets: NonZeroU16::MIN,
            level: FeatureLevel(3),
        }));
        for node in 2..=4 {
            log.apply(&join(node, node.into()));
        }
        for node in 1..=4 {
            log.begin(node, 1);
        }
        log
    }

    fn apply(&mut self, command: &MetaCommand) -> MetaAnswer {
        self.index += 1;
        self.meta.apply(self.index, WallMs(0), command)
    }

    fn begin(&mut self, node: u32, start: u64) -> NodeEpoch {
        let answer = self.apply(&MetaCommand::Begin(Begin {
            node: NodeId(node),
            folder: FolderId(node.into()),
            start: StartCount(start),
            address: format!("n{node}:1"),
            level: FeatureLevel(3),
        }));
        match answer {
            MetaAnswer::Begun { epoch } => epoch,
            other => panic!("not begun: {other:?}"),
        }
    }

    fn start(&mut self, group: Group, voters: &[u32], learners: &[u32]) -> MetaAnswer {
        let expected = self.meta.placement(group).unwrap().version;
        self.apply(&start(group, expected, voters, learners, None))
    }

    fn end(&mut self, group: Group) -> MetaAnswer {
        let expected = self.meta.goal(group).unwrap().version;
        self.apply(&MetaCommand::EndMove { group, expected })
    }

    fn replica(&self, group: Group, node: u32) -> Option<RaftId> {
        self.meta.replica(group, NodeId(node))
    }
}

fn join(node: u32, folder: u128) -> MetaCommand {
    MetaCommand::Join(Join {
        node: Some(NodeId(node)),
        folder: FolderId(folder),
        level: FeatureLevel(3),
    })
}

fn nodes(nodes: &[u32]) -> Vec<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

fn start(
    group: Group,
    expected: u64,
    voters: &[u32],
    learners: &[u32],
    renewed: Option<u32>,
) -> MetaCommand {
    MetaCommand::StartMove(StartMove {
        group,
        expected,
        to: Placement {
            voters: nodes(voters),
            learners: nodes(learners),
        },
        renewed: renewed.map(NodeId),
    })
}

#[test]
fn a_move_becomes_the_placement_when_it_ends_and_leaves_what_is_to_be_deleted() {
    let mut log = Log::of_four();
    assert_eq!(log.replica(SHARD, 1), Some(RaftId(1)));
    assert_eq!(log.start(SHARD, &[2, 3, 4], &[]), MetaAnswer::Done);

    let placement = |log: &Log| log.meta.placement(SHARD).unwrap().placement.clone();
    assert_eq!(placement(&log).voters, nodes(&[1]), "until it ends");
    let goal = log.meta.goal(SHARD).unwrap();
    assert_eq!(goal.voters.len(), 3);
    assert!(goal.voters.iter().all(|id| id.0 > u64::from(u32::MAX)));
    assert_eq!(log.end(SHARD), MetaAnswer::Done);

    assert_eq!(placement(&log).voters, nodes(&[2, 3, 4]));
    assert_eq!(log.meta.goal(SHARD), None);
    assert_eq!(log.replica(SHARD, 1), None);
    let leftover = Leftover {
        node: NodeId(1),
        group: SHARD,
        replica: RaftId(1),
    };
    assert_eq!(
        log.meta.leftovers(NodeId(1)).collect::<Vec<_>>(),
        [leftover]
    );
    log.apply(&MetaCommand::Removed(leftover));
    assert_eq!(log.meta.leftovers(NodeId(1)).count(), 0);
}

#[test]
fn a_raft_id_is_never_given_again() {
    let mut log = Log::of_four();
    let mut given = std::collections::BTreeSet::from([RaftId(1)]);
    for turn in 0..20 {
        let voters: &[u32] = if turn % 2 == 0 { &[1, 2, 3] } else { &[1] };
        log.start(SHARD, voters, &[]);
        log.end(SHARD);
        for node in 2..=3 {
            if let Some(id) = log.replica(SHARD, node) {
                assert!(given.insert(id), "{id} was given again");
            }
        }
        if turn == 10 {
            log.apply(&MetaCommand::Recover {
                group: Group::Meta,
                expected: Incarnation(0),
            });
        }
    }
    assert_eq!(given.len(), 21);
}

#[test]
fn a_damaged_replica_gets_another_id_on_its_node() {
    let mut log = Log::of_four();
    log.start(SHARD, &[1, 2, 3], &[]);
    log.end(SHARD);
    let before = log.replica(SHARD, 3).unwrap();
    let version = log.meta.placement(SHARD).unwrap().version;

    let renew = start(SHARD, version, &[1, 2, 3], &[], Some(3));
    assert_eq!(log.apply(&renew), MetaAnswer::Done);
    assert_eq!(log.end(SHARD), MetaAnswer::Done);

    assert!(log.replica(SHARD, 3).unwrap() > before);
    let leftovers: Vec<_> = log.meta.leftovers(NodeId(3)).map(|l| l.replica).collect();
    assert_eq!(leftovers, [before]);
    let version = log.meta.placement(SHARD).unwrap().version;
    let nothing = log.apply(&start(SHARD, version, &[1, 2, 3], &[], None));
    assert!(matches!(nothing, MetaAnswer::Refused(Refusal::Invalid(_))));
    let nowhere = log.apply(&start(SHARD, version, &[1, 2, 3], &[], Some(4)));
    assert!(matches!(nowhere, MetaAnswer::Refused(Refusal::Invalid(_))));
}

#[test]
fn one_move_a_group_and_two_a_node_are_under_way() {
    let mut log = Log::of_four();
    let shard = |shard| Group::Shard(ShardId(shard));
    assert_eq!(log.start(shard(0), &[1], &[2]), MetaAnswer::Done);
    assert_eq!(
        log.start(shard(0), &[1], &[2]),
        MetaAnswer::Done,
        "a repeat"
    );
    assert_eq!(log.meta.layout().moves.len(), 1);
    assert!(matches!(
        log.start(shard(0), &[1], &[3]),
        MetaAnswer::Refused(Refusal::Moving { .. })
    ));
    assert_eq!(log.start(Group::Meta, &[1, 2, 3], &[]), MetaAnswer::Done);
    let busy = Refusal::Busy {
        node: NodeId(2),
        limit: 2,
    };
    assert_eq!(busy.to_string(), "2 moves touch node 2 already");
    assert_eq!(
        log.start(shard(1), &[1, 2, 4], &[]),
        MetaAnswer::Refused(busy)
    );
    assert_eq!(log.start(shard(1), &[1], &[3]), MetaAnswer::Done);

    log.end(Group::Meta);
    assert_eq!(log.start(shard(2), &[1], &[2]), MetaAnswer::Done);
}

#[test]
fn rows_are_ended_only_by_who_has_read_them() {
    let mut log = Log::of_four();
    log.start(SHARD, &[1, 2, 3], &[]);
    let expected = log.meta.goal(SHARD).unwrap().version;
    let abort = MetaCommand::AbortMove {
        group: SHARD,
        expected,
    };
    let end = MetaCommand::EndMove {
        group: SHARD,
        expected,
    };
    assert_eq!(log.apply(&abort), MetaAnswer::Done);
    assert_eq!(log.apply(&abort), MetaAnswer::Done, "a repeat");

    // A leader of before, that has not seen it given up.
    let late = log.apply(&end);
    assert!(matches!(late, MetaAnswer::Refused(Refusal::Changed { .. })));
    let goal = log.meta.goal(SHARD).unwrap();
    assert!(goal.is_aborted);
    assert_eq!(goal.voters, [RaftId(1)].into());
    assert_eq!(log.end(SHARD), MetaAnswer::Done);
    assert_eq!(log.apply(&end), MetaAnswer::Done, "there is nothing to end");
    let row = log.meta.placement(SHARD).unwrap();
    assert_eq!(row.placement.voters, nodes(&[1]));
    assert_eq!(
        log.meta.leftovers(NodeId(2)).count(),
        1,
        "a learner may lie there"
    );
}

#[test]
fn a_row_that_moves_is_given_no_other_order() {
    let mut log = Log::of_four();
    log.start(SHARD, &[1, 2, 3], &[]);
    log.end(SHARD);
    let expected = log.meta.placement(SHARD).unwrap().version;
    log.start(SHARD, &[1, 2, 4], &[]);

    let place = log.apply(&MetaCommand::Place {
        shard: ShardId(0),
        expected,
        placement: Placement {
            voters: nodes(&[2, 1, 3]),
            learners: Vec::new(),
        },
    });
    assert!(matches!(place, MetaAnswer::Refused(Refusal::Moving { .. })));
}

#[test]
fn a_member_that_leaves_gets_nothing_and_goes_when_it_holds_nothing() {
    let mut log = Log::of_four();
    let node = NodeId(4);
    let leave = MetaCommand::Leave { node };
    log.start(SHARD, &[1, 2, 4], &[]);
    let epoch = log.meta.member(node).unwrap().epoch.unwrap();
    let reason = EndReason::Stopped;
    log.apply(&MetaCommand::End { epoch, reason });
    assert_eq!(log.meta.node_states()[&node], NodeState::Away);
    let needed = MetaAnswer::Refused(Refusal::StillNeeded(node));
    assert_eq!(log.apply(&leave), needed, "a move brings it a replica");
    log.end(SHARD);
    assert_eq!(log.apply(&leave), needed);

    let is_leaving = true;
    log.apply(&MetaCommand::Drain { node, is_leaving });
    assert_eq!(log.meta.node_states()[&node], NodeState::Gone);
    for node in [NodeId(2), NodeId(3)] {
        let drained = log.apply(&MetaCommand::Drain { node, is_leaving });
        assert_eq!(drained, MetaAnswer::Done);
    }
    let last = MetaCommand::Drain {
        node: NodeId(1),
        is_leaving,
    };
    let refused = MetaAnswer::Refused(Refusal::Invalid("nobody else would stay"));
    assert_eq!(log.apply(&last), refused);
    for node in [NodeId(2), NodeId(3)] {
        let is_leaving = false;
        log.apply(&MetaCommand::Drain { node, is_leaving });
    }
    let refused = log.start(Group::Shard(ShardId(1)), &[1], &[4]);
    assert_eq!(refused, MetaAnswer::Refused(Refusal::Leaving(node)));
    log.start(SHARD, &[1, 2, 3], &[]);
    log.end(SHARD);
    assert_eq!(log.meta.leftovers(node).count(), 1);
    assert_eq!(log.apply(&leave), MetaAnswer::Done);
    assert_eq!(log.meta.leftovers(node).count(), 0);
    assert_eq!(log.meta.node_states().get(&node), None);
}

#[test]
fn epochs_of_several_nodes_begin_and_end_by_themselves() {
    let mut log = Log::of_four();
    let epoch = |log: &Log, node| log.meta.member(NodeId(node)).unwrap().epoch;
    let before: Vec<_> = (1..=4).map(|node| epoch(&log, node).unwrap()).collect();
    assert!(before.is_sorted());
    assert_eq!(log.meta.epochs().current.len(), 4);

    let again = log.begin(2, 2);
    let reason = EndReason::Dead;
    log.apply(&MetaCommand::End {
        epoch: before[2],
        reason,
    });

    let current = [before[0], before[3], again].into();
    assert_eq!(log.meta.epochs().current, current);
    assert_eq!(log.meta.standing(before[1]), Standing::Ended);
    assert_eq!(log.meta.standing(before[2]), Standing::Ended);
    assert_eq!(log.meta.node_of(again), Some(NodeId(2)));
    assert_eq!(epoch(&log, 3), None);
}

#[test]
fn a_peer_of_another_cluster_level_or_folder_is_told_why() {
    let log = Log::of_four();
    let hello = |cluster: Option<u128>, node: Option<u32>, folder, level| {
        let hello = Hello {
            cluster: cluster.map(FolderId),
            node: node.map(NodeId),
            folder: FolderId(folder),
            level: FeatureLevel(level),
        };
        log.meta.check_hello(&hello).map_err(|why| why.to_string())
    };
    let why = |text: &str| Err(text.to_owned());

    assert_eq!(hello(Some(1), Some(2), 2, 3), Ok(()));
    assert_eq!(hello(None, None, 77, 4), Ok(()));
    assert_eq!(hello(None, Some(9), 77, 3), Ok(()));
    let other = "the node belongs to cluster 000000000000000000000000000000ff, \
                 this is cluster 00000000000000000000000000000001";
    assert_eq!(hello(Some(255), Some(2), 2, 3), why(other));
    let low = "feature level 2 is below the cluster's 3";
    assert_eq!(hello(Some(1), Some(2), 2, 2), why(low));
    let reused = "node 2 belongs to another data folder";
    assert_eq!(hello(None, Some(2), 77, 3), why(reused));
    let taken = "the data folder belongs to node 2";
    assert_eq!(hello(Some(1), Some(3), 2, 3), why(taken));
    assert_eq!(hello(Some(1), Some(9), 77, 3), why("node 9 is no member"));
}

#[test]
fn a_restored_layout_goes_on_and_a_lone_nodes_is_made_up() {
    let mut log = Log::of_four();
    assert!(log.meta.is_layout_plain());
    log.start(SHARD, &[1, 2, 3], &[]);
    assert!(!log.meta.is_layout_plain());
    let (state, layout) = (log.meta.state(), log.meta.layout().clone());
    assert_eq!(layout.fault(&state), None);

    let restored = Meta::restore(
        state.clone(),
        Some(layout),
        None,
        BTreeMap::new(),
        mqtt::Templates::default(),
    );
    assert_eq!(restored.goal(SHARD), log.meta.goal(SHARD));
    let alone = Meta::restore(
        state,
        None,
        None,
        BTreeMap::new(),
        mqtt::Templates::default(),
    );
    assert_eq!(alone.replica(Group::Routes, NodeId(1)), Some(RaftId(1)));
    assert_eq!(alone.placements().count(), 6);
}

#[test]
fn a_layout_that_does_not_fit_the_state_is_found() {
    let mut log = Log::of_four();
    log.start(SHARD, &[1, 2, 3], &[]);
    let (state, sound) = (log.meta.state(), log.meta.layout().clone());
    let fault = |harm: fn(&mut Layout)| {
        let mut layout = sound.clone();
        harm(&mut layout);
        layout.fault(&state).is_some()
    };

    assert!(fault(|layout| layout.system.clear()));
    assert!(fault(|layout| drop(layout.replicas.remove(&SHARD))));
    assert!(fault(|layout| layout
        .replicas
        .get_mut(&SHARD)
        .unwrap()
        .clear()));
    assert!(fault(|layout| layout
        .moves
        .get_mut(&SHARD)
        .unwrap()
        .replicas
        .clear()));
    assert!(fault(|layout| {
        let row = layout.moves[&SHARD].clone();
        layout.moves.insert(Group::Shard(ShardId(9)), row);
    }));
}
