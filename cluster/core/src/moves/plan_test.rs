//! Whole clusters that grow, shrink and lose nodes, while steps are lost, repeated and cut short.

use rand::Rng;

use super::world::World;
use crate::{Group, MetaAnswer, MetaCommand, NodeId};

#[test]
fn a_cluster_grows_from_one_node_to_four() {
    let mut world = World::founded(0, 8);
    world.settle();
    assert_eq!(world.started, 0);
    world.join(2);
    world.settle();
    assert_eq!(world.started, 10, "a learner for each group");
    world.join(3);
    world.settle();
    assert_eq!(world.started, 20, "one move for each group");
    world.join(4);
    world.settle();
    let (quarter, learners) = (6, 2);
    assert_eq!(world.started, 20 + quarter + learners);
}

#[test]
fn two_nodes_that_join_at_once_come_in_by_one_joint_change() {
    let mut world = World::founded(0, 8);
    world.join(2);
    world.join(3);
    world.settle();
    assert_eq!(world.started, 10);
}

#[test]
fn a_node_that_drains_holds_nothing_and_may_leave() {
    let mut world = World::founded(3, 8);
    (2..=4).for_each(|node| world.join(node));
    world.settle();
    let (node, is_leaving) = (NodeId(1), true);
    world.apply(&MetaCommand::Drain { node, is_leaving });
    world.settle();
    let holds = |world: &World| {
        let groups = world.groups.keys().copied();
        let held = groups.filter(|group| world.meta.replica(*group, node).is_some());
        held.collect::<Vec<_>>()
    };
    assert_eq!(holds(&world), [Group::Meta, Group::Routes], "it follows");
    // Its bucket is another matter.
    let bucket = crate::BucketId(0);
    let expected = world.meta.bucket(bucket).unwrap().epoch;
    let owner = NodeId(2);
    world.apply(&MetaCommand::Assign {
        bucket,
        expected,
        owner,
    });
    world.end(1);
    for _ in 0..100 {
        world.step();
    }
    assert_eq!(holds(&world), []);
    assert_eq!(world.apply(&MetaCommand::Leave { node }), MetaAnswer::Done);
}

#[test]
fn no_move_begins_to_a_node_that_is_away() {
    let mut world = World::founded(0, 4);
    world.join(2);
    world.end(2);
    assert_eq!(super::plan(&world.meta), []);
    world.begin(2);
    assert!(!super::plan(&world.meta).is_empty());
}

#[test]
fn whatever_fails_the_groups_get_where_they_are_wanted() {
    let (mut aborted, mut restarts) = (0, 0);
    for seed in 0..40 {
        let mut world = World::founded(seed, 5);
        let mut joined = 1;
        let mut drained = None;
        world.faults = true;
        for _ in 0..400 {
            world.step();
            match world.rng.random_range(0..100) {
                0..4 if joined < 6 => {
                    joined += 1;
                    world.join(joined);
                }
                4..9 => {
                    // So short that nothing is given up, or for minutes.
                    let node = world.rng.random_range(1..=joined);
                    world.end(node);
                    restarts += 1;
                    if world.rng.random_bool(0.3) {
                        world.now = world.now.plus_ms(61_000);
                    }
                    for _ in 0..world.rng.random_range(0..20) {
                        world.step();
                    }
                    world.begin(node);
                }
                9 if joined > 3 && drained.is_none() => {
                    let node = NodeId(world.rng.random_range(1..=joined));
                    let is_leaving = true;
                    world.apply(&MetaCommand::Drain { node, is_leaving });
                    drained = Some(node);
                }
                _ => {}
            }
        }
        world.settle();
        let is_abort = |effect: &&super::MoveEffect| {
            matches!(
                effect,
                super::MoveEffect::Propose(MetaCommand::AbortMove { .. })
            )
        };
        aborted += world.effects.iter().filter(is_abort).count();
    }
    println!("{aborted} moves given up, {restarts} nodes restarted");
    assert!(aborted > 0 && restarts > 0, "nothing was put to the test");
}

/// The groups of the moves that would begin now, and where to.
fn planned(world: &World) -> Vec<(Group, crate::Placement)> {
    let moves = super::plan(&world.meta).into_iter();
    let moves = moves.filter_map(|command| match command {
        MetaCommand::StartMove(start) => Some((start.group, start.to)),
        _ => None,
    });
    moves.collect()
}

#[test]
fn a_node_learns_meta_and_the_routes_before_any_shard_goes_there() {
    let mut world = World::founded(0, 8);
    world.join(2);
    world.join(3);
    let moves = planned(&world);
    let groups: Vec<Group> = moves.iter().map(|(group, _)| *group).collect();
    assert_eq!(groups, [Group::Meta, Group::Routes]);
    world.settle();
    assert_eq!(planned(&world), []);
    let shard = Group::Shard(crate::ShardId(0));
    let row = world.meta.placement(shard).unwrap();
    assert_eq!(row.placement.voters.len(), 3);
}

#[test]
fn a_node_that_runs_learns_meta_although_another_one_has_joined_and_does_not_run() {
    let mut world = World::founded(0, 8);
    world.join(2);
    world.end(2);
    world.join(3);
    for (group, to) in planned(&world) {
        assert!(matches!(group, Group::Meta | Group::Routes), "{group:?}");
        assert_eq!(to.voters, [NodeId(1)], "who is away is waited for");
        assert_eq!(to.learners, [NodeId(3)]);
    }
    for _ in 0..1_000 {
        world.step();
    }
    assert!(world.meta.replica(Group::Meta, NodeId(3)).is_some());
    assert!(world.meta.replica(Group::Routes, NodeId(3)).is_some());
    world.begin(2);
    world.settle();
    let row = world.meta.placement(Group::Meta).unwrap();
    assert_eq!(row.placement.voters.len(), 3);
}
