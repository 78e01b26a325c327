//! Groups of a node from start to end: order, flush and purge, sleep, damage.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use cluster_core::{NodeId, RaftId, Unavailable};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use storage::fs::{Fault, FaultFs, FaultKind, Fs, Operation};
use storage::raft::GroupId;

use super::test_machine::{Journal, TestMachine};
use super::test_node::{Setup, TestNode, entries, entry, eventually, outcome, propose};
use super::{Claim, ControlError, Fatal, Group, OpenError, Unproposed};

#[tokio::test]
async fn what_was_answered_is_there_after_a_start_in_order_and_once() {
    let node = TestNode::open(&FaultFs::new(1));
    let group = node.start(3).await;
    propose(&group, 0..100).await;

    let node = TestNode::open(&node.kill().await);
    let group = node.start(3).await;

    assert_eq!(entries(&group), (0..100).map(entry).collect::<Vec<_>>());
    assert!(group.status().is_leader);
    assert_eq!(group.propose(entry(100)).await, Ok(100));
    assert_eq!(node.fatals().len(), 0);
}

#[tokio::test]
async fn a_batch_is_appended_in_order_and_answered_whole_or_not() {
    let node = TestNode::open(&FaultFs::new(16));
    let group = node.start(3).await;
    let other = group.clone();
    let beside = tokio::spawn(async move { propose(&other, 1_000..1_020).await });

    let batch: Vec<Bytes> = (0..50).map(entry).collect();
    let answers = group.propose_batch(batch.clone()).await.unwrap();

    beside.await.unwrap();
    assert!(
        answers.is_sorted_by(|one, next| one + 1 == *next),
        "{answers:?}"
    );
    let first = usize::try_from(answers[0]).unwrap();
    assert_eq!(entries(&group)[first..first + 50], batch);
    assert_eq!(group.propose_batch(Vec::new()).await, Ok(Vec::new()));

    let damaged = vec![entry(1), Bytes::from_static(b"damaged")];
    let lost = group.propose_batch(damaged).await;
    assert_eq!(lost, Err(Unproposed::Lost));
}

#[tokio::test]
async fn a_flush_purges_the_log_and_a_start_applies_only_the_rest() {
    let node = TestNode::open(&FaultFs::new(2));
    let group = node.start(3).await;
    propose(&group, 0..50).await;
    let applied = group.status().applied;

    group.flush_soon();
    eventually("the log is purged", || group.status().purged == applied).await;
    assert_eq!(group.status().flushed, applied);
    assert_eq!(group.status().unflushed_log_bytes, 0);
    assert_eq!(
        group.read_row(1, &49_u64.to_be_bytes()).unwrap(),
        Some(entry(49))
    );
    propose(&group, 50..60).await;
    assert!(group.status().unflushed_log_bytes > 0);

    let node = TestNode::open(&node.kill().await);
    let group = node.start(3).await;

    assert_eq!(group.with(|machine| machine.restored), 50);
    assert_eq!(group.with(|machine| machine.applied), 10);
    assert_eq!(entries(&group), (0..60).map(entry).collect::<Vec<_>>());
    assert_eq!(group.status().purged, applied);
}

#[tokio::test]
async fn a_flush_comes_by_bytes_of_log_and_by_age() {
    let setup = Setup {
        flush_log_bytes: 2_000,
        ..Setup::default()
    };
    let node = TestNode::open_as(&FaultFs::new(3), &setup).unwrap();
    let group = node.start(3).await;
    let flushes = || group.with(|machine| machine.flushes);

    propose(&group, 0..10).await;
    assert_eq!(flushes(), 0, "less than the limit was applied");
    propose(&group, 10..60).await;
    eventually("a flush by bytes", || flushes() > 0).await;
    eventually("it ends", || {
        group.status().purged == group.status().flushed
    })
    .await;

    propose(&group, 60..61).await;
    let before = flushes();
    node.clock.advance_ms(60_000);
    eventually("a flush by age", || flushes() > before).await;
    assert_eq!(group.status().applied, group.status().flushed);
}

