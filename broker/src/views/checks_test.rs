use admin::cluster::RestartReport;
use admin::health::{Disk, Led};
use cluster::member::{GroupRow, MemberRow};
use cluster_core::{Group, NodeEpoch, ShardId};

use super::super::vitals_test::vitals;
use super::*;

fn status(nodes: u32) -> MemberStatus {
    let row = |node: u32| MemberRow {
        epoch: Some(NodeEpoch(u64::from(node))),
        is_heard: true,
        ..MemberRow::default()
    };
    let meta = GroupRow {
        voters: (1..=nodes).map(NodeId).collect(),
        leader: Some(NodeId(1)),
        ..GroupRow::default()
    };
    MemberStatus {
        node: NodeId(1),
        members: (1..=nodes).map(|node| (NodeId(node), row(node))).collect(),
        groups: [(Group::Meta, meta)].into(),
        ..MemberStatus::default()
    }
}

fn said() -> Said {
    (1..=3)
        .map(|node| (NodeId(node), Ok(vitals(node))))
        .collect()
}

/// What is not good, one a line.
fn bad(status: &MemberStatus, said: &Said) -> Vec<String> {
    let checks = of(status, said);
    let bad = checks
        .into_iter()
        .filter(|check| check.state != State::Good);
    bad.map(|check| {
        assert!(!check.todo.is_empty(), "{check:?}");
        format!("{}: {}", check.about, check.found)
    })
    .collect()
}

/// The findings once node 2 says something else.
fn with(change: impl Fn(&mut Vitals)) -> Vec<String> {
    let mut said = said();
    let mut second = vitals(2);
    change(&mut second);
    said.insert(NodeId(2), Ok(second));
    bad(&status(3), &said)
}

#[test]
fn of_a_cluster_that_is_well_every_check_is_good() {
    let checks = of(&status(3), &said());
    assert_eq!(checks.len(), 14);
    assert_eq!(bad(&status(3), &said()), [""; 0]);
    let about: BTreeSet<&str> = checks.iter().map(|check| check.about.as_str()).collect();
    assert_eq!(about.len(), 14);
}

#[test]
fn a_node_that_is_away_or_says_nothing_is_named() {
    let mut away = status(3);
    away.members
        .entry(NodeId(2))
        .and_modify(|row| row.epoch = None);
    assert_eq!(bad(&away, &said()), ["members: node 2 () does not serve"]);
    let mut silent = said();
    silent.insert(NodeId(3), Err("late".into()));
    assert_eq!(
        bad(&status(3), &silent),
        ["members: node 3 says nothing about itself: late"]
    );
    assert_eq!(
        bad(
            &status(2),
            &(1..=2)
                .map(|node| (NodeId(node), Ok(vitals(node))))
                .collect()
        ),
        ["members: two nodes are no more available than one"]
    );
}

#[test]
fn a_group_without_leader_or_voters_is_named() {
    let mut unled = status(3);
    unled
        .groups
        .entry(Group::Meta)
        .and_modify(|row| row.leader = None);
    assert_eq!(bad(&unled, &said()), ["leaders: nobody leads meta"]);
    // A shard that too few of its voters are left of waits for a person.
    let mut lost = status(3);
    let shard = Group::Shard(ShardId(0));
    let row = GroupRow {
        voters: (1..=3).map(NodeId).collect(),
        ..GroupRow::default()
    };
    lost.groups.insert(shard, row);
    for node in [2, 3] {
        lost.members
            .entry(NodeId(node))
            .and_modify(|row| row.epoch = None);
    }
    let found = of(&lost, &said());
    let about = |check: &&Check| check.found.contains("has lost its majority");
    let check = found.iter().find(about).expect("it is found");
    assert_eq!(
        check.found,
        "shard 0 has lost its majority: 1 of its 3 voters serve"
    );
    assert!(
        check
            .todo
            .contains("`tidewire ctl shard recover 0 --dry-run`")
    );
    lost.members
        .entry(NodeId(2))
        .and_modify(|row| row.epoch = Some(NodeEpoch(2)));
    assert!(!of(&lost, &said()).iter().any(|check| about(&check)));
    let mut few = status(3);
    few.groups.entry(Group::Meta).and_modify(|row| {
        row.voters.pop();
    });
    assert_eq!(
        bad(&few, &said()),
        ["replicas: meta have less than 3 voters"]
    );
}

#[test]
fn what_a_node_says_of_itself_is_judged() {
    let lags = vec![(3, LAG_MAX), (1, LAG_MAX - 1)];
    let cases: [(&str, Vec<String>); 11] = [
        (
            "leases: node 2 has no lease",
            with(|of| of.has_lease = false),
        ),
        (
            "replicas: node 3 is up to",
            with(|of| {
                let (group, lags) = ("7".to_owned(), lags.clone());
                of.led = vec![Led { group, lags }];
            }),
        ),
        (
            "shards: shards 1 9 take nothing from node 2",
            with(|of| of.stuck = vec![9, 1]),
        ),
        (
            "space: the disk of node 2 is full",
            with(|of| of.disk_full = true),
        ),
        (
            "disks: the disk of node 2 is 9 % free",
            with(|of| {
                of.disk = Some(Disk {
                    free_bytes: 99,
                    total_bytes: 1_000,
                });
            }),
        ),
        (
            "clocks: the clock of node 2",
            with(|of| of.report.wall_ms += 2_001),
        ),
        (
            "versions: nodes run different",
            with(|of| of.report.node.version = "2".into()),
        ),
        (
            "descriptors: node 2 may open 1024",
            with(|of| of.files_limit = Some(1_024)),
        ),
        (
            "memory: node 2 holds 2048 MiB",
            with(|of| of.report.resident_bytes = Some(2 << 30)),
        ),
        (
            "actors: node 2 started actors again 3 times",
            with(|of| {
                of.report.restarts = 3;
                of.report.last_restart = Some(RestartReport::default());
            }),
        ),
        (
            "bridge: node 2: paused",
            with(|of| of.bridge = vec!["paused".into()]),
        ),
    ];
    for (wanted, found) in cases {
        assert_eq!(found.len(), 1, "{wanted}: {found:?}");
        assert!(found[0].starts_with(wanted), "{wanted}: {found:?}");
    }
    let clients = with(|of| {
        of.files_limit = Some(10_000);
        of.report.connections = 8_001;
    });
    assert_eq!(
        clients,
        ["descriptors: node 2 has 8001 clients and may open 10000 files"]
    );
    assert_eq!(with(|of| of.report.wall_ms += 1_999), [""; 0]);
    let pulls = with(|of| of.unpulled = vec![(3, "gone".into())]);
    assert_eq!(
        pulls,
        ["stores: node 2 cannot read the log of node 3: gone"]
    );
}
