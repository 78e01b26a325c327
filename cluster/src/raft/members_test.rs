//! Groups of several members: what was answered stays, whoever dies; members come and go.

use std::time::Duration;

use bytes::Bytes;
use cluster_core::{NodeId, RaftId, Unavailable};
use storage::raft::GroupId;

use super::test_members::{GROUP, Members, replica, within};
use super::test_node::{Setup, entries, entry, eventually, outcome, propose};
use super::{ControlError, HoldLimits, Unproposed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_proposed_to_the_leader_is_read_on_every_member() {
    let members = Members::three(1, Setup::default()).await;
    let group = members.group(GROUP, 1);

    propose(group, 0..50).await;

    let all = members.agree(GROUP, &[1, 2, 3]).await;
    assert_eq!(all, (0..50).map(entry).collect::<Vec<_>>());
    let elsewhere = outcome(members.group(GROUP, 2), entry(50)).await;
    let led = Unproposed::Unavailable {
        entry: entry(50),
        why: Unavailable::Led(NodeId(1)),
    };
    assert_eq!(elsewhere, Err(led));
    let leader = *members.group(GROUP, 3).watch_leader().borrow();
    assert_eq!(leader.map(|leader| leader.node), Some(NodeId(1)));
    let control = members.control(GROUP, 1);
    eventually("nobody is behind", || {
        control.lags().values().all(|lag| *lag == 0)
    })
    .await;
    assert_eq!(control.lags().len(), 2);
    assert_eq!(members.fatals(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_and_nothing_that_was_answered_is_lost() {
    let mut members = Members::three(2, Setup::default()).await;
    let group = members.group(GROUP, 1).clone();
    let proposer = tokio::spawn(async move {
        let mut answered = Vec::new();
        for number in 0.. {
            match group.propose(entry(number)).await {
                Ok(_) => answered.push(entry(number)),
                Err(_) => break,
            }
        }
        answered
    });
    eventually("much is answered", || {
        entries(members.group(GROUP, 2)).len() > 100
    })
    .await;

    let fs = members.kill(1).await;
    let answered = within("the proposer ends", proposer).await.unwrap();
    let next = members.elect_one(GROUP, &[2, 3]).await;
    propose(members.group(GROUP, next), 1_000_000..1_000_010).await;
    members.start(1, &fs).await;
    members.start_replica(GROUP, 1).await;

    let all = members.agree(GROUP, &[next, 1, 2, 3]).await;
    // The last one may be there without having been answered.
    assert_eq!(all[..answered.len()], answered);
    assert!(all.len() - 10 <= answered.len() + 1);
    assert!(!members.control(GROUP, 1).is_leading());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_of_all_nodes_loses_nothing_that_was_answered() {
    let mut members = Members::three(3, Setup::default()).await;
    propose(members.group(GROUP, 1), 0..60).await;

    let mut disks = Vec::new();
    for node in 1..=3 {
        disks.push(members.crash(node).await);
    }
    for (node, fs) in (1..=3).zip(&disks) {
        members.start(node, fs).await;
        members.start_replica(GROUP, node).await;
    }
    let next = members.elect_one(GROUP, &[3, 1, 2]).await;

    let all = members.agree(GROUP, &[next, 3, 1, 2]).await;
    assert_eq!(all, (0..60).map(entry).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_answers_nothing_and_gives_way() {
    let members = Members::three(4, Setup::default()).await;
    let group = members.group(GROUP, 1).clone();
    propose(&group, 0..5).await;

    members.cut(1);
    let proposer = group.clone();
    let unanswered = tokio::spawn(async move { proposer.propose(entry(5)).await });
    let next = members.elect_one(GROUP, &[2, 3]).await;
    propose(members.group(GROUP, next), 10..15).await;
    let alone = outcome(&group, entry(6)).await;
    // It has the old entries only, and may not know that others are in their place.
    let read = group.read_index().await;
    assert!(
        matches!(read, Err(Unproposed::Unavailable { .. })),
        "{read:?}"
    );
    members.heal(1);

    let unanswered = within("the proposal has an outcome", unanswered).await;
    assert_eq!(unanswered.unwrap(), Err(Unproposed::Lost));
    assert!(
        matches!(alone, Err(Unproposed::Unavailable { .. })),
        "{alone:?}"
    );
    let all = members.agree(GROUP, &[next, 2, 1, 3]).await;
    assert_eq!(all, (0..5).chain(10..15).map(entry).collect::<Vec<_>>());
    let claims = members.running[&1].node.node.claims();
    assert_eq!(claims, []);
}

/// Nothing is kept for those who are behind.
fn without_hold() -> Setup {
    Setup {
        hold: HoldLimits {
            bytes: 0,
            age: Duration::ZERO,
        },
        ..Setup::default()
    }
}

/// Has the leader purge everything that it has applied.
async fn purge(members: &Members, node: u32) {
    let group = members.group(GROUP, node);
    members.running[&node].node.clock.advance_ms(1);
    group.flush_soon();
    let applied = group.status().applied;
    eventually("the log is purged", || {
        members.running[&node].node.clock.advance_ms(1);
        group.status().purged >= applied
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_too_far_behind_is_sent_the_state() {
    let mut members = Members::three(5, without_hold()).await;
    propose(members.group(GROUP, 1), 0..20).await;
    let fs = members.kill(3).await;
    propose(members.group(GROUP, 1), 20..200).await;
    purge(&members, 1).await;
    propose(members.group(GROUP, 1), 200..210).await;

    members.start(3, &fs).await;
    let late = members.start_replica(GROUP, 3).await;

    let all = members.agree(GROUP, &[1, 3, 2]).await;
    assert_eq!(all.len(), 210);
    assert!(late.with(|machine| machine.restored) >= 200, "by its rows");
    // What was installed outlives a power cut, and goes on from there.
    let fs = members.crash(3).await;
    members.start(3, &fs).await;
    let late = members.start_replica(GROUP, 3).await;
    assert!(late.with(|machine| machine.restored) >= 200);
    propose(members.group(GROUP, 1), 210..220).await;
    assert_eq!(members.agree(GROUP, &[1, 3]).await.len(), 220);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_kept_for_a_member_that_is_behind() {
    let mut members = Members::three(6, Setup::default()).await;
    let fs = members.kill(3).await;
    let leader = members.group(GROUP, 1).clone();
    propose(&leader, 0..100).await;
    leader.flush_soon();
    let applied = leader.status().applied;
    eventually("it is flushed", || leader.status().flushed == applied).await;

    members.start(3, &fs).await;
    let late = members.start_replica(GROUP, 3).await;
    members.agree(GROUP, &[1, 3]).await;

    assert_eq!(late.with(|machine| machine.restored), 0, "by the log");
    eventually("then it is purged", || leader.status().purged == applied).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_whose_leader_dies_harms_nothing_and_the_next_leader_makes_another() {
    let slow = Setup {
        copy_bytes_per_s: 200_000,
        ..without_hold()
    };
    let mut members = Members::three(7, slow).await;
    let fs = members.kill(3).await;
    let leader = members.group(GROUP, 1).clone();
    for _ in 0..4 {
        let entries = vec![Bytes::from(vec![7; 10_000]); 100];
        leader.propose_batch(entries).await.unwrap();
    }
    members.agree(GROUP, &[1, 2]).await;
    for node in [1, 2] {
        purge(&members, node).await;
    }
    members.start(3, &fs).await;
    let late = members.start_replica(GROUP, 3).await;
    let new = std::path::Path::new("/data/group-3.redb.new");
    eventually("a copy is under way", || {
        use storage::fs::Fs as _;
        members.running[&3].node.fs.exists(new).unwrap()
    })
    .await;
    assert_eq!(late.with(|machine| machine.entries.len()), 0);

    members.kill(1).await;
    members.setup.copy_bytes_per_s = 64 << 20;
    members.elect(GROUP, 2).await;

    let all = members.agree(GROUP, &[2, 3]).await;
    assert_eq!(all.len(), 400);
    assert_eq!(late.with(|machine| machine.restored), 400);
    assert_eq!(members.fatals(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_while_the_group_works() {
    let mut members = Members::new(8, Setup::default());
    for node in 1..=4 {
        members.start_new(node).await;
    }
    members.found(GROUP, &[1]).await;
    let leader = members.group(GROUP, 1).clone();
    propose(&leader, 0..20).await;
    let control = leader.control();
    let unknown = control.change_voters([replica(1), replica(2)].into()).await;
    assert!(
        matches!(unknown, Err(ControlError::Refused(_))),
        "{unknown:?}"
    );

    for node in [2, 3] {
        members.start_replica(GROUP, node).await;
        for _ in 0..2 {
            let added = control.add_learner(replica(node), NodeId(node)).await;
            assert_eq!(added, Ok(()));
        }
    }
    let learners = control.membership().learners;
    assert_eq!(learners, [replica(2), replica(3)].into());
    let three = [1, 2, 3].map(replica).into();
    assert_eq!(control.change_voters(three).await, Ok(()));
    propose(&leader, 20..40).await;
    members.agree(GROUP, &[1, 2, 3]).await;

    // Node 4 takes the place of node 3.
    members.start_replica(GROUP, 4).await;
    let added = control.add_learner(replica(4), NodeId(4)).await;
    assert_eq!(added, Ok(()));
    let others = [1, 2, 4].map(replica).into();
    assert_eq!(control.change_voters(others).await, Ok(()));
    let membership = control.membership();
    assert!(membership.is_committed && membership.joint.is_none());
    assert_eq!(membership.learners, [replica(3)].into());
    for _ in 0..2 {
        let removed = control.remove_learners([replica(3)].into()).await;
        assert_eq!(removed, Ok(()));
    }
    assert_eq!(control.nodes().len(), 3);
    let gone = members.running.get_mut(&3).unwrap();
    gone.groups.clear();
    let removed = gone.node.node.remove_replica(GroupId(GROUP), "group-3");
    removed.await.unwrap();
    propose(&leader, 40..50).await;
    members.agree(GROUP, &[1, 2, 4]).await;

    // The leader itself goes.
    let moved = control.transfer(replica(2)).await;
    assert_eq!(moved, Ok(()));
    assert!(!leader.is_leading());
    let control = members.control(GROUP, 2);
    eventually("node 2 leads", || control.is_leading()).await;
    let added = members.running[&3].node.try_start_replica(GROUP, 99).await;
    let back = added.unwrap();
    let added = control.add_learner(RaftId(99), NodeId(3)).await;
    assert_eq!(added, Ok(()));
    let rest = [replica(2), replica(4), RaftId(99)].into();
    assert_eq!(control.change_voters(rest).await, Ok(()));
    let removed = control.remove_learners([replica(1)].into()).await;
    assert_eq!(removed, Ok(()));
    members.kill(1).await;
    propose(members.group(GROUP, 2), 50..60).await;
    let all = members.agree(GROUP, &[2, 4]).await;
    assert_eq!(all, (0..60).map(entry).collect::<Vec<_>>());
    eventually("the new one has all", || entries(&back) == all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_voter_no_more_hands_the_group_over() {
    let members = Members::three(13, Setup::default()).await;
    let control = members.control(GROUP, 1);

    let rest = [2, 3].map(replica).into();
    assert_eq!(control.change_voters(rest).await, Ok(()));

    let leads = |node| members.group(GROUP, node).is_leading();
    eventually("another one leads", || leads(2) || leads(3)).await;
    assert!(!leads(1));
    let leader = if leads(2) { 2 } else { 3 };
    propose(members.group(GROUP, leader), 0..5).await;
    assert_eq!(members.agree(GROUP, &[leader, 1, 2, 3]).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_whose_target_dies_ends_with_a_leader_that_takes_proposals() {
    let mut members = Members::three(9, Setup::default()).await;
    let leader = members.group(GROUP, 1).clone();
    propose(&leader, 0..5).await;
    let control = leader.control();
    let term = leader.status().term;
    members.kill(2).await;

    let moved = within("the transfer ends", control.transfer(replica(2))).await;

    assert_eq!(moved, Err(ControlError::NotTaken(replica(2))));
    eventually("it leads again", || leader.is_leading()).await;
    assert!(leader.status().term > term);
    propose(&leader, 5..10).await;
    let all = members.agree(GROUP, &[1, 3]).await;
    assert_eq!(all, (0..10).map(entry).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_lost_unsynced_entries_does_not_give_their_ids_again() {
    let mut members = Members::three(10, Setup::default()).await;
    let leader = members.group(GROUP, 1).clone();
    propose(&leader, 0..5).await;
    members.agree(GROUP, &[1, 2, 3]).await;
    let before = leader.status().last_log.unwrap();
    // Its disk takes nothing more; the other two make a quorum.
    let disk = &members.running[&1].node.fs;
    disk.limit_bytes(Some(disk.bytes()));
    let large = |number: u64| Bytes::from([&entry(number)[..], &[7; 20_000]].concat());
    let proposers: Vec<_> = (0..4)
        .map(|number| {
            let (leader, large) = (leader.clone(), large(number));
            tokio::spawn(async move { leader.propose(large).await })
        })
        .collect();
    eventually("the others have them", || {
        let there = |node: &u32| members.group(GROUP, *node).status().last_log;
        [2, 3].iter().all(|node| there(node) >= Some(before + 4))
    })
    .await;

    let fs = members.crash(1).await;
    fs.limit_bytes(None);
    for proposer in proposers {
        let _ = within("the proposal has an outcome", proposer)
            .await
            .unwrap();
    }
    members.start(1, &fs).await;
    let again = members.start_replica(GROUP, 1).await;
    // Were it restored as leader, it would lead by itself now.
    let first = if again.is_leading() {
        1
    } else {
        members.elect_one(GROUP, &[2, 3]).await
    };
    propose(members.group(GROUP, first), 100..104).await;

    let all = members.agree(GROUP, &[first, 1, 2, 3]).await;
    assert_eq!(all[..5], (0..5).map(entry).collect::<Vec<_>>());
    assert_eq!(all.len(), 13, "what a quorum had stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_groups_share_three_nodes_and_outlive_one() {
    const GROUPS: u32 = 64;
    let mut members = Members::new(11, Setup::default());
    for node in 1..=3 {
        members.start_new(node).await;
    }
    for group in 0..GROUPS {
        members.found(group, &[1, 2, 3]).await;
    }
    let proposing: Vec<_> = (0..GROUPS)
        .map(|group| {
            let group = members.group(group, 1).clone();
            tokio::spawn(async move { propose(&group, 0..10).await })
        })
        .collect();
    for proposing in proposing {
        within("they are answered", proposing).await.unwrap();
    }
    assert_eq!(members.running[&1].node.node.claims().len(), 64);
    for group in 0..GROUPS {
        // So that each of the two may be elected.
        members.agree(group, &[1, 2, 3]).await;
    }

    members.kill(1).await;
    let electing = (0..GROUPS).map(|group| members.elect(group, 2 + group % 2));
    for electing in electing {
        electing.await;
    }

    for group in 0..GROUPS {
        let leader = 2 + group % 2;
        propose(members.group(group, leader), 10..12).await;
        let all = members.agree(group, &[leader, 5 - leader]).await;
        assert_eq!(all, (0..12).map(entry).collect::<Vec<_>>());
    }
    assert_eq!(members.fatals(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_sleeps_is_woken_by_a_proposal_without_an_election() {
    let members = Members::three(12, Setup::default()).await;
    let leader = members.group(GROUP, 1).clone();
    propose(&leader, 0..5).await;
    members.agree(GROUP, &[1, 2, 3]).await;
    let term = leader.status().term;
    members.running[&1].node.clock.advance_ms(10_000);
    assert!(!leader.driven_is_active());
    // Longer than a lease nothing is said.
    let changed = leader.changes_within(Duration::from_millis(1_700)).await;
    assert!(!changed);

    propose(&leader, 5..10).await;

    assert_eq!(leader.status().term, term);
    assert_eq!(members.agree(GROUP, &[1, 2, 3]).await.len(), 10);
}
