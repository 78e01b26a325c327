//! What groups cost on a real disk. Run by hand:
//! `cargo test -p tidewire-cluster --lib bench -- --ignored --nocapture`; a folder on the disk in
//! question is named by `TMPDIR`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster_core::NodeId;
use runtime::SystemClock;
use storage::fs::{FaultFs, RealFs};
use storage::raft::GroupId;
use tempfile::TempDir;

use super::test_machine::{Journal, TestMachine};
use super::test_node::{Setup, TestNode};
use super::{Group, RaftConfig, RaftNode};

const ENTRY_BYTES: usize = 300;
const MEASURED: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn bench_proposals_by_groups_and_proposers() {
    for groups in [1, 8, 32] {
        for proposers in [1, 64, 1000] {
            let folder = tempfile::tempdir().unwrap();
            let node = open(&folder);
            let groups = start(&node, groups).await;
            let before = node.log_counters().journal;
            let begin = Instant::now();
            let tasks: Vec<_> = (0..proposers)
                .map(|nth| {
                    let group = groups[nth % groups.len()].clone();
                    tokio::spawn(async move {
                        let entry = Bytes::from(vec![7; ENTRY_BYTES]);
                        let mut answered = 0_u64;
                        while begin.elapsed() < MEASURED {
                            group.propose(entry.clone()).await.unwrap();
                            answered += 1;
                        }
                        answered
                    })
                })
                .collect();
            let mut answered = 0;
            for task in tasks {
                answered += task.await.unwrap();
            }
            let fsyncs = node.log_counters().journal.groups - before.groups;
            println!(
                "{:2} groups, {proposers:4} proposers: {:7.0} proposals/s, {:.3} fsyncs each",
                groups.len(),
                answered as f64 / begin.elapsed().as_secs_f64(),
                fsyncs as f64 / answered as f64,
            );
            node.close().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn bench_batches_one_in_flight_a_group() {
    for (groups, batch) in [(1, 32), (1, 1000), (32, 32), (32, 1000)] {
        let folder = tempfile::tempdir().unwrap();
        let node = open(&folder);
        let groups = start(&node, groups).await;
        let begin = Instant::now();
        let proposers = groups.iter().cloned().map(|group| {
            tokio::spawn(async move {
                let entries = vec![Bytes::from(vec![7; ENTRY_BYTES]); batch];
                let mut answered = 0;
                while begin.elapsed() < MEASURED {
                    answered += group.propose_batch(entries.clone()).await.unwrap().len();
                }
                answered
            })
        });
        let mut answered = 0;
        for proposer in proposers.collect::<Vec<_>>() {
            answered += proposer.await.unwrap();
        }
        println!(
            "{:2} groups, batches of {batch:4}: {:7.0} entries/s",
            groups.len(),
            answered as f64 / begin.elapsed().as_secs_f64(),
        );
        node.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn bench_starting_groups() {
    let folder = tempfile::tempdir().unwrap();
    for what in ["new", "again, behind a close"] {
        let node = open(&folder);
        let mut before = rss_kib();
        let begin = Instant::now();
        let first = start(&node, 1).await;
        let one = rss_kib();
        println!(
            "{what}: 1 group in {:?}, {} KiB",
            begin.elapsed(),
            one - before
        );
        before = one;
        let begin = Instant::now();
        let mut groups = Vec::new();
        for id in 1..34 {
            groups.push(start_one(&node, id).await);
        }
        println!(
            "{what}: 33 more in {:?}, {} KiB each",
            begin.elapsed(),
            (rss_kib() - before) / 33
        );
        for group in first.iter().chain(&groups) {
            for _ in 0..200 {
                group.propose(Bytes::from(vec![7; 20])).await.unwrap();
            }
        }
        println!(
            "{what}: {} KiB each after 200 proposals",
            (rss_kib() - before) / 33
        );
        let begin = Instant::now();
        node.close().await.unwrap();
        println!("{what}: close in {:?}", begin.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn bench_idle_groups() {
    for count in [34, 128] {
        let folder = tempfile::tempdir().unwrap();
        let node = open(&folder);
        let groups = start(&node, count).await;
        let mut used = cpu_ticks();
        for what in ["in use", "asleep"] {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let percent = (cpu_ticks() - used) as f64 / 5.0;
            println!("{count} groups {what}: {percent:.2} % of a core");
            // Until nobody has used them for 10 s.
            tokio::time::sleep(Duration::from_secs(6)).await;
            used = cpu_ticks();
        }
        assert!(groups.iter().all(|group| !group.driven_is_active()));
        node.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn bench_applying_the_log_again() {
    const ENTRIES: usize = 100_000;
    let fs = FaultFs::new(1);
    let setup = Setup {
        segment_bytes: 16 << 20,
        ..Setup::default()
    };
    let node = TestNode::open_as(&fs, &setup).unwrap();
    let group = node.start(1).await;
    for _ in 0..ENTRIES / 1_000 {
        let entries = vec![Bytes::from(vec![7; ENTRY_BYTES]); 1_000];
        group.propose_batch(entries).await.unwrap();
    }
    let fs = node.kill().await;
    let begin = Instant::now();
    let node = TestNode::open_as(&fs, &setup).unwrap();
    println!("log of {ENTRIES} entries opened in {:?}", begin.elapsed());
    let begin = Instant::now();
    let group = node.start(1).await;
    println!("applied again in {:?}", begin.elapsed());
    assert_eq!(group.with(|machine| machine.applied), ENTRIES as u64);
}

/// Hundredths of a second of a core that the process has used.
pub(super) fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn open(folder: &TempDir) -> RaftNode {
    let config = RaftConfig::new(folder.path().to_owned(), NodeId(1));
    let clock = Arc::new(SystemClock::default());
    RaftNode::open(
        Arc::new(RealFs),
        clock,
        config,
        Arc::new(|fatal| panic!("{fatal}")),
    )
    .unwrap()
}

async fn start(node: &RaftNode, groups: u32) -> Vec<Group<TestMachine>> {
    let mut started = Vec::new();
    for id in 0..groups {
        started.push(start_one(node, id).await);
    }
    started
}

async fn start_one(node: &RaftNode, id: u32) -> Group<TestMachine> {
    let name = format!("group-{id}");
    let started = node.start_group(GroupId(id), &name, Journal::default());
    started.await.unwrap()
}

fn rss_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    let words = line.unwrap().split_whitespace().nth(1);
    words.unwrap().parse().unwrap()
}
