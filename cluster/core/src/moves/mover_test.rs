//! One move, step by step.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{BootMs, Group, MetaCommand, NodeId, RaftId, ShardId};

const GROUP: Group = Group::Shard(ShardId(3));
const T0: BootMs = BootMs(7_000);

fn ids(ids: &[u64]) -> BTreeSet<RaftId> {
    ids.iter().copied().map(RaftId).collect()
}

fn members(voters: &[u64], learners: &[u64]) -> Membership {
    Membership {
        is_committed: true,
        voters: ids(voters),
        joint: None,
        learners: ids(learners),
    }
}

/// To these voters and learners; replica 10·n and 10·n + 1 are on node n.
fn goal(voters: &[u64], learners: &[u64]) -> Goal {
    let all = (1..6_u32).flat_map(|n| [(u64::from(n) * 10, n), (u64::from(n) * 10 + 1, n)]);
    let nodes: BTreeMap<RaftId, NodeId> = all.map(|(id, n)| (RaftId(id), NodeId(n))).collect();
    Goal {
        group: GROUP,
        version: 5,
        is_aborted: false,
        leader: voters.first().map(|id| RaftId(*id)),
        voters: ids(voters),
        learners: ids(learners),
        nodes,
    }
}

fn add(replica: u64) -> MoveEffect {
    MoveEffect::AddLearner {
        group: GROUP,
        node: NodeId(replica as u32 / 10),
        replica: RaftId(replica),
    }
}

fn change(voters: &[u64]) -> MoveEffect {
    let voters = ids(voters);
    MoveEffect::ChangeMembership {
        group: GROUP,
        voters,
    }
}

fn remove(replicas: &[u64]) -> MoveEffect {
    let replicas = ids(replicas);
    MoveEffect::RemoveReplicas {
        group: GROUP,
        replicas,
    }
}

fn end() -> MoveEffect {
    let (group, expected) = (GROUP, 5);
    MoveEffect::Propose(MetaCommand::EndMove { group, expected })
}

fn abort() -> MoveEffect {
    let (group, expected) = (GROUP, 5);
    MoveEffect::Propose(MetaCommand::AbortMove { group, expected })
}

/// What a leader that has only these members and lags does next: every step, as whoever takes it
/// up after a crash sees it.
fn next(goal: &Goal, me: u64, membership: Membership, lags: &[(u64, u64)]) -> Option<MoveEffect> {
    let mut mover = Mover::new(goal.clone(), RaftId(me), membership);
    for (id, lag) in lags {
        mover.handle_lag(RaftId(*id), *lag);
    }
    mover.poll_effect(T0)
}

#[test]
fn a_voter_is_replaced_by_learner_joint_change_and_removal() {
    let goal = goal(&[10, 20, 40], &[]);
    let from = members(&[10, 20, 30], &[]);
    let learning = members(&[10, 20, 30], &[40]);

    assert_eq!(next(&goal, 10, from, &[]), Some(add(40)));
    assert_eq!(
        next(&goal, 10, learning.clone(), &[]),
        None,
        "its lag is unknown"
    );
    assert_eq!(next(&goal, 10, learning.clone(), &[(40, 1_000)]), None);
    let changing = next(&goal, 10, learning, &[(40, 999)]);
    assert_eq!(changing, Some(change(&[10, 20, 40])));
    let joint = Membership {
        joint: Some(ids(&[10, 20, 40])),
        ..members(&[10, 20, 30], &[])
    };
    assert_eq!(next(&goal, 10, joint, &[]), Some(change(&[10, 20, 40])));
    let changed = members(&[10, 20, 40], &[30]);
    assert_eq!(next(&goal, 10, changed, &[]), Some(remove(&[30])));
    assert_eq!(
        next(&goal, 10, members(&[10, 20, 40], &[]), &[]),
        Some(end())
    );
}

#[test]
fn a_lone_voter_gets_two_others_by_one_joint_change() {
    let goal = goal(&[10, 20, 30], &[]);
    let two = members(&[10], &[20, 30]);

    assert_eq!(next(&goal, 10, members(&[10], &[]), &[]), Some(add(20)));
    assert_eq!(
        next(&goal, 10, members(&[10], &[20]), &[(20, 0)]),
        Some(add(30))
    );
    assert_eq!(
        next(&goal, 10, two.clone(), &[(20, 0)]),
        None,
        "one is behind"
    );
    let changing = next(&goal, 10, two, &[(20, 0), (30, 7)]);
    assert_eq!(changing, Some(change(&[10, 20, 30])));
}

