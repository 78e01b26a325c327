//! Shards that go on with what one replica has.

use super::test_log::Log;
use super::*;
use crate::{RaftId, plan};

const SHARD: ShardId = ShardId(0);
const GROUP: Group = Group::Shard(SHARD);

impl Log {
    fn row(&self) -> ShardRow {
        self.meta.shard(SHARD).unwrap().clone()
    }

    fn replica(&self, node: NodeId) -> RaftId {
        self.meta.replica(GROUP, node).unwrap()
    }

    fn start(&mut self, to: Placement, renewed: Option<NodeId>) -> MetaAnswer {
        self.apply(&MetaCommand::StartMove(StartMove {
            group: GROUP,
            expected: self.row().version,
            to,
            renewed,
        }))
    }

    /// The shard's voters, of which all but the first have died.
    fn lost() -> (Self, [NodeId; 3]) {
        let mut log = Self::of(5);
        let voters: [NodeId; 3] = log.row().placement.voters.try_into().unwrap();
        voters[1..].iter().for_each(|node| log.end(*node));
        (log, voters)
    }

    fn recover(&mut self, expected: u64, node: NodeId) -> MetaAnswer {
        self.apply(&recover(expected, node))
    }
}

fn recover(expected: u64, node: NodeId) -> MetaCommand {
    MetaCommand::RecoverShard(RecoverShard {
        shard: SHARD,
        expected,
        node,
    })
}

fn incarnation(n: u16) -> MetaAnswer {
    let incarnation = Incarnation(n);
    MetaAnswer::Recovered { incarnation }
}

#[test]
fn a_recovered_shard_has_one_voter_under_an_id_that_nobody_had() {
    let (mut log, [survivor, ..]) = Log::lost();
    let (before, from) = (log.row(), log.replica(survivor));
    let all: Vec<Leftover> = log.meta.layout().replicas[&GROUP]
        .iter()
        .map(|(node, replica)| Leftover {
            node: *node,
            group: GROUP,
            replica: *replica,
        })
        .collect();

    assert_eq!(log.recover(before.version, survivor), incarnation(1));

    assert_eq!(log.row().placement.voters, [survivor]);
    assert!(log.row().version > before.version);
    assert_eq!(log.meta.incarnation(GROUP), Incarnation(1));
    let replica = log.replica(survivor);
    assert!(all.iter().all(|old| old.replica != replica));
    let recovered = log.meta.recovery_of(GROUP, survivor).unwrap();
    assert_eq!((recovered.from, recovered.replica), (from, replica));
    // The lost replicas are deleted once their nodes are back; the survivor's becomes the new one.
    for old in all {
        let is_left = log.meta.layout().leftovers.contains(&old);
        assert_eq!(is_left, old.node != survivor);
    }
    let state = log.meta.state();
    assert_eq!(log.meta.layout().fault(&state), None);
    assert_eq!(state.fault_of_recovered(log.meta.recovered()), None);
}

#[test]
fn a_repeat_is_answered_as_the_first_and_changes_nothing() {
    let (mut log, [survivor, other, _]) = Log::lost();
    let version = log.row().version;
    log.recover(version, survivor);
    let (row, replica) = (log.row(), log.replica(survivor));

    assert_eq!(log.recover(version, survivor), incarnation(1));

    assert_eq!((log.row(), log.replica(survivor)), (row.clone(), replica));
    assert_eq!(log.meta.incarnation(GROUP), Incarnation(1));
    // Who wanted another survivor is told that he was too late.
    let current = row.version;
    let late = MetaAnswer::Refused(Refusal::Changed { current });
    assert_eq!(log.recover(version, other), late);
}

#[test]
fn a_shard_with_its_majority_is_not_recovered() {
    let mut log = Log::of(5);
    let row = log.row();
    let [survivor, second, third] = row.placement.voters[..] else {
        panic!("three voters");
    };
    let not_lost = |alive| MetaAnswer::Refused(Refusal::NotLost { alive, voters: 3 });
    assert_eq!(log.recover(row.version, survivor), not_lost(3));
    log.end(second);
    assert_eq!(log.recover(row.version, survivor), not_lost(2));
    log.end(third);
    assert_eq!(log.recover(row.version, survivor), incarnation(1));
    // Nor is one that was recovered: its only voter runs.
    let again = log.row().version;
    let refusal = Refusal::NotLost {
        alive: 1,
        voters: 1,
    };
    let refused = MetaAnswer::Refused(refusal);
    assert_eq!(log.recover(again, survivor), refused);
}