#[tokio::test]
async fn a_close_flushes_so_that_a_start_applies_nothing_again() {
    let node = TestNode::open(&FaultFs::new(4));
    let group = node.start(3).await;
    propose(&group, 0..20).await;

    node.node.close().await.unwrap();
    let refused = outcome(&group, entry(20)).await;
    assert!(refused.is_err(), "{refused:?}");

    let node = TestNode::open(&node.fs.kill());
    let group = node.start(3).await;

    let counts = group.with(|machine| (machine.restored, machine.applied));
    assert_eq!(counts, (20, 0));
    let flushed = group.status().flushed;
    eventually("a start purges", || group.status().purged == flushed).await;
}

/// As of a node that begins another epoch in the same process, whose hosts end a moment later.
#[tokio::test]
async fn a_closed_node_is_released_once_nobody_holds_its_groups_any_more() {
    let node = TestNode::open(&FaultFs::new(6));
    let group = node.start(3).await;
    propose(&group, 0..20).await;
    node.node.close().await.unwrap();

    let at_once = Duration::ZERO;
    assert!(!node.node.released(at_once).await, "its file is open");
    drop(group);

    assert!(node.node.released(Duration::from_secs(60)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_groups_share_a_log_and_start_again() {
    const GROUPS: u32 = 34;
    let mut fs = FaultFs::new(5);
    for round in 0..2 {
        let node = TestNode::open(&fs);
        let mut tasks = Vec::new();
        for id in 0..GROUPS {
            let group = node.start(id).await;
            assert_eq!(entries(&group).len(), round * 20);
            let proposer = group.clone();
            tasks.push(tokio::spawn(async move {
                let first = round as u64 * 20;
                propose(&proposer, first..first + 20).await;
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        fs = node.kill().await;
    }
    let node = TestNode::open(&fs);
    let starts = (0..GROUPS).map(|id| {
        let (node, name) = (node.node.clone(), format!("group-{id}"));
        let started = async move {
            let config = Journal::default();
            node.start_group::<TestMachine>(GroupId(id), &name, config)
                .await
        };
        tokio::spawn(started)
    });
    for start in starts.collect::<Vec<_>>() {
        let group = start.await.unwrap().unwrap();
        assert_eq!(entries(&group), (0..40).map(entry).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_group_that_nobody_uses_does_nothing_and_wakes_at_once() {
    let node = TestNode::open(&FaultFs::new(6));
    let group = node.start(3).await;
    propose(&group, 0..3).await;
    assert!(group.driven_is_active());
    node.clock.advance_ms(10_000);
    let before = (node.node.log_counters().journal.entries, group.status());

    assert!(!group.driven_is_active(), "no heartbeat goes out");
    let changed = group.changes_within(Duration::from_millis(1_700)).await;

    assert!(!changed, "longer than a lease nothing happens");
    let after = (node.node.log_counters().journal.entries, group.status());
    assert_eq!(after, before);
    assert_eq!(group.propose(entry(3)).await, Ok(3));
    assert!(group.driven_is_active());
    assert_eq!(group.status().term, before.1.term, "no election");
}

#[tokio::test]
async fn an_expired_lease_is_asked_again_and_never_taken_for_no_leader() {
    let node = TestNode::open(&FaultFs::new(14));
    let group = node.start(3).await;

    assert_eq!(group.awake_behind(3).await, Ok(()));
    let never = group.awake_behind(u32::MAX).await;
    assert_eq!(never, Err(Some(Unavailable::LeaseExpired)));
}

#[tokio::test]
async fn a_read_index_covers_what_was_answered() {
    let node = TestNode::open(&FaultFs::new(7));
    let group = node.start(3).await;
    propose(&group, 0..5).await;

    let index = group.read_index().await.unwrap();

    assert_eq!(Some(index), group.status().last_log);
    assert_eq!(entries(&group).len(), 5);
}

#[tokio::test]
async fn a_failed_fsync_of_the_log_ends_the_node_once_and_answers_nothing() {
    let node = TestNode::open(&FaultFs::new(8));
    let (one, other) = (node.start(1).await, node.start(2).await);
    propose(&one, 0..2).await;
    node.fs.inject(Fault {
        operation: Some(Operation::SyncData),
        path: "/data/log".to_owned(),
        skip: 0,
        kind: FaultKind::Io,
    });

    let lost = outcome(&one, entry(2)).await;

    assert_eq!(lost, Err(Unproposed::Lost));
    assert!(outcome(&one, entry(3)).await.is_err());
    assert!(outcome(&other, entry(3)).await.is_err());
    let fatals = node.fatals();
    assert!(matches!(fatals[..], [Fatal::Log(_)]), "{fatals:?}");
}

#[tokio::test]
async fn a_failed_flush_ends_the_node_and_loses_nothing() {
    let node = TestNode::open(&FaultFs::new(9));
    let group = node.start(1).await;
    propose(&group, 0..5).await;
    node.fs.inject(Fault {
        operation: Some(Operation::SyncData),
        path: ".redb".to_owned(),
        skip: 0,
        kind: FaultKind::Io,
    });

    group.flush_soon();
    eventually("the node ends", || !node.fatals().is_empty()).await;

    let fatals = node.fatals();
    assert!(
        matches!(
            fatals[..],
            [Fatal::State {
                group: GroupId(1),
                ..
            }]
        ),
        "{fatals:?}"
    );
    assert!(node.node.close().await.is_err(), "nothing is tried again");
    let node = TestNode::open(&node.kill().await);
    assert_eq!(entries(&node.start(1).await).len(), 5);
}

#[tokio::test]
async fn a_full_disk_holds_answers_back_until_there_is_space() {
    let node = TestNode::open(&FaultFs::new(15));
    let group = node.start(1).await;
    propose(&group, 0..2).await;
    node.fs.limit_bytes(Some(0));
    let proposer = group.clone();
    // More than the space that is reserved ahead, and nothing that can be compressed.
    let mut random = SmallRng::seed_from_u64(1);
    let large: Vec<Vec<u8>> = (0..6)
        .map(|_| (0..8 << 10).map(|_| random.random()).collect())
        .collect();
    let mut proposals = tokio::spawn(async move {
        for entry in large {
            proposer.propose(Bytes::from(entry)).await.unwrap();
        }
    });

    let early = tokio::time::timeout(Duration::from_millis(300), &mut proposals).await;
    assert!(early.is_err(), "there is no space for an answer");
    let answered = entries(&group).len();
    assert!(answered < 8, "{answered} are answered");
    node.fs.limit_bytes(None);
    proposals.await.unwrap();

    assert_eq!(entries(&group).len(), 8);
    assert_eq!(node.fatals().len(), 0);
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_ends_the_node_and_is_named_at_a_start() {
    let node = TestNode::open(&FaultFs::new(10));
    let group = node.start(1).await;
    propose(&group, 0..2).await;
    let index = group.status().last_log.unwrap() + 1;

    let lost = outcome(&group, Bytes::from_static(b"damaged")).await;

    assert_eq!(lost, Err(Unproposed::Lost));
    let is_named = |fatal: &Fatal| matches!(fatal, Fatal::Entry { group: GroupId(1), index: at, .. } if *at == index);
    let fatals = node.fatals();
    assert!(fatals.len() == 1 && is_named(&fatals[0]), "{fatals:?}");
    let node = TestNode::open(&node.kill().await);
    let refused = node.try_start(1).await.unwrap_err();
    assert!(
        matches!(&refused, OpenError::Failed(fatal) if is_named(fatal)),
        "{refused}"
    );
}

#[tokio::test]
async fn a_panic_of_who_looks_at_a_machine_ends_the_node() {
    let node = TestNode::open(&FaultFs::new(17));
    let group = node.start(1).await;

    let looks = tokio::task::spawn_blocking(move || group.with(|_| panic!("the test says so")));

    assert!(looks.await.is_err());
    let fatals = node.fatals();
    assert!(matches!(fatals[..], [Fatal::Broken { .. }]), "{fatals:?}");
}

#[tokio::test]
async fn a_machine_that_panics_ends_the_node() {
    let node = TestNode::open(&FaultFs::new(11));
    let group = node.start(1).await;
    let proposer = group.clone();

    let proposal =
        tokio::spawn(async move { proposer.propose(Bytes::from_static(b"panic")).await });
    eventually("the node ends", || !node.fatals().is_empty()).await;

    let fatals = node.fatals();
    assert!(matches!(fatals[..], [Fatal::Broken { .. }]), "{fatals:?}");
    proposal.abort();
    assert!(!matches!(proposal.await, Ok(Ok(_))), "it is not answered");
}

#[tokio::test]
async fn a_log_that_is_gone_before_anything_was_flushed_is_missed() {
    let fs = FaultFs::new(13);
    let node = TestNode::open(&fs);
    let group = node.start(1).await;
    propose(&group, 0..5).await;
    let fs = node.kill().await;
    drop(TestNode::open(&fs.copy()));
    for name in fs.list(Path::new("/data/log")).unwrap() {
        let _ = fs.unlink(&Path::new("/data/log").join(name));
    }

    let refused = TestNode::open_as(&fs, &Setup::default())
        .map(drop)
        .unwrap_err();

    assert!(
        matches!(refused, OpenError::AllLogsLost { .. }),
        "{refused}"
    );
}

#[tokio::test]
async fn damage_is_named_and_nothing_is_started() {
    let node = TestNode::open(&FaultFs::new(12));
    let group = node.start(1).await;
    propose(&group, 0..5).await;
    group.flush_soon();
    eventually("it is purged", || group.status().purged >= Some(5)).await;
    // A purge has no fsync of its own.
    propose(&group, 5..6).await;
    let fs = node.kill().await;
    let state = Path::new("/data/group-1.redb");

    let lost_state = fs.copy();
    lost_state.unlink(state).unwrap();
    let refused = TestNode::open(&lost_state).try_start(1).await.unwrap_err();
    assert!(
        matches!(refused, OpenError::Gap { flushed: None, .. }),
        "{refused}"
    );

    let lost_log = fs.copy();
    for name in lost_log.list(Path::new("/data/log")).unwrap() {
        let _ = lost_log.unlink(&Path::new("/data/log").join(name));
    }
    let refused = TestNode::open_as(&lost_log, &Setup::default());
    let refused = refused.map(drop).unwrap_err();
    assert!(
        matches!(refused, OpenError::AllLogsLost { .. }),
        "{refused}"
    );
    // One from before there was a marker: the flushed state says it.
    lost_log.unlink(Path::new("/data/log.begun")).unwrap();
    let refused = TestNode::open(&lost_log).try_start(1).await.unwrap_err();
    assert!(matches!(refused, OpenError::LogLost { .. }), "{refused}");

    let other = Setup {
        node: NodeId(2),
        ..Setup::default()
    };
    let node = TestNode::open_as(&fs.copy(), &other).unwrap();
    let refused = node.try_start(1).await.unwrap_err();
    assert!(
        matches!(
            refused,
            OpenError::ForeignNode {
                replica: RaftId(2),
                ..
            }
        ),
        "{refused}"
    );

    let config = Journal { refuses_rows: true };
    let node = TestNode::open(&fs.copy());
    let started = node
        .node
        .start_group::<TestMachine>(GroupId(1), "group-1", config);
    let refused = started.await.unwrap_err().to_string();
    assert!(refused.contains("group-1.redb"), "{refused}");

    let rotten = fs.copy();
    rotten.flip_bit(state, 5_000, 3);
    let refused = TestNode::open(&rotten).try_start(1).await;
    if let Err(refused) = refused {
        assert!(refused.to_string().contains("group-1.redb"), "{refused}");
    }
}

#[tokio::test]
async fn a_group_is_started_once() {
    let node = TestNode::open(&FaultFs::new(13));
    let _group: Group<TestMachine> = node.start(1).await;

    let twice = node.try_start(1).await.unwrap_err();
    assert!(matches!(twice, OpenError::Started { .. }), "{twice}");
    node.node.close().await.unwrap();
    let late = node.try_start(2).await.unwrap_err();
    assert!(matches!(late, OpenError::Closed), "{late}");
}

#[tokio::test]
async fn a_lone_voter_claims_its_group_and_tells_who_leads_and_what_is_applied() {
    let node = TestNode::open(&FaultFs::new(17));
    let group = node.start(3).await;
    let mut leader = group.watch_leader();
    let led = leader.wait_for(Option::is_some).await.unwrap().unwrap();
    assert_eq!((led.replica, led.node), (RaftId(1), NodeId(1)));
    let mut applied = group.watch_applied();
    let before = *applied.borrow_and_update();

    propose(&group, 0..5).await;

    assert_eq!(*applied.borrow(), before + 5);
    let claims = node.node.claims();
    let claim = Claim {
        group: GroupId(3),
        term: led.term,
        applied: before + 5,
        reached: 5,
    };
    assert_eq!(claims, [claim]);
    let control = node.node.control(GroupId(3)).unwrap();
    assert!(control.is_leading());
    assert_eq!(control.leader(), Some(led));
    assert_eq!(control.nodes(), [(RaftId(1), NodeId(1))].into());
    let membership = control.membership();
    assert!(membership.is_committed);
    assert_eq!(membership.voters, [RaftId(1)].into());
    assert_eq!((membership.joint, membership.learners), (None, [].into()));
    assert!(control.lags().is_empty());
    assert!(node.node.control(GroupId(4)).is_none());
}

#[tokio::test]
async fn a_replica_starts_without_a_leader_and_shows_what_was_committed() {
    let node = TestNode::open(&FaultFs::new(18));
    let empty = node.try_start_replica(4, 1 << 32).await.unwrap();
    assert_eq!(entries(&empty), Vec::<Bytes>::new());
    assert_eq!(*empty.watch_leader().borrow(), None);
    assert!(!empty.is_leading());
    let control = empty.control();
    control.elect().await;
    assert_eq!(control.replica(), RaftId(1 << 32));
    let alone = control.change_voters([RaftId(1)].into()).await;
    let no_leader = ControlError::Unavailable(Unavailable::NoLeader);
    assert_eq!(alone, Err(no_leader));
    let group = node.start(3).await;
    propose(&group, 0..9).await;

    let node = TestNode::open(&node.kill().await);
    let refused = node.try_start_replica(3, 7).await.unwrap_err();
    let node = TestNode::open(&node.kill().await);
    let group = node.try_start_replica(3, 1).await.unwrap();

    assert!(
        matches!(refused, OpenError::ForeignReplica { .. }),
        "{refused}"
    );
    assert!(
        entries(&group).len() >= 8,
        "all that was known to be committed"
    );
    assert_eq!(*group.watch_leader().borrow(), None);
    group.control().elect().await;
    eventually("it leads", || group.is_leading()).await;
    group.read_index().await.unwrap();
    assert_eq!(entries(&group), (0..9).map(entry).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_removed_replica_leaves_nothing_behind_and_another_may_start() {
    let node = TestNode::open(&FaultFs::new(19));
    let group = node.start(3).await;
    propose(&group, 0..9).await;
    group.flush_soon();
    eventually("it is flushed", || group.status().flushed.is_some()).await;

    for _ in 0..2 {
        node.node
            .remove_replica(GroupId(3), "group-3")
            .await
            .unwrap();
        assert!(!node.fs.exists(Path::new("/data/group-3.redb")).unwrap());
    }
    assert!(outcome(&group, entry(9)).await.is_err());
    let empty = node.try_start_replica(3, 7).await.unwrap();
    assert_eq!(entries(&empty), Vec::<Bytes>::new());
    node.node
        .remove_replica(GroupId(3), "group-3")
        .await
        .unwrap();

    let node = TestNode::open(&node.fs.crash());
    let group = node.start(3).await;
    assert_eq!(entries(&group), Vec::<Bytes>::new());
}
