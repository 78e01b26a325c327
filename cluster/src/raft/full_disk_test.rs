//! State files on a full disk: the node goes on, keeps what it cannot write, and loses nothing.

use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use storage::fs::{Fault, FaultFs, FaultKind, Operation};

use super::test_machine::TestMachine;
use super::test_node::{Setup, TestNode, entries, eventually};
use super::{Fatal, Group, StateCounters};

const SEEDS: u64 = 25;
/// A state file must grow for an entry of so many bytes.
const LARGE_BYTES: usize = 2 << 20;

fn setup() -> Setup {
    Setup {
        segment_bytes: 1 << 20,
        ..Setup::default()
    }
}

fn without_space(node: &TestNode) -> bool {
    node.node.state_counters().groups_without_space > 0
}

/// Whatever a state file needs to grow by is refused, until it is healed.
fn refuse_growth(fs: &FaultFs, kind: FaultKind) {
    for _ in 0..100 {
        fs.inject(Fault {
            operation: Some(Operation::SetLen),
            path: ".redb".to_owned(),
            skip: 0,
            kind,
        });
    }
}

async fn large(group: &Group<TestMachine>) {
    let entry = Bytes::from(vec![7; LARGE_BYTES]);
    group.propose(entry).await.unwrap();
}

#[tokio::test]
async fn a_flush_without_space_is_kept_and_tried_again() {
    let node = TestNode::open_as(&FaultFs::new(1), &setup()).unwrap();
    let group = node.start(1).await;
    group.propose(Bytes::from_static(b"small")).await.unwrap();
    group.flush_soon();
    eventually("a flush", || {
        group.status().purged == group.status().applied
    })
    .await;
    let flushed = group.status().flushed;
    refuse_growth(&node.fs, FaultKind::NoSpace);
    large(&group).await;

    group.flush_soon();
    eventually("no space", || without_space(&node)).await;

    // It goes on: more is taken and answered, what is flushed can be read, nothing is purged.
    large(&group).await;
    eventually("readable", || {
        let row = group.read_row(1, &0_u64.to_be_bytes());
        row.is_ok_and(|row| row == Some(Bytes::from_static(b"small")))
    })
    .await;
    let status = group.status();
    assert_eq!((status.flushed, status.purged), (flushed, flushed));
    assert!(status.unflushed_log_bytes as usize > 2 * LARGE_BYTES);
    // It is not asked for more often than it waits.
    group.flush_soon();
    let early = node.node.state_counters().flushes_refused;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!((early, node.node.state_counters().flushes_refused), (1, 1));
    for refused in 2..5 {
        node.clock.advance_ms(30_000);
        eventually("another try", || {
            node.node.state_counters().flushes_refused == refused
        })
        .await;
    }
    node.fs.heal();
    node.clock.advance_ms(30_000);
    eventually("a flush", || group.status().flushed == status.applied).await;
    eventually("a purge", || group.status().purged == status.applied).await;

    let counters = StateCounters {
        flushes_refused: 4,
        groups_without_space: 0,
    };
    assert_eq!(node.node.state_counters(), counters);
    assert_eq!(group.with(|machine| machine.flushes), 3);
    assert_eq!(node.fatals().len(), 0);
    let node = TestNode::open_as(&node.kill().await, &setup()).unwrap();
    let group = node.start(1).await;
    assert_eq!(group.with(|machine| machine.restored), 3);
    assert_eq!(entries(&group).len(), 3);
}

#[tokio::test]
async fn what_no_flush_could_take_is_there_after_a_crash() {
    let node = TestNode::open_as(&FaultFs::new(2), &setup()).unwrap();
    let group = node.start(1).await;
    refuse_growth(&node.fs, FaultKind::NoSpace);
    large(&group).await;
    group.flush_soon();
    eventually("no space", || without_space(&node)).await;
    large(&group).await;

    let closed = node.node.close().await;
    assert!(closed.is_err(), "it was not flushed: {closed:?}");
    assert_eq!(node.fatals().len(), 0);
    node.fs.heal();

    let node = TestNode::open_as(&node.fs.crash(), &setup()).unwrap();
    let group = node.start(1).await;
    let counts = group.with(|machine| (machine.restored, machine.applied));
    assert_eq!(counts, (0, 2));
}

#[tokio::test]
async fn an_error_that_is_no_full_disk_ends_the_node_also_after_one() {
    let node = TestNode::open_as(&FaultFs::new(3), &setup()).unwrap();
    let group = node.start(1).await;
    node.fs.inject(Fault {
        operation: Some(Operation::SetLen),
        path: ".redb".to_owned(),
        skip: 0,
        kind: FaultKind::NoSpace,
    });
    large(&group).await;
    group.flush_soon();
    eventually("no space", || without_space(&node)).await;
    refuse_growth(&node.fs, FaultKind::Io);

    node.clock.advance_ms(30_000);
    eventually("the node ends", || !node.fatals().is_empty()).await;

    let fatals = node.fatals();
    assert!(matches!(fatals[..], [Fatal::State { .. }]), "{fatals:?}");
}

#[tokio::test]
async fn nothing_answered_is_lost_by_disks_that_are_full_at_times() {
    let (mut refused, mut answered, mut seed) = (0, 0, 0);
    // How many flushes find no space depends on when they come, which no seed decides.
    while seed < SEEDS || (refused <= SEEDS && seed < 4 * SEEDS) {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut fs = FaultFs::new(seed);
        let mut known: Vec<Bytes> = Vec::new();
        for life in 0..3 {
            let setup = Setup {
                seed: random.random(),
                flush_log_bytes: random.random_range(20_000..400_000),
                segment_bytes: 64 << 10,
                ..Setup::default()
            };
            let node = TestNode::open_as(&fs, &setup).unwrap();
            let group = node.start(1).await;
            let found = entries(&group);
            // The last proposal of a life may be there although it was not answered.
            assert!(found.starts_with(&known), "seed {seed}, life {life}");
            known = found;
            known.extend(live(&node, &group, &mut random).await);
            refused += node.node.state_counters().flushes_refused;
            answered += known.len();
            assert_eq!(node.fatals().len(), 0, "seed {seed}: {:?}", node.fatals());
            fs = node.fs.crash();
            let _ = node.node.close().await;
            fs.limit_bytes(None);
        }
        seed += 1;
    }
    println!("{seed} seeds: {answered} answered, {refused} flushes refused");
    assert!(refused > SEEDS, "{refused} flushes were refused");
}

/// Proposes while the disk fills up and gets room again; gives what was answered.
async fn live(node: &TestNode, group: &Group<TestMachine>, random: &mut SmallRng) -> Vec<Bytes> {
    let mut answered = Vec::new();
    for _ in 0..random.random_range(5..25) {
        let room = random.random_ratio(2, 3).then(|| {
            let bytes = random.random_range(0..600_000);
            node.fs.bytes() + bytes
        });
        node.fs.limit_bytes(room);
        node.clock.advance_ms(random.random_range(0..40_000));
        let mut entry = vec![0; random.random_range(1..60_000)];
        random.fill(&mut entry[..]);
        let entry = Bytes::from(entry);
        let proposer = group.clone();
        let proposed = entry.clone();
        let mut proposal = tokio::spawn(async move { proposer.propose(proposed).await });
        let in_time = tokio::time::timeout(Duration::from_millis(30), &mut proposal).await;
        if in_time.is_err() {
            if random.random_ratio(1, 6) {
                // It waits for space when the node dies.
                return answered;
            }
            node.fs.limit_bytes(None);
            proposal.await.unwrap().unwrap();
        }
        answered.push(entry);
    }
    answered
}