#[test]
fn on_two_nodes_a_learner_is_all() {
    let goal = goal(&[10], &[20]);

    assert_eq!(next(&goal, 10, members(&[10], &[]), &[]), Some(add(20)));
    assert_eq!(next(&goal, 10, members(&[10], &[20]), &[]), Some(end()));
}

#[test]
fn a_damaged_replica_comes_back_under_another_id() {
    let goal = goal(&[10, 20, 31], &[]);

    assert_eq!(
        next(&goal, 10, members(&[10, 20, 30], &[]), &[]),
        Some(add(31))
    );
    let learning = members(&[10, 20, 30], &[31]);
    let changing = next(&goal, 10, learning, &[(31, 3)]);
    assert_eq!(changing, Some(change(&[10, 20, 31])));
}

#[test]
fn a_leader_that_is_to_go_hands_over_first_if_it_can() {
    let staying = goal(&[20, 30, 40], &[]);
    let learning = members(&[10, 20, 30], &[40]);
    let transfer = MoveEffect::TransferLeader {
        group: GROUP,
        to: RaftId(20),
    };

    assert_eq!(next(&staying, 10, learning, &[(40, 0)]), Some(transfer));
    // Nobody of those who vote stays.
    let alone = goal(&[20], &[]);
    let learning = members(&[10], &[20]);
    assert_eq!(next(&alone, 10, learning, &[(20, 0)]), Some(change(&[20])));
}

#[test]
fn a_move_waits_a_minute_for_a_node_that_is_away_then_it_is_given_up() {
    let mut mover = Mover::new(
        goal(&[10, 20, 40], &[]),
        RaftId(10),
        members(&[10, 20, 30], &[40]),
    );
    mover.handle_lag(RaftId(40), 0);
    mover.handle_away(NodeId(4), T0);
    assert_eq!(mover.poll_effect(T0.plus_ms(59_999)), None);
    assert_eq!(mover.poll_effect(T0.plus_ms(60_000)), Some(abort()));

    mover.handle_back(NodeId(4));
    assert_eq!(
        mover.poll_effect(T0.plus_ms(70_000)),
        None,
        "its lag is old"
    );
    mover.handle_lag(RaftId(40), 5);
    assert_eq!(
        mover.poll_effect(T0.plus_ms(70_000)),
        Some(change(&[10, 20, 40]))
    );
}

#[test]
fn what_was_given_up_is_taken_back() {
    let back = Goal {
        is_aborted: true,
        ..goal(&[10, 20, 30], &[])
    };

    assert_eq!(
        next(&back, 10, members(&[10, 20, 30], &[40]), &[]),
        Some(remove(&[40]))
    );
    assert_eq!(
        next(&back, 10, members(&[10, 20, 30], &[]), &[]),
        Some(end())
    );
}

#[test]
fn nothing_follows_from_a_change_that_is_not_committed() {
    let uncommitted = Membership {
        is_committed: false,
        ..members(&[10], &[20])
    };

    assert_eq!(next(&goal(&[10], &[20]), 10, uncommitted, &[]), None);
}

#[test]
fn a_joint_change_is_never_given_up() {
    let joint = Membership {
        joint: Some(ids(&[10, 20, 40])),
        ..members(&[10, 20, 30], &[])
    };
    let mut mover = Mover::new(goal(&[10, 20, 40], &[]), RaftId(10), joint);
    mover.handle_away(NodeId(4), T0);

    let later = T0.plus_ms(600_000);
    assert_eq!(mover.poll_effect(later), Some(change(&[10, 20, 40])));
}

#[test]
fn a_step_is_asked_for_again_until_the_members_show_it() {
    let mut mover = Mover::new(goal(&[10], &[20]), RaftId(10), members(&[10], &[]));
    assert_eq!(mover.poll_effect(T0), Some(add(20)));
    assert_eq!(mover.poll_effect(T0.plus_ms(1_999)), None);
    assert_eq!(mover.poll_effect(T0.plus_ms(2_000)), Some(add(20)));

    mover.handle_membership(members(&[10], &[20]));

    assert_eq!(mover.poll_effect(T0.plus_ms(2_001)), Some(end()));
}