#[test]
fn only_a_node_that_runs_and_has_a_replica_survives() {
    let (mut log, voters) = Log::lost();
    let version = log.row().version;
    let stranger = (1..=5).map(NodeId).find(|node| !voters.contains(node));
    let stranger = stranger.unwrap();
    let refused = |why| MetaAnswer::Refused(why);

    let none = refused(Refusal::HoldsNone(stranger));
    assert_eq!(log.recover(version, stranger), none);
    let away = refused(Refusal::Away(voters[1]));
    assert_eq!(log.recover(version, voters[1]), away);
    let nobody = refused(Refusal::NoMember(NodeId(9)));
    assert_eq!(log.recover(version, NodeId(9)), nobody);
    let current = version;
    let changed = refused(Refusal::Changed { current });
    assert_eq!(log.recover(version + 1, voters[0]), changed);
    assert_eq!(log.row().version, version);
}

#[test]
fn a_recovery_ends_the_move_and_the_pin_of_its_shard() {
    let mut log = Log::of(5);
    let row = log.row();
    let voters = row.placement.voters.clone();
    let mut others = (1..=5).map(NodeId).filter(|node| !voters.contains(node));
    let to = others.next().unwrap();
    let pinned = log.apply(&MetaCommand::Pin(Pin {
        shard: SHARD,
        expected: row.version,
        from: voters[2],
        to,
    }));
    assert_eq!(pinned, MetaAnswer::Done);
    for command in plan(&log.meta) {
        log.apply(&command);
    }
    let brought = log.meta.layout().moves[&GROUP].replicas[&to];
    voters[1..].iter().for_each(|node| log.end(*node));

    assert_eq!(log.recover(row.version, voters[0]), incarnation(1));

    assert!(!log.meta.layout().moves.contains_key(&GROUP));
    assert!(!log.meta.pins().contains_key(&SHARD));
    let leftover = Leftover {
        node: to,
        group: GROUP,
        replica: brought,
    };
    assert!(log.meta.layout().leftovers.contains(&leftover));
}

#[test]
fn the_planner_brings_a_recovered_shard_to_three_nodes_that_run() {
    let (mut log, [survivor, second, third]) = Log::lost();
    let version = log.row().version;
    log.recover(version, survivor);

    log.settle();

    let voters = log.row().placement.voters;
    assert_eq!(voters.len(), 3);
    assert!(voters.contains(&survivor));
    assert!(!voters.contains(&second) && !voters.contains(&third));
    // Lost nodes that come back change nothing about who has which replica of it.
    log.begin(second);
    log.begin(third);
    log.settle();
    let stale = log.meta.recovery_of(GROUP, second);
    assert_eq!(stale, None);
}

#[test]
fn a_shard_that_may_be_its_new_voters_already_is_lost_with_these() {
    let mut log = Log::of(5);
    let row = log.row();
    let old = &row.placement.voters;
    let new = (1..=5).map(NodeId).filter(|node| !old.contains(node));
    let new: Vec<NodeId> = new.collect();
    let to = Placement {
        voters: vec![old[0], new[0], new[1]],
        learners: Vec::new(),
    };
    assert_eq!(log.start(to, None), MetaAnswer::Done);
    new.iter().for_each(|node| log.end(*node));

    assert_eq!(log.recover(row.version, old[0]), incarnation(1));
}

#[test]
fn of_a_node_whose_replica_is_being_renewed_the_new_one_survives_unless_that_was_given_up() {
    for is_aborted in [false, true] {
        let mut log = Log::of(5);
        let row = log.row();
        let voters = &row.placement.voters;
        let before = log.replica(voters[0]);
        let started = log.start(row.placement.clone(), Some(voters[0]));
        assert_eq!(started, MetaAnswer::Done);
        let moving = &log.meta.layout().moves[&GROUP];
        let (renewed, expected) = (moving.replicas[&voters[0]], moving.version);
        assert_ne!(renewed, before);
        if is_aborted {
            let group = GROUP;
            log.apply(&MetaCommand::AbortMove { group, expected });
        }
        voters[1..].iter().for_each(|node| log.end(*node));

        assert_eq!(log.recover(row.version, voters[0]), incarnation(1));

        let from = log.meta.recovered()[&SHARD].from;
        assert_eq!(from, if is_aborted { before } else { renewed });
    }
}
