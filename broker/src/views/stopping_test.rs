use admin::health::{Led, Vitals};
use cluster::member::{GroupRow, MemberRow, MemberStatus, Moving};
use cluster_core::{Group, NodeEpoch, NodeId, ShardId};

use super::super::vitals::Said;
use super::super::vitals_test::vitals;
use super::*;

const SHARD: Group = Group::Shard(ShardId(3));

fn status(nodes: u32) -> MemberStatus {
    let row = |node: u32| MemberRow {
        epoch: Some(NodeEpoch(u64::from(node))),
        is_heard: true,
        ..MemberRow::default()
    };
    let group = || GroupRow {
        voters: (1..=nodes.min(3)).map(NodeId).collect(),
        leader: Some(NodeId(1)),
        ..GroupRow::default()
    };
    MemberStatus {
        node: NodeId(1),
        members: (1..=nodes).map(|node| (NodeId(node), row(node))).collect(),
        groups: [Group::Meta, SHARD].map(|of| (of, group())).into(),
        ..MemberStatus::default()
    }
}

fn said(nodes: u32, change: impl Fn(u32, &mut Vitals)) -> Said {
    let one = |node: u32| {
        let mut vitals = vitals(node);
        change(node, &mut vitals);
        (NodeId(node), Ok(vitals))
    };
    (1..=nodes).map(one).collect()
}

fn reasons(node: u32, status: &MemberStatus, said: &Said) -> String {
    let answer = safe_to_stop(NodeId(node), status, said);
    assert_eq!(answer.safe, answer.reasons.is_empty());
    answer.reasons.join("\n")
}

#[test]
fn one_of_three_that_all_serve_may_be_stopped() {
    for node in 1..=3 {
        assert_eq!(reasons(node, &status(3), &said(3, |_, _| {})), "");
    }
}

#[test]
fn alone_or_of_two_every_node_is_needed() {
    let why = reasons(1, &status(1), &said(1, |_, _| {}));
    assert_eq!(
        why,
        "meta, shard 3: without node 1 0 of 1 voters are left, 1 are needed"
    );
    let why = reasons(2, &status(2), &said(2, |_, _| {}));
    assert!(
        why.contains("1 of 2 voters are left, 2 are needed"),
        "{why}"
    );
}

#[test]
fn a_second_node_away_is_one_too_many() {
    let mut status = status(3);
    status
        .members
        .entry(NodeId(3))
        .and_modify(|row| row.epoch = None);
    let mut said = said(3, |_, _| {});
    said.insert(NodeId(3), Err("gone".into()));
    let why = reasons(2, &status, &said);
    assert!(why.contains("node 3 is away already"), "{why}");
    assert!(why.contains("1 of 3 voters are left"), "{why}");
    // The one that is away may be stopped as far as the groups go, but it holds what nobody knows.
    let why = reasons(3, &status, &said);
    assert_eq!(why, "node 3 does not say what it holds: gone");
}

#[test]
fn a_node_that_says_nothing_is_not_counted_on_although_nobody_misses_it_yet() {
    let mut said = said(3, |_, _| {});
    said.insert(NodeId(3), Err("gone".into()));
    let why = reasons(2, &status(3), &said);
    assert!(why.contains("node 3 is away already"), "{why}");
    assert!(why.contains("1 of 3 voters are left"), "{why}");
}

#[test]
fn a_replica_that_is_far_behind_does_not_count() {
    let behind = |lag| {
        said(3, move |node, vitals| {
            if node == 1 {
                vitals.led = vec![Led {
                    group: "3".into(),
                    lags: vec![(2, lag), (3, 0)],
                }];
            }
        })
    };
    let why = reasons(1, &status(3), &behind(LAG_MAX));
    assert_eq!(
        why,
        format!("shard 3: node 2 is {LAG_MAX} entries behind; wait until it has caught up")
    );
    assert_eq!(reasons(1, &status(3), &behind(LAG_MAX - 1)), "");
    // The one that is behind is not missed.
    assert_eq!(reasons(2, &status(3), &behind(LAG_MAX)), "");
}

#[test]
fn a_move_and_a_missing_leader_are_waited_for() {
    let mut moving = status(3);
    moving
        .groups
        .entry(SHARD)
        .and_modify(|row| row.moving = Some(Moving::default()));
    let why = reasons(2, &moving, &said(3, |_, _| {}));
    assert!(why.starts_with("shard 3: it is being moved"), "{why}");
    let mut unled = status(3);
    unled
        .groups
        .entry(SHARD)
        .and_modify(|row| row.leader = None);
    let why = reasons(2, &unled, &said(3, |_, _| {}));
    assert_eq!(why, "shard 3: nobody leads it");
}

#[test]
fn what_others_wait_for_on_its_disk_is_a_reason_and_its_clients_are_a_note() {
    let said = said(3, |node, vitals| {
        if node == 2 {
            vitals.unread = vec![(2, 9), (3, 7), (1, 0)];
            vitals.spooled = 5;
            vitals.report.connections = 4;
            vitals.buckets_with_rows = 6;
        }
    });
    let answer = safe_to_stop(NodeId(2), &status(3), &said);
    assert_eq!(answer.reasons.len(), 2, "{:?}", answer.reasons);
    assert!(answer.reasons[0].contains("7 records that node 3 has not read"));
    assert!(answer.reasons[1].contains("spool has 5 records"));
    assert_eq!(answer.notes.len(), 2, "{:?}", answer.notes);
    assert!(safe_to_stop(NodeId(1), &status(3), &said).safe);
}

#[test]
fn groups_are_named_in_the_order_of_their_numbers() {
    let names = |all: &[&str]| {
        let all: Vec<String> = all.iter().map(|one| (*one).to_owned()).collect();
        named(&all)
    };
    assert_eq!(names(&["meta", "10", "9"]), "meta, shards 9 10");
    assert_eq!(names(&["7"]), "shard 7");
    let all = ["1", "0", "3", "2", "9", "12", "11"];
    assert_eq!(names(&all), "shards 0-3 9 11 12");
}
